"""Whose implementation is the algorithm, to how many digits, and which line is not: python -m experiments.audit

Without a class, all contestants (`contestants.py`) that are installed are audited, two libraries at a time, each in processes of
its own; figures/data/audit.json keeps what was found. With one,

    python -m experiments.audit package.module:Class --rule adamw --map weight_decay=wd --option foreach=True

prints that class's table: digits in each trial beside the rule, with the line that explains what is missing, and the contract,
with five lines to run for each term that breaks. The exit status is 0 where all hold, 1 where something does not, 2 where the
class cannot be imported. --json and --junit write the same to a file.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments.audit import report
from experiments.audit.adapters import OURS, Contestant
from experiments.audit.cells import Cell, audit
from experiments.audit.contestants import CONTESTANTS
from experiments.audit.contract import Subject, check
from experiments.audit.faults import FAULTS, run
from experiments.audit.rules import available

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "figures" / "data" / "audit.json"
PART = 6  # contestants of a process: one library's, so that what it sets, prints or breaks stays there
LIMIT = 480  # seconds that one process may take


def subject(contestant: Contestant) -> Subject:
    """What the contract is asked of."""
    chosen = {"options": contestant.options, "names": contestant.names, "kind": contestant.kind, **contestant.contract}
    return Subject(contestant.target, **chosen)


def parts() -> list[str]:
    """The libraries, this project first, in parts: "timm:0", "timm:1"."""
    entered = [c.library for c in CONTESTANTS if c.rule in available()]
    libraries = sorted(dict.fromkeys(entered), key=lambda name: (name != OURS, name != "torch"))
    return [f"{name}:{i}" for name in libraries for i in range(-(-entered.count(name) // PART))]


def contestants_of(part: str) -> list[Contestant]:
    library, _, number = part.partition(":")
    own = [c for c in CONTESTANTS if c.library == library and c.rule in available()]
    return own[PART * int(number) : PART * (int(number) + 1)]


def of_part(part: str) -> dict[str, Any]:
    """All that the audit finds of one library's part, in this process."""
    cells: list[Cell] = []
    contracts, faults = [], []
    for contestant in contestants_of(part):
        cell = audit(contestant)
        cells.append(cell)
        if contestant.of_torch and cell.status != "absent":
            contestant.make()  # with its settings
            outcomes = check(subject(contestant))
            terms = {o.term: {"status": o.status, "said": o.said} for o in outcomes}
            contracts.append(
                {"library": contestant.library, "label": contestant.label, "target": contestant.target, "terms": terms}
            )
    if part.endswith(":0") and any(cell.status != "absent" for cell in cells):
        faults = [run(fault) for fault in FAULTS if fault.contestant.library == cells[0].library]
    return {"cells": [report.plain(cell) for cell in cells], "contract": contracts, "faults": faults}


def _in_a_process(part: str, limit: float) -> dict[str, Any]:
    """The same in a process of its own; where that fails, all of its contestants are absent, and why."""
    command = [sys.executable, "-W", "ignore", "-m", "experiments.audit", "--part", part]
    quiet = {"KERAS_BACKEND": "torch", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    env = {**quiet, **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    start = time.perf_counter()
    try:
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit, check=False)
        found = json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else None
        why = (ran.stderr.strip().splitlines() or ["no output"])[-1][:200]
    except subprocess.TimeoutExpired:
        found, why = None, f"not done within {limit:g} s"
    if found is None:
        cells = [Cell(c.library, "", c.label, c.target, c.rule, error=why) for c in contestants_of(part)]
        found = {"cells": [report.plain(cell) for cell in cells], "contract": [], "faults": []}
    absent = all(cell["status"] == "absent" for cell in found["cells"])
    said = f"absent: {found['cells'][0]['error']}" if absent and found["cells"] else f"{len(found['cells'])} cells"
    print(f"  {part:20s}{time.perf_counter() - start:6.0f} s  {said}", file=sys.stderr, flush=True)
    return found


def everything(jobs: int = 2, limit: float = LIMIT, only: Sequence[str] = ()) -> dict[str, Any]:
    """The whole audit, this project's own rows first; or that of some libraries."""
    start = time.perf_counter()
    wanted = [part for part in parts() if not only or part.partition(":")[0] in only]
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda part: _in_a_process(part, limit), wanted))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    record: dict[str, Any] = {**report.machine(), "seconds": round(time.perf_counter() - start)}
    record["processor_seconds"] = round(used.ru_utime + used.ru_stime)
    for kind in ("cells", "contract", "faults"):
        record[kind] = [entry for part in found for entry in part[kind]]
    return record


def put_into(kept: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The kept record with the libraries of another in the place of its own."""
    names = [part.partition(":")[0] for part in parts()]
    new = {cell["library"] for cell in record["cells"]}
    out: dict[str, Any] = {**kept}
    for kind in ("cells", "contract", "faults"):
        entries = [e for e in kept[kind] if e["library"] not in new] + list(record[kind])
        out[kind] = sorted(entries, key=lambda e: names.index(e["library"]) if e["library"] in names else len(names))
    return out


def one(given: argparse.Namespace) -> int:
    """The table of a user's own class."""
    names = {k: (None if v == "" else v) for k, _, v in (pair.partition("=") for pair in given.map)}
    options = {k: _value(v) for k, _, v in (pair.partition("=") for pair in given.option)}
    contestant = Contestant(given.target, given.target, given.rule or "adamw", options, names, kind=given.given)
    try:
        contestant.make()
    except (ImportError, AttributeError, ValueError) as error:
        print(f"{given.target}: {error}; the class is given as package.module:Class", file=sys.stderr)
        return 2
    cell = audit(replace(contestant, library="torch")) if given.rule else None
    outcomes = check(subject(contestant))
    if cell:
        print(f"{given.target} beside reference/{cell.rule}.py")
        print("\n".join(report.cell_lines(cell)))
    print(f"the contract of {given.target}")
    print("\n".join(report.contract_lines(outcomes)))
    if given.json:
        kept = {
            "target": given.target,
            "cell": report.plain(cell) if cell else None,
            "contract": [asdict(o) for o in outcomes],
        }
        given.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if given.junit:
        given.junit.write_text(report.junit(given.target, cell, outcomes), encoding="utf-8")
    return report.verdict(cell, outcomes)


def _value(text: str) -> Any:
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.audit", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "target", nargs="?", help="package.module:Class, a torch.optim.Optimizer; all contestants without it"
    )
    parser.add_argument("--rule", choices=available(), help="the rule that the class says it is")
    parser.add_argument(
        "--map", action="append", default=[], metavar="OURS=THEIRS", help="a hyper-parameter's name: betas=beta"
    )
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an argument of the class")
    parser.add_argument(
        "--given", choices=["params", "named", "model", "group"], default="params", help="what it is built from"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write what was found (all contestants: figures/data/audit.json)"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit report")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds that a process may take")
    parser.add_argument(
        "--only", action="append", default=[], metavar="LIBRARY", help="audit it alone; the record keeps the others"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)  # of one library, as JSON on the last line of the output
    given = parser.parse_args(arguments)
    if given.target:
        return one(given)
    if given.part:
        print(json.dumps(of_part(given.part)))
        return 0
    record = everything(given.jobs, given.limit, given.only)
    path = given.json or RECORD
    if given.only and path.exists():
        record = put_into(json.loads(path.read_text(encoding="utf-8")), record)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n".join(report.table(record)))
    print(f"{len(record['cells'])} cells in {record['seconds']} s: {path}", file=sys.stderr)
    ours = [cell for cell in record["cells"] if cell["library"] == OURS]
    return int(not ours or any(cell["status"] not in report.RIGHT for cell in ours))


if __name__ == "__main__":
    raise SystemExit(main())
