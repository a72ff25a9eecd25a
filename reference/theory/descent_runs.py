"""Runs of Adam, Cautious and Grams: who wins single steps how often (G2), who is faster on a quadratic (G11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.descend import descend
from reference.ops import Array
from reference.problems import Problem
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
    steps: dict[str, np.ndarray]  # rule -> (n,) median over the seeds

    def best(self, name: str) -> float:
        """Steps at this rule's own best lr."""
        return float(self.steps[name].min())

    def best_lr(self, name: str) -> float:
        """The lr of `best`."""
        return float(self.lrs[self.steps[name].argmin()])


def race(
    problem: Problem,
    lrs: Array,
    *,
    budget: int,
    tol: float,
    noise: float = 0.0,
    seeds: int = 16,
    rules: tuple[str, ...] = ("Adam", "Grams"),
    **hyper: Any,
) -> Race:
    """Runs rules on a quadratic problem: all lrs and seeds at once, as one array (lr, seed, dim).

    Every seed has its own start, drawn from N(0, I): from `problem.start` = (1, ..., 1) all coordinates of a diagonal
    quadratic would move alike, and one lucky lr would solve them all. noise: standard deviation of Gaussian noise on
    every gradient entry. Every rule sees the same starts and the same noise; the loss is the noiseless one.
    """
    lrs = np.asarray(lrs, dtype=np.float64)
    a = np.stack([problem.grad(e) for e in np.eye(problem.dim)])  # the Hessian; symmetric
    out = {}
    for name in rules:
        rng = np.random.default_rng(0)
        start = rng.standard_normal((seeds, problem.dim))
        goal = tol * (start * (start @ a)).sum(axis=1) / 2
        w = np.broadcast_to(start, (len(lrs), *start.shape)).copy()
        rule, state = RULES[name], RULES[name].init(w)
        held, reached = np.zeros(w.shape[:2]), np.full(w.shape[:2], np.inf)
        for t in range(1, budget + 1):
            g = w @ a
            if noise:
                g = g + noise * rng.standard_normal(start.shape)
            w, state = rule.step(w, g, state, lr=lrs[:, None, None], **OPTIONS[name], **hyper)
            held = np.where((w * (w @ a)).sum(axis=2) / 2 <= goal, held + 1, 0)
            reached = np.where((held == HOLD) & np.isinf(reached), t - HOLD + 1, reached)
        out[name] = np.median(reached, axis=1)
    return Race(lrs, out)
