"""The ledger as pages: a table to be filtered, a page for each claim that begins with its living figure, and the sources."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from pages import ROOT
from pages.figures import Figure, living
from pages.links import Links
from reference.claims import EVIDENCE, VERDICTS, Claim, summary

# The rules that a claim speaks of, for the table's filter, by words of its system and its statement.
OPTIMIZERS = ("Grams", "Adams", "Adam-mini", "Cautious", "Adam", "Lion")
MEANING = {
    "proved": "for all values in the scope, by more than runs",
    "confirmed": "numerically, within the scope",
    "conditional": "true with the condition that the scope names",
    "refuted": "a counterexample runs in the test",
    "not run": "the scope says what it waits for",
}


def optimizers(claim: Claim) -> list[str]:
    """Those that a claim names, or whose paper makes it."""
    text = f"{claim.system}. {claim.statement}"
    return [x for x in OPTIMIZERS if re.search(rf"(?<![\w-]){x}(?![\w-]|-mini)", text)]


def inline(text: str, of: str = "claims") -> str:
    """Plain text of the ledger as HTML; what stands between backticks is code."""
    parts = re.split(r"`([^`]*)`", text)
    return "".join(f"<code>{html.escape(p)}</code>" if i % 2 else html.escape(p) for i, p in enumerate(parts))


def badge(verdict: str) -> str:
    return f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{verdict}</span>'


def table_page(claims: Sequence[Claim], figures: Mapping[str, Sequence[Figure]]) -> str:
    """All claims, with the boxes that choose among them: by verdict, by optimizer, by evidence."""
    choices = {
        "verdict": [v for v in VERDICTS if any(c.verdict == v for c in claims)],
        "optimizer": [o for o in OPTIMIZERS if any(o in optimizers(c) for c in claims)],
        "evidence": [e for e in EVIDENCE if any(e in c.evidence for c in claims)],
    }
    boxes = []
    for key, values in choices.items():
        options = "".join(f'<option value="{v}">{v}</option>' for v in values)
        boxes.append(f'<label>{key} <select name="{key}"><option value="">any</option>{options}</select></label>')
    lines = [
        *("# The claims", ""),
        "What the papers and repositories say, in our words, and what became of it. Each claim has a page with the range for which",
        "it holds, its tests and, where there is one, a figure to drag.",
        *("", summary(claims), ""),
        *(f"- **{verdict}**: {meaning}" for verdict, meaning in MEANING.items()),
        *("", "Each verdict names its evidence, from the weakest to the strongest:", ""),
        *(f"- `{word}`: {meaning}" for word, meaning in EVIDENCE.items()),
        *("", "```{raw} html"),
        f'<form id="claims-filter" class="filter">{"".join(boxes)}<button type="reset">show all</button>',
        f'<output id="claims-count">{len(claims)} of {len(claims)} claims</output></form>',
        '<div class="table-wrapper"><table class="claims"><thead><tr>',
        "<th></th><th>the claim</th><th>verdict</th><th>evidence</th></tr></thead>",
    ]
    for system, group in groupby(claims, key=lambda c: c.system):
        lines.append(f'<tbody><tr class="system"><th colspan="4" scope="rowgroup">{html.escape(system)}</th></tr>')
        for c in group:
            named = " ".join(o.replace(" ", "-") for o in optimizers(c))
            data = f'data-verdict="{c.verdict}" data-optimizer="{named}" data-evidence="{" ".join(c.evidence)}"'
            mark = ' <span class="has-figure" title="with a figure to drag">&#9684;</span>' if c.id in figures else ""
            words = " ".join(f"<code>{e}</code>" for e in c.evidence)
            lines.append(
                f'<tr id="{c.id}" {data}><td><a href="claims/{c.id}.html">{c.id}</a>{mark}</td><td>{inline(c.statement)}</td>'
                f"<td>{badge(c.verdict)}</td><td>{words}</td></tr>"
            )
        lines.append("</tbody>")
    ids = "\n".join(f"claims/{c.id}" for c in claims)
    lines += ["</table></div>", "```", "", "```{toctree}", ":hidden:", "", ids, "```", ""]
    return "\n".join(lines)


def claim_page(claim: Claim, figures: Sequence[Figure], links: Links) -> str:
    """The page of a claim: its figures, what is said, the verdict, its scope, what holds it."""
    of = f"claims/{claim.id}"
    short = textwrap.shorten(claim.statement, 60, placeholder=" ...")
    lines = [f"# {claim.id} · {_escape(short)}", ""]
    for figure in figures:
        lines += [f"**{figure.said(claim.id)}**", "", living(figure, of), ""]
    held = []
    for node in claim.tests:
        file, _, name = node.partition("::")
        held.append(f"- [{name.replace('::', '.')}]({links.to(file, of)}#line-{_line(file, name)}) in `{file}`")
    shown = [f"- [{Path(n).stem}]({links.to(n, of)})" for n in claim.notebooks]
    evidence = "".join(f"\n- `{word}`: {EVIDENCE[word]}" for word in claim.evidence)
    lines += [f"> {_escape(claim.statement)}", "", f"Source: {_escape(claim.source)}", ""]
    lines += [
        "```{raw} html",
        f'<p class="verdict-line">{badge(claim.verdict)} {MEANING[claim.verdict]}</p>',
        "```",
        "",
    ]
    title = "What it waits for" if claim.verdict == "not run" else "For what it was checked"
    scope = links.markdown(_escape(claim.scope), "reference/claims.toml", of)
    lines += [f"## {title}", "", *(f"{p}\n" for p in _sentences(scope)), ""]
    if claim.evidence:
        lines += ["## What it rests on", evidence, ""]
    if held:
        lines += ["## Held by the tests", "", *held, ""]
    if shown:
        lines += ["## Shown in", "", *shown, ""]
    lines += [f"[All claims]({'../claims.html'}#{claim.id})", ""]
    return "\n".join(lines)


def _sentences(text: str) -> list[str]:
    """A long scope in paragraphs, of some three lines each, cut between sentences."""
    paragraphs, current = [], ""
    for sentence in re.split(r"(?<=[.)]) (?=[A-Z])", text):
        current = f"{current} {sentence}".strip()
        if len(current) > 260:
            paragraphs.append(current)
            current = ""
    return [*paragraphs, *([current] if current else [])]


def _line(file: str, name: str) -> int:
    """Where a test stands in its file."""
    last = name.rpartition("::")[2]
    text = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return next(i for i, line in enumerate(text, 1) if re.match(rf"\s*def {last}\(", line))


def _escape(text: str) -> str:
    """Plain text as Markdown; what stands between backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if i % 2 else re.sub(r"([*_\\\[\]<>$|#])", r"\\\1", p) for i, p in enumerate(parts))


def citations_page(claims: Sequence[Claim], links: Links) -> str:
    """Which paper or repository says what, and how to cite it: from CITATION.cff, the ledger and the heads of `reference`."""
    import yaml

    of = "citations"
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    lines = ["# Citations", "", f"{cited['message']}", ""]
    lines += [f"**{cited['title']}.** {_people(cited)}. Version {cited['version']}, {cited['license']}.", ""]
    lines += ["## The works", ""]
    for work in cited["references"]:
        where = [i["value"] for i in work.get("identifiers", [])]
        where += [work[k] for k in ("url", "repository-code") if k in work]
        addresses = ", ".join(_address(w) for w in where)
        year = f", {work['year']}" if "year" in work else ""
        lines.append(f"- {_people(work)}{year}. *{_escape(work['title'])}*. {addresses}")
    lines += ["", "## What each file of `reference` follows", "", "| file | source |", "|---|---|"]
    for path in sorted((ROOT / "reference").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if re.search(r"^def step\(", text, re.MULTILINE):
            head = re.split(r"\n\s*\n", text.split('"""')[1])[0]
            first = _addresses(_escape(" ".join(head.split())))
            lines.append(f"| [{path.name}]({links.to(f'reference/{path.name}', of)}) | {first} |")
    lines += ["", "## Which claim is whose", "", "| source | claims |", "|---|---|"]
    for source in dict.fromkeys(c.source for c in claims):
        ids = " ".join(f"[{c.id}](claims/{c.id}.html)" for c in claims if c.source == source)
        lines.append(f"| {_addresses(_escape(source))} | {ids} |")
    return "\n".join(lines) + "\n"


def _people(work: Mapping[str, object]) -> str:
    people = work.get("authors", [])
    assert isinstance(people, list)
    return ", ".join(
        p.get("name") or p.get("alias") or f"{p.get('given-names', '')} {p['family-names']}".strip() for p in people
    )


def _address(where: str) -> str:
    if where.startswith("arXiv:"):
        return f"[{where}](https://arxiv.org/abs/{where.removeprefix('arXiv:')})"
    return f"[{where.removeprefix('https://')}]({where})" if where.startswith("https://") else where


def _addresses(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5}(?:v\d+)?)", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
