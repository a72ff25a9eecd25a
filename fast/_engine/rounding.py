"""How numbers are stored in half precision: stochastic rounding of bfloat16 parameters, and a bfloat16 exp_avg.

A bfloat16 has 8 bits: near 1 a step below 1/512 is rounded away, each time. Stochastic rounding takes the neighbour above with the
probability of the way to it, so that the mean of what is stored is the number that was computed.

The random bits are a hash of three numbers: the parameter's `rounding_key` in the state (made from `rounding_seed` and the
parameter's place in the optimizer; for a shard its place in the whole enters, too), its `step`, and the entry's place in memory. No
generator is read or advanced, and a run that goes on from a checkpoint rounds as the uninterrupted one. `exp_avg` takes the hash's
other half.

Spacing: |x| in [2^-100, 2^100) is rounded to a neighbour in bfloat16; below, to a multiple of 2^-107, which is one too; above, and
where x is infinite or NaN, to nearest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fast._engine.checkpoint import OWNED, Group
from fast._engine.checks import CheckedOptimizer
from fast._engine.moments import single
from fast._engine.pieces import Piece
from fast._engine.shards import shards_of
from fast._kernels.tensors import State
from fast._kernels.update import Update

KEY = "rounding_key"
COUNTED = 2**24  # float32 holds every whole number up to here


def check_storage(group: Mapping[str, Any]) -> None:
    """Raises where an option of this file is not what it should be."""
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


def _half_average(group: Group, param: Tensor) -> bool:
    """Whether exp_avg is kept in bfloat16: of what else would be kept in float32."""
    return group["exp_avg_dtype"] is not None and param.dtype in (torch.float32, torch.bfloat16, torch.float16)


def _keyed(group: Group, param: Tensor) -> bool:
    return rounds(group, param) or (group["stochastic_rounding"] and _half_average(group, param))


def _counts_on_device(group: Group) -> bool:
    """Whether nobody sees a count of steps reach COUNTED, after which the random bits would stand still with a float32."""
    return group["capturable"] or torch.compiler.is_compiling()


def random_bits(key: Tensor, step: Any, like: Tensor) -> Tensor:
    """32 bits for each entry of `like` as int32. `key`: two numbers, and perhaps the first entry's index; `step`: a number or 0-d.

    A hash of the index, by multiplications and shifts, into which key and step enter at two places: steps are not windows onto one
    sequence. Few steps use a number twice, since the compiler writes out each use.
    """
    count = step.to(torch.int32) if hasattr(step, "to") else (int(step) + 2**31) % 2**32 - 2**31
    first = (key[0] + count) * 0x7FEB352D
    second = (key[1] ^ count) * -2073254261
    index = _index(like)
    x = (index + key[2] if len(key) > 2 else index) + first
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x7FEB352D + second
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * -2073254261
    return x ^ ((x >> 16) & 0xFFFF)


def _index(like: Any) -> Tensor:
    """Each entry's index as int32, past it modulo 2^32 as the sums of its hash are."""
    if hasattr(like, "entry_index"):  # a Value of fast/_kernels
        return like.entry_index()
    size = 1
    for length in like.shape:
        size = size * length
    wide = torch.int64 if size > 2**31 else torch.int32
    return torch.arange(size, dtype=wide, device=like.device).to(torch.int32).view(like.shape)


def _power_below(x: Tensor) -> Tensor:
    """2^floor(log2 |x|) of float32, for 2^-126 <= |x| < 2^104."""
    if torch.compiler.is_compiling() and x.device.type == "cpu":
        # As S. Rump's "unit in the first place", since the compiler does not vectorise a change of view; a GPU would contract
        # the difference into one rounding.
        q = x * 8388609.0
        return (q - q * 0.999999940395355224609375).abs()
    return (x.view(torch.int32) & 0x7F800000).view(torch.float32)


def stochastic(x: Tensor, bits: Tensor) -> Tensor:
    """float32 x on the grid of bfloat16, as float32: the 16 lower `bits` say which neighbour."""
    x = single(x)
    spacing = _power_below(x).clamp(min=2.0**-100) * 0.0078125
    part = (bits & 0xFFFF).to(torch.float32) * 1.52587890625e-05
    # x / spacing has 16 bits below the point, as `part` has: floor sees their exact sum
    rounded = torch.floor(x / spacing + part) * spacing
    return torch.where(x.abs() < 2.0**100, rounded, x)


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.float32) if t.dtype in (torch.bfloat16, torch.float16) else t


@functools.cache
def stored(update: Update, keyed: bool) -> Update:
    """`update` on numbers as they are stored: computed in float32; if `keyed`, what is bfloat16 is rounded stochastically.

    A keyed update's last state is its key, which it only reads, and its last two numbers are the step to be taken.
    """
    states = len(update.shapes.split()) - 2
    rest_at = states + int(keyed)  # what the statistic gave; worked out here, since older Dynamos add no bool to an int

    def widened(rest: Sequence[Tensor]) -> tuple[Tensor, ...]:
        own = rest[:states]
        return (*map(_wide, own[:1]), *own[1:])

    def function(scalars: Sequence[Any], param: Tensor, grad: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        own = scalars[:-2] if keyed else scalars
        new = update.function(own, _wide(param), grad, *widened(rest), *rest[rest_at:])
        if not keyed:
            return new
        value, average, *others = new
        low, high = (x.to(torch.int32) if hasattr(x, "to") else int(x) for x in scalars[-2:])
        bits = random_bits(rest[states], low + high * COUNTED, param)
        if param.dtype == torch.bfloat16:
            value = stochastic(value, bits)
        if rest[0].dtype == torch.bfloat16:
            average = stochastic(average, (bits >> 16))
        return value, average, *others

    function.__module__ = update.function.__module__

    def statistic(scalars: Sequence[Any], param: Tensor, grad: Tensor, *rest: Tensor) -> Tensor:
        assert update.statistic is not None
        return update.statistic(scalars[:-2] if keyed else scalars, _wide(param), grad, *widened(rest))

    def around(call: Callable[..., None] | None) -> Callable[..., None] | None:
        return call and (lambda param, grad, *rest: call(param, grad, *rest[:states]))

    return replace(
        update,
        function=function,
        shapes=update.shapes + " 2" * keyed,
        prologue=around(update.prologue),
        epilogue=around(update.epilogue),
        statistic=statistic if update.statistic else None,
        keyed=keyed,
        contract=update.contract and not keyed,  # `_power_below` lives on a product's own rounding
    )


def _scrambled(x: int) -> int:
    """64 bits, each of which depends on all of x (the last steps of splitmix64)."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def new_key(seed: int, place: int, device: Any) -> Tensor:
    """The key of the parameter that has this place in the optimizer: two int32."""
    word = _scrambled(_scrambled(seed) ^ place)
    return torch.tensor([word % 2**32 - 2**31, (word >> 32) - 2**31], dtype=torch.int32, device=device)


class StoredOptimizer(CheckedOptimizer):
    """The part of the optimizers' base class that knows in which dtypes numbers are kept."""

    _kept = ("stochastic_rounding", "exp_avg_dtype", *CheckedOptimizer._kept)
    _optional = (KEY,)
    _state_names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")  # state of the parameter's shape, in an update's order

    def _pieces(self, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Piece]:
        raise NotImplementedError(f"{type(self).__name__} must say what updates a parameter")

    def _scalars(self, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        raise NotImplementedError(f"{type(self).__name__} must say which numbers its update takes")

    def add_param_group(self, param_group: Group) -> None:
        if isinstance(param_group, Mapping):
            check_storage(self._plain({**self.defaults, **param_group}))
        super().add_param_group(param_group)
        try:
            for param in self.param_groups[-1]["params"]:
                rounds(self.param_groups[-1], param)
        except ValueError:
            self.param_groups.pop()
            raise

    def _with_gradient(self, index: int, group: Group) -> list[Tensor]:
        params = super()._with_gradient(index, group)
        for param in params if group["stochastic_rounding"] else ():
            rounds(group, param)
        return params

    def _new_state(self, group: Group, param: Tensor, device: Any = None) -> State:
        state = self._init_state(group, param, device)
        if _half_average(group, param):
            state["exp_avg"] = state["exp_avg"].to(torch.bfloat16)
        if _keyed(group, param):
            params = (p for own in self.param_groups for p in own["params"])
            place = next(i for i, p in enumerate(params) if p is param)
            state[KEY] = new_key(group["rounding_seed"], place, device or param.device)
        return state

    def _new_step(self, group: Group, param: Tensor) -> Tensor:
        step = super()._new_step(group, param)
        return step.double() if _counts_on_device(group) and _keyed(group, param) else step

    def _alone(self, group: Group, param: Tensor) -> bool:
        """Whether a parameter is kept out of the packs, in which it would have another place."""
        return rounds(group, param) or _half_average(group, param)

    def _stored_pieces(self, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Piece]:
        """The pieces of `_pieces`, with updates for the dtypes in which these numbers are kept."""
        for name in self._state_names:
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
        if keyed and KEY not in values:  # the option has been set since
            self.state[param][KEY] = values[KEY] = self._new_state(group, param)[KEY]
        if keyed and _counts_on_device(group) and self.state[param]["step"].dtype != torch.float64:
            self.state[param]["step"] = self.state[param]["step"].double()
        shards = shards_of(param) if keyed else None
        first = shards.first if shards else 0  # no two shards are rounded by the same bits, and copies of one alike
        for i, piece in enumerate(self._pieces(group, param, work, values)):
            other = (0x632BE5AB * i + _scrambled(first) * bool(first)) % 2**31
            key = (values[KEY] + other if other else values[KEY],) if keyed else ()
            update = stored(piece.update, keyed) if keyed or half else piece.update
            yield Piece(update, piece.view, (*piece.states, *key), piece.shared)

    def _numbers(self, update: Update, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        """What `update` takes in the step that is counted as `step`."""
        scalars = self._scalars(group, lr, step)
        # in two numbers, since float32 counts no further than COUNTED
        return (*scalars, step % COUNTED, step // COUNTED) if update.keyed else scalars
