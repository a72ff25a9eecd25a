"""Sums over the processes that share a tensor, for steps that need a number of the whole of it.

A sharded parameter (a DTensor of FSDP2 or of tensor parallelism) is cut along some of its axes. What an optimizer needs of
the whole is a generator: it yields tensors of partial sums, and goes on when they hold the sums over all parts. The generators of
a step run side by side, so that a round costs one collective for a whole model and not one for each parameter.

All processes take the same rounds: whether a parameter is cut is told by its placements, never by this process's part of it,
which may be empty or the whole. So a gradient must be there in all of them, or in none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from fast._kernels.tensors import is_dtensor

Groups = tuple[Any, ...]  # groups of processes: a sum goes over each of them in turn
Sums = Iterable[tuple[Tensor, Groups]]  # what is to be summed, in place
Reductions = Iterator[Sums]


def sharded(param: Any) -> bool:
    """Whether a parameter is cut between several processes."""
    return is_dtensor(param) and bool(_cuts(param))


def shards_of(param: Tensor) -> Shards | None:
    """How a parameter is cut between several processes; None where it is not. ValueError for cuts that are not known here."""
    if not sharded(param):
        return None
    if torch.compiler.is_compiling():
        raise ValueError(
            "this step of sharded parameters sums over processes and cannot be inside torch.compile: call optimizer.step()"
            " outside of what you compile; it compiles itself"
        )
    return Shards(param)


class Shards:
    """This process's part of a DTensor, a range of each axis, and the groups of processes that hold the others."""

    def __init__(self, param: Any) -> None:
        mesh, shape = param.device_mesh, tuple(param.shape)
        self._shape = shape
        self.parts = [(0, length) for length in shape]  # for each axis the first index and how many
        self._groups: list[tuple[int, Any]] = []  # the axis that is cut, and between whom
        for dim, placement in _in_order(param):
            axis, (start, length) = placement.dim, self.parts[placement.dim]
            size = -(-length // mesh.size(dim))  # as torch.chunk does
            first = min(size * mesh.get_local_rank(dim), length)
            self.parts[axis] = start + first, min(size, length - first)
            self._groups.append((axis, mesh.get_group(dim)))
        expected, found = tuple(length for _, length in self.parts), tuple(param.to_local().shape)
        if expected != found:
            raise ValueError(
                f"a parameter of shape {shape}, placed as {param.placements}, has a shard of shape {found} where {expected} was"
                " expected: distribute it with torch.distributed.tensor.distribute_tensor or fully_shard"
            )

    @property
    def first(self) -> int:
        """The place that this part's first entry has in the whole, which tells parts from each other."""
        place = 0
        for (start, _), length in zip(self.parts, self._shape, strict=True):
            place = place * length + start
        return place

    def over(self, axes: Container[int] | None = None) -> Groups:
        """The groups to sum over for a sum along these axes, or along all."""
        return tuple(group for axis, group in self._groups if axes is None or axis in axes)

    def own(self, whole: Tensor, axes: Sequence[int]) -> Tensor:
        """This process's part of a tensor that has these axes of the parameter, a view."""
        for i, axis in enumerate(axes):
            whole = whole.narrow(i, *self.parts[axis])
        return whole


def _cuts(param: Any) -> list[tuple[int, Any]]:
    """The mesh's dimensions that cut a DTensor, with their placements."""
    mesh = param.device_mesh
    return [(i, p) for i, p in enumerate(param.placements) if not p.is_replicate() and mesh.size(i) > 1]


def _in_order(param: Any) -> list[tuple[int, Any]]:
    """The same in the order in which they cut: FSDP2's of what tensor parallelism has cut along the same axis come last."""
    cuts, sizes = _cuts(param), param.device_mesh.shape
    last = [(i, p) for i, p in cuts if hasattr(p, "split_factor")]

    def fits(i: int, placement: Any) -> bool:
        same = [j for j, p in cuts if p.dim == placement.dim]
        even = param.shape[placement.dim] % prod(sizes[j] for j in same) == 0
        return even and placement.split_factor == prod(sizes[j] for j in same if j > i)

    if not (all(hasattr(p, "dim") for _, p in cuts) and all(fits(i, p) for i, p in last)):
        raise ValueError(
            f"a parameter of shape {tuple(param.shape)} is placed as {param.placements}, over whose parts no sums can be"
            " taken: place it with Shard and Replicate (DTensor.redistribute), or with fully_shard over tensor parallelism"
            " where the axis that both cut divides by the number of their processes"
        )
    return [cut for cut in cuts if cut not in last] + last


def leading(param: Any, axes: int, value: float, dtype: torch.dtype, device: Any = None) -> Tensor:
    """A tensor with the first `axes` axes of a parameter, filled with `value`; of a DTensor a DTensor that is cut alike."""
    if not is_dtensor(param) or device is not None:
        return torch.full(param.shape[:axes], value, dtype=dtype, device=device or param.device)
    from torch.distributed.tensor import DTensor, Replicate

    shard = param.to_local()
    placements = [p if getattr(p, "dim", axes) < axes else Replicate() for p in param.placements]
    shape = param.shape[:axes]
    return DTensor.from_local(
        torch.full(shard.shape[:axes], value, dtype=dtype, device=shard.device),
        param.device_mesh,
        placements,
        run_check=False,
        shape=shape,
        stride=torch.empty(shape, device="meta").stride(),
    )


def all_reduce(reductions: Iterable[Reductions]) -> None:
    """Runs generators side by side: what they yield in a round is summed in one call for each group of processes."""
    running = list(reductions)
    while running:
        going: list[Reductions] = []
        waiting: dict[Any, list[Tensor]] = defaultdict(list)
        for one in running:
            sums = next(one, None)
            if sums is not None:
                going.append(one)
                for tensor, groups in sums:
                    if groups and tensor.numel():
                        waiting[groups, tensor.dtype, tensor.device].append(tensor)
        for (groups, _, _), tensors in waiting.items():
            _sum(tensors, groups)
        running = going


def _sum(tensors: list[Tensor], groups: Groups) -> None:
    import torch.distributed as dist

    flat = torch.cat([t.reshape(-1) for t in tensors])
    for group in groups:
        dist.all_reduce(flat, group=group)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))
