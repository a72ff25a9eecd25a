"""M4's race between bounds: one lr for each block against Adam's whole run, on exact matrices. (M4, `block_quadratic`)

The blocks Q diag(e) Q^T have rational entries, Q = (I - K)(I + K)^-1 being Cayley's rotation of an antisymmetric K of small
fractions: so their eigenvalues are e and nothing else, and 2 / (smallest + largest) is the best lr of a block, exactly. The losses
of both come out in balls, Adam's of `reference.adam`; where one is certainly above the other, the race is decided.

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


def _whole(blocks: Sequence[sp.Matrix]) -> Any:
    h: Any = np.full((9, 9), ball(0), dtype=object)
    for i, block in enumerate(blocks):
        for j in range(9):
            entry: Any = block[j // 3, j % 3]
            h[3 * i + j // 3, 3 * i + j % 3] = ball(Fraction(int(entry.p), int(entry.q)))
    return h


def blockwise_share(blocks: Sequence[sp.Matrix], start: Sequence[Fraction], steps: int, *, bits: int = 512) -> arb:
    """f(w_T) / f(w_0) of gradient descent with the best lr of each block, in a ball that does not hold 0."""

    def run() -> arb:
        h = _whole(blocks)
        w: Any = np.array([ball(x) for x in start], dtype=object)
        lr: Any = np.array([ball(Fraction(2, int(e[0] + e[-1]))) for e in SPECTRA for _ in e], dtype=object)
        first = w @ h @ w
        for _ in range(steps):
            w = w - lr * (h @ w)
        return _decided((w @ h @ w) / first)

    return decide(run, bits=bits, most=64 * bits)


def _decided(share: Any) -> arb:
    if share.contains(0):
        raise Undecided(f"the loss {share} may be 0")
    return share


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
        h = _whole(blocks)
        w: Any = np.array([ball(x) for x in start], dtype=object)
        state, first = adam.init(w), w @ h @ w
        how = {"beta1": ball(beta1), "beta2": ball("0.999"), "eps": ball("1e-12")}
        for t in range(steps):
            factor = (1 + (arb.pi() * t / steps).cos()) / 2 if cosine else ball(1)
            w, state = adam.step(w, h @ w, state, lr=ball(lr) * factor, **how)
        return _decided((w @ h @ w) / first)

    return decide(run, bits=bits, most=64 * bits)
