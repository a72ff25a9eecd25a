"""What a sweep found: a text table, a figure, and the numbers behind both."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from experiments.figures import COLORS, save, style
from experiments.trials.loop import Record

NAME = "language_model"
POINTS = 30  # of a thinned loss curve: each the mean of an equal part of the steps
# The text is that of the Python at hand (its standard library), and a run of one seed is chaotic: neither can be held.
KIND = {"config": "formula", "parameters": "formula", "seeds": "formula"} | dict.fromkeys(
    ("data", "versions", "runs", "best"), "machine"
)
_LABELS = {
    "adamw": "AdamW",
    "adam": "Adam",
    "grams": "Grams",
    "lion": "Lion",
    "adams": "Adams",
    "adam_mini": "Adam-mini",
    "cautious_adamw": "Cautious AdamW",
    "cautious_lion": "Cautious Lion",
}
_PER_RUN = ("event", "optimizer", "lr", "seed", "code")


def summary(logs: Sequence[Sequence[Record]]) -> dict[str, Any]:
    """Complete logs (of `train.run`) to what the figure is drawn from: no clock time, so that it can be compared.

    Keys: config (what the runs share), versions, data, parameters, seeds, runs (each with optimizer, lr, seed,
    tokens_seen, final held-out perplexity and bits_per_byte, curve, evals), best (for each optimizer: the lr whose mean
    perplexity over the seeds is least, and whether that lr is at the edge of those tried).
    ValueError where a log has no end, or where the runs are not of one configuration.
    """
    if not logs:
        raise ValueError("no run to summarise")
    for log in logs:
        if log[-1]["event"] != "end":
            raise ValueError(
                f"a run has no end yet ({log[0]['optimizer']}, lr {log[0]['lr']:g}): run the sweep again, it goes on"
            )
    shared = [{k: v for k, v in log[0].items() if k not in _PER_RUN} for log in logs]
    if any(s != shared[0] for s in shared):
        raise ValueError(
            "these runs differ in more than optimizer, lr and seed: summarise each configuration by itself"
        )
    config = dict(shared[0])
    data, versions = config.pop("data"), config.pop("versions")
    runs = [run_of(log) for log in logs]
    return {
        "config": config,
        "data": data,
        "versions": versions,
        "parameters": logs[0][1]["parameters"],
        "seeds": sorted({r["seed"] for r in runs}),
        "runs": runs,
        "best": best(runs),
    }


def label_of(name: str) -> str:
    return _LABELS.get(name, name)


def run_of(log: Sequence[Record]) -> dict[str, Any]:
    """A complete log to its optimizer, lr, seed, results, and loss curve of POINTS points."""
    steps = [r for r in log if r["event"] == "step"]
    edges = [round(i * len(steps) / POINTS) for i in range(POINTS + 1)]
    parts = [steps[a:b] for a, b in itertools.pairwise(edges) if b > a]
    end = log[-1]
    return {
        "optimizer": log[0]["optimizer"],
        "lr": log[0]["lr"],
        "seed": log[0]["seed"],
        "tokens_seen": end["units_seen"] * log[0]["context"],
        "perplexity": end.get("perplexity"),
        "bits_per_byte": end.get("bits_per_byte"),
        "diverged_at": end.get("diverged_at"),
        "curve": {
            "step": [sum(r["step"] for r in p) / len(p) for p in parts],
            "train_loss": [sum(r["loss"] for r in p) / len(p) for p in parts],
        },
        "evals": [{"step": r["step"], "perplexity": r["perplexity"]} for r in log if r["event"] == "eval"],
    }


def by_lr(runs: Sequence[dict[str, Any]], optimizer: str) -> dict[float, float]:
    """Learning rate to the mean final perplexity over the seeds; a rate at which a seed diverged is left out."""
    rates = sorted({r["lr"] for r in runs if r["optimizer"] == optimizer})
    found = {lr: [r["perplexity"] for r in runs if r["optimizer"] == optimizer and r["lr"] == lr] for lr in rates}
    return {lr: sum(values) / len(values) for lr, values in found.items() if None not in values}


def best(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each optimizer the rate with the least mean perplexity. `at_edge`: no rate on one side of it was tried."""
    found = {}
    for optimizer in dict.fromkeys(r["optimizer"] for r in runs):
        means = by_lr(runs, optimizer)
        if means:
            lr = min(means, key=lambda rate: means[rate])
            tried = {r["lr"] for r in runs if r["optimizer"] == optimizer}
            found[optimizer] = {"lr": lr, "perplexity": means[lr], "at_edge": lr in (min(tried), max(tried))}
    return found


def table(logs: Sequence[Sequence[Record]]) -> str:
    """One line for each run, with its speed, and one for each optimizer's best learning rate."""
    found = summary(logs)
    lines = [f"{'optimizer':<20}{'lr':>9}{'seed':>6}{'perplexity':>12}{'bits/byte':>11}{'tokens/s':>10}"]
    for log, r in zip(logs, found["runs"], strict=True):
        took = [x["seconds_a_step"] for x in log if x["event"] == "timing"][-1]
        speed = log[0]["batch"] * log[0]["context"] / took if took else None
        result = (
            f"{r['perplexity']:>12.2f}{r['bits_per_byte']:>11.3f}" if r["perplexity"] else f"{'diverged':>12}{'':>11}"
        )
        lines.append(
            f"{r['optimizer']:<20}{r['lr']:>9.2g}{r['seed']:>6}{result}{f'{speed:,.0f}' if speed else '-':>10}"
        )
    lines.append("")
    for optimizer, b in found["best"].items():
        edge = " (at the edge of the rates tried: widen them)" if b["at_edge"] else ""
        lines.append(f"{optimizer}: best at lr {b['lr']:g}, held-out perplexity {b['perplexity']:.2f}{edge}")
    return "\n".join(lines)


def write(logs: Sequence[Sequence[Record]]) -> Path:
    """Draws figures/language_model.svg and writes figures/data/language_model.json; returns the SVG's path."""
    style()
    found = summary(logs)
    fig = Figure(figsize=(9.6, 4.0))
    left, right = fig.subplots(1, 2, width_ratios=[3, 2])
    names = list(dict.fromkeys(r["optimizer"] for r in found["runs"]))
    for number, name in enumerate(names):
        _draw(left, right, found, name, COLORS.get(label_of(name), f"C{number}"))
    left.set(xlabel="step", ylabel="training loss, nats a token", yscale="log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    left.set_title("Training loss; thick: each optimizer's best lr")
    right.set(xlabel="learning rate (peak of the schedule)", ylabel="held-out perplexity", xscale="log")
    right.set_title(f"After {found['config']['steps']} steps: lower is better")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter("{x:g}")
    right.minorticks_off()
    right.margins(y=0.22)  # room for the legend
    left.legend(loc="upper right")
    right.legend(loc="upper center")
    return save(fig, NAME, found, kind=KIND, made_by="python -m experiments.language_model sweep")


def _draw(left: Axes, right: Axes, found: dict[str, Any], name: str, color: str) -> None:
    label, chosen = label_of(name), found["best"].get(name)
    runs = [r for r in found["runs"] if r["optimizer"] == name]
    for r in runs:
        thick = chosen is not None and r["lr"] == chosen["lr"]
        shown = f"{label}, lr {r['lr']:g}" if thick and r["seed"] == found["seeds"][0] else None
        left.plot(*r["curve"].values(), color=color, lw=2.2 if thick else 1, alpha=1 if thick else 0.35, label=shown)
        if r["perplexity"]:
            right.plot(r["lr"], r["perplexity"], "o", ms=4, color=color)
    means = by_lr(runs, name)
    right.plot(list(means), list(means.values()), color=color, label=label)
