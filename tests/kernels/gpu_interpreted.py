"""Steps of an optimizer by its GPU kernels in Triton's interpreter, against `reference`. A process of its own:

TRITON_INTERPRET=1 PYTHONPATH=.:tests/common python tests/kernels/gpu_interpreted.py [--capturable] [--dtype bfloat16] NAME...

prints, as JSON, the largest error of the parameters and of each state, relative to the largest entry. Nothing but the device is
pretended: the step, its tables and its launches are those of a GPU, on tensors of the CPU, whose addresses the interpreter takes.
It has no functions of CUDA's own library: atan2 is NumPy's.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from optimizers import OPTIMIZERS
from torch import Tensor

import fast
import fast._engine.step
from experiments.bench import by_rows
from fast import cautious as cautious_update
from fast import lion as lion_update
from fast._kernels.gpu.launch import prepared
from fast._kernels.update import Kernel, Update
from fast.adam_mini import adam_mini, shared_blocks
from fast.adams import adams as adams_update

STEPS = 3
SETS = {
    # rows in registers, a tall one, a long one; vectors, one of them longer than a program takes
    "mixed": [(24, 40), (5, 1100), (40, 24), (3, 9000), (1500,), (11,), (9001,), (1,), (32, 48)],
    "many": [(1000,)] * 40 + [(7,)] * 3,
    "batch": [(3, 24, 40), (2, 5, 7)],
    "thousands": [(1000,)] * 2000,
    "experts": [(6, 13), (6, 13), (13, 6)] * 128 * 4,
}
HYPER = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.5}
ROWS = {row.name: row for row in OPTIMIZERS}


def made(name: str, params: Sequence[Tensor], **options: Any) -> torch.optim.Optimizer:
    if name == "AdamMini":
        options["partition"] = by_rows
    return getattr(fast, name)(params, **HYPER, **options)


def pretended(stack: ExitStack) -> None:
    """Tensors of the CPU go the way of a GPU's."""

    def kernel(update: Any, maximize: bool, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> Kernel:
        return Kernel(update, maximize, torch.device("cuda"), dtypes)

    for module, name, value in (
        (fast._engine.step, "Kernel", kernel),
        (fast._engine.step, "batch", _one_batch(fast._engine.step.batch)),
        (adam_mini, "on_cpu", lambda t: False),
        (fast._engine.step, "on_cpu", lambda t: False),
    ):
        stack.enter_context(mock.patch.object(module, name, value))


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """A step inside works on tensors of the CPU as if they lay on a GPU."""
    with ExitStack() as stack:
        pretended(stack)
        stack.enter_context(_libdevice())
        yield


def _one_batch(batch: Any) -> Any:
    # a call of the CPU takes tensors of one shape, which is in the key; a GPU's takes all
    return lambda update, by_kernel, device, *like: batch(
        update, by_kernel, device, *[(dtype, None) for dtype, _ in like]
    )


def _libdevice() -> Any:
    """NumPy's functions in the place of the interpreter's stubs of CUDA's library; an error for what is not here."""
    import triton.language as tl
    from triton.language.extra import libdevice
    from triton.runtime.interpreter import TensorHandle

    def of(name: str) -> Any:
        def call(*operands: Any) -> Any:
            if name not in FUNCTIONS:
                raise NotImplementedError(f"libdevice.{name} has no NumPy function here: add it to FUNCTIONS")
            value = FUNCTIONS[name](*(x.handle.data for x in operands))
            first = operands[0]
            return tl.core.tensor(TensorHandle(value.astype(first.handle.data.dtype), first.handle.dtype), first.type)

        return call

    stubs = [name for name, _ in inspect.getmembers(libdevice, inspect.isfunction)]
    return mock.patch.multiple(libdevice, **{name: of(name) for name in stubs})


FUNCTIONS = {"atan2": np.arctan2}


def cut(w: Any) -> Any:
    """As bfloat16. Triton 3.7.1's interpreter cuts off what a GPU rounds to nearest."""
    bits = np.asarray(w, dtype=np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(float)


def errors(
    name: str, dtype: torch.dtype = torch.float32, capturable: bool = False, shapes: Any = "mixed", seed: int = 0
) -> dict[str, float]:
    row = ROWS[name]
    rule, states = row.rule, {**row.state, **({"master_param": "w"} if row.master else {})}
    draw = np.random.default_rng(seed)
    params = [torch.nn.Parameter(torch.from_numpy(draw.normal(size=s)).to(dtype)) for s in SETS[shapes]]
    optimizer = made(name, params, capturable=capturable)
    expected = [p.detach().double().numpy().copy() for p in params]
    memory = [rule.init(w) for w in expected]
    for _ in range(STEPS):
        for i, param in enumerate(params):
            param.grad = torch.from_numpy(draw.normal(size=param.shape)).to(dtype)
            hyper: dict[str, Any] = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.5}
            if name == "AdamMini":
                hyper["blocks"] = "rows" if param.ndim > 1 else "tensor"
            if name == "Adams":
                hyper["reseed"] = True
            w, memory[i] = rule.step(expected[i], param.grad.double().numpy(), memory[i], **hyper)
            # a parameter of a half type is rounded in each step, but where it has a float32 master
            rounded = name != "Adams" and dtype != torch.float32
            expected[i] = cut(w) if rounded else w
        with as_on_a_gpu():
            optimizer.step()
    worst = dict.fromkeys(["param", *states], 0.0)
    for param, w, state in zip(params, expected, memory, strict=True):
        found = {"param": (param.detach(), w if dtype == torch.float32 else cut(w))}
        found |= {
            ours: (optimizer.state[param][ours], w if theirs == "w" else getattr(state, theirs))
            for ours, theirs in states.items()
            if ours in optimizer.state[param]
        }
        for key, (ours, theirs) in found.items():
            a, b = ours.double().numpy().ravel(), np.asarray(theirs, dtype=float).ravel()
            worst[key] = max(worst[key], float(np.abs(a - b).max() / np.abs(b).max()))
    return worst


def changes(name: str, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """How far a run by the kernels is from one of single operations, after each of the things that may happen between two steps."""
    by_kernels, singly = (changed(name, dtype, compile) for compile in (None, False))
    worst = {}
    for what in singly:
        pairs = [(a.double(), b.double()) for a, b in zip(by_kernels[what], singly[what], strict=True)]
        worst[what] = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)
    return worst


def changed(name: str, dtype: torch.dtype, compile: bool | None) -> dict[str, list[Tensor]]:
    draw = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=draw).to(dtype)) for s in [(24, 40)] * 3 + [(30,)] * 4]
    optimizer: Any = made(name, params, compile=compile)
    found: dict[str, list[Tensor]] = {}

    def steps(count: int, *without: int, bucket: bool = False) -> None:
        for _ in range(count):
            for i, param in enumerate(params):
                grad = torch.randn(param.shape, generator=draw).to(dtype)
                if bucket and i % 2:  # at an address that is no multiple of 16
                    grad = torch.cat([grad.new_zeros(1), grad.view(-1)])[1:].view_as(param)
                param.grad = None if i in without else grad
            with nullcontext() if compile is False else as_on_a_gpu():
                optimizer.step()

    def note(what: str) -> None:
        state = [t for p in params for t in optimizer.state[p].values() if isinstance(t, Tensor)]
        found[what] = [t.detach().clone() for t in (*params, *state)]

    steps(1, 1, 5)
    note("a first step without some")
    steps(3)
    note("steps of all, with other counts")
    for i in range(4):
        steps(1, i, i + 2)
    note("gradients that come and go")
    steps(3, bucket=True)
    note("gradients in a bucket")
    optimizer.param_groups[0].update(lr=0.03, weight_decay=0.1, betas=(0.7, 0.95))
    steps(2)
    note("other hyper-parameters")
    optimizer.param_groups[0].update(maximize=True, betas=(0.4, 0.3))
    steps(2)
    note("the other direction, and averages from their other ends")
    with torch.no_grad():
        params[0].data = params[0].detach().clone()
        params[3].mul_(2)
    steps(2)
    note("a parameter elsewhere, and one written by others")
    optimizer.state[params[1]]["exp_avg"] = torch.ones_like(optimizer.state[params[1]]["exp_avg"])
    optimizer.state[params[4]]["step"] = torch.tensor(7.0)
    steps(2)
    note("another state")
    optimizer.state.pop(params[2])
    steps(2)
    note("a state that is gone")
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(2)
    note("a loaded state")
    new = torch.nn.Parameter(torch.randn(5, 7, generator=draw).to(dtype))
    params.append(new)
    optimizer.add_param_group({"params": [new], **({"partition": {"*": "rows"}} if name == "AdamMini" else {})})
    steps(2)
    note("another group")
    optimizer = copy.deepcopy(optimizer, {id(p): p for p in params})
    steps(2)
    note("a copy")
    return found


def kinds() -> dict[str, float]:
    """How far steps by the kernels are from steps of single operations: other layouts, dtypes, options and partitions."""
    usual = [(24, 40), (5, 1100), (1500,), (2049,)]
    cases: dict[str, Any] = {}
    for name in ("Grams", "Lion", "CautiousAdamW", "CautiousLion", "CautiousWeightDecay", "Adams"):
        make = getattr(fast, name)
        cases[f"{name}, float64"] = partial(make, **HYPER), usual, {"dtype": torch.float64}
        cases[f"{name}, not at addresses of 16 bytes"] = partial(make, **HYPER, maximize=True), usual, {"first": 1}
    cases["Grams, as released"] = partial(fast.Grams, **HYPER, as_released=True), usual, {}
    cases["Grams, bfloat16 average"] = partial(fast.Grams, **HYPER, exp_avg_dtype=torch.bfloat16), usual, {}
    cases["Adams, as released"] = partial(fast.Adams, **HYPER, as_released=True), usual, {}
    cases["Adams, convolution"] = partial(fast.Adams, **HYPER, flatten_kernels=True), [(6, 3, 3, 3)], {}
    cases["Adams, batch of matrices"] = partial(fast.Adams, **HYPER), [(2, 3, 5, 4)], {}
    for rule, shapes in (
        ("columns", [(70, 130), (600, 65), (8, 6, 3, 3)]),
        (("heads", 4), [(8, 130), (512, 24)]),
        (("heads", 4, 1), [(70, 128), (9, 8)]),
        (("fused", 4, 4, 1), [(70, 96)]),
        (("fused", 4, 2), [(64, 50)]),
        ("tensor", [(70, 96), (100, 130)]),
        ("rows", [(600, 9000)]),
    ):
        cases[f"AdamMini, {rule}"] = partial(_mini, rule), shapes, {}
    shards = {f"a shard of {what}": _of_update(*case) for what, case in _sharded_updates().items()}
    cases["AdamMini, columns, float64"] = partial(_mini, "columns"), [(70, 130)], {"dtype": torch.float64}
    return {what: _difference(*case) for what, case in cases.items()} | shards


def alike() -> list[int]:
    """How many entries the first of four equal matrices shares with each other one after a step, rounded at random."""
    one = torch.linspace(-1, 1, 384).view(16, 24).to(torch.bfloat16)
    param = torch.nn.Parameter(one.expand(4, 16, 24).clone())
    optimizer = fast.Adams([param], lr=1e-3, stochastic_rounding=True)
    param.grad = one.flip(0).expand(4, 16, 24).clone()
    with as_on_a_gpu():
        optimizer.step()
    return [int((param[0] == param[i]).sum()) for i in range(1, 4)]


def _sharded_updates() -> dict[str, Any]:
    """The updates of what several processes share, which need no process here, and how many numbers they take."""
    betas = (0.8, 0.9)
    found: dict[str, Any] = {
        "CautiousAdamW": (cautious_update.SHARDED(betas), 7),
        "CautiousLion": (lion_update.SHARDED(betas), 6),
    }
    for batched, master in ((False, False), (True, False), (False, True)):
        found[f"Adams, batched {batched}, master {master}"] = adams_update.SHARDED[batched, master](betas), 6, master
    for letters in ("C", "R", "RC", "BRC", "ARC", "ABRC"):
        found[f"AdamMini, {letters}"] = shared_blocks._update(letters)(betas), 5
    return found


def _of_update(update: Update, numbers: int, half: bool = False) -> float:
    """The largest difference that an update's kernels make to its single operations. `half`: parameter and gradient are float16."""
    sizes, draw = {"N": 3000, "A": 2, "B": 3, "R": 20, "C": 70}, torch.Generator().manual_seed(0)
    shapes = [[int(c) if c.isdigit() else sizes[c] for c in word] for word in update.shapes.split()]
    tensors = [torch.rand(shape, generator=draw) + 0.1 for shape in shapes]
    tensors = [t.half() if half and i < 2 else t for i, t in enumerate(tensors)]
    if half:  # a CPU has made the master follow before
        tensors[4] = tensors[0].float()
    scalars = torch.rand(numbers, generator=draw).tolist()
    other = [t.clone() for t in tensors]
    kernel = Kernel(update, False, torch.device("cuda"), tuple(t.dtype for t in tensors))
    with _libdevice():
        prepared(kernel, True, scalars, [tuple(tensors)])()
    prepared(kernel, False, scalars, [tuple(other)])()
    pairs = [(a.double(), b.double()) for a, b in zip(tensors, other, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def _mini(rule: Any, params: Sequence[Tensor], **options: Any) -> torch.optim.Optimizer:
    named = [(f"weights.{i}", p) for i, p in enumerate(params)]
    return fast.AdamMini(named, partition={"*": rule}, **HYPER, **options)


def _difference(make: Any, shapes: Any, of: dict[str, Any]) -> float:
    """The largest one of parameters and states, relative to the largest entry. `first`: of the memory, where a tensor begins."""
    runs = []
    for compile in (True, False):
        draw, first, dtype = torch.Generator().manual_seed(0), of.get("first", 0), of.get("dtype", torch.float32)
        params = []
        for shape in shapes:
            memory = torch.empty(torch.Size(shape).numel() + first, dtype=dtype)
            own = memory[first:].view(shape)
            params.append(torch.nn.Parameter(own.copy_(torch.randn(shape, generator=draw))))
        optimizer = make(params, compile=compile)
        for _ in range(3):
            for param in params:
                param.grad = torch.randn(param.shape, generator=draw).to(dtype)
            with as_on_a_gpu() if compile else nullcontext():
                optimizer.step()
        runs.append([t for p in params for t in (p.detach(), *optimizer.state[p].values())])
    pairs = [(a.double(), b.double()) for a, b in zip(*runs, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(ROWS))
    parser.add_argument("--capturable", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--changes", action="store_true")
    parser.add_argument("--kinds", action="store_true")
    parser.add_argument("--set", choices=SETS, default="mixed")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # the interpreter's, about lanes that are masked
    dtype = getattr(torch, given.dtype)
    if given.kinds:
        print(json.dumps({"kinds": kinds(), "alike": alike()}))
    else:
        work = (lambda name: changes(name, dtype)) if given.changes else None
        names = given.names or ROWS
        print(json.dumps({n: work(n) if work else errors(n, dtype, given.capturable, given.set) for n in names}))
