"""The notebooks' interactive cells: nbval ignores what they show, and `interact` hides what their callbacks raise.

So the cells run here with `interact` replaced by one that keeps the callback and its sliders, and the callback is called at
their ends: all at one end, each alone, and some corners drawn at random.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib as mpl
import nbformat
import pytest
from matplotlib import pyplot as plt

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
FIRST = ("00_start_here", "01_grams")  # the others have sliders, too, but running their cells takes minutes
Found = tuple[Callable[..., object], dict[str, list[Any]], dict[str, list[Any]]]


def cells(path: Path) -> list[str]:
    """The code of each cell, without IPython's own lines."""
    notebook = nbformat.read(path, as_version=4)
    return [re.sub(r"^%.*$", "", c.source, flags=re.MULTILINE) for c in notebook.cells if c.cell_type == "code"]


INTERACTIVE = [p for p in sorted(NOTEBOOKS.glob("*.ipynb")) if any("interact(" in cell for cell in cells(p))]


def ends(widget: Any) -> list[Any]:
    """The least and the largest value of a slider; both of a box to tick."""
    if isinstance(widget, ipywidgets.Checkbox):
        return [False, True]
    return [widget.base**x if isinstance(widget, ipywidgets.FloatLogSlider) else x for x in (widget.min, widget.max)]


def kept(callback: Callable[..., object], **settings: Any) -> Found:
    """Instead of `interact`: (callback, choice -> all its options, slider -> its ends)."""
    widgets = {w._kwarg: w for w in ipywidgets.interactive(lambda **_: None, **settings).kwargs_widgets}
    choices = {name: list(w.options) for name, w in widgets.items() if hasattr(w, "options")}
    return callback, choices, {name: ends(w) for name, w in widgets.items() if name not in choices}


def corners(sliders: dict[str, list[Any]], count: int = 12) -> Iterator[dict[str, Any]]:
    for i in range(2):
        yield {name: both[i] for name, both in sliders.items()}
        yield from ({name: both[i]} for name, both in sliders.items())
    draw = random.Random(0)
    for _ in range(count):
        yield {name: draw.choice(both) for name, both in sliders.items()}


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[pytest.mark.slow] * (p.stem not in FIRST), id=p.stem) for p in INTERACTIVE]
)
def test_callbacks_run_at_the_ends_of_their_sliders(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Found] = []
    monkeypatch.setattr(ipywidgets, "interact", lambda *args, **settings: found.append(kept(*args, **settings)))
    monkeypatch.setenv("ADAMLAB_FIGURES", str(tmp_path))
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    wanted = sum("interact(" in cell for cell in cells(path))
    namespace: dict[str, Any] = {}
    with mpl.rc_context({"backend": "agg"}):
        for cell in cells(path):
            exec(compile(cell, path.name, "exec"), namespace)
            plt.close("all")
            if len(found) == wanted:
                break
        assert len(found) == wanted
        for callback, choices, sliders in found:
            assert sliders
            for options in itertools.product(*choices.values()):
                for corner in corners(sliders):
                    given = {**dict(zip(choices, options, strict=True)), **corner}
                    try:
                        callback(**given)
                    except Exception as error:
                        raise AssertionError(f"{callback.__name__}({given}) raises") from error


def test_interactive_notebooks_are_found() -> None:
    assert {path.stem for path in INTERACTIVE} >= set(FIRST)
