"""Up to which relative step does Grams contract on a quadratic? A proof by balls, direction by direction. (G9)

The map of `step_stability`, (w, m) -> (w', m') with m' = beta1 m + (1 - beta1) w and w' = w - a sign(w) |m'|, is homogeneous
and odd, so one step is known from the directions with w > 0 (from w = 0 it leads to (0, beta1 m), a contraction). Measured as

    V(w, m)^2 = w^2 + c^2 m^2,       c^2 = a beta1 / (1 - beta1),

it contracts in every single step for a < 2, whatever beta1 (`small_step_changes`, SymPy). Beyond, a step may lead away, and
for beta1 = 0.9 the proof is a potential h over cells of directions: for every direction x of cell i and all a of an
interval, with balls,

    log V(T x) - log V(x) + h(cell of T x) < h(i),                                   (`certify`)

so that V exp(h) falls by a fixed factor each step and every run comes down geometrically. `cover` cuts a range of a into
intervals that are certified each. h itself is found by ordinary floats; only the inequality is what must hold.

Needs python-flint (the extra `test`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp
from flint import arb

from reference import grams
from reference.theory.balls import ball
from reference.theory.step_stability import relative_step

W, P = sp.symbols("w p", positive=True)
A = sp.Symbol("a", positive=True)
BETA1 = sp.Symbol("beta1", positive=True)


@cache
def grams_branch(agree: bool) -> tuple[sp.Expr, sp.Expr]:
    """(w', m') where m' = P or -P, for w = W > 0, off Grams' own lines: m' and w agree in sign or not."""
    after = P if agree else -P
    w, m = relative_step(grams, W, (after - (1 - BETA1) * W) / BETA1, A, BETA1)
    return sp.simplify(w), sp.simplify(m)


def small_step_changes() -> dict[bool, sp.Expr]:
    """V^2 after a step less V^2 before, in W, P = |m'| and A, where m' agrees with w and where not: quadratic forms."""
    out = {}
    for agree in (True, False):
        w, m = grams_branch(agree)
        before = ((P if agree else -P) - (1 - BETA1) * W) / BETA1
        scale = A * BETA1 / (1 - BETA1)
        out[agree] = sp.expand(w**2 + scale * m**2 - W**2 - scale * before**2)
    return out


@cache
def _step() -> Callable[[arb, arb, arb], tuple[arb, arb]]:
    """(w, m, a) -> (w', m') for w > 0, in balls. ValueError unless Grams' lines are w - a |m'| on both branches."""
    for agree in (True, False):
        w, m = grams_branch(agree)
        if sp.simplify(w - (W - A * P)) != 0 or sp.simplify(m - (P if agree else -P)) != 0:
            raise ValueError(f"Grams' relative step is not w - a |m'| for w > 0 but {w}, with m' = {m}")
    beta = ball("0.9")

    def step(w: arb, m: arb, a: arb) -> tuple[arb, arb]:
        m = beta * m + (1 - beta) * w
        return w - a * abs(m), m

    return step


def _whole(point: Any) -> int:
    """The largest integer not above a ball of radius 0."""
    return int(point.floor().unique_fmpz())


def _cells(y: arb, z: arb, count: int) -> tuple[int, int]:
    """First and last cell (it may pass the last and go on at the first) that the line through (y, z) can lie in."""
    if not y.contains(0):
        angle = (z / y).atan()
    elif not z.contains(0):
        angle = arb.pi() / 2 - (y / z).atan()
    else:
        return 0, count - 1
    place = (angle / arb.pi() + arb(0.5)) * count
    low, high = _whole(place.lower()), _whole(place.upper())
    return (0, count - 1) if high - low >= count - 1 else (low % count, low % count + high - low)


def _images(low: Fraction, high: Fraction, count: int) -> tuple[list[arb], np.ndarray, np.ndarray]:
    """For each cell of directions: log V(T x) - log V(x), and the first and last cell of T x, for all a in [low, high]."""
    step, a = _step(), ball(low).union(ball(high))
    scale = (a * 9).sqrt()
    edges = [(arb.pi() * (arb(i) / count - arb(0.5))) for i in range(count + 1)]
    growth, first, last = [], np.empty(count, dtype=int), np.empty(count, dtype=int)
    for i in range(count):
        angle = edges[i].union(edges[i + 1])
        w, z = angle.cos(), angle.sin()
        w_new, m_new = step(w, z / scale, a)
        z_new = scale * m_new
        growth.append((w_new**2 + z_new**2).log() / 2)  # V(x) = 1
        first[i], last[i] = _cells(w_new, z_new, count)
    return growth, first, last


def _largest(h: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """max of h over the cells first ... last of each row, around the end; by doubling ranges."""
    count = h.size
    level = np.log2(last - first + 1).astype(int)
    table = [np.concatenate([h, h])]
    for j in range(int(level.max())):
        before, reach = table[-1], 2**j
        table.append(np.maximum(before, np.concatenate([before[reach:], np.full(reach, -np.inf)])))
    stacked = np.stack(table)
    return np.maximum(stacked[level, first], stacked[level, last - 2**level + 1])[:count]


def certify(low: Fraction, high: Fraction, count: int, *, sweeps: int = 300) -> bool:
    """Whether Grams at beta1 = 0.9 contracts for every relative step in [low, high]. True is a proof, False proves nothing.

    count: cells of directions. The potential is the least fixed point of h = max(0, growth + largest h of the image), which
    exists just where no cycle of cells grows.
    """
    if not 0 < low <= high:
        raise ValueError(f"the steps must be 0 < low <= high, got {low}, {high}")
    growth, first, last = _images(low, high, count)
    upper = np.array([float(g.upper()) if g.is_finite() else (math.inf if not g < 0 else -1e3) for g in growth])
    if not np.isfinite(upper).all():
        return False
    h = np.zeros(count)
    for _ in range(sweeps):
        new = np.maximum(h, upper + _largest(h, first, last) + 1e-6)
        if np.array_equal(new, h):
            image = _largest(h, first, last)
            return all(bool(g + arb(float(k)) < arb(float(x))) for g, k, x in zip(growth, image, h, strict=True))
        h = new
    return False


def cover(
    low: Fraction, high: Fraction, *, count: int = 1000, narrowest: Fraction = Fraction(1, 2000)
) -> list[Fraction] | None:
    """The ends of the intervals that cover [low, high] and are certified each; None where one as narrow as `narrowest` is not."""
    ends, width = [low], (high - low) / 8
    while ends[-1] < high:
        end = min(ends[-1] + width, high)
        if certify(ends[-1], end, count):
            ends.append(end)
            width *= 2
        elif width <= narrowest:
            return None
        else:
            width /= 2
    return ends
