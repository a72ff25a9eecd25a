"""Every test that is marked `cuda`, in as many processes as the machine bears: the first part of `python -m experiments.gpu`.

pytest runs with its own plugins alone, since others may be there, or not, and with settings of its own: pyproject.toml's
`timeout` would be an error without its plugin, and a warning of another torch would fail every test that meets it; such
warnings are noted. That a step was not compiled stays an error. Tests that take times are marked `slow`, and left out: what they
measure is measured by the next part, with nobody beside it.
"""

from __future__ import annotations

import ast
import json
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.gpu.child import ROOT, Child, environment, wait_for

MARKED = "cuda and not slow"
SHOWN = 60  # failures that the file lists in full


def marked_files(folder: Path) -> list[Path]:
    """The test files with a test, or all tests, marked `cuda`: read, not imported, since others may need what is missing here."""
    return [path for path in sorted(folder.glob("test_*.py")) if _marks_cuda(path.read_text(encoding="utf-8"))]


def _marks_cuda(source: str) -> bool:
    return any(
        ast.unparse(n) == "pytest.mark.cuda" for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)
    )


def settings(work: Path) -> Path:
    """A settings file for pytest, with pyproject.toml's marks and nothing of a plugin's."""
    own = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    lines = ["[pytest]", "addopts = --strict-markers", "markers =", *(f"    {mark}" for mark in own["markers"])]
    lines += ["filterwarnings =", "    default", "    error:torch.compile failed:RuntimeWarning"]
    path = work / "pytest.ini"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def command(files: list[Path], work: Path, part: int, parts: int) -> list[str]:
    """pytest on one part of the tests."""
    options = ["-q", "-m", MARKED, "-p", "no:cacheprovider", "-p", "experiments.gpu.outcomes", "--no-header"]
    places = ["-c", str(settings(work)), "--rootdir", str(ROOT), "--basetemp", str(work / f"pytest-{part}")]
    own = ["--outcomes", str(outcomes(work, part)), "--part", f"{part}/{parts}"]
    return [sys.executable, "-m", "pytest", *options, *places, *own, *map(str, files)]


def outcomes(work: Path, part: int) -> Path:
    return work / f"outcomes-{part}.jsonl"


def run(
    work: Path, parts: int, seconds: float, keep: Callable[[dict[str, Any]], None], folder: Path = ROOT / "tests"
) -> None:
    """Runs them all, at most so many seconds, and keeps what is known every few seconds."""
    files, began, kept = marked_files(folder), time.monotonic(), 0.0
    children = []
    try:
        for part in range(parts):
            outcomes(work, part).unlink(missing_ok=True)
            own = environment(work, work / "cache" / "numerics") | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            children.append(Child(command(files, work, part, parts), own, work / f"pytest-{part}.txt", ROOT))
        while (running := [c for c in children if c.alive]) and time.monotonic() < began + seconds:
            wait_for(running, began + seconds - time.monotonic())
            for child in running:
                for _ in child.lines():
                    pass
            if time.monotonic() > kept + 5:
                kept = time.monotonic()
                keep(gathered(work, parts, began, files))
    finally:
        ended = [(child.alive, child.end()) for child in children]
    found = gathered(work, parts, began, files)
    for part, (late, status) in enumerate(ended):
        # 1: some failed, 5: this part had none
        if late or status not in (0, 1, 5):
            why = f"over {seconds:.0f} s" if late else f"status {status}: {_last_words(work, part)}"
            found["processes"].append({"part": part, "ended": why})
    keep(found)


def _last_words(work: Path, part: int) -> str:
    said = (work / f"pytest-{part}.txt").read_text(errors="replace").strip().splitlines()
    return said[-1][:300] if said else ""


def gathered(work: Path, parts: int, began: float, files: list[Path]) -> dict[str, Any]:
    """What the parts' files say so far. A test's teardown can fail after the test has passed: the worst outcome counts."""
    tests: set[str] = set()
    results: dict[str, dict[str, Any]] = {}
    warned: dict[str, int] = {}
    for found in _lines(work, parts):
        tests |= set(found.get("tests", ()))
        if "warning" in found:
            warned[found["warning"]] = warned.get(found["warning"], 0) + 1
        if "test" in found:
            before = results.get(found["test"])
            if before is None or (found["outcome"] == "failed" and before["outcome"] != "failed"):
                results[found["test"]] = found
    by = {kind: [r for r in results.values() if r["outcome"] == kind] for kind in ("passed", "failed", "skipped")}
    reasons: dict[str, int] = {}
    for one in by["skipped"]:
        reasons[one["error"]] = reasons.get(one["error"], 0) + 1
    return {
        "files": [path.name for path in files],
        "tests": len(tests),
        "passed": len(by["passed"]),
        "failed": len(by["failed"]),
        "skipped": len(by["skipped"]),
        "skipped_because": reasons,
        "without_a_result": sorted(tests - results.keys()),
        "failures": [{"test": r["test"], "error": r["error"]} for r in sorted(by["failed"], key=lambda r: r["test"])][
            :SHOWN
        ],
        "warnings": warned,
        "processes": [],
        "seconds": round(time.monotonic() - began, 1),
    }


def _lines(work: Path, parts: int) -> Iterator[dict[str, Any]]:
    for part in range(parts):
        path = outcomes(work, part)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                yield json.loads(line)
            except ValueError:  # the last one, of a process that was killed while it wrote
                continue
