"""Compiles an optimizer's pure update function once and serves it to every optimizer of the process.

An update is a pure function  function(scalars, param, grad, *state) -> (param, *state).  `run` applies it to lists of tensors
and writes the results in place: compiled by torch.compile where a compiler is found, and as it stands otherwise.

On the CPU all sizes are dynamic, so that one compilation serves every tensor of the same dtypes, every lr and every step: neither a
scheduler nor another model recompiles anything. Each kernel is made twice, because Inductor decides on threads and loops from
the sizes that it sees first: for one large tensor, and for PACK small tensors of one size (a call costs some 20 us whatever it
does). Both see throw-away tensors first, so that no small model decides how the next large one is run, and so that a compiler's
failure shows before anything has changed. On a GPU the launches count, not the calls: there fast/_graphs.py compiles all tensors
of a step into one graph of fixed sizes.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PACK = 16  # small tensors a call
SMALL = 32_768  # entries up to which a tensor counts as small
CHUNK = 65_536  # entries an eager elementwise step works on at a time: its temporaries stay in the cache
LARGE_SIZES = {"N": 262_144, "B": 5, "R": 768, "C": 640}  # sizes to compile for, all distinct: equal ones would be tied
SMALL_SIZES = {"N": 1_000, "B": 3, "R": 24, "C": 40}


@dataclass(frozen=True)
class Update:
    """A pure function of tensors, and the shapes that it takes: a word for param, grad and each state, a letter for a size.

    "N N N N" is elementwise on four vectors; "RC RC RC R" takes three matrices and a vector with a number for each row.
    """

    function: Callable[..., tuple[Tensor, ...]]
    shapes: str
    elementwise: bool = False  # no entry depends on another one: an eager step may work on parts
    prologue: Callable[..., None] | None = None  # run before, uncompiled on the CPU, on param, grad and state, in place
    statistic: Callable[..., Tensor] | None = (
        None  # a reduction of a whole tensor that `function` takes as its last argument
    )

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
    update: Update, maximize: bool, scalars: Sequence[Any], tensors: Sequence[Sequence[Tensor]], packed: bool = False
) -> None:
    """The update on lists (params, grads, one list for each state), written in place: what is compiled, and the eager path."""
    for param, grad, *state in zip(*tensors, strict=True):
        if update.prologue and not packed:
            update.prologue(param, grad, *state)
        new = update(maximize, scalars, param, grad, *state)
        for old, value in zip((param, *state), new, strict=False):  # what an update does not return, it only reads
            old.copy_(value)


def run(kernel: Kernel, compile: bool | None, scalars: Sequence[float], items: list[tuple[Tensor, ...]]) -> None:
    """Updates `items`, tuples (param, grad, *state) on the CPU, of one shape and `kernel`'s dtypes, with the same scalars."""
    if compile is False:
        return _eager(kernel, scalars, items)
    values = torch.tensor(scalars, dtype=kernel.scalar_dtype)
    size = items[0][0].shape
    if min(size) < 2:  # the compiler specialises a size of 1: not worth a kernel of its own
        return _eager(kernel, scalars, items)
    packs = len(items) // PACK * PACK if size.numel() <= SMALL else 0
    for count, part in ((PACK, items[:packs]), (1, items[packs:])):
        if part:
            call = ready(_dynamic(kernel, len(scalars), count), compile)
            if call is None:
                _eager(kernel, scalars, part)
                continue
            for item in part if kernel.update.prologue else ():
                kernel.update.prologue(*item)  # pyright: ignore[reportOptionalCall]
            for i in range(0, len(part), count):
                call(values, part[i : i + count])
    return None


def _eager(kernel: Kernel, scalars: Sequence[float], items: Sequence[tuple[Tensor, ...]]) -> None:
    for item in items:
        parts = kernel.update.elementwise and item[0].numel() > CHUNK
        lists = [t.split(CHUNK) if parts else (t,) for t in item]
        apply(kernel.update, kernel.maximize, scalars, lists)


def _packed(update: Update, maximize: bool, values: Tensor, tensors: Sequence[Sequence[Tensor]]) -> None:
    apply(update, maximize, values.unbind(), tensors, packed=True)


def compiled(
    function: Callable[..., None], dynamic: bool, options: dict[str, Any] | None = None
) -> Callable[..., None]:
    """With entries of its own in Dynamo's cache, and an error where it would recompile without end or fall back in silence."""
    arguments: dict[str, Any] = {"dynamic": dynamic, "fullgraph": True, "isolate_recompiles": True, "options": options}
    return torch.compile(function, **arguments)


Call = Callable[[Tensor, Sequence[tuple[Tensor, ...]]], None]


@functools.cache
def _dynamic(kernel: Kernel, scalars: int, count: int) -> Call | Exception:
    """The CPU kernel for `count` tensors of any one size, compiled and tried; or what went wrong."""
    sizes = LARGE_SIZES if count == 1 else SMALL_SIZES
    shapes = [[int(c) if c.isdigit() else sizes[c] for c in word] for word in kernel.update.shapes.split()]
    kernels = compiled(_packed, dynamic=True)

    def call(values: Tensor, items: Sequence[tuple[Tensor, ...]]) -> None:
        kernels(kernel.update, kernel.maximize, values, list(zip(*items, strict=True)))

    dummies = [tuple(map(torch.ones, shapes)) for _ in range(count)]
    dummies = [tuple(t.to(d) for t, d in zip(item, kernel.dtypes, strict=True)) for item in dummies]
    return _tried(call, torch.ones(scalars, dtype=kernel.scalar_dtype), dummies)


def _tried(call: Call, values: Tensor, dummies: Sequence[tuple[Tensor, ...]]) -> Call | Exception:
    try:
        call(values, dummies)
    except Exception as error:  # whatever a compiler can meet; `ready` reports it
        return error
    return call


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"torch.compile failed ({reason}); this optimizer runs uncompiled, slower and with the same results. Install a C++"
        " compiler (g++ or clang++; for a GPU, Triton), or pass compile=False to say that this is meant.",
        RuntimeWarning,
        stacklevel=2,
    )


def ready(made: Call | Exception, compile: bool | None) -> Call | None:
    """The compiled call; None, after one warning, where it failed and compile=None; an error where compile=True."""
    if not isinstance(made, Exception):
        return made
    if compile:
        raise RuntimeError("compile=True, but torch.compile failed; compile=None falls back to eager mode") from made
    _warn_once(f"{type(made).__name__}: {str(made).strip().splitlines()[0] if str(made).strip() else ''}")
    return None
