"""What the audit says: as a table to read, as JSON to keep, as JUnit for a CI's own report.

print("\\n".join(table(record)))        of a whole audit: figures/data/audit.json
verdict(cell, outcomes)                 0 where the rule and all of the contract hold, else 1
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from xml.etree import ElementTree

from experiments.audit.cells import STATUS, Cell
from experiments.audit.contract import BREAKS, HOLDS, Outcome
from experiments.audit.rules import TITLES

RIGHT = ("agrees", "documented", "released", "float32", "low-bit", "random")
SHORT = {"documented": "its own variant", "released": "the released code's variant"}


def plain(cell: Cell) -> dict[str, Any]:
    """A cell as JSON, its digits to one place."""
    out = asdict(cell)
    for name in ("digits", "digits32", "float32"):
        out[name] = {k: round(v, 1) for k, v in out[name].items()}
    out["explained"] = None if cell.explained is None else round(cell.explained, 1)
    out["least"] = None if cell.least is None else round(cell.least, 1)
    return out


def machine() -> dict[str, str]:
    out = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    for name in ("torch", "numpy"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "absent"
    return out


def finding(cell: Mapping[str, Any]) -> str:
    """One sentence of what a cell found."""
    if cell["status"] in ("differs", "released"):
        text = f"{cell['line']}: {cell['what']} ({cell['explained']:.1f} digits with it)"
    elif cell["status"] == "unexplained":
        text = f"unexplained to 12 digits; nearest: {cell['nearest']}"
    elif cell["status"] == "documented":
        text = f"{'; '.join(cell['claims'])} ({cell['cites']})"
    else:
        text = cell["what"]
    return "; ".join(x for x in (text, cell["error"]) if x)


def table(record: Mapping[str, Any]) -> list[str]:
    """A line for each cell, this project's own first, and one for each optimizer's contract."""
    lines = [f"{'library':20s}{'class':52s}{'rule':12s}{'digits':>7s} {'in float32':>12s}  status"]
    for cell in record["cells"]:
        least = "-" if cell["least"] is None else f"{cell['least']:.1f}"
        both = [min(cell[k].values()) for k in ("digits32", "float32") if cell[k]]
        of = f"{both[0]:.1f} of {both[1]:.1f}" if len(both) == 2 else "-"
        name = f"{cell['library']} {cell['version']}"[:19]
        found = finding(cell)
        said = f"{cell['status']}{': ' if found else ''}{found}"
        lines.append(f"{name:20s}{cell['label'][:51]:52s}{TITLES[cell['rule']]:12s}{least:>7s} {of:>12s}  {said}")
    lines.append("")
    for entry in record["contract"]:
        broken = [term for term, found in entry["terms"].items() if found["status"] == BREAKS]
        kept = sum(found["status"] == HOLDS for found in entry["terms"].values())
        lines.append(
            f"{entry['library']:20s}{entry['label'][:51]:52s}{kept:2d} terms hold; breaks: {', '.join(broken) or 'none'}"
        )
    return lines


def contract_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The contract of one optimizer, with five lines to run for each term that breaks."""
    lines = []
    for outcome in outcomes:
        lines.append(f"  {outcome.status:10s}{outcome.term}{': ' if outcome.said else ''}{outcome.said}")
        if outcome.reproducer:
            lines += ["", *(f"      {line}" for line in outcome.reproducer.splitlines()), ""]
    return lines


def cell_lines(cell: Cell) -> list[str]:
    """One optimizer beside its rule."""
    if cell.status == "absent":
        return [f"  {cell.error}"]
    lines = [f"  {cell.status}: {STATUS[cell.status]}", *([f"  {found}"] if (found := finding(plain(cell))) else [])]
    for name, digits in cell.digits.items():
        lines.append(
            f"  {name:18s}{digits:5.1f} digits, in float32 {cell.digits32[name]:.1f} of {cell.float32[name]:.1f}"
        )
    return lines


def verdict(cell: Cell | None, outcomes: Sequence[Outcome]) -> int:
    """The exit status: 0 where the rule, if one is named, and the whole contract hold."""
    return int((cell is not None and cell.status not in RIGHT) or any(o.status == BREAKS for o in outcomes))


def junit(target: str, cell: Cell | None, outcomes: Sequence[Outcome]) -> str:
    """A test suite of JUnit: a test case for the rule and one for each term."""
    suite = ElementTree.Element("testsuite", name=f"audit of {target}")
    if cell is not None:
        case = ElementTree.SubElement(suite, "testcase", classname=target, name=f"rule {cell.rule}")
        if cell.status not in RIGHT:
            text = "\n".join(cell_lines(cell))
            ElementTree.SubElement(case, "failure", message=f"{cell.status}: {finding(plain(cell))}").text = text
    for outcome in outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname=target, name=outcome.term)
        if outcome.status == BREAKS:
            ElementTree.SubElement(case, "failure", message=outcome.said).text = outcome.reproducer
        elif outcome.status != HOLDS:
            ElementTree.SubElement(case, "skipped", message=outcome.said)
    cases = list(suite)
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def by_library(record: Mapping[str, Any]) -> str:
    """The table of site/text/audit.md: a row for each library, with the rules that its classes are and those that they are not."""
    rows = ["| library | rules to 12 digits | otherwise |", "|---|---|---|"]
    cells = record["cells"]
    for library in dict.fromkeys(cell["library"] for cell in cells):
        own = [cell for cell in cells if cell["library"] == library and cell["status"] != "absent"]
        if not own:
            continue
        right = dict.fromkeys(TITLES[c["rule"]] for c in own if c["status"] == "agrees")
        right |= dict.fromkeys(f"{TITLES[c['rule']]} ({SHORT[c['status']]})" for c in own if c["status"] in SHORT)
        rest: dict[str, str] = {}
        for cell in own:
            if cell["status"] not in ("agrees", *SHORT):
                name = cell["label"].partition("(")[0]
                rest.setdefault(f"`{name}` as {TITLES[cell['rule']]}: {cell['status']}{_why(cell)}", "")
        rows.append(
            f"| {library} {own[0]['version'].partition('+')[0]} | {', '.join(right) or '-'} | {'; '.join(rest) or '-'} |"
        )
    return "\n".join(rows)


def _why(cell: Mapping[str, Any]) -> str:
    if cell["status"] == "differs":
        return f" ({cell['line']} {cell['what']})"
    return f" ({cell['error'].partition(': ')[0]})" if cell["status"] == "fails" else ""
