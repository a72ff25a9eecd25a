"""The claims that z3 decides, each stated on what the lines return for z3's reals (G1, G3, F3, A1, A8).

Every function takes the rules as modules, so that a module with a planted error can stand in their place, and returns
named `Statement`s for `reference.theory.solver.counterexample`. Where no shape is said one coordinate is meant. That is
enough: the rules of G1, G3, F3 and A1 treat each entry by itself (`separable`), so their sums over coordinates, <g, w' - w>,
dL/dt and dH/dt, are ordered because their terms are.

`t` is how many steps the state has behind it: None for any number, which leaves beta^t a number that only lies in (0, 1],
or an int, with which a counterexample can be run. Past 250 lines because all claims share these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import sympy as sp

from reference import adams, grams
from reference.ops import sqrt
from reference.theory import hamiltonian
from reference.theory.descent import OPTIONS, RULES
from reference.theory.solver import RIGHT, Statement, z3

W, G, M, V, C, B, K, PHI, PSI = z3.Reals("w g m v c B k Phi Psi")
LR, EPS, BETA1, BETA2, ALPHA, BETA, SHARE = z3.Reals("lr eps beta1 beta2 alpha beta share")
HYPER = {"lr": LR, "beta1": BETA1, "beta2": BETA2}
INSIDE = (LR > 0, BETA1 > 0, BETA1 < 1, BETA2 > 0, BETA2 < 1)  # what the hyper-parameters may be
T = z3.Int("t")


def _between(x: Any, bound: Any) -> Any:
    return z3.And(x <= bound, x >= -bound)


def _time(t: int | None) -> Any:
    return T if t is None else t


def _vector(name: str, n: int) -> np.ndarray:
    return np.array(z3.Reals([f"{name}{i}" for i in range(n)]), dtype=object)


def _beside_arrays(hyper: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The same numbers in arrays of length 1: an array can be multiplied by z3's numbers, but not they by an array."""
    return {name: np.array([x], dtype=object) for name, x in hyper.items()}


def _state(rule: ModuleType, t: Any, m: Any, v: Any) -> Any:
    return rule.State(t, m, v, *[None] * (len(rule.State._fields) - 3))  # None: no spectral decay


# G1: one step's first-order decrease


def decrease_order(rules: Mapping[str, ModuleType] = RULES, *, t: int | None = None) -> dict[str, Statement]:
    """Lemma 4.2: g (w' - w) of Grams <= of Cautious <= of Adam from one state, and where the three are equal."""
    given = (*INSIDE, EPS > 0, V >= 0)
    change = {}
    for name, rule in rules.items():
        w, _ = rule.step(W, G, rule.State(_time(t), M, V), **HYPER, eps=EPS, **OPTIONS[name])
        change[name] = G * (w - W)
    agree = change["Adam"] <= 0
    return {
        "Grams <= Cautious": Statement(given, change["Grams"] <= change["Cautious"]),
        "Cautious <= Adam": Statement(given, change["Cautious"] <= change["Adam"]),
        "equal where they agree": Statement(
            (*given, agree), z3.And(change["Grams"] == change["Cautious"], change["Cautious"] == change["Adam"])
        ),
        "strict where they do not": Statement(
            (*given, z3.Not(agree)), z3.And(change["Grams"] < change["Cautious"], change["Cautious"] < change["Adam"])
        ),
    }


def decrease_order_in(n: int, rescale: str) -> dict[str, Statement]:
    """Lemma 4.2 in n coordinates at the first step, for Cautious with this rescaling: see `reference.cautious`."""
    w, g, zero = _vector("w", n), _vector("g", n), np.array([z3.RealVal(0)] * n, dtype=object)
    m = _vector("m", n)
    given = (*INSIDE, EPS > 0)
    change = {}
    for name, rule in RULES.items():
        how = {"rescale": rescale} if name == "Cautious" else {}
        new, _ = rule.step(w, g, rule.State(0, m, zero), **_beside_arrays({**HYPER, "eps": EPS}), **how)
        change[name] = z3.Sum(*(g * (new - w)))
    return {
        "Grams <= Cautious": Statement(given, change["Grams"] <= change["Cautious"]),
        "Cautious <= Adam": Statement(given, change["Cautious"] <= change["Adam"]),
    }


def separable(rule: ModuleType, n: int, **options: Any) -> Statement:
    """Entry by entry a step of n coordinates is the step of one: the new w, m and v, for any state and t."""
    w, g, m, v = (_vector(name, n) for name in "wgmv")
    known = HYPER if rule is adams else {**HYPER, "eps": EPS}
    new, state = rule.step(w, g, _state(rule, T, m, v), **_beside_arrays(known), **options)
    parts = []
    for i in range(n):
        one, after = rule.step(w[i], g[i], _state(rule, T, m[i], v[i]), **known, **options)
        parts += [new[i] == one, state.m[i] == after.m, state.v[i] == after.v]
    return Statement((*INSIDE, EPS > 0), z3.And(*parts))


# G3: the flows


def flow_of_lines(
    rules: Mapping[str, ModuleType] = hamiltonian.RULES, velocity: Any = hamiltonian.velocity
) -> dict[str, Statement]:
    """(w' - w) / lr of each rule's step is `hamiltonian.velocity` at k = Adam's direction, off the surface g = 0; and
    with beta1 = 1 - alpha h, beta2 = 1 - beta h the averages' quotients are the flow's equations at every h = lr."""
    given = (*INSIDE, EPS > 0, V >= 0)
    known = dict(HYPER, eps=EPS)
    k = (W - rules["plain"].step(W, G, rules["plain"].State(T, M, V), **known)[0]) / LR
    out = {}
    for flow, rule in rules.items():
        extra = OPTIONS["Cautious"] if flow == "cautious" else {}
        w, _ = rule.step(W, G, rule.State(T, M, V), **known, **extra)
        out[f"{flow}: w"] = Statement((*given, G != 0), (w - W) / LR == velocity(flow, G, k))
        betas = {"beta1": 1 - ALPHA * LR, "beta2": 1 - BETA * LR}
        _, after = rule.step(W, G, rule.State(T, M, V), lr=LR, eps=EPS, **betas, **extra)
        quotients = z3.And((after.m - M) / LR == ALPHA * (G - M), (after.v - V) / LR == BETA * (G**2 - V))
        out[f"{flow}: m and v"] = Statement((LR > 0, EPS > 0), quotients)
    return out


def flow_rates(
    velocity: Any = hamiltonian.velocity, *, push: bool = True, friction: bool = True
) -> dict[str, Statement]:
    """Theorem 4.6 for free g, k, Phi, Psi. push, friction: whether <g, Phi> >= 0 and <k, Psi> >= 0 are assumed."""
    given = (*[G * PHI >= 0] * push, *[K * PSI >= 0] * friction)
    loss = {flow: G * (velocity(flow, G, K) - PHI) for flow in hamiltonian.FLOWS}
    energy = {flow: loss[flow] + K * (G - PSI) for flow in loss}
    out = {"plain: H keeps to its balance": Statement(given, energy["plain"] == -G * PHI - K * PSI)}
    for flow in loss:
        out[f"{flow}: L falls"] = Statement(given, loss[flow] <= 0)
        out[f"{flow}: H falls"] = Statement(given, energy[flow] <= 0)
    for fast, slow in (("grams", "cautious"), ("cautious", "plain")):
        out[f"{fast} falls as fast as {slow}"] = Statement(
            given, z3.And(loss[fast] <= loss[slow], energy[fast] <= energy[slow])
        )
    out["grams: Delta_L <= -Delta_L"] = Statement(given, loss["grams"] <= -loss["plain"] - 2 * G * PHI)
    return out


def surface_rates(velocity: Any = hamiltonian.velocity) -> dict[str, Statement]:
    """Both rates on a surface g = 0, for every w' that Filippov allows there: any mean of the velocities on its two sides.

    The first statement lets that mean be taken at g = 1 and g = -1: a side's velocity depends on g's sign alone.
    """
    near, far = z3.Reals("near far")
    out = {}
    for flow in hamiltonian.FLOWS:
        out[f"{flow}: a side has one velocity"] = Statement(
            (near * far > 0,), velocity(flow, near, K) == velocity(flow, far, K)
        )
        up, down = velocity(flow, z3.RealVal(1), K), velocity(flow, z3.RealVal(-1), K)
        w_dot = SHARE * up + (1 - SHARE) * down - PHI
        given = (SHARE >= 0, SHARE <= 1, G == 0, K * PSI >= 0)
        out[f"{flow}: L stands"] = Statement(given, G * w_dot == 0)
        out[f"{flow}: H falls"] = Statement(given, G * w_dot + K * (G - PSI) <= 0)
    return out


def adam_energy(velocity: Any = hamiltonian.velocity, *, bounded: bool = True) -> dict[str, Statement]:
    """Adam's own H along each flow falls if beta <= 4 alpha (assumed where `bounded`); and beyond, on a flat stretch, it
    rises for every alpha, beta and eps, at any m that is not 0 and sqrt(v) = 8 alpha eps / (beta - 4 alpha)."""
    system = hamiltonian.SYSTEMS["Adam"]
    names = (hamiltonian.G, hamiltonian.M, hamiltonian.V, hamiltonian.ALPHA, hamiltonian.BETA, hamiltonian.EPS)

    def read(expression: Any, *values: Any) -> Any:
        return sp.lambdify(names, expression, modules=[{"sqrt": sqrt}])(*values)

    def rate(flow: str, *values: Any) -> Any:
        moments = (sp.diff(system.kinetic, x) * rhs for x, rhs in system.equations.items())
        return values[0] * velocity(flow, values[0], read(system.k, *values)) + sum(read(e, *values) for e in moments)

    given = (ALPHA > 0, BETA > 0, EPS > 0, V > 0, *[BETA <= 4 * ALPHA] * bounded)
    out = {
        f"{flow}: H falls": Statement(given, rate(flow, G, M, V, ALPHA, BETA, EPS) <= 0) for flow in hamiltonian.FLOWS
    }
    beyond, root = (ALPHA > 0, BETA > 4 * ALPHA, EPS > 0, M != 0), 8 * ALPHA * EPS / (BETA - 4 * ALPHA)
    for flow in hamiltonian.FLOWS:
        flat = rate(flow, z3.RealVal(0), M, root**2, ALPHA, BETA, EPS)
        out[f"{flow}: H rises beyond"] = Statement(beyond, flat > 0)
    return out


# F3: the state is bounded


def state_bounds(rule: ModuleType = grams) -> dict[str, Statement]:
    """The induction steps of |m_t| <= (1 - beta1^t) B and v_t <= (1 - beta2^t) B^2 where |g| <= B, v_t >= 0, and of

    m_t^2 <= C v_t with C = (1 - beta1)^2 beta2 / ((1 - beta2) (beta2 - beta1^2)), for beta1^2 < beta2.
    """
    _, after = rule.step(W, G, _state(rule, T, M, V), **HYPER)
    bound_m, bound_v = (1 - BETA1**T) * B, (1 - BETA2**T) * B**2
    next_m, next_v = (1 - BETA1 ** (T + 1)) * B, (1 - BETA2 ** (T + 1)) * B**2
    bounded = (*INSIDE, B >= 0, _between(G, B))
    c = ratio_constant()
    return {
        "m": Statement((*bounded, _between(M, bound_m)), _between(after.m, next_m)),
        "v": Statement((*bounded, V >= 0, bound_v - V >= 0), z3.And(after.v >= 0, after.v <= next_v)),
        "m^2 <= C v": Statement((*INSIDE, BETA1**2 < BETA2, V >= 0, c * V - M**2 >= 0), after.m**2 <= c * after.v),
    }


def ratio_constant() -> Any:
    """C of m^2 <= C v, in beta1 and beta2; `adaptive_spikes.ratio_bound` is its root."""
    return (1 - BETA1) ** 2 * BETA2 / ((1 - BETA2) * (BETA2 - BETA1**2))


def ratio_constant_is_least(rule: ModuleType = grams) -> Statement:
    """No smaller constant survives every step: from m^2 = c v with 0 < c < C the gradient of the proof's equality,

    g = m beta2 (1 - beta1) / (beta1 (1 - beta2) c), leads to m'^2 > c v'.
    """
    _, after = rule.step(W, BETA2 * (1 - BETA1) * M / (BETA1 * (1 - BETA2) * C), _state(rule, T, M, V), **HYPER)
    given = (*INSIDE, BETA1**2 < BETA2, M > 0, C > 0, ratio_constant() > C, M**2 == C * V)
    return Statement(given, after.m**2 > C * after.v)


# A1: the arctangent


def arctan_step(rule: ModuleType = adams, *, as_released: bool = False, t: int | None = None) -> dict[str, Statement]:
    """A step's bound for every state and, without its edge, for states that a run can reach; and what a gradient scaled
    by c does, from the state scaled with it."""

    def step(g: Any, m: Any, v: Any) -> tuple[Any, Any]:
        how = {"scalar_vector_weight_decay": 0, "use_spectral_decay": False, "as_released": as_released}
        w, after = rule.step(W, g, _state(rule, _time(t), m, v), **HYPER, **how)
        return (W - w) / LR, after

    moved, after = step(G, M, V)
    scaled, next_scaled = step(C * G, C * M, C**2 * V)
    limit = RIGHT / (1 - BETA1 ** (_time(t) + 1)) if as_released else RIGHT
    given = (*INSIDE, V >= 0)
    reached = z3.Implies(V == 0, M == 0)
    still = z3.Implies(after.v == 0, after.m == 0)
    kept = z3.And(next_scaled.m == C * after.m, next_scaled.v == C**2 * after.v)
    origin, _ = step(z3.RealVal(0), z3.RealVal(0), z3.RealVal(0))
    return {
        "at most": Statement(given, _between(moved, limit)),
        "less than": Statement((*given, reached), z3.And(moved < limit, moved > -limit, after.v >= 0, still)),
        "c > 0 changes nothing": Statement((*given, C > 0), z3.And(scaled == moved, kept)),
        "c < 0 turns it round": Statement((*given, C < 0), z3.And(scaled == -moved, kept)),
        "no step without a gradient": Statement(INSIDE, origin == 0),
    }


# A8: a stack of matrices


def stack_of_matrices(
    shape: tuple[int, int, int] = (2, 2, 2), rule: ModuleType = adams, *, t: int | None = None
) -> Statement:
    """A step of a stack (B, M, N), from any state, is the step of each of its matrices: w, m, n, u and sigma."""
    size = int(np.prod(shape))
    w, g, m, v = (_vector(name, size).reshape(shape) for name in "wgmv")
    u, sigma = _vector("u", shape[0] * shape[1]).reshape(shape[:2]), _vector("sigma", shape[0])
    hyper = _beside_arrays({**HYPER, "weight_decay": ALPHA})
    new, state = rule.step(w, g, rule.State(_time(t), m, v, u, sigma), **hyper)
    parts = []
    for b in range(shape[0]):
        one, after = rule.step(w[b], g[b], rule.State(_time(t), m[b], v[b], u[b], sigma[b]), **hyper)
        pairs = ((new[b], one), *((getattr(state, name)[b], getattr(after, name)) for name in ("m", "v", "u", "sigma")))
        parts += [x == y for left, right in pairs for x, y in zip(np.ravel(left), np.ravel(right), strict=True)]
    return Statement((*INSIDE, ALPHA > 0, *(x >= 0 for x in v.flat)), z3.And(*parts))
