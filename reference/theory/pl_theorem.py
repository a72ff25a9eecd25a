"""The convergence bound of the Grams paper (Theorem 4.15) against its iterates, and a condition that mends it. (G4)

For an L-smooth f with the PL condition (constant mu, `pl_condition`) and gradients bounded by G, the theorem says
that after T steps of size eta

    f(w_T) - f* <= 4 G / (mu eta T) (f(w_1) - f*).

Taken as written (constant eta, any eps) it fails: near the minimum v fades, the relative step eta f'' / (sqrt(vhat) +
eps) grows past what the rule bears (`step_stability`), and the iterates are thrown out again and again while the
bound goes on falling (the first T, between bounds: `pl_enclosure`). It also fails for eps far above G, where the steps
are too short. The condition that mends both is

    eta L <= eps <= (4 e - 1) G,    L the smoothness of f, e = 2.718... , 4 e - 1 = 9.87...     (`step_condition`).

Under it the bound holds for every L-smooth PL function after every number of steps T >= 1 if beta1 = 0, which is where
Grams, Adam and Cautious without rescaling are one rule:
  (1) with a_i = eta / (sqrt(vhat_i) + eps) one step lowers f by at least sum a_i g_i^2 / 2, since a_i L <= eta L /
    eps <= 1 (`decrease_bound`);
  (2) vhat_i <= G^2 (`second_moment_gap`), so a_i >= eta / (G + eps), and PL gives gap' <= (1 - q) gap with q = eta mu /
    (G + eps), which lies in (0, 1) since mu <= L;
  (3) T q (1 - q)^T <= (T/(T+1))^(T+1) < 1/e (`linear_rate_bound`, `below_one_over_e`), so gap_T <= (1 - q)^T gap_0 <
    gap_0 / (e T q) = (G + eps)/(e mu eta T) gap_0, and G + eps <= 4 e G.
`composition` writes (2) and (3) as differences that must not be negative. T counts steps: where the paper's w_1 is the
start and w_T the point after T - 1 steps, T = 1 compares the start with itself, and the bound then needs eta <= 4 G / mu.
For beta1 > 0 it is not enough: many small entries, whose steps momentum carries past the minimum, break the bound at eps = 9.8 G
where one large entry sets G (`tests/theory/test_pl_enclosure.py`); up to 3 G runs keep it (`sweep`), unproved. `pl_certificate`
proves more for beta1 = 0, up to eps = (8 e - 1) G = 20.7 G for small eta; on w^2 / 2 at eta = 0.1 the bound breaks from 20.95 G on
(`pl_enclosure`), for longer steps later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import sympy as sp

from reference import grams
from reference.ops import Array
from reference.problems import Problem

EPS_OVER_G = 4 * math.e - 1  # the largest eps over G for which step (3) gives the theorem's 4 G


def theorem_bound(G: Array, mu: Array, lr: Array, T: Array, first_gap: Array) -> Array:
    """Theorem 4.15's bound of f(w_T) - f*: 4 G / (mu lr T) (f(w_1) - f*)."""
    return 4 * G / (mu * lr * T) * first_gap


def step_condition(lr: Array, eps: Array, L: float, G: Array) -> Array:
    """lr L <= eps <= (4 e - 1) G: the added condition under which, for beta1 = 0, the bound holds."""
    return (lr * L <= eps) & (eps <= EPS_OVER_G * G)


@dataclass(frozen=True)
class Sweep:
    """Runs of one rule from one start, one for each column of (lr, eps): all (n,)."""

    first_failure: np.ndarray  # the first T at which the bound is broken; 0 for never within the horizon
    G: np.ndarray  # the largest entry of any gradient along the whole run
    gap: np.ndarray  # (steps + 1, n) f(w) - f*


def sweep(
    rule: ModuleType,
    problem: Problem,
    lr: Array,
    eps: Array,
    *,
    steps: int,
    beta1: float = 0.9,
    beta2: Array = 0.999,
    loss: Callable[[np.ndarray], np.ndarray] | None = None,
    mu: float | None = None,
    **hyper: Any,
) -> Sweep:
    """`steps` steps of `rule` from problem.start for every pair of lr and eps (n,) at once, held against Theorem 4.15.

    The runs are the columns of one (dim, n) array, which problem.grad must take column by column (an elementwise
    gradient or a product A w does). `loss` maps (dim, n) to (n,); without it problem.f is called column by column,
    which is slow. T counts steps, the kindest reading: w_T is the point after T steps. G is the largest gradient
    entry of the whole run, the smallest that "bounded gradients" allows. mu: the constant to use, by default the
    problem's.
    """
    lr, eps = np.broadcast_arrays(np.asarray(lr, dtype=np.float64), np.asarray(eps, dtype=np.float64))
    mu = problem.mu if mu is None else mu
    if lr.ndim != 1 or steps < 1 or mu is None:
        raise ValueError(
            f"lr and eps must be 1-D, steps >= 1, mu a number, got shape {lr.shape}, steps {steps}, mu {mu}"
        )
    of = loss or (lambda w: np.array([float(problem.f(column)) for column in w.T]))
    w = np.repeat(np.asarray(problem.start, dtype=np.float64)[:, None], lr.size, axis=1)
    state = rule.init(w)
    gap = np.empty((steps + 1, lr.size))
    gap[0] = of(w) - problem.minimum
    G = np.zeros(lr.size)
    for t in range(1, steps + 1):
        g = problem.grad(w)
        G = np.maximum(G, np.abs(g).max(axis=0))
        w, state = rule.step(w, g, state, lr=lr, eps=eps, beta1=beta1, beta2=beta2, **hyper)
        gap[t] = of(w) - problem.minimum
    T = np.arange(1, steps + 1)[:, None]
    broken = gap[1:] > theorem_bound(G, mu, lr, T, gap[0]) * (1 + 1e-12)
    first = np.where(broken.any(axis=0), broken.argmax(axis=0) + 1, 0)
    return Sweep(first, G, gap)


# --- the proof for beta1 = 0 ---


def decrease_bound() -> tuple[sp.Expr, sp.Expr]:
    """(slack, a): (1), for one coordinate of a Grams step with beta1 = 0, read off `reference.grams.step`.

    d is the displacement and a = -d / g. Smoothness bounds the change of f by g d + L d^2 / 2; slack is that bound plus
    a g^2 / 2, which comes out as a g^2 (a L - 1) / 2: not positive where a L <= 1. The old v is chosen such that
    sqrt(vhat_t) = r, any positive number.
    """
    g, w = sp.symbols("g w", real=True, nonzero=True)
    r, lr, eps, L, beta2 = sp.symbols("r lr eps L beta2", positive=True)
    t = sp.Symbol("t", integer=True, positive=True)
    before = ((1 - beta2**t) * r**2 - (1 - beta2) * g**2) / beta2
    state = grams.init(w)._replace(t=t - 1, v=before)
    new, _ = grams.step(w, g, state, lr=lr, beta1=sp.Integer(0), beta2=beta2, eps=eps)
    d = sp.simplify((new - w).replace(lambda e: e.is_Pow and e.base == 0, lambda e: sp.Integer(0)))  # 0^t = 0
    a: Any = sp.simplify(-d / g)
    slack: Any = sp.factor(sp.simplify(g * d + L * d**2 / 2 + a * g**2 / 2))
    return slack, a


def second_moment_gap() -> tuple[sp.Expr, sp.Expr]:
    """(2), and F3: m_t and v_t against their bounds (1 - beta1^t) B and (1 - beta2^t) B^2 where |g| <= B.

    Returns what one step makes of the slack, bound minus state, minus the convex combination that it should be: both
    are 0, so slacks that were not negative stay so (induction from m_0 = v_0 = 0, with slacks B - g and B^2 - g^2
    coming in).
    """
    m, g = sp.symbols("m g", real=True)
    v, B, beta1, beta2 = sp.symbols("v B beta1 beta2", positive=True)
    t = sp.Symbol("t", integer=True, nonnegative=True)
    state = grams.init(m)._replace(t=t, m=m, v=v)
    _, new = grams.step(sp.Integer(0), g, state, lr=1, beta1=beta1, beta2=beta2, eps=1)
    slack_m = ((1 - beta1**new.t) * B - new.m) - (beta1 * ((1 - beta1**t) * B - m) + (1 - beta1) * (B - g))
    slack_v = ((1 - beta2**new.t) * B**2 - new.v) - (beta2 * ((1 - beta2**t) * B**2 - v) + (1 - beta2) * (B**2 - g**2))
    return sp.simplify(sp.expand(slack_m)), sp.simplify(sp.expand(slack_v))


def linear_rate_bound() -> tuple[sp.Expr, sp.Expr]:
    """(3): (q, value) where T q (1 - q)^T is largest in q on [0, 1]: q = 1/(T+1), value (T/(T+1))^(T+1)."""
    q, T = sp.symbols("q T", positive=True)
    (best,) = sp.solve(sp.diff(sp.log(q) + T * sp.log(1 - q), q), q)
    return best, sp.simplify((T * q * (1 - q) ** T).subs(q, best))


def below_one_over_e() -> tuple[sp.Expr, sp.Expr]:
    """That (T/(T+1))^(T+1) < 1/e: (d/dx of log(1 - x) + x, its value at 0), for x = 1/(T+1).

    The logarithm of e times the left side is (log(1 - x) + x) / x. The sum is 0 at x = 0 and falls, so it is negative
    for x in (0, 1).
    """
    x = sp.Symbol("x", positive=True)
    sum_ = sp.log(1 - x) + x
    return sp.simplify(sp.diff(sum_, x)), sum_.subs(x, 0)


def composition() -> dict[str, sp.Expr]:
    """Steps (2) and (3) put together: differences that must not be negative, for all parameters that the condition allows.

    The allowed parameters are written with nonnegative slacks: r = G - p for sqrt(vhat), mu = L - s, eps = lr L + k, and
    for the last entry eps = (4 e - 1) G - k.
    """
    p, s, k = sp.symbols("p s k", nonnegative=True)
    r, mu, lr = sp.symbols("r mu lr", positive=True)
    G, L = r + p, mu + s
    eps = lr * L + k
    _, a = decrease_bound()
    step = a.subs({sp.Symbol("r", positive=True): r, sp.Symbol("eps", positive=True): eps})
    q = lr * mu / (G + eps)
    T, g = sp.symbols("T G", positive=True)
    used = (g + (4 * sp.E - 1) * g - k) / (sp.E * mu * lr * T)  # (G + eps) / (e mu lr T) at eps = (4 e - 1) G - k
    return {
        "a - lr / (G + eps)": sp.simplify(step - lr / (G + eps)),
        "1 - a L": sp.simplify(1 - step * L),
        "1 - q": sp.simplify(1 - q),
        "the theorem's bound - gap_0 / (e T q), over gap_0": sp.simplify(theorem_bound(g, mu, lr, T, 1) - used),
    }
