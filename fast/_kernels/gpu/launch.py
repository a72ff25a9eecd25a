"""Runs an update on a GPU: a few launches for any number of tensors, compiled once for an update and its dtypes.

A launch costs a GPU some microseconds whatever it does. So tensors that take one update go in one launch, or in a few where they
have sums along lines of very different lengths. Their addresses, sizes and numbers go to the GPU in one small
asynchronous copy from pinned memory. Nothing is read back. With `capturable` the numbers are computed on the GPU.

The kernels need Triton. Where it is missing or fails, the update runs an operation at a time, of lists where it can (lists.py).
"""

from __future__ import annotations

import functools
import itertools
import linecache
import logging
import os
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fast._kernels.direct import watched
from fast._kernels.gpu import code
from fast._kernels.gpu.code import SIZES, Form, traced
from fast._kernels.gpu.layout import LONGEST, Cut, Variant, cut_of, segments_of, variant_of
from fast._kernels.gpu.lists import Lists
from fast._kernels.update import TRIES, Kernel, Stage, apply, ready

try:
    import numpy as np
except ImportError:  # torch goes without it, and so does a step by single operations
    np: Any = None

PATIENCE = 5.0  # seconds of compiling of which nothing is said
logger = logging.getLogger(__name__)

Item = tuple[Tensor, ...]
Numbers = Sequence[float | Tensor]


def letters_of(stage: Stage) -> tuple[list[tuple[Any, ...]], frozenset[str]]:
    """The shapes of a stage's tensors, less the batch, and the letters of the places along a line."""
    words = stage.shapes.split()
    shapes = [
        tuple(1 if c == "1" else c for c in word if c not in stage.batch) if not word.isdigit() else ()
        for word in words
    ]
    return shapes, frozenset(words[0]) - {*stage.line, *stage.batch}


@functools.cache
def form_of(kernel: Kernel, stage: Stage, numbers: int) -> Form:
    """A stage, read."""
    dtypes = [kernel.dtypes[i] for i in stage.tensors]
    maximize = kernel.maximize and 1 in stage.tensors

    def function(scalars: Any, *tensors: Any) -> Any:
        tensors = tuple(-t if maximize and i == 1 else t for i, t in zip(stage.tensors, tensors, strict=True))
        return stage.function(scalars, *tensors)

    return traced(function, dtypes, *letters_of(stage), stage.writes, numbers, kernel.scalar_dtype)


class Program:
    """Triton's functions for a form, written and handed to it when they are first needed; compiled for each variant."""

    def __init__(self, form: Form, name: str) -> None:
        self.form, self.name = form, name
        self._functions: dict[str, list[Any]] = {}
        self._refusals: dict[Variant, int] = defaultdict(int)
        self._errors: dict[Variant, Exception] = {}
        self._made: set[Variant] = set()

    def functions(self, kind: str) -> list[Any]:
        if kind not in self._functions:
            self._functions[kind] = [function(*text) for text in self.texts(kind)]
        return self._functions[kind]

    def texts(self, kind: str) -> list[tuple[str, str]]:
        """Names and texts of the kernels of a kind."""
        if kind == "split":
            names = f"{self.name}_sums", f"{self.name}_step"
            return list(zip(names, code.split(self.form, self.name), strict=True))
        return [(self.name, {"flat": code.flat, "lines": code.lines, "loops": code.loops}[kind](self.form, self.name))]

    def refuses(self, variant: Variant) -> bool:
        """Whether it is not tried again."""
        return self._refusals[variant] >= TRIES

    def compiled(self, variant: Variant, number_dtype: torch.dtype) -> Exception | None:
        """What went wrong, if the machine code is not there after this."""
        if variant in self._made or self._refusals[variant] >= TRIES:
            return self._errors.get(variant)
        try:
            for one in self.functions(variant.kind):
                one.warmup(torch.int64, number_dtype, torch.int32, grid=(1,), **variant.options())
        except Exception as error:  # whatever a compiler can meet; `ready` reports it
            self._errors[variant] = error
            self._refusals[variant] += 1
            return error
        self._errors.pop(variant, None)
        self._made.add(variant)
        return None


def function(name: str, text: str) -> Any:
    """Triton's function of a text; it reads the source again, and finds it where Python keeps that of files."""
    import triton

    file = f"<adamlab {next(_texts)} {name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names: dict[str, Any] = {"__name__": f"adamlab_{name}"}
    exec(compile(text, file, "exec"), names)
    made = names[name]
    return made if not isinstance(made, type(function)) else triton.jit(made)


_texts = itertools.count()


@functools.cache
def program_of(kernel: Kernel, stage: Stage, numbers: int) -> Program:
    name = kernel.update.function.__module__.rpartition(".")[2]
    return Program(form_of(kernel, stage, numbers), f"{name}_of_{len(stage.tensors)}")


class Launch:
    """The tensors that one launch takes, or two where lines are split."""

    def __init__(self, program: Program, stage: Stage, variant: Variant) -> None:
        self.program, self.variant = program, variant
        self.columns = list(stage.tensors)
        self.items: list[int] = []
        self.cuts: list[Cut] = []
        self.offsets: list[list[int]] = []  # in bytes, of a batch's tensors

    def finish(self, device: torch.device) -> None:
        """What does not change from step to step: sizes, the programs' work, scratch."""
        variant, form = self.variant, self.program.form
        lines, length = (np.array([getattr(cut, name) for cut in self.cuts]) for name in ("lines", "length"))
        self.segments = [segments_of(variant, cut) for cut in self.cuts]
        count, segment = np.array(self.segments).T
        groups = -(-lines // variant.lines)
        flat = variant.kind == "flat"
        self.works = [work(-(-length // variant.block) if flat else groups * count, 1, device)]
        if variant.kind == "split":  # where a step writes one number for a line, its first segment's program is enough
            long = any(form.tensors[i].long for i, _ in form.outputs)
            self.works += self.works if long else [work(groups, count, device)]
        sizes = {name: np.array([getattr(cut, name) for cut in self.cuts]) for name in Cut.__dataclass_fields__}
        entries = np.array(self.offsets, dtype=np.int64)[:, 0] // form.dtypes[0].itemsize
        sizes |= {"segments": count, "segment": segment, "entry": entries}
        self.scratch = 0
        if variant.kind == "split":
            partial, before = 8 * lines * count, 8 * lines  # bytes, whatever the dtype
            ends = np.cumsum(partial + before)
            self.scratch = int(ends[-1])
            sizes |= {"partial": ends - before - partial, "before": ends - before}
        self._sizes = np.zeros((len(self.cuts), len(SIZES)), dtype=np.int64)
        for i, name in enumerate(SIZES):
            self._sizes[:, i] = sizes.get(name, 0)
        self._offsets = np.array(self.offsets, dtype=np.int64)
        self._picked = np.array(self.items)[:, None], np.array(self.columns)[None, :]

    @property
    def words(self) -> int:
        """Of the table, 8 bytes each: even, so that the next one begins where kernels are compiled for, too."""
        return -(-(self._sizes.size + self._offsets.size) // 2) * 2

    def write(self, table: Any, addresses: Any, own_numbers: Any, absent: Any, scratch: int) -> None:
        """The table: addresses, sizes, and where a tensor's numbers begin; of a tensor that is absent, no lines to step."""
        table = table[: self._sizes.size + self._offsets.size].reshape(len(self.cuts), -1)
        first = self._offsets.shape[1]
        table[:, :first] = addresses[self._picked] + self._offsets
        table[:, first:] = self._sizes
        items = self._picked[0][:, 0]
        if own_numbers is not None:
            table[:, first + SIZES.index("own_numbers")] = own_numbers[items]
        if absent is not None:
            table[absent[items], first : first + 2] = 0
        if scratch:
            for name in ("partial", "before"):
                table[:, first + SIZES.index(name)] += scratch

    def run(self, table: Tensor, numbers: Tensor) -> None:
        for one, taken in zip(self.program.functions(self.variant.kind), self.works, strict=True):
            one[(len(taken),)](table, numbers, taken, **self.variant.options())


def work(parts: Any, step: Any, device: torch.device) -> Tensor:
    """Which tensor each program takes, and which part of it."""
    tensors = np.repeat(np.arange(len(parts)), parts)
    first = np.repeat(np.cumsum(parts) - parts, parts)
    own = (np.arange(len(tensors)) - first) * (step if np.ndim(step) == 0 else np.repeat(step, parts))
    return torch.from_numpy(np.stack([tensors, own], axis=1).astype(np.int32)).to(device)


class Plan:
    """The launches that take items of these shapes, strides and alignments."""

    def __init__(self, kernel: Kernel, numbers: int, items: Sequence[Item], aligned: Sequence[bool]) -> None:
        self.kernel = kernel
        self.error: Exception | None = None
        self.launches: list[Launch] = []
        self._spare: Tensor | None = None
        for stage in kernel.update.stages:
            try:
                program, found, first = program_of(kernel, stage, numbers), {}, stage.shapes.split()[0]
            except NotImplementedError as error:  # an update that a kernel cannot do: by single operations, then
                self.error, self.launches = error, []
                break
            for i, item in enumerate(items):
                own = [item[j] for j in stage.tensors]
                for tensors, offsets in batched(own, stage):
                    cut = cut_of(tuple(tensors[0].shape), tensors[0].stride(), first, stage)
                    variant = variant_of(program.form, cut, aligned[i] and not any(o % 16 for o in offsets))
                    if variant.kind != "flat" and max(cut.lines, cut.length) > LONGEST:
                        self.error = NotImplementedError(f"{max(cut.lines, cut.length)} lines or places are too many")
                    launch = found.setdefault(variant, Launch(program, stage, variant))
                    launch.items.append(i)
                    launch.cuts.append(cut)
                    launch.offsets.append(offsets)
            self.launches += found.values()
        device, begin = items[0][0].device, time.perf_counter()
        self.final, too_long = True, self.error is not None  # whether another attempt would end as this one
        with on(device):
            for launch in self.launches:
                self.error = self.error or launch.program.compiled(launch.variant, kernel.scalar_dtype)
                self.final &= self.error is None or launch.program.refuses(launch.variant) or too_long
                launch.finish(device)
        if (seconds := time.perf_counter() - begin) > PATIENCE:
            logger.warning(
                "compiled %s for %d tensors on %s in %.1f s; Triton keeps it in %s, where other processes find it",
                ", ".join(sorted({launch.program.name for launch in self.launches})),
                len(items),
                device,
                seconds,
                os.environ.get("TRITON_CACHE_DIR", "~/.triton/cache"),
            )

    def step(self, scalars: Numbers, items: Sequence[Item]) -> None:
        """A step of items. A scalar is a number for all, or a vector on the GPU."""
        device = items[0][0].device
        on_device = {j: x for j, x in enumerate(scalars) if isinstance(x, Tensor) and (x.ndim or x.device == device)}
        own = [0.0 if j in on_device else float(x) for j, x in enumerate(scalars)]
        addresses = np.array([[t.data_ptr() for t in item] for item in items], dtype=np.int64)
        rows = np.arange(len(items)) if on_device else None
        self.run(device, addresses, [own] * (len(items) if on_device else 1), rows, None, on_device)

    def run(
        self,
        device: torch.device,
        addresses: Any,
        numbers: Sequence[Sequence[float]],
        rows: Any,
        absent: Any = None,
        on_device: Mapping[int, Tensor] = MappingProxyType({}),
    ) -> None:
        """A step of tensors at these addresses.

        `rows`: which row of `numbers` each takes (None: the first); `absent`: which take no step; `on_device`: columns of the
        numbers, in the place of what is in them.
        """
        taken = np.array(numbers, np.float64 if self.kernel.scalar_dtype == torch.float64 else np.float32)
        first = -(-taken.nbytes // 16) * 2
        words = first + sum(launch.words for launch in self.launches)
        staging = self._staging(words, device, bool(on_device))
        written = staging.numpy()
        written[:first].view(taken.dtype)[: taken.size] = taken.reshape(-1)
        scratch = [torch.empty(launch.scratch, dtype=torch.uint8, device=device) for launch in self.launches]
        ends = first + np.cumsum([launch.words for launch in self.launches])
        begins = None if rows is None else rows * taken.shape[1]
        for launch, memory, end in zip(self.launches, scratch, ends, strict=True):
            launch.write(written[end - launch.words : end], addresses, begins, absent, memory.data_ptr())
        there = staging if device.type == "cpu" else staging.to(device, non_blocking=True)
        values = there[:first].view(self.kernel.scalar_dtype)[: taken.size]
        for j, x in on_device.items():
            values.view(taken.shape)[:, j].copy_(x)
        with on(device):
            for launch, end in zip(self.launches, ends, strict=True):
                launch.run(there[end - launch.words : end], values)

    def _staging(self, words: int, device: torch.device, capturable: bool) -> Tensor:
        """Memory for the table and the numbers, from which a GPU copies without anybody's waiting."""
        if device.type != "cuda":
            return torch.empty(words, dtype=torch.int64)
        spare, captured = self._spare, torch.cuda.is_current_stream_capturing()
        if captured:  # a replay copies from it again, and page-locked memory is better not asked for meanwhile
            self._spare = None
            staging = (
                spare
                if spare is not None and len(spare) == words
                else torch.empty(words, dtype=torch.int64, pin_memory=True)
            )
            _captured.append((self, staging))
            return staging
        if capturable and spare is None:
            self._spare = torch.empty(words, dtype=torch.int64, pin_memory=True)
        return torch.empty(words, dtype=torch.int64, pin_memory=True)


_captured: list[tuple[Plan, Tensor]] = []  # what CUDA graphs read when they are replayed


def on(device: torch.device) -> AbstractContextManager[object]:
    """Triton compiles for the current device, and launches on it."""
    return nullcontext() if device.type in ("cpu", "meta") else torch.get_device_module(device).device(device)


def batched(tensors: list[Tensor], stage: Stage) -> Iterator[tuple[list[Tensor], list[int]]]:
    """Tensors without the axis along which they are cut, and where each begins, in bytes."""
    words = stage.shapes.split()
    if not stage.batch:
        yield tensors, [0] * len(tensors)
        return
    (letter,) = stage.batch
    for i in range(tensors[0].shape[words[0].index(letter)]):
        parts = [
            t.select(word.index(letter), i) if letter in word else t for t, word in zip(tensors, words, strict=True)
        ]
        pairs = zip(parts, tensors, strict=True)
        yield parts, [int(p.storage_offset() - t.storage_offset()) * t.element_size() for p, t in pairs]


def prepared(kernel: Kernel, compile: bool | None, scalars: Numbers, items: list[Item]) -> Callable[[], None]:
    """What updates `items`, tuples (param, grad, *state) of `kernel`'s dtypes on one device: compiled, and not yet run.

    A scalar is a number, a 0-d tensor, or a vector: one for each item.
    """
    device = items[0][0].device
    for param, grad, *_ in items:
        if param.shape != grad.shape:
            raise ValueError(
                f"a gradient of shape {tuple(grad.shape)} was given for a parameter of shape {tuple(param.shape)}: clear it,"
                " and let backward() make one of the parameter's shape"
            )
    if compile is not False and device.type != "meta" and not watched():
        plan = plan_of(kernel, len(scalars), items) if np else None
        error = plan.error if plan else ImportError("the kernels of a GPU need NumPy")
        if ready(error or one_by_one, compile) is not None and plan:
            return functools.partial(plan.step, scalars, items)
    return functools.partial(uncompiled, kernel, scalars, items)


@functools.cache
def lists_of(kernel: Kernel, numbers: int) -> list[tuple[Stage, Lists]] | None:
    """What does each stage for lists of tensors; None where lists cannot do it."""
    if any(stage.batch for stage in kernel.update.stages):
        return None
    try:
        return [(stage, Lists(form_of(kernel, stage, numbers))) for stage in kernel.update.stages]
    except NotImplementedError:
        return None


def uncompiled(kernel: Kernel, scalars: Numbers, items: list[Item]) -> None:
    """The same without a compiler: each operation for many tensors, or for one after another."""
    numbers = [x for x in scalars if not isinstance(x, Tensor)]
    lists = lists_of(kernel, len(numbers)) if len(numbers) == len(scalars) else None
    if lists is None:
        return one_by_one(kernel, scalars, items)
    for stage, own in lists:
        own.run(numbers, [[item[i] for i in stage.tensors] for item in items])
    return None


def one_by_one(kernel: Kernel, scalars: Numbers, items: list[Item]) -> None:
    """The same, one operation of torch at a time."""
    for i, item in enumerate(items):
        own = [x[i] if isinstance(x, Tensor) and x.ndim else x for x in scalars]
        apply(kernel.update, kernel.maximize, own, [(t,) for t in item])


_plans: OrderedDict[Any, Plan] = OrderedDict()
PLANS = 64  # kept at most
_lock = threading.RLock()


def plan_of(kernel: Kernel, numbers: int, items: Sequence[Item]) -> Plan:
    """The plan for these items; the last ones are kept."""
    aligned = tuple(not any(t.data_ptr() % 16 for t in item) for item in items)
    shapes = tuple((*[t.shape for t in item], item[0].stride()) for item in items)
    key = kernel, numbers, items[0][0].device, aligned, shapes
    with _lock:  # backward hooks may step in threads of their own
        plan = _plans.get(key)
        if plan is None or (plan.error is not None and not plan.final):
            plan = _plans[key] = Plan(kernel, numbers, items, aligned)
            while len(_plans) > PLANS:
                _plans.popitem(last=False)
        _plans.move_to_end(key)
    return plan
