"""The parts of a parameter that an optimizer hands to its updates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from fast._engine.shards import Rounds
from fast._kernels.direct import Item
from fast._kernels.tensors import flat
from fast._kernels.update import Update


class Piece(NamedTuple):
    """What of a parameter takes one update."""

    update: Update
    view: Callable[[Tensor], Tensor]  # of the parameter and of its gradient
    states: tuple[Tensor, ...]
    # where the parameter is sharded: what its processes work out before, given the parameter and the gradient as viewed
    shared: Callable[[Tensor, Tensor], Rounds] | None = None


def _same(t: Tensor) -> Tensor:
    return t


def quick(view: Callable[[Tensor], Tensor], made: Tensor, work: Tensor) -> Callable[[Tensor], Tensor]:
    """What serves as `view`, which has made `made` of `work`, for contiguous tensors like `work`, in fewer calls.

    An update of vectors takes contiguous tensors of any shape for vectors (fast/_kernels/update.py).
    """
    return _same if work.is_contiguous() and (view is flat or made.shape == work.shape) else view


@dataclass(frozen=True, eq=False)
class Batch:
    """Pieces that take one update in one call: told apart by identity, which costs less than by what they have in common."""

    update: Update
    by_kernel: bool  # or one operation at a time, as tensors that dispatch themselves take it


@functools.cache
def batch(update: Update, by_kernel: bool, *alike: Any) -> Batch:
    """The batch of those pieces that have all this in common."""
    return Batch(update, by_kernel)


def emptied(items: list[Item]) -> Iterator[Item]:
    """The items of a list, each let go while it is in the processor's cache."""
    items.reverse()
    while items:
        yield items.pop()
