"""In which dtypes an optimizer keeps numbers: state in half precision, and which parameters are rounded stochastically.

The rounding itself is arithmetic, in fast/_kernels/rounding.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fast._engine.calls import Call
from fast._engine.checks import Group
from fast._engine.shards import shards_of
from fast._kernels.rounding import KEY, new_key, scrambled, stored
from fast._kernels.tensors import State

if TYPE_CHECKING:
    from fast._engine.optimizer import FusedOptimizer

# what optimizers keep for themselves; other entries of a state are the user's
OWNED = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "mu_product", "u", "sigma", "master_param", KEY}


def check_storage(group: Mapping[str, Any]) -> None:
    """Raises where an option of how numbers are stored is not what it should be."""
    if not isinstance(group["stochastic_rounding"], bool):
        raise TypeError(f"stochastic_rounding must be True or False, got {group['stochastic_rounding']!r}")
    seed, dtype = group["rounding_seed"], group["exp_avg_dtype"]
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"rounding_seed must be an int, got {seed!r} of type {type(seed).__name__}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"rounding_seed must be >= 0 and < 2**63, got {seed}")
    if dtype is not None and not isinstance(dtype, torch.dtype | str):
        raise TypeError(f"exp_avg_dtype must be None or torch.bfloat16, got {dtype!r}")
    if dtype not in (None, torch.bfloat16, "bfloat16"):
        raise ValueError(
            f"exp_avg_dtype must be None or torch.bfloat16, got {dtype}; half types are averaged in float32"
        )


def rounds(group: Group, param: Tensor) -> bool:
    """Whether a parameter of this group is rounded stochastically. ValueError for what would stall without a word."""
    if not group["stochastic_rounding"]:
        return False
    if param.dtype == torch.float16:
        raise ValueError(
            f"stochastic_rounding is for bfloat16, got a float16 parameter of shape {tuple(param.shape)}: turn it to bfloat16,"
            " or give it a group with stochastic_rounding=False"
        )
    return param.dtype == torch.bfloat16


def half_average(group: Group, param: Tensor) -> bool:
    """Whether exp_avg is kept in bfloat16: of what else would be kept in float32."""
    return group["exp_avg_dtype"] is not None and param.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _keyed(group: Group, param: Tensor) -> bool:
    return rounds(group, param) or (group["stochastic_rounding"] and half_average(group, param))


def _counts_on_device(group: Group) -> bool:
    """Whether nobody sees a count of steps reach COUNTED, after which the random bits would stand still with a float32."""
    return group["capturable"] or torch.compiler.is_compiling()


def new_step(group: Group, param: Tensor) -> Tensor:
    """A parameter's count of steps."""
    dtype = torch.float64 if _counts_on_device(group) and _keyed(group, param) else torch.float32
    return torch.zeros((), dtype=dtype, device=param.device if group["capturable"] else "cpu")


def new_state(optimizer: FusedOptimizer, group: Group, param: Tensor, device: Any = None) -> State:
    """A parameter's fresh state without `step`, in the dtypes in which this group keeps it."""
    state = optimizer._init_state(group, param, device)
    if half_average(group, param):
        state["exp_avg"] = state["exp_avg"].to(torch.bfloat16)
    if _keyed(group, param):
        params = (p for each in optimizer.param_groups for p in each["params"])
        place = next(i for i, p in enumerate(params) if p is param)
        state[KEY] = new_key(group["rounding_seed"], place, device or param.device)
    return state


def stored_calls(optimizer: FusedOptimizer, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Call]:
    """The optimizer's calls for a parameter, with updates for the dtypes in which its numbers are kept."""
    for name in optimizer._state_names:
        if values[name].shape != work.shape:
            raise ValueError(
                f"{name} has shape {tuple(values[name].shape)}, its parameter {tuple(work.shape)}: whoever changes a"
                " parameter's shape must clear its state, optimizer.state.pop(param)"
            )
    for name in values:
        if name in OWNED and values[name].device != work.device:
            raise ValueError(
                f"{name} is on {values[name].device}, its parameter on {work.device}: move them to the same device"
            )
    half = values["exp_avg"].dtype in (torch.bfloat16, torch.float16)
    keyed = rounds(group, param) or (half and group["stochastic_rounding"])
    state = optimizer.state[param]
    if keyed and KEY not in values:  # the option has been set since
        state[KEY] = values[KEY] = new_state(optimizer, group, param)[KEY]
    if keyed and _counts_on_device(group) and state["step"].dtype != torch.float64:
        state["step"] = state["step"].double()
    shards = shards_of(param) if keyed else None
    first = shards.first if shards else 0  # no two shards are rounded by the same bits, and copies of one alike
    for i, call in enumerate(optimizer._calls(group, param, work, values)):
        offset = (0x632BE5AB * i + scrambled(first) * bool(first)) % 2**31
        key = (values[KEY] + offset if offset else values[KEY],) if keyed else ()
        update = stored(call.update, keyed) if keyed or half else call.update
        yield Call(update, call.view, (*call.states, *key), call.reductions)
