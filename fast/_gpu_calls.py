"""The graphs of an optimizer's step on a GPU, and the code that Inductor writes for them.

A graph is what fast/_graphs.py hands to the compiler, recorded from the optimizer's own `step` on meta tensors, which have shapes
and no memory: they take the path of the GPU, with its batches and its numbers. What the step runs outside its graphs is counted
too. Call `pretend` of fast/_pretend_gpu.py before `generate`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fast
import fast._graphs as graphs
from fast._compile import Kernel, Update
from fast._graphs import joined, options, short_with_long
from fast._pretend_gpu import Generated, collecting
from fast.bench import Shape, by_rows

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Grams": fast.Grams,
    "Lion": fast.Lion,
    "CautiousAdamW": fast.CautiousAdamW,
    "CautiousLion": fast.CautiousLion,
    # by rows; a query's or key's blocks, its heads, are too large for one read and take 24 bytes: Llama-60M's then are 20.7
    "AdamMini": lambda params, **options: fast.AdamMini(params, partition=by_rows, **options),
    "Adams": fast.Adams,
}
CONTROL = "CONTROL"
Like = tuple[Shape, tuple[int, ...], torch.dtype]  # shape, stride, dtype of a tensor


@dataclass(frozen=True)
class Call:
    """One graph of an optimizer's step: what `joined` is compiled for."""

    kernel: Kernel
    scalars: tuple[tuple[str, Shape], ...]  # of each number: where it lies, and () or (tensors,)
    items: tuple[tuple[Like, ...], ...]


@dataclass
class Step:
    """A step: its graphs, and the operations that run on the GPU outside of them, a kernel each."""

    calls: list[Call] = field(default_factory=list)
    eager: list[str] = field(default_factory=list)


def call_of(kernel: Kernel, values: Sequence[Tensor], tensors: Sequence[Sequence[Tensor]]) -> Call:
    """The call of a graph with these arguments, as if they lay on a GPU."""
    scalars = tuple(("cpu" if x.device.type == "cpu" and not x.ndim else "cuda", tuple(x.shape)) for x in values)
    items = tuple(tuple((tuple(t.shape), t.stride(), t.dtype) for t in item) for item in zip(*tensors, strict=True))
    return Call(replace(kernel, device=torch.device("cuda")), scalars, items)


def step_of(name: str, shapes: Sequence[Shape], dtype: torch.dtype = torch.float32, capturable: bool = False) -> Step:
    """The second step of an optimizer's class, which has its state; with `capturable`, lr too is a tensor on the GPU."""
    params = [torch.nn.Parameter(torch.empty(s, dtype=dtype, device="meta")) for s in shapes]
    for param in params:
        param.grad = torch.empty_like(param)
    optimizer: Any = OPTIMIZERS["Grams" if name == CONTROL else name](params, capturable=capturable)
    if capturable:
        for group in optimizer.param_groups:
            group["lr"] = torch.empty((), device="meta")
    with _recording(Step(), False):
        optimizer.step()
    step = Step()
    with _recording(step, name == CONTROL), _Eager(step.eager):
        optimizer.step()
    return step


def _recording(step: Step, control: bool) -> Any:
    class Recorded:
        def __init__(self, kernel: Kernel, *_: Any) -> None:
            self.kernel = replace(kernel, update=broken(kernel.update)) if control else kernel

        def run(self, update: Update, maximize: bool, values: Sequence[Tensor], tensors: Any) -> bool:
            step.calls.append(call_of(self.kernel, values, tensors))
            return True

    return mock.patch.multiple(graphs, _graph=Recorded, _sets=defaultdict(set))


class _Eager(TorchDispatchMode):
    """Notes the operations on meta tensors that would launch a kernel: all but views and bare allocations."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, result)) if isinstance(t, Tensor)]
        name = str(func).removeprefix("aten.")
        if (
            any(t.is_meta for t in tensors)
            and not func.is_view
            and not name.split(".")[0].startswith(("empty", "new_empty"))
        ):
            self.found.append(name)
        return result


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


def generate(call: Call) -> Generated:
    """The code that Inductor writes for a graph on the pretended GPU."""
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch._dynamo.reset()
    with collecting() as made, FakeTensorMode(), short_with_long():
        items = [
            tuple(torch.empty_strided(shape, stride, dtype=dtype, device="cuda") for shape, stride, dtype in item)
            for item in call.items
        ]
        dtype = call.kernel.scalar_dtype
        values = [torch.empty(shape, dtype=dtype, device=device) for device, shape in call.scalars]
        given = [*values, *(t for item in items for t in item)]
        order: list[int] = []

        def backend(graph: Any, inputs: list[Tensor]) -> Any:
            order.extend(next(i for i, t in enumerate(given) if t is x) for x in inputs)
            return compile_fx(graph, inputs, config_patches=options(call.kernel.update))

        graph: Any = torch.compile(joined, fullgraph=True, dynamic=False, backend=backend)
        try:
            graph(call.kernel.update, call.kernel.maximize, values, list(zip(*items, strict=True)))
        except Exception as error:
            if not any(isinstance(e, Generated) for e in _causes(error)):  # the one that `collecting` raises on purpose
                raise
    (code,) = made
    code.order = order
    return code


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
