"""Every test that is marked `cuda`, in as many processes as the machine bears: the first part of `python -m experiments.gpu`.

pytest runs with its own plugins alone, since others may be there, or not, and with settings of its own: pyproject.toml's
`timeout` would be an error without its plugin, and a warning of another torch would fail every test that meets it; such
warnings are noted. That a step was not compiled stays an error. Tests that take times are marked `slow`, and left out: what they
measure is measured by the next part, with nobody beside it.
"""

from __future__ import annotations

import ast
import contextlib
import json
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.gpu.child import ROOT, Child, environment, wait_for

MARKED = "cuda and not slow"
TEST_SECONDS = 75.0  # for one test, which may compile
SHOWN = 60  # failures that the file lists in full


def marked_files(folder: Path) -> list[Path]:
    """The test files with a test, or all tests, marked `cuda`: read, not imported, since others may need what is missing here."""
    return [path for path in sorted(folder.rglob("test_*.py")) if _marks_cuda(path.read_text(encoding="utf-8"))]


def _marks_cuda(source: str) -> bool:
    return any(
        ast.unparse(n) == "pytest.mark.cuda" for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)
    )


def settings(work: Path) -> Path:
    """A settings file for pytest, with pyproject.toml's marks and paths, and nothing of a plugin's."""
    own = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    lines = ["[pytest]", "addopts = --strict-markers", "markers =", *(f"    {mark}" for mark in own["markers"])]
    lines += ["pythonpath =", *(f"    {ROOT / path}" for path in own["pythonpath"])]
    lines += ["filterwarnings =", "    default", "    error:torch.compile failed:RuntimeWarning"]
    path = work / "pytest.ini"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Part:
    """A part of the tests, in a process that is begun anew where a test has ended it."""

    def __init__(self, files: list[Path], work: Path, own: int, parts: int) -> None:
        self.own, self.work, self.path = own, work, work / f"outcomes-{own}.jsonl"
        self.path.unlink(missing_ok=True)
        options = ["-q", "-m", MARKED, "-p", "no:cacheprovider", "-p", "experiments.gpu.outcomes", "--no-header"]
        places = ["-c", str(settings(work)), "--rootdir", str(ROOT), "--basetemp", str(work / f"pytest-{own}")]
        said = ["--outcomes", str(self.path), "--part", f"{own}/{parts}", "--seconds", str(TEST_SECONDS)]
        self.command = [sys.executable, "-m", "pytest", *options, *places, *said, *map(str, files)]
        self.begin()

    def begin(self) -> None:
        self.begun = self.count("begins")
        own = environment(self.work, self.work / "cache" / "numerics", 1) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        self.child = Child(self.command, own, self.work / f"pytest-{self.own}.txt", ROOT)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What pytest has said so far (experiments/gpu/outcomes.py)."""
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            with contextlib.suppress(ValueError):  # the last one, of a process that was killed while it wrote
                yield json.loads(line)

    def count(self, what: str) -> int:
        return sum(what in found for found in self.lines())

    @property
    def done(self) -> bool:
        """Whether pytest has come to its end; its process may hang in its own, when all is known."""
        return self.count("finished") > 0

    def goes_on(self) -> bool:
        """Whether more is to come. Where a test has ended the process, the others run in a new one; one must have begun."""
        for _ in self.child.lines():
            pass
        if self.done:
            return False
        if not self.child.alive:
            self.child.end()
            if self.count("begins") == self.begun:
                return False
            self.begin()
        return True


def run(
    work: Path, parts: int, seconds: float, keep: Callable[[dict[str, Any]], None], folder: Path = ROOT / "tests"
) -> None:
    """Runs them all, at most so many seconds, and keeps what is known every few seconds."""
    files, began, kept = marked_files(folder), time.monotonic(), 0.0
    going = every = [Part(files, work, own, parts) for own in range(parts)]
    try:
        while (going := [part for part in going if part.goes_on()]) and time.monotonic() < began + seconds:
            wait_for([part.child for part in going], began + seconds - time.monotonic())
            if time.monotonic() > kept + 5:
                kept = time.monotonic()
                keep(gathered(every, began, files))
    finally:
        for part in every:
            part.child.end()
    found = gathered(every, began, files)
    found["processes"] = [f"{part.own}: {part.child.last_words()}" for part in every if not part.done]
    keep(found)


def gathered(parts: list[Part], began: float, files: list[Path]) -> dict[str, Any]:
    """What the parts say so far. A test's teardown can fail after the test has passed: the worst outcome counts."""
    tests: set[str] = set()
    results: dict[str, dict[str, Any]] = {}
    warned: Counter[str] = Counter()
    for found in (line for part in parts for line in part.lines()):
        tests |= set(found.get("tests", ()))
        if "warning" in found:
            warned[found["warning"]] += 1
        if "test" in found:
            before = results.get(found["test"])
            if before is None or (found["outcome"] == "failed" and before["outcome"] != "failed"):
                results[found["test"]] = found
    by = {kind: [r for r in results.values() if r["outcome"] == kind] for kind in ("passed", "failed", "skipped")}
    failures = sorted(by["failed"], key=lambda r: r["test"])
    return {
        "files": [path.name for path in files],
        "tests": len(tests),
        **{kind: len(some) for kind, some in by.items()},
        "skipped_because": Counter(r["error"] for r in by["skipped"]),
        "without_a_result": sorted(tests - results.keys()),
        "failures": [{"test": r["test"], "error": r["error"]} for r in failures[:SHOWN]],
        "warnings": warned,
        "processes": [],
        "seconds": round(time.monotonic() - began, 1),
    }
