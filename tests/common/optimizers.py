"""The one table of optimizers that every contract test walks: a new optimizer adds a row and inherits all of them.

A row names the optimizer, the reference rule that it must follow, which of its state is which of the reference's, and
the tolerances. `twin.Twin` runs that rule beside the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import fast
from reference import adam_mini, adams, cautious, cautious_lion, cautious_weight_decay, grams, lion


@dataclass(frozen=True)
class Row:
    """One optimizer and what it is held to.

    Errors are relative to the largest entry of the tensor that is compared: a moment that passes through 0 has lost its
    leading digits in any order of summation, so an error relative to each entry would measure the cancellation.
    """

    name: str
    make: Callable[..., Optimizer]  # make(params, **hyper-parameters)
    rule: ModuleType  # of `reference`: init and step
    state: Mapping[str, str]  # our state's name -> the reference's
    cases: Sequence[Mapping[str, Any]]  # hyper-parameters for the agreement
    hyper: Mapping[str, str] = field(
        default_factory=dict
    )  # our group's key -> the reference's argument, beside the common
    bad: Sequence[
        tuple[Mapping[str, Any], str]
    ] = ()  # hyper-parameters of its own to refuse, and a word of the message
    fp64: float = 1e-12  # 200 steps of a few roundings of 1.1e-16 each
    fp32: float = 2e-6  # the same with 6e-8: a parameter near 1 is rounded 200 times or more, at random
    param32: float | None = None  # that of parameters alone, if another
    like_adamw: bool = True  # its state has AdamW's names and shapes
    master: bool = False  # half-precision parameters have an fp32 copy in the state, from which they are rounded
    memory: float = 0.01  # extra bytes of a compiled step, as a share of the parameters'
    extra: Callable[[Tensor], dict[str, Any]] = lambda param: {}  # further arguments of the reference, for a parameter

    def __str__(self) -> str:
        return self.name


BAD_EPS: list[tuple[dict[str, Any], str]] = [({"eps": eps}, "eps") for eps in (-1e-8, math.nan, math.inf, "0")]
BAD_RESCALE: list[tuple[dict[str, Any], str]] = [({"rescale": rule}, "rescale") for rule in ("sum", None, 1, ["count"])]
ADAM_LIKE_BETAS = ((0.9, 0.999), (0.0, 0.5), (0.9, 0.0), (0.0, 0.999), (0.9, 0.99999))
ADAM_LIKE_CASES: list[dict[str, Any]] = [
    {"lr": 1e-2},
    {"lr": torch.tensor(1e-2, dtype=torch.float64), "weight_decay": 0.1},
    {"lr": 1e-2, "weight_decay": 0.1, "maximize": True, "eps": 1e-3},
    *({"lr": 3e-3, "betas": betas, "weight_decay": 0.5, "eps": 1e-6} for betas in ADAM_LIKE_BETAS[1:]),
]

OPTIMIZERS = [
    Row(
        name="Grams",
        make=fast.Grams,
        rule=grams,
        state={"exp_avg": "m", "exp_avg_sq": "v"},
        cases=ADAM_LIKE_CASES,
        hyper={"eps": "eps"},
        bad=BAD_EPS,
    ),
    Row(
        name="Lion",
        make=fast.Lion,
        rule=lion,
        state={"exp_avg": "m"},
        cases=[
            {"lr": 1e-2},
            {"lr": torch.tensor(1e-2, dtype=torch.float64), "weight_decay": 0.1, "betas": (0.95, 0.98)},
            {"lr": 1e-2, "weight_decay": 0.1, "maximize": True},
            *({"lr": 3e-3, "betas": betas, "weight_decay": 0.5} for betas in ((0.0, 0.5), (0.9, 0.0), (0.9, 0.999))),
        ],
        like_adamw=False,
    ),
    Row(
        name="CautiousAdamW",
        make=fast.CautiousAdamW,
        rule=cautious,
        state={"exp_avg": "m", "exp_avg_sq": "v"},
        cases=[
            {"lr": 1e-2},
            {"lr": torch.tensor(1e-2, dtype=torch.float64), "weight_decay": 0.1, "rescale": "mean"},
            {"lr": 1e-2, "weight_decay": 0.1, "maximize": True, "eps": 1e-3, "betas": (0.0, 0.5)},
            {"lr": 3e-3, "betas": (0.9, 0.99999), "weight_decay": 0.5, "eps": 1e-6, "rescale": "none"},
        ],
        hyper={"eps": "eps", "rescale": "rescale"},
        bad=[*BAD_EPS, *BAD_RESCALE],
    ),
    Row(
        name="CautiousWeightDecay",
        make=fast.CautiousWeightDecay,
        rule=cautious_weight_decay,
        state={"exp_avg": "m", "exp_avg_sq": "v"},
        cases=ADAM_LIKE_CASES,
        hyper={"eps": "eps"},
        bad=BAD_EPS,
    ),
    Row(
        name="CautiousLion",
        make=fast.CautiousLion,
        rule=cautious_lion,
        state={"exp_avg": "m"},
        cases=[
            {"lr": 1e-2},
            {
                "lr": torch.tensor(1e-2, dtype=torch.float64),
                "weight_decay": 0.1,
                "betas": (0.95, 0.98),
                "rescale": "mean",
            },
            {"lr": 3e-3, "betas": (0.0, 0.5), "weight_decay": 0.5, "maximize": True, "rescale": "none"},
        ],
        hyper={"rescale": "rescale"},
        bad=BAD_RESCALE,
        like_adamw=False,
    ),
    Row(
        name="Adams",
        make=fast.Adams,
        rule=adams,
        state={"exp_avg": "m", "exp_avg_sq": "v", "u": "u", "sigma": "sigma"},
        cases=[
            {"lr": 1e-2},
            {"lr": torch.tensor(1e-2, dtype=torch.float64), "weight_decay": 0.5, "scalar_vector_weight_decay": 0.0},
            {"lr": 1e-2, "weight_decay": 0.0, "scalar_vector_weight_decay": 0.5, "maximize": True},
            *({"lr": 3e-3, "betas": betas, "weight_decay": 0.3} for betas in ADAM_LIKE_BETAS[1:3]),
        ],
        hyper={"scalar_vector_weight_decay": "scalar_vector_weight_decay"},
        bad=[
            ({"scalar_vector_weight_decay": -0.1}, "scalar_vector_weight_decay"),
            ({"as_released": 1}, "as_released"),
            ({"flatten_kernels": "yes"}, "flatten_kernels"),
            ({"use_spectral_decay": 0}, "use_spectral_decay"),
        ],
        # A power iteration amplifies rounding by the inverse of the gap between singular values, and the decay, which shaves
        # off the largest, closes that gap: u is off by 4e-4 after 200 steps of these small matrices, the parameters by 3e-5.
        # The formulas themselves are held by float64; the averages are as exact as the others'.
        fp32=1e-3,
        param32=1e-4,
        like_adamw=False,
        master=True,
        extra=lambda param: {"reseed": True, "use_spectral_decay": not param.is_complex()},
    ),
    Row(
        name="AdamMini",
        make=fast.AdamMini,
        rule=adam_mini,
        state={"exp_avg": "m", "exp_avg_sq": "v"},
        cases=ADAM_LIKE_CASES,
        hyper={"eps": "eps"},
        bad=BAD_EPS,
        like_adamw=False,
        extra=lambda param: {"blocks": "tensor"},
    ),
]
IDS = [row.name for row in OPTIMIZERS]
