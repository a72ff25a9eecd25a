"""The tests that depend on torch, on the torches that people have: `make matrix`, or python tests/house/matrix.py.

Each row of ENVIRONMENTS is an environment under .venv-matrix/, made once: torch, NumPy and pytest from the package index,
nothing else. What needs more than that is skipped there. --short runs tests/engine/test_versions.py alone, on the lowest torch:
that is part of `make test`, where an environment that cannot be made is said and passed over; here it counts as failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree


class Environment(NamedTuple):
    torch: str
    python: str  # used where it is found, else the one that runs this
    numpy: str = ""  # the newest


ENVIRONMENTS = [Environment("2.6.0", "3.11", "1.26.0"), Environment("2.11.0", "3.12"), Environment("2.14.1", "3.13")]
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-matrix"
SHORT = ["tests/engine/test_versions.py"]
FULL = [
    *SHORT,
    "tests/engine/test_contract_*.py",
    "tests/experiments/test_agreement.py",
    "tests/kernels/test_direct.py",
    "tests/kernels/test_buckets.py",
    "tests/kernels/test_kernels.py",
    "tests/kernels/test_lists.py",
    "tests/partition/test_partition*.py",
    "tests/engine/test_unusual_tensors.py",
    "tests/engine/test_flat_shards.py",
    "tests/engine/test_pruned_rows.py",
]
Row = tuple[str, ...]
HEAD: Row = ("torch", "Python", "passed", "failed", "skipped", "seconds")


def interpreter(version: str) -> str:
    """The Python of that version, or the one that runs this."""
    found = shutil.which(f"python{version}")
    works = found and not subprocess.run([found, "-c", ""], capture_output=True).returncode  # a shim may lead nowhere
    return found if found and works else sys.executable


def tools() -> list[str]:
    """pytest and its plugins, as constraints.txt pins them."""
    return [
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split() if line.startswith("pytest")
    ]


def made(environment: Environment, folder: Path = FOLDER) -> Path:
    """Its Python, after it has been made where it is missing. CalledProcessError says why that cannot be."""
    place = folder / f"torch-{environment.torch}"
    python, stamp = place / "bin" / "python", place / "made"
    wanted = [f"torch=={environment.torch}", "numpy" + f"=={environment.numpy}" * bool(environment.numpy), *tools()]
    base = interpreter(environment.python)
    recipe = " ".join([os.path.realpath(base), *wanted])  # behind the link of an environment, which may be made anew
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == recipe):
        print(f"== making {place}: torch {environment.torch} (some minutes)", flush=True)
        steps = [[base, "-m", "venv", "--clear", str(place)]]
        steps += [[str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]]
        for step in steps:
            subprocess.run(step, check=True, stderr=subprocess.PIPE, text=True)
        stamp.write_text(recipe, encoding="utf-8")
    return python


def counts(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped of a JUnit report."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    return total - failures - errors - skipped, failures + errors, skipped


def run(environment: Environment, python: Path, tests: Sequence[str]) -> tuple[Row, bool]:
    """The row of the table, and whether all is well: pytest says so, and something has passed."""
    files = sorted(str(path.relative_to(ROOT)) for pattern in tests for path in ROOT.glob(pattern))
    report = python.parent.parent / "report.xml"
    report.unlink(missing_ok=True)
    command = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-rs",
        "--show-capture=no",
        "-n",
        "2",
        "--dist",
        "loadfile",
        f"--junitxml={report}",
    ]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "ADAMLAB_EXTRAS": "", "PYTHONPATH": str(ROOT)}
    version = [str(python), "-c", "import platform; print(platform.python_version())"]
    number = subprocess.run(version, check=True, capture_output=True, text=True).stdout.strip()
    began = time.monotonic()
    status = subprocess.run([*command, *files], cwd=ROOT, env=variables).returncode
    seconds = f"{time.monotonic() - began:.0f}"
    if not report.exists():
        return (environment.torch, number, "-", f"pytest ended with {status}", "-", seconds), False
    found = counts(report)
    return (environment.torch, number, *map(str, found), seconds), status == 0 and found[0] > 0


def table(rows: Sequence[Row]) -> str:
    widths = [max(len(row[i]) for row in [HEAD, *rows]) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in [HEAD, *rows]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the short part, on the lowest torch")
    short = parser.parse_args(arguments).short
    rows: list[Row] = []
    good = True
    for environment in ENVIRONMENTS[:1] if short else ENVIRONMENTS:
        try:
            python = made(environment)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            reason = next((line for line in said.splitlines() if line.startswith("ERROR")), said.strip()[-200:])
            print(f"SKIPPED torch {environment.torch}: its environment could not be made ({reason})", file=sys.stderr)
            rows.append((environment.torch, environment.python, "-", "not made", "-", "-"))
            good = good and short
            continue
        row, well = run(environment, python, SHORT if short else FULL)
        rows.append(row)
        good = good and well
    print(table(rows))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
