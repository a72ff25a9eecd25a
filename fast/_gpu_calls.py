"""The graphs of an optimizer's step on a GPU, and the code that Inductor writes for them.

A graph is what fast/_graphs.py hands to the compiler: it is recorded from the optimizer's own `step`, with the Update objects
that the step chooses, and compiled on FakeTensors. Call `pretend` of fast/_pretend_gpu.py before `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import fast
from fast._compile import Kernel, Update
from fast._graphs import POINTERS, Item, Numbers, joined, options, short_with_long
from fast._pretend_gpu import Generated, collecting
from fast.bench import Shape, by_rows

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Grams": fast.Grams,
    "Lion": fast.Lion,
    "CautiousAdamW": fast.CautiousAdamW,
    "CautiousLion": fast.CautiousLion,
    "AdamMini": lambda params, **options: fast.AdamMini(params, partition=by_rows, **options),
    "Adams": fast.Adams,
}
CONTROL = "CONTROL"


@dataclass(frozen=True)
class Call:
    """One graph of an optimizer's step: what `joined` is compiled for."""

    kernel: Kernel
    scalars: tuple[bool, ...]  # which of them are vectors on the GPU
    items: tuple[tuple[tuple[Shape, tuple[int, ...], torch.dtype], ...], ...]  # shape, stride and dtype of each tensor


def calls(
    name: str, shapes: Sequence[Shape], dtype: torch.dtype = torch.float32, capturable: bool = False
) -> list[Call]:
    """The graphs of a step of an optimizer's class, recorded from its own `step` on CPU tensors that are never touched."""
    import fast._optimizer as module

    params = [torch.nn.Parameter(torch.empty(s, dtype=dtype)) for s in shapes]
    for param in params:
        param.grad = torch.empty_like(param)
    optimizer = OPTIMIZERS["Grams" if name == CONTROL else name](params)
    found: dict[tuple[Any, ...], list[Any]] = {}

    def record(kernel: Kernel, compile: bool | None, scalars: Numbers, items: list[Item]) -> None:
        # on the CPU a call holds tensors of one shape; on the GPU the key lacks it
        tensors = [tuple((tuple(t.shape), t.stride(), t.dtype) for t in item) for item in items]
        if name == CONTROL:
            kernel = Kernel(broken(kernel.update), kernel.maximize, kernel.device, kernel.dtypes)
        found.setdefault((kernel, _varying(name, optimizer, capturable, len(scalars))), []).extend(tensors)

    with mock.patch.object(module, "run", record):
        optimizer.step()
    most = {key: POINTERS // (len(key[0].dtypes) + 1) for key in found}
    return [
        Call(kernel, varying, tuple(items[i : i + most[kernel, varying]]))
        for (kernel, varying), items in found.items()
        for i in range(0, len(items), most[kernel, varying])
    ]


def _varying(name: str, optimizer: Any, capturable: bool, count: int) -> tuple[bool, ...]:
    if not capturable:
        return (False,) * count
    step = torch.ones(2, dtype=torch.float64)
    scalars = optimizer._scalars(optimizer.param_groups[0], 1e-3, step)
    return tuple(isinstance(x, Tensor) and x.ndim > 0 for x in scalars)


_broken: dict[Update, Update] = {}


def broken(update: Update) -> Update:
    """The update with an operation in its middle that the compiler cannot look into: the first moment takes a detour."""
    if update not in _broken:
        opaque = torch.library.custom_op(
            "adamlab::opaque", lambda x: x.clone(), mutates_args=(), schema="(Tensor x) -> Tensor"
        )
        opaque.register_fake(torch.empty_like)

        def function(scalars: Any, param: Tensor, grad: Tensor, exp_avg: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            return update.function(scalars, param, opaque(grad * 1.5), exp_avg, *state)

        _broken[update] = Update(function, update.shapes)
    return _broken[update]


def generate(call: Call) -> list[Generated]:
    """The code that Inductor writes for a graph on the pretended GPU: one, or several where the graph breaks."""
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch._dynamo.reset()
    with collecting() as made, FakeTensorMode(), short_with_long():
        items = [
            tuple(torch.empty_strided(shape, stride, dtype=dtype, device="cuda") for shape, stride, dtype in item)
            for item in call.items
        ]
        dtype = call.kernel.scalar_dtype
        values = [
            torch.empty(len(items), dtype=dtype, device="cuda") if vector else torch.empty((), dtype=dtype)
            for vector in call.scalars
        ]
        given = [*values, *(t for item in items for t in item)]
        order: list[int] = []

        def backend(graph: Any, inputs: list[Tensor]) -> Any:
            order.extend(next(i for i, t in enumerate(given) if t is x) for x in inputs)
            return compile_fx(graph, inputs, config_patches=options(call.kernel.update))

        graph: Any = torch.compile(joined, fullgraph=True, dynamic=False, backend=backend)
        try:
            graph(call.kernel.update, call.kernel.maximize, values, list(zip(*items, strict=True)))
        except Exception:
            if not made:
                raise
    for code in made:
        code.order = order
    return made
