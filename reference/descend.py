"""Runs an update rule of this package on a problem and returns the whole trajectory.

These are the lines that every pseudocode leaves to its caller: the loop, and the gradient at the current point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from reference.problems import Problem


@dataclass(frozen=True)
class Trajectory:
    """A run of T steps in d dimensions; row t is the point *before* step t+1, the last row is where it ended."""

    w: np.ndarray  # (T+1, d) points
    loss: np.ndarray  # (T+1,) the problem's loss at each point (without noise)
    g: np.ndarray  # (T, d) the gradient, with its noise, that step t was given
    states: tuple[Any, ...]  # T+1 states of the rule


def descend(
    rule: ModuleType,
    problem: Problem,
    w0: Any,
    *,
    steps: int,
    lr: float | Callable[[int], float],
    noise: float = 0.0,
    seed: int = 0,
    **hyper: Any,
) -> Trajectory:
    """`steps` steps of `rule` (a module with init and step, say `reference.grams`) on `problem`, from w0, in float64.

    lr: step length per coordinate, or a function of the step's number t = 1, 2, ... that returns it.
    noise: standard deviation of the Gaussian noise added to each gradient entry, drawn from `seed`.
    hyper: what the rule's step takes besides (beta1, beta2, eps, weight_decay ...); an unknown name is a TypeError.
    """
    if steps < 0:
        raise ValueError(f"steps must be a number of steps >= 0, got {steps}")
    rng = np.random.default_rng(seed)
    w = np.array(w0, dtype=np.float64)
    state = rule.init(w)
    ws, gs, states = [w], [], [state]
    for t in range(1, steps + 1):  # "while not converged"
        g = np.asarray(problem.grad(w), dtype=np.float64)  # "g_t = grad f_t(w_{t-1})"
        if noise:
            g = g + noise * rng.standard_normal(g.shape)
        w, state = rule.step(w, g, state, lr=lr(t) if callable(lr) else lr, **hyper)
        ws.append(w)
        gs.append(g)
        states.append(state)
    loss = np.array([float(problem.f(x)) for x in ws])
    return Trajectory(np.array(ws), loss, np.array(gs).reshape(steps, *w.shape), tuple(states))
