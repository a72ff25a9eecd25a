"""`experiments.bench`'s compilation: how long a first step takes, and whether any later one compiles again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import torch

from experiments.bench.sets import CONTESTANTS, make

FIRST_STEP = """
import time
from experiments import bench
params = bench.make(bench.SETS[{name!r}]())
optimizer = bench.CONTESTANTS[{label!r}].make(params)
times = [time.perf_counter()]
for _ in range(2):
    optimizer.step()
    times.append(time.perf_counter())
print(times[1] - times[0] - (times[2] - times[1]))
"""


SCHEDULED = [(64, 32), (64,), (33,)]  # small, so that a thousand steps take seconds: what is compiled takes any size


def compile_seconds(label: str, name: str) -> dict[str, float]:
    """The first step's time over the second's in a new process, with an empty compiler cache and then with what this left."""
    command = [sys.executable, "-c", FIRST_STEP.format(label=label, name=name)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}

        def seconds() -> float:
            return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

        return {"cold_s": seconds(), "warm_s": seconds()}


def recompilations(label: str, steps: int = 1000) -> int:
    """New graphs in `steps` steps under a cosine schedule, after the first step, on tensors of the shapes SCHEDULED."""
    from torch._dynamo.utils import counters

    params = make(SCHEDULED)
    optimizer = CONTESTANTS[label].make(params)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    optimizer.step()
    before = counters["stats"]["unique_graphs"]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    return counters["stats"]["unique_graphs"] - before
