"""06: the first picture of each half."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.figures import COLORS


def angle(bounds: Mapping[float, float]) -> Figure:
    """A step over the ratio |m| / sqrt(n), by Adam and by Adams; `bounds`: beta2 to the ratio that no gradients exceed."""
    ratio = np.linspace(0, 8, 400)
    fig, ax = plt.subplots()
    ax.plot(ratio, ratio, color=COLORS["Adam"], label="Adam: the ratio itself")
    ax.plot(ratio, np.arctan(ratio), color=COLORS["Adams"], lw=2.5, label="Adams: its angle")
    ax.axhline(np.pi / 2, color="0.4", ls=":")
    ax.text(7.9, np.pi / 2 + 0.1, r"$\pi/2$", ha="right", color="0.3")
    for (beta2, bound), x, y in zip(bounds.items(), (1.3, 5.2), (5.2, 4.3), strict=True):
        ax.axvline(bound, color="0.6", ls="--")
        ax.text(x, y, f"the bound:\n{bound:.3f}\n($\\beta_2$ = {beta2})", va="top", color="0.3")
    ax.set(xlabel=r"$|\hat m| / \sqrt{\hat n}$", ylabel="step length, in learning rates")
    ax.set_title("A step that cannot exceed π/2, and how far Adam's goes")
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, 1.0))
    return fig


def spike(runs: Mapping[str, tuple[Any, str]], lr: float) -> Figure:
    """|w| and what shrinks meanwhile, for runs of `adaptive_spikes.run_quadratic` and the kind of line of each."""
    fig, (top, low) = plt.subplots(2, 1, figsize=(7.2, 5.6), sharex=True)
    for name, (run, line) in runs.items():
        shade = COLORS.get(name, "0.5")
        top.semilogy(np.abs(run.trajectory.w[:, 0]) / lr, line, color=shade, label=name)
        low.semilogy(run.root, line, color=shade)
    low.axhline(lr / 38, color="0.3", ls="--")
    low.text(20, 1e-4, "below the dashed line the minimum repels", color="0.3")
    low.set(xlabel="step", ylabel=r"$\sqrt{\hat n}$", ylim=(5e-5, 2), title="What shrinks meanwhile")
    top.set(ylabel="|w|, in learning rates")
    top.set_ylim(top=1e6)
    top.set_title("At rest, then not: no noise, no change of the problem")
    top.legend(loc="lower left")
    return fig
