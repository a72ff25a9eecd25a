"""Notebooks with blanks: the key lines taken out, the question in their place, and a folded cell that checks the answer.

Two versions of each: for students, and for lecturers, with nbgrader's marks around solution and hidden tests. The notebook itself
is the source of both; site/blanks.toml says which lines.
"""

from __future__ import annotations

import ast
import copy
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from pages import ROOT

TABLE = ROOT / "site" / "blanks.toml"


@dataclass(frozen=True)
class Blank:
    """Whole lines of a cell (`answer`), the question that takes their place, its check, and a `wrong` answer for the tests."""

    notebook: str
    cell: str
    ask: str
    answer: str
    wrong: str
    check: str

    @property
    def name(self) -> str:
        return f"{self.notebook}-{self.cell}"

    @property
    def indent(self) -> str:
        """What the answer's first line begins with."""
        return self.answer[: len(self.answer) - len(self.answer.lstrip())]


def load(path: Path = TABLE) -> list[Blank]:
    """The blanks of a table; a ValueError names an entry that lacks something or has too much."""
    keys = {f.name for f in fields(Blank)}
    found = []
    for i, entry in enumerate(tomllib.loads(path.read_text(encoding="utf-8"))["blank"], 1):
        if set(entry) != keys:
            raise ValueError(f"{path.name}: blank {i} has the keys {sorted(entry)}, not {sorted(keys)}")
        found.append(Blank(**{key: value.strip("\n") for key, value in entry.items()}))
    return found


def fill(source: str, blank: Blank, text: str) -> str:
    """A cell's source with `text` instead of the answer; a ValueError if the answer is not in it once, as whole lines."""
    if f"\n{source}\n".count(f"\n{blank.answer}\n") != 1:
        raise ValueError(f"{blank.name}: the answer in blanks.toml does not stand in the cell, once and as whole lines")
    return f"\n{source}\n".replace(f"\n{blank.answer}\n", f"\n{text}\n").strip("\n")


def question(blank: Blank) -> str:
    """What stands where the answer was, indented as it was."""
    asked = "".join(f"# {line}\n" for line in blank.ask.splitlines())
    return textwrap.indent(
        f"{asked}# YOUR CODE HERE\nraise NotImplementedError('an answer is missing here')", blank.indent
    )


def for_students(notebook: NotebookNode, blanks: Sequence[Blank]) -> NotebookNode:
    """The notebook with questions and folded checks, and without outputs."""
    return _made(notebook, blanks, question, lambda blank: f"# checks the answer above\n{blank.check}")


def for_lecturers(notebook: NotebookNode, blanks: Sequence[Blank]) -> NotebookNode:
    """The same with the answers, and nbgrader's marks: `nbgrader generate_assignment` takes both out."""

    def solution(blank: Blank) -> str:
        asked, _, _ = question(blank).rpartition(f"{blank.indent}# YOUR")
        return f"{asked}{blank.indent}### BEGIN SOLUTION\n{blank.answer}\n{blank.indent}### END SOLUTION"

    def hidden(blank: Blank) -> str:
        return f"### BEGIN HIDDEN TESTS\n{blank.check}\n### END HIDDEN TESTS"

    return _made(notebook, blanks, solution, hidden)


def _made(notebook, blanks, instead, checks) -> NotebookNode:
    made = copy.deepcopy(notebook)
    by_cell = {blank.cell: blank for blank in blanks}
    if missing := set(by_cell) - {c.id for c in made.cells}:
        raise ValueError(f"{blanks[0].notebook} has no cells {sorted(missing)}, which blanks.toml names")
    cells = []
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cells.append(cell)
        if blank := by_cell.get(cell.id):
            cell.source = fill(cell.source, blank, instead(blank))
            ast.parse(cell.source)
            cell.metadata["nbgrader"] = _marks(blank.name, solution=True)
            check = nbformat.v4.new_code_cell(checks(blank), id=f"{cell.id}-check")
            check.metadata = nbformat.from_dict(
                {"jupyter": {"source_hidden": True}, "nbgrader": _marks(f"{blank.name}-check", solution=False)}
            )
            cells.append(check)
    words = f"Fill in what is marked `YOUR CODE HERE` ({len(blanks)} in this notebook); the folded cell behind each checks it."
    cells.insert(
        1,
        nbformat.v4.new_markdown_cell(
            f"*{words} Keep this file in `notebooks/` of the repository, where it finds its data.*", id="blanks"
        ),
    )
    made.cells = cells
    return made


def _marks(name: str, *, solution: bool) -> dict[str, object]:
    marks = {
        "grade_id": name,
        "schema_version": 3,
        "task": False,
        "solution": solution,
        "locked": not solution,
        "grade": not solution,
    }
    return marks if solution else {**marks, "points": 1}


def write(folder: Path) -> None:
    """Both versions of each notebook that has blanks: FOLDER/<name>.ipynb and FOLDER/lecturer/<name>.ipynb."""
    (folder / "lecturer").mkdir(parents=True, exist_ok=True)
    held = load()
    for name in dict.fromkeys(blank.notebook for blank in held):
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        own = [blank for blank in held if blank.notebook == name]
        nbformat.write(for_students(notebook, own), folder / f"{name}.ipynb")
        nbformat.write(for_lecturers(notebook, own), folder / "lecturer" / f"{name}.ipynb")
