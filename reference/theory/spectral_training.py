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
from typing import Any

import numpy as np
import torch

from reference import adam_atan2, adams, adamw
from reference.extras import needs

ARMS = ("AdamW", "Adam-atan2", "Adams")
BETAS = {"beta1": 0.9, "beta2": 0.95}
HEAD_DECAY = 0.1
CLASSES = 10


@cache
def digits(train: int, validation: int) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """scikit-learn's digits: (train, validation, test), each (n, 65) float64 in [0, 1], last column 1, and labels (n,).

    One fixed shuffle. Needs scikit-learn (the extra `theory`).
    """
    with needs("theory", "digits"):
        from sklearn.datasets import load_digits

    data: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    if not 0 < train + validation < len(order):
        raise ValueError(f"train + validation must be below {len(order)}, got {train} + {validation}")
    x = torch.as_tensor(np.hstack([data.data / 16, np.ones((len(order), 1))])[order], dtype=torch.float64)
    y = torch.as_tensor(data.target[order])
    cuts = [slice(0, train), slice(train, train + validation), slice(train + validation, None)]
    return tuple((x[c], y[c]) for c in cuts)


@dataclass(frozen=True)
class Sweep:
    """Results for each (lr, weight_decay, seed), in arrays (lrs, decays, seeds); accuracies in [0, 1]."""

    arm: str
    lrs: tuple[float, ...]
    decays: tuple[float, ...]
    train_loss: np.ndarray
    validation: np.ndarray  # accuracy
    test: np.ndarray  # accuracy
    sigma: np.ndarray  # largest singular value of the second hidden matrix
    activation: np.ndarray  # RMS of the second hidden layer's pre-activations on the test set
    tracked: np.ndarray  # Adams: the estimate over sigma_1, mean over the second half of training; elsewhere NaN

    def chosen(self, lr: int | None = None) -> tuple[int, int]:
        """(lr's index, decay's index) with the best mean validation accuracy; in lr's row only, where it is given."""
        mean = self.validation.mean(-1)
        if lr is not None:
            return lr, int(mean[lr].argmax())
        best = np.unravel_index(int(mean.argmax()), mean.shape)
        return int(best[0]), int(best[1])


def train(
    arm: str,
    *,
    lrs: Sequence[float],
    decays: Sequence[float],
    seeds: int,
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

    samples: training digits; 500 others are the validation set and the rest the test set. A seed fixes start and
    batches, the same in every cell and arm. wrong: this share of the training labels is replaced by labels drawn at
    random (the same in all).
    """
    if arm not in ARMS:
        raise ValueError(f"arm must be one of {ARMS}, got {arm!r}")
    cells = list(product(lrs, decays, range(seeds)))
    (x, y), validation, test = digits(samples, 500)
    noise = np.random.default_rng(1)
    y = y.clone()
    y[: round(wrong * samples)] = torch.as_tensor(noise.integers(0, CLASSES, round(wrong * samples)))
    if not 0 <= wrong < 1:
        raise ValueError(f"wrong must be a share of labels in [0, 1), got {wrong}")
    lr = torch.tensor([c[0] for c in cells], dtype=x.dtype)[:, None, None]
    decay = torch.tensor([c[1] for c in cells], dtype=x.dtype)[:, None, None]
    which = torch.tensor([c[2] for c in cells])
    draws = [torch.Generator().manual_seed(s) for s in range(seeds)]
    shapes = [(width, x.shape[1]), (width, width), (CLASSES, width)]
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
        loss = _loss(
            _layers(ws, x[rows])[-1], y[rows]
        ).sum()  # the models share nothing: a sum keeps their gradients apart
        gs = torch.autograd.grad(loss, ws)
        ws = [w.detach() for w in ws]
        before = ws[1]
        for i in range(3):
            ws[i], states[i] = rule.step(ws[i], gs[i], states[i], lr=lr, **BETAS, **_decay(arm, i == 2, decay))
        if arm == "Adams" and k >= steps // 2 and k % 10 == 0:
            tracked.append(states[1].sigma / torch.linalg.matrix_norm(before, 2))

    def shaped(values: torch.Tensor) -> np.ndarray:
        return values.double().numpy().reshape(len(lrs), len(decays), seeds)

    hidden = _layers(ws, test[0])[1]
    return Sweep(
        arm,
        tuple(lrs),
        tuple(decays),
        shaped(_loss(_layers(ws, x)[-1], y.expand(len(cells), -1))),
        shaped(_accuracy(ws, *validation)),
        shaped(_accuracy(ws, *test)),
        shaped(torch.linalg.matrix_norm(ws[1], 2)),
        shaped(hidden.square().mean((1, 2)).sqrt()),
        shaped(torch.stack(tracked).mean(0) if tracked else torch.full((len(cells),), torch.nan)),
    )


def _decay(arm: str, head: bool, decay: torch.Tensor) -> dict[str, Any]:
    if arm != "Adams":
        return {"weight_decay": HEAD_DECAY if head else decay}
    if head:
        return {"scalar_vector_weight_decay": HEAD_DECAY, "use_spectral_decay": False}
    return {"weight_decay": decay}


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


def paired(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(mean of a - b over seeds, its standard error): a and b (seeds,) are runs that share their seeds."""
    difference = np.asarray(a) - np.asarray(b)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
