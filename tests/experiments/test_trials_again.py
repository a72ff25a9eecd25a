"""A sample of the trials, run once more: a slice of every task, held to the spread of the runs that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import tasks
from experiments.pages.trials import again
from experiments.trials.protocol import Protocol
from experiments.trials.statistics import load

PROTOCOL = Protocol.read()


def task_of(name: str) -> tasks.Task:
    return tasks.load(name, **PROTOCOL.tasks[name].get("options", {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "recurrent", "control", "vision", "language"])
def test_a_slice_of_every_task_ends_where_the_kept_runs_do(name: str, tmp_path: Path) -> None:
    """Three fresh seeds of each: another processor rounds otherwise, and chaos does the rest, so means are held to ranges."""
    try:
        task = task_of(name)
        assert task.facts
    except FileNotFoundError as error:  # Fashion-MNIST, where no package of it is installed
        pytest.skip(str(error))
    assert again(load("main"), task, name, ["adamw", "grams"], tmp_path) == {"adamw": True, "grams": True}


def test_another_rate_is_told_from_the_kept_runs(tmp_path: Path) -> None:
    result: dict[str, Any] = dict(load("main"))
    runs = result["tasks"]["digits"]["fresh"]["tuned"]["adamw"]
    wrong = [{**r, "lr": r["lr"] / 50} for r in runs]
    result["tasks"] = {"digits": {"fresh": {"tuned": {"adamw": wrong}}}}
    assert again(result, task_of("digits"), "digits", ["adamw"], tmp_path) == {"adamw": False}
