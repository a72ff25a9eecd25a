"""03: the three flows of a rolling ball as paths, losses and energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import COLORS

COLOR = {"plain": COLORS["Adam"], "cautious": COLORS["Cautious"], "grams": COLORS["Grams"]}
LABEL = {"plain": "plain", "cautious": "Cautious", "grams": "Grams"}


def contours(ax: Axes, problem: Any, half: float = 1.15) -> None:
    x = np.linspace(-half, half, 81)
    z = [[problem.f(np.array([a, b])) for a in x] for b in x]
    ax.contour(x, x, z, levels=np.geomspace(0.02, 3, 8), colors="0.8", linewidths=0.8)
    ax.set(xlabel="$w_1$", ylabel="$w_2$", aspect="equal")


def three(problem: Any, paths: Mapping[str, Any], low: float | None = 1e-7) -> tuple[Figure, dict[str, np.ndarray]]:
    """Paths in the plane, losses and energies of flows (`hamiltonian_flows.integrate`); and the numbers of the latter two."""
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.6))
    contours(axes[0], problem)
    for name, p in paths.items():
        axes[0].plot(*p.w.T, color=COLOR[name], lw=1.8, label=LABEL[name])
        axes[1].semilogy(p.t, p.loss + 1e-12, color=COLOR[name])
        axes[2].semilogy(p.t, p.energy + 1e-12, color=COLOR[name])
    axes[0].set_title("the path")
    axes[0].legend(fontsize=8, loc="lower right")
    axes[1].set(
        title="loss L: only plain goes up" if low else "loss L",
        xlabel="time",
        ylabel="L",
        ylim=(low, 3 if low else None),
    )
    axes[2].set(title="energy H", xlabel="time", ylabel="H", ylim=(low, 3 if low else None))
    losses = {f"L {n}": p.loss for n, p in paths.items()}
    return fig, losses | {f"H {n}": p.energy for n, p in paths.items()}


def orders(hs: np.ndarray, rows: Mapping[str, Mapping[str, Sequence[float]]], order: Any) -> Figure:
    """Rises of the loss over the step size, title to flow to rises; each with its order."""
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8))
    for ax, (title, found) in zip(axes, rows.items(), strict=True):
        for name, y in found.items():
            label = "Adam" if name == "plain" else LABEL[name]
            ax.loglog(hs, y, "o-", color=COLOR[name], label=f"{label}: order {round(order(hs, y), 1) + 0.0}")
        ax.set(xlabel="step size h", title=title)
        ax.legend(fontsize=8)
    axes[0].set_ylabel("mean over 64 starts")
    return fig
