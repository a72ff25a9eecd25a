"""Spectral decay against L2 decay on a real, small task (claim A6): few digits, an MLP without normalisation layers.

Three arms share data, starts, batches, betas and the head's decay, and differ in what is done to the two hidden
matrices:

    AdamW       reference.adamw, L2 decay weight_decay
    Adam-atan2  reference.adam_atan2, L2 decay weight_decay
    Adams       reference.adams, spectral decay weight_decay

The head is decayed by L2 with 0.1 in every arm, as Adams' own defaults say. All models of a sweep are one stack (B,
M, N): each has its own lr and weight decay, of shape (B, 1, 1), and its own power iteration (claim A8 is what makes
that right).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from reference import adam_atan2, adams, adamw
from reference.extras import needs

ARMS = ("AdamW", "Adam-atan2", "Adams")
BETAS = {"beta1": 0.9, "beta2": 0.95}
HEAD_DECAY = 0.1
CLASSES = 10
VALIDATION = 500


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits: (1797, 65) float64 in [0, 1], last column 1, and labels (1797,). Needs the extra `theory`."""
    with needs("theory", "digits"):
        from sklearn.datasets import load_digits

    data: Any = load_digits()
    x = np.hstack([data.data / 16, np.ones((len(data.target), 1))])
    return torch.as_tensor(x, dtype=torch.float64), torch.as_tensor(data.target)


class Draw(NamedTuple):
    """What a seed fixes of the data: (x (n, 65), labels (n,)) for training, validation and test."""

    train: tuple[torch.Tensor, torch.Tensor]
    validation: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]


def draw(seed: int, samples: int, wrong: float) -> Draw:
    """A split into `samples` training digits, VALIDATION others and the rest, and its own wrong training labels."""
    x, y = digits()
    if not 0 < samples < len(y) - VALIDATION:
        raise ValueError(f"samples must be between 1 and {len(y) - VALIDATION - 1}, got {samples}")
    rng = np.random.default_rng(seed)
    order = torch.as_tensor(rng.permutation(len(y)))
    parts = [(x[i], y[i]) for i in order.tensor_split([samples, samples + VALIDATION])]
    n = round(wrong * samples)
    parts[0][1][:n] = torch.as_tensor(rng.integers(0, CLASSES, n))
    return Draw(*parts)


@dataclass(frozen=True)
class Sweep:
    """Results for each (lr, weight_decay, seed), in arrays (lrs, decays, seeds); accuracies in [0, 1]."""

    arm: str
    lrs: tuple[float, ...]
    decays: tuple[float, ...]
    seeds: tuple[int, ...]
    train_loss: np.ndarray
    validation: np.ndarray  # accuracy
    test: np.ndarray  # accuracy
    sigma: np.ndarray  # largest singular value of the second hidden matrix
    activation: np.ndarray  # RMS of the second hidden layer's pre-activations on the test set
    tracked: np.ndarray  # Adams: the estimate over sigma_1, mean over the second half of training; elsewhere NaN

    def chosen(self) -> tuple[int, int]:
        """(lr's index, decay's index) with the best mean validation accuracy."""
        mean = self.validation.mean(-1)
        best = np.unravel_index(int(mean.argmax()), mean.shape)
        return int(best[0]), int(best[1])


def train(
    arm: str,
    *,
    lrs: Sequence[float],
    decays: Sequence[float],
    seeds: Sequence[int],
    steps: int = 600,
    width: int = 64,
    samples: int = 200,
    batch: int = 50,
    wrong: float = 0.0,
) -> Sweep:
    """Trains len(lrs) x len(decays) x seeds MLPs 65-width-width-10 (ReLU, cross-entropy) at constant lr.

    In float64: training multiplies rounding errors, and those of float32 grow until two processors' runs part by tens of
    percent. Those of float64 stay below 1e-8 with L2 decay, and below 1e-3 with a spectral decay up to 1; beyond, where the
    decay throws the top singular vectors about, each processor has a run of its own.

    A seed draws all that chance decides: the split into `samples` training digits, VALIDATION for validation and the rest for
    the test, the wrong labels, the start and the batches; the same in every cell and arm, so that runs of one seed are pairs.
    wrong: this share of the training labels is replaced by labels drawn at random.
    """
    if arm not in ARMS:
        raise ValueError(f"arm must be one of {ARMS}, got {arm!r}")
    if not 0 <= wrong < 1:
        raise ValueError(f"wrong must be a share of labels in [0, 1), got {wrong}")
    cells = list(product(lrs, decays, range(len(seeds))))
    data = [draw(seed, samples, wrong) for seed in seeds]
    x, y = (torch.stack([d.train[i] for d in data]) for i in range(2))
    lr = torch.tensor([c[0] for c in cells], dtype=x.dtype)[:, None, None]
    decay = torch.tensor([c[1] for c in cells], dtype=x.dtype)[:, None, None]
    which = torch.tensor([c[2] for c in cells])
    draws = [torch.Generator().manual_seed(s) for s in seeds]
    shapes = [(width, x.shape[-1]), (width, width), (CLASSES, width)]
    ws = [
        torch.stack([torch.randn(s, generator=d, dtype=x.dtype) * (2 / s[1]) ** 0.5 for d in draws])[which]
        for s in shapes
    ]
    rule = {"AdamW": adamw, "Adam-atan2": adam_atan2, "Adams": adams}[arm]
    states = [rule.init(w) for w in ws]
    tracked = []
    for k in range(steps):
        rows = torch.stack([torch.randint(samples, (batch,), generator=d) for d in draws])[which]
        ws = [w.requires_grad_() for w in ws]
        mine = which[:, None], rows
        loss = _loss(_layers(ws, x[mine])[-1], y[mine]).sum()  # the models share nothing: a sum keeps gradients apart
        gs = torch.autograd.grad(loss, ws)
        ws = [w.detach() for w in ws]
        before = ws[1]
        for i in range(3):
            ws[i], states[i] = rule.step(ws[i], gs[i], states[i], lr=lr, **BETAS, **_decay(arm, i == 2, decay))
        if arm == "Adams" and k >= steps // 2 and k % 10 == 0:
            tracked.append(states[1].sigma / _sigma(before))

    found = torch.empty(4, len(cells), dtype=x.dtype)
    for k, d in enumerate(data):
        own = [w[which == k] for w in ws]
        hidden = _layers(own, d.test[0])[1]
        values = (
            _loss(_layers(own, d.train[0])[-1], d.train[1].expand(len(own[0]), -1)),
            hidden.square().mean((1, 2)).sqrt(),
        )
        found[:, which == k] = torch.stack([*values, _accuracy(own, *d.validation), _accuracy(own, *d.test)])
    train_loss, activation, validation, test, sigma, share = (
        values.numpy().reshape(len(lrs), len(decays), len(seeds))
        for values in (
            *found,
            _sigma(ws[1]),
            torch.stack(tracked).mean(0) if tracked else torch.full((len(cells),), torch.nan, dtype=x.dtype),
        )
    )
    return Sweep(arm, tuple(lrs), tuple(decays), tuple(seeds), train_loss, validation, test, sigma, activation, share)


def _decay(arm: str, head: bool, decay: torch.Tensor) -> dict[str, Any]:
    if arm != "Adams":
        return {"weight_decay": HEAD_DECAY if head else decay}
    if head:
        return {"scalar_vector_weight_decay": HEAD_DECAY, "use_spectral_decay": False}
    return {"weight_decay": decay}


def _sigma(w: torch.Tensor) -> torch.Tensor:
    """(B,) largest singular values of w (B, M, N); inf for a matrix that is no longer finite."""
    finite = w.isfinite().all(-1).all(-1)
    return torch.linalg.matrix_norm(w.where(finite[:, None, None], 0), 2).where(finite, torch.inf)


def _layers(ws: Sequence[torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """Pre-activations (B, n, width), (B, n, width) and logits (B, n, 10) of x (B, n, 65) or (n, 65)."""
    out: list[torch.Tensor] = []
    for w in ws:
        x = x @ w.mT
        out.append(x)
        x = x.relu()
    return out


def _loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(B,) mean cross-entropy of logits (B, n, 10) and labels (B, n)."""
    return -logits.log_softmax(-1).gather(-1, y[..., None]).mean((1, 2))


def _accuracy(ws: Sequence[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (_layers(ws, x)[-1].argmax(-1) == y).double().mean(-1)
