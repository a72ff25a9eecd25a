"""A `Call` applies an update to views of a parameter; and how calls are put into batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from fast._engine.shards import Reductions
from fast._kernels.tensors import flat
from fast._kernels.update import Item, Update


class Call(NamedTuple):
    """One call of an update, on a view of a parameter."""

    update: Update
    view: Callable[[Tensor], Tensor]  # of the parameter and of its gradient
    states: tuple[Tensor, ...]
    # where the parameter is sharded: what is summed over its processes before, given the views of parameter and gradient
    reductions: Callable[[Tensor, Tensor], Reductions] | None = None


def _unchanged(t: Tensor) -> Tensor:
    return t


def cheapest_view(view: Callable[[Tensor], Tensor], viewed: Tensor, work: Tensor) -> Callable[[Tensor], Tensor]:
    """What serves as `view`, which made `viewed` of `work`, for contiguous tensors like `work`, in fewer calls of torch.

    An update of vectors takes contiguous tensors of any shape for vectors (fast/_kernels/cpu.py).
    """
    return _unchanged if work.is_contiguous() and (view is flat or viewed.shape == work.shape) else view


@dataclass(frozen=True, eq=False)
class Batch:
    """Calls that one kernel takes together: told apart by identity, which costs less than by what they have in common."""

    update: Update
    by_kernel: bool  # or one operation at a time, as tensors that dispatch themselves take it


@functools.cache
def batch(update: Update, by_kernel: bool, *alike: Any) -> Batch:
    """The batch of those calls that have all this in common."""
    return Batch(update, by_kernel)


def consumed(items: list[Item]) -> Iterator[Item]:
    """The items of a list, which is emptied: each is let go while it is in the processor's cache."""
    items.reverse()
    while items:
        yield items.pop()
