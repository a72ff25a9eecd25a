"""scikit-learn's digits and an MLP: a run takes a second, so that whole maps of hyper-parameters can be drawn."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.tasks import Order, images


class Digits:
    """An MLP 64-hidden-hidden-10 of ReLUs on 1,199 images of 8 x 8, 299 to tune by and 299 to test.

    wrong: the share of the training labels that are drawn anew at random (with the run's seed), the right one among them.
    """

    name = "digits"

    def __init__(self, *, hidden: int = 64, wrong: float = 0.0) -> None:
        if not 0 <= wrong <= 1:
            raise ValueError(f"wrong {wrong}: expected a share of the labels, 0 to 1")
        self.size: dict[str, Any] = {"hidden": hidden, "wrong": wrong}
        self._parts = images.load("digits")
        self.facts = self._parts.facts

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            width = self.size["hidden"]
            layers = [("flatten", nn.Flatten()), ("first", nn.Linear(64, width)), ("relu1", nn.ReLU())]
            layers += [("second", nn.Linear(width, width)), ("relu2", nn.ReLU()), ("head", nn.Linear(width, 10))]
            return nn.Sequential(OrderedDict(layers))

    def source(self, batch: int, seed: int) -> tuple[images.Images, Order]:
        x, y = self._parts.train
        if self.size["wrong"]:
            rng = np.random.default_rng([seed, 1])
            drawn = torch.from_numpy(rng.integers(0, 10, len(y)))
            y = torch.where(torch.from_numpy(rng.random(len(y)) < self.size["wrong"]), drawn, y)
        return images.Images(x, y), Order(len(y), batch, seed)

    def loss(self, model: nn.Module, source: tuple[images.Images, Order], step: int) -> Tensor:
        return images.loss(model, *source, step)

    def evaluate(self, model: nn.Module, seed: int) -> dict[str, float]:
        return images.evaluate(model, self._parts)
