"""Runs in a plane of two weights: contours, arrows, paths. A problem has f(w); a run has w, loss (`reference.descend`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import COLORS

Span = tuple[float, float]


def contours(ax: Axes, problem: Any, xs: Span, ys: Span, title: str = "", levels: np.ndarray | None = None) -> None:
    """Grey lines of equal loss; without `levels` twelve, from the least to the greatest in sight."""
    x, y = np.meshgrid(np.linspace(*xs, 121), np.linspace(*ys, 121))
    z = np.array([problem.f(p) for p in np.stack([x.ravel(), y.ravel()], axis=1)]).reshape(x.shape)
    levels = np.geomspace(z.min() + 1e-3, z.max(), 12) if levels is None else levels
    ax.contour(x, y, z, levels=levels, colors="0.75", linewidths=0.7)
    ax.set(xlabel="first weight", ylabel="second weight", title=title, xlim=xs, ylim=ys)
    ax.grid(visible=False)


def arrow(ax: Axes, start: np.ndarray, by: np.ndarray, color: str, width: float) -> None:
    look = {"arrowstyle": "-|>", "color": color, "lw": width, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (start + by).tolist(), start.tolist(), arrowprops=look)


def paths(problem: Any, runs: Mapping[str, Any], xs: Span, ys: Span, title: str, floor: float = 1e-16) -> Figure:
    """Left the runs' paths from their common start (a square), right their losses above the minimum."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    contours(left, problem, xs, ys, title)
    for name, run in runs.items():
        left.plot(*run.w.T, ".-", color=COLORS[name], ms=4, lw=1.3, label=name)
        right.semilogy(np.maximum(run.loss - problem.minimum, floor), color=COLORS[name], label=name)
    left.plot(*next(iter(runs.values())).w[0], "ks", mfc="none", ms=8)
    right.set(xlabel="step", ylabel="loss above the minimum", title="How the loss falls")
    right.legend()
    return fig


def one_state(
    rules: Mapping[str, Any], problem: Any, near: tuple[Any, int], far: tuple[Any, int]
) -> tuple[Figure, dict[str, Any]]:
    """What each rule subtracts from one state, with lr = 1; the figure and its numbers.

    rules: name to (module, hyper-parameters). near: a run in the plane of `problem`, and the step whose state is taken: drawn
    as arrows. far: the same in many dimensions: drawn as bars, each times the sign of the gradient.
    """

    def subtracted(run: Any, t: int) -> dict[str, np.ndarray]:
        zero = np.zeros_like(run.w[t])
        return {k: -rule.step(zero, run.g[t], run.states[t], lr=1.0, **hyper)[0] for k, (rule, hyper) in rules.items()}

    (plane_run, here), (many_run, there) = near, far
    two, many = subtracted(plane_run, here), subtracted(many_run, there)
    at, g, sign = plane_run.w[here], plane_run.g[here], np.sign(many_run.g[there])
    fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), width_ratios=(1, 1.25))
    contours(left, problem, (-2.0, 0.6), (0.4, 2.8), "Steps from one state; black: -g")
    left.plot(*plane_run.w[: here + 1].T, ".-", color="0.5", lw=1)
    arrow(left, at, -0.5 * g / np.linalg.norm(g), "k", 1.2)
    for name, width in zip(rules, (5, 3, 2), strict=True):
        arrow(left, at, -0.7 * two[name], COLORS[name], width)
    left.plot([at[0], at[0], None, -9, 9], [-9, 9, None, at[1], at[1]], "k:", lw=0.7)
    for i, (name, d) in enumerate(many.items()):
        right.bar(np.arange(d.size) + 0.28 * (i - 1), d * sign, 0.28, color=COLORS[name], label=name)
    right.axhline(0, color="k", lw=0.8)
    right.set(xlabel="coordinate", ylabel="step times sign(g), units of lr", title="Above 0: downhill. Below: uphill")
    right.legend(loc="lower right", fontsize=8)
    return fig, {"weights": at, "gradient": g, **two, "twelve": many}
