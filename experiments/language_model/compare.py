"""Every optimizer of the shelf trained once, at the best of a few learning rates, beside the released packages.

First each optimizer at its rates (RATES); then, at the rate whose held-out loss was least, the released package and this
project's form of the package (`as_released`), where there are two forms. A released package that cannot run here is a
result, with its reason, and does not end the command; an error of this project's own does.

One seed, a small model, a short run: what comes out shows that each of them trains, and whether ours and the released
ones give the same run. It does not rank them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.language_model import report
from experiments.language_model.train import Config
from experiments.trials import optimizers
from experiments.trials.loop import Record

# Around AdamW's best at this length: Grams' steps are 0.42 as long, Lion's are of length lr in each coordinate, where Adam's
# are mostly far below; Adams' are an angle, near pi/4 lr for a steady gradient.
RATES = {
    "adamw": (1.5e-3, 3e-3, 6e-3),
    "grams": (3.5e-3, 7e-3, 1.4e-2),
    "adam_mini": (1.5e-3, 3e-3),
    "adams": (2e-3, 4e-3, 8e-3),
    "lion": (2e-4, 5e-4, 1.2e-3),
    "cautious_adamw": (1.5e-3, 3e-3),
    "cautious_lion": (5e-4, 1.2e-3),
}
# What a comparison takes where the command does not say: half of a sweep's batch and a third of its steps, since there are 23 runs.
DEFAULTS: dict[str, Any] = {
    "steps": 100,
    "warmup": 12,
    "batch": 4,
    "eval_every": 100,
    "eval_windows": 128,
    "checkpoint_every": 0,
}


@dataclass(frozen=True)
class Twin:
    """An optimizer of ours, the released package's, and ours in the package's form, which should give the same run.

    `differs`: what parts the paper's form from the package's.
    """

    ours: str
    released: str
    as_released: str
    differs: str


TWINS = (
    Twin(
        "grams",
        "grams_released",
        "grams_as_released",
        "the package's eps is 1e-6, not 1e-8, and added before the bias correction; it decays before the step",
    ),
    Twin(
        "adams",
        "adams_released",
        "adams_as_released",
        "the package divides by 1 - beta1^t outside the arctangent, so that its first steps are longer: 0.997 lr, not pi/4 lr",
    ),
    Twin("adam_mini", "adam_mini_released", "adam_mini", "nothing on this model, with equal betas"),
)


@dataclass
class Found:
    """`logs`: complete runs. `failures`: a released package's name to why it did not run here."""

    logs: list[list[Record]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


Train = Callable[[Config, str], list[Record]]


def check(names: Sequence[str]) -> None:
    """ValueError: a name that is not one of those compared; the released ones come with ours."""
    for name in names:
        if name not in RATES:
            raise ValueError(
                f"--optimizers {name!r}: expected some of {', '.join(RATES)}; the released packages come with them"
            )
        optimizers.find(name)


def train_each(names: Sequence[str], shared: dict[str, Any], train: Train, lrs: Sequence[float] | None = None) -> Found:
    """Trains what the head says. `train(config, place)` does one run; `shared`: the fields of `Config` but optimizer and lr."""
    check(names)
    found = Found()
    chosen = [Config(**{**shared, "optimizer": name, "lr": lr}) for name in names for lr in lrs or RATES[name]]
    beside = [(t, other) for t in TWINS if t.ours in names for other in dict.fromkeys((t.as_released, t.released))]
    beside = [(t, other) for t, other in beside if other != t.ours]
    total = len(chosen) + len(beside)
    for number, config in enumerate(chosen, 1):
        found.logs.append(train(config, f"{number}/{total}"))
    rates = best_rates(found.logs)
    for number, (twin, other) in enumerate(beside, len(chosen) + 1):
        if twin.ours not in rates:
            found.failures[other] = f"not run: {twin.ours} diverged at every rate tried, so there is none to run it at"
            continue
        config = Config(**{**shared, "optimizer": other, "lr": rates[twin.ours]})
        if other != twin.released:
            found.logs.append(train(config, f"{number}/{total}"))
            continue
        try:
            found.logs.append(train(config, f"{number}/{total}"))
        except OSError:  # a full disk is not the package's
            raise
        except Exception as error:  # whatever a package that is not ours raises is what there is to report of it
            found.failures[other] = f"{type(error).__name__}: {error}"
    return found


def best_rates(logs: Sequence[Sequence[Record]]) -> dict[str, float]:
    """Each optimizer's rate with the least held-out loss; one that diverged at all of them is left out."""
    return {name: best["lr"] for name, best in report.best([report.run_of(log) for log in logs]).items()}


def apart(one: Sequence[Record], two: Sequence[Record]) -> list[float]:
    """|loss - loss| of two runs at each step, in nats; as long as the shorter run."""
    losses = ([r["loss"] for r in log if r["event"] == "step"] for log in (one, two))
    return [abs(a - b) for a, b in zip(*losses, strict=False)]


EARLY = 10  # steps in which two runs of the same arithmetic have not parted yet
AGREE = 1e-3  # nats: see `twins`


def twins(found: Found) -> list[dict[str, Any]]:
    """How far ours and the released package's runs are apart, for each pair that ran.

    The two do the same arithmetic in another order, so their first weights differ in the last bit of float32; training
    multiplies that from step to step (Grams more, since a coordinate whose gradient is near 0 changes its sign), so only
    the first EARLY steps can be held to a bound. `agrees`: they are within AGREE there.
    """
    by_name: dict[tuple[str, float], list[Record]] = {(log[0]["optimizer"], log[0]["lr"]): log for log in found.logs}
    rates, pairs = best_rates(found.logs), []
    for twin in TWINS:
        lr = rates.get(twin.ours, math.nan)
        released = by_name.get((twin.released, lr))
        if released is None:
            continue
        for name in dict.fromkeys((twin.as_released, twin.ours)):
            ours = by_name[name, lr]
            gaps = apart(ours, released)
            ends = [log[-1].get("perplexity") for log in (ours, released)]
            same = name == twin.as_released
            pairs.append(
                {
                    "ours": name,
                    "released": twin.released,
                    "lr": lr,
                    "same_arithmetic": same,
                    "differs": "the order of the operations" if same else twin.differs,
                    "largest_early": max(gaps[:EARLY]),
                    "largest": max(gaps),
                    "perplexities": ends,
                    "agrees": max(gaps[:EARLY]) <= AGREE if same else None,
                    "apart": gaps,
                }
            )
    return pairs
