"""What a page owes to its readers: a picture soon, words for those who cannot see it, and a file that a phone can load."""

from __future__ import annotations

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
