"""Five faults as pictures: the same run in the plane by the rule and by the class that bears its name.

    found = run(FAULTS[0])      {"title": ..., "rule": [[x, y], ...], "port": [[x, y], ...], "mended": ...}

The loss is (x^2 + 10 y^2) / 2, both start from the same point with the same numbers. `edits` are those by which the audit
explains the class; the path that they make is kept too, so that the picture's own explanation can be seen to be right.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.audit.adapters import Contestant, build
from experiments.audit.rules import COUNT, DOCUMENTED, EPS, FIRST, LAST, MEAN, Edit, load

CURVATURE = np.array([1.0, 10.0])
PLAIN = {"lr": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}


@dataclass(frozen=True)
class Fault:
    """`late`: the second coordinate, a parameter of its own, has no gradient before this step."""

    title: str
    contestant: Contestant
    edits: tuple[str, ...]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    start: tuple[float, float] = (1.6, 1.0)
    steps: int = 60
    late: int = 0
    scale: float = 1.0  # of the loss


NO_EPS = {"eps": None}
FAULTS = [
    Fault(
        "eps before the bias correction: where gradients are small, hardly a step",
        Contestant("grams-pytorch", "grams:Grams", "grams"),
        (EPS, FIRST),
        {"eps": 1e-3},
        scale=1e-3,
    ),
    Fault(
        "one count of steps: a late first gradient makes half a step",
        Contestant("pytorch-optimizer", "pytorch_optimizer:Grams", "grams", {"foreach": False}),
        (FIRST, COUNT),
        late=20,
    ),
    Fault(
        "rescaling over the mean: twice the step where one of two entries agrees",
        Contestant("timm", "timm.optim:Lion", "cautious_lion", {"caution": True}, names=NO_EPS),
        (MEAN, FIRST),
        {"beta2": 0.99},
    ),
    Fault(
        "decay before the update, eps before the bias correction",
        Contestant("zij", "zij:Grams", "grams"),
        (EPS, FIRST),
        {"weight_decay": 2.0, "eps": 1e-2},
        scale=0.1,
    ),
    Fault(
        "eps before the bias correction, decay after the update",
        Contestant("galore-torch", "galore_torch:GaLoreAdamW", "adamw", {"no_deprecation_warning": True}),
        (EPS, LAST),
        {"eps": 1e-3, "weight_decay": 1.0},
        scale=1e-3,
    ),
]


def edits_of(fault: Fault) -> list[Edit]:
    known = {edit.what: edit for edit in DOCUMENTED[fault.contestant.rule]}
    return [known[what] for what in fault.edits]


def by_rule(fault: Fault, edits: list[Edit]) -> list[list[float]]:
    """The path by the rule with these edits: one tensor of two entries, or two of one where one comes late."""
    rule = load(fault.contestant.rule, edits)
    given = {k: v for k, v in {**PLAIN, **fault.numbers}.items() if k in rule.arguments}
    w = np.array(fault.start)
    pieces = [slice(0, 1), slice(1, 2)] if fault.late else [slice(0, 2)]
    states, path = [rule.init(w[piece]) for piece in pieces], [w.tolist()]
    for step in range(fault.steps):
        g = fault.scale * CURVATURE * w
        w = w.copy()
        for i, piece in enumerate(pieces):
            if i == 1 and step < fault.late:
                states[i] = rule.skip(states[i])
            else:
                w[piece], states[i] = rule.step(w[piece], g[piece], states[i], **rule.given(given, "w"))
        path.append(w.tolist())
    return path


def by_class(fault: Fault) -> list[list[float]]:
    """The same by the class."""
    import torch

    w = torch.tensor(fault.start, dtype=torch.float64)
    params = [torch.nn.Parameter(x) for x in (w.split(1) if fault.late else [w])]
    path = [list(fault.start)]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        optimizer = build(fault.contestant, params, ["x", "y"], {**PLAIN, **fault.numbers})
        for step in range(fault.steps):
            now = torch.cat([p.detach() for p in params])
            g = fault.scale * torch.tensor(CURVATURE) * now
            for i, (param, part) in enumerate(zip(params, g.split(1) if fault.late else [g], strict=True)):
                param.grad = None if i == 1 and step < fault.late else part.clone()
            optimizer.step()
            path.append(torch.cat([p.detach() for p in params]).tolist())
    return path


def run(fault: Fault) -> dict[str, Any]:
    """The paths by the rule, by the class, and by the rule with the edits that explain the class."""
    edits = edits_of(fault)
    return {
        "title": fault.title,
        "library": fault.contestant.library,
        "class": fault.contestant.label,
        "rule": fault.contestant.rule,
        "lines": [str(edit) for edit in edits],
        "by the rule": by_rule(fault, []),
        "by the class": by_class(fault),
        "explained": by_rule(fault, edits),
    }
