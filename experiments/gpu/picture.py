"""The picture of `python -m experiments.gpu`'s numbers, for notebook 09."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.bench import BASE
from experiments.figures import COLORS
from experiments.gpu.cases import FOREACH, OURS, PERCENT, RATIOS, STREAMING
from experiments.gpu.cases import SETS as CASES

PAINT = {
    "CautiousAdamW": COLORS["Cautious"],
    "CautiousLion": "#8B6FB5",
    "AdamMini": COLORS["Adam-mini"],
    BASE: COLORS["AdamW"],
}
SETS = {"half-billion": "506.0 M parameters in 38 tensors", "llama-60m": "58.1 M in 75", "small-2000": "2 M in 2,000"}


def draw(results: Mapping[str, Any]) -> tuple[Figure, dict[str, Any]]:
    """Shares of a copy's bandwidth, and times over fused AdamW's, float32; and the numbers that are drawn.

    ValueError for the numbers of a dry run. What was not measured has no bar.
    """
    if results["dry"]:
        raise ValueError("these numbers were made dry, on a CPU: they say nothing about a GPU and are not drawn")
    fig, axes = plt.subplots(1, 2, figsize=(10.4, 4.6), width_ratios=(1, 1.5))
    shown = {"card": results["machine"]["card"], "share": _shares(axes[0], results), "ratio": _ratios(axes[1], results)}
    return fig, shown


def _row(results: Mapping[str, Any], name: str, label: str) -> Mapping[str, Any] | None:
    row = results["rows"].get(f"{name}/float32/step/{label}", {})
    return row if "ms" in row else None


def _shares(ax: Axes, results: Mapping[str, Any]) -> dict[str, float]:
    labels = [BASE, *OURS]
    found = {label: row["percent_of_copy"] for label in labels if (row := _row(results, "half-billion", label))}
    places = [labels.index(label) for label in found]
    ax.barh(places, list(found.values()), color=[_color(label) for label in found])
    ax.axvline(100, color="k", lw=1.2)
    goal = [labels.index(label) for label in STREAMING]
    ax.plot([PERCENT] * len(goal), goal, "k|", ms=22, mew=1.5, label="goal, at least")
    ax.set(yticks=range(len(labels)), yticklabels=labels, xlabel="% of a device copy's bandwidth")
    ax.set(title=f"Half a billion parameters, {results['machine']['card']}")
    ax.set_ylim(len(labels) + 0.2, -0.8)
    ax.legend(loc="lower left", fontsize=9)
    return found


def _ratios(ax: Axes, results: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    labels, found = [*OURS, FOREACH], {}
    for i, (name, text) in enumerate(SETS.items()):
        rows = {label: row for label in labels if (row := _row(results, name, label))}
        found[name] = {label: [row["ratio"], *row["ratio_quartiles"]] for label, row in rows.items()}
        if rows:
            middle, low, high = np.array(list(found[name].values())).T
            y = np.array([labels.index(label) for label in rows]) + 0.26 * (i - 1)
            ax.barh(
                y,
                middle,
                0.24,
                color=[_color(label) for label in rows],
                alpha=(1.0, 0.6, 0.3)[i],
                label=f"{name}: {text}",
            )
            ax.errorbar(middle, y, xerr=[middle - low, high - middle], fmt="none", ecolor="k", lw=1)
    goal = {label: RATIOS[label] for label in labels if label in RATIOS}
    ax.plot(list(goal.values()), [labels.index(x) - 0.26 for x in goal], "k|", ms=9, mew=1.5, label="goal, at most")
    ax.axvline(1, color="k", lw=1.2)
    ax.set(yticks=range(len(labels)), yticklabels=labels, xlabel="time over fused AdamW's (black: quartiles)")
    ax.set(title="Behind a busy device, float32")
    ax.invert_yaxis()
    ax.legend(loc="upper right", fontsize=8)
    return found


def draw_first_steps(results: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[Figure, dict[str, Any]]:
    """Seconds of a first step with an empty cache, by the number of tensors, and `before`: one graph for all tensors of a step."""
    fig, ax = plt.subplots(figsize=(8.4, 4.6))
    now, then = ({label: _first(run, label) for label in OURS} for run in (results, before))
    over = {label: _given_up(before, label) for label in OURS}
    for label in OURS:
        ax.plot(*np.array(now[label]).reshape(-1, 2).T, "o-", color=_color(label), label=label)
        ax.plot(*np.array(then[label]).reshape(-1, 2).T, "s", mfc="none", color=_color(label))
        ax.plot(*np.array(over[label]).reshape(-1, 2).T, "^", mfc="none", color=_color(label))
    ax.plot([], [], "ks", mfc="none", label="before: one graph for all tensors")
    ax.plot([], [], "k^", mfc="none", label="before: not done by then, and given up")
    ax.set(xscale="log", yscale="log", xlabel="tensors", ylabel="seconds of the first step, empty cache")
    ax.set(title=f"{results['machine']['card']}: what a first step takes")
    ax.legend(fontsize=8, ncol=2, loc="center right")
    return fig, {"card": results["machine"]["card"], "now": now, "before": then, "given_up": over}


def _first(results: Mapping[str, Any], label: str) -> list[list[float]]:
    rows = [
        row for key, row in results["rows"].items() if key.endswith(f"/float32/step/{label}") and "first_step_s" in row
    ]
    return sorted([row["tensors"], row["first_step_s"]] for row in rows)


def _given_up(results: Mapping[str, Any], label: str) -> list[list[float]]:
    found = []
    for key, row in results["rows"].items():
        name = key.partition("/")[0]
        if key.endswith(f"/float32/step/{label}") and row.get("during") == "the first step":
            found.append([len(CASES[name].tensors()), row["over_s"]])
    return sorted(found)


def _color(label: str) -> str:
    return PAINT.get(label, COLORS.get(label, COLORS["GD"]))
