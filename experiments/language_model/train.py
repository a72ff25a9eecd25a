"""One training run: its configuration, its JSON log, its checkpoints, and a resume that gives bitwise the same run.

A run writes two files, named after its optimizer, learning rate, seed and a hash of all that decides the result:

    <name>.jsonl   one record a line: config, model, then step and eval, then timing, then end
    <name>.pt      the last checkpoint, for torch.load(weights_only=True)

Only timing depends on the machine's speed. `run` starts where the checkpoint is, and returns at once where the log has
its end. Bitwise the same means: on one machine with one number of threads, and with --device cuda only as far as the
kernels are deterministic.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from experiments.language_model import checkpoint, optimizers
from experiments.language_model import model as llama
from experiments.language_model.tokens import Batches, Corpus

FLOOR = 0.1  # the cosine ends at this part of the peak learning rate
FORMAT = 1  # of a run: raise it when the same configuration would train otherwise
Record = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """All that decides a run's result, besides the corpus and the versions. ValueError where a value makes no sense."""

    optimizer: str = "adamw"
    lr: float = 1e-3
    seed: int = 0
    steps: int = 300
    warmup: int = 30
    batch: int = 8
    context: int = 128
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    weight_decay: float | None = None
    betas: tuple[float, float] | None = None
    clip: float = 0.0
    compile: bool | None = None
    eval_every: int = 100
    eval_windows: int = 256

    def __post_init__(self) -> None:
        optimizers.entry(self.optimizer)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(
                f"--lr {self.lr}: expected a finite number above 0 (for Adam's kin: step length per coordinate)"
            )
        for name in ("steps", "batch", "context", "hidden", "layers", "heads", "eval_every", "eval_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 1 or more")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"--warmup {self.warmup}: expected 0 to --steps ({self.steps})")
        for name in ("seed", "clip", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"--{name.replace('_', '-')} {value}: expected a finite number, 0 or more")


def lr_factor(step: int, *, warmup: int, steps: int) -> float:
    """The part of the peak lr at step `step` (from 0): linear to 1 over `warmup` steps, then a cosine down to FLOOR."""
    if step < warmup:
        return (step + 1) / warmup
    part = (step - warmup) / max(1, steps - warmup)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        n: version(n) for n in ("torch", "transformers", "tokenizers", "numpy")
    }


def describe(config: Config, corpus: Corpus) -> Record:
    """The log's first record: nothing in it depends on the machine. `code` is a hash of the files that make the run."""
    files = optimizers.source_files(config.optimizer)
    code = hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()[:16]
    return {
        "event": "config",
        "format": FORMAT,
        **asdict(config),
        "betas": list(config.betas) if config.betas else None,
        "data": corpus.facts,
        "code": code,
        "versions": versions(),
    }


def name_of(described: Record) -> str:
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]
    return f"{described['optimizer']}-lr{described['lr']:g}-seed{described['seed']}-{key}"


def run(
    config: Config,
    corpus: Corpus,
    folder: Path,
    *,
    device: str = "cpu",
    checkpoint_every: int = 100,
    on_step: Callable[[int, float], None] | None = None,
) -> list[Record]:
    """Trains, or goes on, or does nothing where it is done; returns the log's records.

    `on_step(step, loss)` is called after each step. A loss that is not finite ends the run: its end record has
    `diverged_at` and no perplexity.
    """
    described = describe(config, corpus)
    folder.mkdir(parents=True, exist_ok=True)
    log, saved = (folder / f"{name_of(described)}{suffix}" for suffix in (".jsonl", ".pt"))
    done = read_log(log)
    if done and done[-1]["event"] == "end":
        return done
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return _train(config, corpus, described, log, saved, torch.device(device), checkpoint_every, on_step)


def _train(
    config: Config,
    corpus: Corpus,
    described: Record,
    log: Path,
    saved: Path,
    device: torch.device,
    checkpoint_every: int,
    on_step: Callable[[int, float], None] | None,
) -> list[Record]:
    shape = {name: getattr(config, name) for name in ("hidden", "layers", "heads", "context", "seed")}
    model = llama.build(vocab=corpus.vocab, **shape).to(device)
    optimizer = optimizers.make(
        config.optimizer,
        model,
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=config.betas,
        compile=config.compile,
    )
    schedule = LambdaLR(optimizer, lambda step: lr_factor(step, warmup=config.warmup, steps=config.steps))
    batches = Batches(corpus.train, context=config.context, batch=config.batch, seed=config.seed)
    parameters = sum(p.numel() for p in model.parameters())
    start = checkpoint.restore(saved, model, optimizer, schedule, device) if saved.exists() else 0
    first: list[Record] = [described, {"event": "model", "parameters": parameters}]
    records = [r for r in read_log(log) if r["event"] in ("step", "eval") and r["step"] <= start] if start else []
    records = first + records
    checkpoint.replace_file(log, "".join(json.dumps(r) + "\n" for r in records).encode())

    diverged, spent, later = None, 0.0, 0.0
    times: list[tuple[float, float]] = []  # of a whole step, of the optimizer's part of it
    with log.open("a", buffering=1) as out:  # a line at a time: readable while it runs, and whole at a checkpoint
        for step in range(start + 1, config.steps + 1):
            began = time.perf_counter()
            inputs, targets = (x.to(device) for x in batches(step - 1))
            loss = llama.next_token_loss(model, inputs, targets)
            value = float(loss.detach())
            if not math.isfinite(value):
                diverged = step
                break
            optimizer.zero_grad()
            loss.backward()
            if config.clip:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            lr = float(optimizer.param_groups[0]["lr"])
            before = time.perf_counter()
            optimizer.step()
            stepped = time.perf_counter() - before
            schedule.step()
            took = time.perf_counter() - began
            if step > start + 1:  # the first step may compile
                later += took
                times.append((took, stepped))
            spent += took
            _write(out, records, {"event": "step", "step": step, "loss": value, "lr": lr})
            if on_step is not None:
                on_step(step, value)
            if step % config.eval_every == 0 and step < config.steps:
                _write(out, records, {"event": "eval", "step": step} | _held(model, corpus, config))
            if checkpoint_every and (step % checkpoint_every == 0 or step == config.steps):
                checkpoint.save(saved, step, model, optimizer, schedule, device)
        steps = config.steps - start - 1
        _write(
            out,
            records,
            {
                "event": "timing",
                "device": str(device),
                "threads": torch.get_num_threads(),
                "train_seconds": spent,
                "tokens_per_second": steps * config.batch * config.context / later if later and not diverged else None,
                # medians: a machine with other work to do stops a step now and then
                "seconds_a_step": statistics.median(t for t, _ in times) if times else None,
                "optimizer_seconds_a_step": statistics.median(t for _, t in times) if times else None,
                "state_bytes": state_bytes(optimizer, model),
            },
        )
        held = {"perplexity": None, "diverged_at": diverged} if diverged else _held(model, corpus, config)
        tokens_seen = (diverged or config.steps) * config.batch * config.context
        _write(out, records, {"event": "end", "step": diverged or config.steps, "tokens_seen": tokens_seen} | held)
    return records


def state_bytes(optimizer: Optimizer, model: nn.Module) -> int:
    """Bytes of memory that the optimizer's state holds: each allocation once, none that a parameter has already."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    tensors = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(size for place, size in held.items() if place not in weights)


def _held(model: nn.Module, corpus: Corpus, config: Config) -> Record:
    return llama.evaluate(model, corpus, context=config.context, windows=config.eval_windows)._asdict()


def _write(out: TextIO, records: list[Record], record: Record) -> None:
    out.write(json.dumps(record) + "\n")
    records.append(record)


def read_log(path: Path) -> list[Record]:
    """The records of a log; [] where there is none. A last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]  # what follows the last line end was not written whole
