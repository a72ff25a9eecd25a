"""Runs of Adam, Cautious and Grams: who wins single steps how often (G2), who is faster on a quadratic (G11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.descend import descend
from reference.ops import Array
from reference.problems import Problem, quadratic
from reference.theory.descent import OPTIONS, RULES, duel


@dataclass(frozen=True)
class Wins:
    """Over the states of one run: how often each of two single steps from the same state had the lower loss."""

    grams: int
    cautious: int
    tie: int  # both the same step: every coordinate of u agrees with g

    @property
    def grams_share(self) -> float:
        """Grams' share of the decided steps; nan if there are none."""
        decided = self.grams + self.cautious
        return self.grams / decided if decided else float("nan")


def count_wins(problem: Problem, path: str, *, lr: float, steps: int, noise: float = 0.0, seed: int = 0) -> Wins:
    """Runs `path` ("Adam", "Cautious" or "Grams") on the problem from its start. At each of its states a Grams and a
    cautious step (without rescaling, same lr, same possibly noisy gradient) compete for the lower noiseless loss."""
    if path not in RULES:
        raise ValueError(f"path must be one of {', '.join(RULES)}, got {path!r}")
    run = descend(RULES[path], problem, problem.start, steps=steps, lr=lr, noise=noise, seed=seed, **OPTIONS[path])
    score = [0, 0, 0]
    for w, g, state in zip(run.w[:-1], run.g, run.states[:-1], strict=True):
        pair = duel(w, g, state)
        gap = float(problem.f(w - lr * pair.grams) - problem.f(w - lr * pair.cautious)) if pair.e_norm else 0.0
        score[0 if gap < 0 else 1 if gap > 0 else 2] += 1
    return Wins(*score)


# A run crosses the goal and swings out again; and long after, when v has decayed, at some lrs the loss jumps once more.
HOLD = 50


@dataclass(frozen=True)
class Race:
    """Steps until f <= tol f(w_0), and stays so for `HOLD` steps, for each lr; inf: not within the budget."""

    lrs: np.ndarray  # (n,)
    steps: dict[
        str, np.ndarray
    ]  # rule -> (n,), or (tolerances, n) where several were asked for; median over the starts

    def best(self, name: str) -> np.ndarray:
        """Steps at this rule's own best lr: a number, or one for each tolerance."""
        return self.steps[name].min(-1)

    def best_lr(self, name: str) -> np.ndarray:
        """The lr of `best`."""
        return self.lrs[self.steps[name].argmin(-1)]


def race(
    problem: Problem,
    lrs: Array,
    *,
    budget: int,
    tol: Array,
    noise: float = 0.0,
    starts: int = 16,
    seed: int = 0,
    rules: tuple[str, ...] = ("Adam", "Grams"),
    **hyper: Any,
) -> Race:
    """Runs rules on a quadratic problem: all lrs and starts at once, as one array (lr, start, dim).

    The starts are drawn from N(0, I) by `seed`: from `problem.start` = (1, ..., 1) all coordinates of a diagonal quadratic
    would move alike, and one lucky lr would solve them all. noise: standard deviation of Gaussian noise on every gradient
    entry. Every rule sees the same starts and the same noise; the loss is the noiseless one. tol: one tolerance or several,
    all met along the same runs.
    """
    lrs, tols = np.asarray(lrs, dtype=np.float64), np.asarray(tol, dtype=np.float64)
    a = np.stack([problem.grad(e) for e in np.eye(problem.dim)])  # the Hessian; symmetric
    out = {}
    for name in rules:
        rng = np.random.default_rng(seed)
        start = rng.standard_normal((starts, problem.dim))
        goal = tols[..., None, None] * (start * (start @ a)).sum(axis=1) / 2
        w = np.broadcast_to(start, (len(lrs), *start.shape)).copy()
        rule, state = RULES[name], RULES[name].init(w)
        held = np.zeros((*tols.shape, *w.shape[:2]))
        reached = np.full_like(held, np.inf)
        for t in range(1, budget + 1):
            g = w @ a
            if noise:
                g = g + noise * rng.standard_normal(start.shape)
            w, state = rule.step(w, g, state, lr=lrs[:, None, None], **OPTIONS[name], **hyper)
            held = np.where((w * (w @ a)).sum(axis=2) / 2 <= goal, held + 1, 0)
            reached = np.where((held == HOLD) & np.isinf(reached), t - HOLD + 1, reached)
        out[name] = np.median(reached, axis=-1)
    return Race(lrs, out)


LRS = np.geomspace(1e-2, 100, 21)


def speedups(
    kappa: float, tols: Array, seeds: Sequence[int], *, turned: bool, budget: int, starts: int = 8, noise: float = 0.0
) -> np.ndarray:
    """Adam's steps over Grams', each at its own best of LRS: (seeds, tolerances), above 1 where Grams is faster.

    Ten eigenvalues from 1 / kappa to 1, evenly spread on a log scale. Every seed draws its own starts and, where turned, its
    own rotation. ValueError where a rule does not arrive within the budget, or is best at an end of the grid.
    """
    out = []
    for seed in seeds:
        problem = quadratic(np.geomspace(1 / kappa, 1, 10).tolist(), seed=seed if turned else None)
        found = race(problem, LRS, budget=budget, tol=tols, noise=noise, starts=starts, seed=seed)
        for name in found.steps:
            steps, lr = found.best(name), found.best_lr(name)
            if not (np.isfinite(steps) & (lr > LRS[0]) & (lr < LRS[-1])).all():
                raise ValueError(
                    f"{name} at kappa {kappa:g}, seed {seed}: steps {steps} at lr {lr}; every tolerance must be met within "
                    f"the budget of {budget}, at an lr inside the grid {LRS[0]:g} to {LRS[-1]:g}"
                )
        out.append(found.best("Adam") / found.best("Grams"))
    return np.array(out)
