"""A batch in parts: in several passes, or in two processes of a gloo group, as the whole batch in one."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_language_model as small
import torch

from experiments import tasks
from experiments.tasks.language import Language
from experiments.trials import loop

corpus, offline, texts = small.corpus, small.offline, small.texts
ROOT = Path(__file__).resolve().parents[2]
# eps well above rounding's gradients: where a gradient is 0 but for rounding, Adam would take a step as long as any other
CONFIG: dict[str, Any] = {"lr": 0.01, "steps": 5, "warmup": 1, "batch": 8, "eval_every": 2, "clip": 1.0}
CONFIG |= {"compile": False, "options": {"eps": 1e-3}}
DIGITS: dict[str, Any] = {"hidden": 8}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(next(folder.glob("*.pt")), weights_only=True)["model"]


def assert_same_run(one: list[loop.Record], other: list[loop.Record], folders: tuple[Path, Path]) -> None:
    """But for rounding."""
    assert [r["event"] for r in one] == [r["event"] for r in other]
    for a, b in zip(one, other, strict=True):
        if a["event"] == "timing":
            continue  # of the machine
        for key in a:
            expected = pytest.approx(a[key], rel=1e-4, abs=1e-6) if isinstance(a[key], float) else a[key]
            assert b[key] == expected, key
    first, second = map(weights, folders)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("passes", [2, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "adam_mini"])
def test_a_batch_in_several_passes_is_the_batch(optimizer: str, passes: int, corpus: Any, tmp_path: Path) -> None:
    task = Language(corpus, context=16, hidden=16, layers=1, heads=2, eval_windows=3)
    config = loop.Config(optimizer=optimizer, **CONFIG)
    whole = loop.run(config, task, tmp_path / "whole", checkpoint_every=5)
    parts = loop.run(config, task, tmp_path / "parts", checkpoint_every=5, passes=passes)
    assert_same_run(whole, parts, (tmp_path / "whole", tmp_path / "parts"))
    # other data, and the test would see it
    half = dataclasses.replace(config, batch=4)
    other = loop.run(half, task, tmp_path / "half", checkpoint_every=5)
    assert other[2]["loss"] != pytest.approx(whole[2]["loss"], rel=1e-4)


WORKER = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from experiments import tasks
from experiments.trials import loop
folder, optimizer, passes, config, options, stop = json.loads(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo")
task = tasks.load("digits", **options)
seen = []
def on_step(step, loss):
    seen.append([step, loss])
    if step == stop:
        raise SystemExit(0)
config = loop.Config(optimizer=optimizer, **config)
records = loop.run(config, task, Path(folder), checkpoint_every=2, passes=passes, on_step=on_step)
print(json.dumps({"seen": seen, "events": [r["event"] for r in records]}))
dist.barrier()
dist.destroy_process_group()
"""


def two_processes(folder: Path, optimizer: str, passes: int = 1, stop: int = 0, count: int = 2) -> list[dict[str, Any]]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    given = json.dumps([str(folder), optimizer, passes, CONFIG, DIGITS, stop])
    shared = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, given], env={**shared, "RANK": str(rank)}, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]  # fmt: skip
    ends = [process.communicate(timeout=500) for process in started]
    assert [p.returncode for p in started] == [0] * count, ends
    return [json.loads(out.splitlines()[-1]) if out.strip() else {} for out, _ in ends]


def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path) -> None:
    """In two passes each, stopped after step 3, resumed from the checkpoint of step 2; the first writes, both see the mean."""
    task = tasks.load("digits", **DIGITS)
    one = loop.run(loop.Config(optimizer="adam_mini", **CONFIG), task, tmp_path / "one", checkpoint_every=2)
    two_processes(tmp_path / "two", "adam_mini", passes=2, stop=3)
    (log,) = (tmp_path / "two").glob("*.jsonl")
    assert [r["step"] for r in loop.read_log(log) if r["event"] == "step"] == [1, 2, 3]
    first, second = two_processes(tmp_path / "two", "adam_mini", passes=2)
    assert first["seen"] == second["seen"] and [s for s, _ in first["seen"]] == [3, 4, 5]
    assert first["events"][-1] == "end" and first["events"].count("eval") == 2
    assert "end" not in second["events"] and second["events"].count("eval") == 1  # read from the log, of step 2
    records = loop.read_log(log)
    assert next(r for r in records if r["event"] == "timing")["processes"] == 2
    assert_same_run(one, records, (tmp_path / "one", tmp_path / "two"))
    assert sorted(p.suffix for p in (tmp_path / "two").iterdir()) == [".jsonl", ".pt"]


def test_what_cannot_be_parted_is_refused(tmp_path: Path) -> None:
    config = loop.Config(optimizer="sgd", lr=0.01, steps=2, warmup=0, batch=2)
    with pytest.raises(ValueError, match="task 'control' makes its data while it trains"):
        loop.run(config, tasks.load("control", hidden=8, rollout=2, held=1), tmp_path, passes=2)
    with pytest.raises(ValueError, match="a batch of 2 has no 3 equal parts"):
        loop.run(config, tasks.load("digits", **DIGITS), tmp_path, passes=3)
