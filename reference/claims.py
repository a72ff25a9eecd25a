"""The ledger: every claim of the sources as data (reference/claims.toml), read, checked and rendered.

    python -m reference.claims                   prints the ledger
    python -m reference.claims --write [FOLDER]  writes it in full into CLAIMS.md, in brief between the two markers of README.md

    key        meaning
    id         a letter and a number: G1, Q3, M7
    source     system first, then where: "Grams, arXiv 2412.17107v3, Lemma 4.2"
    statement  the claim in our words
    verdict    proved       for all values in the scope, by more than runs
               confirmed    numerically, within the stated scope
               conditional  true with an added condition, which the scope names
               refuted      a counterexample runs in the test
               not run      the scope says what it waits for
    evidence   what the verdict rests on: words of the ladder EVIDENCE, the strongest first; "runs" stands among them where any
               part of the scope has nothing better, so never under "proved"; [] for "not run"
    scope      the range for which it was checked, the condition, the counterexample, or what is missing; a "proved" one says
               what runs alone have shown behind the words "Outside the scope", where it is no part of the claim
    tests      pytest node ids, "tests/test_x.py::test_y"; each is marked @pytest.mark.claim(id); none for "not run"
    notebooks  "notebooks/02_descent.ipynb": those that print the verdict, the fullest first; [] when none does

A verdict rests on its tests alone: tests/house/test_claims.py holds the two lists against each other, both ways, and against
the evidence that they are said to give, and tests/notebooks/test_claims_in_notebooks.py what the notebooks print. T1, T2, ...
are our own: what we prove about the sources' algorithms, beyond what the sources say.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

VERDICTS = ("proved", "confirmed", "conditional", "refuted", "not run")
# The ladder, weakest first.
EVIDENCE = {
    "runs": "floating-point runs on stated seeds, sizes and processors' arithmetic: what was seen, and no more.",
    "symbols": "identities and signs, case by case, by SymPy from the lines that run; a written argument joins them.",
    "solver": "z3 finds no real numbers that break the statement on the lines that run, and finds some once an error is planted.",
    "enclosure": "ball arithmetic: a number, a whole run or a range of parameters between bounds that no rounding escapes.",
    "exhaustive": "every value that a number format has was tried.",
    "certificate": "exact rational multipliers, or an exact instance that attains the bound; adding them up is the whole check.",
    "checked": "a theorem that Rocq has checked, with nothing admitted, about the lines as SymPy prints them.",
}
OUTSIDE = "Outside the scope"  # behind these words a scope says what is no part of its claim
OWN = "AdamLab"  # the system of our own claims
LEDGER = Path(__file__).with_name("claims.toml")
NO_DECAY = "Where a row names no weight decay there is none."
BEGIN = "<!-- claims: written by `python -m reference.claims --write` -->"
END = "<!-- end of claims -->"
FULL, BRIEF = "CLAIMS.md", "README.md"
ABOUT = """# The claims

What the papers and repositories say, in our words, and what became of it. `proved`: for all values in the scope, by more than
runs. `confirmed`: numerically, within the scope. `conditional`: true with the condition that the scope names. `refuted`: a
counterexample runs in the test. `not run`: the scope says what it waits for. Few claims stand as they were written; what we
prove beyond them has entries of its own (T1 and on). What we ourselves had wrong stands in [ERRATA.md](ERRATA.md). Written by
`python -m reference.claims --write` from reference/claims.toml.
"""


class LedgerError(ValueError):
    """The ledger, or the README that shows it, breaks its own rules; the message lists every breach."""


@dataclass(frozen=True)
class Claim:
    id: str
    source: str
    statement: str
    verdict: str
    evidence: tuple[str, ...]
    scope: str
    tests: tuple[str, ...]
    notebooks: tuple[str, ...]

    @property
    def system(self) -> str:
        """The part of the source before its first comma: "Grams"."""
        return self.source.partition(",")[0]


def load(path: Path = LEDGER) -> list[Claim]:
    """The claims of a ledger, in its order; a LedgerError lists everything that is wrong with the file."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise LedgerError(f"{path} is not valid TOML: {error}") from error
    tables = data.get("claim")
    if set(data) != {"claim"} or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise LedgerError(f"{path} must hold [[claim]] tables and nothing else, got the keys {sorted(data)}")
    errors = [e for i, table in enumerate(tables) for e in _table_errors(table, i)]
    ids = [table.get("id") for table in tables]
    errors += [f"{i}: the id is used {ids.count(i)} times" for i in dict.fromkeys(ids) if ids.count(i) > 1]
    if errors:
        raise LedgerError(f"{path}:\n" + "\n".join(errors))
    return [_claim(**table) for table in tables]


def _claim(evidence: list[str], tests: list[str], notebooks: list[str], **text: str) -> Claim:
    """A checked table as a Claim, each text on one line."""
    lines: dict[str, str] = {key: " ".join(value.split()) for key, value in text.items()}
    return Claim(evidence=tuple(evidence), tests=tuple(tests), notebooks=tuple(notebooks), **lines)


def _table_errors(table: dict[str, object], index: int) -> list[str]:
    keys = {f.name for f in fields(Claim)}
    name = str(table.get("id", f"claim number {index + 1}"))
    found = [f"unknown key {k!r}; the keys are {sorted(keys)}" for k in sorted(set(table) - keys)]
    found += [f"key {k!r} is missing" for k in sorted(keys - set(table))]
    found += [
        f"{k} must be text, not empty, got {v!r}"
        for k, v in table.items()
        if k in keys - {"evidence", "tests", "notebooks"} and not (isinstance(v, str) and v.strip())
    ]
    verdict, tests = table.get("verdict"), _texts(table, "tests", found)
    if not re.fullmatch(r"[A-Z]\d+", name):
        found.append(f"the id must be a capital letter and a number, got {name!r}")
    if verdict not in VERDICTS:
        found.append(f"unknown verdict {verdict!r}; the verdicts are {', '.join(VERDICTS)}")
    elif verdict == "not run" and tests:
        found.append(f"'not run', yet it names tests: {tests}; give the verdict that they establish")
    elif verdict != "not run" and not tests:
        found.append(f"{verdict!r} without a test; name the tests that establish it, or say 'not run'")
    found += _evidence_errors(verdict, _texts(table, "evidence", found))
    found += [
        f"{t!r} is not a node id such as 'tests/test_x.py::test_y' (no parameters)"
        for t in tests
        if not re.fullmatch(r"tests/(\w+/)*test_\w+\.py(::Test\w+)?::test_\w+", t)
    ]
    found += [f"{t} is listed twice" for t in dict.fromkeys(tests) if tests.count(t) > 1]
    found += [
        f"a notebook must look like 'notebooks/02_descent.ipynb', got {n!r}"
        for n in _texts(table, "notebooks", found)
        if not re.fullmatch(r"notebooks/\w+\.ipynb", n)
    ]
    return [f"{name}: {e}" for e in found]


def _evidence_errors(verdict: object, evidence: list[str]) -> list[str]:
    ladder = list(EVIDENCE)
    unknown = [w for w in evidence if w not in EVIDENCE]
    if unknown:
        return [f"unknown evidence {unknown}; the ladder is {', '.join(ladder)}"]
    found = []
    if verdict == "not run" and evidence:
        found.append(f"'not run', yet it names evidence: {evidence}")
    elif verdict in VERDICTS and verdict != "not run" and not evidence:
        found.append(f"{verdict!r} without evidence; name what it rests on: {', '.join(ladder)}")
    if verdict == "proved" and "runs" in evidence:
        found.append(
            "'proved' must not rest on runs, in no part of its scope: give symbols or better, or another verdict"
        )
    if evidence != sorted(set(evidence), key=ladder.index, reverse=True):
        found.append(f"evidence must be named once each, the strongest first, got {evidence}")
    return found


def _texts(table: dict[str, object], key: str, found: list[str]) -> list[str]:
    """The list of texts at `key`; what is not one is added to `found`."""
    value = table.get(key, [])
    if isinstance(value, list) and all(isinstance(x, str) for x in value):
        return value
    found.append(f"{key} must be a list of texts, got {value!r}")
    return []


def summary(claims: Sequence[Claim]) -> str:
    """ "35 claims of the sources: 3 proved, ... 9 of our own: 9 proved. Of the 16 conditional ones 2 rest on no run." """
    sources, own = ([c for c in claims if (c.system == OWN) is mine] for mine in (False, True))
    conditional = [c for c in claims if c.verdict == "conditional"]
    firm = sum("runs" not in c.evidence for c in conditional)
    better = sum(c.evidence[0] != "runs" for c in conditional)
    text = f"{len(sources)} claims of the sources: {_counts(sources, VERDICTS)}."
    if own:
        text += f" {len(own)} of our own: {_counts(own, [v for v in VERDICTS if any(c.verdict == v for c in own)])}."
    if conditional:
        rest = "rests" if firm == 1 else "rest"
        text += f" Of the {len(conditional)} conditional ones {firm} {rest} on no run, {better - firm} on runs only in part."
    return text


def _counts(claims: Sequence[Claim], verdicts: Sequence[str]) -> str:
    return ", ".join(f"{sum(c.verdict == v for c in claims)} {v}" for v in verdicts)


def render_full(claims: Sequence[Claim]) -> str:
    """CLAIMS.md: an entry for each claim, at an anchor of its id, with the whole scope."""
    lines = [ABOUT, summary(claims), "", *_ladder()]
    for system, group in groupby(claims, key=lambda c: c.system):
        lines += ["", f"## {system}"]
        for c in group:
            verdict = f"**{c.verdict}**" + "".join(f" `{word}`" for word in c.evidence)
            lines += [
                "",
                f'<a id="{c.id}"></a>',
                "",
                f"**{c.id}**. {_escape(c.statement)}",
                "",
                f"{verdict}. {_escape(c.scope.rstrip('.'))}.",
            ]
            lines += ["", f"Held by {_held(c)}."] * bool(c.tests)
    return "\n".join(lines) + "\n"


def render_brief(claims: Sequence[Claim]) -> str:
    """The README's part: the counts, and folded a line for each claim, which leads to its entry in CLAIMS.md."""
    lines = [summary(claims), "", "<details><summary>Each claim in a line</summary>", ""]
    lines += ["| | the claim | verdict | evidence |", "|---|---|---|---|"]
    for c in claims:
        words = ", ".join(f"`{word}`" for word in c.evidence)
        lines.append(f"| [{c.id}]({FULL}#{c.id}) | {_escape(c.statement)} | **{c.verdict}** | {words} |")
    return "\n".join([*lines, "", "</details>"]) + "\n"


def _ladder() -> list[str]:
    said = [f"- `{word}`: {meaning}" for word, meaning in EVIDENCE.items()]
    return [f"{NO_DECAY} Each verdict names its evidence, from the weakest to the strongest:", "", *said]


def _held(c: Claim) -> str:
    """Links to the files of a claim's tests, and to its notebooks."""
    files = [*dict.fromkeys(t.partition("::")[0] for t in c.tests), *c.notebooks]
    return ", ".join(f"[{Path(f).stem}]({f})" for f in files)


def _escape(text: str) -> str:
    """Plain text for a cell of a Markdown table; what stands between backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [p if p.startswith("`") else re.sub(r"([*_\\\[\]])", r"\\\1", p).replace("<", "&lt;") for p in parts]
    return "".join(plain).replace("|", "\\|")


def render_text(claims: Sequence[Claim], width: int = 100) -> str:
    """The ledger for a terminal, `width` columns wide."""
    lines, indent = [], " " * 17
    for c in claims:
        head = f"{c.id:<4}{c.verdict.upper():<13}"
        lines += textwrap.wrap(c.statement, width, initial_indent=head, subsequent_indent=indent)
        lines += textwrap.wrap(c.scope, width, initial_indent=indent, subsequent_indent=indent)
        if c.evidence:
            lines.append(f"{indent}evidence: {', '.join(c.evidence)}")
        lines += [f"{indent}-> {where}" for where in (*c.tests, *c.notebooks)]
    return "\n".join([*lines, "", *textwrap.wrap(summary(claims), width)]) + "\n"


def write(folder: Path, claims: Sequence[Claim]) -> None:
    """Writes the folder's CLAIMS.md, and what stands between the two markers of its README.md, each of which must be there once."""
    readme = folder / BRIEF
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise LedgerError(f"{readme} must hold the two lines\n{BEGIN}\n{END}\nonce each and in this order")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    readme.write_text(f"{head}{BEGIN}\n{render_brief(claims)}{END}{tail}", encoding="utf-8")
    (folder / FULL).write_text(render_full(claims), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reference.claims", description="Prints the ledger of claims.")
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FOLDER",
        help=f"write {FULL}, and between the markers of {BRIEF}, in this folder (here, if none is named)",
    )
    given = parser.parse_args(arguments)
    try:
        claims = load()
        if given.write:
            write(given.write, claims)
        else:
            print(render_text(claims), end="")
    except (LedgerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
