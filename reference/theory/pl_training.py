"""The PL ratio along real training: scikit-learn's handwritten digits, minibatches, two models. (N1)

"softmax"  softmax regression with l2 / 2 ||w||^2: strongly convex, so PL holds with mu = l2, and f* is known to a
           certified error.
"mlp"      one hidden layer of tanh units, no penalty: not convex, f* unknown; 0 is a lower bound of the loss, so the
           recorded ratio is a lower bound of the ratio with the true f*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference.extras import needs

with needs("theory", __name__):
    from scipy.optimize import minimize

L2 = 1e-2
HIDDEN = 16
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Record:
    """Measured on the full training set every `every` steps; `minimum` is f* or a lower bound of it."""

    step: np.ndarray
    loss: np.ndarray
    grad_norm_sq: np.ndarray
    minimum: float


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Pixels (1797, 64) in [0, 1], float64, and labels. Needs scikit-learn (the extra `theory`)."""
    with needs("theory", "digits"):
        from sklearn.datasets import load_digits

    data: Any = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float64), torch.tensor(data.target)


def model(kind: str, seed: int) -> tuple[Tensor, Loss]:
    """(start, loss): a flat vector of parameters, and the mean loss of such a vector on pixels and labels."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "softmax":
        shapes = [(64, 10), (10,)]
    elif kind == "mlp":
        shapes = [(64, HIDDEN), (HIDDEN,), (HIDDEN, 10), (10,)]
    else:
        raise ValueError(f'kind must be "softmax" or "mlp", got {kind!r}')
    sizes = [int(np.prod(s)) for s in shapes]
    start = torch.cat(
        [
            torch.randn(n, generator=generator, dtype=torch.float64) / s[0] ** 0.5
            if len(s) == 2
            else torch.zeros(n).double()
            for n, s in zip(sizes, shapes, strict=True)
        ]
    )

    def loss(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        parts = [p.reshape(s) for p, s in zip(w.split(sizes), shapes, strict=True)]
        for weight, bias in zip(parts[:-2:2], parts[1:-2:2], strict=True):
            x = torch.tanh(x @ weight + bias)
        out = torch.nn.functional.cross_entropy(x @ parts[-2] + parts[-1], y)
        return out + L2 / 2 * (w @ w) if kind == "softmax" else out

    return start, loss


@cache
def softmax_minimum() -> tuple[float, float]:
    """Bounds of f* of "softmax": f(w) - ||grad||^2 / (2 l2), by strong convexity, and f(w)."""
    start, loss = model("softmax", 0)
    x, y = digits()

    def value(w: np.ndarray) -> tuple[float, np.ndarray]:
        f, g = _value_and_grad(loss, torch.from_numpy(w), x, y)
        return f, g.numpy()

    options = {"maxiter": 5000, "gtol": 1e-7, "ftol": 0.0}
    found = minimize(value, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    f, g = value(found.x)
    return f - float(g @ g) / (2 * L2), f


def _value_and_grad(loss: Loss, w: Tensor, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    w = w.detach().requires_grad_()
    f = loss(w, x, y)
    (g,) = torch.autograd.grad(f, w)
    return float(f.detach()), g


def train(
    kind: str,
    rule: ModuleType,
    lr: float,
    *,
    steps: int = 600,
    batch: int = 64,
    every: int = 20,
    seed: int = 0,
    **hyper: Any,
) -> Record:
    """`steps` steps of `rule` (its own `step`, on one flat vector), minibatches drawn with replacement from `seed`."""
    if min(steps, batch, every) < 1:
        raise ValueError(f"steps, batch and every must be at least 1, got {steps}, {batch}, {every}")
    x, y = digits()
    w, loss = model(kind, seed)
    state = rule.init(w)
    draw = torch.Generator().manual_seed(seed + 1)
    at, losses, squares = [], [], []
    for t in range(steps + 1):
        if t % every == 0:
            f, g = _value_and_grad(loss, w, x, y)
            at.append(t)
            losses.append(f)
            squares.append(float(g @ g))
        rows = torch.randint(len(y), (batch,), generator=draw)
        _, g = _value_and_grad(loss, w, x[rows], y[rows])
        w, state = rule.step(w, g, state, lr=lr, **hyper)
    minimum = softmax_minimum()[0] if kind == "softmax" else 0.0
    return Record(np.array(at), np.array(losses), np.array(squares), minimum)
