"""How this project draws: one style, and every figure a file with the numbers that it is drawn from.

    style()                                  once, at the head of a notebook
    save(fig, "08_digits", data, kind="digits")   writes figures/08_digits.svg and figures/data/08_digits.json

`kind` says how far another processor's numbers may be from these (`numbers` has the kinds). Both files come out the
same, byte for byte, for the same numbers. The environment variable ADAMLAB_FIGURES names another folder than figures/ (the
tests use it, so that a test run leaves the working tree as it was).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fast.partition.extras import needs

with needs("plot", __name__):
    import matplotlib as mpl
    from matplotlib.figure import Figure

from experiments.figures.numbers import KINDS

# Okabe and Ito's colours, told apart by readers with any colour vision: one optimizer keeps one colour everywhere.
COLORS = {
    "Adam": "#0072B2",
    "AdamW": "#0072B2",
    "Grams": "#D55E00",
    "Cautious": "#009E73",
    "Lion": "#CC79A7",
    "Adams": "#E69F00",
    "Adam-mini": "#56B4E9",
    "GD": "#666666",
}


def style() -> None:
    """Sets matplotlib's parameters for this process: sizes, grid, fonts, resolution."""
    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 4.0),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "font.size": 10,
            "svg.hashsalt": "adamlab",
            "svg.fonttype": "none",
        }
    )


def save(
    fig: Figure, name: str, data: Mapping[str, Any], *, kind: str | Mapping[str, str], made_by: str | None = None
) -> Path:
    """Writes `fig` as <name>.svg and `data` (names to numbers, arrays or lists) as data/<name>.json; returns the SVG's path.

    kind: one of numbers.KINDS, for all of `data` or for each of its keys. made_by: the command that draws this
    figure, if no notebook does. Both stand in the data, as "kind" and "made by".
    """
    kinds = dict.fromkeys(data, kind) if isinstance(kind, str) else dict(kind)
    if kinds.keys() != data.keys() or not set(kinds.values()) <= set(KINDS) or {"kind", "made by"} & data.keys():
        raise ValueError(
            f"{name}: kind must give one of {', '.join(KINDS)} for each of the keys {list(data)}, "
            f"none of them named 'kind' or 'made by'; got {kind!r}"
        )
    head = {"kind": kind} if made_by is None else {"kind": kind, "made by": made_by}
    folder = Path(os.environ.get("ADAMLAB_FIGURES") or Path(__file__).resolve().parents[2] / "figures")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    fig.savefig(path, metadata={"Date": None})
    text = json.dumps({k: _plain(v) for k, v in (head | dict(data)).items()}, indent=1)
    (folder / "data" / f"{name}.json").write_text(text + "\n")
    return path


def _plain(x: Any) -> Any:
    """Six significant digits: what a figure shows, and stable between machines."""
    if isinstance(x, Mapping):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(v) for v in x]
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    if isinstance(x, np.ndarray | np.generic):
        return _plain(x.tolist())
    return float(f"{x:.6g}") if isinstance(x, float) else x
