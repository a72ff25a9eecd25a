"""What `compare` found: a text table, figures/10_training_runs.svg, and the numbers behind both."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from experiments.figures import COLORS, save, style
from experiments.language_model import compare, report

NAME = "10_training_runs"
NOTE = (
    "One seed, one small model, a short run, few learning rates: this shows that each optimizer trains and where ours and the "
    "released packages' runs are the same. It is no ranking. Seconds are of one machine that may have had other work: "
    "indicative only."
)


def summary(found: compare.Found) -> dict[str, Any]:
    """Keys: those of `report.summary`, with `best` of our optimizers alone; twins (see `compare.twins`), failures, machine, note.

    Each run has, besides, seconds_a_step (the median; all of a training step), optimizer_seconds_a_step and
    state_bytes(_a_parameter).
    """
    result = report.summary(found.logs)
    for log, run in zip(found.logs, result["runs"], strict=True):
        timing = [r for r in log if r["event"] == "timing"][-1]
        run["seconds_a_step"] = timing["seconds_a_step"]
        run["optimizer_seconds_a_step"] = timing["optimizer_seconds_a_step"]
        run["state_bytes"] = timing["state_bytes"]
        run["state_bytes_a_parameter"] = timing["state_bytes"] / result["parameters"]
    result["best"] = {name: best for name, best in result["best"].items() if name in compare.RATES}
    threads = {r["threads"] for log in found.logs for r in log if r["event"] == "timing"}
    return result | {
        "twins": compare.twins(found),
        "failures": found.failures,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "threads": sorted(threads),
        },
        "note": NOTE,
    }


def table(result: dict[str, Any]) -> str:
    """One line for each run, `*` at each optimizer's best rate; then the pairs, what did not run, and what it does not say."""
    head = (
        f"{'optimizer':<20}{'lr':>9}{'perplexity':>12}{'ms a step':>11}{'optimizer ms':>14}{'state B a parameter':>21}"
    )
    lines = [head]
    for r in result["runs"]:
        chosen = "*" if result["best"].get(r["optimizer"], {}).get("lr") == r["lr"] else " "
        shown = f"{r['perplexity']:.2f}{chosen}" if r["perplexity"] else "diverged "
        times = [f"{1e3 * s:.1f}" if s else "-" for s in (r["seconds_a_step"], r["optimizer_seconds_a_step"])]
        lines.append(
            f"{r['optimizer']:<20}{r['lr']:>9.2g}{shown:>12}{times[0]:>11}{times[1]:>14}{r['state_bytes_a_parameter']:>21.3f}"
        )
    lines += [f"{name:<20} did not run: {why}" for name, why in result["failures"].items()]
    lines.append("")
    for pair in result["twins"]:
        verdict = {True: "the same run", False: "NOT the same run", None: "another form"}[pair["agrees"]]
        lines.append(
            f"{pair['ours']} against {pair['released']}, lr {pair['lr']:g}: {verdict}; losses apart by at most "
            f"{pair['largest_early']:.1e} nats in {compare.EARLY} steps, {pair['largest']:.1e} in all ({pair['differs']})"
        )
    for name, best in result["best"].items():
        if best["at_edge"] and len({r["lr"] for r in result["runs"] if r["optimizer"] == name}) > 1:
            lines.append(f"{name}: its best rate, {best['lr']:g}, is at the edge of those tried")
    return "\n".join([*lines, "", result["note"]])


def write(result: dict[str, Any]) -> Path:
    """Draws figures/10_training_runs.svg and writes figures/data/10_training_runs.json; returns the SVG's path."""
    style()
    fig = Figure(figsize=(13.0, 4.4))
    losses, rates, gaps = fig.subplots(1, 3, width_ratios=[5, 4, 4])
    for name in result["best"]:
        _curves(losses, rates, result, name)
    for pair in result["twins"]:
        label, color, line = _look(pair["ours"])
        values = np.maximum(pair["apart"], 1e-7)  # a float32 loss near 8 knows no smaller difference but 0
        same = pair["same_arithmetic"]
        text = f"{label}, {'same arithmetic' if same else 'as in the paper'}"
        gaps.plot(
            range(1, len(values) + 1), values, color=color, lw=2 if same else 1, ls=line if same else ":", label=text
        )
    losses.set(xlabel="step", ylabel="training loss, nats a token", yscale="log")
    losses.yaxis.set_major_formatter("{x:g}")
    losses.yaxis.set_minor_formatter("{x:g}")
    losses.set_title("Each at its best rate; dots: the released package")
    rates.set(xlabel="learning rate (peak of the schedule)", ylabel="held-out perplexity", xscale="log", yscale="log")
    rates.set_title("Squares: released; one seed: no ranking")
    rates.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    rates.xaxis.set_major_formatter("{x:g}")
    rates.yaxis.set_major_formatter("{x:g}")
    rates.yaxis.set_minor_formatter("{x:g}")
    gaps.set(xlabel="step", ylabel="|loss - released package's|, nats a token", yscale="log")
    gaps.set_title("How far ours and the released run part")
    losses.legend(fontsize=8)
    if result["twins"]:
        gaps.set_ylim(5e-8, 1e3)  # room for the legend
        gaps.legend(fontsize=8, loc="upper left")
    kind = report.KIND | {"twins": "machine", "failures": "machine", "machine": "machine", "note": "formula"}
    return save(fig, NAME, result, kind=kind, made_by="python -m experiments.language_model compare")


def _look(name: str) -> tuple[str, str, str]:
    """A name's label, colour and line: the Cautious variants have one colour, and so have the forms of one optimizer."""
    label = report.label_of(name.removesuffix("_released").removesuffix("_as"))
    cautious = label.startswith("Cautious")
    return label, COLORS["Cautious" if cautious else label], "--" if label == "Cautious Lion" else "-"


def _curves(losses: Axes, rates: Axes, result: dict[str, Any], name: str) -> None:
    label, color, line = _look(name)
    lr = result["best"][name]["lr"]
    curves = {r["optimizer"]: r["curve"] for r in result["runs"] if r["lr"] == lr}
    losses.plot(*curves[name].values(), color=color, ls=line, label=f"{label}, lr {lr:g}")
    for twin in compare.TWINS:
        if twin.ours == name and twin.released in curves:
            losses.plot(*curves[twin.released].values(), "o", ms=3.5, mfc="none", color=color)
    means = report.by_lr(result["runs"], name)
    rates.plot(list(means), list(means.values()), "o", ls=line, ms=4, color=color)
    for twin in compare.TWINS:
        there = report.by_lr(result["runs"], twin.released) if twin.ours == name else {}
        rates.plot(list(there), list(there.values()), "s", ms=9, mfc="none", color=color)
