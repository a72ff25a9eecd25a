"""The papers' recipes: counts against known numbers, one step on a slice, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.trials import __main__ as command
from experiments.trials import optimizers, recipes

RECIPES = recipes.read()
# Of GPT-2 small and Llama 3.2 1B the numbers that their model cards are counted by; of WideResNet-50-2 torchvision's 68,883,240
# less 990 of its 1,000 classes; of the Llamas by hand: 2 vocabularies, 4 d^2 + 3 d h a layer, 2 L + 1 norms
KNOWN = {
    "llama_60m": 2 * 32_000 * 512 + 8 * (4 * 512**2 + 3 * 512 * 1376) + 17 * 512,
    "wide_resnet": 68_883_240 - 990 * (2048 + 1),
    "llama_1b_gsm8k": 1_235_814_400,
    "gpt2_small": 124_439_808,
    "llama_39m": 2 * 32_000 * 384 + 8 * (4 * 384**2 + 3 * 384 * 1024) + 17 * 384,
}


def test_every_paper_has_its_recipe() -> None:
    assert set(RECIPES) == set(KNOWN)
    assert all(r.claims and r.about and r.stated and r.ours for r in RECIPES.values())


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_and_bytes(name: str) -> None:
    found = recipes.counts(RECIPES[name])
    size = KNOWN[name]
    assert found["parameters"] == size == sum(math.prod(s) for s in found["shapes"].values())
    assert found["weight_bytes"] == found["gradient_bytes"] == 4 * size
    state = found["state_bytes"]
    assert set(state) <= set(RECIPES[name].optimizers) and {"adamw", "grams"} <= set(state)
    scalars = 16 * found["tensors"]  # a step for each tensor
    for optimizer, moments in (("adamw", 2), ("grams", 2), ("cautious_adamw", 2), ("lion", 1)):
        if optimizer in state:
            assert 0 <= state[optimizer] - 4 * moments * size <= scalars
    if "adam_mini" in state:
        assert 1 < state["adam_mini"] / (4 * size) < 1.01
    assert found["units_in_all"] == RECIPES[name].steps * RECIPES[name].batch


def test_tokens_seen() -> None:
    assert recipes.counts(RECIPES["llama_39m"], "adamw")["tokens_in_all"] == 7_800 * 256 * 512
    assert "tokens_in_all" not in recipes.counts(RECIPES["wide_resnet"], "grams")


@pytest.mark.parametrize("name", KNOWN)
def test_a_recipe_says_what_the_loop_and_the_task_take(name: str) -> None:
    recipe = RECIPES[name]
    for optimizer in recipe.optimizers:
        config = recipe.config(optimizer, seed=3)
        assert optimizers.entry(optimizer) and config.seed == 3 and config.steps == recipe.steps
        assert config.lr == recipe.optimizers[optimizer]["lr"]
    assert recipe.batch % recipe.passes == 0
    short = recipe.config("grams", steps=recipe.steps // 10, lr=0.5)
    assert short.warmup == pytest.approx(recipe.warmup / 10, abs=1) and short.lr == 0.5
    with pytest.raises(ValueError, match=f"recipe {name}: no optimizer 'sgd'"):
        recipe.config("sgd")


@pytest.mark.parametrize(
    ("name", "optimizer"), [("gpt2_small", "adam_mini"), ("wide_resnet", "grams"), ("llama_39m", "adamw")]
)
def test_one_step_on_a_slice(name: str, optimizer: str) -> None:
    found = recipes.step_on_a_slice(RECIPES[name], optimizer)
    classes = {"gpt2_small": 4096, "wide_resnet": 10, "llama_39m": 4096}[name]
    # new weights guess: about the logarithm of the number of classes (of batch norm on two images less so)
    assert found["loss"] == pytest.approx(math.log(classes), rel=0.6 if name == "wide_resnet" else 0.1)
    assert found["moved_tensors"] > 5 and found["parameters"] < KNOWN[name]


def test_one_step_of_the_model_to_fine_tune() -> None:
    """At a sixteenth of its width, for the machines of tests."""
    recipe = RECIPES["llama_1b_gsm8k"]
    shape = {**(recipe.shape or {}), "hidden_size": 128, "intermediate_size": 512}
    found = recipes.step_on_a_slice(recipes.Recipe(**{**vars(recipe), "shape": shape}), "grams")
    assert (
        found["loss"] == pytest.approx(math.log(257), rel=0.3) and found["moved_tensors"] == 12
    )  # the head is the embedding


def test_a_step_that_comes_to_nothing_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: None)
    monkeypatch.setitem(optimizers.REGISTRY, "adamw", optimizers.Entry("torch.optim:SGD"))
    with pytest.raises(RuntimeError, match="came to nothing"):
        recipes.step_on_a_slice(
            RECIPES["llama_39m"].__class__(**{**vars(RECIPES["llama_39m"]), "optimizers": {"adamw": {"lr": 0.1}}}),
            "adamw",
        )


def test_autocast_is_used_and_named(tmp_path: Path) -> None:
    recipe = RECIPES["llama_39m"]
    task = recipe.slice(tmp_path)
    assert task.size["autocast"] == "bfloat16"
    seen: list[torch.dtype] = []
    model: Any = task.model(0)
    model.lm_head.register_forward_hook(lambda m, x, out: seen.append(out.dtype))
    loss = task.loss(model, task.source(2, 0), 0)
    task.evaluate(model, 0)
    assert set(seen) == {torch.bfloat16} and loss.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_dry_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["recipe", "llama_39m", "--optimizer", "adam_mini", "--dry"]) == 0
    out = capsys.readouterr().out
    assert "38,738,304 parameters in 75 tensors" in out and "1,022,361,600 tokens" in out
    assert "state of adam_mini: 155," in out and "one step of adam_mini on a slice: {" in out
    assert "ours: bf16" in out


def test_a_recipe_runs_on_other_data_and_is_not_run_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command itself, on a folder of images as CIFAR-10's: options of the task on its command line."""
    RECIPES["wide_resnet"].slice(tmp_path)  # writes them
    log = tmp_path / "log"
    line = ["recipe", "wide_resnet", "--optimizer", "grams", "--steps", "2", "--log", str(log), "--passes", "2"]
    for name, value in (("folder", str(tmp_path)), ("blocks", "[1, 1]"), ("width", "4")):
        line += ["--option", name, value]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            recipes, "read", lambda: {"wide_resnet": recipes.Recipe(**{**vars(RECIPES["wide_resnet"]), "batch": 8})}
        )
        assert command.main(line) == 0
        end = json.loads(capsys.readouterr().out)
        assert end["units_seen"] == 16 and math.isfinite(end["test_loss"])
        before = {p: p.read_bytes() for p in log.iterdir()}
        assert command.main(line) == 0 and json.loads(capsys.readouterr().out) == end
    assert {p: p.read_bytes() for p in log.iterdir()} == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["recipe", "llama_70b", "--dry"], "unknown recipe 'llama_70b': expected one of llama_60m"),
        (["recipe", "llama_60m"], "expected --optimizer, one of adamw"),
        (["recipe", "llama_60m", "--optimizer", "sgd"], "recipe llama_60m: no optimizer 'sgd'"),
        (
            ["recipe", "wide_resnet", "--optimizer", "grams", "--option", "folder", "nowhere"],
            "no data_batch_1 in nowhere",
        ),
    ],
)
def test_what_is_wrong_is_said(line: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(line)
    assert stopped.value.code == 2 and message in capsys.readouterr().err
