"""python -m experiments.language_model compare: every optimizer once, the released packages beside them, what cannot run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_language_model as small
import torch
from small_language_model import SMALL, TINY, tiny_model

import experiments.language_model.__main__ as cli
from experiments.language_model import compare, side_by_side, train
from experiments.tasks import tokens
from experiments.trials import loop, optimizers

corpus, offline, texts = small.corpus, small.offline, small.texts


class Broken(torch.optim.SGD):
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise AssertionError("needs four GPUs")


def arguments(texts: Path, tmp_path: Path, *more: str) -> list[str]:
    where = ["--data", str(texts), "--log", str(tmp_path / "log"), "--cache", str(tmp_path / "cache")]
    return ["compare", *SMALL, *where, *more]


def shared(**changes: Any) -> dict[str, Any]:
    return {**vars(TINY), **changes}


def test_every_optimizer_and_every_package_has_a_run(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAMLAB_FIGURES", str(tmp_path / "figures"))
    assert cli.main(arguments(texts, tmp_path, "--lrs", "3e-3", "--steps", "12")) == 0
    out = capsys.readouterr().out
    assert "no ranking" in out and out.count(": the same run;") == 3 and "did not run" not in out
    found = json.loads((tmp_path / "figures" / "data" / "10_training_runs.json").read_text())
    names = [r["optimizer"] for r in found["runs"]]
    assert names[:7] == list(compare.RATES)
    assert set(names[7:]) == {t.released for t in compare.TWINS} | {"grams_as_released", "adams_as_released"}
    assert not found["failures"] and "It is no ranking" in found["note"] and found["machine"]["threads"]
    assert list(found["best"]) == list(compare.RATES)
    for r in found["runs"]:
        assert r["perplexity"] > 1 and r["seconds_a_step"] > r["optimizer_seconds_a_step"] > 0
        assert len(r["curve"]["train_loss"]) == 12
        if r["optimizer"] not in found["best"]:  # the released package runs at the rate that was best for ours
            assert r["lr"] == found["best"][r["optimizer"].removesuffix("_released").removesuffix("_as")]["lr"]
    drawn = (tmp_path / "figures" / "10_training_runs.svg").read_text()
    assert all(text in drawn for text in ("training loss, nats a token", "held-out perplexity", "one seed: no ranking"))


def test_the_state_is_counted_in_bytes_of_memory(corpus: tokens.Corpus) -> None:
    for name, vectors in {"adamw": 2, "lion": 1, "grams": 2, "adams_released": 2, "cautious_lion": 1}.items():
        model = tiny_model(corpus)
        optimizer = optimizers.make(name, model, lr=1e-3, compile=False)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        size, entries = loop.state_bytes(optimizer, model), sum(p.numel() for p in model.parameters())
        matrices = [p for p in model.parameters() if p.ndim == 2 and getattr(p, "use_spectral_decay", True)]
        extra = sum(4 * (p.shape[0] + 1) for p in matrices) if "adams" in name else 0
        steps = 8 * len(list(model.parameters()))  # a count for each parameter, of at most eight bytes
        assert 4 * vectors * entries + extra <= size <= 4 * vectors * entries + extra + steps


def test_a_package_that_cannot_run_is_a_result(
    corpus: tokens.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(config: train.Config, place: str) -> list[loop.Record]:
        return train.run(config, corpus, tmp_path)

    monkeypatch.setitem(optimizers.REGISTRY, "grams_released", optimizers.Entry(f"{__name__}:Broken"))
    monkeypatch.setitem(optimizers.REGISTRY, "adam_mini_released", optimizers.Entry("no_such_module:Adam_mini"))
    found = compare.train_each(["grams", "adam_mini"], shared(), one, [1e-3])
    assert found.failures["grams_released"] == "AssertionError: needs four GPUs"
    assert found.failures["adam_mini_released"].startswith("ImportError: optimizer 'adam_mini_released' needs no_such")
    assert [log[0]["optimizer"] for log in found.logs] == ["grams", "adam_mini", "grams_as_released"]
    result = side_by_side.summary(found)
    assert result["twins"] == [] and result["failures"] == found.failures
    assert "grams_released       did not run: AssertionError: needs four GPUs" in side_by_side.table(result)

    monkeypatch.setitem(optimizers.REGISTRY, "grams", optimizers.Entry(f"{__name__}:Broken"))
    with pytest.raises(AssertionError, match="four GPUs"):  # ours must not be passed over
        compare.train_each(["grams"], shared(), one, [2e-3])

    def full(config: train.Config, place: str) -> list[loop.Record]:
        if config.optimizer.endswith("released"):
            raise OSError("disk full")
        return train.run(config, corpus, tmp_path)

    with pytest.raises(OSError, match="disk full"):
        compare.train_each(["adam_mini"], shared(), full, [1e-3])


def test_another_arithmetic_is_seen(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`as_released` with the paper's eps is not the package: the check says so, and the command fails."""
    monkeypatch.setitem(optimizers.REGISTRY, "grams_as_released", optimizers.Entry("fast:Grams"))
    more = ("--optimizers", "grams", "--lrs", "0.02", "--steps", "12", "--no-figure")
    assert cli.main(arguments(texts, tmp_path, *more)) == 1
    assert "grams_as_released against grams_released, lr 0.02: NOT the same run" in capsys.readouterr().out


def log_of(optimizer: str, lr: float, losses: list[float], perplexity: float | None = 5.0) -> list[loop.Record]:
    config = {"event": "config", "optimizer": optimizer, "lr": lr, "seed": 0, "data": {}, "versions": {}, "steps": 3}
    config |= {"batch": 1, "context": 1}
    steps = [{"event": "step", "step": n, "loss": loss, "lr": lr} for n, loss in enumerate(losses, 1)]
    end = {"event": "end", "step": 3, "units_seen": 3, "perplexity": perplexity, "bits_per_byte": 1.0}
    return [config, {"event": "model", "parameters": 5}, *steps, end]


def test_runs_are_compared_step_by_step_at_the_best_rate() -> None:
    late = [1.0] * compare.EARLY
    logs = [log_of("adams", 1.0, [9.0], 9.0), log_of("adams", 2.0, [*late, 1.0], 4.0)]
    logs += [log_of("adams_as_released", 2.0, [*late, 1.5]), log_of("adams_released", 2.0, [*late, 1.75])]
    same, paper = compare.twins(compare.Found(logs))
    assert (same["ours"], same["largest_early"], same["largest"], same["agrees"]) == (
        "adams_as_released",
        0,
        0.25,
        True,
    )
    assert (paper["ours"], paper["largest"], paper["agrees"], paper["lr"]) == ("adams", 0.75, None, 2.0)
    logs[2] = log_of("adams_as_released", 2.0, [1.0 + 2 * compare.AGREE, *late])
    assert compare.twins(compare.Found(logs))[0]["agrees"] is False


def test_where_all_rates_diverge_there_is_nothing_to_stand_beside() -> None:
    def one(config: train.Config, place: str) -> list[loop.Record]:
        return log_of(config.optimizer, config.lr, [1.0], None)

    found = compare.train_each(["adams"], shared(), one)
    assert [log[0]["lr"] for log in found.logs] == list(compare.RATES["adams"])
    assert set(found.failures) == {"adams_released", "adams_as_released"}
    assert all("adams diverged at every rate tried" in why for why in found.failures.values())


def test_a_wrong_name_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sgd", "grams_released"):
        with pytest.raises(SystemExit) as stop:
            cli.main(["compare", "--optimizers", "adamw", name, "--log", str(tmp_path), "--cache", str(tmp_path)])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert f"--optimizers '{name}': expected some of adamw, grams, adam_mini, " in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
