"""Compiles an optimizer's pure update function once and serves it to every optimizer of the process.

An update is a pure function  function(scalars, param, grad, *state) -> (param, *state).  `updater` gives what applies it to one
tensor and writes the results in place: compiled by torch.compile where a compiler is found, and as it stands otherwise.

On the CPU all sizes are dynamic, so that one compilation serves every tensor of the same dtypes, every lr and every step: neither a
scheduler nor another model recompiles anything. Each kernel sees throw-away tensors first: Inductor decides on threads and loops
from the sizes that it sees first, and no small model shall decide how the next large one is run; and a compiler's failure
shows before anything has changed. Small tensors come many at a time, laid side by side (fast/_packs.py). On a GPU the launches
count, not the calls: there fast/_graphs.py compiles all tensors of a step into one graph of fixed sizes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fast._checks import users_line

CHUNK = 65_536  # entries an eager elementwise step works on at a time: its temporaries stay in the cache
# Inductor stores an intermediate that depends on more than some loads, and each hyper-parameter counts as one: never do
INLINED: dict[str, Any] = dict.fromkeys(
    ("realize_opcount_threshold", "realize_reads_threshold", "realize_acc_reads_threshold"), 1000
)
SIZES = {"N": 262_144, "A": 3, "B": 5, "R": 768, "C": 640}  # to compile for, all distinct: equal ones would be tied


@dataclass(frozen=True, eq=False)
class Update:
    """A pure function of tensors, and the shapes that it takes: a word for param, grad and each state, a letter for a size.

    "N N N N" is elementwise on four vectors; "RC RC RC R" takes three matrices and a vector with a number for each row.
    """

    function: Callable[..., tuple[Tensor, ...]]
    shapes: str
    elementwise: bool = False  # no entry depends on another one: an eager step may work on parts
    prologue: Callable[..., None] | None = None  # run before, uncompiled on the CPU, on param, grad and state, in place
    epilogue: Callable[..., None] | None = None  # the same, run after
    statistic: Callable[..., Tensor] | None = None  # a reduction of a whole tensor, `function`'s last argument
    keyed: bool = False  # see `stored` of fast/_rounding.py

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
        for old, value in zip((param, *state), new, strict=False):  # what an update does not return, it only reads
            old.copy_(value)
        if update.epilogue and whole:
            update.epilogue(param, grad, *state)


Item = tuple[Tensor, ...]  # param, grad and each state
Run = Callable[[Tensor, Item], None]  # updates an item, with the scalars as one tensor


def updater(kernel: Kernel, compile: bool | None, scalars: Sequence[float]) -> Callable[[Iterable[Item]], None]:
    """What updates items (param, grad, *state) on the CPU with these scalars; items of a shape have the same strides."""
    own = kernel.update

    def eager(items: Iterable[Item]) -> None:
        for item in items:
            parts = own.elementwise and item[0].numel() > CHUNK
            tensors: list[Sequence[Tensor]] = [t.split(CHUNK) if parts else (t,) for t in item]
            if parts and own.keyed:  # a part's random bits are those of its place in the whole
                tensors[-1] = [torch.cat([item[-1], item[-1].new_tensor([i * CHUNK])]) for i in range(len(tensors[0]))]
            apply(own, kernel.maximize, scalars, tensors)

    made = None if compile is False else ready(_compiled(kernel, len(scalars)), compile)
    if made is None:
        return eager
    call, values = made, torch.tensor(scalars, dtype=kernel.scalar_dtype, device="cpu")

    def update(items: Iterable[Item]) -> None:
        shape, run = None, None
        for item in items:
            if item[0].shape != shape:
                shape = item[0].shape
                # the compiler specialises a size of 1: not worth a kernel of its own
                run = call.on(item) if min(shape) > 1 else None
            if run is None:
                eager((item,))
                continue
            if own.prologue:
                own.prologue(*item)
            run(values, item)
            if own.epilogue:
                own.epilogue(*item)

    return update


def compiled(
    function: Callable[..., Any], dynamic: bool, options: dict[str, Any] | None = None, backend: Any = "inductor"
) -> Callable[..., Any]:
    """With entries of its own in Dynamo's cache, and an error where it would recompile without end or fall back in silence."""
    arguments: dict[str, Any] = {"dynamic": dynamic, "fullgraph": True, "isolate_recompiles": True, "options": options}
    return torch.compile(function, backend=backend, **arguments)


class Direct:
    """A compiled function of (values, *item), for which Dynamo's guards are asked once for each kind of item.

    Guards and wrappers cost more than a small kernel. What they ask of tensors is their shapes, dtypes and strides; here all
    have the strides of the parameter. So the first item of a kind goes through Dynamo, and it is noted which code of Inductor's
    ran, and on which arguments; the next ones go there at once.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._guarded = compiled(function, dynamic=True, backend=self._backend)
        self._known: dict[Any, Run] = {}
        self._ran: list[tuple[Callable[..., Any], list[Any]]] = []

    def on(self, item: Item) -> Run:
        """What is to be called with (values, item) for this item, and for others of its shapes, dtypes and strides."""
        # the code is made for a number of threads, and whoever put another tensor into the state must not be misread
        key = torch.get_num_threads(), item[0].stride(), *[(t.shape, t.dtype) for t in item]
        return self._known.get(key) or partial(self._first, key)

    def _first(self, key: Any, values: Tensor, item: Item) -> None:
        # a view's guards would ask after what it is a view of
        tensors = tuple(t.detach() for t in (values, *item))
        self._ran.clear()
        self._guarded(*tensors)
        if not self._ran:
            return
        code, arguments = self._ran.pop()  # which keeps no tensor alive
        places = {id(t): i for i, t in enumerate(tensors)}
        sizes = tuple(a for a in arguments if id(a) not in places)
        if not all(type(size) is int for size in sizes):
            return
        rest = iter(range(len(tensors), len(tensors) + len(sizes)))
        pick = operator.itemgetter(*[places[id(a)] if id(a) in places else next(rest) for a in arguments])

        def run(values: Tensor, item: Item) -> None:
            code([*pick((values, *item, *sizes))])
            increment_version((item[0], *item[2:]))  # autograd is to know what was written: all but the gradient

        self._known[key] = run

    def _backend(self, graph: torch.fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        _asking_for_vectors().join()
        wrapped: Any = compile_fx(graph, examples, config_patches={**INLINED, "size_asserts": False})  # pyright: ignore[reportArgumentType]
        made: Any = inspect.unwrap(wrapped)  # Inductor's own, which writes in place: the wrappers only count versions

        def noted(*arguments: Any) -> Any:
            code = made.current_callable

            def noting(arguments: list[Any]) -> Any:
                taken = list(arguments)  # the code empties its list
                results = code(arguments)
                if not results:  # else the wrappers would have to write them somewhere
                    self._ran.append((code, taken))
                return results

            made.current_callable = noting
            try:
                return wrapped(*arguments)
            finally:
                made.current_callable = code

        return noted if hasattr(made, "current_callable") else wrapped


@functools.cache
def _asking_for_vectors() -> threading.Thread:
    """Finds out in the background which vectors the processor has.

    Inductor builds and loads a library for each kind, in a new process, and waits for it: a second, in which its own modules
    can be imported.
    """
    from torch._inductor import codecache, cpp_builder, cpu_vec_isa  # noqa: F401  two threads must not import one module

    def ask() -> None:
        with contextlib.suppress(
            Exception
        ):  # what goes wrong here goes wrong again where it is asked for, and is told there
            cpu_vec_isa.valid_vec_isa_list()  # which keeps the answer

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


class NotCompiled(RuntimeError):
    """What a compiler said, without its own error, which would keep the tensors alive that it was tried on."""


@functools.cache
def _compiled(kernel: Kernel, scalars: int) -> Direct | Exception:
    """The CPU kernel for a tensor of any size, compiled and tried; or what went wrong."""
    update, maximize = kernel.update, kernel.maximize

    def function(values: Tensor, *tensors: Tensor) -> None:
        apply(update, maximize, values.unbind(), [(t,) for t in tensors], whole=False)

    shapes = [[int(c) if c.isdigit() else SIZES[c] for c in word] for word in update.shapes.split()]
    dummies = [torch.ones(shape, device="cpu").to(dtype) for shape, dtype in zip(shapes, kernel.dtypes, strict=True)]
    call = Direct(function)
    try:
        _asking_for_vectors()
        call.on(tuple(dummies))(torch.ones(scalars, dtype=kernel.scalar_dtype, device="cpu"), tuple(dummies))
    except Exception as error:  # whatever a compiler can meet; `ready` reports it
        return NotCompiled(f"{type(error).__name__}: {error}")
    return call


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
    _warn_once(said.partition("\n")[0])
    return None
