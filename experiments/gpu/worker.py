"""A process of its own for one case: `python -m experiments.gpu.worker JSON`, started by experiments/gpu/batches.py.

It compiles in a first step, says so, frees what it held, and waits: others compile at the same time. When a line comes on its
standard input the device is its own, and it measures. Whatever it has found it says at once, as lines of JSON; what anybody else
prints goes to standard error.
"""

from __future__ import annotations

import datetime
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from math import ceil
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from experiments.bench import BASE, state_bytes
from experiments.gpu.cases import DTYPES, OURS, RELEASED, SETS, Case, Named, bytes_a_parameter, make
from experiments.gpu.clock import Clock, Sample, counting

SECONDS = 2.0  # a contestant's rounds end after so long, or after ROUNDS
ROUNDS = 40
LEAST_ROUNDS = 5
MOST_COPIES = 100
SETTLING = 8  # steps after the second one, where the tensors with gradients change


def driver() -> str | None:
    """The driver's version, as nvidia-smi says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return said.split("\n")[0].strip()


def machine(dry: bool) -> dict[str, Any]:
    """What the numbers depend on, and the day."""
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = None
    card = None if dry else torch.cuda.get_device_properties(0)
    return {
        "date": datetime.date.today().isoformat(),
        "card": card and card.name,
        "card_gib": card and round(card.total_memory / 2**30, 1),
        "driver": None if dry else driver(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": version,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


class Stepped:
    """Parameters with gradients, and the call that steps one optimizer on them."""

    def __init__(self, case: Case, clock: Clock) -> None:
        self.case, self.clock = case, clock
        entry = SETS[case.set]
        self.tensors: Named = entry.small() if clock.dry else entry.tensors()
        generator = torch.Generator(clock.device).manual_seed(0)
        dtype = DTYPES[case.dtype]

        def draw(shape: tuple[int, ...], size: float) -> Tensor:
            return (torch.randn(shape, generator=generator, device=clock.device) * size).to(dtype)

        self.params: list[Tensor] = []
        for _, shape in self.tensors:
            param = torch.nn.Parameter(draw(shape, 0.02))
            param.grad = draw(shape, 1e-2)
            self.params.append(param)
        self.grads = [p.grad for p in self.params]
        self.saved = [g.clone() for g in self.grads if g is not None] if case.label in RELEASED else []
        self.turn = 0

    def optimizer(self, label: str, capturable: bool = False) -> torch.optim.Optimizer:
        """Anew; ours insists on being compiled, so that no uncompiled step is taken for one."""
        options: dict[str, Any] = {"compile": not self.clock.dry} if label in OURS else {}
        if capturable:
            options["capturable"] = True
        return make(label, self.case.set, self.tensors, self.params, **options)

    def renew(self) -> None:
        """Before a step, and not timed: the gradients that a released package has overwritten; other experts' gradients."""
        for own, saved in zip(self.grads, self.saved, strict=False):
            own.copy_(saved)  # pyright: ignore[reportOptionalMemberAccess]
        if SETS[self.case.set].changing:
            self.turn += 1
            for i, (param, grad) in enumerate(zip(self.params, self.grads, strict=True)):
                expert = i // 3  # a hash of expert and turn, so that the sets do not come around
                param.grad = None if ((expert * 2654435761 + self.turn * 40503) >> 7) % 3 == 0 else grad


def spread(name: str, values: list[float]) -> dict[str, Any]:
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {name: median(values), f"{name}_quartiles": [low, high]}


def first_step(case: Case, clock: Clock) -> dict[str, Any]:
    """Compiles: how long the first step takes and what it holds, and the same of the next one."""
    stepped = Stepped(case, clock)
    own = sum(p.numel() * p.element_size() for p in stepped.params)
    stepped.renew()
    optimizer = stepped.optimizer(case.label, case.mode == "replay")
    with counting() as found:
        seconds, peak = clock.first(optimizer.step)
    stepped.renew()
    later, later_peak = clock.first(optimizer.step)
    count = sum(p.numel() for p in stepped.params)
    row: dict[str, Any] = {
        "parameters": count,
        "tensors": len(stepped.params),
        "first_step_s": seconds,
        "second_step_s": later,
        "state_bytes": state_bytes(optimizer) / count,
        "first_peak_bytes": None if peak is None else peak / count,
        "later_peak_bytes": None if later_peak is None else later_peak / count,
        "parameter_bytes": own / count,
    }
    if SETS[case.set].changing:  # each new set of tensors may be compiled anew
        start = time.perf_counter()
        for _ in range(SETTLING):
            stepped.renew()
            optimizer.step()
        clock.wait()
        row["next_steps_s"] = time.perf_counter() - start
    if found:
        row["launches_counted"] = found["launches"]
    return row


def measure(case: Case, clock: Clock, say: Callable[[dict[str, Any]], None]) -> None:
    """Steps of the contestant, each between two of fused AdamW, on the same parameters."""
    stepped = Stepped(case, clock)
    stepped.renew()
    optimizer = stepped.optimizer(case.label, case.mode == "replay")
    call: Callable[[], object] = optimizer.step
    base: Callable[[], object] = stepped.optimizer(BASE).step
    if case.mode == "replay":
        call = clock.captured(optimizer.step)
    for _ in range(3):
        for one in (base, call):
            stepped.renew()
            one()
    once = {one: [] for one in (base, call)}
    for _ in range(5):
        for one, samples in once.items():
            stepped.renew()
            samples.append(clock.alone(one))
    copied = median([clock.behind(lambda: None, 2).copy_ms or 1.0 for _ in range(5)])
    most = max(s.host_ms for samples in once.values() for s in samples)
    copies = min(MOST_COPIES, 2 + ceil(1.5 * most / max(copied, 1e-3)))
    taken: list[tuple[Sample, Sample, Sample]] = []
    alone: list[tuple[Sample, Sample]] = list(zip(once[call], once[base], strict=True))
    end = time.perf_counter() + (0.1 if clock.dry else SECONDS)

    def behind(one: Callable[[], object]) -> Sample:
        stepped.renew()
        return clock.behind(one, copies)

    while len(taken) < LEAST_ROUNDS or (len(taken) < ROUNDS and time.perf_counter() < end):
        taken.append((behind(base), behind(call), behind(base)))
    say(summary(case, clock, taken, alone, copies))
    launches = clock.launches(call)
    if launches:
        say({f"profiled_{name}": count for name, count in launches.items()})


def summary(
    case: Case,
    clock: Clock,
    taken: list[tuple[Sample, Sample, Sample]],
    alone: list[tuple[Sample, Sample]],
    copies: int,
) -> dict[str, Any]:
    """The numbers of a row, from its samples."""
    entry = SETS[case.set]
    count = sum(torch.Size(shape).numel() for _, shape in (entry.small() if clock.dry else entry.tensors()))
    dtype = DTYPES[case.dtype]
    moved = bytes_a_parameter(case.label, dtype)
    rates = [clock.copied / s.copy_ms / 1e6 for three in taken for s in three if s.copy_ms]
    reached = [moved * count / own.ms / 1e6 for _, own, _ in taken]
    return {
        "rounds": len(taken),
        "copies_before": copies,
        **spread("ms", [own.ms for _, own, _ in taken]),
        **spread("base_ms", [(a.ms + b.ms) / 2 for a, _, b in taken]),
        **spread("ratio", [2 * own.ms / (a.ms + b.ms) for a, own, b in taken]),
        **spread("host_ms", [own.host_ms for _, own, _ in taken]),
        **spread("alone_ms", [own.ms for own, _ in alone]),
        **spread("alone_ratio", [own.ms / base.ms for own, base in alone]),
        "late": sum(own.late for _, own, _ in taken) / len(taken),
        "base_late": sum(a.late + b.late for a, _, b in taken) / (2 * len(taken)),
        "bytes_a_parameter": moved,
        "bytes_as_built": bytes_a_parameter(case.label, dtype, built=True),
        "base_bytes_a_parameter": bytes_a_parameter(BASE, dtype),
        **spread("gb_s", reached),
        **spread("copy_gb_s", rates),
        # an expert without a gradient moves nothing
        "percent_of_copy": None if entry.changing else 100 * median(reached) / median(rates),
    }


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    given = json.loads(sys.argv[1])

    def say(found: dict[str, Any]) -> None:
        out.write(json.dumps(found) + "\n")
        out.flush()

    dry = given.pop("dry")
    if given.pop("machine", False):
        return say(machine(dry))
    case = Case(**given)
    try:
        clock = Clock(dry)
        say(first_step(case, clock) | {"ready": True})
        gc.collect()
        if not dry:
            torch.cuda.empty_cache()
        if sys.stdin.readline():
            measure(case, clock, say)
    except ImportError as error:
        say({"absent": str(error)})
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
        raise


if __name__ == "__main__":
    main()
