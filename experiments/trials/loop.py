"""One training run: its configuration, its JSON log, its checkpoints, and a resume that gives bitwise the same run.

The loop knows no data and no model: a `Task` of `experiments.tasks` brings both. A run writes two files, named after its
task, optimizer, learning rate, seed and a hash of all that decides the result:

    <name>.jsonl   one record a line: config, model, then step and eval, then timing, then end
    <name>.pt      the last checkpoint, for torch.load(weights_only=True); none where checkpoint_every is 0

Under torchrun (a process group that is initialised) each process takes its part of every batch, the gradients are averaged
(DistributedDataParallel), and the first process alone evaluates and writes; all must see the same folder.

Only timing depends on the machine's speed. `run` starts where the checkpoint is, and returns at once where the log has
its end. Bitwise the same means: on one machine with one number of threads, and with --device cuda only as far as the
kernels are deterministic.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from experiments.tasks import Part, Task
from experiments.trials import checkpoint, optimizers
from fast import Monitor

FORMAT = 2  # of a run: raise it when the same configuration would train otherwise
SCHEDULES = ("cosine", "linear", "constant")
PACKAGES = ("torch", "numpy", "transformers", "tokenizers", "scikit-learn", "gymnasium", "mlxtend")
WATCHED = ("alignment", "disagreement", "update_ratio", "grad_norm")  # of the monitor's records
Record = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """All that decides a run's result, besides the task and the versions. ValueError where a value makes no sense.

    batch: what one step sees, in the task's own units (windows, images, parallel environments). floor: the part of the peak
    learning rate at which the schedule ends. options: what the optimizer's constructor takes besides.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    seed: int = 0
    steps: int = 300
    warmup: int = 30
    batch: int = 8
    schedule: str = "cosine"
    floor: float = 0.1
    weight_decay: float | None = None
    betas: tuple[float, float] | None = None
    clip: float = 0.0
    compile: bool | None = None
    eval_every: int = 100
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        optimizers.entry(self.optimizer)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(
                f"--lr {self.lr}: expected a finite number above 0 (for Adam's kin: step length per coordinate)"
            )
        for name in ("steps", "batch", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 1 or more")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"--warmup {self.warmup}: expected 0 to --steps ({self.steps})")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"--schedule {self.schedule}: expected one of {', '.join(SCHEDULES)}")
        for name in ("seed", "clip", "weight_decay", "floor"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"--{name.replace('_', '-')} {value}: expected a finite number, 0 or more")


def lr_factor(step: int, *, warmup: int, steps: int, schedule: str = "cosine", floor: float = 0.1) -> float:
    """The part of the peak lr at step `step` (from 0): linear to 1 over `warmup` steps, then the schedule down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    part = min((step - warmup) / max(1, steps - warmup), 1.0)
    if schedule == "constant":
        return 1.0
    return floor + (1 - floor) * (1 - part if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * part)))


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # only some tasks need it
            continue
    return found


def describe(config: Config, task: Task) -> Record:
    """The log's first record: nothing in it depends on the machine. `code` is a hash of the files that make the run."""
    files = optimizers.source_files(config.optimizer)
    code = hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()[:16]
    return {
        "event": "config",
        "format": FORMAT,
        "task": task.name,
        **task.size,
        **asdict(config),
        "betas": list(config.betas) if config.betas else None,
        "data": dict(task.facts),
        "code": code,
        "versions": versions(),
    }


def name_of(described: Record) -> str:
    """Of what decides the result; with no `code` and `versions` in `described`, of the configuration alone."""
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]
    return f"{described['task']}-{described['optimizer']}-lr{described['lr']:g}-seed{described['seed']}-{key}"


def run(
    config: Config,
    task: Task,
    folder: Path,
    *,
    device: str = "cpu",
    checkpoint_every: int = 100,
    on_step: Callable[[int, float], None] | None = None,
    whatever_code: bool = False,
    monitor_every: int = 0,
    passes: int = 1,
) -> list[Record]:
    """Trains, or goes on, or does nothing where it is done; returns the log's records.

    `on_step(step, loss)` is called after each step. A loss that is not finite ends the run: its end record has
    `diverged_at` and no measure. whatever_code: a finished run counts, even if the code or a version has changed since (the
    log says of which it is). monitor_every: `fast.Monitor` looks at one step in so many, which changes nothing in the run.
    passes: the batch goes through the model in so many equal parts, whose gradients are averaged: less memory, and the same step
    up to rounding, but for a model with batch norm, which sees one part at a time (as it does in each process).
    """
    described = describe(config, task)
    folder.mkdir(parents=True, exist_ok=True)
    named = {k: v for k, v in described.items() if not (whatever_code and k in ("code", "versions"))}
    log, saved = (folder / f"{name_of(named)}{suffix}" for suffix in (".jsonl", ".pt"))
    done = read_log(log)
    if done and done[-1]["event"] == "end":
        return done
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return _train(
            config, task, described, log, saved, torch.device(device), checkpoint_every, on_step, monitor_every, passes
        )


def _train(
    config: Config,
    task: Task,
    described: Record,
    log: Path,
    saved: Path,
    device: torch.device,
    checkpoint_every: int,
    on_step: Callable[[int, float], None] | None,
    monitor_every: int,
    passes: int,
) -> list[Record]:
    model = task.model(config.seed).to(device)
    optimizer = optimizers.make(
        config.optimizer,
        model,
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=config.betas,
        compile=config.compile,
        options=config.options,
    )
    shape = {"warmup": config.warmup, "steps": config.steps, "schedule": config.schedule, "floor": config.floor}
    schedule = LambdaLR(optimizer, lambda step: lr_factor(step, **shape))
    source = task.source(config.batch, config.seed)
    parameters = sum(p.numel() for p in model.parameters())
    start = checkpoint.restore(saved, model, optimizer, schedule, source, device) if saved.exists() else 0
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if processes * passes > 1 and hasattr(source, "state_dict"):
        raise ValueError(f"task {task.name!r} makes its data while it trains: it has one process and one pass only")
    shared = DistributedDataParallel(model) if processes > 1 else model
    first: list[Record] = [described, {"event": "model", "parameters": parameters}]
    records = (
        [r for r in read_log(log) if r["event"] in ("step", "eval", "monitor") and r["step"] <= start] if start else []
    )
    records = first + records
    if rank == 0:
        checkpoint.replace_file(log, "".join(json.dumps(r) + "\n" for r in records).encode())

    diverged, spent = None, 0.0
    times: list[tuple[float, float]] = []  # of a whole step, of the optimizer's part of it
    watching = Monitor(optimizer, every=monitor_every, start=start) if monitor_every else nullcontext()
    # a line at a time: readable while it runs, and whole at a checkpoint
    with (log if rank == 0 else Path(os.devnull)).open("a", buffering=1) as out, watching as monitor:
        for step in range(start + 1, config.steps + 1):
            began = time.perf_counter()
            optimizer.zero_grad()
            loss = _gradients(task, shared, source, step - 1, passes=passes, rank=rank, processes=processes)
            value = float(loss)
            if not math.isfinite(value):
                diverged = step
                break
            if config.clip:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            lr = float(optimizer.param_groups[0]["lr"])
            before = time.perf_counter()
            optimizer.step()
            stepped = time.perf_counter() - before
            schedule.step()
            took = time.perf_counter() - began
            if step > start + 1:  # the first step may compile
                times.append((took, stepped))
            spent += took
            _write(out, records, {"event": "step", "step": step, "loss": value, "lr": lr})
            if monitor is not None and monitor.records and monitor.records[-1]["step"] == step:
                seen = {k: v for k, v in monitor.records[-1].items() if k in WATCHED and math.isfinite(v)}
                _write(out, records, {"event": "monitor", "step": step} | seen)
            if on_step is not None:
                on_step(step, value)
            if rank:
                continue
            if step % config.eval_every == 0 and step < config.steps:
                _write(out, records, {"event": "eval", "step": step} | task.evaluate(model, config.seed))
            if checkpoint_every and (step % checkpoint_every == 0 or step == config.steps):
                checkpoint.save(saved, step, model, optimizer, schedule, source, device)
        if rank:
            return records
        _write(
            out,
            records,
            {
                "event": "timing",
                "device": str(device),
                "threads": torch.get_num_threads(),
                "processes": processes,
                "passes": passes,
                "train_seconds": spent,
                # medians: a machine with other work to do stops a step now and then
                "seconds_a_step": statistics.median(t for t, _ in times) if times else None,
                "optimizer_seconds_a_step": statistics.median(t for _, t in times) if times else None,
                "state_bytes": state_bytes(optimizer, model),
            },
        )
        held = None if diverged else task.evaluate(model, config.seed)
        end = {
            "event": "end",
            "step": diverged or config.steps,
            "units_seen": (diverged or config.steps) * config.batch,
        }
        finite = held is not None and all(math.isfinite(v) for v in held.values())
        _write(out, records, end | (held if held and finite else {"diverged_at": diverged or config.steps}))
    return records


def _gradients(
    task: Task, model: nn.Module, source: Any, step: int, *, passes: int, rank: int, processes: int
) -> Tensor:
    """Adds the gradients of step `step`'s mean loss; returns that loss, of all passes and of all processes."""
    parts, losses = passes * processes, []
    for number in range(passes):
        part = step if parts == 1 else Part(step, rank * passes + number, parts)
        alone = number < passes - 1 and isinstance(model, DistributedDataParallel)
        with model.no_sync() if alone else nullcontext():  # pyright: ignore[reportAttributeAccessIssue,reportCallIssue]
            loss = task.loss(model, source, part)
            (loss / passes if passes > 1 else loss).backward()
        losses.append(loss.detach())
    mean = torch.stack(losses).mean() if passes > 1 else losses[0]
    if processes > 1:
        mean = mean / processes
        dist.all_reduce(mean)
    return mean


def state_bytes(optimizer: Optimizer, model: nn.Module) -> int:
    """Bytes of memory that the optimizer's state holds: each allocation once, none that a parameter has already."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    tensors = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(size for place, size in held.items() if place not in weights)


def _write(out: TextIO, records: list[Record], record: Record) -> None:
    out.write(json.dumps(record) + "\n")
    records.append(record)


def read_log(path: Path) -> list[Record]:
    """The records of a log; [] where there is none. A last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]  # what follows the last line end was not written whole
