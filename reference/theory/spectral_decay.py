"""What Adams' two changes do, from the lines of `reference.adams`: arctangent (A1), spectral decay (A2, A3, A6, A8).

Each function feeds symbols or numbers to the lines that run and returns statements, most of them two sides that are
equal; the tests assert them and notebooks/06_adams.ipynb shows them. Here x means lr lambda sqrt(M), the share of the
top singular value that line 7 removes; rho = (sigma_2 / sigma_1)^2; RMS is the root mean square of a matrix' entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from reference import adams

G, M_, W_ = sp.symbols("g m w", real=True)
N_, C, LR, LAMBDA = sp.symbols("n c lr lambda", positive=True)
BETA1, BETA2 = sp.symbols("beta1 beta2", positive=True)
T: Any = sp.Symbol("t", positive=True, integer=True)
S1, S2 = sp.symbols("sigma1 sigma2", positive=True)


# A1: the arctangent


@dataclass(frozen=True)
class ArctanUpdate:
    """(w - w') / lr = factor * atan2(y, x), and the state after it."""

    factor: sp.Expr
    y: sp.Expr
    x: sp.Expr
    m: sp.Expr
    n: sp.Expr


def arctan_update(c: Any = 1, *, as_released: bool = False) -> ArctanUpdate:
    """Lines 8-12 for one entry, step t + 1: gradient c g from the state (c m, c^2 n). No decay.

    Equal states up to (c, c^2) stay so (m and n below), and step 0 has (0, 0): what holds for one step holds for a run.
    """
    state = adams.State(T, c * M_, c**2 * N_, None, None)
    hyper: dict[str, Any] = {"lr": LR, "beta1": BETA1, "beta2": BETA2, "scalar_vector_weight_decay": 0}
    w, after = adams.step(W_, c * G, state, **hyper, as_released=as_released)
    moved = sp.expand((W_ - w) / LR)
    (angle,) = moved.atoms(sp.atan2)
    y, x = angle.args
    return ArctanUpdate(sp.simplify(moved / angle), y, x, after.m, after.v)


def angle_range() -> tuple[sp.Set, sp.Expr]:
    """All values of atan2(y, x) for x > 0 and real y, and the limit for y > 0 as x -> 0.

    They bound line 12: x = sqrt(nhat) >= 0 always, and x = 0 only where all gradients were 0; then y = 0 and the step
    0.
    """
    y, x = sp.Symbol("y", positive=True), sp.Symbol("x", positive=True)
    ratio = sp.Symbol("r", real=True)  # atan2(y, x) = atan(y / x) for x > 0
    return sp.calculus.util.function_range(sp.atan(ratio), ratio, sp.S.Reals), sp.limit(sp.atan(y / x), x, 0, "+")


def first_step(*, as_released: bool = False) -> sp.Expr:
    """(w - w') / lr of the first step for any gradient g > 0, in beta1."""
    g = sp.Symbol("g", positive=True)
    hyper: dict[str, Any] = {"lr": LR, "beta1": BETA1, "beta2": BETA2, "scalar_vector_weight_decay": 0}
    w, _ = adams.step(W_, g, adams.init(W_), **hyper, as_released=as_released)
    moved = sp.expand((W_ - w) / LR).replace(sp.atan2, lambda y, x: sp.atan(sp.simplify(y / x)))
    return sp.simplify(moved)


# A2: the direction and the length of the spectral decay


def gradient_of_half_sigma_squared(rows: int, columns: int) -> tuple[sp.Expr, sp.Expr]:
    """(d/dt of sigma_1^2 / 2 along any path W(t) and its v(t), <W v v^T, W'>): equal where sigma_1 is simple.

    phi = ||W v||^2 / 2 = sigma_1^2 / 2 with W^T W v = sigma_1^2 v and ||v|| = 1. Its derivative has a part in W' and
    a part (W^T W v) . v' = sigma_1^2 (v . v') = 0. The left side is d phi less multiples of those two relations, and
    the right side is <sigma_1 u_1 v_1^T, W'> since W v = sigma_1 u_1. A simple sigma_1 makes v(t) differentiable.
    """
    t = sp.Symbol("t", real=True)
    w = sp.Matrix(rows, columns, lambda i, j: sp.Function(f"w{i}{j}")(t))
    v = sp.Matrix(columns, 1, lambda j, _: sp.Function(f"v{j}")(t))
    d_phi = sp.diff((w * v).dot(w * v) / 2, t)
    eigen = w.T * w * v - S1**2 * v  # zero
    unit = sp.diff(v.dot(v) - 1, t) / 2  # zero: v . v'
    left = d_phi - eigen.dot(v.diff(t)) - S1**2 * unit
    w_dot: Any = w.diff(t)
    right = (v.T * w_dot.T * w * v)[0]  # <W v v^T, W'> = v^T W'^T W v
    return sp.expand(left), sp.expand(right)


def line_seven() -> tuple[np.ndarray, np.ndarray]:
    """(w' - w, -lr lambda sqrt(M) sigma_1 u_1 v_1^T), for every 2 x 2 W of rank two, at g = 0 and u = u_1."""
    a, b = sp.symbols("a b", real=True)
    left, right = _rotation(a), _rotation(b)
    w = left @ np.array([[S1, 0], [0, S2]], dtype=object) @ right.T
    state = adams.init(w)._replace(u=left[:, 0])
    moved, _ = adams.step(w, 0 * w, state, lr=LR, weight_decay=LAMBDA)
    change = np.vectorize(sp.simplify, otypes=[object])(moved - w)
    return change, -LR * LAMBDA * sp.sqrt(2) * S1 * np.outer(left[:, 0], right[:, 0])


def rms_ratio(w: np.ndarray) -> tuple[float, float]:
    """(RMS of sqrt(M) sigma_1 u_1 v_1^T over the RMS of W (M, N), sqrt(M / stable rank)); the two are equal.

    stable rank = ||W||_F^2 / sigma_1^2 <= min(M, N). So the ratio is never below 1, is 1 exactly where W W^T = c I, is
    about 1 + sqrt(M/N) for large matrices of independent Gaussian entries (small ones have less) and sqrt(M) for rank one.
    The first number is taken from line 7.
    """
    if w.ndim != 2 or not w.any():
        raise ValueError(f"w must be a matrix (M, N) that is not zero, got shape {w.shape}")
    top = np.linalg.svd(w)[0][:, 0]
    moved, _ = adams.step(w, 0 * w, adams.init(w)._replace(u=top), lr=1.0, weight_decay=1.0)
    stable_rank = (w**2).sum() / np.linalg.norm(w, 2) ** 2
    return float(_rms(w - moved) / _rms(w)), math.sqrt(len(w) / stable_rank)


# A3: one power iteration a step


def contraction() -> tuple[sp.Expr, sp.Expr]:
    """(tan of u's angle after one iteration over x = tan before, (estimate / sigma_1)^2), W = diag(sigma1, sigma2)."""
    x = sp.Symbol("x", positive=True)
    u = np.array([1, x], dtype=object) / sp.sqrt(1 + x**2)
    w = np.array([[S1, 0], [0, S2]], dtype=object)
    after, sigma, _ = adams.power_iteration_step(u, w)
    return sp.simplify(after[1] / after[0] / x), sp.simplify((sigma / S1) ** 2)


def steady_error(rho: float, drift: float) -> float:
    """The angle by which u trails u_1 for ever when u_1 turns by `drift` a step; NaN where no such angle exists.

    tan e = rho tan(e + drift), by `contraction` after a turn: the smaller root x = tan e of d x^2 - (1 - rho) x + rho
    d = 0, d = tan(drift). It is real just for d <= (1 - rho) / (2 sqrt(rho)): see `drift_limit`.
    """
    if not (0 < rho < 1 and 0 <= drift < math.pi / 2):
        raise ValueError(f"rho must lie in (0, 1) and drift in [0, pi/2), got rho={rho}, drift={drift}")
    d = math.tan(drift)
    inside = (1 - rho) ** 2 - 4 * rho * d * d
    return math.atan(2 * rho * d / (1 - rho + math.sqrt(inside))) if inside >= 0 else math.nan


def drift_limit(rho: float) -> float:
    """The fastest steady turn of u_1, in radians a step, that one power iteration a step can follow."""
    return math.atan((1 - rho) / (2 * math.sqrt(rho)))


@dataclass(frozen=True)
class Track:
    """angle (T,): between u after the step and the present u_1, in [0, pi/2]. value (T,): estimate over sigma_1."""

    angle: np.ndarray
    value: np.ndarray


def track(ws: Sequence[np.ndarray], u: np.ndarray) -> Track:
    """One power iteration on each of the matrices ws (M, N) in turn, from u (M,)."""
    angles, values = [], []
    for w in ws:
        u, sigma, _ = adams.power_iteration_step(u, w)
        left, s, _ = np.linalg.svd(w)
        angles.append(math.acos(min(1.0, abs(float(left[:, 0] @ u)))))
        values.append(float(sigma / s[0]))
    return Track(np.array(angles), np.array(values))


def turning(rho: float, drift: float, steps: int) -> list[np.ndarray]:
    """`steps` matrices 2 x 2, singular values 1 and sqrt(rho); their left singular vectors turn by `drift` a step."""
    core = np.diag([1.0, math.sqrt(rho)])
    return [_turn(k * drift) @ core for k in range(1, steps + 1)]


def crossing(steps: int, mixing: float = 0.0) -> list[np.ndarray]:
    """diag(s, 1), s going from 2 to 1/2 in `steps` equal steps: the top vector jumps from e1 to e2 on the way.

    mixing: the angle by which the left singular vectors are turned away from e1 and e2.
    """
    return [_turn(mixing) @ np.diag([s, 1.0]) for s in np.linspace(2.0, 0.5, steps)]


# A6's arithmetic, and the places where the decay does nothing or too much


def top_factor(rows: int) -> tuple[sp.Expr, sp.Expr, sp.Set]:
    """(sigma_1' / sigma_1 after a step with g = 0, its x = lr lambda sqrt(M), all x > 0 for which it grows in size).

    W = diag(sigma1, sigma2, ...) with `rows` rows and u = u_1; u' = u_1 again, so the factor is that of every later
    step.
    """
    w = np.array(sp.diag(S1, *[S2] * (rows - 1)).tolist(), dtype=object)
    u = np.array([sp.Integer(k == 0) for k in range(rows)], dtype=object)
    moved, after = adams.step(w, 0 * w, adams.init(w)._replace(u=u), lr=LR, weight_decay=LAMBDA)
    if any(sp.simplify(a - b) != 0 for a, b in zip(after.u, u, strict=True)):
        raise ArithmeticError(f"u left u_1: {after.u}")
    x = sp.Symbol("x", positive=True)
    factor = sp.simplify((moved[0, 0] / S1).subs(LR, x / (LAMBDA * sp.sqrt(rows))))
    grows = sp.solveset(sp.Abs(factor.subs(x, W_)) > 1, W_, sp.Interval.open(0, sp.oo))
    return factor, x, grows


def decay_alone(w: np.ndarray, *, share: float, steps: int, reseed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Line 7 alone (g = 0), share = lr lambda sqrt(M): singular values (steps+1, min(M, N)) and estimates (steps,)."""
    state, spectra, estimates = adams.init(w), [np.linalg.svd(w, compute_uv=False)], []
    for _ in range(steps):
        w, state = adams.step(w, 0 * w, state, lr=share / math.sqrt(len(w)), weight_decay=1.0, reseed=reseed)
        spectra.append(np.linalg.svd(w, compute_uv=False))
        estimates.append(float(state.sigma))
    return np.array(spectra), np.array(estimates)


# A8: a stack of matrices


def batch_against_loop(batch: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """One whole step, lines 6-12, on symbols (B, M, N) at once and matrix by matrix: two arrays of formulas."""
    shape = (batch, rows, columns)
    w, g = (np.array(sp.symbols(f"{k}:{batch * rows * columns}", real=True), dtype=object).reshape(shape) for k in "wg")
    hyper = {"lr": LR, "beta1": sp.Rational(9, 10), "beta2": sp.Rational(19, 20), "weight_decay": LAMBDA}
    together, _ = adams.step(w, g, adams.init(w), **hyper)
    alone = [adams.step(w[b], g[b], adams.init(w[b]), **hyper)[0] for b in range(batch)]
    return together, np.stack(alone)


def _rotation(angle: sp.Expr) -> np.ndarray:
    c, s = sp.cos(angle), sp.sin(angle)
    return np.array([[c, -s], [s, c]], dtype=object)


def _turn(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def _rms(w: np.ndarray) -> float:
    return float(np.sqrt(np.mean(w**2)))
