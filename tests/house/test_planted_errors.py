"""An error planted in `reference/` makes the suite fail, and the figures' comparison sees it where it changes a picture.

Each error goes into a copy of the project, where the tests of the algorithms run, and the first notebook draws. Tests that only
read the source (the line tags) are left out: the numbers must tell. Slow: every error takes a run of both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.figures import numbers as figure_numbers

ROOT = Path(__file__).resolve().parents[2]
SUITE = [f"tests/reference/test_reference{x}.py" for x in ("", "_adam_mini", "_adams", "_by_hand", "_exact")]
# what: file, the line as it is, the line with the error, and the figures of notebook 00 that change enough to be seen
ERRORS = {
    "swapped beta": ("grams", "m = beta1 * m + (1 - beta1) * g", "m = beta2 * m + (1 - beta2) * g", ["00_one_hill"]),
    "lost sign": ("grams", "uhat = sign(g) * absolute(u)", "uhat = absolute(u)", ["00_one_hill", "00_one_step"]),
    "decay on the wrong side": (
        "grams",
        "w = w - lr * uhat  # l.11\n    w = w - lr * weight_decay * w",
        "w = w - lr * weight_decay * w  # l.11\n    w = w - lr * uhat",
        [],  # the figures do without decay
    ),
    "no bias correction": ("adam", "mhat = m / (1 - beta1**t)", "mhat = m", ["00_one_hill", "00_one_step"]),
    "eps under the root": ("adam", "(sqrt(vhat) + eps)", "sqrt(vhat + eps)", []),
    "growth for decay": ("adamw", "w = w - lr * weight_decay * w", "w = w + lr * weight_decay * w", []),
    "mask the wrong way": ("cautious", "positive(u * g)", "positive(-u * g)", ["00_one_hill", "00_one_step"]),
    "the other beta": ("lion", "c = beta1 * m + (1 - beta1) * g", "c = beta2 * m + (1 - beta2) * g", ["00_one_step"]),
    "no root of M": ("adams", "weight_decay * sqrt(height) * rank_one", "weight_decay * rank_one", []),
    "square of the mean": ("adam_mini", "block_mean(g * g, blocks)", "block_mean(g, blocks) ** 2", ["00_one_step"]),
    "no root of v": ("adam_atan2", "atan2(mhat, b * sqrt(vhat))", "atan2(mhat, b * vhat)", []),
    "late average": ("cautious_lion", "m = beta2 * m + (1 - beta2) * g", "m = beta1 * m + (1 - beta1) * g", []),
}


def copy_with(error: str, folder: Path) -> dict[str, str]:
    """A copy of the project with one planted error, "" for none; the environment in which it is imported."""
    for name in ("reference", "experiments", "fast", "tests", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if error:
        file, right, wrong, _ = ERRORS[error]
        path = folder / "reference" / f"{file}.py"
        text = path.read_text(encoding="utf-8")
        assert text.count(right) == 1
        path.write_text(text.replace(right, wrong), encoding="utf-8")
    return os.environ | {"PYTHONPATH": str(folder), "ADAMLAB_FIGURES": str(folder / "figures")}


def suite_status(folder: Path, env: dict[str, str]) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *SUITE]
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr  # not a collection that broke
    return ran.returncode


def figures_that_differ(folder: Path, env: dict[str, str]) -> set[str]:
    """Of notebook 00, which may end in its own assertions."""
    command = [sys.executable, "-m", "experiments.notebooks", "notebooks/00_start_here.ipynb"]
    subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)
    found = figure_numbers.compare(folder / "figures", ROOT / "figures")
    return {name for name, how in found.items() if how != "not redrawn"} - {"00_map"}  # a map of the source


@pytest.mark.slow
def test_without_an_error_both_pass(tmp_path: Path) -> None:
    env = copy_with("", tmp_path)
    assert suite_status(tmp_path, env) == 0 and not figures_that_differ(tmp_path, env)
    assert {"00_one_hill", "00_one_step"} <= {p.stem for p in (tmp_path / "figures").glob("*.svg")}


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
def test_a_planted_error_is_seen(error: str, tmp_path: Path) -> None:
    env = copy_with(error, tmp_path)
    assert suite_status(tmp_path, env) == 1
    if seen := ERRORS[error][3]:
        assert set(seen) <= figures_that_differ(tmp_path, env)
