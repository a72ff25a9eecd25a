"""How fast Grams without momentum must be, at worst: a certificate, exact and checked by SymPy alone. (G4)

For beta1 = 0 a step of Grams, Adam and Cautious is a gradient step with a relative error: w+ = w - D g, D diagonal with entries
a in [lo, hi], lo = lr / (eps + G), hi = lr / eps (`pl_theorem`: a = lr / (sqrt(vhat) + eps), vhat <= G^2). Let f be L-smooth and
PL with constant mu, D = f - f*, g and h the gradients at w and w+, and hi L <= 2 - lo L. Three inequalities hold, summed over the
coordinates where there are squares:

    smooth   f - f+ >= (g + h) a g / 2 - L a^2 g^2 / 4 + (g - h)^2 / (4 L)        (`smoothness`: of every L-smooth f)
    PL+      h^2 >= 2 mu (f+ - f*)
    PL       g^2 >= 2 mu (f - f*)

Added with the multipliers 1, x = (1 - 1/p) / (4 L) and y = (2 - (1 - lo L)^2 (1 + p)) / (4 L), for any p with both >= 0, they leave

    (1 + 2 mu x) (f+ - f*) <= (1 - 2 mu y) (f - f*) - squares                      (`identity`)

so r = (1 - 2 mu y) / (1 + 2 mu x) bounds each step. `certify` picks a rational p near the best. p = 1 is the descent lemma alone:
r = 1 - mu lo (2 - lo L). That gives Theorem 4.15's bound, by `pl_theorem`'s step (3), wherever

    lr L / eps + lr L / (eps + G) <= 2    and    eps + G <= 4 e (2 - lr L / (eps + G)) G          (`wider_condition`)

whose second part is eps <= (8 e - 1) G = 20.7 G for small lr; on w^2 / 2 at lr 0.1 the bound breaks between 20.9 and 20.95
(`pl_enclosure`), so there is nothing left to gain. `ratio_to_bound` is the worst case over Theorem 4.15's bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import sympy as sp

from reference.ops import Array

G, H = sp.symbols("g h", real=True)
A, LOW, L, P = sp.symbols("a lo L p", positive=True)


def smoothness() -> sp.Expr:
    """What smoothness says of two points w and w+ = w - A G with slopes G, H, less the inequality `smooth`, a coordinate each: 0.

    From w the loss at any z is at most f + G (z - w) + L/2 (z - w)^2, from w+ at least f+ + H (z - w+) - L/2 (z - w+)^2; the z
    that tells most is taken.
    """
    z = sp.Symbol("z", real=True)  # z - w
    drop = H * (z + A * G) - L / 2 * (z + A * G) ** 2 - G * z - L / 2 * z**2  # f - f+ is at least this
    (best,) = sp.solve(sp.diff(drop, z), z)
    stated = (G + H) * A * G / 2 - L * A**2 * G**2 / 4 + (G - H) ** 2 / (4 * L)
    return sp.expand(drop.subs(z, best) - stated)


def multipliers() -> tuple[sp.Expr, sp.Expr]:
    """(x, y) of PL+ and PL, for free LOW, L and P."""
    return (1 - 1 / P) / (4 * L), (2 - (1 - LOW * L) ** 2 * (1 + P)) / (4 * L)


def identity() -> sp.Expr:
    """One coordinate of smooth + x PL+ + y PL, its squares on the left: what it has beside the losses, plus squares: 0.

    The squares are (H - P (1 - A L) G)^2 / (4 L P) and ((1 - LOW L)^2 - (1 - A L)^2) (1 + P) G^2 / (4 L); the second is >= 0 for
    A in [LOW, 2 / L - LOW].
    """
    x, y = multipliers()
    rest = x * H**2 + y * G**2 - ((G + H) * A * G / 2 - L * A**2 * G**2 / 4 + (G - H) ** 2 / (4 * L))
    first = (H - P * (1 - A * L) * G) ** 2 / (4 * L * P)
    second = ((1 - LOW * L) ** 2 - (1 - A * L) ** 2) * (1 + P) * G**2 / (4 * L)
    return sp.expand(sp.simplify(rest + first + second))


@dataclass(frozen=True)
class Certificate:
    """Exact multipliers at L = 1: each step leaves at most `rate` of f - f*."""

    low: Fraction
    mu: Fraction
    p: Fraction
    rate: Fraction


def certify(low: Fraction, mu: Fraction, *, p: Fraction | None = None) -> Certificate:
    """The certificate at L = 1 for relative steps in [low, 2 - low]; p rational, by default near the best.

    ValueError where low or mu is outside (0, 1], or a multiplier would be negative.
    """
    if not (0 < low <= 1 and 0 < mu <= 1):
        raise ValueError(f"low = lr L / (eps + G) and mu / L must lie in (0, 1], got {low}, {mu}")
    b = (1 - low) ** 2
    if p is None:
        p = Fraction(1)
        if b:
            lead, rest = float(b * (2 + mu)), float(2 - 2 * mu + mu * b)
            best = (float(mu * b) + math.sqrt(float(mu * b) ** 2 + lead * rest)) / lead
            p = min(max(Fraction(1), Fraction(best).limit_denominator(1000)), 2 / b - 1)
    x, y = (1 - 1 / p) / 4, (2 - b * (1 + p)) / 4
    if x < 0 or y < 0:
        raise ValueError(f"the multipliers must not be negative, got {x} and {y} from p = {p}")
    return Certificate(low, mu, p, (1 - 2 * mu * y) / (1 + 2 * mu * x))


def wider_condition(lr: Array, eps: Array, L: float, G: Array) -> np.ndarray:
    """Where Theorem 4.15's bound is proved for beta1 = 0, every L-smooth PL function and every T: see the head."""
    low = lr * L / (eps + G)
    return np.asarray((lr * L / eps + low <= 2) & (eps + G <= 4 * math.e * (2 - low) * G))


def ratio_to_bound(lr: Fraction, eps: Fraction, mu: Fraction) -> float:
    """The largest certified (f_T - f*) over Theorem 4.15's bound, over all T >= 1, at L = G = 1: at most 1 where it is proved."""
    if not lr / eps + lr / (eps + 1) <= 2:
        raise ValueError(f"lr / eps + lr / (eps + 1) must be at most 2, got lr {lr}, eps {eps}")
    rate = float(certify(lr / (eps + 1), mu).rate)
    if rate <= 0:
        return 0.0
    peak = -1 / math.log(rate)  # of T rate^T
    return max(float(mu * lr) * t * rate**t / 4 for t in {max(1, math.floor(peak)), max(1, math.ceil(peak))})
