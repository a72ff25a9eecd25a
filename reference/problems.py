"""Toy objectives with what is known of them: minimum, smoothness L, PL constant mu, source.

L is a bound of the Hessian's norm, mu the constant of ||grad f||^2 >= 2 mu (f - f*); `None` says that there is none on
the whole space. f and grad are written over `reference.ops`: a problem takes NumPy vectors, torch vectors (f is
differentiable) and NumPy vectors of SymPy symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from reference.extras import needs
from reference.ops import Array, absolute, constant, exp, log, positive, sin, total, where


@dataclass(frozen=True)
class Problem:
    """min f over vectors of length `dim`; `start` is a customary first point."""

    name: str
    f: Callable[[Array], Array]  # (dim,) -> scalar
    grad: Callable[[Array], Array]  # (dim,) -> (dim,)
    dim: int
    start: np.ndarray
    minimum: float
    minimizer: np.ndarray | None
    L: float | None
    mu: float | None
    source: str


def rotation(dim: int, seed: int) -> np.ndarray:
    """An orthogonal matrix drawn from Haar's measure (QR of a Gaussian matrix, signs fixed)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    return q * np.sign(np.diag(r))


def quadratic(spectrum: Sequence[float], *, seed: int | None = None) -> Problem:
    """f(w) = w^T A w / 2 with A's eigenvalues `spectrum` (all >= 0): diagonal, or turned by `rotation(dim, seed)`.

    L is the largest eigenvalue, mu the smallest one above zero (a flat direction does not hurt the PL condition).
    """
    eigenvalues = np.asarray(spectrum, dtype=np.float64)
    if eigenvalues.ndim != 1 or not eigenvalues.size or (eigenvalues < 0).any() or not eigenvalues.any():
        raise ValueError(f"spectrum must be a list of eigenvalues >= 0, not all zero, got {spectrum!r}")
    dim = eigenvalues.size
    q = np.eye(dim) if seed is None else rotation(dim, seed)
    a = q @ np.diag(eigenvalues) @ q.T

    def grad(w: Array) -> Array:
        return constant(a, w) @ w

    return Problem(
        name=f"quadratic {eigenvalues.min():g}..{eigenvalues.max():g}" + ("" if seed is None else ", turned"),
        f=lambda w: w @ grad(w) / 2,
        grad=grad,
        dim=dim,
        start=np.ones(dim),
        minimum=0.0,
        minimizer=np.zeros(dim),
        L=float(eigenvalues.max()),
        mu=float(eigenvalues[eigenvalues > 0].min()),
        source="textbook; turned because per-coordinate methods are not rotation invariant",
    )


def rosenbrock() -> Problem:
    """f(x, y) = (1 - x)^2 + 100 (y - x^2)^2: a curved valley, not convex, its gradient not Lipschitz."""

    def f(w: Array) -> Array:
        return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2

    def grad(w: Array) -> Array:
        inner = w[1] - w[0] ** 2
        first = -2 * (1 - w[0]) - 400 * w[0] * inner
        return first * constant([1, 0], w) + 200 * inner * constant([0, 1], w)

    return Problem(
        name="Rosenbrock",
        f=f,
        grad=grad,
        dim=2,
        start=np.array([-1.2, 1.0]),
        minimum=0.0,
        minimizer=np.array([1.0, 1.0]),
        L=None,
        mu=None,
        source="Rosenbrock, The Computer Journal 3 (1960) 175",
    )


def sine_bowl() -> Problem:
    """f(x) = x^2 + 3 sin^2 x: not convex, one minimum, satisfies the PL condition with mu = 1/32; |f''| <= 8."""
    return Problem(
        name="x^2 + 3 sin^2 x",
        f=lambda w: total(w**2 + 3 * sin(w) ** 2)[0],
        grad=lambda w: 2 * w + 3 * sin(2 * w),
        dim=1,
        start=np.array([3.0]),
        minimum=0.0,
        minimizer=np.zeros(1),
        L=8.0,
        mu=1 / 32,
        source="Karimi, Nutini, Schmidt, arXiv 1608.04636, section 2.2",
    )


@cache
def logistic_regression(l2: float = 1e-2) -> Problem:
    """Mean logistic loss + l2 ||w||^2 / 2 on scikit-learn's breast-cancer data (569 x 30 standardised, and a constant).

    L = ||X||^2 / (4 n) + l2, mu = l2 (strong convexity); the minimum is found by Newton's method to rounding.
    Needs scikit-learn (the extra `theory`).
    """
    if not l2 > 0:
        raise ValueError(f"l2 must be > 0 (without it the minimum may lie at infinity), got {l2}")
    with needs("theory", "logistic_regression"):
        from sklearn.datasets import load_breast_cancer

    data: Any = load_breast_cancer()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    x = np.hstack([x, np.ones((len(x), 1))]) * (2 * data.target - 1)[:, None]  # each row times its label +-1
    n, dim = x.shape

    def f(w: Array) -> Array:
        z = constant(x, w) @ w
        softplus = where(positive(-z), -z, 0 * z) + log(1 + exp(-absolute(z)))  # log(1 + exp(-z)) without overflow
        return total(softplus)[0] / n + l2 * (w @ w) / 2

    def grad(w: Array) -> Array:
        rows = constant(x, w)
        z = rows @ w
        small = exp(-absolute(z))
        return -(where(positive(-z), 1 + 0 * z, small) / (1 + small)) @ rows / n + l2 * w

    w = np.zeros(dim)
    for _ in range(50):  # Newton's method; the loss is smooth and strongly convex, and the start is inside its basin
        p = 1 / (1 + np.exp(x @ w))
        w = w - np.linalg.solve((x.T * (p * (1 - p))) @ x / n + l2 * np.eye(dim), grad(w))
    return Problem(
        name="logistic regression, breast cancer",
        f=f,
        grad=grad,
        dim=dim,
        start=np.zeros(dim),
        minimum=float(f(w)),
        minimizer=w,
        L=float(np.linalg.norm(x, 2) ** 2 / (4 * n) + l2),
        mu=l2,
        source="scikit-learn load_breast_cancer (UCI, Wolberg et al. 1995)",
    )
