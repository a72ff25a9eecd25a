"""What `fast.Monitor` computes: from entries of weights, gradients and averages to the numbers of a record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fast._engine.optimizer import FusedOptimizer
from fast.adams import Adams


@dataclass(slots=True)
class Sums:
    """Sums over the entries of a tensor or of several."""

    size: float = 0.0
    alignment: float = 0.0  # u g
    decrease: float = 0.0  # -g change
    change_sq: float = 0.0
    weight_sq: float = 0.0
    grad_sq: float = 0.0
    opposed: float = 0.0  # entries where momentum and gradient disagree ...
    with_momentum: float = 0.0  # ... of so many
    sigma: float = -math.inf

    def add(self, other: Sums) -> None:
        """Adds other tensors' sums; of sigma the larger is kept, and nan."""
        sigma = self.sigma if other.sigma <= self.sigma or math.isnan(self.sigma) else other.sigma
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        self.sigma = sigma

    def quantities(self) -> dict[str, float]:
        """What is recorded, by name; nan where it is not defined, left out where there is no such state."""
        found = {
            "alignment": self.alignment,
            "decrease": self.decrease,
            "update_ratio": _quotient(self.change_sq, self.weight_sq) ** 0.5,
            "grad_norm": self.grad_sq**0.5,
        }
        if self.with_momentum:
            found["disagreement"] = self.opposed / self.with_momentum
        if self.sigma != -math.inf:
            found["sigma"] = self.sigma
        return found if self.size else dict.fromkeys(found, math.nan)


def row_sums(before: Tensor, after: Tensor, grad: Tensor, momentum: Tensor, u: Tensor | None) -> Tensor:
    """One row for each row of the matrices: <g, change>, <g, u> (<g, w> without u), |change|^2, |w|^2, |g|^2, disagreements."""
    change = after - before
    columns = [
        grad * change,
        grad * (before if u is None else u),
        change.square(),
        before.square(),
        grad.square(),
        (momentum.sign() * grad < 0).to(grad.dtype),  # their product could be 0 where both are not
    ]
    return torch.stack([column.sum(1) for column in columns], 1)


def finished(optimizer: Optimizer, index: int, numbers: Sequence[float]) -> Sums:
    """Sums over tensors of group `index` from those of `row_sums` and two more: entries, and entries with momentum."""
    moved, other, change_sq, weight_sq, grad_sq, opposed, size, with_momentum = numbers
    if not size:
        return Sums()
    if isinstance(optimizer, Adams):
        alignment = other
    else:
        group = optimizer.param_groups[index]
        lr = float(group.get("lr", math.nan))
        alignment = _quotient(-(moved + _decay(optimizer, group, lr) * other), lr)
    return Sums(size, alignment, -moved, change_sq, weight_sq, grad_sq, opposed, with_momentum)


def angles(optimizer: Adams, rows: Sequence[tuple[int, Tensor]], momentum: Tensor, second: Tensor) -> Tensor:
    """Adams' u from its averages, for rows of (group, parameter). From the change it could not be had: that holds a decay of
    rank one, which takes whole matrices to compute."""
    factors = []
    for index, param in rows:
        group = optimizer.param_groups[index]
        step = float(optimizer.state[param]["step"]) if param in optimizer.state else math.nan
        first, square = (1 - beta**step for beta in group["betas"])
        factors.append((1.0, 1 / square, 1 / first) if group["as_released"] else (1 / first, 1 / square, 1.0))
    inner, root, outer = momentum.new_tensor(factors).T.unsqueeze(-1)
    return outer * torch.atan2(inner * momentum, (root * second).sqrt())


def _decay(optimizer: Optimizer, group: dict[str, Any], lr: float) -> float:
    """The share of itself that a parameter loses by decoupled decay; 0 where the optimizer does not say that it has one."""
    decoupled = isinstance(optimizer, FusedOptimizer) or group.get("decoupled_weight_decay", False)
    return lr * float(group["weight_decay"]) if decoupled else 0.0


def _quotient(a: float, b: float) -> float:
    return a / b if b else math.nan
