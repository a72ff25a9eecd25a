"""The released packages on the configurations of `configurations`, and what parts them from their papers' forms.

    reason(case)             why the package cannot run this configuration, or None
    fitted(case)             the configuration as far as the package can run it
    run(case)                its parameters and state after it, by the rule's names
    run(case, exact=True)    the same where the package's step length does not pass through float32
    DEVIATIONS["Grams"]      what to change in the paper's form, one thing after the other, until the package comes out

grams-pytorch 0.0.2, adams-torch 0.0.1, adam-mini 1.1.1. They know no `maximize` and get the negative gradients instead.
Adam-mini tells blocks by the parameters' names: each gets a name that asks for its blocks, and an optimizer of its own,
because a head's size is one number for the whole optimizer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.agreement import STATE, Deviation, Values, learning_rate, parameters, train, values
from experiments.agreement.configurations import Case, Part, placed
from fast.partition.extras import needs

NAMES = {  # optimizer -> the package's state's name -> the rule's
    "Grams": STATE,
    "Adams": STATE,
    "AdamMini": {"m": "m", "v": "v", "vmean": "v"},
}


def name(part: Part) -> str:
    """A name by which the released Adam-mini gives a parameter its blocks, if it has any for them."""
    if part.blocks == "tensor":
        return "norm.weight" if len(part.shape) < 2 else "patch.weight"
    kind = "wq" if part.blocks[0] == "heads" else "mlp"
    return f"{kind}.bias" if len(part.shape) == 1 else f"{kind}.weight"


def entries_of_a_head(part: Part) -> int:
    """What the released Adam-mini takes for a head of this query: dim * dim / n_heads entries, dim the width that it reads."""
    return part.shape[1] ** 2 // part.blocks[1]


def reason(case: Case) -> str | None:
    """Why the released package cannot run the configuration; None where it can."""
    for part in case.parts:
        zeros = np.zeros(part.shape)
        laid_out, grad_laid_out = (
            placed(zeros, case.dtype, x).is_contiguous() for x in (part.layout, part.grad_layout)
        )
        if case.optimizer == "Adams" and not (laid_out and grad_laid_out):
            return "views a parameter or gradient that is not contiguous"
        if case.optimizer == "Adams" and case.options["flatten_kernels"] and len(part.shape) > 3:
            return "takes a kernel as a batch of matrices only"
        if case.optimizer == "AdamMini" and (why := _no_blocks(part, laid_out and grad_laid_out)):
            return why
    return None


def _no_blocks(part: Part, laid_out: bool) -> str | None:
    axes, blocks = len(part.shape), part.blocks
    if blocks == "tensor" or axes == 1:
        return None
    if blocks == "columns" or isinstance(blocks, list):
        return "knows no blocks of columns and no fused projections"
    if axes > 2:
        return "takes rows and heads of matrices only"
    if blocks[0] == "heads" and math.prod(part.shape) % max(1, entries_of_a_head(part)):
        return "counts a head's entries so that they do not divide the tensor"
    return "views a parameter or gradient that is not contiguous" if blocks[0] == "heads" and not laid_out else None


def fitted(case: Case) -> Case:
    """The same configuration with contiguous tensors, kernels as batches of matrices, and blocks that the package has."""
    parts = []
    for part in case.parts:
        part = replace(part, layout="contiguous", grad_layout="contiguous")
        if case.optimizer == "AdamMini" and _no_blocks(part, True):
            part = replace(part, blocks="rows" if len(part.shape) == 2 else "tensor")
        parts.append(part)
    options = {**case.options, **({"flatten_kernels": False} if "flatten_kernels" in case.options else {})}
    return replace(case, parts=tuple(parts), options=options, compile=False)


def run(case: Case, exact: bool = False) -> list[Values]:
    """What the package has after the configuration's steps, a dict for each parameter.

    Adams keeps its count of steps in torch's default dtype, and all compute with lr in the dtype that it comes in: mostly
    float32, and the step's length is then off by up to 6e-8. `exact` sets that dtype to float64 and gives lr as a float.
    """
    params = parameters(case)
    given = {k: v for k, v in case.options.items() if k not in ("maximize", "flatten_kernels")}
    given["lr"] = case.lr(0) if exact else learning_rate(case)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if exact else before)
    try:
        makers = _optimizers(case, params, given)
    finally:
        torch.set_default_dtype(before)
    sign = -1 if case.options["maximize"] else 1
    both = _Together(makers)
    train(case, both, params, sign)
    return [values(p, both.state(p), NAMES[case.optimizer]) for p in params]


class _Together:
    """Several optimizers that are stepped as one."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def state(self, param: Tensor) -> dict[str, Any]:
        """A parameter's state; empty before its first step."""
        (state,) = [dict(o.state[param]) for o in self.optimizers if param in o.state] or [{}]
        return state if float(state.get("step", 0)) else {}


def _optimizers(case: Case, params: Sequence[Tensor], given: dict[str, Any]) -> Sequence[torch.optim.Optimizer]:
    if case.optimizer == "Grams":
        with needs("released", "the released Grams"):
            from grams import Grams

        return [Grams(params, **given)]  # pyright: ignore[reportArgumentType]
    if case.optimizer == "Adams":
        with needs("released", "the released Adams"):
            from adams import Adams_ZeRO

        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that there is one process only
            return [Adams_ZeRO(params, master_dtype=getattr(torch, case.dtype), **given)]
    with needs("released", "the released Adam-mini"):
        from adam_mini import Adam_mini

    sizes = [
        {"dim": part.shape[1], "n_heads": part.blocks[1]} if name(part) == "wq.weight" else {} for part in case.parts
    ]
    return [
        Adam_mini([(name(part), param)], verbose=False, **size, **given)  # pyright: ignore[reportArgumentType]
        for part, param, size in zip(case.parts, params, sizes, strict=True)
    ]


def _eps_first(numbers: dict[str, Any], w: np.ndarray, t: int, part: Part) -> np.ndarray:
    numbers["eps"] /= math.sqrt(1 - numbers["beta2"] ** t)
    return w


def _decay_first(numbers: dict[str, Any], w: np.ndarray, t: int, part: Part) -> np.ndarray:
    decay = numbers["lr"] * numbers["weight_decay"]
    numbers["weight_decay"] = 0.0
    return w - decay * w


def _both_decays_off(numbers: dict[str, Any], w: np.ndarray, t: int, part: Part) -> np.ndarray:
    if numbers["weight_decay"] == 0:
        numbers |= {"scalar_vector_weight_decay": 0.0, "use_spectral_decay": False}
    return w


def _correction_outside(numbers: dict[str, Any], w: np.ndarray, t: int, part: Part) -> np.ndarray:
    # the rule's as_released turns off the decays too, where weight_decay is 0: that is the deviation above, kept apart here
    # by a decay that is too small to change anything
    numbers |= {"as_released": True, "weight_decay": numbers["weight_decay"] or 5e-324}
    return w


def _no_reseeding(numbers: dict[str, Any], w: np.ndarray, t: int, part: Part) -> np.ndarray:
    numbers["reseed"] = False
    return w


def _exempt_by_name(numbers: dict[str, Any], w: np.ndarray, t: int, part: Part) -> np.ndarray:
    if any(word in name(part) for word in ("ln", "norm", "bias")):
        numbers["weight_decay"] = 0.0
    return w


def _biases_by_entry(numbers: dict[str, Any], w: np.ndarray, t: int, part: Part) -> np.ndarray:
    if "bias" in name(part):
        numbers["blocks"] = "rows"  # of a vector: each entry, which is Adam
    return w


def _other_heads(numbers: dict[str, Any], w: np.ndarray, t: int, part: Part) -> np.ndarray:
    if name(part) == "wq.weight":
        numbers["blocks"] = ("heads", math.prod(part.shape) // entries_of_a_head(part))
    return w


DEVIATIONS = {
    "Grams": [
        Deviation("eps before the bias correction", _eps_first),
        Deviation("decay before the update", _decay_first),
    ],
    "Adams": [
        Deviation("weight_decay = 0 turns off both decays", _both_decays_off),
        Deviation("bias correction of m outside atan2", _correction_outside),
        Deviation("a zero matrix stays undecayed", _no_reseeding),
    ],
    "AdamMini": [
        Deviation("no decay where the name has ln, norm, bias", _exempt_by_name),
        Deviation("a full Adam for each bias", _biases_by_entry),
        Deviation("a head has dim * dim / n_heads entries", _other_heads),
    ],
}
