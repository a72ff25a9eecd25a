"""Wide residual networks (arXiv 1605.07146) on images: batch norm, convolutions, one output layer.

A small one of basic blocks, and WideResNet-50-2: ResNet-50 (arXiv 1512.03385) with twice the channels inside its blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 to four times `planes` channels, each with its norm, added to the input; inside `factor` as wide."""

    def __init__(self, inside: int, planes: int, stride: int, factor: int) -> None:
        super().__init__()
        width, outside = planes * factor, 4 * planes
        self.conv1, self.norm1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, outside, 1, bias=False), nn.BatchNorm2d(outside)
        projection = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        self.shortcut = nn.Identity() if inside == outside and stride == 1 else projection

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm3(self.conv3(F.relu(self.norm2(self.conv2(y)))))
        return F.relu(self.shortcut(x) + y)


class BottleneckResNet(nn.Module):
    """ImageNet's stem (7 x 7 and a pooling, each halving the image) and a stage for each of `stages`: how many blocks it has.

    `width` channels in the first stage, twice as many in each next. (64, (3, 4, 6, 3), factor 2) is WideResNet-50-2.
    """

    def __init__(self, channels: int, classes: int, width: int, stages: tuple[int, ...], factor: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(channels, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        inside = width
        for stage, count in enumerate(stages):
            for number in range(count):
                blocks.append(Bottleneck(inside, width << stage, 2 if stage and not number else 1, factor))
                inside = 4 * (width << stage)
        self.stages, self.head = nn.Sequential(*blocks), nn.Linear(inside, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        return self.head(self.stages(x).mean((2, 3)))


def build(channels: int, classes: int, *, width: int, blocks: int | tuple[int, ...], factor: int = 0) -> nn.Module:
    """`blocks` a stage in three stages, or, with a `factor` above 0, bottlenecks in a stage for each number."""
    if factor and isinstance(blocks, tuple):
        return BottleneckResNet(channels, classes, width, blocks, factor)
    if factor or isinstance(blocks, tuple):
        raise ValueError(
            f"blocks {blocks} with factor {factor}: expected one number and factor 0, or one for each stage"
        )
    return WideResNet(channels, classes, width, blocks)


class Vision:
    """Options: data, folder (`experiments.tasks.images`), the network's (`build`), how many held-out images to look at (0: all)."""

    name = "vision"

    def __init__(
        self,
        *,
        data: str = "fashion-mnist",
        folder: str | None = None,
        width: int = 8,
        blocks: int | Sequence[int] = 1,
        factor: int = 0,
        held: int = 1000,
    ) -> None:
        blocks = blocks if isinstance(blocks, int) else tuple(blocks)
        self._shape: dict[str, Any] = {"width": width, "blocks": blocks} | ({"factor": factor} if factor else {})
        self.size: dict[str, Any] = {"images": data, **self._shape, "held": held}
        self._parts = images.load(data, folder, val=held, test=held)
        self.facts = self._parts.facts

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            channels = self._parts.train.x.shape[1]
            return build(channels, self._parts.classes, **self._shape)

    def source(self, batch: int, seed: int) -> tuple[images.Images, Order]:
        return self._parts.train, Order(len(self._parts.train.y), batch, seed)

    def loss(self, model: nn.Module, source: tuple[images.Images, Order], step: int) -> Tensor:
        return images.loss(model, *source, step)

    def evaluate(self, model: nn.Module, seed: int) -> dict[str, float]:
        return images.evaluate(model, self._parts)
