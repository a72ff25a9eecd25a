"""How far one step lowers the loss: Grams against Cautious against Adam, from the same state (claims G1, G2).

For a step w -> w - eta d the loss changes by -eta <g, d> to first order. The three rules differ in d alone:

    Adam       d = u                        u = mhat / (sqrt(vhat) + eps)
    Cautious   d = u 1[u g > 0]             (without the rescaling of C-AdamW; see `first_order_changes`)
    Grams      d = sign(g) |u|

`directions` reads d off the lines of `reference.adam`, `reference.cautious` and `reference.grams` by feeding them
symbols; `sign_cases` is the proof of Lemma 4.2 on what came out (G1). The rest is about the whole change of the loss
(G2), where the second-order term decides: for a quadratic with Hessian A,

    f(w - eta d) - f(w) = -eta <g, d> + eta^2/2 <d, A d>                            exactly,

so Grams beats Cautious below eta* = 2 S / Q and loses above it, with S = <g, e>, Q = <dG, A dG> - <dC, A dC> and
e = dG - dC (Grams' step on the coordinates that Cautious leaves alone, so orthogonal to dC). For any L-smooth f,

    eta <= 2 S / (L |e| sqrt(|e|^2 + 4 |dC|^2))                                      (`sufficient_formula`)

is enough, and no larger step is: `attaining_quadratic` has Grams and Cautious tie there. Runs, with who wins how often and
who is faster, are in `reference.theory.descent_runs`. Source: Grams, arXiv 2412.17107v3, Fact 3.6 and Lemma 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import sympy as sp

from reference import adam, cautious, grams
from reference.ops import Array

RULES: dict[str, ModuleType] = {"Adam": adam, "Cautious": cautious, "Grams": grams}
# Cautious as in the lemma: without the rescaling.
OPTIONS: dict[str, dict[str, Any]] = {"Adam": {}, "Cautious": {"rescale": "none"}, "Grams": {}}

# The symbols of one coordinate: w_{t-1}, g_t, and the moments after their update, m_t and v_t, as free as those before.
W, G, M, U = sp.symbols("w g m_t u", real=True)
V = sp.Symbol("v_t", nonnegative=True)
T = sp.Symbol("t", integer=True, nonnegative=True)
ETA, EPS, BETA1, BETA2, P, Q = sp.symbols("eta epsilon beta1 beta2 p q", positive=True)
BIAS1, BIAS2 = sp.symbols("bias1 bias2", positive=True)  # 1 - beta^t, positive for beta in (0, 1)


def direction(rule: ModuleType, **hyper: Any) -> sp.Expr:
    """d = (w_{t-1} - w_t) / eta of one coordinate, out of `rule`'s lines, for all w, g, m_t, v_t, t, betas, eps."""
    before = rule.State(T, (M - (1 - BETA1) * G) / BETA1, (V - (1 - BETA2) * G**2) / BETA2)
    w, after = rule.step(W, G, before, lr=ETA, beta1=BETA1, beta2=BETA2, eps=EPS, **hyper)
    if sp.expand(after.m - M) != 0 or sp.expand(after.v - V) != 0:
        raise ValueError(f"the averages of {rule.__name__} are not Adam's: m_t = {after.m}, v_t = {after.v}")
    d: Any = sp.piecewise_fold((W - w) / ETA)
    return d.subs({BETA1 ** (T + 1): 1 - BIAS1, BETA2 ** (T + 1): 1 - BIAS2})


def directions() -> dict[str, sp.Expr]:
    """d of the three rules as a function of g and of Adam's own d, called u.

    Solving Adam's lines for m_t and putting that m_t into every rule makes u the free variable: as m_t runs over the
    reals, so does u. ValueError where a rule's d depends on more than g and u: then its lines are not the pseudocode's.
    """
    (m,) = sp.solve(direction(adam) - U, M)
    out = {}
    for name, rule in RULES.items():
        d = direction(rule, **OPTIONS[name])
        held = sp.Symbol("sign", real=True)  # simplify would write sign(g) as cases
        out[name] = sp.simplify(d.subs(sp.sign(G), held).subs(M, m)).subs(held, sp.sign(G))
        if not out[name].free_symbols <= {G, U}:
            raise ValueError(f"{name}'s step is not a function of g and Adam's step u alone, it is {out[name]}")
    return out


@dataclass(frozen=True)
class SignCase:
    """One of the nine cases sign(g), sign(u) in {-1, 0, 1}, with |g| = p > 0 and |u| = q > 0 where they are not 0."""

    sign_g: int
    sign_u: int
    change: dict[str, sp.Expr]  # -eta g d of each rule: its first-order change of the loss
    cautious_minus_grams: sp.Expr  # both gaps must be >= 0: SymPy's .is_nonnegative
    adam_minus_cautious: sp.Expr


def sign_cases() -> tuple[SignCase, ...]:
    """Lemma 4.2 for one coordinate: -eta |g| |u| <= -eta u g 1[u g >= 0] <= -eta u g, case by case. Sums keep it."""
    cases = []
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            change = {k: sp.simplify((-ETA * G * d).subs({G: a * P, U: b * Q})) for k, d in directions().items()}
            first, second = change["Cautious"] - change["Grams"], change["Adam"] - change["Cautious"]
            cases.append(SignCase(a, b, change, sp.simplify(first), sp.simplify(second)))
    return tuple(cases)


def first_order_changes(g: Sequence[sp.Expr], u: Sequence[sp.Expr]) -> dict[str, sp.Expr]:
    """-<g, d> of the steps that the lines take when the gradient is g (no zeros) and Adam's step is u, exactly.

    With the rescaling of C-AdamW the lemma's order is gone: "mean" multiplies by dim / kept >= 1 and can beat Grams,
    "count" by dim / (kept + 1), which is < 1 where all coordinates agree, so that Adam beats it.
    """
    grad, half, names = np.array(g, dtype=object), sp.Rational(1, 2), ("none", "mean", "count")
    w = 0 * grad
    first = np.array([a * abs(b) - b for a, b in zip(u, g, strict=True)], dtype=object)  # then mhat = u |g|, vhat = g^2
    runs = {"Adam": (adam, {}), "Grams": (grams, {})} | {f"Cautious, {n}": (cautious, {"rescale": n}) for n in names}
    out = {}
    for name, (rule, extra) in runs.items():
        moved, _ = rule.step(w, grad, rule.State(0, first, w), lr=1, beta1=half, beta2=half, eps=0, **extra)
        out[name] = sp.nsimplify(grad @ moved)
    return out


def quadratic_change(dim: int = 2) -> tuple[sp.Expr, sp.Expr]:
    """f(w - eta d) - f(w) for f = w^T A w / 2 with all-symbol A = A^T, w, d; and -eta <A w, d> + eta^2/2 <d, A d>."""
    a = sp.Matrix(dim, dim, lambda i, j: sp.Symbol(f"a{min(i, j)}{max(i, j)}", real=True))
    w, d = (sp.Matrix(sp.symbols(f"{n}0:{dim}", real=True)) for n in "wd")
    moved = w - ETA * d
    left = (moved.T * a * moved - w.T * a * w)[0] / 2
    right = (-ETA * (a * w).T * d + ETA**2 / 2 * d.T * a * d)[0]
    return sp.expand(left), sp.expand(right)


def threshold_formula() -> sp.Expr:
    """eta* > 0 at which the two steps tie on a quadratic, in S > 0 and Q > 0: solves -eta S + eta^2/2 Q = 0."""
    s, q = sp.symbols("S Q", positive=True)
    (root,) = (r for r in sp.solve(-ETA * s + ETA**2 / 2 * q, ETA) if r != 0)
    return root


def sufficient_formula() -> sp.Expr:
    """The step size that is enough for every L-smooth f, in S, L, E = |e| and C = |dC|; `attaining_quadratic` needs it.

    Write p = w - eta dC, q = w - eta dG, and h = f less its linear part at w. For any point z, h(q) is at most, and h(p) at
    least, what smoothness says from z, and |grad h(z)| <= L |z - w|. So
    h(q) - h(p) <= L |z - w| eta E + L/2 (|q - z|^2 + |p - z|^2), where the bracket is 2 |z - m|^2 + eta^2 E^2 / 2 for the
    middle m of p and q, which lies at r = eta sqrt(C^2 + E^2 / 4) from w, e being orthogonal to dC. Take z between w and m,
    a away from w; the best a is r - eta E / 2 >= 0, and f(q) - f(p) = h(q) - h(p) - eta S.
    """
    s, smooth, e, c, a = sp.symbols("S L E C a", positive=True)
    r = ETA * sp.sqrt(c**2 + e**2 / 4)
    bound = smooth * a * ETA * e + smooth / 2 * (2 * (r - a) ** 2 + ETA**2 * e**2 / 2)
    (best,) = sp.solve(sp.diff(bound, a), a)
    (root,) = sp.solve(sp.simplify(bound.subs(a, best) - ETA * s) / ETA, ETA)
    enough: Any = sp.factor(root)
    return enough


@dataclass(frozen=True)
class Tie:
    """A quadratic w^T A w / 2 and a state at which Grams and Cautious tie at lr = eta, the largest that is always enough."""

    hessian: sp.Matrix  # eigenvalues L and -L
    w: np.ndarray
    state: Any  # of reference.grams: t = 0, m_0 and v_0, for betas 1/2 and eps 0
    eta: sp.Expr

    def losses(self, lr: sp.Expr) -> dict[str, sp.Expr]:
        """The loss after one step at this lr from the state, exactly, by the lines of the two rules."""
        half, out = sp.Rational(1, 2), {}
        a: Any = np.array(self.hessian.tolist(), dtype=object)
        for name in ("Grams", "Cautious"):
            rule, how = RULES[name], {"lr": lr, "beta1": half, "beta2": half, "eps": 0}
            moved, _ = rule.step(self.w, a @ self.w, rule.State(*self.state), **how, **OPTIONS[name])
            out[name] = sp.expand(moved @ a @ moved / 2)
        return out


def attaining_quadratic(e: sp.Expr, c: sp.Expr, g: Sequence[sp.Expr], smooth: sp.Expr) -> Tie:
    """The quadratic in the plane on which eta = 2 S / (L e sqrt(e^2 + 4 c^2)) is a tie, for |e| = e, |dC| = c, L = smooth.

    In the first coordinate u = c agrees with g > 0, in the second u = -e does not: dC = (c, 0), dG = (c, e). Of all A with
    eigenvalues in [-L, L] the sign matrix of dG dG^T - dC dC^T times L makes Q largest; with w = A g / L^2 its gradient is g.
    """
    a: Any = smooth / sp.sqrt(e**2 + 4 * c**2) * sp.Matrix([[-e, 2 * c], [2 * c, e]])
    w: Any = a * sp.Matrix(g) / smooth**2
    momentum = np.array([c * g[0] - g[0], -e * g[1] - g[1]], dtype=object)  # then mhat_1 = u |g| and vhat_1 = g^2
    state = (0, momentum, 0 * momentum)
    eta = 2 * g[1] * e / (smooth * e * sp.sqrt(e**2 + 4 * c**2))
    return Tie(a, np.array(list(w), dtype=object), state, eta)


@dataclass(frozen=True)
class Duel:
    """One Grams and one cautious step (without rescaling) from one state: their directions, and who wins where."""

    grams: np.ndarray  # dG, of w's shape
    cautious: np.ndarray  # dC
    s: float  # <g, dG - dC>: what Grams gains to first order, >= 0
    e_norm: float  # |dG - dC|
    c_norm: float  # |dC|

    def exact_threshold(self, hessian: np.ndarray) -> float:
        """eta* of a quadratic with this Hessian: Grams is better below it. inf: always; nan: the steps are one."""
        if self.e_norm == 0:
            return float("nan")
        q = self.grams @ hessian @ self.grams - self.cautious @ hessian @ self.cautious
        return float(2 * self.s / q) if q > 0 else float("inf")

    def sufficient_threshold(self, smoothness: float) -> float:
        """eta up to which Grams is at least as good on every L-smooth loss; nan: the steps are one."""
        if self.e_norm == 0:
            return float("nan")
        return float(2 * self.s / (smoothness * self.e_norm * np.hypot(self.e_norm, 2 * self.c_norm)))


def duel(w: Array, g: Array, state: Any, hyper: Mapping[str, Any] | None = None) -> Duel:
    """The two directions from the same w, gradient g (vectors) and state (t, m, v). They do not depend on lr."""
    w, g = np.asarray(w, dtype=np.float64), np.asarray(g, dtype=np.float64)
    zero, options = np.zeros_like(w), dict(hyper or {})
    d_grams = -grams.step(zero, g, grams.State(*state), lr=1.0, **options)[0]
    d_cautious = -cautious.step(zero, g, cautious.State(*state), lr=1.0, **OPTIONS["Cautious"], **options)[0]
    e = d_grams - d_cautious
    return Duel(d_grams, d_cautious, float(g @ e), float(np.linalg.norm(e)), float(np.linalg.norm(d_cautious)))


def counterexample() -> dict[str, sp.Expr]:
    """G2 broken in exact numbers on f(w) = w^2/2 (L = 1): w_0 = 1, lr = 11/20, beta = (0.9, 0.999), eps = 0.

    Two steps (the same for all three rules: u and g still agree) lead past the minimum, while the momentum still
    points on. From there one Grams step turns back and overshoots by more than it stood away; the cautious step stays.
    Returns positions and losses.
    """
    hyper = {"lr": sp.Rational(11, 20), "beta1": sp.Rational(9, 10), "beta2": sp.Rational(999, 1000), "eps": 0}
    w: Any = sp.Integer(1)
    state = grams.init(w)
    for _ in range(2):
        w, state = grams.step(w, w, state, **hyper)
    out = {"w": w, "loss": w**2 / 2}
    for name, rule in RULES.items():
        moved = sp.sympify(rule.step(w, w, rule.State(*state), **hyper, **OPTIONS[name])[0])
        out |= {f"w {name}": moved, f"loss {name}": moved**2 / 2}
    return out
