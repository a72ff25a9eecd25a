"""What every contestant and every rule is put through: seeded gradients of tensors of several shapes, in some conditions.

    trial = TRIALS["decay"]                  its name, its numbers (lr, betas, eps, weight_decay), its steps
    trial.gradients(step)                    a float64 array for each tensor, or None where the gradient is missing
    path = follow(rule, trial)               the parameters after each step, by a rule of `experiments.audit.rules`
    digits(path, other)                      of agreement at the worst step, over the distance travelled until then

Weights and gradients are numbers that float32 holds, so that a run in float32 starts from the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from experiments.audit.rules import Rule

STEPS = 200
ENOUGH = 12.0  # digits that make two runs the same in float64
SLACK = 2.0  # digits by which a run in float32 may be worse than the rule's own run in float32
MOST = 16.0
Path = list[list[np.ndarray]]  # a list of the tensors for each step


@dataclass(frozen=True)
class Part:
    """One tensor of a trial. `name` is one by which packages that go by names give it `blocks`."""

    name: str
    shape: tuple[int, ...]
    blocks: Any = "tensor"
    scale: float = 1.0  # of its gradients


PARTS = (
    Part("layers.0.mlp.up_proj.weight", (6, 5), "rows"),
    Part("layers.0.self_attn.q_proj.weight", (8, 8), ("heads", 2), 0.1),
    Part("layers.0.mlp.down_proj.weight", (3, 7), "rows", 30.0),
    Part("layers.0.input_norm.weight", (6,), "tensor", 0.01),
)
# Adam-mini knows heads and rows of matrices; the others get a scalar and a stack of matrices besides.
OTHERS = (Part("scalar", ()), Part("kernel", (2, 3, 4), "tensor", 0.3))


@dataclass(frozen=True)
class Trial:
    """One condition under which a contestant is run beside its rule."""

    name: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    scale: float = 1.0
    zero: bool = False  # entries, whole tensors and whole steps of zeros
    missing: bool = False  # gradients that are None
    seed: int = 0

    def parts(self, rule: str) -> tuple[Part, ...]:
        return PARTS if rule == "adam_mini" else PARTS + OTHERS

    @property
    def all_numbers(self) -> dict[str, Any]:
        return {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, **self.numbers}

    @cached_property
    def start(self) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, 1))
        return [
            np.asarray(rng.standard_normal(part.shape).astype(np.float32).astype(np.float64)) for part in PARTS + OTHERS
        ]

    @cached_property
    def gradients(self) -> list[list[np.ndarray | None]]:
        """For each step and tensor: noise about a drift, so that momentum and gradient agree in some entries only."""
        rng = np.random.default_rng((self.seed, 2))
        drift = [rng.standard_normal(part.shape) for part in PARTS + OTHERS]
        return [[self._one(rng, step, i, drift[i]) for i in range(len(drift))] for step in range(self.steps)]

    def _one(self, rng: np.random.Generator, step: int, i: int, drift: np.ndarray) -> np.ndarray | None:
        part = (PARTS + OTHERS)[i]
        g = self.scale * part.scale * (rng.standard_normal(part.shape) + 0.3 * drift)
        present = rng.random(part.shape) < 0.5
        if self.zero:
            g = g * present * (step % 7 != 3) * (i != 3)  # the norm's gradient is zero throughout
        if self.missing and step > 0 and (step + i) % 3 == 0:
            return None
        return np.asarray(g.astype(np.float32).astype(np.float64))


TRIALS = {
    trial.name: trial
    for trial in (
        Trial("plain"),
        Trial("first step", steps=1, seed=1),
        Trial("decay", {"weight_decay": 0.3}, seed=2),
        Trial("odd betas", {"beta1": 0.6, "beta2": 0.83, "lr": 0.003}, seed=3),
        Trial("large eps", {"eps": 0.03}, scale=0.1, seed=4),
        Trial("zero gradient", {"weight_decay": 0.1}, zero=True, seed=5),
        Trial("missing gradient", {"weight_decay": 0.1}, missing=True, seed=6),
    )
}


def steps(rule: Rule, trial: Trial, dtype: Any = np.float64) -> Iterator[list[np.ndarray]]:
    """The parameters after each step of the rule, in turn."""
    arguments, parts = rule.arguments, trial.parts(rule.name)
    given = {k: v for k, v in trial.all_numbers.items() if k in arguments}
    now = [w.astype(dtype) for w in trial.start[: len(parts)]]
    states = [rule.init(w) for w in now]
    blocks = "blocks" in arguments
    own = [rule.given({**given, **({"blocks": part.blocks} if blocks else {})}, part.name) for part in parts]
    for drawn in trial.gradients:
        for i in range(len(parts)):
            g = drawn[i]
            if g is None:
                states[i] = rule.skip(states[i])
                continue
            w, states[i] = rule.step(now[i], g.astype(dtype), states[i], **own[i])
            now[i] = np.asarray(w, dtype=dtype)
        yield list(now)


def follow(rule: Rule, trial: Trial, dtype: Any = np.float64) -> Path:
    """All its steps; kept for the next contestant of the same rule."""
    key = rule.name, rule.edits, trial.name, trial.seed, trial.steps, dtype
    if key not in _FOLLOWED:
        with np.errstate(all="ignore"):
            _FOLLOWED[key] = list(steps(rule, trial, dtype))
    return _FOLLOWED[key]


_FOLLOWED: dict[Any, Path] = {}


def agreement(path: Path, rule: Rule, trial: Trial, enough: float = 0.0) -> float:
    """Digits to which the rule makes this path; it stops, with what it has, at the first step with fewer than `enough`."""
    found = MOST
    travelled = [0.0] * len(path[0])
    with np.errstate(all="ignore"):
        try:
            for have, want in zip(path, steps(rule, trial), strict=True):
                found = min(found, _digits(have, want, trial.start, travelled))
                if found < enough:
                    break
        except (
            ArithmeticError,
            ValueError,
            TypeError,
            AttributeError,
            IndexError,
            NameError,
        ):  # of an edit that is no rule
            return 0.0
    return found


def digits(path: Path, right: Path, trial: Trial) -> float:
    """Digits of agreement at the worst step: -log10 of the largest difference over the way of the tensor until then."""
    travelled = [0.0] * len(right[0])
    return min(_digits(have, want, trial.start, travelled) for have, want in zip(path, right, strict=True))


def _digits(
    have: Sequence[np.ndarray], want: Sequence[np.ndarray], start: Sequence[np.ndarray], travelled: list[float]
) -> float:
    worst = 0.0
    for i, (a, b) in enumerate(zip(have, want, strict=True)):
        if a.shape != b.shape:
            return 0.0
        a, b = a.astype(np.float64), b.astype(np.float64)
        travelled[i] = max(travelled[i], float(np.abs(b - start[i]).max()))
        difference = float(np.abs(a - b).max())
        error = difference / travelled[i] if travelled[i] else (math.inf if difference else 0.0)
        worst = max(worst, error if error == error else math.inf)
    return min(MOST, max(0.0, -math.log10(worst))) if worst else MOST
