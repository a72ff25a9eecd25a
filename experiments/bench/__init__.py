"""This machine's own table: `python -m experiments.bench` (`--help` for the rest).

`--times`, `--memory` and `--compile` take one part each; without them all three are measured, in some minutes. `--json FILE`
keeps the numbers: a part or set that is measured anew replaces the old one there, the rest stays. `--without DIRECT` measures
instead what a shortcut of fast/_kernels/shortcuts.py brings: an optimizer's steps with it and without it, in turn.

Times: every optimizer takes a step in turn, in one process, each between two steps of `torch.optim.AdamW(fused=True)`, so that
what disturbs the machine disturbs both; quoted are medians, quartiles and the ratio to the mean of those two. "limit" is the
share of the memory limit: the bytes that the step cannot do without (`sets`) over its time, against the fastest of the kernels in
`limit` in the same round. The other two parts are in `memory` and `compilation`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from experiments.bench import shortcuts
from experiments.bench.compilation import SCHEDULED, compile_seconds, recompilations
from experiments.bench.limit import Streams
from experiments.bench.memory import Entry, kept_and_peak_bytes, ledger, peak_extra_bytes, state_bytes
from experiments.bench.sets import (
    BASE,
    COMPILED,
    CONTESTANTS,
    LARGE,
    LIMIT,
    SETS,
    Shape,
    adam_mini,
    by_rows,
    llama_60m,
    make,
)

__all__ = [
    "BASE", "COMPILED", "CONTESTANTS", "LARGE", "LIMIT", "SETS", "Entry", "Shape", "Streams", "adam_mini", "by_rows",
    "compile_seconds", "kept_and_peak_bytes", "ledger", "llama_60m", "machine", "main", "make", "measure", "peak_extra_bytes",
    "recompilations", "state_bytes",
]  # fmt: skip


def machine() -> dict[str, Any]:
    """What the numbers depend on, and the day."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def usable(chosen: Sequence[str], shapes: list[Shape]) -> list[str]:
    """Those that can run here: says on stderr which released package is missing."""
    found = []
    for label in chosen:
        try:
            CONTESTANTS[label].make(make(shapes[-1:]))
        except ImportError as error:
            print(f"  {label}: left out ({error})", file=sys.stderr)
        else:
            found.append(label)
    return found


def spread(name: str, values: list[float]) -> dict[str, Any]:
    low, _, high = quantiles(values, n=4, method="inclusive")
    return {name: median(values), f"{name}_quartiles": [low, high]}


def measure(shapes: list[Shape], rounds: int, chosen: Sequence[str]) -> dict[str, Any]:
    """Steps of every contestant and runs of every stream on tensors of these shapes, interleaved; times in ms."""
    params, count = make(shapes), sum(prod(shape) for shape in shapes)
    labels = usable([BASE, *(c for c in chosen if c != BASE)], shapes)
    optimizers = {label: CONTESTANTS[label].make(params) for label in labels}
    saved = [p.grad.clone() for p in params if p.grad is not None]
    streams = Streams(count)
    times: dict[str, list[float]] = {label: [] for label in optimizers}
    ratios: dict[str, list[float]] = {label: [] for label in optimizers}
    rates: dict[str, list[float]] = {name: [] for name in streams.names}

    def timed(label: str) -> float:
        begin = time.perf_counter()
        optimizers[label].step()
        ms = (time.perf_counter() - begin) * 1e3
        if "released" in label:  # it overwrites the gradients
            for p, g in zip(params, saved, strict=True):
                p.grad.copy_(g)  # pyright: ignore[reportOptionalMemberAccess]
        return ms

    for i in range(rounds + 2):
        if i == 2:  # two rounds to warm up: state, compilation, caches
            for values in (*times.values(), *ratios.values(), *rates.values()):
                values.clear()
        base = [timed(BASE)]
        for label in labels[1:]:
            times[label].append(timed(label))
            base.append(timed(BASE))
            ratios[label].append(2 * times[label][-1] / (base[-2] + base[-1]))
        times[BASE].append(median(base))
        ratios[BASE].append(1.0)
        for name in streams.names:
            rates[name].append(streams.rate(name) / 1e9)
    best = max(rates, key=lambda name: median(rates[name]))
    rows: dict[str, Any] = {}
    traffic = {label: CONTESTANTS[label].traffic for label in optimizers} | {LIMIT: CONTESTANTS[BASE].traffic}
    times[LIMIT] = [traffic[LIMIT] * count / rate / 1e6 for rate in rates[best]]
    ratios[LIMIT] = [a / b for a, b in zip(times[LIMIT], times[BASE], strict=True)]
    for label, values in times.items():
        reached = [traffic[label] * count / ms / 1e6 for ms in values]
        rows[label] = {
            **spread("ms", values),
            **spread("ratio", ratios[label]),
            "bytes_a_parameter": traffic[label],
            **spread("gb_s", reached),
            **spread("share_of_limit", [a / b for a, b in zip(reached, rates[best], strict=True)]),
        }
    kernels = {name: spread("gb_s", values) | {"best_gb_s": max(values)} for name, values in rates.items()}
    return {
        "parameters": count,
        "tensors": len(shapes),
        "rounds": rounds,
        "optimizers": rows,
        "limit": {"fastest": best, "kernels": kernels},
    }


def time_lines(name: str, result: dict[str, Any]) -> Iterator[str]:
    yield f"\n{name}: {result['parameters']:,} parameters in {result['tensors']} tensors, {result['rounds']} rounds"
    yield f"  {'':18}{'ms':>8} {'quartiles':>17} {'ratio':>7} {'quartiles':>13} {'B':>4} {'GB/s':>6} {'limit':>6}"
    for label, row in result["optimizers"].items():
        yield (
            f"  {label:18}{row['ms']:8.1f} {row['ms_quartiles'][0]:8.1f}{row['ms_quartiles'][1]:9.1f} {row['ratio']:7.2f}"
            f" {row['ratio_quartiles'][0]:6.2f}{row['ratio_quartiles'][1]:7.2f} {row['bytes_a_parameter']:4}"
            f" {row['gb_s']:6.1f} {row['share_of_limit']:6.0%}"
        )
    kernels = result["limit"]["kernels"]
    yield f"  limit by {result['limit']['fastest']!r}; GB/s: " + ", ".join(
        f"{k} {v['gb_s']:.1f}" for k, v in kernels.items()
    )


def memory_lines(name: str, entries: list[Entry]) -> Iterator[str]:
    yield f"\n{name}: bytes a parameter, {entries[0].parameters:,} parameters"
    yield f"  {'':18}{'predicted':>10}{'measured':>10}{'held':>9}{'peak in a step':>20}"
    for e in entries:
        state = "".join(f"{x / e.parameters:{w}.4f}" for x, w in ((e.predicted, 10), (e.measured, 10), (e.held, 9)))
        yield f"  {e.optimizer:18}{state}{e.peak / e.parameters:10.4f}{e.peak_percent:8.2f} %"


def compile_line(label: str, row: dict[str, Any]) -> str:
    shapes = ", ".join("x".join(map(str, shape)) for shape in SCHEDULED)
    return (
        f"  {label:18}{row['cold_s']:6.1f} s cold{row['warm_s']:6.1f} s warm on {row['set']},"
        f" {row['recompilations']} recompilations in 1,000 steps of a schedule on {shapes}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(LARGE))
    parser.add_argument("--optimizers", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--times", action="store_true", help="steps against the memory limit")
    parser.add_argument("--memory", action="store_true", help="the memory ledger: predicted against measured")
    parser.add_argument("--compile", action="store_true", help="compilation on the first set (minutes)")
    parser.add_argument(
        "--without", nargs="+", choices=shortcuts.NAMES, help="what these shortcuts bring, and nothing else"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="keep the numbers there as well")
    given = parser.parse_args(arguments)
    if given.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {given.rounds}")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler says on stderr when it starts and stops
    every = not (given.times or given.memory or given.compile or given.without)
    results: dict[str, Any] = {"times": {}, "memory": {}, "compile": {}, "shortcuts": {}}
    if given.json and given.json.exists():
        results |= json.loads(given.json.read_text())

    def keep(part: str, name: str, value: dict[str, Any]) -> None:
        """Written at once: a run that is cut short has not been for nothing."""
        results[part][name] = {"machine": here, **value}
        if given.json:
            given.json.write_text(json.dumps(results, indent=1) + "\n")

    here = machine()
    print(", ".join(f"{k} {v}" for k, v in here.items()))
    shapes = {name: SETS[name]() for name in given.sets}
    for name in given.sets if every or given.times else ():
        result = measure(shapes[name], given.rounds, given.optimizers)
        print("\n".join(time_lines(name, result)), flush=True)
        keep("times", name, result)
    for name in given.sets if every or given.memory else ():
        entries = list(ledger(shapes[name], usable(given.optimizers, shapes[name])))
        print("\n".join(memory_lines(name, entries)), flush=True)
        keep("memory", name, {"entries": [asdict(e) for e in entries]})
    compiled = [c for c in given.optimizers if c in COMPILED]
    for name in given.sets if given.without else ():
        print(f"\n{name}: {given.rounds} rounds")
        rows = {}
        for label in compiled:
            rows[label] = {w: shortcuts.worth(label, shapes[name], w, given.rounds) for w in given.without}
            print("\n".join(shortcuts.line(label, *row) for row in rows[label].items()), flush=True)
        keep("shortcuts", name, rows)
    for label in compiled if every or given.compile else ():
        row = {"set": given.sets[0], "recompilations": recompilations(label), **compile_seconds(label, given.sets[0])}
        print(compile_line(label, row), flush=True)
        keep("compile", label, row)
