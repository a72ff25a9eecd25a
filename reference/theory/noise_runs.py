"""Monte Carlo beside `reference.theory.gradient_noise`: the rules' own `step`, on many chains at once.

A chain is one coordinate. The chains of one run are the entries of one array, so that Cautious' rescaling, a mean
over the tensor, is a mean over the chains: that of a large tensor whose coordinates are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Estimate:
    value: float
    error: float  # one standard error


@dataclass(frozen=True)
class NoiseRun:
    """Displacements of a rule under g = snr + noise, in units of lr."""

    drift: Estimate  # mean displacement per step
    variance: Estimate  # long-run variance per step: sum over k of cov(u_t, u_{t+k})


def simulate(
    rule: ModuleType,
    snr: float,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    chains: int = 4000,
    steps: int = 1000,
    window: int = 100,
    warm_up: int = 300,
    seed: int = 0,
    **hyper: Any,
) -> NoiseRun:
    """`steps` steps of `chains` coordinates after `warm_up` steps that are not counted (v starts at its expectation).

    Chains come in pairs with opposite noise: what is odd in the noise drops out of the mean, so its error, taken over
    the pairs, is small even where the signal is a hundredth of the noise. The long-run variance comes from sums over
    `window` steps of the first half of the chains: their variance and twice the covariance of neighbours, over
    `window`, which is right as long as `window` is many times 1 / (1 - beta1). It holds v's own fluctuation too,
    unless beta2 is very near 1.
    """
    if chains % 2 or chains < 4 or steps % window or steps < 2 * window:
        raise ValueError(
            f"chains must be even and >= 4, steps a multiple of window and >= 2 window, got {chains}, {steps}, {window}"
        )
    rng = np.random.default_rng(seed)
    w = np.zeros(chains)
    state = rule.init(w)._replace(t=10**9, m=w + snr, v=w + 1 + snr**2)
    sums, marks = [], [w]
    for t in range(1, warm_up + steps + 1):
        half = rng.standard_normal(chains // 2)
        g = snr + np.concatenate([half, -half])
        w, state = rule.step(
            w, g, state, lr=-1.0, beta1=beta1, beta2=beta2, eps=0.0, **hyper
        )  # -1: w is the displacement
        if t == warm_up:
            marks = [w]
        elif t > warm_up and (t - warm_up) % window == 0:
            sums.append(w - marks[-1])
            marks.append(w)
    pairs = (marks[-1] - marks[0]) / steps
    pairs = (pairs[: chains // 2] + pairs[chains // 2 :]) / 2
    block = np.array(sums)[:, : chains // 2]
    block = block - block.mean()
    each = ((block**2).mean(axis=0) + 2 * (block[1:] * block[:-1]).mean(axis=0)) / window
    return NoiseRun(
        Estimate(float(pairs.mean()), float(pairs.std(ddof=1) / np.sqrt(pairs.size))),
        Estimate(float(each.mean()), float(each.std(ddof=1) / np.sqrt(each.size))),
    )


@dataclass(frozen=True)
class BowlRun:
    """Runs on f(w) = w^2 / 2 with noise in the gradient; row t is before step t + 1."""

    loss: np.ndarray  # (steps + 1,) mean over the chains
    error: np.ndarray  # (steps + 1,) its standard error


def noisy_bowl(
    rule: ModuleType,
    lr: float,
    *,
    start: float = 1.0,
    noise: float = 1.0,
    batch: int = 1,
    beta1: float = 0.9,
    beta2: float = 0.999,
    chains: int = 1000,
    steps: int = 2000,
    seed: int = 0,
    **hyper: Any,
) -> BowlRun:
    """f(w) = w^2 / 2 from w = start, gradient w + noise / sqrt(batch) * normal, the same for all rules and lr."""
    if batch < 1 or chains < 2 or steps < 1:
        raise ValueError(f"batch, chains and steps must be at least 1, 2 and 1, got {batch}, {chains}, {steps}")
    rng = np.random.default_rng(seed)
    w = np.full(chains, float(start))
    state = rule.init(w)
    losses = [w**2 / 2]
    for _ in range(steps):
        g = w + noise / np.sqrt(batch) * rng.standard_normal(chains)
        w, state = rule.step(w, g, state, lr=lr, beta1=beta1, beta2=beta2, eps=1e-8, **hyper)
        losses.append(w**2 / 2)
    loss = np.array(losses)
    return BowlRun(loss.mean(axis=1), loss.std(axis=1, ddof=1) / np.sqrt(chains))
