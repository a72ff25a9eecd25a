"""What a page owes to its readers: a picture soon, words for those who cannot see it, and a file that a phone can load.

And beside its sliders, which are dead without a kernel, a picture of what they move, and something to do with them.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from experiments.notebooks import alternative

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
LINES = 15  # of code before the first picture, its own cell's included
BYTES = 600_000


def pictures(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]


def lines_before_the_first_picture(notebook: nbformat.NotebookNode) -> int:
    """Code that is neither blank nor IPython's own; of a notebook without pictures all of it."""
    count = 0
    for cell in (c for c in notebook.cells if c.cell_type == "code"):
        count += sum(bool(line.strip()) and not line.startswith("%") for line in cell.source.splitlines())
        if pictures(cell):
            break
    return count


def without_words(notebook: nbformat.NotebookNode) -> list[str]:
    """Cells whose pictures have no alternative text of a sentence at least, or another than the cell says."""
    return [
        cell.source
        for cell in notebook.cells
        for picture in pictures(cell)
        if len(alternative(cell)) < 40 or picture.metadata.get("image/png", {}).get("alt") != alternative(cell)
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_picture_comes_soon_with_words_in_a_small_file(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert lines_before_the_first_picture(notebook) <= LINES
    assert not without_words(notebook)
    assert path.stat().st_size < BYTES


def sliders_alone(notebook: nbformat.NotebookNode) -> list[str]:
    """Cells with sliders before which their section shows no picture, or sets no task."""
    wrong, shown, words = [], False, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts = re.split(r"^##+ .*$", cell.source, flags=re.MULTILINE)
            shown, words = (shown, words + parts[0]) if len(parts) == 1 else (False, parts[-1])
        elif "interact(" in cell.source and not (shown and re.search(r"\*Tasks?\b", words)):
            wrong.append(cell.source)
        shown = shown or bool(pictures(cell))
    return wrong


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_sliders_have_a_picture_and_a_task(path: Path) -> None:
    assert not sliders_alone(nbformat.read(path, as_version=4))


def made(lines: int, alt: str, shown: str) -> nbformat.NotebookNode:
    picture = nbformat.v4.new_output("display_data", {"image/png": ""}, metadata={"image/png": {"alt": shown}})
    cells = [
        nbformat.v4.new_code_cell("%matplotlib inline\n\n" + "x = 1\n" * (lines - 1)),
        nbformat.v4.new_code_cell("draw()", metadata={"mystnb": {"image": {"alt": alt}}}, outputs=[picture]),
        nbformat.v4.new_code_cell("more()\n" * 50),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_late_pictures_and_missing_words_are_seen() -> None:
    text = "A rising line and a falling one that meet in the middle."
    assert lines_before_the_first_picture(made(15, "", "")) == 15
    assert lines_before_the_first_picture(made(16, "", "")) == 16
    assert not without_words(made(2, text, text))
    assert without_words(made(2, text, "")) == without_words(made(2, "a line", "a line")) == ["draw()"]


@pytest.mark.parametrize(
    ("before", "alone"),
    [
        (["## A", "*Task:* x", "draw()"], False),
        (["## A\n\n**Tasks.** 1. x", "draw()", "more words"], False),
        (["*Task:* x", "draw()", "## B\n\n*Task:* y"], True),
        (["## A", "draw()", "### B\n\n*Task:* x"], True),
        (["## A", "draw()", "no task"], True),
    ],
)
def test_sliders_without_a_picture_or_a_task_are_seen(before: list[str], alone: bool) -> None:
    picture = nbformat.v4.new_output("display_data", {"image/png": ""})
    cells = [
        nbformat.v4.new_code_cell(x, outputs=[picture]) if x == "draw()" else nbformat.v4.new_markdown_cell(x)
        for x in before
    ]
    notebook = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell("interact(f)")])
    assert sliders_alone(notebook) == ["interact(f)"] * alone
