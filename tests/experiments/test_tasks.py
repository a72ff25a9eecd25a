"""experiments.tasks: what each task promises, the files that the image loaders read, and the actor-critic's loss by hand.

Past 400 lines because every task walks the same promises, before those of its own.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_language_model as small
import torch

from experiments import tasks
from experiments.tasks import Order, Part, images, tokens, vision
from experiments.tasks.control import LONGEST, Carts, Control
from experiments.tasks.language import Language
from experiments.tasks.recurrent import Recurrent
from experiments.trials import loop

corpus, offline, texts = small.corpus, small.offline, small.texts


def idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty and twelve images of 8 x 8 in Fashion-MNIST's four files; the first bytes of an image are its number."""
    folder = tmp_path_factory.mktemp("fashion")
    rng = np.random.default_rng(0)
    for side, first, count in (("train", 0, 30), ("t10k", 30, 12)):
        x = rng.integers(0, 256, (count, 8, 8))
        x[:, 0, 0] = np.arange(first, first + count)
        idx(folder / f"{side}-images-idx3-ubyte.gz", x)
        idx(folder / f"{side}-labels-idx1-ubyte.gz", np.arange(first, first + count) % 3)
    return folder


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar-10-batches-py")
    rng = np.random.default_rng(0)
    for number, name in enumerate((*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")):
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        data[:, 0] = 4 * number + np.arange(4)
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": [i % 3 for i in range(4)]}))
    return folder


MAKE: dict[str, Callable[..., tasks.Task]] = {
    "digits": lambda _: tasks.load("digits", hidden=8),
    "vision": lambda given: tasks.load("vision", folder=str(given("fashion")), width=2),
    "language": lambda given: Language(given("corpus"), context=16, hidden=16, layers=1, heads=2, eval_windows=4),
    "recurrent": lambda given: Recurrent(data=str(given("texts")), context=16, hidden=8, held=4),
    "control": lambda _: tasks.load("control", hidden=8, rollout=4, held=2),
}


@pytest.fixture(params=MAKE)
def task(request: pytest.FixtureRequest) -> tasks.Task:
    return MAKE[request.param](request.getfixturevalue)


def test_a_name_gives_its_task(task: tasks.Task) -> None:
    assert task.name in tasks.TASKS and task.facts and task.size
    with pytest.raises(ValueError, match="unknown task 'digit': expected one of digits, language"):
        tasks.load("digit")


def test_a_loss_is_a_number_with_gradients_for_all_weights(task: tasks.Task) -> None:
    model = task.model(1)
    loss = task.loss(model, task.source(4, 1), 0)
    assert loss.shape == () and loss.dtype == torch.float32 and math.isfinite(loss.detach())
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    assert not [n for n, g in grads.items() if g is None or not torch.isfinite(g).all()]
    assert any(g is not None and g.abs().sum() > 0 for g in grads.values())


def test_a_seed_gives_the_weights_whatever_came_before(task: tasks.Task) -> None:
    one = task.model(3).state_dict()
    torch.rand(3)
    state = torch.get_rng_state()
    same, other = task.model(3).state_dict(), task.model(4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_the_order_is_a_function_of_seed_and_step(task: tasks.Task) -> None:
    """Of `control`, whose data are made as it goes, a function of the seed and of all steps before."""
    model = task.model(0)

    def losses(seed: int, steps: range) -> list[float]:
        source = task.source(4, seed)
        return [float(task.loss(model, source, step).detach()) for step in steps]

    whole = losses(5, range(6))
    assert losses(5, range(6)) == whole
    assert losses(6, range(6)) != whole
    assert len(set(whole)) > 1
    if task.name != "control":
        assert losses(5, range(3, 6)) == whole[3:]


def test_evaluation_changes_nothing_and_is_the_same_twice(task: tasks.Task) -> None:
    model = task.model(0)
    source = task.source(4, 0)
    task.loss(model, source, 0).backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    state = torch.get_rng_state()
    first = task.evaluate(model, 0)
    assert model.training and all(m.training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True) if p.grad is not None)
    assert first == task.evaluate(model, 0)
    assert {"val_loss", "test_loss"} <= set(first) and all(math.isfinite(v) for v in first.values())
    model.eval()
    task.evaluate(model, 0)
    assert not model.training  # as it was


def test_training_goes_on_after_an_evaluation_as_without_one(task: tasks.Task) -> None:
    ends = []
    for evaluated in (False, True):
        model, source = task.model(0), task.source(4, 0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            if evaluated:
                task.evaluate(model, 0)
            optimizer.zero_grad()
            task.loss(model, source, step).backward()
            optimizer.step()
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


# No example on two sides


def numbers(side: images.Images, parts: tuple[float, float]) -> set[int]:
    mean, deviation = parts
    return {round(float(v)) for v in side.x[:, 0, 0, 0].double() * deviation + mean}


@pytest.mark.parametrize(("name", "count", "sixth", "tested"), [("fashion-mnist", 42, 5, 12), ("cifar10", 24, 3, 4)])
def test_images_are_on_one_side_only(
    name: str, count: int, sixth: int, tested: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue({"fashion-mnist": "fashion", "cifar10": "cifar"}[name])
    found = images.load(name, str(folder))
    raw = images.LOADERS[name](str(folder))
    shape = {"fashion-mnist": (1, 8, 8), "cifar10": (3, 32, 32)}[name]
    assert found.train.x.shape[1:] == shape and found.classes == 3
    assert found.train.x.dtype == torch.float32 and found.train.y.dtype == torch.int64
    # standardised by the training part alone, so that its pixels have mean 0 and deviation 1
    assert float(found.train.x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(found.train.x.std(correction=0)) == pytest.approx(1, abs=1e-5)
    scale = _scale(raw[0][0])
    sides = [numbers(side, scale) for side in (found.train, found.val, found.test)]
    assert [len(s) for s in sides] == [count - tested - sixth, sixth, tested]
    assert set.union(*sides) == set(range(count))
    assert sides[2] == set(range(count - tested, count))  # the data set's own test part
    assert found.facts["train_images"] == count - tested - sixth


def _scale(train: np.ndarray) -> tuple[float, float]:
    """Mean and deviation that `load` took off: of the images that it trains on, which the order of seed 0 names."""
    order = np.random.default_rng(0).permutation(len(train))[len(train) // 6 :]
    return float(train[order].mean()), float(train[order].std())


def test_labels_stay_with_their_images(fashion: Path, cifar: Path) -> None:
    for name, folder in (("fashion-mnist", fashion), ("cifar10", cifar)):
        found = images.load(name, str(folder))
        scale = _scale(images.LOADERS[name](str(folder))[0][0])
        for side in (found.train, found.val, found.test):
            firsts = side.x[:, 0, 0, 0].double() * scale[1] + scale[0]
            expected = [round(float(v)) % (3 if name == "fashion-mnist" else 4) % 3 for v in firsts]
            assert side.y.tolist() == expected


def test_a_part_of_the_held_out_images_is_the_first_of_all(fashion: Path) -> None:
    whole, part = images.load("fashion-mnist", str(fashion)), images.load("fashion-mnist", str(fashion), val=2, test=3)
    assert torch.equal(part.val.x, whole.val.x[:2]) and torch.equal(part.test.x, whole.test.x[:3])
    assert torch.equal(part.train.x, whole.train.x) and part.facts["key"] != whole.facts["key"]


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_packaged_images_are_on_one_side_only(name: str) -> None:
    """Their own test part they have none: both held-out parts come off the images, a sixth each, and no image is repeated."""
    found = images.load(name)
    sides = [{x.numpy().tobytes() for x in side.x} for side in (found.train, found.val, found.test)]
    total = sum(len(side.y) for side in (found.train, found.val, found.test))
    assert total == {"digits": 1797, "mnist": 5000}[name]
    assert len(found.val.y) == len(found.test.y) == total // 6
    # a few images are in a data set twice by itself
    assert sum(map(len, sides)) - len(set.union(*sides)) <= 2
    assert found.train.x.shape[1:] == {"digits": (1, 8, 8), "mnist": (1, 28, 28)}[name]


@pytest.mark.parametrize(("name", "file"), [("fashion-mnist", "train-images-idx3"), ("cifar10", "data_batch_1")])
def test_missing_images_say_where_to_get_them(name: str, file: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no {file}"):
        images.load(name, str(tmp_path))
    with pytest.raises(ValueError, match="unknown images 'fashion': expected one of digits"):
        images.load("fashion")


def test_windows_of_text_are_on_one_side_only(corpus: tokens.Corpus, texts: Path) -> None:
    language = Language(corpus, context=16, hidden=16, layers=1, heads=2, eval_windows=10)
    model = language.model(0)
    held = language.evaluate(model, 0)
    assert held["val_loss"] != held["test_loss"]
    assert held["loss"] == pytest.approx((held["val_loss"] + held["test_loss"]) / 2, rel=1e-9)
    recurrent = Recurrent(data=str(texts), context=16, hidden=8, held=4)
    rows = {side: {tuple(r.tolist()) for r in inputs} for side, (inputs, _) in recurrent._held.items()}
    assert {k: len(v) for k, v in rows.items()} == {"val": 4, "test": 4} and not rows["val"] & rows["test"]
    x, y = recurrent.source(4, 0)(0)
    assert x.shape == y.shape == (4, 16) and torch.equal(x[:, 1:], y[:, :-1])
    assert int(x.max()) < 128


# What the protocol's runs are named by


@pytest.mark.parametrize("name", ["vision", "language"])
def test_new_options_leave_an_old_runs_name(name: str, request: pytest.FixtureRequest) -> None:
    """A run is found by its size: an option that is left at its default may not appear in it."""
    sizes = {
        "vision": {"images": "fashion-mnist", "width": 2, "blocks": 1, "held": 1000},
        "language": {"hidden": 16, "layers": 1, "heads": 2, "context": 16, "eval_windows": 4},
    }
    assert MAKE[name](request.getfixturevalue).size == sizes[name]


# digits with wrong labels


def test_a_share_of_the_labels_is_wrong() -> None:
    right, wrong = tasks.load("digits"), tasks.load("digits", wrong=0.5)
    y = right.source(10, 1)[0].y
    noisy, again, other = (wrong.source(10, s)[0].y for s in (1, 1, 2))
    assert torch.equal(noisy, again) and not torch.equal(noisy, other)
    assert 0.38 < float((noisy != y).float().mean()) < 0.52  # a tenth of the half is right by chance
    assert right.evaluate(right.model(0), 0) == wrong.evaluate(wrong.model(0), 0)  # held-out labels are right
    with pytest.raises(ValueError, match=r"wrong 1\.5: expected a share of the labels, 0 to 1"):
        tasks.load("digits", wrong=1.5)


# Orders and parts of a batch


@pytest.mark.parametrize("of", [1, 2, 3, 6])
def test_the_parts_of_a_batch_are_the_batch(of: int) -> None:
    order = Order(20, 6, seed=1)
    for step in range(7):  # over two epochs' ends
        parts = [order(Part(step, number, of)) for number in range(of)]
        assert np.concatenate(parts).tolist() == Order(20, 6, seed=1)(step).tolist()
    assert Part(3, 1, 2) == 3


def test_an_epoch_has_each_example_once() -> None:
    order = Order(20, 5, seed=1)
    one, two = (np.concatenate([order(step) for step in steps]).tolist() for steps in (range(4), range(4, 8)))
    assert sorted(one) == sorted(two) == list(range(20)) and one != two


def test_unequal_parts_and_too_few_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 6 has no 4 equal parts"):
        Order(20, 6, seed=1)(Part(0, 0, 4))
    with pytest.raises(ValueError, match="5 examples are fewer than a batch of 6"):
        Order(5, 6, seed=1)


# Networks


def test_bottlenecks_shrink_the_image_and_widen_its_channels() -> None:
    model = vision.build(3, 10, width=4, blocks=(1, 2), factor=2)
    x = torch.randn(2, 3, 32, 32)
    assert model(x).shape == (2, 10)
    assert isinstance(model, vision.BottleneckResNet)
    first, second, third = model.stages
    y = first(torch.randn(2, 4, 8, 8))
    assert y.shape == (2, 16, 8, 8) and second(y).shape == (2, 32, 4, 4) and third(second(y)).shape == (2, 32, 4, 4)
    assert isinstance(third, vision.Bottleneck) and isinstance(third.shortcut, torch.nn.Identity)
    assert float(y.detach().min()) == 0 and third.conv2.weight.shape == (16, 16, 3, 3)
    with pytest.raises(ValueError, match="expected one number and factor 0"):
        vision.build(3, 10, width=4, blocks=2, factor=2)


# Control


class FixedPolicy(torch.nn.Module):
    """Logits and value by a table over the calls: what the loss makes of them can be computed by hand."""

    def __init__(self, logits: list[list[list[float]]], values: list[list[float]]) -> None:
        super().__init__()
        self.logits, self.values = torch.nn.Parameter(torch.tensor(logits)), torch.nn.Parameter(torch.tensor(values))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        return self.logits[self.calls - 1], self.values[self.calls - 1]


class ThreeSteps(Carts):
    """Two carts, actions 0 and 1, rewards 1; the second's episode ends with the second step."""

    def __init__(self, over_before: bool) -> None:
        super().__init__(2, seed=0)
        self.env.prev_done = np.array([False, over_before])
        self.calls = 0

    def act(self, logits: torch.Tensor) -> np.ndarray:
        return np.array([0, 1])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls += 1
        return np.ones(2), np.array([False, self.calls == 2])


@pytest.mark.parametrize("over_before", [False, True])
def test_the_actor_critics_loss_by_hand(over_before: bool) -> None:
    """Returns 1 + 0.99 * (...) from the end; after an episode's end the next step is a reset and does not count."""
    logits = [[[0.0, 0.0], [math.log(3), 0.0]]] * 4
    values = [[0.5, 0.25], [1.0, 0.75], [1.5, 1.25], [2.0, 5.0]]
    model = FixedPolicy(logits, values)
    found = Control(rollout=3, held=1).loss(model, ThreeSteps(over_before), 0)  # pyright: ignore[reportArgumentType]
    last = 1 + 0.99 * 2.0
    first_cart = [1 + 0.99 * (1 + 0.99 * last), 1 + 0.99 * last, last]
    second_cart = [1 + 0.99 * 1.0, 1.0]  # ends with its second step: nothing follows; its third step is the reset
    rows = [(t, [0.5, 1.0, 1.5][i], [0.5, 0.5], 0) for i, t in enumerate(first_cart)]
    rows += [(t, [0.25, 0.75][i], [0.75, 0.25], 1) for i, t in enumerate(second_cart)][1 if over_before else 0 :]
    total = 0.0
    for target, value, p, action in rows:
        entropy = -sum(x * math.log(x) for x in p)
        total += 0.5 * (target - value) ** 2 - (target - value) * math.log(p[action]) - 0.01 * entropy
    assert float(found.detach()) == pytest.approx(total / len(rows), rel=1e-6)
    found.backward()
    assert model.values.grad is not None and model.logits.grad is not None
    # of the value: (value - target) / count, none through the advantage of the policy's part, none into the bootstrap
    assert model.values.grad[0, 0] == pytest.approx((0.5 - first_cart[0]) / len(rows), rel=1e-5)
    assert model.values.grad[3].tolist() == [0.0, 0.0] and model.values.grad[2, 1] == 0.0
    # of the logits, of the first cart's first step: advantage (p - chosen); the entropy is at its highest, flat
    advantage = first_cart[0] - 0.5
    assert model.logits.grad[0, 0].tolist() == pytest.approx(
        [advantage * (0.5 - 1) / len(rows), advantage * 0.5 / len(rows)], rel=1e-5
    )


def test_control_resumes_bitwise(tmp_path: Path) -> None:
    """Interrupted past a checkpoint, over ends of episodes; torch's own random state plays no part in it."""
    task = Control(hidden=8, rollout=8, held=2)
    config = loop.Config(optimizer="adamw", lr=0.01, steps=12, warmup=2, batch=4, eval_every=4, seed=3)

    def stop(step: int, _: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    whole = loop.run(config, task, tmp_path / "whole", checkpoint_every=5)
    with pytest.raises(KeyboardInterrupt):
        loop.run(config, task, tmp_path / "parts", checkpoint_every=5, on_step=stop)
    seen: list[int] = []
    resumed = loop.run(config, task, tmp_path / "parts", checkpoint_every=5, on_step=lambda s, _: seen.append(s))
    assert seen == list(range(6, 13))

    def kept(records: list[loop.Record]) -> list[loop.Record]:
        return [r for r in records if r["event"] != "timing"]

    assert kept(resumed) == kept(whole)


def test_a_restored_cart_goes_on_where_it_was() -> None:
    """Through ends of episodes and resets: by chance alone 60 steps would hold none."""
    one, other = Carts(3, seed=1), Carts(3, seed=2)
    push = torch.zeros(3, 2)
    ends = 0
    for _ in range(60):
        ends += int(one.step(one.act(push))[1].sum())
    assert ends > 1
    other.load_state_dict(_through_a_file(one.state_dict()))
    for _ in range(60):
        a, b = (c.step(c.act(push)) for c in (one, other))
        assert (a[0] == b[0]).all() and (a[1] == b[1]).all() and (one.seen == other.seen).all()


def _through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    held = io.BytesIO()
    torch.save(state, held)
    held.seek(0)
    return torch.load(held, weights_only=True)


def test_what_an_episode_lacks() -> None:
    """A policy that always pushes one way falls in 8 to 11 steps; one that balances by the pole's speed lasts."""

    class Policy(torch.nn.Module):
        def __init__(self, balances: bool) -> None:
            super().__init__()
            self.balances = balances

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            lean = 1e4 * (x[:, 3] + x[:, 2] * 0.5 if self.balances else torch.ones(len(x)))
            return torch.stack([-lean, lean], 1), torch.zeros(len(x))

    task = Control(held=8)
    pushed, balanced = (task.evaluate(Policy(b), 0) for b in (False, True))
    assert all(LONGEST - 11 <= v <= LONGEST - 7 for v in pushed.values())
    assert all(v < LONGEST - 100 for v in balanced.values())
    assert task.evaluate(Policy(False), 0) == pushed and task.evaluate(Policy(False), 1) != pushed
