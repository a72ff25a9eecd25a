"""The pictures of a `fast.Monitor`: all its records as panels, once or again and again in Jupyter. Needs matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from fast.partition.extras import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fast.monitor.monitor import Monitor

_PANELS = {  # title, label of the axis
    "alignment": ("Alignment: below 0 is uphill", "<u, g>"),
    "disagreement": ("Momentum against gradient", "share of entries"),
    "decrease": ("Predicted decrease of the loss", "-<g, w' - w>"),
    "update_ratio": ("Change against weight", "RMS(w' - w) / RMS(w)"),
    "grad_norm": ("Gradient", "|g|"),
    "sigma": ("Largest singular value", "largest sigma"),
    "loss": ("Loss before the step", "loss"),
    "pl_ratio": ("PL ratio: at least mu where PL holds", "|g|² / 2 (loss - loss*)"),
}
_COLORS = ["#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"]  # Okabe and Ito's
_ACROSS = 3
_MOST_GROUPS = len(_COLORS)


def draw(monitor: Monitor) -> Figure:
    """A panel for each quantity, over the steps: black for all parameters, a colour for each of the first groups."""
    with needs("plot", "Monitor.plot"):
        from matplotlib.figure import Figure

    if not monitor.records:
        raise ValueError(
            "there is nothing to draw: no step has been recorded (steps inside torch.compile or of a CUDA graph never are)"
        )
    columns = monitor.columns()
    panels = [name for name in _PANELS if name in columns]
    down = math.ceil(len(panels) / _ACROSS)
    figure = Figure(figsize=(4.0 * _ACROSS, 2.6 * down + 0.5), layout="constrained")
    figure.suptitle(f"{type(monitor.optimizer).__name__}, {len(monitor.records)} recorded steps", x=0.01, ha="left")
    for place, name in enumerate(panels, 1):
        axes = figure.add_subplot(down, _ACROSS, place)
        title, label = _PANELS[name]
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        _lines(axes, name, columns)
    if any(name.startswith("group") for name in columns):
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=7, frameon=False)
    return figure


def _lines(axes: Axes, name: str, columns: dict[str, list[float]]) -> None:
    groups = [key for key in columns if key.startswith("group") and key.endswith(f"/{name}")][:_MOST_GROUPS]
    steps, drawn = columns["step"], [name, *groups]
    marker = "." if len(steps) < 2 else None
    axes.plot(steps, columns[name], color="black", linewidth=1.8, marker=marker, label="all")
    for key, color in zip(groups, _COLORS, strict=False):
        group = key.partition("/")[0].removeprefix("group")
        axes.plot(steps, columns[key], color=color, linewidth=0.8, marker=marker, label=f"group {group}")
    values = [v for key in drawn for v in columns[key] if math.isfinite(v)]
    if name == "disagreement":
        axes.set_ylim(0, None)
    elif values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    elif values and min(values) < 0 < max(values):
        axes.axhline(0.0, color="#999999", linewidth=0.8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def in_jupyter(monitor: Monitor) -> Callable[[], None]:
    """What draws the monitor's picture into the current cell, over the one before."""
    with needs("notebooks", "Monitor.live, which draws in Jupyter where plot() does without it,"):
        from IPython.core.getipython import get_ipython
        from IPython.display import Image, display
    if get_ipython() is None:
        raise RuntimeError("live() draws into a Jupyter cell, and this is not Jupyter: use plot() and Figure.savefig")
    handle = None

    def redraw() -> None:
        nonlocal handle
        file = io.BytesIO()
        draw(monitor).savefig(file, format="png", dpi=80)
        picture = Image(file.getvalue())
        if handle is None:
            handle = display(picture, display_id=True)
        else:
            handle.update(picture)

    return redraw
