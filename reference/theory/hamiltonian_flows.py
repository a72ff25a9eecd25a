"""The flows of `reference.theory.hamiltonian` followed by SciPy, and the optimizer itself at step size h (G3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import sympy as sp

from reference.extras import needs
from reference.ops import Array
from reference.problems import Problem
from reference.theory.hamiltonian import RULES, SYSTEMS, G, V, velocity

with needs("theory", __name__):
    from scipy.integrate import solve_ivp


@dataclass(frozen=True)
class Path:
    """A flow followed by SciPy: row i is time t[i]."""

    t: np.ndarray  # (n,)
    w: np.ndarray  # (n, d)
    momentum: np.ndarray  # (n, d) s, or Adam's m
    loss: np.ndarray  # (n,) L
    energy: np.ndarray  # (n,) H
    evaluations: int  # of the right-hand side


def integrate(
    problem: Problem,
    system: str,
    flow: str,
    *,
    w0: Sequence[float],
    time: float,
    constants: dict[sp.Symbol, float],
    width: float = 0.0,
    points: int = 401,
    tolerance: float = 1e-8,
    method: str = "RK45",
) -> Path:
    """Follows `flow` of SYSTEMS[system] on the problem from w0 at rest (momentum 0; Adam's v = g^2).

    width: 0 takes sign(g) as it is; > 0 puts tanh(g / width) in its place (Grams), and a stiff method can slide.
    constants: numbers for the system's symbols (alpha, beta, gamma ...).
    RuntimeError if SciPy gives up.
    """
    chosen = SYSTEMS[system]
    names = list(chosen.equations)
    known = [(key, sp.Float(value)) for key, value in constants.items()]
    used = set().union(*(e.free_symbols for e in (chosen.kinetic, chosen.phi, *chosen.equations.values())))
    missing = used - {G, *names} - set(constants)
    if missing:
        raise ValueError(
            f"constants must give {sorted(map(str, missing))} for {system}, got {sorted(map(str, constants))}"
        )

    def numeric(e: sp.Expr) -> Callable[..., np.ndarray]:
        f = sp.lambdify([G, *names], e.subs(known), "numpy")
        return lambda g, *x: np.broadcast_to(f(g, *x), g.shape)

    force, phi, kinetic = numeric(chosen.k), numeric(chosen.phi), numeric(chosen.kinetic)
    motion = [numeric(chosen.equations[x]) for x in names]

    def rhs(_: float, y: np.ndarray) -> np.ndarray:
        w, *x = y.reshape(len(names) + 1, -1)
        g = problem.grad(w)
        k = force(g, *x)
        dw = -np.tanh(g / width) * np.abs(k) if width and flow == "grams" else velocity(flow, g, k)
        return np.concatenate([dw - phi(g, *x), *(f(g, *x) for f in motion)])

    first = np.asarray(w0, dtype=np.float64)
    start = [first] + [problem.grad(first) ** 2 if x is V else np.zeros_like(first) for x in names]
    out = solve_ivp(
        rhs,
        (0, time),
        np.concatenate(start),
        t_eval=np.linspace(0, time, points),
        rtol=tolerance,
        atol=tolerance,
        method=method,
    )
    if not out.success:
        raise RuntimeError(
            f"solve_ivp stopped at t = {out.t[-1]:g} of {time:g}: {out.message}; try width > 0 or a stiff method"
        )
    y = out.y.T.reshape(points, len(names) + 1, -1)
    loss = np.array([float(problem.f(w)) for w in y[:, 0]])
    stored = np.array([kinetic(*row).sum() for row in y])  # K has no g in it: w stands in its place
    return Path(out.t, y[:, 0], y[:, 1], loss, loss + stored, int(out.nfev))


@dataclass(frozen=True)
class Discrete:
    """n runs of the optimizer at step size h: L and H = L + sum m^2 / (2 alpha (sqrt v + eps)) after each step."""

    h: float
    w: np.ndarray  # (steps+1, n, d)
    loss: np.ndarray  # (steps+1, n)
    energy: np.ndarray  # (steps+1, n)

    def worst(self, of: str) -> float:
        """The largest increase of "loss" or "energy" in one step, averaged over the runs."""
        return float(self._increases(of).max(axis=0).mean())

    def total(self, of: str) -> float:
        """All increases of "loss" or "energy" of a run together, averaged over the runs."""
        return float(self._increases(of).sum(axis=0).mean())

    def _increases(self, of: str) -> np.ndarray:
        return np.maximum(np.diff({"loss": self.loss, "energy": self.energy}[of], axis=0), 0)


def discretise(problem: Problem, flow: str, *, w0: Array, time: float, h: float, alpha: float, beta: float) -> Discrete:
    """time / h steps of reference.adam, cautious (without rescaling) or grams on a quadratic problem from w0's rows.

    lr = h, beta1 = 1 - alpha h, beta2 = 1 - beta h, eps = 1e-8; from m = 0, v = g^2 and a t so late that no bias
    correction is left, which is where the flow of `integrate` starts.
    """
    if not (0 < alpha * h < 1 and 0 < beta * h < 1):
        raise ValueError(f"h must keep alpha h and beta h in (0, 1), got {alpha * h:g} and {beta * h:g}")
    rule, eps, extra = RULES[flow], 1e-8, {"rescale": "none"} if flow == "cautious" else {}
    a = np.stack([problem.grad(e) for e in np.eye(problem.dim)])  # the Hessian
    w = np.atleast_2d(np.asarray(w0, dtype=np.float64))
    state = rule.State(10**12, np.zeros_like(w), (w @ a) ** 2)
    points, loss, energy = [], [], []
    steps = round(time / h)
    for n in range(steps + 1):
        points.append(w)
        loss.append((w * (w @ a)).sum(axis=1) / 2)
        energy.append(loss[-1] + (state.m**2 / (2 * alpha * (np.sqrt(state.v) + eps))).sum(axis=1))
        if n < steps:
            w, state = rule.step(w, w @ a, state, lr=h, beta1=1 - alpha * h, beta2=1 - beta * h, eps=eps, **extra)
    return Discrete(h, np.array(points), np.array(loss), np.array(energy))


def order(h: Array, values: Sequence[float]) -> float:
    """The slope of log(values) against log(h): values ~ h^order."""
    if min(values) <= 0:
        raise ValueError(f"an order needs values > 0, got the smallest {min(values):g}")
    return float(np.polyfit(np.log(h), np.log(values), 1)[0])
