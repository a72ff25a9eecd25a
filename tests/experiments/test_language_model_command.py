"""python -m experiments.language_model: its commands, what a sweep writes, and one line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_language_model as small
from small_language_model import SMALL

import experiments.language_model.__main__ as cli
from experiments.language_model import report
from experiments.trials import loop

corpus, offline, texts = small.corpus, small.offline, small.texts


def test_train_command(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data", str(texts), "--log", str(tmp_path / "log"), "--cache", str(tmp_path / "cache")]
    assert cli.main(["train", "--optimizer", "adam", "--lr", "3e-3", *SMALL, *where, "--progress"]) == 0
    out, err = capsys.readouterr()
    assert "adam: best at lr 0.003" in out and "1/1 adam lr 0.003 seed 0: 100%" in err
    cli.main(["train", "--optimizer", "adam", "--lr", "3e-3", *SMALL, *where])
    assert capsys.readouterr() == (out, "")  # no terminal: no bar


def test_sweep_command(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAMLAB_FIGURES", str(tmp_path / "figures"))
    what = ["sweep", "--optimizers", "adamw", "grams_released", "--lrs", "1e-3", "3e-3", "1e30", "--seeds", "0", "1"]
    where = ["--data", str(texts), "--log", str(tmp_path / "log"), "--cache", str(tmp_path / "cache")]
    assert cli.main([*what, *SMALL, *where]) == 0
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.startswith(("adamw  ", "grams_released  "))]) == 12
    assert "diverged" in out
    found = json.loads((tmp_path / "figures" / "data" / "language_model.json").read_text())
    assert (tmp_path / "figures" / "language_model.svg").read_text().count("held-out perplexity") == 1
    assert found["seeds"] == [0, 1] and found["config"]["steps"] == 4 and found["config"]["warmup"] == 1
    assert {(r["optimizer"], r["lr"], r["seed"]) for r in found["runs"]} == {
        (o, lr, s) for o in ("adamw", "grams_released") for lr in (1e-3, 3e-3, 1e30) for s in (0, 1)
    }
    for r in found["runs"]:
        (log,) = (tmp_path / "log").glob(f"language-{r['optimizer']}-lr{r['lr']:g}-seed{r['seed']}-*.jsonl")
        end = loop.read_log(log)[-1]
        assert r["perplexity"] == (None if "diverged_at" in end else float(f"{end['perplexity']:.6g}"))
        assert r["tokens_seen"] == 16 * end["units_seen"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "log").iterdir()}
    cli.main([*what, *SMALL, *where])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "log").iterdir()} == before


def log_of(optimizer: str, lr: float, perplexity: float | None, seed: int = 0) -> list[loop.Record]:
    size = {"steps": 90, "batch": 1, "context": 1}
    return [
        {"event": "config", "optimizer": optimizer, "lr": lr, "seed": seed, "data": {}, "versions": {}, **size},
        {"event": "model", "parameters": 5},
        *({"event": "step", "step": s, "loss": float(s), "lr": lr} for s in range(1, 91)),
        {"event": "timing", "seconds_a_step": 0.5},
        {"event": "end", "step": 90, "units_seen": 90, "perplexity": perplexity, "bits_per_byte": 1.0},
    ]


def test_the_summary_picks_the_best_rate() -> None:
    logs = [log_of("adamw", lr, p) for lr, p in ((1.0, 30.0), (2.0, 20.0), (3.0, None))]
    logs += [
        log_of("grams", lr, p, seed) for lr, p, seed in ((1.0, 9.0, 0), (1.0, 21.0, 1), (2.0, 16.0, 0), (2.0, 16.0, 1))
    ]
    found = report.summary(logs)
    assert found["best"]["adamw"] == {"lr": 2.0, "perplexity": 20.0, "at_edge": False}
    assert found["best"]["grams"] == {"lr": 1.0, "perplexity": 15.0, "at_edge": True}
    curve = found["runs"][0]["curve"]
    assert curve["step"][:2] == [2.0, 5.0] and curve["train_loss"] == curve["step"] and len(curve["step"]) == 30
    assert "at the edge" in report.table(logs)
    with pytest.raises(ValueError, match=r"no end yet \(adamw, lr 1\)"):
        report.summary([logs[0][:-1]])
    with pytest.raises(ValueError, match="differ in more than optimizer, lr and seed"):
        report.summary([logs[0], [{**logs[1][0], "steps": 91}, *logs[1][1:]]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--optimizer", "adamx"], "unknown optimizer 'adamx': expected one of adamw"),
        (["train", "--lr", "-1"], "--lr -1.0: expected a finite number above 0"),
        (["train", "--lr", "fast"], "invalid float value: 'fast'"),
        (["train", "--data", "/no/such/folder"], "--data /no/such/folder: no such folder. Give 'stdlib'"),
        (["train", "--vocab", "10"], "--vocab 10: expected 258 to 65536"),
        (["sweep", "--optimizers", "adamw", "adam"], "no learning rates are known for 'adam' yet: give --lrs"),
        (["train", "--data", "hub:"], "expected hub:NAME"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--log", str(tmp_path), "--cache", str(tmp_path)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_too_few_files_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text("all there is")
    with pytest.raises(SystemExit):
        cli.main(["train", "--data", str(tmp_path), "--log", str(tmp_path), "--cache", str(tmp_path)])
    assert "1 different documents, 0 held out (one in 20, by name). Both sides need one" in capsys.readouterr().err
