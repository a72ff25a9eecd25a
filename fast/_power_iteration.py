"""One power iteration of Adams, in two halves: what a step needs before its kernel, and what it leaves after it.

Both take (param, grad, *state) as the kernel does: exp_avg, exp_avg_sq, for half types the master weight, W v, v, sqrt(M), u and
sigma. W v of one matrix is the kernel's, which reads each row of W once for it and for the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fast._master import follow, trained
from fast._shards import Rounds, Shards

LEAST = 1e-12  # what a vector is divided by, at least
PART = 128  # rows of a half type that are read in float32 at a time


def right(param: Tensor, grad: Tensor, *state: Tensor) -> None:
    """v = W^T u / |W^T u|, the first half of a power iteration."""
    _, _, *master, _, v, _, u, _ = state
    w = trained(param, master[0]) if master else param
    v.copy_(_left_product(u, w))
    v.div_(torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=LEAST))


def right_and_product(param: Tensor, grad: Tensor, *state: Tensor) -> None:
    """The same, and W v."""
    right(param, grad, *state)
    _, _, *master, wv, v, _, _, _ = state
    wv.copy_(_product(trained(param, master[0]) if master else param, v))


def _left(reseed: bool) -> Callable[..., None]:
    def left(param: Tensor, grad: Tensor, *state: Tensor) -> None:
        """u = W v / |W v| and sigma = <u, W v>, the second half."""
        wv, _, _, u, sigma = state[-5:]
        _normalised(reseed, torch.linalg.vector_norm(wv, dim=-1, keepdim=True), wv, u, sigma)

    return left


def _normalised(reseed: bool, norm: Tensor, wv: Tensor, u: Tensor, sigma: Tensor) -> None:
    least = norm.clamp(min=LEAST)
    sigma.copy_((norm * (norm / least)).view(sigma.shape))
    torch.div(wv, least, out=u) if not reseed else u.copy_(torch.where(norm == 0, 1.0, wv / least))


def shared_iteration(
    shards: Shards, reseed: bool, rows: int, states: Sequence[Tensor], param: Tensor, grad: Tensor
) -> Rounds:
    """Both halves, of matrices that are cut. `rows`: the axis of the rows; the columns are what follows."""
    _, _, *master, wv, v, _, u, sigma = states
    if master:
        follow(param, master[0])

    def w() -> Tensor:
        return trained(param, master[0]) if master else param

    along_rows, along_columns = shards.over([rows]), shards.over(range(rows + 1, len(shards.parts)))
    v.copy_(_left_product(u, w()))
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


def _left_product(u: Tensor, w: Tensor) -> Tensor:
    """W^T u, of shape (..., N)."""
    if torch.compiler.is_compiling():
        return (w.mT * u.unsqueeze(-2)).sum(-1)
    if w.ndim == 3 or not w.numel():
        return torch.matmul(u.unsqueeze(-2), w.to(u.dtype)).squeeze(-2)
    if w.dtype != u.dtype:  # a bfloat16 without master: some rows at a time, not the whole in float32
        out = u.new_zeros(w.shape[-1])
        for weights, part in zip(w.split(PART), u.split(PART), strict=True):
            out.addmv_(weights.to(u.dtype).mT, part)
        return out
    # a product with one vector runs in one thread: a part of the rows for each
    parts = min(torch.get_num_threads(), len(w))
    rows = len(w) // parts
    whole = rows * parts
    out = torch.bmm(u[:whole].view(parts, 1, rows), w[:whole].view(parts, rows, -1)).sum((0, 1))
    return out.addmv_(w[whole:].mT, u[whole:]) if whole < len(w) else out


# u = 0, of a matrix that is zero, would stay so for ever: ours is seeded again
LEFT, LEFT_RELEASED = _left(True), _left(False)
