"""Loading a checkpoint without losing what it holds.

torch.optim casts floating state to the parameter's dtype when it loads, so that float32 state of a bfloat16 parameter is lost,
and shares its tensors with the dictionary that it was given. Neither happens here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fast._engine.checks import Group, plain, unshare
from fast._engine.storage import OWNED, new_state, new_step
from fast._kernels.tensors import State

if TYPE_CHECKING:
    from fast._engine.optimizer import FusedOptimizer


@contextmanager
def checked_and_copied(optimizer: FusedOptimizer) -> Iterator[None]:
    """Around torch's own load_state_dict: checks everything before it changes anything, and keeps dtypes and copies after it."""
    machine: list[Group] = [{k: group[k] for k in optimizer._kept} for group in optimizer.param_groups]
    found: dict[Tensor, State] = {}

    def check(_: Optimizer, loaded: dict[str, Any]) -> None:
        if len(loaded["param_groups"]) != len(optimizer.param_groups):
            return  # torch's own check, with its message, comes next
        for group, saved, kept in zip(optimizer.param_groups, loaded["param_groups"], machine, strict=True):
            # what an older checkpoint has not
            kept.update({key: group[key] for key in optimizer.defaults if key in group and key not in saved})
            ours = ("params", "param_names", *optimizer._kept)
            taken = {key: value for key, value in saved.items() if key not in ours}
            merged = plain({**group, **taken}, optimizer.defaults)
            optimizer._check_loaded(merged, saved)
            for param, key in zip(group["params"], saved["params"], strict=False):
                if key in loaded["state"]:
                    found[param] = optimizer._checked_state(merged, param, key, loaded["state"][key])

    def restore(_: Optimizer) -> None:
        for i, (group, kept) in enumerate(zip(optimizer.param_groups, machine, strict=True)):
            group.update(plain({**group, **kept}, optimizer.defaults))
            unshare(group, optimizer.param_groups[:i], optimizer.defaults)
            for param in group["params"]:
                if param in found:
                    optimizer.state[param] = _fitted(optimizer, group, param, found[param])

    handles = (
        optimizer.register_load_state_dict_pre_hook(check),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def checked_state(optimizer: FusedOptimizer, group: Group, param: Tensor, key: Any, state: Mapping[str, Any]) -> State:
    """A copy of a saved state. ValueError where it lacks a tensor, or has one of another shape, that this optimizer needs."""
    expected = {"step": torch.zeros((), device="meta"), **new_state(optimizer, group, param, "meta")}
    for name, like in expected.items():
        value = state.get(name)
        if value is None and name in optimizer._optional:
            continue
        if value is None or (isinstance(value, Tensor) and value.shape != like.shape):
            shape = "nothing" if value is None else f"shape {tuple(value.shape)}"
            raise ValueError(
                f"the state of parameter {key} must have {name!r} of shape {tuple(like.shape)}, got {shape}: this state_dict"
                f" is of another model or another optimizer than {type(optimizer).__name__}"
            )
    return dict(state)


def _fitted(optimizer: FusedOptimizer, group: Group, param: Tensor, state: State) -> State:
    """A copy of `state` on the parameter's device, in the dtypes and the memory format of fresh state."""
    fresh = {"step": new_step(group, param), **new_state(optimizer, group, param)}
    step = state.get("step")
    if isinstance(step, Tensor) and step.dtype == torch.float64:  # it may be beyond float32's counts
        fresh["step"] = fresh["step"].double()
    for name, value in state.items():
        if name in fresh and value is not None:
            fresh[name].copy_(value) if isinstance(value, Tensor) else fresh[name].fill_(value)
        elif name not in OWNED:  # the user's own
            fresh[name] = copy.deepcopy(value)
    return fresh
