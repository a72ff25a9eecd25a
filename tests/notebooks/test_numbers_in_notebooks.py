"""A number in a notebook's sentence comes from the cell that prints it.

Looked at are numbers with a decimal point or two significant digits and more. One may come from

    what the notebook prints, rounded as the sentence has it; as a percentage of what it prints, too
    a number that stands in the notebook's own code: a hyper-parameter, a seed, a limit of an axis
    in the table of `12_which_one`, which gathers what the ledger says of runs that take hours: the text of a claim that the same
        cell names (G5)

Not looked at are what is no measurement: code and addresses; years, versions, arXiv numbers; the numbers of pages, sections,
lines, theorems; and solutions of exercises, whose numbers stand beside the arithmetic that they come from.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from reference.claims import load

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CITING = ("12_which_one",)
CLAIMS = {claim.id: f"{claim.statement} {claim.scope}" for claim in load()}

NUMBER = re.compile(r"(?<![\w.,^])\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?(?![\w^])(?: %)?")
NO_MEASUREMENT = (
    r"<details>.*?</details>",
    r"`[^`]*`",
    r"\]\([^)]*\)",
    r"<[^>]*>",
    r"^#+ \d\d · ",
    r"\[\d\d\b[ \w-]*\]?|\b(?:[Nn]otebooks?|[Pp]ages?) \d\d|\b0\d\b(?:(?:, | and )0\d\b)*",
    r"\b[Ss]ections? \d+|\b(?:Theorem|Lemma|Fact|Assumption|Algorithm|[Ll]ines?) [\d.]+",
    r"arXiv \d+\.\d+(?:v\d+)?|\b(?:19|20)\d\d\b|\b\d+\.\d+\.\d+\b",
)
LATEX = (
    (r"\\[,;!]", " "),
    (r"\\%", "%"),
    (r"(?<=\d)%", " %"),
    (r"(?:(\d+(?:\.\d+)?) ?\\cdot ?)?\b10\^\{?(-?\d+)\}?", lambda m: f"{m[1] or 1}e{m[2]}"),
    (r"\\[td]?frac ?(\d)(\d)", r" \1/\2 "),
    (r"[{}$]", " "),
)


def sentences(markdown: str) -> str:
    for pattern in NO_MEASUREMENT:
        markdown = re.sub(pattern, " ", markdown, flags=re.DOTALL | re.MULTILINE)
    for pattern, new in LATEX:
        markdown = re.sub(pattern, new, markdown)
    return markdown


def figures(text: str) -> Iterator[tuple[str, float, float, bool]]:
    """Of each number to be looked at: how it stands there, its value, half of its last digit, whether it is a percentage."""
    for found in NUMBER.findall(text):
        plain = found.removesuffix(" %").replace(",", "")
        mantissa, _, exponent = plain.partition("e")
        if "." not in mantissa and len(mantissa.strip("0")) < 2:
            continue
        decimals = len(mantissa.partition(".")[2])
        yield found, float(plain), 0.5 * 10.0 ** (int(exponent or 0) - decimals), found.endswith("%")


def numbers(text: str) -> set[float]:
    """All numbers of a text, with their thousands' commas or without."""
    found = re.findall(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+", text)
    return {float(x.replace(",", "")) for x in found}


def code_numbers(source: str) -> set[float]:
    """The literals of a cell, and what its texts (titles, labels) say."""
    found: set[float] = set()
    python = re.sub(r"^%.*$", "", source, flags=re.MULTILINE)
    for token in tokenize.generate_tokens(io.StringIO(python).readline):
        if token.type in (tokenize.NUMBER, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            found |= numbers(token.string)
    return found


def printed(notebook: nbformat.NotebookNode) -> set[float]:
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    texts = [o.get("text", "") for o in outputs]
    texts += [
        o.data.get(kind, "") for o in outputs if "data" in o for kind in ("text/plain", "text/html", "text/markdown")
    ]
    return numbers("\n".join(texts))


def cited(markdown: str) -> set[float]:
    return numbers("\n".join(CLAIMS.get(name, "") for name in re.findall(r"\b[A-Z]\d+\b", markdown)))


def without_a_source(notebook: nbformat.NotebookNode, *, citing: bool = False) -> list[str]:
    """Each number of a sentence that neither an output nor the code has, with the words around it; `citing`: nor a claim's text."""
    rounded = printed(notebook)
    written = {n for c in notebook.cells if c.cell_type == "code" for n in code_numbers(c.source)}
    wrong = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        text = sentences(cell.source)
        sources = rounded | written | (cited(cell.source) if citing else set())
        for found, value, half, percent in figures(text):
            near = half * (1 + 1e-9)
            if any(abs(s - value) <= near or (percent and abs(100 * s - value) <= near) for s in sources):
                continue
            at = text.index(found)
            wrong.append(f"{found}: ...{' '.join(text[max(at - 40, 0) : at + 30].split())}...")
    return wrong


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_each_number_of_a_sentence_has_a_source(path: Path) -> None:
    assert not without_a_source(nbformat.read(path, as_version=4), citing=path.stem in CITING)


def made(markdown: str, code: str = "print(1)", output: str = "") -> nbformat.NotebookNode:
    shown = [nbformat.v4.new_output("stream", text=output)]
    cells = [nbformat.v4.new_markdown_cell(markdown), nbformat.v4.new_code_cell(code, outputs=shown)]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.mark.parametrize(
    ("markdown", "output", "seen"),
    [
        ("The ratio is 0.43.", "0.4186", ["0.43"]),
        ("The ratio is 0.42.", "0.4186", []),
        ("It takes 42 % of the steps.", "0.4186", []),
        ("It takes 43 % of the steps.", "0.4186", ["43 %"]),
        ("A gradient of $3.2 \\cdot 10^{-5}$, in 1,032 steps.", "3.17e-05 1032", []),
        ("A gradient of $3.3 \\cdot 10^{-5}$, in 1,033 steps.", "3.17e-05 1032", ["3.3e-5", "1,033"]),
        ("Theorem 4.15 of arXiv 2412.17107v3, in [05](05_x.ipynb), section 3, 2024.", "", []),
        ("G5 says 38.60 and 49.83.", "", ["38.60", "49.83"]),
        ("`tests/notebooks/test_numbers_in_notebooks.py` says 38.60.", "", ["38.60"]),
        ("Two of 8 starts.", "", []),
    ],
)
def test_a_number_without_a_source_is_seen(markdown: str, output: str, seen: list[str]) -> None:
    assert [x.partition(":")[0] for x in without_a_source(made(markdown, output=output))] == seen


def test_a_table_of_the_ledger_may_cite_a_claim() -> None:
    assert not without_a_source(made("G5 says 38.60 and 49.83."), citing=True)
    assert without_a_source(made("The paper says 38.60."), citing=True)


def test_what_the_code_says_is_a_source() -> None:
    assert not without_a_source(made("At a rate of 0.015.", "lr = 0.015"))
    assert not without_a_source(made("The line at 0.1755.", "label = 'lowest: 0.1755'"))
    assert without_a_source(made("At a rate of 0.015.", "lr = 0.016"))
