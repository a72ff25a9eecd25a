"""The parts of a parameter that an optimizer hands to its updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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
