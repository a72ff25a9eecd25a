"""`make trials-gpu`, dry: it tunes, runs fresh seeds, goes on where it was cut, and imports little."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.trials import __main__ as command
from experiments.trials import gpu

ROOT = Path(__file__).resolve().parents[2]
NEVER = ("datasets", "scipy", "matplotlib", "sklearn", "gymnasium", "mlxtend", "peft", "reasoning_gym", "tensorboard")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The command, cut at once and then run to its end; its folder, and what it said."""
    out = tmp_path_factory.mktemp("out")
    line = [sys.executable, "-m", "experiments.trials", "gpu", "--dry", "--out", str(out)]
    cut = subprocess.run([*line, "--minutes", "0.0001"], cwd=ROOT, capture_output=True, text=True)
    assert cut.returncode == 3 and "the same command goes on" in cut.stderr, cut.stderr
    assert json.loads((out / "trials-gpu.json").read_text())["runs"] == []
    whole = subprocess.run([*line, "--minutes", "9"], cwd=ROOT, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    return out, whole.stdout


def test_all_of_it(done: tuple[Path, str]) -> None:
    out, said = done
    found = json.loads((out / "trials-gpu.json").read_text())
    assert found["finished"] is True and found["chance"] == pytest.approx(math.log(300))
    assert set(found["optimizers"]) == set(gpu.STARTS) and len(gpu.STARTS) == 6
    for name, o in found["optimizers"].items():
        rates = o["rates"]
        assert 3 <= len(rates) <= 3 + gpu.EXTENSIONS and o["best"] in rates
        assert all(b == pytest.approx(2 * a, rel=1e-4) for a, b in itertools.pairwise(rates))
        assert o["at_edge"] == (o["best"] in (rates[0], rates[-1])) and (
            not o["at_edge"] or len(rates) == 3 + gpu.EXTENSIONS
        )
        assert len(o["test_loss"]) == 2 and len(o["difference"]) == (0 if name == "adamw" else 2)
        tuned = {r["lr"]: r["val_loss"] for r in found["runs"] if r["optimizer"] == name and r["seed"] == 1}
        assert o["best"] == min(tuned, key=tuned.__getitem__)
        ends = [r["test_loss"] for r in found["runs"] if r["optimizer"] == name and r["seed"] > 1000]
        assert [min(e, found["chance"]) for e in ends] == o["test_loss"]  # no worse than guessing counts
    base, grams = (found["optimizers"][n] for n in ("adamw", "grams"))
    assert grams["difference"] == [a - b for a, b in zip(grams["test_loss"], base["test_loss"], strict=True)]
    assert said.count("+-") == 5 and str(out / "trials-gpu.json") in said


def test_what_is_finished_is_not_run_again(done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = done
    logs = {p: p.read_bytes() for p in (out / "runs").iterdir()}
    gpu._begin(gpu.DRY, out, "cpu", time.time() + 60)
    key = ("grams", gpu.DRY.grid("grams")[1], 1)
    monkeypatch.setattr(torch.Tensor, "backward", None)  # nothing is trained
    assert gpu._perform(key)["seed"] == 1
    assert {p: p.read_bytes() for p in (out / "runs").iterdir()} == logs and len(logs) >= 6 * 5


def test_a_run_that_does_not_end_in_time_is_run_anew(done: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = done
    (tmp_path / "cache").symlink_to(out / "cache")
    key = ("lion", gpu.DRY.grid("lion")[1], 77)
    gpu._begin(gpu.DRY, tmp_path, "cpu", time.time() - 1)
    with pytest.raises(gpu.OutOfTimeError):
        gpu._perform(key)
    gpu._begin(gpu.DRY, tmp_path, "cpu", time.time() + 60)
    assert math.isfinite(gpu._perform(key)["test_loss"])


class Here(gpu.Trial):
    """Without processes: losses by a table over rates, so that the search itself can be seen."""

    def __init__(self, best: float, diverges: float = math.inf) -> None:
        starts = {"adamw": 1e-3, "grams": 1e-3}
        self.plan = dataclasses.replace(gpu.DRY, starts=starts, rates=5)
        self.runs, self.chance, self.wanted, self.diverges = {}, 10.0, best, diverges
        self.done: list[gpu.Key] = []

    def perform(self, jobs: Any) -> None:
        for o, lr, seed in jobs:
            if (o, lr, seed) not in self.runs:
                self.done.append((o, lr, seed))
                loss = abs(math.log2(lr / self.wanted)) + (1 if o == "grams" else 0) + seed / 1e6
                self.runs[o, lr, seed] = (
                    {"val_loss": loss, "test_loss": loss} if lr < self.diverges else {"diverged_at": 3}
                )

    def write(self, finished: bool) -> None:
        pass


@pytest.mark.parametrize(
    ("wanted", "tried"), [(1e-3, 5), (2e-3, 5), (4e-3, 6), (8e-3, 7), (1.0, 7), (2.5e-4, 6), (1e-6, 7)]
)
def test_the_grid_grows_on_the_side_where_the_best_is_the_last(wanted: float, tried: int) -> None:
    trial = Here(wanted)
    trial.all()
    rates = sorted(k[1] for k in trial.runs if k[0] == "adamw" and k[2] == 1)
    assert len(rates) == tried and all(b == pytest.approx(2 * a) for a, b in itertools.pairwise(rates))
    best = trial.best("adamw")
    assert best == pytest.approx(min(max(wanted, rates[0]), rates[-1]))
    assert len(trial.done) == len(set(trial.done)) == 2 * tried + 2 * gpu.DRY.seeds
    assert [k[2] for k in trial.done[2 * tried :]] == [1001, 1001, 1002, 1002]


def test_rates_at_which_it_diverges_are_not_chosen() -> None:
    trial = Here(8e-3, diverges=3e-3)
    trial.all()
    assert trial.best("adamw") == 2e-3
    lost = Here(1e-3, diverges=0.0)
    lost.all()
    assert lost.best("adamw") is None and all(k[2] == 1 for k in lost.done)
    assert min(k[1] for k in lost.done) == pytest.approx(2.5e-4 / 2**gpu.EXTENSIONS)  # lower, where all diverge


def test_a_diverged_run_counts_as_guessing() -> None:
    trial = Here(1e-3)
    assert (
        trial._end({"diverged_at": 3}) == trial._end({"test_loss": 11.0}) == 10.0
        and trial._end({"test_loss": 2.0}) == 2.0
    )


def test_the_real_plans_size() -> None:
    from experiments.tasks import language

    with torch.device("meta"):
        shape: Any = {k: v for k, v in gpu.MODEL.items() if k != "eval_windows"}
        model = language.build(seed=0, **shape)
    assert 10e6 < sum(p.numel() for p in model.parameters()) == 13_767_552 < 20e6
    assert len(gpu.FULL.grid("adamw")) == 5 and gpu.FULL.seeds >= 8 and gpu.FULL.grid("adamw")[2] == gpu.STARTS["adamw"]


def test_little_is_imported(done: tuple[Path, str]) -> None:
    """A run in a process that can import none of what a machine with a GPU may lack."""
    out, _ = done
    code = (
        "import sys, time\n"
        f"for name in {NEVER}: sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from experiments.trials import __main__, gpu\n"
        f"gpu._begin(gpu.DRY, Path({str(out)!r}), 'cpu', time.time() + 500)\n"
        "print(gpu._perform(('adam_mini', 0.002, 5))['test_loss'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and math.isfinite(float(ran.stdout)), ran.stderr


def test_without_a_card_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for line, message in (
        (["--minutes", "1"], "no CUDA device"),
        (["--dry", "--minutes", "0"], "expected --minutes above 0"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command.main(["gpu", "--out", str(tmp_path), *line])
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_another_warm_up_is_another_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tenth of the steps is what the short trials had, and what decided them: both go side by side."""
    assert [dataclasses.replace(gpu.FULL, warmup=w).config("grams", 0.1, 1).warmup for w in (0.1, 0.4)] == [60, 240]
    for words, name in (([], "trials-gpu.json"), (["--warmup", "0.4"], "trials-gpu-warmup-0.4.json")):
        assert command.main(["gpu", "--dry", "--out", str(tmp_path), "--minutes", "0.0001", *words]) == 3
        assert (tmp_path / name).exists()
    with pytest.raises(SystemExit):
        command.main(["gpu", "--dry", "--out", str(tmp_path), "--warmup", "1.5"])
    assert "a part of the steps" in capsys.readouterr().err
