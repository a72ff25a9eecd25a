"""An optimizer's step as a pure function of tensors, and what happens where no kernel can be compiled for it.

An update is a pure function  function(scalars, param, grad, *state) -> (param, *state).  `apply` runs it one operation at a time;
`cpu` has torch.compile make a loop of it, `gpu/code` and `gpu/launch` a GPU's kernel. `cpu` and `launch` call `ready` where that
fails.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

Item = tuple[Tensor, ...]  # param, grad and each state


@dataclass(frozen=True, eq=False)
class Stage:
    """What a GPU's kernels do: a pure function of some of an item's tensors.

    What `function(numbers, *tensors)` gives goes into those of them that `writes` names. `shapes` has a word for each tensor, a
    letter for an axis; `line` is the letter of the axis that tells lines from each other, along which sums go, and `batch` that
    of the axis along which a tensor is cut into tensors of their own.
    """

    function: Callable[..., tuple[Any, ...]]
    shapes: str
    tensors: tuple[int, ...]
    writes: tuple[int, ...]
    line: str = ""
    batch: str = ""


@dataclass(frozen=True, eq=False)
class Update:
    """A pure function of tensors, and the shapes that it takes: a word for param, grad and each state, a letter for a size.

    "N N N N" is elementwise on four vectors; "RC RC RC R" takes three matrices and a vector with a number for each row.
    On the CPU a vector may come as any contiguous tensor: to lay a view over each costs more than a small kernel.
    """

    function: Callable[..., tuple[Tensor, ...]]
    shapes: str
    elementwise: bool = False  # no entry depends on another one: an eager step may work on parts
    prologue: Callable[..., None] | None = None  # run before, uncompiled on the CPU, on param, grad and state, in place
    epilogue: Callable[..., None] | None = None  # the same, run after
    statistic: Callable[..., Tensor] | None = None  # a reduction of a whole tensor, `function`'s last argument
    keyed: bool = False  # see `stored` in fast/_kernels/rounding.py
    contract: bool = False  # a CPU may round a product and a sum once, together
    line: str = ""  # these four are a GPU's, see Stage
    batch: str = ""
    before: tuple[Stage, ...] = ()  # in the place of `prologue`
    after: tuple[Stage, ...] = ()  # in the place of `epilogue`

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """What a GPU's kernels do, one after another."""
        count = len(self.shapes.split())
        main = Stage(
            partial(self, False), self.shapes, tuple(range(count)), (0, *range(2, count)), self.line, self.batch
        )
        return (*self.before, main, *self.after)

    @property
    def of_vectors(self) -> bool:
        """Whether param, grad and the states are vectors."""
        return all(len(word) == 1 for word in self.shapes.split())

    def __call__(self, maximize: bool, scalars: Sequence[Any], param: Tensor, grad: Tensor, *state: Tensor) -> Any:
        """The new (param, *state) of one tensor."""
        grad = -grad if maximize else grad
        extra = (self.statistic(scalars, param, grad, *state),) if self.statistic else ()
        return self.function(scalars, param, grad, *state, *extra)


@dataclass(frozen=True)
class Kernel:
    """What decides the generated code: equal kernels share one compilation."""

    update: Update
    maximize: bool
    device: torch.device
    dtypes: tuple[torch.dtype, ...]  # of param, grad and each state

    @property
    def scalar_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtypes[0] == torch.float64 else torch.float32


def apply(
    update: Update, maximize: bool, scalars: Sequence[Any], tensors: Sequence[Sequence[Tensor]], whole: bool = True
) -> None:
    """The update on lists (params, grads, one list for each state), written in place: what is compiled, and the eager path.

    Without prologue and epilogue if not `whole`.
    """
    for param, grad, *state in zip(*tensors, strict=True):
        if update.prologue and whole:
            update.prologue(param, grad, *state)
        new = update(maximize, scalars, param, grad, *state)
        for old, value in zip((param, *state)[: len(new)], new, strict=True):  # what it does not return, it only reads
            old.copy_(value)
        if update.epilogue and whole:
            update.epilogue(param, grad, *state)


def users_line() -> int:
    """The `stacklevel` with which a warning, given by the caller of this, names the user's own line."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("fast", "torch"):
        frame, level = frame.f_back, level + 1
    return level


class NotCompiled(RuntimeError):
    """What a compiler said, without its own error, which would keep the tensors alive that it was tried on."""


TRIES = 2  # what refuses once may be the moment's (a full disk, an unusual mode of torch), what refuses twice is kept


Made = TypeVar("Made")


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"torch.compile failed ({reason}); this optimizer runs uncompiled, slower and with the same results. If no compiler was"
        " found, install one (g++ or clang++; for a GPU, Triton); compile=False says that this is meant.",
        RuntimeWarning,
        stacklevel=users_line(),
    )


def ready(made: Made | Exception, compile: bool | None) -> Made | None:
    """The compiled call; None, after one warning, where it failed and compile=None; an error where compile=True."""
    if not isinstance(made, Exception):
        return made
    if compile:
        raise RuntimeError("compile=True, but torch.compile failed; compile=None falls back to eager mode") from made
    said = str(made).strip() if isinstance(made, NotCompiled) else f"{type(made).__name__}: {made}"
    first, second, *_ = [*said.splitlines(), "", ""]
    _warn_once(f"{first} {second}" if first.endswith("raised:") else first)  # Dynamo's line, and then the backend's own
    return None
