"""tests/house/matrix.py counts what happened: a failure, a test run that found nothing, an environment that could not be made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matrix
import pytest

LOWEST = matrix.ENVIRONMENTS[0]
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This Python, as that of an environment, in a folder that stands for the repository."""
    path = tmp_path / "environment" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    monkeypatch.setattr(matrix, "ROOT", tmp_path)
    return path


@pytest.mark.parametrize(
    ("source", "counted", "well"),
    [
        ("def test_a(): pass", ("1", "0", "0"), True),
        ("def test_a(): pass\ndef test_b(): assert 0", ("1", "1", "0"), False),
        ("import pytest\ndef test_a(): pytest.skip('why')", ("0", "0", "1"), False),
        ("import no_such_module", ("0", "1", "0"), False),
        ("", ("0", "0", "0"), False),
    ],
)
def test_a_row(python: Path, source: str, counted: tuple[str, ...], well: bool) -> None:
    (python.parents[2] / "test_it.py").write_text(source)
    row, good = matrix.run(LOWEST, python, ["test_*.py"])
    assert (row[0], row[2:5], good) == (LOWEST.torch, counted, well)


@pytest.mark.parametrize(("arguments", "status", "rows"), [(["--short"], 0, 1), ([], 1, len(matrix.ENVIRONMENTS))])
def test_an_environment_that_cannot_be_made(
    arguments: list[str], status: int, rows: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(environment: matrix.Environment) -> Path:
        raise subprocess.CalledProcessError(1, "pip", stderr="...\nERROR: No matching distribution found for torch\n")

    monkeypatch.setattr(matrix, "made", made)
    assert matrix.main(arguments) == status
    out, err = capsys.readouterr()
    assert out.count("not made") == rows
    assert f"SKIPPED torch {LOWEST.torch}: its environment could not be made (ERROR: No matching" in err


def test_one_failure_is_the_matrix_s(monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (None, matrix.ENVIRONMENTS[1]):
        monkeypatch.setattr(matrix, "made", lambda environment: Path())
        monkeypatch.setattr(
            matrix, "run", lambda e, python, tests, bad=bad: ((e.torch, "", "1", "0", "0", "1"), e != bad)
        )
        assert matrix.main([]) == int(bad is not None)


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And anew where another NumPy is asked for, where another Python is found, and where the one behind a link changes."""
    link, ran = tmp_path / "python", list[list[str]]()

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        (tmp_path / f"torch-{LOWEST.torch}").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0)

    def made(environment: matrix.Environment, python: str) -> list[list[str]]:
        ran.clear()
        monkeypatch.setattr(matrix, "interpreter", lambda version: python)
        matrix.made(environment, tmp_path)
        return [*ran]

    monkeypatch.setattr(subprocess, "run", run)
    other = LOWEST._replace(numpy="2.0.0")
    venv, install = made(LOWEST, "/usr/bin/first")
    assert venv[0] == "/usr/bin/first" and f"torch=={LOWEST.torch}" in install
    assert not made(LOWEST, "/usr/bin/first")
    assert "numpy==2.0.0" in made(other, "/usr/bin/first")[1]
    assert made(other, "/usr/bin/second")[0][0] == "/usr/bin/second"
    for target, anew in [("/usr/bin/first", True), ("/usr/bin/second", True), ("/usr/bin/second", False)]:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert bool(made(other, str(link))) == anew


@pytest.mark.parametrize(
    ("asked", "counts"), [("", {"passed": 1, "skipped": 2, "failed": 1}), ("required", {"errors": 1})]
)
def test_what_needs_an_optional_package_is_skipped(
    asked: str, counts: dict[str, int], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAMLAB_EXTRAS", asked)
    monkeypatch.setenv("PYTHONPATH", str(TESTS / "common"))
    pytester.makeconftest((TESTS / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers =\n    compiler\n    claim(id)\n    cuda\n")
    pytester.makepyfile(
        test_a="import sys\nsys.modules['scipy'] = None\nimport scipy.linalg",
        test_b="import sys\nsys.modules['peft'] = None\ndef test_peft(): import peft\ndef test_plain(): pass\n"
        "def test_typing_error(): import scipyy",
    )
    result = pytester.runpytest_subprocess("-rs", "-p", "no:cacheprovider")
    assert result.parseoutcomes() == counts
    if not asked:
        result.stdout.fnmatch_lines_random(["*scipy* is not installed", "*peft is not installed"])


def test_every_pattern_finds_tests() -> None:
    """A file that was moved would be left out without a word."""
    assert not [pattern for pattern in matrix.FULL if not [*TESTS.parent.glob(pattern)]]
