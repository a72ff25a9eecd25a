"""A small wide residual network (arXiv 1605.07146) on images: batch norm, convolutions, one output layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.tasks import Order, images


class Block(nn.Module):
    """Pre-activation: norm, ReLU, 3 x 3, norm, ReLU, 3 x 3, added to the input (through a 1 x 1 where the shape changes)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inside), nn.BatchNorm2d(outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        same = inside == outside and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))
        return self.shortcut(x) + self.conv2(F.relu(self.norm2(self.conv1(y))))


class WideResNet(nn.Module):
    """Three stages of `blocks` blocks, of `width`, 2 `width` and 4 `width` channels, behind a stem that halves the image."""

    def __init__(self, channels: int, classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 2, 1, bias=False)
        stages: list[nn.Module] = []
        inside = width
        for stage in range(3):
            for number in range(blocks):
                stages.append(Block(inside, width << stage, 2 if stage and not number else 1))
                inside = width << stage
        self.stages, self.norm, self.head = nn.Sequential(*stages), nn.BatchNorm2d(inside), nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stages(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Vision:
    """Options: data, folder (`experiments.tasks.images`), width and blocks of the network, how many held-out images to look at."""

    name = "vision"

    def __init__(
        self,
        *,
        data: str = "fashion-mnist",
        folder: str | None = None,
        width: int = 8,
        blocks: int = 1,
        held: int = 1000,
    ) -> None:
        self.size: dict[str, Any] = {"images": data, "width": width, "blocks": blocks, "held": held}
        self._parts = images.load(data, folder, val=held, test=held)
        self.facts = self._parts.facts

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            channels = self._parts.train.x.shape[1]
            return WideResNet(channels, self._parts.classes, self.size["width"], self.size["blocks"])

    def source(self, batch: int, seed: int) -> tuple[images.Images, Order]:
        return self._parts.train, Order(len(self._parts.train.y), batch, seed)

    def loss(self, model: nn.Module, source: tuple[images.Images, Order], step: int) -> Tensor:
        return images.loss(model, *source, step)

    def evaluate(self, model: nn.Module, seed: int) -> dict[str, float]:
        return images.evaluate(model, self._parts)
