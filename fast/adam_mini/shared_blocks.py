"""AdamMini's step of a sharded parameter. The shards may cut through blocks.

Every process keeps the whole of `exp_avg_sq`. Each sums the squares that it has; with the sums over all, each makes the same step
of `exp_avg_sq`, and gives the kernel one number for each line (an index along the axes that tell blocks apart).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from fast._engine.calls import Call
from fast._engine.moments import Average, New, Numbers, Variants, averages
from fast._engine.shards import Reductions, Shards
from fast._kernels.direct import single
from fast.partition.blocks import Blocks


def moved(numbers: Numbers, param: Tensor, exp_avg: Tensor, v: Tensor) -> Tensor:
    """AdamMini's new parameter, of numbers (eps, step size, decay) and a second moment that is one for many entries."""
    eps, step_size, decay = numbers
    scale = single(step_size / (v.sqrt() + eps))  # once for each block: lr mhat / (sqrt(vhat) + eps) = scale m
    return param - (decay * param + scale * exp_avg)


def _given(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    """One step with a second moment that is given, a number for each line."""
    param, grad, exp_avg, v = tensors
    exp_avg = first(exp_avg, grad)
    return moved(numbers, param, exp_avg, v), exp_avg


@functools.cache
def _update(letters: str) -> Variants:
    """For tensors of these axes: A stacked matrices, B indices before a line's, R lines, C entries of a line."""
    lines = "".join(c if c in "AR" else "1" for c in letters)
    line, batch = ("R", "A" * ("A" in letters)) if len(letters) > 1 else ("", "")
    return Variants(
        _given, f"{letters} {letters} {letters} {lines}", elementwise=letters == "R", line=line, batch=batch
    )


def sharded_call(
    shards: Shards, blocks: Blocks, betas: Sequence[float], work: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor
) -> Call:
    """The whole of a shard, in which `work` is the parameter."""
    shape, axis = work.shape, blocks.axis
    if axis is None:
        sizes = {"C": work.numel()}
    else:
        stacks, before = prod(shape[: blocks.batch]), prod(shape[blocks.batch : axis])
        sizes = {"A": stacks, "B": before, "R": shape[axis], "C": prod(shape[axis + 1 :])}
        if before == 1:  # stacked matrices are more of the same lines
            sizes |= {"A": 1, "R": stacks * shape[axis]}
        sizes = {c: n for c, n in sizes.items() if n != 1 or c == "R"}
    v = exp_avg_sq.new_empty([n if c in "AR" else 1 for c, n in sizes.items()])

    def view(t: Tensor) -> Tensor:
        return t.reshape(tuple(sizes.values()))

    # a complex entry counts as its two parts
    entries = prod(n for i, n in enumerate(blocks.shape) if i not in blocks.axes) * (
        1 + (len(shape) > len(blocks.shape))
    )
    shared = partial(_means, shards, blocks, betas, entries, exp_avg_sq, v)
    return Call(_update("".join(sizes))(betas), view, (view(exp_avg), v), shared)


def _means(
    shards: Shards,
    blocks: Blocks,
    betas: Sequence[float],
    entries: int,
    exp_avg_sq: Tensor,
    v: Tensor,
    param: Tensor,
    grad: Tensor,
) -> Reductions:
    """exp_avg_sq's step; `v` gets its number for each line that is here. A line has so many entries in all processes."""
    lines = exp_avg_sq.new_zeros([blocks.shape[axis] for axis in blocks.axes])
    dims = [i for i, n in enumerate(v.shape) if n != grad.shape[i]]
    square = torch.linalg.vector_norm(grad, dim=dims, dtype=v.dtype).square() if dims else grad.to(v.dtype).square()
    part = shards.own(lines, blocks.axes)
    part.copy_(square.view(part.shape) / entries)
    means = blocks.mean_of_lines(lines)
    yield [(means, shards.over())]
    _, second = averages(betas)
    exp_avg_sq.copy_(second(exp_avg_sq, means))
    v.copy_(shards.own(blocks.spread(exp_avg_sq).reshape(lines.shape), blocks.axes).reshape(v.shape))
