"""An update on the CPU: compiled once by torch.compile, and served to every optimizer of the process.

All sizes are dynamic, so that one compilation serves every tensor of the same dtypes, every lr and every step: neither a scheduler
nor another model recompiles anything. Each kernel sees throw-away tensors first: Inductor decides on threads and loops from the
sizes that it sees first, and a small first model must not fix how a large one runs later. A compiler's failure shows before
anything has changed. Small tensors come many at a time, laid side by side (`packs`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from fast._kernels import shortcuts
from fast._kernels.direct import Direct, Run, asking_for_vectors, vectors, watched
from fast._kernels.update import TRIES, Item, Kernel, NotCompiled, apply, ready

CHUNK = 65_536  # entries an eager elementwise step works on at a time: its temporaries stay in the cache
SIZES = {"N": 262_144, "A": 3, "B": 5, "R": 768, "C": 640}  # to compile for, all distinct: equal ones would be tied


def updater(kernel: Kernel, compile: bool | None, scalars: Sequence[float]) -> Callable[[Iterable[Item]], None]:
    """What updates items (param, grad, *state) on the CPU with these scalars; items of a shape have the same strides."""
    update = kernel.update

    def eager(item: Item) -> None:
        item = vectors(item) if update.of_vectors else item
        parts = update.elementwise and item[0].numel() > CHUNK
        tensors: list[Sequence[Tensor]] = [t.split(CHUNK) if parts else (t,) for t in item]
        if parts and update.keyed:  # a part's random bits are those of its place in the whole
            places = [(i * CHUNK + 2**31) % 2**32 - 2**31 for i in range(len(tensors[0]))]  # modulo 2^32, as int32
            tensors[-1] = [torch.cat([item[-1], item[-1].new_tensor([place])]) for place in places]
        apply(update, kernel.maximize, scalars, tensors)

    made = (
        None
        if compile is False or watched()
        else ready(_attempts(kernel, len(scalars), shortcuts.DIRECT).made(), compile)
    )
    if made is None:
        return partial(_each, eager)
    call, values = made, torch.tensor(scalars, dtype=kernel.scalar_dtype, device="cpu")

    shape: torch.Size | None = None
    run: Run | None = None

    def compiled(item: Item) -> None:
        nonlocal shape, run
        if item[0].shape != shape:
            shape = item[0].shape
            # the compiler specialises a size of 1: not worth a kernel of its own
            run = call.on(item) if (shape.numel() if update.of_vectors else min(shape)) > 1 else None
        if run is None:
            return eager(item)
        if update.prologue:
            update.prologue(*item)
        run(values, item)
        if update.epilogue:
            update.epilogue(*item)
        return None

    return partial(_each, compiled)


def _each(update: Callable[[Item], None], items: Iterable[Item]) -> None:
    for item in items:
        update(item)
        del item  # which may be the only one that holds it, while the next one is made


class _Attempts:
    """The attempts to compile a kernel, in as many steps, until one succeeds."""

    def __init__(self, kernel: Kernel, scalars: int, past_guards: bool) -> None:
        self._of, self._refusals = (kernel, scalars, past_guards), 0
        self._result: Direct | Exception | None = None

    def made(self) -> Direct | Exception:
        """The compiled kernel; or what went wrong."""
        if isinstance(self._result, Direct):
            return self._result
        if self._refusals < TRIES:
            try:
                self._result = _compiled(*self._of)
            except NotCompiled as error:
                self._result, self._refusals = error, self._refusals + 1
        assert self._result is not None
        return self._result


_attempts = functools.cache(_Attempts)


def _compiled(kernel: Kernel, scalars: int, past_guards: bool) -> Direct:
    """The CPU kernel for a tensor of any size, compiled and tried. NotCompiled says what went wrong."""
    update, maximize = kernel.update, kernel.maximize

    def function(values: Tensor, *tensors: Tensor) -> None:
        apply(update, maximize, values.unbind(), [(t,) for t in tensors], whole=False)

    shapes = [[int(c) if c.isdigit() else SIZES[c] for c in word] for word in update.shapes.split()]
    dummies = [torch.ones(shape, device="cpu").to(dtype) for shape, dtype in zip(shapes, kernel.dtypes, strict=True)]
    try:
        asking_for_vectors()
        call = Direct(function, update.contract, update.of_vectors, past_guards)
        call.on(tuple(dummies))(torch.ones(scalars, dtype=kernel.scalar_dtype, device="cpu"), tuple(dummies))
    except Exception as error:  # whatever a compiler can meet; `ready` reports it
        said = f"{type(error).__name__}: {error}"
    else:
        return call
    raise NotCompiled(said)
