"""Adam, Grams and Cautious under gradient noise: g_t = mu + sigma xi_t, xi_t standard normal and independent. (G9)

Units: sigma = 1, and *snr* = mu / sigma of one coordinate. Displacements are in units of lr, signed so that + is
downhill for mu > 0. v is taken as settled (beta2 near 1): sqrt(vhat) = sqrt(1 + snr^2); the Monte Carlo does not take
it so.

What is derived, and from what:
- The response u(g, m) of a rule to the gradient g and the new momentum m is read off its `step` (`response`).
- (g, m) is normal: m_t = beta1 m_{t-1} + (1 - beta1) g_t gives var m = (1 - beta1)/(1 + beta1) =: s^2, cov(g, m) = 1
  - beta1.
- Slope kappa: a small mean shifts both g and m by snr, so d E[u] / d snr at 0 = E[u (1,1) C^-1 (g,m)^T], C their
  covariance. u is homogeneous, so the radius integrates to 2 and what is left is an integral over an angle, exact in
  SymPy (`slope`).
- cautious = (Adam + Grams) / 2, sign case by sign case, if the mask is not rescaled.
- The long-run variance V = sum over k of cov(u_t, u_{t+k}) makes n steps spread by n V. Adam's is exactly 1. Grams'
  is a series in the Hermite polynomials of m, which the chain multiplies by beta1^n each step (`long_run_variance`).
- Its long-run covariance with the noise itself is the slope (Stein's lemma), so by Cauchy and Schwarz V >= kappa^2:
  at equal drift no rule that reads its steps off the noise spreads less than Adam.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import sympy as sp

from reference import adam, cautious, grams
from reference.extras import needs
from reference.ops import Array

with needs("theory", __name__):
    from scipy.special import ndtr

ALPHA = sp.Symbol(
    "alpha", positive=True
)  # the angle between g and m as directions: beta1 = sin(alpha), 0 < alpha < pi/2
BETA1 = sp.Symbol("beta1", positive=True)
RULES = (adam, grams, cautious)


def response(rule: ModuleType, g: sp.Expr, m: sp.Expr, **hyper: Any) -> sp.Expr:
    """u(g, m): minus the displacement over lr, where m is the momentum *after* this gradient, with the denominator 1.

    Read off the rule's `step`, long after the bias corrections have died out: the momentum before is (m - (1 - beta1)
    g) / beta1.
    """
    before = (m - (1 - BETA1) * g) / BETA1
    beta2, lr = sp.Rational(1, 2), sp.Symbol("lr", positive=True)
    state = rule.init(g)._replace(t=sp.oo, m=before, v=(1 - (1 - beta2) * g**2) / beta2)  # so that the new v is 1
    w, _ = rule.step(sp.Integer(0), g, state, lr=lr, beta1=BETA1, beta2=beta2, eps=0, **hyper)
    return sp.simplify(-w.replace(lambda e: e.is_Pow and e.exp is sp.oo, lambda e: sp.Integer(0)) / lr)


def momentum_moments() -> tuple[sp.Expr, sp.Expr]:
    """(var m, cov(g, m)) of the settled momentum for sigma = 1, solved from line 5 as `reference.adam` runs it."""
    m, g, variance = sp.symbols("m g variance", positive=True)
    _, state = adam.step(sp.Integer(0), g, adam.State(1, m, sp.Integer(1)), lr=1, beta1=BETA1, beta2=0, eps=1)
    old, new = sp.expand(state.m).coeff(m), sp.expand(state.m).coeff(g)
    (settled,) = sp.solve(sp.Eq(variance, old**2 * variance + new**2), variance)
    return sp.simplify(settled), new


def angular_mean(u: sp.Expr, g: sp.Symbol, m: sp.Symbol, weight: sp.Expr, radial: int) -> sp.Expr:
    """E[u weight] for centred normal g, m, where u * weight is homogeneous of degree 2 (`radial` 2) or 0 (`radial` 1).

    g = r cos(theta), m = s r cos(theta - alpha), theta uniform. The signs are constant on four arcs, whose ends are
    where g or m vanishes; on each arc sign, Abs and Piecewise are replaced by what they are there.
    """
    theta = sp.Symbol("theta", real=True)
    scale = (1 - sp.sin(ALPHA)) / sp.cos(ALPHA)  # s, a positive root of var m:
    if sp.simplify(scale**2 - sp.sympify(momentum_moments()[0]).subs(BETA1, sp.sin(ALPHA))) != 0:
        raise ArithmeticError("the momentum's variance is not (1 - beta1)/(1 + beta1): line 5 has changed")
    ends = [-sp.pi / 2, ALPHA - sp.pi / 2, sp.pi / 2, ALPHA + sp.pi / 2, 3 * sp.pi / 2]
    total = sp.Integer(0)
    for low, high in pairwise(ends):
        middle: dict[Any, Any] = {theta: ((low + high) / 2).subs(ALPHA, 0.5), ALPHA: 0.5}
        signs = {g: sp.sign(sp.cos(theta).subs(middle)), m: sp.sign(sp.cos(theta - ALPHA).subs(middle))}
        on_arc = _without_signs(u * weight, {g: signs[g], m: signs[m]})
        on_arc = on_arc.subs({g: sp.cos(theta), m: scale * sp.cos(theta - ALPHA), BETA1: sp.sin(ALPHA)})
        total += sp.integrate(sp.expand(sp.expand_trig(on_arc)), (theta, low, high))
    return radial * total / (2 * sp.pi)


def _without_signs(u: sp.Expr, signs: dict[sp.Symbol, sp.Expr]) -> sp.Expr:
    """u where the symbols have the given signs: each is written as its sign times a positive symbol, and back."""
    positive = {x: sp.Symbol(f"{x}_size", positive=True) for x in signs}
    u = sp.simplify(u.subs({x: signs[x] * positive[x] for x in signs}))
    return u.subs({positive[x]: signs[x] * x for x in signs})


def slope(rule: ModuleType, **hyper: Any) -> sp.Expr:
    """d E[u] / d snr at snr = 0, exactly, in alpha (beta1 = sin alpha): the drift over Adam's where noise rules."""
    g, m = sp.symbols("g m", real=True, nonzero=True)
    variance, covariance = momentum_moments()
    inverse: Any = sp.Matrix([[1, covariance], [covariance, variance]]).inv()
    x: Any = sp.Matrix([g, m])
    score = sp.simplify((sp.ones(1, 2) * inverse * x)[0])
    return sp.simplify(angular_mean(response(rule, g, m, **hyper), g, m, score, 2))


def agreement() -> sp.Expr:
    """P(g m > 0) at snr = 0, in alpha: what the mask of Cautious keeps, and its rescaling divides by."""
    g, m = sp.symbols("g m", real=True, nonzero=True)
    return sp.simplify(angular_mean((1 + sp.sign(g * m)) / 2, g, m, sp.Integer(1), 1))


def kappa(beta1: Array) -> Array:
    """Grams' drift relative to Adam's for |mu| << sigma, at the same lr: 1 at beta1 = 0, 0.4186 at 0.9, 0 towards 1.

    (2/pi) (beta1 sqrt((1-beta1)/(1+beta1)) + arcsin sqrt(1-beta1^2)); `slope` derives it. Floats, arrays or SymPy.
    """
    if isinstance(beta1, sp.Expr):
        body = beta1 * sp.sqrt((1 - beta1) / (1 + beta1)) + sp.asin(sp.sqrt(1 - beta1**2))
        return 2 / sp.pi * body
    b = _checked(beta1)
    return 2 / np.pi * (b * np.sqrt((1 - b) / (1 + b)) + np.arcsin(np.sqrt(1 - b**2)))


def displacement_without_gradient() -> sp.Expr:
    """Displacement of a Grams step whose gradient is 0, from any m, v, t: 0, although the momentum is not."""
    m = sp.Symbol("m", real=True)
    v, lr, eps, beta1, beta2 = sp.symbols("v lr eps beta1 beta2", positive=True)
    t = sp.Symbol("t", integer=True, positive=True)
    w = sp.Symbol("w", real=True)
    state = grams.init(w)._replace(t=t, m=m, v=v)
    new, _ = grams.step(w, sp.Integer(0), state, lr=lr, beta1=beta1, beta2=beta2, eps=eps)
    return sp.simplify(new - w)


def matched_lr(lr_adam: float, beta1: float) -> float:
    """The lr at which Grams drifts as fast as Adam does at lr_adam, where noise rules: lr_adam / kappa(beta1)."""
    return lr_adam / float(kappa(beta1))


def _checked(beta1: Array) -> np.ndarray:
    b = np.asarray(beta1, dtype=np.float64)
    if not ((b >= 0) & (b < 1)).all():
        raise ValueError(f"beta1 must be in [0, 1), got {beta1!r}")
    return b


# --- at any signal-to-noise ratio: one-dimensional integrals over the momentum ---

NODES = 160  # Gauss-Legendre points on each side of m = 0, where Grams' response has a kink
ORDERS = 60  # Hermite orders kept; with twice as many V keeps its first five digits (tested)


@cache
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(n)


def _nodes(centre: float, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Momenta y on both sides of 0, standardised values z, and weights that integrate against the normal density."""
    x, w = _legendre(NODES)
    low, high = centre - 10 * spread, centre + 10 * spread
    cut = min(max(0.0, low), high)
    y = np.concatenate([(b - a) / 2 * x + (a + b) / 2 for a, b in ((low, cut), (cut, high))])
    weight = np.concatenate([(b - a) / 2 * w for a, b in ((low, cut), (cut, high))])
    z = (y - centre) / spread
    return y, z, weight * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / spread


def _given_momentum(y: np.ndarray, snr: float, b: float) -> np.ndarray:
    """E[sign(g) |m| given m = y]: g given m is normal with mean snr + (1 + b)(y - snr) and deviation b."""
    if b == 0:  # then m is g
        return y
    return np.abs(y) * (1 - 2 * ndtr(-(snr + (1 + b) * (y - snr)) / b))


def _given_previous(y: np.ndarray, snr: float, b: float) -> np.ndarray:
    """E[sign(g) |b y + (1 - b) g|], g ~ N(snr, 1): the new momentum, less twice it where the signs differ."""
    turn = -b * y / (1 - b)  # the gradient at which the new momentum is 0: between 0 and it the signs differ
    low, high = np.minimum(0, turn) - snr, np.maximum(0, turn) - snr
    mass = ndtr(high) - ndtr(low)
    first = (np.exp(-(low**2) / 2) - np.exp(-(high**2) / 2)) / np.sqrt(2 * np.pi)
    mean = b * y + (1 - b) * snr
    return mean - 2 * (mean * mass + (1 - b) * first)


def drift(rule: ModuleType, snr: float, beta1: float) -> float:
    """E[displacement per step] in units of lr at this snr; Cautious without rescaling. Exact up to quadrature."""
    b = float(_checked(beta1))
    grams_mean = snr
    if rule is not adam:
        y, _, weight = _nodes(snr, np.sqrt((1 - b) / (1 + b)))
        grams_mean = float(weight @ _given_momentum(y, snr, b))
    mean = {adam: snr, grams: grams_mean, cautious: (snr + grams_mean) / 2}[_known(rule)]
    return mean / float(np.sqrt(1 + snr**2))


def kept(snr: float, beta1: float) -> float:
    """P(g m > 0) at this snr: the part of a large tensor that Cautious' mask keeps; "mean" rescaling divides by it."""
    b = float(_checked(beta1))
    if b == 0:
        return 1.0
    y, _, weight = _nodes(snr, np.sqrt((1 - b) / (1 + b)))
    return float(weight @ ndtr(np.sign(y) * (snr + (1 + b) * (y - snr)) / b))


def long_run_variance(rule: ModuleType, snr: float, beta1: float) -> float:
    """V = sum over k of cov(displacement_t, displacement_{t+k}), in units of lr^2; Cautious without rescaling.

    Grams: V = var u + 2 sum over n >= 1 of c_n d_n / (1 - beta1^n), with c_n, d_n the normalised Hermite coefficients
    of E[u_t | m_t] and E[u_{t+1} | m_t]. Cautious = (Adam + Grams)/2, and Adam's long-run covariance with Grams is
    the slope d E[u_Grams] / d snr, so V = (1 + 2 slope + V_Grams) / 4.
    """
    b, scale = float(_checked(beta1)), 1 + snr**2
    if _known(rule) is adam:
        return 1 / scale
    spread = np.sqrt((1 - b) / (1 + b))
    y, z, weight = _nodes(snr, spread)
    now, after = weight * _given_momentum(y, snr, b), weight * _given_previous(y, snr, b)
    total = spread**2 + snr**2 - now.sum() ** 2
    hermite, previous = z, np.ones_like(z)
    for n in range(1, ORDERS + 1):
        total += 2 * (hermite @ now) * (hermite @ after) / (1 - b**n)
        hermite, previous = (z * hermite - np.sqrt(n) * previous) / np.sqrt(n + 1), hermite
    if rule is grams:
        return float(total) / scale
    h = 1e-4
    rise = [drift(grams, x, b) * np.sqrt(1 + x**2) for x in (snr - h, snr + h)]
    return float(1 + 2 * (rise[1] - rise[0]) / (2 * h) + total) / 4 / scale


def _known(rule: ModuleType) -> ModuleType:
    if rule not in RULES:
        raise ValueError(f"rule must be reference.adam, grams or cautious, got {getattr(rule, '__name__', rule)!r}")
    return rule
