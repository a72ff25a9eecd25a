"""The PL ratio along real training: scikit-learn's handwritten digits, minibatches, two models. (N1)

"softmax"  softmax regression with l2 / 2 ||w||^2: strongly convex, so PL holds with mu = l2, and f* is known to a
           certified error.
"mlp"      one hidden layer of tanh units, no penalty: not convex. 0 is a lower bound of the loss, so the recorded ratio is a
           lower bound of the ratio with the true f*; where all training points are right it is f* itself.

Any finite run has a least ratio above 0: that says nothing of a constant. For "mlp" there is none. A point's loss is
-log p, p the probability of its label; its slope in the outputs is (probabilities - label), at most sqrt(2) (1 - p) long,
and 1 - p <= -log p (`slope_against_loss`). With J the outputs' derivative in the parameters, |grad f| <= sqrt(2) f max |J|,

    ratio = |grad f|^2 / (2 f) <= f max |J|^2                                       (`ratio_bound`)

so the ratio goes to 0 with the loss unless |J|^2 grows like 1/f. It need not: where a network has all training points right,
c times its output layer brings f down to 0 like exp(-c margin), and |J|^2 grows like c^2 (`scaled`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import sympy as sp
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
    end: Tensor  # the parameters after the last step


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
    return Record(np.array(at), np.array(losses), np.array(squares), minimum, w)


def slope_against_loss() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """What bounds the slope of a point's loss by the loss: 2 (1 - p)^2 - |probabilities - label|^2, and -log p - (1 - p) as its
    value at p = 1 and its derivative in x = 1 - p.

    The first is 2 sum of q_i q_j over pairs of the other labels' probabilities q (three here, one argument for any number).
    """
    q = sp.symbols("q1:4", nonnegative=True)
    wrong: Any = sum(q)
    length = wrong**2 + sum(x**2 for x in q)  # 1 - p = wrong
    x = sp.Symbol("x", nonnegative=True)
    beyond = -sp.log(1 - x) - x
    return sp.expand(2 * wrong**2 - length), beyond.subs(x, 0), sp.simplify(sp.diff(beyond, x))


def _layers(w: Tensor) -> tuple[Tensor, ...]:
    shapes = [(64, HIDDEN), (HIDDEN,), (HIDDEN, 10), (10,)]
    return tuple(p.reshape(s) for p, s in zip(w.split([int(np.prod(s)) for s in shapes]), shapes, strict=True))


def ratio_bound(w: Tensor) -> float:
    """f max |J|^2 of "mlp" at w, over the training points x: |J|^2 <= |h|^2 + 1 + |V|^2 (|x|^2 + 1), h the hidden layer, V the
    weights behind it."""
    x, y = digits()
    weight, bias, behind, _ = _layers(w)
    hidden = torch.tanh(x @ weight + bias)
    spread = torch.linalg.matrix_norm(behind, 2) ** 2
    largest = ((hidden**2).sum(1) + 1 + spread * ((x**2).sum(1) + 1)).max()
    return float(model("mlp", 0)[1](w, x, y) * largest)


def margin(w: Tensor) -> float:
    """The least difference, over the training points, of the output at the label and the largest other output of "mlp"."""
    x, y = digits()
    weight, bias, behind, last = _layers(w)
    out = torch.tanh(x @ weight + bias) @ behind + last
    own = out.gather(1, y[:, None])
    return float((own[:, 0] - out.scatter(1, y[:, None], -torch.inf).max(1).values).min())


def scaled(w: Tensor, c: float) -> Tensor:
    """The parameters of "mlp" with the output layer c times as large."""
    out = w.clone()
    out[-(HIDDEN * 10 + 10) :] *= c
    return out


def fall(record: Record) -> float:
    """The slope of log ratio over log loss along a run, by least squares: above 0 where the ratio falls with the loss."""
    ratio = record.grad_norm_sq / (2 * (record.loss - record.minimum))
    return float(np.polyfit(np.log(record.loss), np.log(ratio), 1)[0])
