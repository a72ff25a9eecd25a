"""Compiles an optimizer's pure update function once and serves it to every optimizer of the process.

An update is a pure function  function(scalars, param, grad, *state) -> (param, *state).  `updater` gives what applies it to one
tensor and writes the results in place: compiled by torch.compile where a compiler is found, and as it stands otherwise.

On the CPU all sizes are dynamic, so that one compilation serves every tensor of the same dtypes, every lr and every step: neither a
scheduler nor another model recompiles anything. Each kernel sees throw-away tensors first: Inductor decides on threads and loops
from the sizes that it sees first, and no small model shall decide how the next large one is run; and a compiler's failure
shows before anything has changed. Small tensors come many at a time, laid side by side (`packs`). On a GPU the launches count,
not the calls: `launch` runs kernels of our own, which take any number of tensors.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from fast._engine.checks import users_line
from fast._kernels.direct import Direct, Item, Run, asking_for_vectors, vectors, watched

CHUNK = 65_536  # entries an eager elementwise step works on at a time: its temporaries stay in the cache
SIZES = {"N": 262_144, "A": 3, "B": 5, "R": 768, "C": 640}  # to compile for, all distinct: equal ones would be tied


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
    keyed: bool = False  # see `stored` of fast/_engine/rounding.py
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


def updater(kernel: Kernel, compile: bool | None, scalars: Sequence[float]) -> Callable[[Iterable[Item]], None]:
    """What updates items (param, grad, *state) on the CPU with these scalars; items of a shape have the same strides."""
    own = kernel.update

    def eager(item: Item) -> None:
        item = vectors(item) if own.of_vectors else item
        parts = own.elementwise and item[0].numel() > CHUNK
        tensors: list[Sequence[Tensor]] = [t.split(CHUNK) if parts else (t,) for t in item]
        if parts and own.keyed:  # a part's random bits are those of its place in the whole
            places = [(i * CHUNK + 2**31) % 2**32 - 2**31 for i in range(len(tensors[0]))]  # modulo 2^32, as int32
            tensors[-1] = [torch.cat([item[-1], item[-1].new_tensor([place])]) for place in places]
        apply(own, kernel.maximize, scalars, tensors)

    made = None if compile is False or watched() else ready(_attempts(kernel, len(scalars)).made(), compile)
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
            run = call.on(item) if (shape.numel() if own.of_vectors else min(shape)) > 1 else None
        if run is None:
            return eager(item)
        if own.prologue:
            own.prologue(*item)
        run(values, item)
        if own.epilogue:
            own.epilogue(*item)
        return None

    return partial(_each, compiled)


def _each(update: Callable[[Item], None], items: Iterable[Item]) -> None:
    for item in items:
        update(item)
        del item  # which may be the only one that holds it, while the next one is made


class NotCompiled(RuntimeError):
    """What a compiler said, without its own error, which would keep the tensors alive that it was tried on."""


TRIES = 2  # what refuses once may be the moment's (a full disk, an unusual mode of torch), what refuses twice is kept


class _Attempts:
    """The attempts to compile a kernel, in as many steps, until one succeeds."""

    def __init__(self, kernel: Kernel, scalars: int) -> None:
        self._of, self._refusals = (kernel, scalars), 0
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


def _compiled(kernel: Kernel, scalars: int) -> Direct:
    """The CPU kernel for a tensor of any size, compiled and tried. NotCompiled says what went wrong."""
    update, maximize = kernel.update, kernel.maximize

    def function(values: Tensor, *tensors: Tensor) -> None:
        apply(update, maximize, values.unbind(), [(t,) for t in tensors], whole=False)

    shapes = [[int(c) if c.isdigit() else SIZES[c] for c in word] for word in update.shapes.split()]
    dummies = [torch.ones(shape, device="cpu").to(dtype) for shape, dtype in zip(shapes, kernel.dtypes, strict=True)]
    call = Direct(function, update.contract, update.of_vectors)
    try:
        asking_for_vectors()
        call.on(tuple(dummies))(torch.ones(scalars, dtype=kernel.scalar_dtype, device="cpu"), tuple(dummies))
    except Exception as error:  # whatever a compiler can meet; `ready` reports it
        said = f"{type(error).__name__}: {error}"
    else:
        return call
    raise NotCompiled(said)


Made = TypeVar("Made", bound=Callable[..., Any] | Direct)


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
