"""What the runs say, from a trial's JSON and the protocol alone: paired differences, intervals, Holm, what could be seen.

    table = differences(result, protocol, "main", "language", "tuned")    one Difference for each optimizer but the baseline
    winner = verdict(table["grams"])                                      "better", "worse" or "not told apart"

All by test_loss, where lower is better. A run that diverged counts with the task's chance level (experiments/protocol.toml).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.trials.protocol import Protocol
from fast.partition.extras import needs

with needs("theory", __name__):
    from scipy import stats

RESULTS = Path(__file__).resolve().parents[2] / "figures" / "data" / "trials"
Result = Mapping[str, Any]


class Difference(NamedTuple):
    """Optimizer less baseline, over `n` common seeds. low, high: the interval of 95 %. smallest: what would have been seen.

    p: of the two-sided paired t-test, by Holm's correction. diverged: how many runs of the optimizer, of the baseline. base:
    the baseline's mean.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    smallest: float
    diverged: tuple[int, int]
    base: float


class Counts(NamedTuple):
    """`bad`: runs that diverged or spiked. `spikes`: of all runs together."""

    runs: int
    diverged: int
    bad: int
    spikes: int


def load(trial: str, folder: Path = RESULTS) -> Result:
    """A trial's results. FileNotFoundError, with what to run, where there are none."""
    path = folder / f"{trial}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no results of the trial {trial!r} in {folder}: python -m experiments.trials run --only {trial}"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def measured(run: Mapping[str, Any], chance: float, key: str = "test_loss") -> float:
    """The run's number; where it diverged, chance for the loss (`run.end_loss`), and nothing right for an accuracy."""
    loss = run.get("test_loss", math.inf)
    diverged = "diverged_at" in run or not loss <= chance
    return (chance if key == "test_loss" else 0.0) if diverged else run[key]


def paired(
    runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], chance: float, key: str = "test_loss"
) -> np.ndarray:
    """Differences by seed, in the order of the seeds. ValueError where the two have no seed in common."""
    ours, theirs = ({r["seed"]: measured(r, chance, key) for r in x} for x in (runs, base))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        raise ValueError("these runs have no seed in common: nothing can be paired")
    return np.array([ours[s] - theirs[s] for s in seeds])


def interval(values: Sequence[float] | np.ndarray, level: float = 0.05) -> tuple[float, float]:
    """The t-interval of the mean; of one value, everything."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return -math.inf, math.inf
    half = float(stats.t.ppf(1 - level / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return float(x.mean()) - half, float(x.mean()) + half


def p_value(values: np.ndarray) -> float:
    """Two-sided, of the mean being 0; 1 where nothing differs, or where there is one value."""
    if len(values) < 2 or not np.any(values):
        return 1.0
    spread = values.std(ddof=1)
    if spread == 0:
        return 0.0
    return float(2 * stats.t.sf(abs(values.mean()) / spread * math.sqrt(len(values)), len(values) - 1))


def smallest(values: np.ndarray, level: float, power: float) -> float:
    """The difference that the test at `level` would have found with probability `power`, about, at this spread and number."""
    n = len(values)
    if n < 2:
        return math.inf
    return float((stats.t.ppf(1 - level / 2, n - 1) + stats.t.ppf(power, n - 1)) * values.std(ddof=1) / math.sqrt(n))


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: each at most `level` exactly where his procedure rejects at `level`."""
    found, least = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=lambda n: ps[n])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[name]))
        found[name] = least
    return {name: found[name] for name in ps}


def differences(
    result: Result, protocol: Protocol, trial: str, task: str, comparison: str, key: str = "test_loss"
) -> dict[str, Difference]:
    """Every optimizer of the comparison against the baseline. `key`: test_loss, or test_accuracy where there is one."""
    runs = result["tasks"][task]["fresh"][comparison]
    return against(runs, protocol.baseline(trial), protocol, protocol.chance(task, trial), key)


def against(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], base: str, protocol: Protocol, chance: float, key: str
) -> dict[str, Difference]:
    """Every name's runs but `base`'s, less those of `base`."""
    rules = protocol.rules
    values = {name: paired(of, runs[base], chance, key) for name, of in runs.items() if name != base}
    ps = holm({name: p_value(v) for name, v in values.items()})
    lost = {name: sum(measured(r, chance) >= chance for r in of) for name, of in runs.items()}
    mean = float(np.mean([measured(r, chance, key) for r in runs[base]]))
    return {
        name: Difference(
            len(v),
            float(v.mean()),
            *interval(v, rules["level"]),
            ps[name],
            smallest(v, rules["level"] / max(1, len(values)), rules["power"]),
            (lost[name], lost[base]),
            mean,
        )
        for name, v in values.items()
    }


def gains(
    result: Result, protocol: Protocol, optimizer: str, wrong: str, key: str = "test_accuracy"
) -> dict[str, Difference]:
    """Of the trial `decay`: each weight decay against none, by its own tuned rate; Holm over the decays of one optimizer."""
    ((task, found),) = result["tasks"].items()
    cells = {
        c.split(" ")[2]: runs for c, runs in found["fresh"]["tuned"].items() if c.startswith(f"{optimizer} {wrong} ")
    }
    return against(cells, "0", protocol, protocol.chance(task, "decay"), key)


def verdict(found: Difference, level: float = 0.05) -> str:
    """By Holm's level alone; how large the difference is stands beside it."""
    return "not told apart" if found.p >= level else "better" if found.mean < 0 else "worse"


def wilson(count: int, of: int, level: float = 0.05) -> tuple[float, float]:
    """Wilson's interval of a share."""
    z = float(stats.norm.ppf(1 - level / 2))
    middle, half = count + z * z / 2, z * math.sqrt(count * (of - count) / of + z * z / 4)
    return (middle - half) / (of + z * z), (middle + half) / (of + z * z)


def best_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Where a parabola through the least of the losses and its neighbours, in the rates' logarithms, has its least value.

    At the edge, or beside a loss that is not finite, the rate with the least loss itself.
    """
    i = int(np.argmin(losses))
    if not 0 < i < len(rates) - 1 or not np.all(np.isfinite(losses[i - 1 : i + 2])):
        return float(rates[i])
    x = np.log(np.asarray(rates[i - 1 : i + 2]))
    a, b, _ = np.polyfit(x - x[1], np.asarray(losses[i - 1 : i + 2]), 2)
    return float(math.exp(x[1] - b / (2 * a))) if a > 0 else float(rates[i])


def means(runs: Sequence[Mapping[str, Any]], chance: float) -> tuple[list[float], list[float]]:
    """Rates, and the mean test loss over the seeds at each."""
    tried = sorted({r["lr"] for r in runs})
    return tried, [float(np.mean([measured(r, chance) for r in runs if r["lr"] == lr])) for lr in tried]


def optima(result: Result, axis: str, chance: float, resamples: int = 400) -> dict[str, dict[str, list[float]]]:
    """Value of the axis to {optimizer: [best rate, low, high], "ratio": Grams' over AdamW's}; intervals by resampling the seeds.

    One draw of seeds serves both optimizers, whose runs are paired.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for cell, by_name in next(iter(result["tasks"].values()))["fresh"].items():
        if not cell.startswith(f"{axis} "):
            continue
        tables = {name: _by_seed(runs, chance) for name, runs in by_name.items()}
        rng = np.random.default_rng(0)
        count = len(next(iter(tables.values()))[1])
        draws = [np.arange(count), *(rng.integers(0, count, count) for _ in range(resamples))]
        best = {name: np.array([best_rate(r, x[d].mean(0).tolist()) for d in draws]) for name, (r, x) in tables.items()}
        best["ratio"] = best["grams"] / best["adamw"]
        found[cell.split(" ")[1]] = {
            name: [float(x[0]), *(float(q) for q in np.quantile(x[1:], [0.025, 0.975]))] for name, x in best.items()
        }
    return found


def _by_seed(runs: Sequence[Mapping[str, Any]], chance: float) -> tuple[list[float], np.ndarray]:
    tried, seeds = sorted({r["lr"] for r in runs}), sorted({r["seed"] for r in runs})
    losses = {(r["seed"], r["lr"]): measured(r, chance) for r in runs}
    return tried, np.array([[losses[s, lr] for lr in tried] for s in seeds])


def counts(result: Result, task: str, chance: float) -> dict[str, dict[str, Counts]]:
    """Of the trial `stability`: optimizer to factor to what its runs did."""
    found: dict[str, dict[str, Counts]] = {}
    for factor, by_name in result["tasks"][task]["fresh"].items():
        for name, runs in by_name.items():
            lost = [measured(r, chance) >= chance for r in runs]
            spiked = [gone or r["spikes"] > 0 for gone, r in zip(lost, runs, strict=True)]
            found.setdefault(name, {})[factor] = Counts(
                len(runs), sum(lost), sum(spiked), sum(r["spikes"] for r in runs)
            )
    return found
