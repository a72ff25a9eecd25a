"""Notebooks with blanks: the table still matches the notebooks, an answer passes its check, and a mistake does not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat
import pytest
from living_figures import ROOT
from matplotlib import pyplot as plt

pytest.importorskip("pages", reason="site/ is not on the path")
from pages import blanks

NOTEBOOKS = sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb"))
BLANKS = blanks.load()
FIRST = "00_start_here"  # the others take up to a minute each


def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def own(name: str) -> list[blanks.Blank]:
    return [blank for blank in BLANKS if blank.notebook == name]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_notebook_has_blanks_that_match_it(name):
    assert own(name), "give it a blank in site/blanks.toml"
    made = blanks.for_students(notebook(name), own(name))
    nbformat.validate(made)
    text = "\n".join(c.source for c in made.cells)
    marked = [c for c in made.cells if "nbgrader" in c.metadata]
    assert text.count("# YOUR CODE HERE") == len(own(name)) == sum(c.metadata.nbgrader.grade for c in marked)
    assert not [o for c in made.cells if c.cell_type == "code" for o in c.outputs]
    assert not any(blank.answer in text for blank in own(name)), "the answer still stands in it"
    assert all(c.metadata.jupyter.source_hidden for c in marked if c.metadata.nbgrader.grade)
    ids = [c.metadata.nbgrader.grade_id for c in marked]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w-]+", i) for i in ids)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_lecturers_version_has_answers_and_hidden_tests_in_nbgraders_marks(name):
    made = blanks.for_lecturers(notebook(name), own(name))
    nbformat.validate(made)
    for blank in own(name):
        (cell,) = [c for c in made.cells if c.id == blank.cell]
        assert re.search(rf"### BEGIN SOLUTION\n{re.escape(blank.answer)}\n\s*### END SOLUTION", cell.source)
        check = made.cells[made.cells.index(cell) + 1]
        assert check.source == f"### BEGIN HIDDEN TESTS\n{blank.check}\n### END HIDDEN TESTS"
    without = [re.sub(r"^\s*(# .*|### .*)\n", "", c.source, flags=re.MULTILINE) for c in made.cells]
    assert len(without) == len(notebook(name).cells) + 1 + len(own(name))


def test_a_blank_that_no_longer_matches_is_refused():
    blank = own(FIRST)[0]
    with pytest.raises(ValueError, match="does not stand in the cell, once and as whole lines"):
        blanks.for_students(notebook(FIRST), [dataclasses.replace(blank, answer="    gone = []")])
    with pytest.raises(ValueError, match="has no cells"):
        blanks.for_students(notebook(FIRST), [dataclasses.replace(blank, cell="absent")])


def test_a_table_with_a_missing_key_is_refused(tmp_path):
    path = tmp_path / "blanks.toml"
    path.write_text('[[blank]]\nnotebook = "00_start_here"\ncell = "x"\n')
    with pytest.raises(ValueError, match="blank 1 has the keys"):
        blanks.load(path)


def run(made: nbformat.NotebookNode, answers: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Runs a student's notebook up to its last check, with `answers` by the cell's id in place of what is asked."""
    import ipywidgets

    monkeypatch.setattr(ipywidgets, "interact", lambda *_, **__: None)
    monkeypatch.setenv("ADAMLAB_FIGURES", str(folder))
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    last = max(i for i, c in enumerate(made.cells) if "nbgrader" in c.metadata)
    namespace: dict[str, Any] = {}
    with mpl.rc_context({"backend": "agg"}):
        for cell in made.cells[: last + 1]:
            if cell.cell_type != "code":
                continue
            source = re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE)
            if cell.id in answers:
                source = re.sub(
                    r"^ *# YOUR CODE HERE\n.*$", lambda _, c=cell: answers[c.id], source, flags=re.MULTILINE
                )
            exec(compile(source, cell.id, "exec"), namespace)
            plt.close("all")


FAST_AND_SLOW = [pytest.param(n, marks=[pytest.mark.slow] * (n != FIRST)) for n in NOTEBOOKS]


@pytest.mark.parametrize("name", FAST_AND_SLOW)
def test_with_the_answers_put_back_every_check_passes(name, monkeypatch, tmp_path):
    made = blanks.for_students(notebook(name), own(name))
    run(made, {blank.cell: blank.answer for blank in own(name)}, monkeypatch, tmp_path)


@pytest.mark.parametrize("name", FAST_AND_SLOW)
def test_a_mistake_fails_its_check(name, monkeypatch, tmp_path):
    for blank in own(name):
        made = blanks.for_students(notebook(name), own(name))
        answers = {b.cell: b.wrong if b is blank else b.answer for b in own(name)}
        with pytest.raises(AssertionError):
            run(made, answers, monkeypatch, tmp_path)


def test_without_an_answer_a_notebook_stops_and_says_so(monkeypatch, tmp_path):
    with pytest.raises(NotImplementedError, match="an answer is missing here"):
        run(blanks.for_students(notebook(FIRST), own(FIRST)), {}, monkeypatch, tmp_path)
