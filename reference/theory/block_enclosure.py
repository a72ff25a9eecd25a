"""M4's race between bounds: one lr for each block against Adam's whole run, on exact matrices. (M4, `block_quadratic`)

The blocks Q diag(e) Q^T have rational entries, Q = (I - K)(I + K)^-1 being Cayley's rotation of an antisymmetric K of small
fractions: so their eigenvalues are e and nothing else. Gradient descent with lr 2 / (smallest + largest) on each block leaves at
most the square of (largest - smallest) / (largest + smallest) of that block's loss in a step, exactly; Adam's loss comes out of
`reference.adam` in balls. Where the second is certainly above the first bound, the race is decided for that start and lr.

Needs python-flint (the extra `test`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import sympy as sp
from flint import arb

from reference import adam
from reference.theory.balls import Undecided, ball, decide
from reference.theory.block_quadratic import SPECTRA


def cayley(k: Sequence[Fraction]) -> sp.Matrix:
    """The rotation of three dimensions (I - K)(I + K)^-1, K antisymmetric with the three entries k above its diagonal."""
    a, b, c = (sp.Rational(x.numerator, x.denominator) for x in k)
    skew = sp.Matrix([[0, a, b], [-a, 0, c], [-b, -c, 0]])
    return (sp.eye(3) - skew) * (sp.eye(3) + skew).inv()


def rational_problem(seed: int) -> tuple[list[sp.Matrix], list[Fraction]]:
    """(three blocks with the paper's eigenvalues, a start of nine entries), small fractions drawn from `seed`, exact."""
    rng = np.random.default_rng(seed)
    draws = [Fraction(int(x), 16) for x in rng.integers(-24, 25, 18)]
    blocks = []
    for i, spectrum in enumerate(SPECTRA):
        q = cayley(draws[3 * i : 3 * i + 3])
        blocks.append(q * sp.diag(*(sp.Integer(int(e)) for e in spectrum)) * q.T)
    return blocks, [x if x else Fraction(1, 16) for x in draws[9:]]


def blockwise_bound(steps: int) -> Fraction:
    """What gradient descent with the best lr of each block leaves of the loss at most: the slowest block's contraction."""
    worst = max(Fraction(int(e[-1]) - int(e[0]), int(e[-1]) + int(e[0])) for e in SPECTRA)
    return worst ** (2 * steps)


def adam_share(
    blocks: Sequence[sp.Matrix],
    start: Sequence[Fraction],
    lr: str,
    steps: int,
    *,
    beta1: str,
    cosine: bool,
    bits: int = 256,
) -> arb:
    """f(w_T) / f(w_0) of Adam (beta2 0.999, eps 1e-12) in a ball that does not hold 0; cosine: lr falls to 0 over the run."""

    def run() -> arb:
        h: Any = np.full((9, 9), ball(0), dtype=object)
        for i, block in enumerate(blocks):
            for j in range(9):
                entry: Any = block[j // 3, j % 3]
                h[3 * i + j // 3, 3 * i + j % 3] = ball(Fraction(int(entry.p), int(entry.q)))
        w: Any = np.array([ball(x) for x in start], dtype=object)
        state, first = adam.init(w), w @ h @ w
        how = {"beta1": ball(beta1), "beta2": ball("0.999"), "eps": ball("1e-12")}
        for t in range(steps):
            factor = (1 + (arb.pi() * t / steps).cos()) / 2 if cosine else ball(1)
            w, state = adam.step(w, h @ w, state, lr=ball(lr) * factor, **how)
        share = (w @ h @ w) / first
        if share.contains(0):
            raise Undecided(f"the loss {share} may be 0")
        return share

    return decide(run, bits=bits, most=64 * bits)
