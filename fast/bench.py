"""This machine's own table: `python -m fast.bench` (`--json FILE` writes the numbers as well; `--help` has the rest).

Past 250 lines, since a benchmark that is read in one piece can be believed.

Every optimizer takes a step in turn, in one process, so that what disturbs the machine disturbs all of them; quoted are
medians, quartiles and the ratio to `torch.optim.AdamW(fused=True)`, taken round by round. "copy limit" is the time in which
this machine copies as many bytes as AdamW must move (28 a parameter: it reads four float32 and writes three). Extra memory
is the highest sum of allocations in a step, state the bytes that the optimizer holds for a parameter.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fast

Shape = tuple[int, ...]


def llama_60m() -> list[Shape]:
    """Llama-60M: 58.1 M parameters in 75 tensors."""
    layer = [(512, 512)] * 4 + [(1376, 512)] * 2 + [(512, 1376), (512,), (512,)]
    return [(32000, 512), *(layer * 8), (512,), (32000, 512)]


def wide_resnet_50_2() -> list[Shape]:
    """WideResNet-50-2 for ten classes: 66.9 M parameters, convolutions, batch norms and one linear layer."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for blocks, width in ((3, 128), (4, 256), (6, 512), (3, 1024)):
        outputs = 2 * width
        for block in range(blocks):
            convs = [(width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)]
            convs += [(outputs, inputs, 1, 1)] if block == 0 else []
            for conv in convs:
                shapes += [conv, conv[:1], conv[:1]]
            inputs = outputs
    return [*shapes, (10, inputs), (10,)]


SETS: dict[str, Callable[[], list[Shape]]] = {
    "llama-60m": llama_60m,
    "wide-resnet-50-2": wide_resnet_50_2,
    "small-2000": lambda: [(1000,)] * 2000,
}
BASE = "AdamW fused"
BYTES_ADAMW = 28


def _released_grams(params: list[Any]) -> torch.optim.Optimizer:
    from grams import Grams

    return Grams(params, lr=1e-3)


def _released_adams(params: list[Any]) -> torch.optim.Optimizer:
    from adams import Adams_ZeRO

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a world of one process
        return Adams_ZeRO(params)


def by_rows(name: str, param: Tensor) -> str:
    """The blocks of a Transformer's matrices without its names: one for a row, and one for each vector."""
    return "rows" if param.ndim > 1 else "tensor"


CONTESTANTS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    BASE: lambda p: torch.optim.AdamW(p, fused=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "Grams": lambda p: fast.Grams(p),
    "Lion": lambda p: fast.Lion(p),
    "CautiousAdamW": lambda p: fast.CautiousAdamW(p),
    "CautiousLion": lambda p: fast.CautiousLion(p),
    "AdamMini": lambda p: fast.AdamMini(p, partition=by_rows),
    "Adams": lambda p: fast.Adams(p),
    "Grams eager": lambda p: fast.Grams(p, compile=False),
    "Grams released": _released_grams,
    "Adams released": _released_adams,
}


def make(shapes: list[Shape], seed: int = 0) -> list[Tensor]:
    """Parameters of these shapes with gradients, both drawn from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    params = []
    for shape in shapes:
        param = torch.nn.Parameter(torch.randn(shape, generator=generator))
        param.grad = torch.randn(shape, generator=generator) * 1e-2
        params.append(param)
    return params


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """The memory behind an optimizer's state tensors, each storage once."""
    tensors = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def peak_extra_bytes(step: Callable[[], object]) -> int:
    """The highest sum of what a call has allocated and not yet freed, by torch's profiler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's own notes about its cycle
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # pyright: ignore[reportOptionalMemberAccess]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, now)
    return peak


def measure(name: str, rounds: int, chosen: list[str]) -> dict[str, Any]:
    """Steps of every contestant on the tensors of one set, interleaved; times in ms."""
    shapes = SETS[name]()
    params = make(shapes)
    count = sum(p.numel() for p in params)
    optimizers = {}
    for label in [BASE, *(c for c in chosen if c != BASE)]:
        try:
            optimizers[label] = CONTESTANTS[label](params)
        except ImportError as error:
            print(f"  {label}: left out ({error})", file=sys.stderr)
    saved = [p.grad.clone() for p in params if p.grad is not None]
    source, target = torch.randn(32 << 20), torch.empty(32 << 20)
    times: dict[str, list[float]] = {label: [] for label in [*optimizers, "copy limit"]}
    for i in range(rounds + 2):
        for label, optimizer in optimizers.items():
            begin = time.perf_counter()
            optimizer.step()
            if i >= 2:  # two rounds to warm up: state, compilation, caches
                times[label].append((time.perf_counter() - begin) * 1e3)
            if "released" in label:  # it overwrites the gradients
                for p, g in zip(params, saved, strict=True):
                    p.grad.copy_(g)  # pyright: ignore[reportOptionalMemberAccess]
        begin = time.perf_counter()
        target.copy_(source)
        if i >= 2:
            seconds_a_byte = (time.perf_counter() - begin) / (8 * source.numel())
            times["copy limit"].append(seconds_a_byte * BYTES_ADAMW * count * 1e3)
    table = {}
    for label, values in times.items():
        quartiles = statistics.quantiles(values, n=4)
        ratios = [a / b for a, b in zip(values, times[BASE], strict=True)]
        table[label] = {
            "ms": statistics.median(values),
            "ms_quartiles": [quartiles[0], quartiles[2]],
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [statistics.quantiles(ratios, n=4)[k] for k in (0, 2)],
        }
        if label in optimizers:
            table[label]["state_bytes_a_parameter"] = state_bytes(optimizers[label]) / count
            extra = peak_extra_bytes(optimizers[label].step)
            table[label]["extra_percent_of_parameters"] = 100 * extra / (4 * count)
    return {"set": name, "parameters": count, "tensors": len(params), "rounds": rounds, "optimizers": table}


def compile_seconds(label: str, name: str) -> dict[str, float]:
    """The first step's time in a new process, with an empty compiler cache and then with the one that this left."""
    code = (
        "import time, torch, fast.bench as b\n"
        f"params = b.make(b.SETS[{name!r}]())\n"
        f"optimizer = b.CONTESTANTS[{label!r}](params)\n"
        "t = time.perf_counter(); optimizer.step(); first = time.perf_counter() - t\n"
        "t = time.perf_counter(); optimizer.step(); print(first - (time.perf_counter() - t))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}
        seconds = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
                ).stdout
            )
            for _ in range(2)
        ]
    return {"cold_s": seconds[0], "warm_s": seconds[1]}


def recompilations(label: str, steps: int = 1000) -> int:
    """New graphs in `steps` steps under a cosine schedule, after the first step."""
    from torch._dynamo.utils import counters

    params = make([(64, 32), (64,), (33,)])
    optimizer = CONTESTANTS[label](params)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    optimizer.step()
    before = counters["stats"]["unique_graphs"]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    return counters["stats"]["unique_graphs"] - before


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fast.bench", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--optimizers", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write the numbers there as well")
    parser.add_argument("--no-compile-times", action="store_true", help="leave out cold and warm compilation (minutes)")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {arguments.rounds}")
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    print(", ".join(f"{k} {v}" for k, v in machine.items()))
    results: dict[str, Any] = {"machine": machine, "sets": [], "compile": {}, "recompilations": {}}
    for name in arguments.sets:
        result = measure(name, arguments.rounds, arguments.optimizers)
        results["sets"].append(result)
        print(
            f"\n{name}: {result['parameters']:,} parameters in {result['tensors']} tensors, {result['rounds']} rounds"
        )
        print(f"  {'':24}{'ms':>8} {'quartiles':>17} {'ratio':>7} {'quartiles':>13} {'extra memory':>13} {'state':>9}")
        for label, row in result["optimizers"].items():
            low, high = row["ms_quartiles"]
            extra = row.get("extra_percent_of_parameters")
            print(
                f"  {label:24}{row['ms']:8.1f} {low:8.1f}{high:9.1f} {row['ratio']:7.2f}"
                f" {row['ratio_quartiles'][0]:6.2f}{row['ratio_quartiles'][1]:7.2f}"
                + (f" {extra:11.2f} % {row['state_bytes_a_parameter']:7.2f} B" if extra is not None else "")
            )
    compiled = [c for c in arguments.optimizers if not any(w in c for w in ("AdamW f", "released", "eager"))]
    for label in compiled:
        results["recompilations"][label] = recompilations(label)
        print(f"\n{label}: {results['recompilations'][label]} recompilations in 1,000 steps of a schedule")
        if not arguments.no_compile_times:
            name = arguments.sets[0]
            seconds = results["compile"][f"{label} on {name}"] = compile_seconds(label, name)
            print(
                f"  first step on {name}: {seconds['cold_s']:.1f} s cold, {seconds['warm_s']:.1f} s with a warm cache"
            )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
