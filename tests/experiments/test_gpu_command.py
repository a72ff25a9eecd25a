"""`python -m experiments.gpu` as far as it goes without a GPU: limits, crashes, tests that hang, a stand-in for a card, a dry run.

Times on a card: not run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt
from torch.optim import AdamW

from experiments.bench import BASE
from experiments.gpu import numerics
from experiments.gpu.__main__ import main
from experiments.gpu.batches import Batch
from experiments.gpu.cases import (
    SETS,
    Case,
    numerics_goal,
)
from experiments.gpu.child import ROOT
from experiments.gpu.clock import Clock
from experiments.gpu.picture import draw
from experiments.gpu.worker import LEAST_ROUNDS, first_step, measure

GRANDCHILD = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
SCRIPTS = {
    "hangs": GRANDCHILD + "open({pid!r}, 'w').write(str(p.pid)); p.wait()",
    "crashes": "import os; print('words', file=sys.stderr, flush=True); os.abort()",
    "works": "print('noise'); print('{{\"ready\": true, \"first_step_s\": 1.0}}', flush=True); assert input() == 'go';"
    "print('{{\"ms\": 2.0}}')",
    "hangs later": "print('{{\"ready\": true}}', flush=True); input(); print('{{\"ms\": 3.0}}', flush=True); time.sleep(600)",
}  # fmt: skip


def test_what_hangs_is_killed_what_crashes_is_noted_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.gpu.batches.MEASURE_SECONDS", 3.0)
    pid, found = tmp_path / "pid", {}

    def start(case: Case) -> list[str]:
        return [sys.executable, "-c", "import sys, time;" + SCRIPTS[case.label].format(pid=str(pid))]

    def note(key: str, numbers: dict) -> None:
        found.setdefault(key.rpartition("/")[2], {}).update(numbers)

    cases = [Case(label) for label in SCRIPTS]
    Batch(cases, tmp_path, note, start, first=6.0, deadline=time.monotonic() + 60, at_once=4, room=1000.0).run()
    assert found["hangs"]["over_s"] >= 6 and found["hangs"]["during"] == "the first step"
    assert found["crashes"]["status"] < 0 and found["crashes"]["last_words"] == "words"
    assert found["works"] == {"beside": 2, "first_step_s": 1.0, "ms": 2.0}
    assert found["hangs later"]["ms"] == 3.0 and found["hangs later"]["during"] == "measuring"
    assert not running(int(pid.read_text())), "what the killed process had started is left"


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_no_first_step_begins_past_the_end_or_beyond_the_cards_memory(tmp_path: Path) -> None:
    found: list[str] = []
    cases = [Case("Grams"), Case("Lion")]
    late = Batch(cases, tmp_path, lambda key, _: found.append(key), lambda _: [], 1.0, time.monotonic(), 4, 1000.0)
    late.run()
    assert found == []
    started: list[float] = []

    def start(case: Case) -> list[str]:
        started.append(time.monotonic())
        return [sys.executable, "-c", "import time; time.sleep(0.5)"]

    Batch(cases, tmp_path, lambda *_: None, start, 30.0, time.monotonic() + 30, 4, cases[0].gigabytes * 1.5).run()
    assert started[1] - started[0] >= 0.5


MARKED = """
import os, time, warnings, pytest
pytestmark = pytest.mark.cuda
def test_passes(): warnings.warn("somebody else's")
def test_fails(): assert 1 == 2, "wrong"
def test_uncompiled(): warnings.warn("torch.compile failed (no reason)", RuntimeWarning)
@pytest.mark.skip(reason="one device")
def test_skipped(): pass
@pytest.mark.slow
def test_slow(): raise ValueError
def test_hangs(): time.sleep(600)
def test_crashes(): os._exit(9)
"""


def test_the_tests_results_are_known_when_one_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "TEST_SECONDS", 5.0)
    folder, work, found = tmp_path / "tests", tmp_path / "work", []
    for made in (folder, work):
        made.mkdir()
    (folder / "test_marked.py").write_text(MARKED)
    (folder / "test_other.py").write_text("import nothing_like_this\nMARK = 'pytest.mark.cuda'\n")
    numerics.run(work, 2, 100.0, found.append, folder)
    last = found[-1]
    counts = {name: last[name] for name in ("files", "tests", "passed", "failed", "skipped")}
    assert counts == {"files": ["test_marked.py"], "tests": 6, "passed": 1, "failed": 2, "skipped": 1}
    errors = {one["test"].rpartition("::")[2]: one["error"] for one in last["failures"]}
    assert (
        errors["test_fails"].startswith("AssertionError: wrong") and "torch.compile failed" in errors["test_uncompiled"]
    )
    assert [test.rpartition("::")[2] for test in last["without_a_result"]] == ["test_crashes", "test_hangs"]
    assert last["seconds"] < 90 and not last["processes"]  # the part went on without the one that hung
    assert any("somebody else's" in text for text in last["warnings"]) and not numerics_goal(last)


def test_the_marked_files_are_those_with_marks() -> None:
    names = [path.name for path in numerics.marked_files(ROOT / "tests")]
    assert "test_cuda.py" in names and "test_monitor_tensors.py" in names
    assert "test_claims.py" not in names and Path(__file__).name not in names  # which have the mark in texts alone


class StandIn:
    """Events, streams and graphs that run at once on the CPU, to walk the way of a card without one."""

    captures = 0

    def __init__(self, **_: object) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: StandIn) -> float:
        assert 0 < self.at <= end.at, "an event was asked for that was not recorded before"
        return (end.at - self.at) * 1e3 + 1e-6

    def query(self) -> bool:
        return True

    def nothing(self, *_: object) -> None:
        pass

    synchronize = wait_stream = nothing

    def replay(self) -> None:
        StandIn.captures += 1


@pytest.mark.parametrize("mode", ["step", "replay"])
def test_the_way_of_a_card_is_walked_on_a_stand_in(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.cuda
    for name in ("Event", "Stream", "CUDAGraph"):
        monkeypatch.setattr(cuda, name, StandIn)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(cuda, name, lambda: None)
    for name in ("stream", "graph"):
        monkeypatch.setattr(cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(cuda, "current_stream", StandIn)
    monkeypatch.setattr(cuda, "memory_allocated", lambda: 1000)
    monkeypatch.setattr(cuda, "max_memory_allocated", lambda: 4000)
    monkeypatch.setitem(SETS, "experts", replace(SETS["experts"], tensors=SETS["experts"].small))
    clock = Clock(dry=True)
    clock.dry = False
    monkeypatch.setattr("experiments.gpu.worker.SECONDS", 0.2)
    monkeypatch.setattr("torch.optim.AdamW", lambda params, fused=False, foreach=False, capturable=False: AdamW(params))
    case, found = Case(BASE, "experts", "float32", mode), {}
    found |= first_step(case, clock)
    count = found["parameters"]
    assert found["first_peak_bytes"] == found["later_peak_bytes"] == 3000 / count and found["next_steps_s"] > 0
    assert found["state_bytes"] > 8
    measure(case, clock, found.update)
    assert found["late"] == 1.0 and found["copies_before"] >= 2 and found["ms"] > 0
    assert found["profiled_kernels"] == 0 and found["rounds"] >= LEAST_ROUNDS
    assert (StandIn.captures > 0) == (mode == "replay")
    StandIn.captures = 0


def test_a_dry_run_measures_its_parts_and_a_second_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--sets", "half-billion", "--optimizers", "Grams", "--dtypes", "float32", "--parts", "times", "first"]
    assert main(["--dry", "--out", str(tmp_path), *chosen]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "log.txt"]
    first = json.loads((tmp_path / "gpu.json").read_text())
    key = Case("Grams").key
    assert first["dry"] and first["machine"]["card"] is None and first["planned"] == [key] == list(first["rows"])
    _, shown = draw({**first, "dry": False})  # the shape that the notebook reads
    plt.close("all")
    assert shown["share"].keys() == {"Grams"} and len(shown["ratio"]["half-billion"]["Grams"]) == 3
    assert first["rows"][key]["parameters"] == sum(torch.Size(s).numel() for _, s in SETS["half-billion"].small())
    assert first["first_steps"]["Grams"].keys() == {"cold", "warm"}
    text = capsys.readouterr().out
    assert "DRY, ON A CPU" in text and "goal copy >= 90 %: not judged" in text
    began = time.monotonic()
    assert main(["--dry", "--out", str(tmp_path), *chosen]) == 0
    assert json.loads((tmp_path / "gpu.json").read_text()) == first and time.monotonic() - began < 60
    with pytest.raises(SystemExit):
        main(["--keep", str(tmp_path / "gpu.json")])
    assert "dry" in capsys.readouterr().err
