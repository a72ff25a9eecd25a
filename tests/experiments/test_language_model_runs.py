"""experiments.language_model.train: runs that resume bitwise, logs that hold the run, values that are refused."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import small_language_model as small
import torch
from small_language_model import TINY, tiny_model

import fast
from experiments.language_model import train
from experiments.tasks import language as llama
from experiments.tasks import tokens
from experiments.trials import loop, optimizers

corpus, offline, texts = small.corpus, small.offline, small.texts


class Interrupted(Exception):
    pass


def interrupt_after(step: int) -> Callable[[int, float], None]:
    def on_step(done: int, _: float) -> None:
        if done == step:
            raise Interrupted

    return on_step


def without_timing(records: list[loop.Record]) -> list[loop.Record]:
    return [r for r in records if r["event"] != "timing"]


class Noisy(torch.optim.SGD):
    """Draws from torch's generator at each step, so that a resume which forgets the random state is seen."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(torch.randn_like(p), alpha=1e-3)
        super().step(closure)


@pytest.mark.parametrize("name", [*optimizers.REGISTRY, "noisy"])
def test_an_interrupted_run_resumes_bitwise(
    name: str, corpus: tokens.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at step 8, past the checkpoint of step 6: the log's tail is dropped and trained again."""
    monkeypatch.setitem(optimizers.REGISTRY, "noisy", optimizers.Entry(f"{__name__}:Noisy"))
    config = dataclasses.replace(TINY, optimizer=name, lr=0.01, clip=1.0)
    whole = train.run(config, corpus, tmp_path / "whole", checkpoint_every=3)
    with pytest.raises(Interrupted):
        train.run(config, corpus, tmp_path / "parts", checkpoint_every=3, on_step=interrupt_after(8))
    (log,) = (tmp_path / "parts").glob("*.jsonl")
    with log.open("a") as out:
        out.write('{"event": "st')  # a record cut short
    seen: list[int] = []
    torch.rand(5)  # whatever the caller drew in between
    resumed = train.run(config, corpus, tmp_path / "parts", checkpoint_every=3, on_step=lambda s, _: seen.append(s))
    assert seen == [7, 8, 9]
    assert without_timing(resumed) == without_timing(whole)
    assert loop.read_log(log) == resumed
    one, two = (torch.load(next((tmp_path / x).glob("*.pt")), weights_only=True)["model"] for x in ("whole", "parts"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert [r["step"] for r in resumed if r["event"] == "eval"] == [4, 8]


def test_a_finished_run_is_not_run_again(corpus: tokens.Corpus, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first = train.run(TINY, corpus, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    seen: list[int] = []
    assert train.run(TINY, corpus, tmp_path, on_step=lambda s, _: seen.append(s)) == first and not seen
    train.run(dataclasses.replace(TINY, seed=1), corpus, tmp_path, on_step=lambda s, _: seen.append(s))
    assert seen == list(range(1, 10))


@pytest.mark.parametrize("name", ["adamw", "grams", "adam_mini", "grams_released", "adams_released"])
def test_other_code_is_another_run(name: str, corpus: tokens.Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte more in any module of ours that a run goes through, or of the released package, gives another name."""
    config = dataclasses.replace(TINY, optimizer=name)
    files = sorted(Path(loop.__file__).parent.glob("*.py")) + sorted(Path(tokens.__file__).parent.glob("*.py"))
    files += sorted(Path(fast.__file__).parent.glob("*.py")) if optimizers.entry(name).target[:5] == "fast:" else []
    files += [Path(inspect.getfile(optimizers.find(name)))] if "released" in name else []
    names = {loop.name_of(loop.describe(*train.parts(config, corpus)))}
    read = Path.read_bytes
    for changed in files:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda path, c=changed: read(path) + b"#" * (path == c))
            names.add(loop.name_of(loop.describe(*train.parts(config, corpus))))
    assert len(files) > 8 and len(names) == len(files) + 1


def test_the_log_holds_the_run(corpus: tokens.Corpus, tmp_path: Path) -> None:
    records = train.run(TINY, corpus, tmp_path)
    assert [r["event"] for r in records[:2]] == ["config", "model"]
    config, end = records[0], records[-1]
    assert {"torch", "transformers", "python"} <= set(config["versions"])
    assert config["data"] == corpus.facts and config["lr"] == TINY.lr
    steps = [r for r in records if r["event"] == "step"]
    assert [r["lr"] for r in steps] == [1e-3 * loop.lr_factor(s, warmup=3, steps=9) for s in range(9)]
    assert end["event"] == "end" and end["units_seen"] == 9 * 2 and end["perplexity"] > 1
    model = tiny_model(corpus)
    inputs, targets = tokens.Batches(corpus.train, context=16, batch=2, seed=0)(0)
    assert steps[0]["loss"] == float(llama.next_token_loss(model, inputs, targets).detach())
    assert records[1]["parameters"] == sum(p.numel() for p in model.parameters())


def test_clipping_bounds_the_gradient(corpus: tokens.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of plain descent moves the weights by lr times the gradient's norm, so the step shows what was clipped."""
    monkeypatch.setitem(optimizers.REGISTRY, "descent", optimizers.Entry("torch.optim:SGD", weight_decay=0.0))
    moved = {}
    for clip in (0.0, 0.01, 100.0):
        config = dataclasses.replace(TINY, optimizer="descent", lr=0.5, steps=1, warmup=1, clip=clip)
        train.run(config, corpus, tmp_path / str(clip))
        after = torch.load(next((tmp_path / str(clip)).glob("*.pt")), weights_only=True)["model"]
        before = tiny_model(corpus).state_dict()
        moved[clip] = math.sqrt(sum(float((after[k].double() - before[k].double()).square().sum()) for k in before))
    assert moved[0.01] == pytest.approx(0.5 * 0.01, rel=1e-3)  # fp32 weights around a step of 1e-5 of their norm
    assert moved[0.0] == moved[100.0] > 10 * moved[0.01]


def test_a_run_that_diverges_says_where(corpus: tokens.Corpus, tmp_path: Path) -> None:
    end = train.run(dataclasses.replace(TINY, lr=1e30), corpus, tmp_path)[-1]
    assert "perplexity" not in end and 1 < end["diverged_at"] <= 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "--lr 0.0: expected a finite number above 0"),
        ({"lr": math.nan}, "--lr nan"),
        ({"optimizer": "adamx"}, "unknown optimizer 'adamx'"),
        ({"steps": 0}, "--steps 0: expected 1 or more"),
        ({"eval_every": 0}, "--eval-every 0"),
        ({"warmup": 10}, r"--warmup 10: expected 0 to --steps \(9\)"),
        ({"clip": -1.0}, "--clip -1.0: expected a finite number, 0 or more"),
        ({"weight_decay": math.inf}, "--weight-decay inf"),
    ],
)
def test_a_wrong_value_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)  # pyright: ignore[reportArgumentType]
