"""What there is to train: data, a model, a loss and a held-out measure, each task in a file of its own.

    task = load("digits", hidden=64)      one of TASKS, with its own options; what a data set needs is read now
    model = task.model(seed=3)            new weights, the same for one seed
    source = task.source(batch=64, seed=3)
    loss = task.loss(model, source, step)   of step `step`, from 0; a function of (seed, step) for all tasks but `control`
    task.evaluate(model, seed=3)            {"val_loss": ..., "test_loss": ..., ...}: lower is better for every task

`val_loss` is what learning rates are tuned by, `test_loss` what is compared: no example is on both sides, and none of
either is trained on. Nothing here imports an optimizer. `experiments.trials.loop` trains.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

# A task's name to its class. Each loads its data in its constructor, whose keywords are the task's options.
TASKS = {
    "digits": "experiments.tasks.digits:Digits",
    "language": "experiments.tasks.language:Language",
    "vision": "experiments.tasks.vision:Vision",
    "recurrent": "experiments.tasks.recurrent:Recurrent",
    "control": "experiments.tasks.control:Control",
    "fine_tune": "experiments.tasks.fine_tune:FineTune",
}


class Task(Protocol):
    """`size`: the options that decide the result, for the log. `facts`: which data, how much of it, and a hash."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> Mapping[str, Any]: ...

    @property
    def facts(self) -> Mapping[str, int | str]: ...

    def model(self, seed: int) -> nn.Module: ...

    def source(self, batch: int, seed: int) -> Any: ...

    def loss(self, model: nn.Module, source: Any, step: int) -> Tensor: ...

    def evaluate(self, model: nn.Module, seed: int) -> dict[str, float]: ...


def load(name: str, **options: Any) -> Task:
    """The task of that name. ValueError: no such name. TypeError: an option that it does not have."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: expected one of {', '.join(TASKS)}")
    module, attribute = TASKS[name].split(":")
    return getattr(importlib.import_module(module), attribute)(**options)


class Part(int):
    """A step, of whose batch only the `number`-th of `of` equal parts is wanted: what one process has, or one pass of several."""

    number: int
    of: int

    def __new__(cls, step: int, number: int, of: int) -> Part:
        made = super().__new__(cls, step)
        made.number, made.of = number, of
        return made


class Order:
    """The order of `count` examples, a function of (seed, step) alone: a resumed run needs no state of it.

    An epoch is a permutation drawn from (seed, epoch); those that do not fill a batch are left to the next epoch's.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if count < batch:
            raise ValueError(
                f"{count} examples are fewer than a batch of {batch}: give a smaller --batch, or more data"
            )
        self._count, self._batch, self._seed = count, batch, seed
        self._per_epoch = count // batch
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __call__(self, step: int) -> np.ndarray:
        """The numbers of the examples of step `step` (from 0), int64, (batch,); of a `Part` its share of them."""
        epoch, place = divmod(int(step), self._per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(self._count)
        batch = self._order[place * self._batch : (place + 1) * self._batch]
        if not isinstance(step, Part):
            return batch
        if self._batch % step.of:
            raise ValueError(
                f"a batch of {self._batch} has no {step.of} equal parts: give a --batch that {step.of} divides"
            )
        return batch.reshape(step.of, -1)[step.number]
