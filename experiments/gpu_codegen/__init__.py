"""The GPU kernels of every optimizer, made and counted without a GPU: `python -m experiments.gpu_codegen` (`--help` for the rest).

What one step would run on an H100 or A100: kernels, launches, bytes a parameter read and written, scratch, operations beside the
kernels, registers and spills, and the seconds that a first step takes to plan and compile. The kernels are those of fast/_kernels,
recorded from the optimizer's own `step` on meta tensors, which have shapes and no memory. "CONTROL" is Grams in two kernels, one
for its averages and one for its step, and the counts must show it.

Counts prove fusion and traffic. They say nothing about speed: `python -m experiments.gpu` measures that, on a card.
Needs Triton: pip install "adamlab[gpu-codegen]" (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fast
from experiments.bench import Shape, by_rows
from experiments.gpu_codegen.machine_code import machine_code
from fast._kernels.gpu.code import TYPES
from fast._kernels.gpu.launch import Launch, Plan, Program
from fast._kernels.update import Kernel, Stage, Update
from fast.grams import PAPER

Named = list[tuple[str, Shape]]
GPUS = {80: "A100", 90: "H100"}


def llama(hidden: int, inner: int, key_value: int, vocabulary: int, layers: int, tied: bool = False) -> Named:
    """The tensors of a Llama with these widths, by name."""
    layer: Named = [
        ("self_attn.q_proj", (hidden, hidden)),
        ("self_attn.k_proj", (key_value, hidden)),
        ("self_attn.v_proj", (key_value, hidden)),
        ("self_attn.o_proj", (hidden, hidden)),
        ("mlp.gate_proj", (inner, hidden)),
        ("mlp.up_proj", (inner, hidden)),
        ("mlp.down_proj", (hidden, inner)),
        ("input_layernorm", (hidden,)),
        ("post_attention_layernorm", (hidden,)),
    ]
    inside = [(f"model.layers.{i}.{name}.weight", shape) for i in range(layers) for name, shape in layer]
    head: Named = [] if tied else [("lm_head.weight", (vocabulary, hidden))]
    return [("model.embed_tokens.weight", (vocabulary, hidden)), *inside, ("model.norm.weight", (hidden,)), *head]


def unnamed(shapes: Sequence[Shape]) -> Named:
    return [(f"weights.{i}", shape) for i, shape in enumerate(shapes)]


MIXED: list[Shape] = [
    (4096, 1024), (1024, 4096), (1024, 1024), (1024, 1024), (3072, 1024), (1000, 777), (50304, 512),
    (1024,), (4096,), (777,),
]  # fmt: skip
# names and shapes, and heads of queries and keys: AdamMini's blocks are then the heads, elsewhere rows
SETS: dict[str, tuple[Callable[[], Named], tuple[int, int] | None]] = {
    "few": (lambda: unnamed([(1024, 1024), (512, 1024), (1000, 777), (1024,)]), None),
    "mixed": (lambda: unnamed(MIXED), None),
    "llama-60m": (lambda: llama(512, 1376, 512, 32000, 8), (8, 8)),
    "llama-1b": (lambda: llama(2048, 8192, 512, 128256, 16, tied=True), (32, 8)),
    "llama-8b": (lambda: llama(4096, 14336, 1024, 128256, 32), (32, 8)),
    "small-2000": (lambda: unnamed([(1000,)] * 2000), None),
    "experts": (lambda: unnamed([(64, 128), (64, 128), (128, 64)] * 128 * 16), None),
}
OPTIMIZERS = ("Grams", "Lion", "CautiousAdamW", "CautiousLion", "AdamMini", "Adams")
CONTROL = "CONTROL"
CASES = [*OPTIMIZERS, CONTROL]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Bytes a parameter that no way of computing the update can do without, with the memory of a GPU between two kernels: each tensor is
# read once and written once. The Cautious scale counts a whole tensor's mask before the first entry can move, and a count needs
# grad and exp_avg once more; storing something in the first pass for the second only adds to that. Adams' W^T u needs all of a
# matrix before W v can begin: W once more; its rows are read once for W v and the update. (A step that summed up the next step's
# W^T u in the same pass would save that, as long as nobody else writes W; ours does not.) bfloat16 is of parameters and
# gradients, the averages stay float32; Adams writes its float32 weights and the parameters, and reads both twice, since
# somebody else may have written the parameters.
LEAST = {
    torch.float32: {"Grams": 28, "Lion": 20, "CautiousAdamW": 36, "CautiousLion": 28, "AdamMini": 20, "Adams": 32},
    torch.bfloat16: {"Grams": 22, "Lion": 14, "CautiousAdamW": 28, "CautiousLion": 20, "AdamMini": 14, "Adams": 36},
}


def control(update: Update) -> Update:
    """Grams' update with its averages in a kernel before."""

    def averages(numbers: Any, *tensors: Any) -> Any:
        return update.function(numbers, tensors[0], *tensors)[1:]

    def move(numbers: Any, param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any) -> Any:
        eps, step_size, decay = numbers[2:]
        return (param - (decay * param + step_size * (grad.sign() * exp_avg.abs() / (exp_avg_sq.sqrt() + eps))),)

    before = Stage(lambda numbers, *tensors: averages(numbers, *tensors), "N N N", (1, 2, 3), (1, 2))
    return Update(move, update.shapes, elementwise=True, before=(before,))


class Recorded:
    """A step: what it hands to the kernels, and the operations that would run on the GPU beside them, a kernel each."""

    def __init__(self) -> None:
        self._given: list[tuple[Kernel, int, list[Any]]] = []
        self.eager: list[str] = []

    def prepared(self, kernel: Kernel, compile: Any, scalars: Any, items: list[Any]) -> Callable[[], None]:
        self._given.append((kernel, len(scalars), items))
        return lambda: None

    def plans(self) -> list[Plan]:
        """What would run, and is not compiled."""
        with mock.patch.object(Program, "compiled", lambda *_: None):
            return [Plan(kernel, numbers, items, [True] * len(items)) for kernel, numbers, items in self._given]


class _Eager(TorchDispatchMode):
    """Notes the operations on meta tensors that would launch a kernel: all but views and bare allocations."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, result)) if isinstance(t, Tensor)]
        name = str(func).removeprefix("aten.")
        on_gpu = any(t.is_meta for t in tensors) and not func.is_view
        if on_gpu and not name.split(".")[0].startswith(("empty", "new_empty")):
            self.found.append(name)
        return result


def step_of(name: str, tensors: Named, dtype: torch.dtype, capturable: bool, heads: Any = None) -> Recorded:
    """The second step of an optimizer's class, which has its state; with `capturable`, lr too is a tensor on the GPU."""
    params = [torch.nn.Parameter(torch.empty(shape, dtype=dtype, device="meta")) for _, shape in tensors]
    for param in params:
        param.grad = torch.empty_like(param)
    options: dict[str, Any] = {"capturable": capturable}
    if name == "AdamMini" and heads:
        made: Any = fast.AdamMini(
            [(own, p) for (own, _), p in zip(tensors, params, strict=True)], heads=heads, **options
        )
    elif name == "AdamMini":
        made = fast.AdamMini(params, partition=by_rows, **options)
    else:
        made = getattr(fast, "Grams" if name == CONTROL else name)(params, **options)
    if name == CONTROL:
        own = control(PAPER(made.param_groups[0]["betas"]))
        made._update = lambda group: own
    for group in made.param_groups if capturable else ():
        group["lr"] = torch.empty((), device="meta")
    for found in (Recorded(), Recorded()):
        made._prepared = found.prepared
        with _Eager(found.eager):
            made.step()
    return found


ACCESS = re.compile(r"tl\.(load|store)\((p\d+|partial|before\S*) \+ (at|place|line|share|own)\b")


def traffic(launch: Launch) -> tuple[int, int]:
    """Bytes that a launch reads and writes: each load and store of its text is one pass, as if no cache kept anything."""
    found = {"load": 0, "store": 0}
    form = launch.program.form
    for _, text in launch.program.texts(launch.variant.kind):
        if launch.variant.kind == "flat":  # whole blocks, and the last one of a tensor, are written out apart
            text = text.partition("\n    else:\n")[0]
        for way, name, place in ACCESS.findall(text):
            like = form.tensors[int(name[1:])] if name[0] == "p" and name != "partial" else None
            for cut, (segments, _) in zip(launch.cuts, launch.segments, strict=True):
                entries = {"at": cut.lines * cut.length, "place": cut.length, "line": cut.lines}
                count = entries.get(place, cut.lines * segments)
                found[way] += count * (like.dtype.itemsize if like is not None else 4)
    return found["load"], found["store"]


def count(
    name: str,
    tensors: Named,
    dtype: torch.dtype = torch.float32,
    *,
    heads: Any = None,
    capturable: bool = False,
    machine: int | None = None,
) -> dict[str, Any]:
    """One row of the table. Bytes are a parameter; `machine`: the architecture to compile for."""
    parameters = sum(torch.Size(shape).numel() for _, shape in tensors)
    step = step_of(name, tensors, dtype, capturable, heads)
    begin = time.perf_counter()
    plans = step.plans()
    launches = [launch for plan in plans for launch in plan.launches]
    moved = [traffic(launch) for launch in launches]
    row: dict[str, Any] = {
        "optimizer": name,
        "capturable": capturable,
        "dtype": str(dtype).removeprefix("torch."),
        "tensors": len(tensors),
        "parameters": parameters,
        "kernels": len({(id(x.program), x.variant, i) for x in launches for i in range(len(x.works))}),
        "launches": sum(len(launch.works) for launch in launches),
        "read": sum(read for read, _ in moved) / parameters,
        "written": sum(written for _, written in moved) / parameters,
        "scratch": sum(launch.scratch for launch in launches) / parameters,
        "eager": len(step.eager),
        "least": LEAST[dtype].get(name),
    }
    if machine is not None:
        variants = {
            (id(x.program), x.variant): (x.program, x.variant, plan.kernel) for plan in plans for x in plan.launches
        }
        made = []
        for program, variant, kernel in variants.values():
            types = {
                "table": "*i64",
                "numbers": f"*{TYPES[kernel.scalar_dtype].removeprefix('tl.').replace('float', 'fp')}",
                "work": "*i32",
            }
            made += [machine_code(one, types, variant.options(), machine) for one in program.functions(variant.kind)]
        row |= {"registers": max(m.registers for m in made), "spilled": sum(m.spilled for m in made)}
    return row | {"seconds": time.perf_counter() - begin}


def missing() -> str | None:
    """What to do where this cannot run, or None."""
    if not sys.platform.startswith("linux"):
        return "Triton runs on Linux alone"
    if found_versions()["triton"] == "none":
        return 'Triton is not installed: pip install "adamlab[gpu-codegen]"'
    return None


def found_versions() -> dict[str, str]:
    """The versions of torch and Triton, without the local part; "none" for what is not installed."""
    try:
        import triton
    except ImportError:
        return {"torch": torch.__version__.partition("+")[0], "triton": "none"}
    return {"torch": torch.__version__.partition("+")[0], "triton": triton.__version__.partition("+")[0]}


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield (
        f"{'':15}{'dtype':9}{'capt.':>6}{'tensors':>8}{'kernels':>8}{'launches':>9}{'eager':>6}{'B read':>8}{'written':>8}"
        f"{'sum':>7}{'least':>6}{'scratch B':>10}{'regs':>6}{'spills':>7}{'seconds':>8}"
    )
    for row in rows:
        yield (
            f"{row['optimizer']:15}{row['dtype']:9}{'yes' if row['capturable'] else 'no':>6}{row['tensors']:8}{row['kernels']:8}"
            f"{row['launches']:9}{row['eager']:6}"
            f"{row['read']:8.2f}{row['written']:8.2f}{row['read'] + row['written']:7.2f}{row['least'] or '':>6}"
            f"{row['scratch']:10.3f}{row.get('registers', ''):>6}{row.get('spilled', ''):>7}{row['seconds']:8.1f}"
        )


def _arch(text: str) -> int:
    return int(text.removeprefix("sm_"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gpu_codegen", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["few", "mixed", "llama-60m"])
    parser.add_argument("--optimizers", nargs="+", choices=CASES, default=CASES)
    parser.add_argument(
        "--arch", type=_arch, choices=GPUS, default=90, metavar="{sm_80,sm_90}", help="sm_80: A100; sm_90: H100"
    )
    parser.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=["float32"], help="of parameters and gradients; state is float32"
    )
    parser.add_argument("--capturable", choices=["no", "yes", "both"], default="no")
    parser.add_argument("--no-machine-code", action="store_true", help="compile nothing: no registers and spills")
    parser.add_argument("--json", metavar="FILE", help='write the rows there as well; "-": to standard output, alone')
    given = parser.parse_args(arguments)
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # `seconds` are those of an empty cache
    alone = given.json == "-"
    result: dict[str, Any] = {"versions": found_versions(), "arch": f"sm_{given.arch}", "sets": {}}
    machine = None if given.no_machine_code else given.arch
    for name in given.sets:
        tensors, heads = SETS[name]
        result["sets"][name] = rows = [
            count(optimizer, tensors(), DTYPES[dtype], heads=heads, capturable=capturable, machine=machine)
            for optimizer in given.optimizers
            for dtype in given.dtype
            for capturable in {"no": [False], "yes": [True], "both": [False, True]}[given.capturable]
        ]
        if not alone:
            print(f"\n{name} on a pretended {GPUS[given.arch]}; {result['versions']}")
            print("\n".join(lines(rows)))
    if alone:
        print(json.dumps(result))
    else:
        print("\nCounts prove fusion and traffic; they say nothing about speed.")
        if given.json:
            with open(given.json, "w") as file:
                json.dump(result, file, indent=1)
    return 0
