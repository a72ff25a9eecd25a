"""Runs what the protocol says, in its order, and goes on where it was stopped: a finished run is never run again.

Each run is a log in a folder (`experiments.trials.loop`); each trial's results are one JSON in figures/data/trials, written
anew after each task of it. Several runs go side by side, one thread each.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch

from experiments import tasks
from experiments.trials import loop
from experiments.trials.protocol import Job, Protocol

log = logging.getLogger(__name__)
POINTS = 8  # of a run's kept training curve, each the mean of an equal part of the steps
SQRT2 = math.sqrt(2)


def kappa(beta1: float) -> float:
    """How far Grams drifts in pure noise, over Adam at the same rate: claim T4, which has it proved from `reference`."""
    return 2 / math.pi * (beta1 * math.sqrt((1 - beta1) / (1 + beta1)) + math.asin(math.sqrt(1 - beta1**2)))


class OutOfTimeError(Exception):
    """The minutes that were given are over; what is finished stays."""


@dataclass(frozen=True)
class Place:
    """Where logs go and until when (`time.time()`) a new run may begin."""

    folder: Path
    until: float = math.inf
    least: Mapping[str, float] = field(default_factory=dict)  # by task: below it no training loss is a spike

    def perform(self, job: Job, monitor_every: int = 0) -> dict[str, Any]:
        """The run's summary, from its log where it is finished."""
        if time.time() > self.until and not self.finished(job):
            raise OutOfTimeError
        records = loop.run(
            job.config,
            _task(job.task, tuple(sorted(job.size.items()))),
            self.folder,
            checkpoint_every=0,
            whatever_code=True,
            monitor_every=monitor_every,
        )
        return summary(records, self.least.get(job.task, 0.0))

    def finished(self, job: Job) -> bool:
        task = _task(job.task, tuple(sorted(job.size.items())))
        named = {k: v for k, v in loop.describe(job.config, task).items() if k not in ("code", "versions")}
        records = loop.read_log(self.folder / f"{loop.name_of(named)}.jsonl")
        return bool(records) and records[-1]["event"] == "end"


@functools.cache
def _task(name: str, size: tuple[tuple[str, Any], ...]) -> tasks.Task:
    return tasks.load(name, **dict(size))


def summary(records: Sequence[loop.Record], least: float = 0.0) -> dict[str, Any]:
    """What is kept of a run: configuration, end, curve, times, and the mean of what the monitor saw."""
    config, end = records[0], records[-1]
    losses = [r["loss"] for r in records if r["event"] == "step"]
    edges = [round(i * len(losses) / POINTS) for i in range(POINTS + 1)]
    timing = next(r for r in records if r["event"] == "timing")
    seen = [r for r in records if r["event"] == "monitor"]
    named = ("optimizer", "lr", "seed", "steps", "warmup", "batch", "betas", "weight_decay", "schedule")
    kept = {k: config[k] for k in named}
    kept |= {
        k: v for k, v in end.items() if k in ("diverged_at", "val_loss", "test_loss", "val_accuracy", "test_accuracy")
    }
    kept["curve"] = [sum(losses[a:b]) / (b - a) for a, b in itertools.pairwise(edges) if b > a]
    kept |= {"ms_a_step": timing["seconds_a_step"], "optimizer_ms_a_step": timing["optimizer_seconds_a_step"]}
    kept |= {k: 1e3 * v for k, v in kept.items() if k.endswith("ms_a_step") and v is not None}
    if seen:
        kept["monitor"] = {k: [r.get(k) for r in seen] for k in ("step", *loop.WATCHED)}
        # of the batch, with f* = 0, which is below that of a cross-entropy: at most |g|^2 / (2 (f - f*))
        at = [(r["grad_norm"], losses[r["step"] - 1]) for r in seen]
        kept["monitor"]["pl_ratio"] = [norm**2 / (2 * loss) if loss > 0 else None for norm, loss in at]
    return kept | {"spikes": spikes(losses, least), "code": config["code"], "parameters": records[1]["parameters"]}


def spikes(losses: Sequence[float], least: float = 0.0, factor: float = 1.5, before: int = 20) -> int:
    """Steps whose loss is above `least` and above `factor` times the median of the `before` losses before it."""
    return sum(losses[i] > max(least, factor * median(losses[i - before : i])) for i in range(before, len(losses)))


def end_loss(run: Mapping[str, Any], chance: float, side: str) -> float:
    """The run's loss; inf where it diverged: not finite, or above what guessing has."""
    loss = run.get(f"{side}_loss", math.inf)
    return loss if loss <= chance else math.inf


def tune(
    perform: Callable[[Job], dict[str, Any]],
    job: Job,
    start: float,
    seeds: Sequence[int],
    chance: float,
    extensions: int,
) -> dict[str, Any]:
    """The best rate by mean val_loss: five a factor of 2 apart about `start`, more at an edge, then sqrt(2) beside the best.

    best: None where every rate diverges at one seed at least. at_edge: the extensions were used up.
    """
    runs: dict[float, list[dict[str, Any]]] = {}

    def mean(rate: float) -> float:
        if rate not in runs:
            runs[rate] = [perform(job.at(lr=rate, seed=seed)) for seed in seeds]
        return sum(end_loss(r, chance, "val") for r in runs[rate]) / len(seeds)

    grid = [_round(start * 2.0**k) for k in range(-2, 3)]
    at_edge = True
    for extension in range(extensions + 1):
        best = min(grid, key=mean)
        if math.isinf(mean(best)):
            best = grid[0]  # all diverge: lower
        if best not in (grid[0], grid[-1]):
            at_edge = False
            break
        if extension == extensions:
            break
        grid = [_round(best / 2), *grid] if best == grid[0] else [*grid, _round(best * 2)]
    best = min(grid, key=mean)
    best = min([best, _round(best / SQRT2), _round(best * SQRT2)], key=mean)
    found = [r for rate in sorted(runs) for r in runs[rate]]
    return {"best": None if math.isinf(mean(best)) else best, "at_edge": at_edge, "runs": found}


def _round(rate: float) -> float:
    return float(f"{rate:.6g}")


@dataclass(frozen=True)
class Fresh:
    """Runs of one optimizer in one comparison, with the fresh seeds. watched: their curves and what the monitor saw are kept."""

    comparison: str
    optimizer: str
    jobs: tuple[Job, ...]
    watched: bool = False


class Runner:
    """`jobs`: how many processes side by side."""

    def __init__(self, protocol: Protocol, place: Place, results: Path, jobs: int) -> None:
        share = protocol.trials.get("stability", {}).get("least", 0.0)
        least = {task: share * facts["chance"] for task, facts in protocol.tasks.items()}
        self.protocol, self.place, self.results = protocol, replace(place, least=least), results
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started now
        self._pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def all(self, only: Iterable[str] = ()) -> None:
        """Every trial, or those named. OutOfTimeError where the time is over."""
        kinds = {"sensitivity": self.sensitivity, "stability": self.stability, "decay": self.decay}
        for name, trial in self.protocol.trials.items():
            if only and name not in only:
                continue
            for task in trial["tasks"]:
                log.info("%s, %s", name, task)
                began = time.time()
                found = kinds.get(name, self.compared)(name, task)
                log.info("%s, %s: %.0f s", name, task, time.time() - began)
                self.write(name, task, found)

    def compared(self, name: str, task: str) -> dict[str, Any]:
        """Tunes each optimizer, then runs the fresh seeds of each comparison."""
        p, trial = self.protocol, self.protocol.trials[name]
        facts, base = p.tasks[task], p.baseline(name)
        changes = {
            "steps": facts["steps"] * trial.get("times", 1),
            **trial.get("run", {}),
            "size": trial.get("size", {}),
        }
        run = functools.partial(p.job, task, **changes)
        arguments = [
            (
                self.place,
                run(o),
                p.start(name, o),
                p.tuning_seeds(task, name),
                p.chance(task, name),
                p.rules["extensions"],
            )
            for o in ([] if "rate" in trial else trial["optimizers"])
        ]
        tuned = dict(
            zip((job.config.optimizer for _, job, *_ in arguments), self._pool.map(_tune, arguments), strict=True)
        )
        best = {o: t["best"] for o, t in tuned.items() if t["best"] is not None}
        if "rate" in trial:
            best = {o: trial["rate"] for o in trial["optimizers"]}
        log.info("%s, %s: best rates %s", name, task, best)
        fresh = []
        for comparison in trial["comparisons"]:
            for o in trial["optimizers"]:
                changes = self._comparison(comparison, o, base, best)
                if changes is not None:
                    seeds = p.fresh_seeds(trial.get("fresh", facts["fresh"]), name)
                    jobs = tuple(run(o, seed=s, **changes) for s in seeds)
                    fresh.append(Fresh(comparison, o, jobs, comparison in ("tuned", "rate")))
        long = trial.get("long")
        if long:
            for o in long["optimizers"]:
                seeds = p.fresh_seeds(long["fresh"])
                jobs = tuple(run(o, seed=s, lr=best[o], steps=long["steps"]) for s in seeds)
                fresh.append(Fresh("long", o, jobs, True))
        return {"tuning": tuned, "fresh": self.fresh(fresh)}

    def _comparison(
        self, comparison: str, optimizer: str, base: str, best: Mapping[str, float]
    ) -> dict[str, Any] | None:
        """What is changed of the task's run: None where this optimizer has no part in this comparison."""
        if optimizer not in best or base not in best:
            return None
        if comparison in ("tuned", "rate"):
            return {"lr": best[optimizer]}
        if comparison == "own":
            return {"lr": best[optimizer], "weight_decay": self.protocol.own_decay(optimizer)}
        if comparison == "shared":
            return None if optimizer == "sgd" else {"lr": best[base]}
        if comparison == "drift":
            return {"grams": {"lr": _round(best[base] / kappa(0.9))}, base: {"lr": best[base]}}.get(optimizer)
        raise ValueError(f"comparison {comparison!r}: expected tuned, rate, shared, drift or own")

    def fresh(self, wanted: Sequence[Fresh]) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Comparison to optimizer to runs. Seeds come first, so that what is stopped half-way is even."""
        flat = [(seed, w, job) for w in wanted for seed, job in enumerate(w.jobs)]
        flat.sort(key=lambda x: x[0])
        runs = self._pool.map(_perform, [(self.place, job, w.watched) for _, w, job in flat])
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for (_, w, _), run in zip(flat, runs, strict=True):
            found.setdefault(w.comparison, {}).setdefault(w.optimizer, []).append(run)
        return found

    def sensitivity(self, name: str, task: str) -> dict[str, Any]:
        """Every rate with every value of one hyper-parameter after the other."""
        p, trial = self.protocol, self.protocol.trials[name]
        axes: dict[str, list[tuple[str, dict[str, Any]]]] = {
            "batch": [(str(b), {"batch": b}) for b in trial["batches"]],
            "beta1": [(str(b), {"betas": (b, 0.999)}) for b in trial["beta1"]],
            "beta2": [(str(b), {"betas": (0.9, b)}) for b in trial["beta2"]],
            "schedule": [(s, {"schedule": s}) for s in trial["schedules"]],
        }
        wanted = [
            Fresh(
                f"{axis} {value}",
                o,
                tuple(p.job(task, o, lr=lr, seed=s, **changes) for lr in trial["rates"] for s in seeds),
            )
            for axis, values in axes.items()
            for value, changes in values
            for seeds in [list(p.fresh_seeds(trial["seeds"]))]
            for o in trial["optimizers"]
        ]
        return {"fresh": self.fresh(wanted)}

    def stability(self, name: str, task: str) -> dict[str, Any]:
        """Multiples of each optimizer's rate from the trial `main`, at a constant rate after the warm-up."""
        p, trial = self.protocol, self.protocol.trials[name]
        tuned = json.loads((self.results / "main.json").read_text())["tasks"][task]["tuning"]
        wanted = [
            Fresh(
                str(factor),
                o,
                tuple(
                    p.job(task, o, lr=_round(tuned[o]["best"] * factor), seed=s, schedule="constant")
                    for s in p.fresh_seeds(trial["seeds"])
                ),
            )
            for factor in trial["factors"]
            for o in trial["optimizers"]
        ]
        return {"fresh": self.fresh(wanted)}

    def decay(self, name: str, task: str) -> dict[str, Any]:
        """Each weight decay, with right and with wrong labels, at a rate tuned for it."""
        p, trial = self.protocol, self.protocol.trials[name]
        facts = p.tasks[task]
        cells = {
            f"{o} {wrong:g} {decay:g}": p.job(
                task, o, weight_decay=decay, batch=trial["batch"], size={"wrong": wrong} if wrong else {}
            )
            for o in trial["optimizers"]
            for wrong in trial["wrong"]
            for decay in trial["decays"]
        }
        rules = (p.tuning_seeds(task, name), facts["chance"], p.rules["extensions"])
        arguments = [(self.place, job, p.start("main", job.config.optimizer), *rules) for job in cells.values()]
        tuned = dict(zip(cells, self._pool.map(_tune, arguments), strict=True))
        fresh = [
            Fresh("tuned", cell, tuple(job.at(lr=tuned[cell]["best"], seed=s) for s in p.fresh_seeds(facts["fresh"])))
            for cell, job in cells.items()
            if tuned[cell]["best"] is not None
        ]
        return {"tuning": tuned, "fresh": self.fresh(fresh)}

    def write(self, name: str, task: str, found: dict[str, Any]) -> None:
        """Adds the task's results to the trial's file. Results of another version of the protocol are replaced."""
        path = self.results / f"{name}.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        kept = old["tasks"] if old.get("protocol") == self.protocol.stamp else {}
        whole = {
            "protocol": self.protocol.stamp,
            "versions": loop.versions(),
            "machine": {
                "system": f"{platform.system()} {platform.machine()}",
                "vectors": torch.backends.cpu.get_cpu_capability(),
            },
            "tasks": kept | {task: _rounded(found)},
        }
        self.results.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(whole, indent=None, separators=(",", ":")).replace('{"optimizer"', '\n{"optimizer"') + "\n"
        )


def _tune(arguments: tuple[Any, ...]) -> dict[str, Any]:
    place, *rest = arguments
    found = tune(place.perform, *rest)
    return found | {"runs": [{k: v for k, v in r.items() if k != "curve"} for r in found["runs"]]}


def _perform(arguments: tuple[Place, Job, bool]) -> dict[str, Any]:
    place, job, watched = arguments
    run = place.perform(job, monitor_every=max(1, job.config.steps // POINTS))
    return run if watched else {k: v for k, v in run.items() if k not in ("curve", "monitor")}


def _rounded(x: Any) -> Any:
    """Six significant digits."""
    if isinstance(x, Mapping):
        return {k: _rounded(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_rounded(v) for v in x]
    return float(f"{x:.6g}") if isinstance(x, float) else x
