"""When one power iteration a step follows the top singular vector, for every shape and every way of turning (claim A3).

W_1, W_2, ... are M x N matrices with (sigma_2 / sigma_1)^2 <= rho < 1 and sigma_1 cos(e + delta) >= 1e-12, below which
`normalize` returns less than a unit vector (on numbers; SymPy's reading divides by the length whatever it is), and the line
of u_1 turns by at most delta from each to the next. e is the angle between Adams' u and the present u_1, in [0, 90] degrees,
x = tan e, d = tan delta. Then

    e' <= F(e) = atan(rho tan(e + delta))    as long as e + delta < 90 degrees:

turning adds at most delta (angles between lines obey the triangle inequality), and an iteration multiplies the part of u at
right angles to u_1 by at most rho of what it does to the part along it (`one_iteration`; the lines commute with turning the
bases, so W may be taken diagonal). F rises, and

    x - tan F = d (x - low) (high - x) / (1 - d x)        low, high = ((1 - rho) -+ sqrt((1 - rho)^2 - 4 rho d^2)) / (2 d)

(`error_map`), with 1 - d x > 0 up to high, since d high <= 1 - rho. So if d <= (1 - rho) / (2 sqrt(rho)) and u_0 starts below
the *repelling root*, tan e_0 < high, the error never passes max(e_0, atan low) and ends at atan low or below; sigma's
estimate then lies between cos(e + delta) sigma_1 and sigma_1 (`value_bound`). The condition on the start cannot be weakened: a
plane that turns steadily keeps an error that starts at the root there for ever. That the start is not orthogonal to u_1 is not
enough: `flipping` starts up to some degrees from it and stays lost, whichever way the sign of u is taken.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sympy as sp

from reference import adams
from reference.theory.spectral_decay import steady_error

X, D, RHO = sp.symbols("x d rho", positive=True)


def one_iteration(rows: int, columns: int) -> list[sp.Expr]:
    """(u'_i / u'_1) / (u_i / u_1) for i >= 2, from the lines, W diagonal with free singular values: (sigma_i / sigma_1)^2.

    So tan^2 e' = sum (sigma_i / sigma_1)^4 (u_i / u_1)^2 <= rho^2 tan^2 of the angle before. Rows past the last column have
    sigma_i = 0.
    """
    u = np.array(sp.symbols(f"u1:{rows + 1}", positive=True), dtype=object)
    after, _, _ = adams.power_iteration_step(u, _diagonal(rows, columns))
    return [sp.simplify((after[i] / after[0]) / (u[i] / u[0])) for i in range(1, rows)]


def value_bound(rows: int, columns: int) -> tuple[sp.Expr, sp.Expr]:
    """Two differences that must not be negative, for u of any length: sigma^2 - |W^T u|^2 / |u|^2 and |W^T u|^2 - sigma_1^2 u_1^2.

    sigma is read off the lines; the first comes multiplied by |W^T u|^2 |u|^2, which makes it a sum of squares.
    """
    u = np.array(sp.symbols(f"u1:{rows + 1}", positive=True), dtype=object)
    w = _diagonal(rows, columns)
    _, sigma, _ = adams.power_iteration_step(u, w)
    image: Any = sum(x**2 for x in w.T @ u)
    size: Any = sum(x**2 for x in u)
    first = sp.expand(sp.simplify(sigma**2 * image) * size - image**2)
    return first, sp.expand(image - w[0, 0] ** 2 * u[0] ** 2)


def _diagonal(rows: int, columns: int) -> np.ndarray:
    sigma = sp.symbols(f"sigma1:{min(rows, columns) + 1}", positive=True)
    w = np.full((rows, columns), sp.Integer(0), dtype=object)
    for i, s in enumerate(sigma):
        w[i, i] = s
    return w


def error_map() -> sp.Expr:
    """tan F as a function of X = tan e, D = tan delta and RHO: rho tan(e + delta)."""
    return RHO * (X + D) / (1 - X * D)


def roots() -> tuple[sp.Expr, sp.Expr]:
    """(low, high): where `error_map` is X. Real for D <= (1 - RHO) / (2 sqrt(RHO)); their product is RHO."""
    inside = sp.sqrt((1 - RHO) ** 2 - 4 * RHO * D**2)
    return (1 - RHO - inside) / (2 * D), (1 - RHO + inside) / (2 * D)


def repelling_error(rho: float, drift: float) -> float:
    """The error in radians below which a start must lie; pi / 2 without drift, NaN where u_1 turns too fast for any start."""
    low = steady_error(rho, drift)
    return math.atan2(rho, math.tan(low))  # high = rho / low


def flipping(rho: sp.Rational, s: sp.Rational) -> tuple[sp.Expr, list[np.ndarray], np.ndarray]:
    """(tan delta, [W_even, W_odd], u_0): u_1 turns to and fro by delta, and u_0 is lost for ever. 2 x 2, for any rational s > 0.

    The error is 90 degrees less c with tan c = s after each step, since tan(delta - c) = rho s: a turn carries u past the right
    angle to the other side, the iteration brings it back by as much, and the next turn comes from the other side.
    """
    d = sp.cancel((1 + rho) * s / (1 - rho * s**2))
    core = np.array([[1, 0], [0, sp.sqrt(rho)]], dtype=object)
    turn = np.array([[1, -d], [d, 1]], dtype=object) / sp.sqrt(1 + d**2)
    u = np.array([-rho * s, 1], dtype=object)  # on the other side of the right angle to e_1, at u_1 = e_1
    return d, [core, turn @ core], u / sp.sqrt(1 + (rho * s) ** 2)


def turned_away(rho: float, drift: float, start: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(error in radians, sigma's estimate over sigma_1), each (steps,): u_1 turns by `drift` each step, to the worse side.

    A plane; `start` is the error before the first turn.
    """
    u, angle, errors, values = np.array([math.cos(start), math.sin(start)]), 0.0, [], []
    for _ in range(steps):
        tried = []
        for side in (-drift, drift):
            c, s = math.cos(angle + side), math.sin(angle + side)
            w = np.array([[c, -s], [s, c]]) @ np.diag([1.0, math.sqrt(rho)])
            after, sigma, _ = adams.power_iteration_step(u, w)
            tried.append((math.acos(min(1.0, abs(float(after @ (c, s))))), float(sigma), angle + side, after))
        error, value, angle, u = max(tried, key=lambda one: one[0])
        errors.append(error)
        values.append(value)
    return np.array(errors), np.array(values)
