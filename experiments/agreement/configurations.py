"""Random configurations of the optimizers, as data: which tensors, how they lie in memory, which gradients, which arguments.

    case = sample(7)         the same for the same number, on any machine
    start(case)              its parameters before the first step, as float64 arrays
    gradients(case, step)    its gradients

The numbers are those of the configuration's dtype, widened to float64: whoever runs it in either starts from the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

RULES = {  # optimizer -> the rule that it follows
    "Grams": "grams",
    "Adams": "adams",
    "AdamMini": "adam_mini",
    "Lion": "lion",
    "CautiousAdamW": "cautious",
    "CautiousLion": "cautious_lion",
}
WITH_EPS = ("Grams", "AdamMini", "CautiousAdamW")
SHAPES = [(), (1,), (7,), (64,), (5, 1), (1, 6), (8, 8), (12, 8), (16, 8), (33, 5), (3, 4, 5), (2, 1, 6), (2, 3, 4, 5)]
SHAPES += [(8, 4, 3, 3)]
LAYOUTS = ("contiguous", "contiguous", "transposed", "sliced", "channels_last")
BETAS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.99999)
DECAYS = (0.0, 0.0, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Part:
    """One parameter of a configuration."""

    shape: tuple[int, ...]
    layout: str = "contiguous"
    grad_layout: str = "contiguous"
    zero: bool = False  # starts at zero
    spectral: bool = True  # Adams' attribute `use_spectral_decay`
    blocks: Any = "tensor"  # Adam-mini's, as `reference.adam_mini` writes them
    late: int = 0  # steps before its first gradient


@dataclass(frozen=True)
class Case:
    """One configuration. `options` are the optimizer's arguments, lr and betas among them."""

    number: int
    optimizer: str
    dtype: str
    parts: tuple[Part, ...]
    options: Mapping[str, Any]
    steps: int
    compile: bool | None = False
    tensor_lr: str = ""  # the dtype of lr as a tensor; "" for a float
    schedule: bool = False  # lr changes from step to step
    scale: float = 1.0  # of the gradients
    missing: float = 0.0  # share of the gradients that are None
    sparse: float = 0.0  # share of the gradients' entries that are exactly 0

    def lr(self, step: int) -> float:
        """The lr of a step, as the optimizer's dtype of lr has it."""
        lr = self.options["lr"] * (1 + 0.5 * math.sin(step) if self.schedule else 1)
        return float(np.float32(lr)) if self.tensor_lr == "float32" else lr


def sample(number: int, seed: int = 0) -> Case:
    """The configuration of this number: the six optimizers in turn, float64 and float32 in turn, one in twenty compiled."""
    rng = np.random.default_rng((seed, number))

    def pick(values: Sequence[Any]) -> Any:
        return values[int(rng.integers(len(values)))]

    optimizer = list(RULES)[number % 6]
    dtype = ("float64", "float32")[number // 6 % 2]
    compiled = (
        dtype == "float32" and number // 12 % 10 == 0
    )  # of one dtype and few forms: each takes seconds to compile
    shapes = [s for s in SHAPES if len(s) < 3] if compiled else SHAPES
    parts = []
    for _ in range(int(rng.integers(1, 5))):
        shape = pick(shapes)
        layouts = [x for x in LAYOUTS if len(shape) >= {"transposed": 2, "sliced": 1, "channels_last": 4}.get(x, 0)]
        blocks = pick([b for b in _blocks(shape) if not compiled or b in ("tensor", "rows")])
        late = int(rng.integers(1, 8)) if rng.random() < 0.2 else 0
        zero, spectral = bool(rng.random() < 0.15), bool(rng.random() < 0.8)
        parts.append(Part(shape, pick(layouts), pick(layouts), zero, spectral, blocks, late))
    betas = (pick(BETAS[:5]), pick(BETAS)) if rng.random() < 0.7 else tuple(float(b) for b in rng.random(2))
    options: dict[str, Any] = {"lr": 10 ** rng.uniform(-4, -1), "betas": betas, "weight_decay": pick(DECAYS)}
    options["maximize"] = bool(rng.random() < 0.2) and not compiled
    eps, rescale, vectors = 10 ** rng.uniform(-12, -2), pick(["count", "mean", "none"]), pick(DECAYS)
    if optimizer in WITH_EPS:
        options["eps"] = eps
    if optimizer.startswith("Cautious"):
        options["rescale"] = rescale
    if optimizer == "Adams":
        options |= {"scalar_vector_weight_decay": vectors, "flatten_kernels": bool(rng.random() < 0.3)}
    return Case(
        number,
        optimizer,
        dtype,
        tuple(parts),
        options,
        steps=int(rng.integers(1, 21)),
        compile=None if compiled else False,
        tensor_lr=pick(["", "", "float32", "float64"]),
        schedule=bool(rng.random() < 0.3),
        scale=10 ** rng.uniform(-6, 3),
        missing=pick([0.0, 0.0, 0.3]),
        sparse=pick([0.0, 0.0, 0.3]),
    )


def _blocks(shape: tuple[int, ...]) -> list[Any]:
    """The cuts that a tensor of this shape can have, as `reference.adam_mini` writes them."""
    if not shape:
        return ["tensor"]
    cuts: list[Any] = ["tensor", "rows", *(("heads", n) for n in (2, 4) if shape[0] % n == 0)]
    if len(shape) > 1:
        cuts += ["columns", *([("column_heads", shape[-1], n)] for n in (2, 4) if shape[-1] % n == 0)]
    if len(shape) == 2 and shape[0] % 4 == 0:  # [q|k|v]: heads of query and key, rows of the value
        q = shape[0] // 2
        cuts.append([("heads", q, 2), ("heads", q // 2, 1), ("rows", q // 2, q // 2)])
    return cuts


def start(case: Case) -> list[np.ndarray]:
    """The parameters before the first step."""
    rng = np.random.default_rng((1, case.number))
    return [rng.standard_normal(p.shape).astype(case.dtype).astype(float) * (not p.zero) for p in case.parts]


def gradients(case: Case, step: int) -> list[np.ndarray | None]:
    """The gradients of a step, counted from 0; None where one is late or missing."""
    rng, out = np.random.default_rng((2, case.number, step)), []
    for part in case.parts:
        g = case.scale * rng.standard_normal(part.shape) * (rng.random(part.shape) >= case.sparse)
        gone = rng.random() < case.missing or step < part.late
        out.append(None if gone else np.asarray(g).astype(case.dtype).astype(float))
    return out


def placed(values: np.ndarray, dtype: str, layout: str) -> Tensor:
    """A tensor with these values whose memory lies as `layout` says."""
    t = torch.tensor(values, dtype=getattr(torch, dtype))
    if layout == "transposed":
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        return t.new_zeros((*t.shape[:-1], 2 * t.shape[-1]))[..., ::2].copy_(t)
    return t.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else t


def eager(case: Case) -> Case:
    """The same configuration, uncompiled."""
    return replace(case, compile=False)
