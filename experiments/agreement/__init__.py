"""A configuration of `experiments.agreement.configurations`, run by `fast` and by any rule of the shelf that the caller hands over.

    found = run(case)                           `fast`'s parameters and state after it
    right = expected(case, rule)                the same by a rule with init and step, on float64 arrays
    errors(found, right)                        {"param": 2e-16, "m": ..., "v": ...}

The rule comes as an argument (`reference.grams` for "Grams") because experiments never import `reference`. A `Deviation`
changes what the rule is given before a step: `experiments.agreement.released` has those that turn a paper's form into what its
released package computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fast
from experiments.agreement.configurations import Case, Part, gradients, placed, start

STATE = {"exp_avg": "m", "exp_avg_sq": "v", "u": "u", "sigma": "sigma"}  # our state's name -> the rule's

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Deviation:
    """`change(numbers, w, t, part)` edits the rule's arguments in place and returns the w that step t starts from."""

    name: str
    change: Callable[[dict[str, Any], np.ndarray, int, Part], np.ndarray]


def rounding(seed: int) -> Deviation:
    """Each weight off by at most half a unit of float32's last place before each step, at random: where a rule magnifies
    roundings, how far one of them carries it is a matter of luck, and only several of them say how far it can be."""
    draw = np.random.default_rng(seed)
    return Deviation("rounding", lambda numbers, w, t, part: w * (1 + 2**-24 * draw.uniform(-1, 1, w.shape)))


def train(case: Case, optimizer: Any, params: Sequence[Tensor], sign: int = 1) -> None:
    """The configuration's steps; `sign=-1` for an optimizer that knows no `maximize`."""
    for step in range(case.steps):
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(case.lr(step))
            else:
                group["lr"] = case.lr(step)
        for param, part, g in zip(params, case.parts, gradients(case, step), strict=True):
            param.grad = None if g is None else placed(sign * g, case.dtype, part.grad_layout)
        optimizer.step()


def learning_rate(case: Case) -> float | Tensor:
    return torch.tensor(case.lr(0), dtype=getattr(torch, case.tensor_lr)) if case.tensor_lr else case.lr(0)


def parameters(case: Case) -> list[Tensor]:
    params = [placed(w, case.dtype, p.layout) for w, p in zip(start(case), case.parts, strict=True)]
    for param, part in zip(params, case.parts, strict=True):
        param.requires_grad_()
        vars(param)["use_spectral_decay"] = part.spectral
    return params


def run(case: Case, **options: Any) -> list[Values]:
    """What `fast` has after the configuration's steps, a dict for each parameter; `options` beside the configuration's."""
    params = parameters(case)
    given: Any = params
    options = {**case.options, "lr": learning_rate(case), "compile": case.compile, **options}
    if case.optimizer == "AdamMini":
        given = [(f"p{i}", param) for i, param in enumerate(params)]
        rules = {f"p{i}": _rule(part) for i, part in enumerate(case.parts)}
        options["partition"] = rules
    optimizer = getattr(fast, case.optimizer)(given, **options)
    train(case, optimizer, params)
    return [values(p, optimizer.state.get(p, {})) for p in params]


def _rule(part: Part) -> Any:
    """The part's blocks as `fast.partition` takes them."""
    blocks, last = part.blocks, len(part.shape) - 1
    if blocks == "columns":
        return fast.Blocks.along(part.shape, last, "columns")
    if isinstance(blocks, list):
        runs = tuple((count, size // count) for _, size, count in blocks)
        return fast.Blocks(part.shape, "fused", last if blocks[0][0] == "column_heads" else 0, runs)
    return blocks


def values(param: Tensor, state: Mapping[str, Any], names: Mapping[str, str] = STATE) -> Values:
    """Float64 copies of a parameter and its state, by the rule's names."""
    found = {theirs: state[ours] for ours, theirs in names.items() if state.get(ours) is not None}
    return {k: t.detach().double().numpy().copy() for k, t in {"param": param, **found}.items()}


def expected(case: Case, rule: Any, deviations: Sequence[Deviation] = ()) -> list[tuple[Values, dict[str, float]]]:
    """What the rule has after the configuration's steps, and the largest entry that each tensor had on the way."""
    out = []
    drawn = [gradients(case, step) for step in range(case.steps)]
    for i, (w, part) in enumerate(zip(start(case), case.parts, strict=True)):
        if case.options.get("flatten_kernels") and w.ndim > 3:
            w = w.reshape(len(w), -1)
        state = rule.init(w)
        now, largest, t = {"param": w}, {"param": float(np.abs(w).max())}, 0
        for step in range(case.steps):
            g, t = drawn[step][i], t + 1
            if g is None:
                t -= 1
                continue
            numbers = _numbers(case, part, step)
            for deviation in deviations:
                w = deviation.change(numbers, w, t, part)
            sign = -1 if case.options["maximize"] else 1
            w, state = rule.step(w, sign * g.reshape(w.shape), state, **numbers)
            now = {"param": w, **{k: np.asarray(v) for k, v in state._asdict().items() if k != "t" and v is not None}}
            for name, value in now.items():
                largest[name] = max(largest.get(name, 0.0), float(np.abs(value).max()))
        if not part.spectral:
            now = {k: v for k, v in now.items() if k not in ("u", "sigma")}
        out.append((now, largest))
    return out


def _numbers(case: Case, part: Part, step: int) -> dict[str, Any]:
    """The rule's keyword arguments."""
    options = {k: v for k, v in case.options.items() if k not in ("lr", "betas", "maximize", "flatten_kernels")}
    beta1, beta2 = case.options["betas"]
    if case.optimizer == "AdamMini":
        options["blocks"] = part.blocks
    if case.optimizer == "Adams":
        options |= {"use_spectral_decay": part.spectral, "reseed": True}
    return {"lr": case.lr(step), "beta1": beta1, "beta2": beta2, **options}


def errors(found: Sequence[Values], right: Sequence[tuple[Values, Mapping[str, float]]]) -> dict[str, float]:
    """For the parameters and each state the largest difference, relative to the largest entry that the tensor had in the run.

    So an average that passes through 0 is held to the size of what was added up in it. Infinite where a state is missing,
    is of another size, or is not finite.
    """
    worst: dict[str, float] = {}
    for have, (want, largest) in zip(found, right, strict=True):
        for name in {*have, *want}:
            a, b = have.get(name), want.get(name)
            if a is None or b is None or a.size != b.size:
                error = math.inf
            else:
                difference = float(np.abs(a.ravel() - b.ravel()).max())
                error = difference / largest[name] if largest[name] else math.inf if difference else 0.0
            worst[name] = max(worst.get(name, 0.0), error if error == error else math.inf)
    return worst


def digits(error: float) -> float:
    """Decimal digits that agree: -log10 of a relative error, between 0 and 17."""
    return min(17.0, max(0.0, -math.log10(error))) if error else 17.0
