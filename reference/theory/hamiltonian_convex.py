"""Theorem 4.6 for every convex kinetic energy K with its least value at 0: where its two conditions come from. (claim G3)

`hamiltonian.rate_cases` proves for each coordinate dL/dt <= -g Phi and dH/dt <= -g Phi - k Psi, with k = grad K(s), along the
cautious and the Grams flow. Summed over the coordinates, L and H fall if <g, Phi> >= 0 and <k, Psi> >= 0. Nothing more is needed
of K than that its gradient is monotone, M(x, y) = <k(x) - k(y), x - y> >= 0, as every convex K's is (`monotone_by_convexity`):

    momentum with friction   Psi = gamma s                       <k, Psi> = gamma M(s, 0)      if k(0) = 0
    heavy ball               Phi = c g                           <g, Phi> = c |g|^2
    Lion-K                   Phi = k(s + c g) - k(s)             <g, Phi> = M(s + c g, s) / c

(`condition_gaps`). K may mix the coordinates and need not be even, nor have a second derivative; of |s|, which is Lion's own K,
take any slopes in [-1, 1] at 0. Without convexity the first condition fails somewhere, and with the least value elsewhere the
second (`KINETIC`: convex False, or rest not 0). The loss itself need not rise then: where k never falls by more than |k|, as
"nearly convex" has it, Grams' own -|g k| outweighs what Phi pushes up.

Source of Lion-K: Chen, Liu, Liang, Liu, arXiv 2310.05898.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from reference.theory.hamiltonian import GAMMA, C, velocity

S = sp.symbols("s1 s2", real=True)


def monotone_by_convexity(dim: int) -> sp.Expr:
    """M(x, y) less the sum of the two slacks of convexity, K(y) - K(x) - <k(x), y - x> and the same from y to x: 0."""
    x, y, kx, ky = (sp.Matrix(sp.symbols(f"{n}1:{dim + 1}", real=True)) for n in ("x", "y", "kx", "ky"))
    at_x, at_y = sp.symbols("K_x K_y", real=True)
    slacks = (at_y - at_x - kx.dot(y - x)) + (at_x - at_y - ky.dot(x - y))
    return sp.expand((kx - ky).dot(x - y) - slacks)


def condition_gaps(dim: int) -> tuple[sp.Expr, sp.Expr]:
    """(<g, Phi> - M(s + c g, s) / c of Lion-K, <k, Psi> - gamma M(s, 0) with k(0) = 0), for an unknown gradient k: both 0."""
    s, g = (sp.Matrix(sp.symbols(f"{n}1:{dim + 1}", real=True)) for n in "sg")

    def k(at: Any) -> Any:
        return sp.Matrix([sp.Function(f"k{i}")(*at) for i in range(dim)])

    moved = s + C * g
    phi = k(moved) - k(s)
    first = g.dot(phi) - (k(moved) - k(s)).dot(moved - s) / C
    second = k(s).dot(GAMMA * s) - GAMMA * (k(s) - sp.zeros(dim, 1)).dot(s - sp.zeros(dim, 1))
    return sp.simplify(first), sp.simplify(second)


@dataclass(frozen=True)
class Kinetic:
    """K of two coordinates S, whether it is convex, and where it is least."""

    energy: sp.Expr
    convex: bool = True
    rest: tuple[int, int] = (0, 0)

    @property
    def gradient(self) -> tuple[sp.Expr, ...]:
        return tuple(sp.diff(self.energy, x) for x in S)

    def minors(self) -> tuple[sp.Expr, sp.Expr]:
        """(the first entry, the determinant) of the second derivative: convex where both are >= 0 (and the last entry is)."""
        h: Any = sp.hessian(self.energy, S)
        return sp.simplify(h[0, 0]), sp.simplify(h.det())

    def at(self, points: np.ndarray) -> np.ndarray:
        """k at points (2, n)."""
        parts = [np.broadcast_to(sp.lambdify(S, k, "numpy")(*points), points.shape[1:]) for k in self.gradient]
        return np.array(parts, dtype=float)


KINETIC = {
    "heavy ball": Kinetic((S[0] ** 2 + S[1] ** 2) / 2),
    "turned metric": Kinetic((2 * S[0] ** 2 + 2 * S[0] * S[1] + 3 * S[1] ** 2) / 2),
    "relativistic": Kinetic(sp.sqrt(1 + S[0] ** 2 + S[1] ** 2)),
    "smooth Lion": Kinetic(sp.sqrt(S[0] ** 2 + sp.Rational(1, 100)) + sp.sqrt(S[1] ** 2 + sp.Rational(1, 100))),
    "log cosh": Kinetic(sp.log(sp.cosh(S[0])) + sp.log(sp.cosh(S[1]))),
    "quartic": Kinetic(S[0] ** 4 / 4 + (S[0] + S[1]) ** 4 / 4),
    "not even": Kinetic(sp.exp(S[0]) - S[0] + S[1] ** 2 / 2),
    "not convex": Kinetic(2 - sp.exp(-(S[0] ** 2) / 2) - sp.exp(-(S[1] ** 2) / 2), convex=False),
    "nearly convex": Kinetic(S[0] ** 2 / 2 - sp.Rational(6, 5) * sp.cos(S[0]) + S[1] ** 2 / 2, convex=False),
    "rest at 1": Kinetic(((S[0] - 1) ** 2 + S[1] ** 2) / 2, rest=(1, 0)),
}


@dataclass(frozen=True)
class Rates:
    """Along Lion-K's flow of one kinetic energy at n points: each (n,)."""

    loss: np.ndarray  # dL/dt
    energy: np.ndarray  # dH/dt
    push: np.ndarray  # <g, Phi>
    friction: np.ndarray  # <k, Psi>


def rates(kinetic: Kinetic, flow: str, s: np.ndarray, g: np.ndarray, *, c: float, gamma: float) -> Rates:
    """s, g: (2, n). w' = `velocity` - Phi, s' = g - gamma s, by the chain rule."""
    k = kinetic.at(s)
    phi, psi = kinetic.at(s + c * g) - k, gamma * s
    loss = (g * (velocity(flow, g, k) - phi)).sum(axis=0)
    return Rates(loss, loss + (k * (g - psi)).sum(axis=0), (g * phi).sum(axis=0), (k * psi).sum(axis=0))
