"""05: three rules walking on one sequence of noisy gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.figures import COLORS


def walk(rule: Any, gradients: np.ndarray, **hyper: Any) -> np.ndarray:
    """How far a rule has gone after each gradient, in units of lr, with a second moment that stands still at 1."""
    w, state = np.zeros(1), rule.init(np.zeros(1))._replace(t=10**9, v=np.ones(1))
    gone = [0.0]
    for g in gradients:
        w, state = rule.step(w, np.array([g]), state, lr=-1.0, beta2=1 - 1e-9, **hyper)
        gone.append(float(w[0]))
    return np.array(gone)


def draw(gradients: np.ndarray, walks: Mapping[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(2, 1, figsize=(7.2, 4.6), sharex=True, height_ratios=(1, 2))
    axes[0].bar(np.arange(1, len(gradients) + 1), gradients, color="0.6")
    axes[0].set(
        ylabel="gradient", title="The same 60 noisy gradients (top), and how far each rule walks on them (bottom)"
    )
    for name, gone in walks.items():
        axes[1].plot(gone, color=COLORS[name], label=name)
    axes[1].set(xlabel="step", ylabel="distance walked, in units of lr")
    axes[1].legend()
    return fig
