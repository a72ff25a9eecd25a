"""A notebook announces and closes with the claims that the ledger says it shows, and with the ledger's verdicts."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from reference.claims import VERDICTS, load

ROOT = Path(__file__).resolve().parents[2]


def verdicts(path: Path) -> tuple[set[str], dict[str, str]]:
    """The claims that a notebook's first cell names; and the lines that it prints of claims, by id, without the id."""
    notebook = nbformat.read(path, as_version=4)
    outputs = [o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    printed = dict(re.findall(r"^([A-Z]\d+)\b[: ]+(.*)$", "\n".join(outputs), re.MULTILINE))
    return set(re.findall(r"\b[A-Z]\d+\b", notebook.cells[0].source)), printed


def test_ledger_and_notebooks_agree_both_ways():
    """A notebook names in its first cell, and closes with, those claims for which the ledger names it."""
    claims = {c.id: c for c in load()}
    waiting = {c.id for c in claims.values() if c.verdict == "not run"}
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    shown = {p.relative_to(ROOT).as_posix(): verdicts(p) for p in paths}
    assert {n for c in claims.values() for n in c.notebooks} <= set(shown)
    for name, (named, printed) in shown.items():
        listed = {c.id for c in claims.values() if name in c.notebooks}
        assert listed == set(printed) == (named & set(claims)) - waiting, name
        for claim_id, line in printed.items():
            said = re.match("|".join(VERDICTS), line)
            assert not said or said[0] == claims[claim_id].verdict, f"{name}: {claim_id} {line}"


@pytest.mark.parametrize(
    ("head", "printed", "found"),
    [
        ("**Claims**: G1 and A2 (x).", "G1  proved: all\nx G3\n", ({"G1", "A2"}, {"G1": "proved: all"})),
        ("None", "A5: 28 bytes\nA52\n", (set(), {"A5": "28 bytes"})),
    ],
)
def test_verdicts_of_a_notebook_are_seen(tmp_path, head, printed, found):
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text=printed)])
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(head), cell]), path)
    assert verdicts(path) == found
