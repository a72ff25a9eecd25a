"""04: losses and their PL ratios, and the plane of learning rate and eps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import COLORS


def three_losses(x: np.ndarray, curves: Mapping[str, tuple[np.ndarray, np.ndarray, str]], lowest: float) -> Figure:
    """Each loss, named with a note, above its PL ratio; `lowest`: what is proved of the first one's."""
    fig, axes = plt.subplots(2, 3, figsize=(9.5, 4.8), sharex=True)
    for (name, (f, ratio, note)), column in zip(curves.items(), axes.T, strict=True):
        column[0].plot(x, f, color="black")
        column[0].set(title=f"{name}\n{note}", ylabel="loss f(w)")
        column[1].semilogy(x, np.maximum(ratio, 1e-6), color=COLORS["Grams"])
        column[1].set(xlabel="w", ylabel="PL ratio", ylim=(1e-5, 30))
    axes[1, 0].axhline(lowest, color="black", linestyle=":", label=f"lowest: {lowest}")
    axes[1, 0].legend()
    return fig


def values(problem: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A loss of one weight and its squared slope at each point of x."""
    f = np.array([float(problem.f(np.array([p]))) for p in x])
    return f, np.array([float(problem.grad(np.array([p]))[0]) for p in x]) ** 2


def under_bound(ax: Axes, gap: np.ndarray, bound: np.ndarray, first: int) -> None:
    """Grams' loss above the minimum over the steps, below the dashed bound, which it breaks first at step `first` (0: never)."""
    steps = np.arange(1, gap.size + 1)
    ax.loglog(steps, np.maximum(gap, 1e-16), color=COLORS["Grams"], lw=0.8)
    ax.loglog(steps, bound, "k--")
    title = f"broken first at T = {first}" if first else "the bound holds so far"
    ax.set(xlabel="steps T", ylabel="loss above the minimum", ylim=(1e-16, 30), title=title)
    ax.label_outer()


def plane(lr_axis: np.ndarray, eps_axis: np.ndarray, first_failure: np.ndarray, highest: float) -> Figure:
    """First number of steps that breaks the bound, over both axes; hatched: between eps = lr and eps = `highest` it is safe."""
    first = np.where(first_failure > 0, first_failure, np.nan).reshape(eps_axis.size, lr_axis.size)
    fig, ax = plt.subplots(figsize=(7.2, 4.6))
    mesh = ax.pcolormesh(eps_axis, lr_axis, np.log10(first).T, cmap="cividis", shading="nearest")
    never = np.where(np.isnan(first), 1, np.nan).T
    ax.pcolormesh(eps_axis, lr_axis, never, cmap="Greys", vmin=0, vmax=8, shading="nearest")
    e = np.array([10**-2.25, highest])
    ax.fill_between(e, 10**-2.12, e, facecolor="none", edgecolor=COLORS["Cautious"], hatch="//", lw=2)
    ax.set(xscale="log", yscale="log", xlabel="eps", ylabel="learning rate", ylim=(10**-2.12, 13))
    ax.set_title("First T that breaks Theorem 4.15 for Grams on w^2/2 (light grey: none up to 10,000)")
    ax.text(2e-8, 0.018, "not broken yet:\nthe bound is still high", fontsize=9)
    fig.colorbar(mesh, label="log10 of the first failing T")
    return fig


def training(softmax: Mapping[str, Any], mlp: Mapping[str, Any], proved: float) -> Figure:
    """Left the PL ratio over the steps, right over the loss; each maps an optimizer to (run, ratio)."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.0))
    for name, (run, ratio) in softmax.items():
        left.semilogy(run.step, ratio, "o-", ms=3, color=COLORS[name], label=name)
    for name, (run, ratio) in mlp.items():
        right.loglog(run.loss, ratio, "o-", ms=3, lw=0.5, color=COLORS[name], label=name)
    left.axhline(proved, color="black", ls="--")
    left.text(0, proved * 1.08, f"proved for all points: {proved}", fontsize=8)
    left.set(
        xlabel="step", ylabel="PL ratio of the full loss", ylim=(0.007, 1), title="softmax regression with a penalty"
    )
    right.set(xlabel="loss (training goes to the right)", title="16 tanh units, no penalty: it sinks with the loss")
    right.invert_xaxis()
    left.legend(fontsize=9, loc="upper left")
    right.legend(fontsize=9, loc="upper right")
    return fig
