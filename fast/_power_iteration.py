"""One power iteration of Adams, in two halves: what a step needs before its kernel, and what it leaves after it.

Both take (param, grad, *state) as the kernel does: exp_avg, exp_avg_sq, for half types the master weight, W v, v, sqrt(M), u and
sigma. W v of one matrix is the kernel's, which reads each row of W once for it and for the step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fast._master import trained

PART = 128  # rows of a half type that are read in float32 at a time


def right(param: Tensor, grad: Tensor, *state: Tensor) -> None:
    """v = W^T u / |W^T u|, the first half of a power iteration."""
    _, _, *master, _, v, _, u, _ = state
    w = trained(param, master[0]) if master else param
    v.copy_(_left_product(u, w))
    v.div_(torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=1e-12))


def right_and_product(param: Tensor, grad: Tensor, *state: Tensor) -> None:
    """The same, and W v."""
    right(param, grad, *state)
    _, _, *master, wv, v, _, _, _ = state
    w = trained(param, master[0]) if master else param
    wv.copy_(
        (w * v.unsqueeze(-2)).sum(-1)
        if torch.compiler.is_compiling()
        else torch.matmul(w.to(v.dtype), v.unsqueeze(-1)).squeeze(-1)
    )


def _left(reseed: bool) -> Callable[..., None]:
    def left(param: Tensor, grad: Tensor, *state: Tensor) -> None:
        """u = W v / |W v| and sigma = <u, W v>, the second half."""
        wv, _, _, u, sigma = state[-5:]
        norm = torch.linalg.vector_norm(wv, dim=-1, keepdim=True)
        least = norm.clamp(min=1e-12)
        sigma.copy_((norm * (norm / least)).view(sigma.shape))
        torch.div(wv, least, out=u) if not reseed else u.copy_(torch.where(norm == 0, 1.0, wv / least))

    return left


def _left_product(u: Tensor, w: Tensor) -> Tensor:
    """W^T u, of shape (..., N)."""
    if torch.compiler.is_compiling():
        return (w.mT * u.unsqueeze(-2)).sum(-1)
    if w.ndim == 3:
        return torch.bmm(u.unsqueeze(-2), w.to(u.dtype)).squeeze(-2)
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
