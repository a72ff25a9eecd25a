"""How long a step Adam, Grams and Cautious bear on a quadratic, once the denominator stands still. (G9, G4)

Where sqrt(vhat_t) + eps hardly changes (eps far above the gradient, or a v that remembers longer than we look), a
step on f(w) = h w^2 / 2 depends on one number, the *relative step* a = lr h / (sqrt(vhat_t) + eps), and is linear
apart from signs. With m in units of h:

    m' = beta1 m + (1 - beta1) w          (lines 5 and 7)
    w' = w - a uhat                       uhat = m' (Adam), sign(w) |m'| (Grams), m' where w m' > 0, else 0 (Cautious)

Adam's map is one matrix and contracts exactly for a < 2 (1 + beta1) / (1 - beta1). Grams' map is one of two matrices,
picked by the sign of w m', and a product of such matrices may expand although each step agrees with the gradient's
sign. `expanding_orbit` finds a direction that the map returns to, turned round or not, but longer: from there Grams
diverges for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import sympy as sp

from reference.ops import Array, sqrt


def relative_step(rule: ModuleType, w: Array, m: Array, a: Array, beta1: Array, **hyper: Any) -> tuple[Array, Array]:
    """One step of `rule` with relative step a, long after the bias corrections have died out: (w', m').

    w, m: arrays, or SymPy expressions. lr is set to a times the denominator that the rule will form, so that what is
    run is the rule's own `step`. `hyper` is handed on (say `rescale="none"`).
    """
    symbolic = isinstance(w, sp.Basic)
    beta2, eps = (sp.Rational(1, 2), sp.Integer(1)) if symbolic else (0.5, 1.0)
    v = w**0
    denominator = sqrt(beta2 * v + (1 - beta2) * w**2) + eps
    late = rule.init(w)._replace(t=sp.oo if symbolic else 10**9, m=m, v=v)
    w_new, state = rule.step(w, w, late, lr=a * denominator, beta1=beta1, beta2=beta2, eps=eps, **hyper)
    if symbolic:  # beta1^infinity = 0, which SymPy sees only for numbers
        w_new = w_new.replace(lambda e: e.is_Pow and e.exp is sp.oo, lambda e: sp.Integer(0))
        return sp.simplify(w_new), sp.expand(state.m)
    return w_new, state.m


def adam_matrix(a: sp.Expr, beta1: sp.Expr) -> sp.Matrix:
    """Adam's map (w, m) -> (w', m') as a matrix, read off `relative_step`."""
    from reference import adam

    w, m = sp.symbols("w m", real=True)
    return sp.Matrix(relative_step(adam, w, m, a, beta1)).jacobian([w, m]).applyfunc(sp.simplify)


def adam_threshold(beta1: Array) -> Array:
    """The relative step up to which Adam's map contracts, from the eigenvalue -1 of `adam_matrix`."""
    return 2 * (1 + beta1) / (1 - beta1)


def growth_rate(
    rule: ModuleType,
    a: Array,
    beta1: float,
    *,
    steps: int = 2000,
    burn: int = 300,
    starts: int = 24,
    seed: int = 0,
    **hyper: Any,
) -> np.ndarray:
    """Mean of log(||(w, m)'|| / ||(w, m)||) a step, for each a (n,); the largest over random starts.

    Positive: the iterates grow like exp(rate t). The state is scaled back to length 1 after every step, which changes
    nothing since the map is homogeneous.
    """
    a = np.asarray(a, dtype=np.float64)
    if a.ndim != 1 or steps <= burn:
        raise ValueError(f"a must be 1-D and steps > burn, got shape {a.shape}, steps {steps}, burn {burn}")
    w, m = np.random.default_rng(seed).standard_normal((2, starts, 1)) * np.ones(a.size)
    total = np.zeros((starts, a.size))
    for t in range(steps):
        w, m = relative_step(rule, w, m, a, beta1, **hyper)
        length = np.maximum(np.hypot(w, m), 1e-300)
        w, m = w / length, m / length
        if t >= burn:
            total += np.log(length)
    return (total / (steps - burn)).max(axis=0)


@dataclass(frozen=True)
class Orbit:
    """A direction (w, m) that Grams' map turns into `factor` times itself after len(agree) steps. Exact numbers."""

    w: sp.Expr
    m: sp.Expr
    factor: sp.Expr
    agree: tuple[bool, ...]  # whether the gradient and the new momentum agree in sign, step by step
    points: tuple[tuple[sp.Expr, sp.Expr], ...]  # the orbit, first and last point included


def expanding_orbit(rule: ModuleType, a: sp.Rational, beta1: sp.Rational, agree: Sequence[bool]) -> Orbit | None:
    """The orbit of `rule`'s map with this pattern of agreements, if there is one that expands; else None.

    The pattern fixes a product of matrices. If it has a real eigenvalue |factor| > 1 and the rule itself, started on
    that eigenvector, takes it to factor times itself, then (the map being homogeneous and odd) it does so again and
    again.
    """
    product = sp.eye(2)
    for same in agree:
        turn = 1 if same else -1
        product = sp.Matrix([[1 - turn * a * (1 - beta1), -turn * a * beta1], [1 - beta1, beta1]]) * product
    for factor in product.eigenvals():
        if not factor.is_real or not sp.Abs(factor) > 1:
            continue
        w, m = (product - factor * sp.eye(2)).nullspace()[0]
        w, m = sp.radsimp(w / m), sp.Integer(1)
        points = [(w, m)]
        for _ in agree:
            x, y = relative_step(rule, *points[-1], a, beta1)
            points.append((sp.radsimp(sp.expand(x)), sp.radsimp(sp.expand(y))))
        x, y = points[-1]
        if sp.simplify(x - factor * w) == 0 and sp.simplify(y - factor * m) == 0:
            return Orbit(w, m, sp.radsimp(factor), tuple(agree), tuple(points))
    return None
