"""The Polyak-Lojasiewicz condition: constants of the problems, and an estimate of mu along any run. (G4, F2, N1)

PL with constant mu:  ||grad f(w)||^2 >= 2 mu (f(w) - f*)  for all w. It says that the loss can be read off the
gradient: where the gradient is small, so is what is left to gain. Strong convexity implies it; it needs neither
convexity nor one minimizer.

    problem                          mu                                     how quadratic
    smallest eigenvalue above 0            proved (`quadratic_gap`) strongly convex, logistic + l2   modulus of
    convexity, l2               proved (`strong_convexity_minimum`) x^2 + 3 sin^2 x                  0.1755 (the
    literature's 1/32 holds)   proved by intervals (`certify_sine_bowl`); not convex w^4 / 4, 1 - exp(-w^2 / 2)
    none                                   the ratio has infimum 0
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import sympy as sp

from reference.ops import Array, exp, total
from reference.problems import Problem


def pl_ratio(grad_norm_sq: Array, loss: Array, minimum: float) -> np.ndarray:
    """||grad||^2 / (2 (loss - minimum)) along a run: the largest mu that these points allow, point by point.

    grad_norm_sq, loss: numbers or arrays of one shape, of the *full* loss (a minibatch's norm holds its noise).
    `minimum` is f*; a lower bound of f* gives a lower bound of the ratio. NaN where loss equals minimum; ValueError
    where it lies below.
    """
    square, gap = np.asarray(grad_norm_sq, dtype=np.float64), np.asarray(loss, dtype=np.float64) - minimum
    if square.shape != gap.shape:
        raise ValueError(f"grad_norm_sq and loss must have one shape, got {square.shape} and {gap.shape}")
    if (gap < 0).any() or (square < 0).any():
        raise ValueError(
            f"loss - minimum goes down to {float(np.min(gap)):.3g} (minimum={minimum!r}), grad_norm_sq to "
            f"{float(np.min(square)):.3g}; both must be >= 0: give a minimum that is a lower bound of the loss"
        )
    return np.divide(square, 2 * gap, out=np.full(gap.shape, np.nan), where=gap > 0)


# --- constants ---


def quadratic_gap(eigenvalues: tuple[sp.Expr, ...], mu: sp.Expr, angle: sp.Expr) -> sp.Expr:
    """||A w||^2 - 2 mu f(w) for f = w^T A w / 2 and A = Q diag(eigenvalues) Q^T, Q the plane's rotation by `angle`.

    In the coordinates x = Q^T w the result is sum lambda_i (lambda_i - mu) x_i^2: no term is negative where
    every lambda_i is 0 or at least mu.
    """
    x = sp.Matrix(sp.symbols("x1 x2", real=True))
    q = sp.Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])
    a = q * sp.diag(*eigenvalues) * q.T
    w = q * x
    grad = a * w
    return sp.factor(sp.simplify((grad.T * grad - mu * w.T * grad)[0]))


def strong_convexity_minimum() -> tuple[sp.Expr, sp.Expr]:
    """(y, value): the minimum over y of f + g (y - x) + mu (y - x)^2 / 2, a lower bound of a strongly convex f at y.

    value = f - g^2 / (2 mu), coordinate by coordinate, so f* >= f(x) - ||g||^2 / (2 mu): strong convexity implies PL.
    """
    x, y, g, f = sp.symbols("x y g f", real=True)
    mu = sp.Symbol("mu", positive=True)
    below = f + g * (y - x) + mu * (y - x) ** 2 / 2
    (best,) = sp.solve(sp.diff(below, y), y)
    return best, sp.simplify(below.subs(y, best))


def certify_sine_bowl(mu: str, *, pieces: int = 20000) -> bool:
    """Whether h = f'^2 - 2 mu f >= 0 everywhere for f = x^2 + 3 sin^2 x. True is a proof, False proves nothing.

    mu: a decimal, as text. h is even. [0, 1/10]: h(0) = h'(0) = 0 and h'' > 0. [1/10, 4]: intervals are halved until
    h > 0 on each, at most `pieces` of them. From 4 on: f' >= 2x - 3, f <= x^2 + 3, and the difference has positive
    coefficients in x - 4.
    """
    iv: Any = mpmath.iv  # its numbers are intervals; mpmath gives them no types
    m = iv.mpf(mu)

    def h(x: Any) -> Any:
        return (2 * x + 3 * iv.sin(2 * x)) ** 2 - 2 * m * (x**2 + 3 * iv.sin(x) ** 2)

    near = iv.mpf([0, "0.1"])
    first, second, third = 2 * near + 3 * iv.sin(2 * near), 2 + 6 * iv.cos(2 * near), -12 * iv.sin(2 * near)
    if not (2 * second**2 + 2 * first * third - 2 * m * second).a > 0:
        return False
    todo, done = [(mpmath.mpf("0.0999"), mpmath.mpf(4))], 0
    while todo:
        low, high = todo.pop()
        done += 1
        if done > pieces:
            return False
        if not h(iv.mpf([low, high])).a > 0:
            todo += [(low, (low + high) / 2), ((low + high) / 2, high)]
    y = sp.Symbol("y", nonnegative=True)
    far = sp.Poly((2 * (4 + y) - 3) ** 2 - 2 * sp.Rational(mu) * ((4 + y) ** 2 + 3), y)
    return all(c > 0 for c in far.all_coeffs())


def quartic() -> Problem:
    """f = w^4 / 4: convex, one minimum, and not PL, since f'^2 / (2 f) = 2 w^2 goes to 0 with w."""
    return Problem(
        name="w^4 / 4",
        f=lambda w: total(w**4)[0] / 4,
        grad=lambda w: w**3,
        dim=1,
        start=np.ones(1),
        minimum=0.0,
        minimizer=np.zeros(1),
        L=None,
        mu=None,
        source="textbook",
    )


def plateau() -> Problem:
    """f = 1 - exp(-w^2 / 2): L = 1, one minimum, not PL: far out the gradient vanishes and the loss does not."""
    return Problem(
        name="1 - exp(-w^2/2)",
        f=lambda w: total(1 - exp(-(w**2) / 2))[0],
        grad=lambda w: w * exp(-(w**2) / 2),
        dim=1,
        start=np.array([4.0]),
        minimum=0.0,
        minimizer=np.zeros(1),
        L=1.0,
        mu=None,
        source="textbook",
    )
