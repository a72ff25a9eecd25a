"""M4 between bounds: on exact blocks the block-wise lr beats every Adam of the race, for certain."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy as sp

from reference.theory import block_quadratic as bq
from reference.theory.balls import ball
from reference.theory.block_enclosure import adam_share, blockwise_bound, blockwise_share, cayley, rational_problem

LRS = [f"{x:.3g}" for x in np.geomspace(1e-3, 3, 15)]
RACES = [(beta1, cosine) for beta1 in ("0", "0.9") for cosine in (False, True)]


def beaten(seed: int, steps: int) -> bool:
    """Whether every Adam of the race, whatever its lr, momentum and schedule, certainly ends above the block-wise lr."""
    blocks, start = rational_problem(seed)
    blockwise = blockwise_share(blocks, start, steps)
    assert blockwise < ball(blockwise_bound(steps))
    return all(adam_share(blocks, start, lr, steps, beta1=b, cosine=c) > blockwise for b, c in RACES for lr in LRS)


def test_the_blocks_are_exact_and_dense():
    blocks, start = rational_problem(3)
    block: Any
    for block, spectrum in zip(blocks, bq.SPECTRA, strict=True):
        assert block == block.T and all(x.is_Rational for x in block)
        assert sorted(block.eigenvals()) == [int(e) for e in spectrum]
        assert max(abs(block[i, j]) for i in range(3) for j in range(i)) > sp.Rational(1, 50)
    q = cayley([Fraction(1, 2), Fraction(-1, 3), Fraction(2)])
    assert q * q.T == sp.eye(3) and len(start) == 9 and all(start)
    assert rational_problem(4)[1] != start


@pytest.mark.claim("M4")
def test_the_blockwise_rate_bounds_gradient_descent_exactly():
    blocks, start = rational_problem(1)
    before = after = sp.Integer(0)
    for i, (block, spectrum) in enumerate(zip(blocks, bq.SPECTRA, strict=True)):
        w = sp.Matrix([sp.Rational(x.numerator, x.denominator) for x in start[3 * i : 3 * i + 3]])
        before += (w.T * block * w)[0]
        lr = sp.Rational(2, int(spectrum[0] + spectrum[-1]))
        for _ in range(4):
            w = w - lr * block * w
        after += (w.T * block * w)[0]
    bound = blockwise_bound(4)
    assert 0 < after <= before * sp.Rational(bound.numerator, bound.denominator)
    assert bound == Fraction(1, 2) ** 8  # the block of 1, 2, 3 is the slowest


@pytest.mark.claim("M4")
@pytest.mark.parametrize(("seed", "steps"), [(0, 30), (1, 30), (101, 30), (0, 60)])
def test_the_blockwise_rate_beats_every_adam_for_certain(seed, steps):
    assert beaten(seed, steps)


@pytest.mark.slow
@pytest.mark.claim("M4")
@pytest.mark.parametrize(("steps", "draws"), [(30, 40), (100, 10)])
def test_the_blockwise_rate_beats_every_adam_on_fresh_draws(steps, draws):
    assert [seed for seed in range(100, 100 + draws) if not beaten(seed, steps)] == []


def test_adam_in_balls_is_adam_in_floats():
    blocks, start = rational_problem(5)
    h = np.array(bq.whole([np.array(b.tolist(), dtype=float) for b in blocks]))
    w0 = np.array([float(x) for x in start])
    for beta1, cosine in RACES:
        floats = bq.adam_descent(h, w0, np.array([0.01]), 30, float(beta1), 0.999, cosine)[-1, 0]
        assert float(adam_share(blocks, start, "0.01", 30, beta1=beta1, cosine=cosine)) == pytest.approx(
            floats, rel=1e-9
        )
