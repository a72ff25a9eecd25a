"""Hamiltonian descent: do H and L fall along the flow that an optimizer follows as its step size goes to 0? (claim G3)

With momentum s, kinetic energy K(s) and k = grad K(s), g = grad L(w), the total energy is H(w, s) = L(w) + K(s) and

    plain      w' = -k               - Phi(g)        s' = g - Psi(s)
    cautious   w' = -k 1[g k >= 0]   - Phi(g)        the same
    Grams      w' = -sign(g) |k|     - Phi(g)        the same

`rates` derives dL/dt and dH/dt from these lines for all g, k, Phi, Psi; `rate_cases` proves, coordinate by coordinate,

    dL/dt <= -<g, Phi>,   dH/dt <= -<g, Phi> - <k, Psi>        (cautious and Grams; plain has the second with equality)
    dL/dt (Grams) <= dL/dt (cautious) <= dL/dt (plain), and the same for H.

So both fall if <g, Phi(g)> >= 0 and <k, Psi(s)> >= 0, which each system must bring: `SYSTEMS` has heavy ball's,
Lion-K's and Adam's. Adam's own s = (m, v) is not of the form above, since v' = beta (g^2 - v); its H falls if
beta <= 4 alpha (`adam_condition`). `optimizer_flow` shows that the flow is the limit of the lines of `reference.adam`,
`reference.cautious` and `reference.grams`. Flows followed by SciPy, and the optimizer at a step size h > 0, are in
`reference.theory.hamiltonian_flows`. Time is continuous; what happens on g_i = 0 is in `sliding_rates`.

Sources: Grams, arXiv 2412.17107v3, Theorem 4.6; Adam's and Lion-K's H: Chen, Liu, Liang, Liu, arXiv 2310.05898, and
Liang, Chen, Liu, Liu, arXiv 2411.16085.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import sympy as sp

from reference import adam, cautious, grams
from reference.ops import Array, absolute, positive, sign, where

FLOWS = ("plain", "cautious", "grams")
RULES: dict[str, ModuleType] = {"plain": adam, "cautious": cautious, "grams": grams}

W, G, K, PHI, PSI, S, M = sp.symbols("w g k Phi Psi s m", real=True)
V, P, Q = sp.symbols("v p q", positive=True)
ALPHA, BETA, GAMMA, EPS, C, DELTA, H, TAU = sp.symbols("alpha beta gamma epsilon c delta h tau", positive=True)


def velocity(flow: str, g: Array, k: Array) -> Array:
    """w' + Phi for one of FLOWS, entry by entry, of numbers or symbols."""
    if flow == "plain":
        return -k
    if flow == "cautious":
        return -where(g * k >= 0, k, 0 * k)
    if flow == "grams":
        return -sign(g) * absolute(k)
    raise ValueError(f"flow must be one of {', '.join(FLOWS)}, got {flow!r}")


def rates(flow: str) -> tuple[sp.Expr, sp.Expr]:
    """(dL/dt, dH/dt) of one coordinate by the chain rule, for free g, k, Phi, Psi: g w' and g w' + k s'."""
    loss = G * (velocity(flow, G, K) - PHI)
    return loss, loss + K * (G - PSI)


@dataclass(frozen=True)
class RateCase:
    """One of the nine cases of sign(g), sign(k), with |g| = p and |k| = q.

    Each entry must be <= 0 for the theorem: SymPy's .is_nonpositive.
    """

    sign_g: int
    sign_k: int
    loss: sp.Expr  # dL/dt + g Phi
    energy: sp.Expr  # dH/dt + g Phi + k Psi
    loss_over_plain: (
        sp.Expr
    )  # dL/dt - dL/dt of the plain flow: "Delta_L of Grams <= -Delta_L", Delta_L being what plain loses
    energy_over_plain: sp.Expr
    loss_plus_plain: (
        sp.Expr
    )  # dL/dt + dL/dt of the plain flow + 2 g Phi: the other reading, Delta_L being plain's dL/dt


def rate_cases(flow: str) -> tuple[RateCase, ...]:
    """The proof of Theorem 4.6's inequalities, for all g, k by sign: see the head. For the plain flow `loss` fails."""
    (loss, energy), (plain_loss, plain_energy) = rates(flow), rates("plain")
    parts = (
        loss + G * PHI,
        energy + G * PHI + K * PSI,
        loss - plain_loss,
        energy - plain_energy,
        loss + plain_loss + 2 * G * PHI,
    )
    return tuple(
        RateCase(a, b, *(sp.simplify(sp.expand(x.subs({G: a * P, K: b * Q}))) for x in parts))
        for a in (-1, 0, 1)
        for b in (-1, 0, 1)
    )


@dataclass(frozen=True)
class System:
    """One coordinate of a Hamiltonian system: its momentum variables with their equations. K is even in `momentum`."""

    name: str
    kinetic: sp.Expr
    momentum: sp.Symbol  # k = dK/dmomentum, up to `scale`
    scale: sp.Expr  # k = scale * dK/dmomentum: Adam's m is alpha times the s of the template
    phi: sp.Expr
    equations: dict[sp.Symbol, sp.Expr]  # variable -> its time derivative, in g and the variables

    @property
    def k(self) -> sp.Expr:
        """The plain flow's direction, w' = -k - Phi."""
        return self.scale * sp.diff(self.kinetic, self.momentum)

    def rates(self, flow: str) -> tuple[sp.Expr, sp.Expr]:
        """(dL/dt, dH/dt) of this system from its equations alone."""
        loss = G * (velocity(flow, G, self.k) - self.phi)
        return loss, loss + sum(sp.diff(self.kinetic, x) * rhs for x, rhs in self.equations.items())


def _lion_force(s: sp.Expr) -> sp.Expr:
    return s / sp.sqrt(s**2 + DELTA**2)  # grad of K = sqrt(s^2 + delta^2): sign(s) as delta goes to 0


SYSTEMS = {
    # Phi = c g is the gradient's own push (c = 0: classical momentum), Psi = gamma s friction.
    "heavy ball": System("heavy ball", S**2 / 2, S, sp.Integer(1), C * G, {S: G - GAMMA * S}),
    # Lion takes its sign at s + c g; what that adds to grad K(s) is Phi, which here depends on s too.
    "Lion-K": System(
        "Lion-K",
        sp.sqrt(S**2 + DELTA**2),
        S,
        sp.Integer(1),
        _lion_force(S + C * G) - _lion_force(S),
        {S: G - GAMMA * S},
    ),
    "Adam": System(
        "Adam",
        M**2 / (2 * ALPHA * (sp.sqrt(V) + EPS)),
        M,
        ALPHA,
        sp.Integer(0),
        {M: ALPHA * (G - M), V: BETA * (G**2 - V)},
    ),
}


def system_conditions() -> dict[str, tuple[sp.Expr, sp.Expr]]:
    """(g Phi, k Psi) of heavy ball and Lion-K, to be >= 0; Lion-K's first is d(g Phi)/dc, g Phi being 0 at c = 0."""
    heavy, lion = SYSTEMS["heavy ball"], SYSTEMS["Lion-K"]
    slope = sp.simplify(sp.diff(G * lion.phi, C).subs(S, K - C * G))  # K stands for s + c g, any real number
    return {
        "heavy ball": (G * heavy.phi, sp.simplify(heavy.k * (G - heavy.equations[S]))),
        "Lion-K": (slope, sp.simplify(lion.k * (G - lion.equations[S]))),
    }


def adam_condition() -> tuple[sp.Expr, sp.Expr]:
    """(dH/dt of Adam's plain flow, the same at alpha = beta/4 + p): the second is a sum of terms <= 0 for every p > 0.

    With g = 0 and eps = 0 the first is -(m^2/sqrt v)(1 - beta/(4 alpha)): positive if beta > 4 alpha, in all FLOWS.
    """
    rate = SYSTEMS["Adam"].rates("plain")[1]
    numerator, denominator = sp.fraction(sp.together(rate.subs(ALPHA, BETA / 4 + P)))
    return sp.simplify(rate), sp.expand(numerator) / denominator


def _quotients(rule: ModuleType) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    state = rule.State(TAU / H - 1, M, V)
    extra = {"rescale": "none"} if rule is cautious else {}
    w, (_, m, v) = rule.step(W, G, state, lr=H, beta1=1 - ALPHA * H, beta2=1 - BETA * H, eps=EPS, **extra)
    return (w - W) / H, (m - M) / H, (v - V) / H


@cache
def _adam_limit() -> tuple[sp.Expr, sp.Expr]:
    """Adam's u at step size h, and its limit."""
    u = -_quotients(adam)[0]
    return u, sp.simplify(sp.limit(sp.limit(sp.simplify(u), H, 0, "+"), TAU, sp.oo))


def optimizer_flow(rule: ModuleType) -> dict[str, sp.Expr]:
    """(w', m', v'): limits of (new - old) / h of the rule's lines at lr = h, beta1 = 1 - alpha h, beta2 = 1 - beta h.

    First h -> 0 at the time tau = t h, then tau -> infinity (bias corrections gone). Grams' and Cautious' limits are
    taken at fixed g, through their u, which is Adam's and continuous in h.
    """
    dw, dm, dv = _quotients(rule)
    u, limit = _adam_limit()
    masked = u * where(positive(u * G), sp.Integer(1), sp.Integer(0))
    if sp.simplify(dw + u) == 0:
        flow = -limit
    elif sp.simplify(dw.subs(sp.sign(G), P) + P * sp.Abs(u)) == 0:
        flow = -sp.sign(G) * sp.Abs(limit)
    elif sp.simplify(dw + masked) == 0:
        flow = -limit * where(positive(limit * G), sp.Integer(1), sp.Integer(0))
    else:
        raise ValueError(f"{rule.__name__}'s step is none of u, sign(g) |u|, u 1[u g > 0] with Adam's u")
    return {"w": flow, "m": sp.limit(sp.expand(dm), H, 0, "+"), "v": sp.limit(sp.expand(dv), H, 0, "+")}


def sliding_rates() -> tuple[sp.Expr, sp.Expr]:
    """(dL/dt, dH/dt) of a coordinate on its surface g = 0: Filippov allows any w' = -theta |k| - Phi, theta in [-1, 1].

    Neither depends on theta: what the flow picks on the surface does not matter to the theorem.
    """
    theta = sp.Symbol("theta", real=True)
    loss = G * (-theta * sp.Abs(K) - PHI)
    return loss.subs(G, 0), (loss + K * (G - PSI)).subs(G, 0)
