"""Why Adam spikes when its second moment shrinks, and what atan2 changes (claim A4).

The smallest problem is f(w) = h w^2 / 2 in one dimension. As w comes to rest, sqrt(vhat) decays, the step length
lr / sqrt(vhat) grows, and with momentum the minimum turns unstable once lr h / sqrt(vhat) > 2 (1 + beta1) / (1 -
beta1), which is 38 for beta1 = 0.9. `rest_point` derives that from the lines of a rule; atan2(m, s) = m/s to first
order, so it has the same threshold. `ratio_bound` is how far one step can go at all, and `outlier_travel` what one
gross gradient does.

A rule here is a module of `reference` with init and step (adam, adam_atan2, adams); w is a vector of length 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import sympy as sp

from reference.descend import Trajectory, descend
from reference.problems import quadratic

LR, H, S, EPS = sp.symbols("lr h s eps", positive=True)
BETA1, BETA2 = sp.symbols("beta1 beta2", positive=True)


@dataclass(frozen=True)
class RestPoint:
    """The rule at the minimum, linear in (w, m); s = sqrt(vhat) as the step uses it, 1 - beta1^t taken as 1."""

    matrix: sp.Matrix  # (w, m) -> (w', m')
    at_one: sp.Expr  # the characteristic polynomial z^2 - trace z + det at z = 1: stable while > 0
    at_minus_one: sp.Expr  # and at z = -1: stable while > 0
    smallest_s: sp.Expr  # the s at which it is 0: below it the minimum repels


def rest_point(rule: ModuleType, *, eps: Any = None) -> RestPoint:
    """Linearises `rule` on h w^2 / 2 about w = m = 0, for every second moment s^2 > 0, from the lines that run.

    eps: the symbol or number given to the step, or None for a rule that takes none.
    At m = g = 0 the derivative of g^2 is 0, so v is a parameter and (w, m) -> (w', m') the whole linear map. Its
    determinant is beta1 < 1, its characteristic polynomial at 1 is lr h (1 - beta1) / (s + eps) > 0; by Jury's test
    only z = -1 can leave.
    """
    w, m = sp.symbols("w m", real=True)
    t = sp.Symbol("t", positive=True, integer=True)
    v = S**2 * (1 - BETA2 ** (t + 1)) / BETA2  # then vhat = s^2 at g = 0
    state = rule.init(w)._replace(t=t, m=m, v=v)
    hyper = {"lr": LR, "beta1": BETA1, "beta2": BETA2, **_no_decay(rule), **({} if eps is None else {"eps": eps})}
    new, after = rule.step(w, H * w, state, **hyper)
    jacobian = sp.Matrix([new, after.m]).jacobian([w, m])
    matrix = sp.simplify(jacobian.subs({w: 0, m: 0})).subs(BETA1 ** (t + 1), 0)
    matrix = sp.simplify(matrix)
    trace, determinant = sp.sympify(matrix.trace()), sp.sympify(matrix.det())
    at_minus_one = sp.simplify(1 + trace + determinant)
    (smallest,) = sp.solve(sp.numer(sp.together(at_minus_one)), S)
    return RestPoint(matrix, sp.simplify(1 - trace + determinant), at_minus_one, sp.factor(smallest))


def ratio_step_remainder(rule: ModuleType) -> tuple[sp.Expr, sp.Expr]:
    """The induction step of m^2 <= C v: (C' v' - m'^2, the same as a square plus a positive multiple of the slack).

    One step of `rule` from v = m^2 / C + r with r >= 0, where C' = beta1^2 C / beta2 + (1 - beta1)^2 / (1 - beta2).
    """
    w, m, g = sp.symbols("w m g", real=True)
    c, r = sp.symbols("C r", positive=True)
    t = sp.Symbol("t", positive=True, integer=True)
    state = rule.init(w)._replace(t=t, m=m, v=m**2 / c + r)
    _, after = rule.step(w, g, state, lr=LR, beta1=BETA1, beta2=BETA2, **_no_decay(rule))
    c_next = BETA1**2 * c / BETA2 + (1 - BETA1) ** 2 / (1 - BETA2)
    left = c_next * after.v - after.m**2
    x, y = BETA1 * c * (1 - BETA2) * g, (1 - BETA1) * BETA2 * m
    return left, (x - y) ** 2 / (c * BETA2 * (1 - BETA2)) + c_next * BETA2 * r


def ratio_bound(beta1: float, beta2: float, t: int | None = None) -> float:
    """The least upper bound of |mhat_t| / sqrt(vhat_t) over all gradient sequences; t = None: t to infinity.

    C_t = (1-beta1)^2 / (1-beta2) sum_{k<t} (beta1^2/beta2)^k bounds m_t^2 / v_t (Cauchy and Schwarz, or the induction
    of `ratio_step_remainder`); `worst_gradients` attains it. inf where beta1^2 >= beta2.
    """
    _check_betas(beta1, beta2)
    q, lead = beta1**2 / beta2, (1 - beta1) ** 2 / (1 - beta2)
    if t is None:
        return math.inf if q >= 1 else math.sqrt(lead / (1 - q))
    if t < 1:
        raise ValueError(f"t must be a step's number >= 1, got {t}")
    return math.sqrt(lead * sum(q**k for k in range(t)) * (1 - beta2**t)) / (1 - beta1**t)


def worst_gradients(beta1: float, beta2: float, t: int) -> np.ndarray:
    """(t,) gradients with the longest step at step t: each beta2 / beta1 times the one before, the last one 1."""
    _check_betas(beta1, beta2)
    return (beta1 / beta2) ** np.arange(t - 1, -1, -1.0)


@dataclass(frozen=True)
class Spike:
    """What happened on h w^2 / 2 after the second moment crossed the threshold of `rest_point`."""

    crossing: int | None  # the first step whose sqrt(vhat) is below the threshold; None: never
    quiet: float  # max |w| / lr over the 50 steps before the crossing (the last 50 where there is none)
    height: float  # max |w| / lr from the crossing on (0 where there is none)
    trajectory: Trajectory
    root: np.ndarray  # (steps,) sqrt(vhat) as each step used it


def run_quadratic(
    rule: ModuleType,
    *,
    lr: float = 1e-2,
    h: float = 1.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float | None = None,
    steps: int = 20_000,
    start: float = 1.0,
) -> Spike:
    """`steps` steps of `rule` on h w^2 / 2 from `start`, no noise, constant lr: looks for the spike."""
    _check_betas(beta1, beta2)
    hyper: dict[str, Any] = {"beta1": beta1, "beta2": beta2, **_no_decay(rule)}
    if eps is not None:
        hyper["eps"] = eps
    run = descend(rule, quadratic([h]), [start], steps=steps, lr=lr, **hyper)
    v = np.array([s.v[0] for s in run.states[1:]])
    root = np.sqrt(v / (1 - beta2 ** np.arange(1, steps + 1)))
    below = np.flatnonzero(root + (eps or 0.0) < lr * h * (1 - beta1) / (2 * (1 + beta1)))
    size = np.abs(run.w[:, 0]) / lr
    if below.size == 0:
        return Spike(None, float(size[-50:].max()), 0.0, run, root)
    first = int(below[0])
    return Spike(first, float(size[max(first - 50, 0) : first + 1].max()), float(size[first:].max()), run, root)


def outlier_travel(
    rule: ModuleType, size: float, *, beta1: float = 0.9, beta2: float = 0.999, clip: float | None = None
) -> tuple[float, float]:
    """(longest step, whole way) in units of lr that one gradient `size` causes after long alternating gradients +1, -1.

    The alternation ends on -1: an outlier with size > 0 comes in its turn, one with size < 0 repeats the sign before it. It is
    followed by zero gradients, so that every later step is its echo in the first moment.
    clip: the largest |gradient| let through, or None. Subtracts nothing: the echo of the last +-1 is below 1 lr in all.
    """
    _check_betas(beta1, beta2)
    warm = 4 * math.ceil(5 / (1 - beta2) / 2)  # even: the alternation ends on -1; 10 time constants of v
    outlier = size if clip is None else math.copysign(min(abs(size), clip), size)
    gradients = [(-1.0) ** k for k in range(warm)] + [outlier] + [0.0] * 400
    w = np.zeros(1)
    state, path = rule.init(w), []
    for g in gradients:
        w, state = rule.step(w, np.array([g]), state, lr=1.0, beta1=beta1, beta2=beta2, **_no_decay(rule))
        path.append(float(w[0]))
    steps = np.diff(path)[warm - 1 :]
    return float(np.abs(steps).max()), float(np.abs(steps.sum()))


def outlier_limit(beta1: float, beta2: float, *, angle: bool) -> float:
    """The whole way in lr as the outlier's size grows without bound: the sum of r_k (Adam) or of atan(r_k) (`angle`).

    r_k = (1 - beta1) beta1^k / sqrt((1 - beta2) beta2^k), from v = (1 - beta2) beta2^k size^2; Adam's sum is geometric.
    """
    _check_betas(beta1, beta2)
    first, q = (1 - beta1) / math.sqrt(1 - beta2), beta1 / math.sqrt(beta2)
    if q >= 1:
        return math.inf
    if not angle:
        return first / (1 - q)
    terms = math.ceil(math.log(1e-18) / math.log(q)) if q > 0 else 1
    return float(np.arctan(first * q ** np.arange(terms)).sum())


def _no_decay(rule: ModuleType) -> dict[str, float]:
    """Turns off what Adams does to a vector besides lines 8-12."""
    return {"scalar_vector_weight_decay": 0.0} if "sigma" in rule.State._fields else {}


def _check_betas(beta1: float, beta2: float) -> None:
    if not (0 <= beta1 < 1 and 0 < beta2 < 1):
        raise ValueError(f"betas must be beta1 in [0, 1) and beta2 in (0, 1), got beta1={beta1}, beta2={beta2}")
