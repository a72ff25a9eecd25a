"""The papers' settings (recipes.toml) as runs of the trials' loop, and what can be said of them without running them.

A recipe names its task, the task's options, the schedule, and each optimizer's hyper-parameters. `counts` counts on tensors
without data (device meta); `step_on_a_slice` takes a step by the same code, at the recipe's width, with one layer or one block
a stage, and few and random data.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from experiments import tasks
from experiments.tasks import Task
from experiments.trials import loop, optimizers

log = logging.getLogger(__name__)
PATH = Path(__file__).with_name("recipes.toml")
UNITS = {"language": "windows", "vision": "images", "fine_tune": "problems"}
SLICE_VOCAB, SLICE_CONTEXT = 4096, 64


class Autocast:
    """The task with its losses under autocast: matrix products in `dtype`; weights, gradients and state stay fp32."""

    def __init__(self, task: Task, dtype: str) -> None:
        self._task, self._dtype = task, getattr(torch, dtype)
        self.name, self.facts = task.name, task.facts
        self.size = {**task.size, "autocast": dtype}

    def model(self, seed: int) -> nn.Module:
        return self._task.model(seed)

    def source(self, batch: int, seed: int) -> Any:
        return self._task.source(batch, seed)

    def loss(self, model: nn.Module, source: Any, step: int) -> Tensor:
        with torch.autocast(next(model.parameters()).device.type, self._dtype):
            return self._task.loss(model, source, step)

    def evaluate(self, model: nn.Module, seed: int) -> dict[str, float]:
        with torch.autocast(next(model.parameters()).device.type, self._dtype):
            return self._task.evaluate(model, seed)


@dataclass(frozen=True)
class Recipe:
    """`passes`: how many parts of the batch go through one card, one after the other. `shape`: of a hub's model, to count it."""

    name: str
    claims: Sequence[str]
    about: str
    stated: str
    ours: Sequence[str]
    task: str
    options: Mapping[str, Any]
    steps: int
    warmup: int
    batch: int
    passes: int
    schedule: str
    floor: float
    clip: float
    weight_decay: float
    autocast: str
    optimizers: Mapping[str, Mapping[str, Any]]
    shape: Mapping[str, Any] | None = None

    def config(self, optimizer: str, **changes: Any) -> loop.Config:
        """ValueError: the recipe has no such optimizer."""
        if optimizer not in self.optimizers:
            raise ValueError(
                f"recipe {self.name}: no optimizer {optimizer!r}; expected one of {', '.join(self.optimizers)}"
            )
        own = dict(self.optimizers[optimizer])
        if "betas" in own:
            own["betas"] = tuple(own["betas"])
        shared = {
            k: getattr(self, k) for k in ("steps", "warmup", "batch", "schedule", "floor", "clip", "weight_decay")
        }
        given = {**shared, **own, **{k: v for k, v in changes.items() if v is not None}}
        if "warmup" not in changes and given["steps"] != self.steps:
            given["warmup"] = round(self.warmup * given["steps"] / self.steps)
        return loop.Config(optimizer=optimizer, eval_every=max(1, given["steps"] // 10), **given)

    def load(self, options: Mapping[str, Any]) -> Task:
        """The task with its data, which may take hours and much memory the first time; `options` go before the recipe's."""
        return self.cast(tasks.load(self.task, **{**self.options, **options}))

    def cast(self, task: Task) -> Task:
        return task if self.autocast == "none" else Autocast(task, self.autocast)

    def build(self) -> nn.Module:
        """The model on no data: shapes and counts, without memory."""
        with torch.device("meta"):
            if self.task == "vision":
                from experiments.tasks import vision

                return vision.build(3, 10, **self._vision())
            if self.task == "language":
                from experiments.tasks import language

                keys = ("vocab", "hidden", "layers", "heads", "context", "architecture")
                return language.build(seed=0, **{k: self.options[k] for k in keys if k in self.options})
            return self._llama(dict(self.shape or {}))

    def _vision(self) -> dict[str, Any]:
        blocks = self.options["blocks"]
        return {
            "width": self.options["width"],
            "blocks": blocks if isinstance(blocks, int) else tuple(blocks),
            "factor": self.options.get("factor", 0),
        }

    def _llama(self, shape: Mapping[str, Any]) -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=None, eos_token_id=None))

    def slice(self, folder: Path) -> Task:
        """The recipe's task and width on a few random data in `folder`, with one layer, or one block a stage."""
        rng = np.random.default_rng(0)
        if self.task == "language":
            from experiments.tasks.language import Language
            from experiments.tasks.tokens import Corpus

            vocab, context = min(SLICE_VOCAB, self.options["vocab"]), min(SLICE_CONTEXT, self.options["context"])
            train, held = (rng.integers(0, vocab, 9 * context + 1).astype(np.uint16) for _ in range(2))
            corpus: Any = Corpus(None, train, held, np.ones(vocab, dtype=np.int64), {"key": "random"})  # pyright: ignore[reportArgumentType]
            kept = {k: self.options[k] for k in ("hidden", "heads", "architecture") if k in self.options}
            return self.cast(Language(corpus, context=context, layers=1, eval_windows=2, **kept))
        if self.task == "vision":
            for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
                data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
                (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": [0, 3, 6, 9]}))
            shape = self._vision()
            shape["blocks"] = tuple(1 for _ in shape["blocks"])
            return self.cast(tasks.load("vision", data="cifar10", folder=str(folder), **shape))
        from experiments.tasks.fine_tune import Bytes, FineTune

        path = folder / "sums.jsonl"
        path.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(12)))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            base = self._llama({**(self.shape or {}), "num_hidden_layers": 1, "vocab_size": 257})
        return self.cast(FineTune((base, Bytes()), data=str(path), held=2, exact=1, answer=2))


def read(path: Path = PATH) -> dict[str, Recipe]:
    """Name to recipe. TypeError: a key is missing or unknown."""
    found: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: Recipe(name, **given) for name, given in found.items()}


def find(name: str) -> Recipe:
    found = read()
    if name not in found:
        raise ValueError(f"unknown recipe {name!r}: expected one of {', '.join(found)}")
    return found[name]


def train(
    recipe: Recipe,
    config: loop.Config,
    folder: Path,
    *,
    device: str,
    passes: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[loop.Record]:
    """The recipe's run, or its rest; under torchrun each process has one of the node's cards and its part of each batch.

    passes: on one card; the recipe's are shared among the processes. `options`: of the task, before the recipe's.
    """
    together = "RANK" in os.environ
    if together and not dist.is_initialized():
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        # the first process may tokenise for hours while the others wait
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=timedelta(hours=24))
    rank, processes = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    if rank:
        dist.barrier()
    task = recipe.load(options or {})
    if together and not rank:
        dist.barrier()

    def said(step: int, loss: float) -> None:
        if not rank and (step % 100 == 0 or step == 1):
            log.info("%s, %s: step %d of %d, loss %.4f", recipe.name, config.optimizer, step, config.steps, loss)

    passes = passes or max(1, recipe.passes // processes)
    records = loop.run(config, task, folder, device=device, passes=passes, checkpoint_every=1000, on_step=said)
    if together:
        dist.barrier()  # the first process evaluates last
        dist.destroy_process_group()
    return records


def counts(recipe: Recipe, only: str | None = None) -> dict[str, Any]:
    """Parameters, and bytes of weights, gradients and of each optimizer's state after a step on tensors without data."""
    model = recipe.build()
    named = dict(model.named_parameters())  # a tied weight once
    size = sum(p.numel() for p in named.values())
    state = {}
    for optimizer in [only] if only else recipe.optimizers:
        config = recipe.config(optimizer)
        try:
            made = optimizers.make(
                optimizer, model, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, compile=False
            )
        except ImportError:  # a released package that is not installed
            continue
        for p in named.values():
            p.grad = torch.zeros_like(p)
        made.step()
        tensors = [t for held in made.state.values() for t in held.values() if isinstance(t, Tensor)]
        state[optimizer] = sum(t.numel() * t.element_size() for t in tensors)
    units = recipe.steps * recipe.batch
    found = {
        "parameters": size,
        "tensors": len(named),
        "shapes": {n: list(p.shape) for n, p in named.items()},
        "weight_bytes": 4 * size,
        "gradient_bytes": 4 * size,
        "state_bytes": state,
        "units": UNITS[recipe.task],
        "units_a_step": recipe.batch,
        "units_in_all": units,
    }
    if "context" in recipe.options:
        found |= {"tokens_in_all": units * recipe.options["context"]}
    return found


def step_on_a_slice(recipe: Recipe, optimizer: str, passes: int = 2) -> dict[str, Any]:
    """One step of the loop, in `passes` parts, as the recipe has it but for its size, on random data; the losses around it."""
    with tempfile.TemporaryDirectory(prefix="adamlab-recipe-") as folder:
        task = recipe.slice(Path(folder))
        config = recipe.config(optimizer, steps=1, batch=2 * passes, warmup=0)
        before = task.model(config.seed).state_dict()
        records = loop.run(config, task, Path(folder), passes=passes)
        saved = torch.load(next(Path(folder).glob("*.pt")), weights_only=True)["model"]
    moved = sum(not torch.equal(before[k], saved[k]) for k in before if before[k].is_floating_point())
    steps = [r for r in records if r["event"] == "step"]
    end = records[-1]
    if not steps or "diverged_at" in end or not moved:
        raise RuntimeError(f"recipe {recipe.name}, {optimizer}: the step on a slice came to nothing: {end}")
    return {"parameters": records[1]["parameters"], "moved_tensors": moved, "loss": steps[0]["loss"]} | {
        k: v for k, v in end.items() if k in ("val_loss", "test_loss") and math.isfinite(v)
    }


def lines(recipe: Recipe, found: Mapping[str, Any]) -> list[str]:
    """What `counts` found, for a terminal."""
    c = found
    text = [
        f"{recipe.name}: {recipe.about}",
        f"  stated: {recipe.stated}",
        *(f"  ours: {x}" for x in recipe.ours),
        f"  {c['parameters']:,} parameters in {c['tensors']} tensors; weights {c['weight_bytes']:,} bytes, gradients as many",
    ]
    shapes: dict[str, int] = {}
    for shape in c["shapes"].values():
        key = " x ".join(map(str, shape))
        shapes[key] = shapes.get(key, 0) + 1
    text.append("  shapes: " + ", ".join(f"{n} of {key}" for key, n in shapes.items()))
    text += [f"  state of {o}: {b:,} bytes, {b / c['parameters']:.2f} a parameter" for o, b in c["state_bytes"].items()]
    tokens = f", {c['tokens_in_all']:,} tokens" if "tokens_in_all" in c else ""
    text.append(
        f"  {recipe.steps:,} steps of {c['units_a_step']:,} {c['units']} in {recipe.passes} passes: "
        f"{c['units_in_all']:,} {c['units']}{tokens}"
    )
    return text
