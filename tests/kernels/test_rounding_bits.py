"""Stochastic rounding number by number: where it goes, how often, and how random its bits are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fast._kernels.rounding import new_key, random_bits, stochastic

BF16 = torch.bfloat16


def bits_of(place: int = 0, step: int = 1, size: int = 4096, seed: int = 0) -> Tensor:
    return random_bits(new_key(seed, place, None), step, torch.empty(size))


@pytest.mark.parametrize(
    "x", [1.0, 1 + 2.0**-9, -1.00390625 * 1.3, 3.14159e-5, -2.7e12, 1.9999999, 0.0, 1e-20, 255.9999]
)
def test_the_mean_of_many_roundings_is_the_number(x: float) -> None:
    exact = torch.full((1 << 18,), x)
    rounded = stochastic(exact, bits_of(size=1 << 18))
    assert torch.equal(rounded, rounded.to(BF16).float()), "not on the grid"
    assert len(rounded.unique()) <= 2
    spread = float(rounded.double().std()) / rounded.numel() ** 0.5
    # noise has 16 bits, all that a float32 has more than a bfloat16: the mean is exact
    assert abs(float(rounded.double().mean() - exact.double().mean())) <= 5 * spread


def test_the_two_neighbours_are_those_around_the_number() -> None:
    x = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.linspace(-25, 25, 1 << 16)
    low, high = (stochastic(x, torch.full_like(x, b, dtype=torch.int32)) for b in (0, 65535))
    nearest = x.to(BF16).float()
    assert bool(((low <= x) & (x <= high)).all())
    assert bool(((nearest == low) | (nearest == high)).all())
    representable = stochastic(nearest, bits_of(size=1 << 16))
    assert torch.equal(representable, nearest)


def test_what_is_not_finite_or_out_of_range_stays() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e-42, -0.0])
    for bits in (0, 65535, -1):
        got = stochastic(x, torch.full((7,), bits, dtype=torch.int32))
        assert got[0].isnan() and torch.equal(got[1:5], x[1:5])
        assert bool((got[5:].abs() <= 2.0**-107).all())


def test_bits_are_even_and_independent() -> None:
    """Chi-square over 256 cells and correlations, over entries, steps, places, seeds and the two halves; no flakes: fixed."""
    streams = [bits_of(), bits_of(step=2), bits_of(step=3), bits_of(place=1), bits_of(place=2), bits_of(seed=1)]
    halves = [(s >> shift) & 0xFFFF for s in streams for shift in (0, 16)]
    for half in halves:
        for cell in (half >> 8, half & 0xFF):
            counts = torch.bincount(cell.long(), minlength=256).double()
            assert float(((counts - 16) ** 2 / 16).sum()) < 255 + 5 * (2 * 255) ** 0.5
    table = torch.stack([half.double() for half in [*halves, halves[0].roll(1), halves[1].roll(7)]])
    off = torch.corrcoef(table) - torch.eye(len(table))
    assert float(off.abs().max()) < 5 / 4096**0.5
    over_steps = torch.stack([(bits_of(step=t, size=8) & 0xFFFF).double() for t in range(1, 4097)])
    assert float((torch.corrcoef(over_steps.T) - torch.eye(8)).abs().max()) < 5 / 4096**0.5
    lagged = torch.corrcoef(torch.stack([over_steps[1:, 0], over_steps[:-1, 0]]))[0, 1]
    assert abs(float(lagged)) < 5 / 4096**0.5
    assert abs(float(over_steps.mean()) / 32767.5 - 1) < 5 * 0.577 / over_steps.numel() ** 0.5
