"""Runs an optimizer's step on a GPU: all tensors of a step in one compiled graph, and as few kernels in it as can be.

A launch costs a GPU some microseconds whatever it does, so elementwise updates of many tensors become one kernel, by
`foreach_map`: a pure function of one tensor, mapped over lists, whose outputs Inductor joins side by side. A reduction cannot
stand in such a list. An update that needs one number for a whole tensor gives it as its `statistic`, and the reductions of all
tensors are joined by Inductor's combo kernels. An update that reduces along rows keeps one kernel a tensor, so that each row is
read once and stays in registers; Adams' stages, small and many, are joined across tensors.

Hyper-parameters are 0-d CPU tensors, which become arguments of the kernels: no schedule recompiles anything, nothing is copied to
the GPU or read back. With `capturable` what depends on `step` is a vector on the GPU, a number for each tensor.

The graph is compiled in the first step that needs it, before that step has changed anything, on the tensors themselves: no second
model is allocated. Which tensors have a gradient decides the graph; after GRAPHS different sets for one kernel, each tensor
gets a graph for its shape, so that a mixture of experts does not compile for ever.

Counted without a GPU by `python -m fast.gpu_codegen`; times on a GPU: not run.
"""

from __future__ import annotations

import functools
import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fast._compile import TRIES, Kernel, Update, apply, ready
from fast._direct import INLINED, compiled, watched

POINTERS = (
    480  # arguments a kernel takes at most: 4096 bytes of 8, less some numbers (CUDA's limit for all its versions)
)
GRAPHS = 4  # sets of tensors for which a kernel has a graph of its own
UNLIMITED = 1_000_000  # Inductor counts every number again for each tensor; POINTERS bounds the arguments instead
JOINED: dict[str, Any] = {"combo_kernel_max_num_args": UNLIMITED}
COMBINED = {
    **JOINED,
    "combo_kernels": True,
    "combo_kernel_max_num_nodes": UNLIMITED,
    "combo_kernel_per_subkernel_blocks": True,
}
LOOPED = {**COMBINED, "triton.persistent_reductions": False}  # one kind of kernel, so that all reductions go in one

MAPPED = importlib.util.find_spec("torch._higher_order_ops.foreach_map") is not None  # not in torch 2.6

Item = tuple[Tensor, ...]
Numbers = Sequence[float | Tensor]
_sets: dict[tuple[Any, ...], set[tuple[Any, ...]]] = defaultdict(set)


class Graph:
    """A compiled graph, and what went wrong with it: an error shows in the first call, before anything has changed."""

    def __init__(self, update: Update) -> None:
        self.call: Callable[..., None] = compiled(joined, dynamic=False, options=options(update))
        self.error: Exception | None = None
        self.refusals = 0
        self.made = False

    def run(self, *arguments: Any) -> bool:
        """Whether it ran. Where the compiler fails, or is not asked, nothing has changed."""
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import, and only a GPU comes here

        if self.refusals == TRIES or watched() or arguments[-1][0][0].device.type == "meta":
            return False
        try:
            with nullcontext() if self.made else short_with_long():
                self.call(*arguments)
        except TorchDynamoException as error:  # of the compiler alone: no kernel has run
            self.error, self.refusals = error, self.refusals + 1
            return False
        self.made, self.error = True, None
        return True


@contextmanager
def short_with_long() -> Iterator[None]:
    """Inductor joins reductions of up to 2048 entries apart from longer ones, a launch for a few norms: all in one, here."""
    try:
        from torch._inductor.codegen import triton_combo_kernel as combo

        usual = combo._custom_combo_kernel_horizontal_partition_algorithm
    except (ImportError, AttributeError):  # another torch than those that were tried: some launches more
        yield
        return
    combo.set_custom_combo_kernel_horizontal_partition(lambda nodes, *_: [nodes])
    try:
        yield
    finally:
        combo.set_custom_combo_kernel_horizontal_partition(usual)


def options(update: Update) -> dict[str, Any]:
    """Inductor's options for the graph of an update."""
    if update.elementwise:
        return JOINED
    if update.statistic:
        return {**LOOPED, **INLINED}
    return {**COMBINED, **INLINED} if update.prologue else INLINED


def run_graphs(kernel: Kernel, compile: bool | None, scalars: Numbers, items: list[Item]) -> None:
    """Updates `items`, tuples (param, grad, *state) of `kernel`'s dtypes. A scalar is a number, or a vector: one for each item."""
    numbers = [
        x if isinstance(x, Tensor) else torch.tensor(x, dtype=kernel.scalar_dtype, device="cpu") for x in scalars
    ]
    varying = tuple(x.ndim > 0 for x in numbers)
    most = POINTERS // (len(items[0]) + 1)
    for first, last in _parts(kernel, varying, items, most):
        part = items[first:last]
        values = [x[first:last] if x.ndim else x for x in numbers]
        tensors = list(zip(*part, strict=True))
        if compile is not False:
            graph = _graph(kernel, varying, tuple(_shapes(item) for item in part))
            if graph.run(kernel.update, kernel.maximize, values, tensors):
                continue
            if graph.error is not None:
                ready(graph.error, compile)
        for i, item in enumerate(part):
            apply(kernel.update, kernel.maximize, [x[i] if x.ndim else x for x in values], [(t,) for t in item])


def _parts(kernel: Kernel, varying: tuple[bool, ...], items: list[Item], most: int) -> list[tuple[int, int]]:
    """Which items share a graph: ranges of them."""
    shapes = tuple(_shapes(item) for item in items)
    known = _sets[kernel, varying]
    if shapes not in known and len(known) >= GRAPHS:
        return [(i, i + 1) for i in range(len(items))]
    known.add(shapes)
    return [(i, min(i + most, len(items))) for i in range(0, len(items), most)]


def _shapes(item: Item) -> tuple[torch.Size, ...]:
    return tuple(t.shape for t in item)


@functools.cache
def _graph(kernel: Kernel, varying: tuple[bool, ...], shapes: tuple[tuple[torch.Size, ...], ...]) -> Graph:
    return Graph(kernel.update)


def joined(update: Update, maximize: bool, values: Sequence[Tensor], tensors: Sequence[Sequence[Tensor]]) -> None:
    """As `apply`, on lists (params, grads, one list for each state), for the compiler. A value is 0-d, or a vector."""
    # clones, which the compiler leaves out: foreach_map takes no operands that are views of one tensor
    varying = [[number.clone() for number in x.unbind()] for x in values if x.ndim]

    def numbers(own: Sequence[Tensor]) -> list[Tensor]:
        rest = iter(own)
        return [next(rest) if x.ndim else x for x in values]

    if not (MAPPED and (update.elementwise or update.statistic)):
        for i, item in enumerate(zip(*tensors, strict=True)):
            apply(update, maximize, numbers([x[i] for x in varying]), [(t,) for t in item])
        return
    extra = []
    if update.statistic:
        found = []
        for i, (param, grad, *state) in enumerate(zip(*tensors, strict=True)):
            own = numbers([x[i] for x in varying])
            found.append(update.statistic(own, param, -grad if maximize else grad, *state))
        extra = [found]

    def output(k: int) -> Callable[..., Tensor]:
        def of_one(*operands: Tensor) -> Tensor:
            param, grad, *rest = operands[len(varying) :]
            own = numbers(operands[: len(varying)])
            new = update.function(own, param, -grad if maximize else grad, *rest)
            return new[k].to((param, grad, *rest)[k + (k > 0)].dtype)

        return of_one

    # a prototype of torch, and slow to import: only here
    from torch._higher_order_ops.foreach_map import foreach_map

    olds = (tensors[0], *tensors[2 : len(tensors) - update.keyed])  # a key is only read
    # one list for each output: the outputs of a tensor share its kernel all the same, and compute what they share once
    news = [foreach_map(output(k), *varying, *tensors, *extra) for k in range(len(olds))]
    for old, new in zip(olds, news, strict=True):
        torch._foreach_copy_(list(old), new)  # pyright: ignore[reportPrivateImportUsage]
