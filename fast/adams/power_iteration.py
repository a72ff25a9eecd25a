"""One power iteration of Adams, in two halves: what a step needs before its kernel, and what it leaves after it.

Both take (param, grad, *state) as the kernel does: exp_avg, exp_avg_sq, for half types the master weight, W v, v, sqrt(M), u and
sigma. For a single matrix the kernel normalises v and computes W v, so that W is read once for both W v and the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fast._engine.shards import Reductions, Shards
from fast._kernels.tensors import plain
from fast._kernels.update import Stage
from fast.adams.master import follow, trained

LEAST = 1e-12  # what a vector is divided by, at least
PART = 128  # rows of a half type that are read in float32 at a time


def right(param: Tensor, grad: Tensor, *state: Tensor) -> None:
    """v = W^T u, whose length the kernel makes 1."""
    _, _, *master, _, v, _, u, _ = state
    _left_product(u, trained(param, master[0]) if master else param, v)


def right_and_product(param: Tensor, grad: Tensor, *state: Tensor) -> None:
    """The first half, v = W^T u / |W^T u|, and W v."""
    right(param, grad, *state)
    _, _, *master, wv, v, _, _, _ = state
    v.copy_(unit(v))
    wv.copy_(_product(trained(param, master[0]) if master else param, v))


def unit(x: Tensor) -> Tensor:
    """x / |x|."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=LEAST)


def _left(reseed: bool) -> Callable[..., None]:
    def left(param: Tensor, grad: Tensor, *state: Tensor) -> None:
        """u = W v / |W v| and sigma = <u, W v>, the second half."""
        wv, _, _, u, sigma = state[-5:]
        _normalised(reseed, torch.linalg.vector_norm(wv, dim=-1, keepdim=True), wv, u, sigma)

    return left


def _normalised(reseed: bool, norm: Tensor, wv: Tensor, u: Tensor, sigma: Tensor) -> None:
    one = norm.numel() == 1 and norm.device.type == "cpu" and plain(norm) and not torch.compiler.is_compiling()
    if one and LEAST <= (length := norm.item()) < math.inf:  # a call costs as much as some thousand entries
        torch.div(wv, length, out=u)
        sigma.fill_(length)
        return
    new, length = _iterated(reseed, norm, wv)
    u.copy_(new)
    sigma.copy_(length.view(sigma.shape))


def _iterated(reseed: bool, norm: Tensor, wv: Tensor) -> tuple[Tensor, Tensor]:
    """The new u, and sigma."""
    least = norm.clamp(min=LEAST)
    new = wv / least
    # compared so, a norm that is NaN is seeded again, too
    return torch.where((norm > 0) & (norm < math.inf), new, 1.0) if reseed else new, norm * (norm / least)


def stages(batched: bool, master: bool, reseed: bool) -> tuple[Stage, Stage]:
    """Both halves as a GPU's kernels take them; tensors by their places in an item."""
    batch = "B" * batched
    first = 5 if master else 4
    v, u, sigma = first + 1, first + 3, first + 4

    def right(numbers: Any, param: Tensor, *rest: Tensor) -> tuple[Tensor]:
        *weight, u, _ = rest
        w = trained(param, weight[0]) if weight else param.to(u.dtype)
        return ((w * u.unsqueeze(-1)).sum(-2),)

    def left(numbers: Any, wv: Tensor, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return _iterated(reseed, torch.linalg.vector_norm(wv, dim=-1, keepdim=True), wv)

    matrices = f"{batch}RC " * (2 if master else 1)
    weights = (0, 4) if master else (0,)
    return (
        Stage(right, f"{matrices}{batch}R {batch}C", (*weights, u, v), (len(weights) + 1,), "C", batch),
        Stage(left, f"{batch}R {batch}R {batch or 1}", (first, u, sigma), (1, 2), "", batch),
    )


def shared_iteration(
    shards: Shards, reseed: bool, rows: int, states: Sequence[Tensor], param: Tensor, grad: Tensor
) -> Reductions:
    """Both halves, of matrices that are cut. `rows`: the axis of the rows; the columns are what follows."""
    _, _, *master, wv, v, _, u, sigma = states
    if master:
        follow(param, master[0])

    def w() -> Tensor:
        return trained(param, master[0]) if master else param

    along_rows, along_columns = shards.over([rows]), shards.over(range(rows + 1, len(shards.parts)))
    _left_product(u, w(), v)
    yield [(v, along_rows)]
    wv.copy_(_product(w(), v))
    square = v.square().sum(-1, keepdim=True)
    yield [(square, along_columns), (wv, along_columns)]
    least = square.sqrt().clamp(min=LEAST)
    v.div_(least)
    square = wv.div_(least).square().sum(-1, keepdim=True)
    yield [(square, along_rows)]
    _normalised(reseed, square.sqrt(), wv, u, sigma)


def _product(w: Tensor, v: Tensor) -> Tensor:
    """W v, of shape (..., M)."""
    if torch.compiler.is_compiling():
        return (w * v.unsqueeze(-2)).sum(-1)
    return torch.matmul(w.to(v.dtype), v.unsqueeze(-1)).squeeze(-1)


def _left_product(u: Tensor, w: Tensor, out: Tensor) -> None:
    """W^T u into `out`, of shape (..., N)."""
    if torch.compiler.is_compiling():
        out.copy_((w.mT * u.unsqueeze(-2)).sum(-1))
    elif w.ndim == 3 or not w.numel() or not plain(w):
        out.copy_(torch.matmul(u.unsqueeze(-2), w.to(u.dtype)).squeeze(-2))
    elif w.dtype != u.dtype:  # a bfloat16 without master: some rows at a time, not the whole in float32
        out.zero_()
        for weights, part in zip(w.split(PART), u.split(PART), strict=True):
            out.addmv_(weights.to(u.dtype).mT, part)
    else:
        # a product with one vector runs in one thread: a part of the rows for each
        height, columns = w.shape
        parts = min(torch.get_num_threads(), height)
        rows = height // parts
        part = torch.bmm(
            u.as_strided((parts, 1, rows), (rows, rows, 1)),
            w.as_strided((parts, rows, columns), (rows * columns, columns, 1)),
        )
        torch.sum(part, (0, 1), out=out)
        if (whole := rows * parts) < height:
            out.addmv_(w[whole:].mT, u[whole:])


# u = 0, of a matrix that is zero, would stay so for ever, and so would the NaN of a weight that was NaN: ours is seeded again
LEFT, LEFT_RELEASED = _left(True), _left(False)
