"""How numbers are stored in half precision: stochastic rounding of bfloat16 parameters, and a bfloat16 exp_avg.

A bfloat16 has 8 bits: near 1 a step below 1/512 is rounded away, each time. Stochastic rounding takes the neighbour above with the
probability of the way to it, so that the mean of what is stored is the number that was computed.

The random bits are a hash of three numbers: the parameter's `rounding_key` in the state (made from `rounding_seed` and the
parameter's place in the optimizer; for a shard its place in the whole enters, too), its `step`, and the entry's place in memory. No
generator is read or advanced, and a run that goes on from a checkpoint rounds as the uninterrupted one. `exp_avg` takes the hash's
other half.

Spacing: |x| in [2^-100, 2^100) is rounded to a neighbour in bfloat16. Below, it is rounded to a multiple of 2^-107, which
bfloat16 has, too; above, and where x is infinite or NaN, to nearest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fast._kernels.direct import single
from fast._kernels.update import Update

KEY = "rounding_key"
COUNTED = 2**24  # float32 holds every whole number up to here


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
        stored_states = rest[:states]
        return (*map(_wide, stored_states[:1]), *stored_states[1:])

    def function(scalars: Sequence[Any], param: Tensor, grad: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        numbers = scalars[:-2] if keyed else scalars
        new = update.function(numbers, _wide(param), grad, *widened(rest), *rest[rest_at:])
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


def scrambled(x: int) -> int:
    """64 bits, each of which depends on all of x (the last steps of splitmix64)."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def new_key(seed: int, place: int, device: Any) -> Tensor:
    """The key of the parameter that has this place in the optimizer: two int32."""
    word = scrambled(scrambled(seed) ^ place)
    return torch.tensor([word % 2**32 - 2**31, (word >> 32) - 2**31], dtype=torch.int32, device=device)
