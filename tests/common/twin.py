"""The reference's run beside an optimizer's, and what the contract tests draw, give and compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from optimizers import Row
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


def array(t: Tensor) -> np.ndarray:
    """A float64 copy; a complex tensor as torch.optim sees it, with real and imaginary parts on a last axis."""
    t = t.detach()
    t = t.full_tensor() if isinstance(t, DTensor) else t
    t = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
    return np.array(t.cpu().double().numpy())


def error(found: Tensor, expected: np.ndarray) -> float:
    """The largest difference over the largest expected entry; infinite where a NaN or a shape is wrong."""
    got = array(found)
    if got.size != np.size(expected):
        return float("inf")
    difference = np.abs(got.ravel() - np.ravel(expected))
    if not difference.size:
        return 0.0
    worst = float(difference.max() / max(float(np.abs(expected).max()), 1e-30))
    return worst if worst == worst else float("inf")


class Twin:
    """The rule on float64 NumPy arrays, beside an optimizer, with a count of steps for each parameter.

    `step` takes the optimizer's group and the gradients that it takes, None where one is missing.
    """

    def __init__(self, row: Row, params: Iterable[Tensor]) -> None:
        self.row = row
        self.params = list(params)
        self.w = [array(p) for p in self.params]
        self.states = [row.rule.init(w) if w.size else None for w in self.w]

    def step(self, group: Mapping[str, Any], grads: Iterable[Tensor | None], only: Iterable[int] | None = None) -> None:
        common = {
            "lr": float(group["lr"]),
            "beta1": float(group["betas"][0]),
            "beta2": float(group["betas"][1]),
            "weight_decay": float(group["weight_decay"]),
        }
        common.update({theirs: group[ours] for ours, theirs in self.row.hyper.items()})
        chosen = range(len(self.w)) if only is None else only
        for i, grad in zip(chosen, grads, strict=True):
            if grad is None or not self.w[i].size:
                continue
            g = array(grad) * (-1 if group["maximize"] else 1)
            extra = self.row.extra(self.params[i])
            self.w[i], self.states[i] = self.row.rule.step(self.w[i], g, self.states[i], **common, **extra)

    def errors(self, optimizer: Optimizer, params: Sequence[Tensor] | None = None) -> dict[str, float]:
        """The largest error of the parameters ("param") and of each state, over all or the first `len(params)`."""
        params = self.params if params is None else params
        worst = dict.fromkeys(["param", *self.row.state], 0.0)
        for param, w, state in zip(params, self.w, self.states, strict=False):
            worst["param"] = max(worst["param"], error(param, w))
            for ours, theirs in self.row.state.items():
                if param in optimizer.state and param.numel():
                    value, expected = optimizer.state[param].get(ours), getattr(state, theirs)
                    if value is None:  # Adams' u, of what is no matrix
                        assert expected is None or param.is_complex(), f"{ours} is missing"
                    else:
                        worst[ours] = max(worst[ours], error(value, expected))
        return worst


def parameters(shapes: Iterable[tuple[int, ...]], dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Normal parameters that need gradients, the same numbers (rounded) in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def gradients(params: Iterable[Tensor], seed: int) -> list[Tensor]:
    """Normal gradients of the parameters' shapes and dtypes, drawn in float32."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return [torch.randn(p.shape, generator=generator).to(p.dtype) for p in params]


def give(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = None if grad is None else grad.to(param.dtype, copy=True)


def train(optimizer: Optimizer, params: Sequence[Tensor], steps: Iterable[int]) -> None:
    """Steps with the gradients of these numbers."""
    for i in steps:
        give(params, gradients(params, i))
        optimizer.step()


def same(a: Any, b: Any) -> bool:
    """Bitwise equality of two nested state_dicts, dtypes and NaNs included."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def bits(t: Tensor) -> Tensor:
    return t.detach().contiguous().reshape(-1).view(torch.uint8)


# Copies of a tensor in other memory: strides exchanged, strided, at an offset, in memory formats of four dimensions.


def transposed(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1)


def sliced(t: Tensor) -> Tensor:
    wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), 7.0, dtype=t.dtype)
    return wide[..., 1::2].copy_(t)


def offset(t: Tensor) -> Tensor:
    return torch.full((t.numel() + 3,), 7.0, dtype=t.dtype)[3:].view(t.shape).copy_(t)


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def permuted(t: Tensor) -> Tensor:
    return t.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
