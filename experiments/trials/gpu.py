"""A trial for one GPU in a few minutes: a Llama of 13.8 million parameters on the standard library's sources (`make trials-gpu`).

Six optimizers, five learning rates each with one tuning seed, one more on the side where the best is the last one (twice at
most), then eight fresh seeds at each one's best. Seeds before optimizers, so that what is cut is even. Several runs share the
card. What is finished is in OUT/runs and is not run again; OUT/trials-gpu.json is written anew after each run.

Needs torch, NumPy and transformers; nothing is downloaded. Steps are uncompiled: a compiler would take longer than a run.
--dry does the same on a CPU with tiny sizes: its numbers say nothing.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sysconfig
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from experiments import tasks
from experiments.trials import checkpoint, loop
from experiments.trials.recipes import Autocast
from experiments.trials.run import OutOfTimeError, end_loss, summary

STARTS = {  # the middle of the first five rates, a factor of 2 apart
    "adamw": 2e-3,
    "grams": 4e-3,
    "adams": 2e-3,
    "adam_mini": 2e-3,
    "lion": 3e-4,
    "cautious_adamw": 2e-3,
}
BASELINE = "adamw"
TUNING_SEED, FRESH_FROM = 1, 1001
EXTENSIONS = 2


@dataclass(frozen=True)
class Plan:
    """Sizes: of the model, of a run, of the whole. `options`: of the task `language`. `warmup`: a part of the steps."""

    options: Mapping[str, Any]
    steps: int = 600
    batch: int = 16
    warmup: float = 0.1
    weight_decay: float = 0.1
    autocast: str = "bfloat16"
    rates: int = 5
    seeds: int = 8
    starts: Mapping[str, float] = field(default_factory=lambda: dict(STARTS))

    def config(self, optimizer: str, lr: float, seed: int) -> loop.Config:
        warmup = round(self.warmup * self.steps)
        settings = {"floor": 0.0, "weight_decay": self.weight_decay, "eval_every": self.steps, "compile": False}
        return loop.Config(
            optimizer=optimizer, lr=lr, seed=seed, steps=self.steps, warmup=warmup, batch=self.batch, **settings
        )

    def grid(self, optimizer: str) -> list[float]:
        half = self.rates // 2
        return [_rounded(self.starts[optimizer] * 2.0**k) for k in range(-half, self.rates - half)]


MODEL = {"vocab": 4096, "context": 256, "hidden": 384, "layers": 6, "heads": 6, "eval_windows": 512}
FULL = Plan(MODEL)
DRY = Plan(
    {
        "data": str(Path(sysconfig.get_path("stdlib")) / "asyncio"),
        "vocab": 300,
        "context": 16,
        "hidden": 16,
        "layers": 1,
    }
    | {"heads": 2, "eval_windows": 4},
    steps=6,
    batch=2,
    rates=3,
    seeds=2,
)


class _Here:
    """A worker process's own."""

    task: tasks.Task
    plan: Plan
    folder: Path
    device: str
    until: float


def _begin(plan: Plan, out: Path, device: str, until: float) -> None:
    torch.set_num_threads(1)  # several, for tensors as small as those on the CPU, wait for each other
    _Here.plan, _Here.folder, _Here.device, _Here.until = plan, out / "runs", device, until
    task = tasks.load("language", cache=out / "cache", **plan.options)
    _Here.task = task if plan.autocast == "none" else Autocast(task, plan.autocast)


def _perform(job: tuple[str, float, int]) -> dict[str, Any]:
    """OutOfTimeError where the time ends before the run does: it is run anew the next time."""

    def clock(step: int, loss: float) -> None:
        if time.time() > _Here.until:
            raise OutOfTimeError

    clock(0, 0.0)
    records = loop.run(
        _Here.plan.config(*job),
        _Here.task,
        _Here.folder,
        device=_Here.device,
        checkpoint_every=0,
        on_step=clock,
        whatever_code=True,
    )
    return summary(records)


Key = tuple[str, float, int]


class Trial:
    """`runs`: what is finished, by optimizer, rate and seed."""

    def __init__(self, plan: Plan, out: Path, device: str, until: float, processes: int) -> None:
        self.plan, self.out, self.device, self.until = plan, out, device, until
        self.runs: dict[Key, dict[str, Any]] = {}
        own = "" if plan.warmup == Plan.warmup else f"-warmup-{plan.warmup:g}"
        self.began, self.path = time.time(), out / f"trials-gpu{own}.json"
        out.mkdir(parents=True, exist_ok=True)
        # the tokens are made once, before the processes that read them
        task = tasks.load("language", cache=out / "cache", **plan.options)
        model: Any = task.model(0)
        self.chance, self.facts = math.log(model.config.vocab_size), dict(task.facts)
        self.parameters = sum(p.numel() for p in model.parameters())
        self._pool = ProcessPoolExecutor(
            processes,
            mp_context=get_context("spawn"),
            initializer=_begin,
            initargs=(plan, out, device, until),
        )

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def perform(self, jobs: Sequence[Key]) -> None:
        """All of them, in this order; OutOfTimeError when the time is over, with what was finished in `runs` and in the file."""
        waiting: dict[Future[dict[str, Any]], Key] = {
            self._pool.submit(_perform, j): j for j in jobs if j not in self.runs
        }
        late = False
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                key = waiting.pop(future)
                try:
                    self.runs[key] = future.result()
                except OutOfTimeError:
                    late = True
            self.write(finished=False)
        if late:
            raise OutOfTimeError

    def all(self) -> None:
        grids = {o: self.plan.grid(o) for o in self.plan.starts}
        for _ in range(EXTENSIONS + 1):
            widest = max(map(len, grids.values()))
            by_rate = [(o, g[i], TUNING_SEED) for i in range(widest) for o, g in grids.items() if i < len(g)]
            self.perform(by_rate)
            edges = {o: self.best(o) for o, g in grids.items() if self.best(o) in (g[0], g[-1], None)}
            if not edges:
                break
            for o, best in edges.items():
                g = grids[o]
                grids[o] = [*g, _rounded(2 * best)] if best is not None and best == g[-1] else [_rounded(g[0] / 2), *g]
        chosen = {o: best for o in self.plan.starts if (best := self.best(o)) is not None}
        seeds = range(FRESH_FROM, FRESH_FROM + self.plan.seeds)
        self.perform([(o, lr, seed) for seed in seeds for o, lr in chosen.items()])
        self.write(finished=True)

    def best(self, optimizer: str) -> float | None:
        """The rate with the least val_loss of those that have run; None where all diverge."""
        losses = {
            k[1]: end_loss(r, self.chance, "val")
            for k, r in self.runs.items()
            if k[0] == optimizer and k[2] == TUNING_SEED
        }
        rate = min(losses, key=losses.__getitem__, default=None)
        return None if rate is None or math.isinf(losses[rate]) else rate

    def results(self, finished: bool) -> dict[str, Any]:
        """Differences to AdamW with the same seed; a run that diverged counts with the loss of guessing."""
        found: dict[str, Any] = {}
        for o in self.plan.starts:
            tried = sorted(k[1] for k in self.runs if k[0] == o and k[2] == TUNING_SEED)
            rate = self.best(o)
            ends = {k[2]: self._end(r) for k, r in self.runs.items() if k[:2] == (o, rate) and k[2] >= FRESH_FROM}
            base = {k[2]: r for k, r in self.runs.items() if k[:2] == (BASELINE, self.best(BASELINE))}
            paired = [ends[s] - self._end(base[s]) for s in sorted(ends) if s in base]
            found[o] = {"rates": tried, "best": rate, "at_edge": rate in (tried[0], tried[-1]) if tried else None}
            found[o] |= {"test_loss": [ends[s] for s in sorted(ends)], "difference": paired if o != BASELINE else []}
        card = torch.cuda.get_device_name() if self.device.startswith("cuda") else None
        return {
            "finished": finished,
            "device": card or platform.machine(),
            "versions": loop.versions(),
            "plan": asdict(self.plan),
            "parameters": self.parameters,
            "data": self.facts,
            "chance": self.chance,
            "seconds": time.time() - self.began,
            "optimizers": found,
            "runs": [r for _, r in sorted(self.runs.items())],
        }

    def _end(self, run: Mapping[str, Any]) -> float:
        return min(end_loss(run, self.chance, "test"), self.chance)

    def write(self, finished: bool) -> None:
        text = json.dumps(self.results(finished), separators=(",", ":"), default=str)
        checkpoint.replace_file(self.path, text.replace('{"optimizer"', '\n{"optimizer"').encode() + b"\n")


def lines(found: Mapping[str, Any]) -> list[str]:
    """A table: best rate, mean test loss, and the mean difference to AdamW with its standard error."""
    text = [
        f"{found['device']}, {found['parameters']:,} parameters, {len(found['runs'])} runs, {found['seconds']:.0f} s"
    ]
    text.append(f"{'optimizer':16}{'best lr':>10}  {'seeds':>5}  {'test loss':>9}  difference to {BASELINE}")
    for name, o in found["optimizers"].items():
        mean = f"{statistics.mean(o['test_loss']):9.4f}" if o["test_loss"] else f"{'-':>9}"
        d = o["difference"]
        gap = f"{statistics.mean(d):+.4f} +- {statistics.stdev(d) / math.sqrt(len(d)):.4f}" if len(d) > 1 else ""
        rate = "none" if o["best"] is None else f"{o['best']:g}"
        edge = " (the last rate tried)" if o["at_edge"] else ""
        text.append(f"{name:16}{rate:>10}  {len(o['test_loss']):5}  {mean}  {gap}{edge}")
    return text


def _rounded(rate: float) -> float:
    return float(f"{rate:.6g}")


def processes(device: str) -> int:
    """As many as the cores feed: a run of this size leaves most of a large card idle between its kernels."""
    cores = os.cpu_count() or 1
    return max(1, min(8, cores // 2)) if device.startswith("cuda") else 1
