"""What `python -m experiments.gpu` measures: sets of tensors, contestants, the bytes that each must move, goals, and the order.

A case is one contestant on one set in one dtype, stepped as it is ("step") or replayed from a CUDA graph ("replay").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

import fast
from experiments.bench import BASE, CONTESTANTS, by_rows
from experiments.bench import llama_60m as llama_60m_shapes
from experiments.gpu_codegen import Named, llama

COPY = "copy"
FOREACH = "AdamW foreach"
OURS = ("Grams", "Lion", "AdamMini", "CautiousAdamW", "Adams", "CautiousLion")
RELEASED = ("Grams released", "Adams released", "AdamMini released")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = ("step", "replay")


def experts(layers: int, count: int, hidden: int, inner: int) -> Named:
    """A mixture's experts, three matrices each."""
    kinds = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    return [
        (f"layers.{i}.experts.{j}.{name}.weight", shape)
        for i in range(layers)
        for j in range(count)
        for name, shape in kinds.items()
    ]


@dataclass(frozen=True)
class Set:
    """Tensors with their names; the same, small, for a dry run; the heads of queries and keys; seconds for the first steps."""

    tensors: Callable[[], Named]
    small: Callable[[], Named]
    seconds: float
    heads: tuple[int, int] | None = None
    changing: bool = False  # a third of the experts, others each time, gets no gradient


SETS: dict[str, Set] = {
    # Llama-3.2-1B's embedding, tied, and 4 of its 16 layers: 506.0 M parameters in 38 tensors
    "half-billion": Set(
        lambda: llama(2048, 8192, 512, 128256, 4, True), lambda: llama(64, 96, 16, 96, 1, True), 60, (32, 8)
    ),
    "small-2000": Set(
        lambda: [(f"norms.{i}.weight", (1000,)) for i in range(2000)],
        lambda: [(f"norms.{i}.weight", (20,)) for i in range(40)],
        110,
    ),
    "llama-60m": Set(
        lambda: list(zip(NAMES_60M, llama_60m_shapes(), strict=True)),
        lambda: llama(16, 32, 16, 48, 2, False),
        80,
        (8, 8),
    ),
    # as many tensors as Llama-3-8B, in its proportions, an eighth as wide: 125.3 M parameters
    "llama-8b": Set(lambda: llama(512, 1792, 128, 16032, 32, False), lambda: llama(16, 56, 4, 48, 3, False), 110, (8, 2)),
    "experts": Set(lambda: experts(16, 128, 128, 64), lambda: experts(2, 6, 8, 4), 110, None, True),
}  # fmt: skip
NAMES_60M = [name for name, _ in llama(512, 1376, 512, 32000, 8, False)]


def adam_mini(name: str, tensors: Named, params: Sequence[Tensor], **options: Any) -> fast.AdamMini:
    """AdamMini with the blocks of a model of these names: queries and keys by head, rows, and one for each vector."""
    if SETS[name].heads is None:
        return fast.AdamMini(list(params), partition=by_rows, **options)
    named = [(own, param) for (own, _), param in zip(tensors, params, strict=True)]
    return fast.AdamMini(named, heads=SETS[name].heads, **options)


def make(label: str, name: str, tensors: Named, params: list[Tensor], **options: Any) -> torch.optim.Optimizer:
    """The optimizer behind a label. `options`: `compile` for ours; `capturable`. ImportError without its package."""
    if label in RELEASED:
        return CONTESTANTS[label].make(params)
    if label in (BASE, FOREACH):
        options.pop("compile", None)
        how = {"fused": True} if label == BASE else {"foreach": True}
        return torch.optim.AdamW(params, **how, **options)
    if label == "AdamMini":
        return adam_mini(name, tensors, params, **options)
    return getattr(fast, label)(params, **options)


def bytes_a_parameter(label: str, dtype: torch.dtype, built: bool = False) -> int:
    """What a step must read and write at least, in bytes a parameter; `built`: what ours does with a GPU's memory.

    Parameters and gradients of `dtype`; our averages are float32 for half types, torch's and the released ones' of the dtype
    itself. One number for a row or block is not counted. The cautious scale is known once grad and exp_avg have been read, and
    what then moves is read anew; Adams needs W^T u before the first entry moves, and so reads the weights twice: with a
    float32 master, which is then the weight, the parameter too, since somebody else may have written it.
    """
    kind = label.removesuffix(" released")
    own = dtype.itemsize
    state = 4 if label in OURS else own
    averages = 1 if kind in ("Lion", "CautiousLion", "AdamMini") else 2
    needed = 2 * own + own + 2 * averages * state
    again = 0
    if kind.startswith("Cautious"):
        again = own + state
    if kind == "Adams":
        master = label in OURS and own != state
        needed += 2 * state if master else 0
        again = state + own if master else own
    return needed + (again if built and label in OURS else 0)


@dataclass(frozen=True)
class Case:
    """One contestant on one set; `key` names its row."""

    label: str
    set: str = "half-billion"
    dtype: str = "float32"
    mode: str = "step"

    @property
    def key(self) -> str:
        return f"{self.set}/{self.dtype}/{self.mode}/{self.label}"

    @property
    def parameters(self) -> int:
        return sum(prod(shape) for _, shape in SETS[self.set].tensors())

    @property
    def gigabytes(self) -> float:
        """What its first step may hold at once: parameters, gradients, two averages, a master, and the compiler's copies."""
        return self.parameters * (6 if self.label == FOREACH else 5.5) * 4 / 1e9


# From the most valuable down; within a set the goals' contestants first.
PLAN: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("half-billion", "float32", "step", (*OURS, BASE, FOREACH)),
    ("half-billion", "bfloat16", "step", OURS),
    ("experts", "float32", "step", ("Grams", "AdamMini", "CautiousAdamW", "Adams", BASE)),
    ("llama-8b", "float32", "step", (*OURS, BASE)),
    ("small-2000", "float32", "step", (*OURS, BASE, FOREACH)),
    ("llama-60m", "float32", "step", (*OURS, BASE, FOREACH, *RELEASED)),
    ("llama-60m", "float32", "replay", ("Grams", "Lion", "AdamMini", BASE)),
    ("small-2000", "float32", "replay", ("Grams", "Lion", "AdamMini", BASE)),
    ("llama-60m", "bfloat16", "step", OURS),
)
FIRST_STEPS = (
    "Grams",
    "AdamMini",
    "CautiousAdamW",
    "Adams",
)  # timed alone, on Llama-60M's tensors, cold and from a full cache


def plan(
    sets: Sequence[str], optimizers: Sequence[str], dtypes: Sequence[str], modes: Sequence[str]
) -> list[list[Case]]:
    """The chosen cases, in batches that are compiled side by side."""
    batches = [
        [Case(label, name, dtype, mode) for label in labels if label in optimizers]
        for name, dtype, mode, labels in PLAN
        if name in sets and dtype in dtypes and mode in modes
    ]
    return [batch for batch in batches if batch]


RATIOS = {"Grams": 1.02, "AdamMini": 0.75, "Lion": 0.73, "CautiousAdamW": 1.30, "Adams": 1.20}  # to fused AdamW's time
STREAMING = ("Grams", "Lion", "AdamMini")
PERCENT = 90


def goals(key: str, row: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """The goals that a row is held to, each with whether it is reached; none where nothing was measured."""
    name, dtype, mode, label = key.split("/")
    found = []
    if "ms" not in row or (dtype, mode) != ("float32", "step"):
        return found
    if name == "half-billion":
        if label in STREAMING:
            found.append((f"copy >= {PERCENT} %", row["percent_of_copy"] >= PERCENT))
        if label in RATIOS:
            found.append((f"ratio <= {RATIOS[label]:.2f}", row["ratio"] <= RATIOS[label]))
    if name == "small-2000" and label in OURS:
        found.append(("ratios <= 1", max(row["ratio"], row["alone_ratio"]) <= 1))
    return found


def numerics_goal(numerics: Mapping[str, Any]) -> bool:
    """Whether every test ran and passed, but those that need what this machine has not."""
    return bool(numerics.get("passed")) and not (numerics["failed"] or numerics["without_a_result"])
