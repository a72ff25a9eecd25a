"""09: what a step takes and what is kept, on a machine that one imagines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def budget(
    milliseconds: Mapping[str, float], gigabytes: Mapping[str, float], colors: Sequence[str], title: str
) -> Figure:
    """Bars for each optimizer, in its color: left the time of a step, right its state."""
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
    for ax, values, label in zip(axes, (milliseconds, gigabytes), ("ms a step", "GB of state"), strict=True):
        bars = ax.barh(list(values), list(values.values()), color=colors)
        ax.bar_label(bars, fmt=" %.3g")
        ax.set(xlabel=label, xlim=(0, 1.15 * max(values.values())))
        ax.grid(visible=False, axis="y")
    axes[0].invert_yaxis()
    axes[0].set_title(title)
    return fig
