"""The parts of a parameter that an optimizer hands to its updates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from fast._compile import Update
from fast._shards import Rounds


class Piece(NamedTuple):
    """What of a parameter takes one update."""

    update: Update
    view: Callable[[Tensor], Tensor]  # of the parameter and of its gradient
    states: tuple[Tensor, ...]
    # where the parameter is sharded: what its processes work out before, given the parameter and the gradient as viewed
    shared: Callable[[Tensor, Tensor], Rounds] | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Pieces that take one update in one call: told apart by identity, which costs less than by what they have in common."""

    update: Update


@functools.cache
def batch(update: Update, *alike: Any) -> Batch:
    """The batch of those pieces that have all this in common."""
    return Batch(update)
