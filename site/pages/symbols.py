"""The glossary: what each letter of the course means, on which page, with a word where one letter means two things."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat

from pages import ROOT

SMALL = "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega"
LARGE = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
# Without pi, which is the number everywhere.
GREEK = frozenset(f"{SMALL} {LARGE}".split())


@dataclass(frozen=True)
class Symbol:
    """A letter in its spellings, its name in the code, and the notebooks in which it has each of its meanings."""

    tex: tuple[str, ...]
    code: str
    meanings: Mapping[str, Sequence[str]]


def load() -> list[Symbol]:
    table = tomllib.loads((ROOT / "site" / "symbols.toml").read_text(encoding="utf-8"))
    return [Symbol(tuple(x["tex"]), x.get("code", ""), x["meanings"]) for x in table["symbol"]]


def letters(path: Path) -> set[str]:
    """The letters in the formulas of a notebook: Greek ones as macros, Latin ones that stand alone."""
    notebook = nbformat.read(path, as_version=4)
    text = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    found: set[str] = set()
    for double, single in re.findall(r"\$\$(.+?)\$\$|\$([^$]+?)\$", text, re.DOTALL):
        formula = re.sub(r"\\(text|mathrm|operatorname|mathbf)\*?\s*\{[^}]*\}", " ", double or single)
        found |= {m for m in re.findall(r"\\[a-zA-Z]+", formula) if m[1:] in GREEK}
        found |= set(re.findall(r"(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])", re.sub(r"\\[a-zA-Z]+", " ", formula)))
    return found


def page(titles: Mapping[str, str]) -> str:
    """The glossary in the order of the table, then the letters that have several meanings."""
    lines = [
        *(
            "# Symbols",
            "",
            "The letters of the course, and where a letter means different things on different pages.",
            "",
        ),
        *("| letter | in the code | meaning | pages |", "|---|---|---|---|"),
    ]
    for symbol in load():
        shown = ", ".join(f"${t}$" for t in symbol.tex)
        for i, (meaning, pages) in enumerate(symbol.meanings.items()):
            code = f"`{symbol.code}`" if symbol.code and not i else ""
            links = " ".join(f"[{p.partition('_')[0]}](notebooks/{p}.html)" for p in pages if p in titles)
            lines.append(f"| {shown} | {code} | {meaning} | {links} |")
    lines += ["", "## Letters with more than one meaning", ""]
    for symbol in load():
        if len(symbol.meanings) > 1:
            said = "; ".join(
                f"{m} ({', '.join(p.partition('_')[0] for p in pages)})" for m, pages in symbol.meanings.items()
            )
            lines.append(f"- ${symbol.tex[0]}$: {said}")
    return "\n".join(lines) + "\n"
