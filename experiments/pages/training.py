"""The training runs that are kept in figures/data, as the notebooks show them: one text, one model, one seed each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import COLORS
from experiments.language_model.report import by_lr, label_of

DATA = Path(__file__).resolve().parents[2] / "figures" / "data"
TWO = ("adamw", "grams")
Run = dict[str, Any]


def kept(name: str) -> Run:
    """The numbers behind one figure: `kept("language_model")`."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def describe(run: Run) -> str:
    """Model, data, steps and seeds, in two lines."""
    config, first = run["config"], run["runs"][0]
    shape = ", ".join(f"{k} {config[k]}" for k in ("steps", "batch", "context", "hidden", "layers"))
    seeds = f"{len(run['seeds'])} seed" + "s" * (len(run["seeds"]) > 1)
    return (
        f"{run['parameters']:,} parameters, {seeds}, {shape}\n"
        f"{first['tokens_seen']:,} tokens seen, of {run['data']['train_tokens']:,} in the training text"
    )


def best_run(run: Run, optimizer: str) -> Run:
    """The run at the optimizer's best learning rate, of the first seed."""
    lr = run["best"][optimizer]["lr"]
    return next(r for r in run["runs"] if (r["optimizer"], r["lr"]) == (optimizer, lr))


def along(run: Run, optimizer: str) -> dict[int, float]:
    """Step to held-out perplexity, at the optimizer's best learning rate."""
    chosen = best_run(run, optimizer)
    return {e["step"]: e["perplexity"] for e in chosen["evals"]} | {run["config"]["steps"]: chosen["perplexity"]}


def at_every_rate(ax: Axes, run: Run, optimizers: tuple[str, ...] = TWO) -> None:
    """Held-out perplexity against the learning rates that were tried."""
    for name in optimizers:
        row = by_lr(run["runs"], name)
        ax.plot(list(row), list(row.values()), "o-", color=COLORS[label_of(name)], label=label_of(name))
    ax.set(xlabel="peak learning rate", ylabel="held-out perplexity", xscale="log", yscale="log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.set_xticks([0.001, 0.003, 0.01], ["0.001", "0.003", "0.01"])
    ax.minorticks_off()
    ax.set_yticks(*_few(ax.get_ylim()))


def _few(limits: tuple[float, float]) -> tuple[list[float], list[str]]:
    """Four round ticks for a logarithmic axis of less than two decades."""
    low, high = limits
    ticks = [float(f"{low * (high / low) ** share:.2g}") for share in (0.1, 0.4, 0.7, 0.97)]
    return ticks, [f"{tick:g}" for tick in ticks]


def two_runs(short: Run, long: Run) -> tuple[Figure, dict[str, Any]]:
    """Both runs at every rate, and the long one's perplexity on its path; the figure and its numbers."""
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.0))
    for ax, run in ((left, short), (middle, long)):
        at_every_rate(ax, run)
        ax.set_title(f"One run: {run['config']['steps']} steps, batch {run['config']['batch']}")
    paths = {label_of(name): along(long, name) for name in TWO}
    for name, path in paths.items():
        right.semilogy(list(path), list(path.values()), "o-", color=COLORS[name], label=name)
        for step, value in path.items():
            above = value == max(p[step] for p in paths.values())
            right.annotate(
                f"{value:.0f}", (step, value), (0, 7 if above else -15), textcoords="offset points", ha="center"
            )
    right.set(xlabel="step", ylabel="held-out perplexity", title="The longer run on its path, each at its best lr")
    right.set(xlim=(60, 340), ylim=(85, 480), xticks=[100, 200, 300])
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("{x:g}")
    left.legend()
    rates = {
        f"{run['config']['steps']} steps, {label_of(name)}": {
            f"{lr:g}": p for lr, p in by_lr(run["runs"], name).items()
        }
        for run in (short, long)
        for name in TWO
    }
    return fig, rates | {f"path, {name}": {str(step): p for step, p in path.items()} for name, path in paths.items()}


def table(run: Run) -> str:
    """Each optimizer's best rate and perplexity, and whether that rate is at the edge of those tried."""
    lines = [f"{'optimizer':15s}{'rates tried':>34s}{'best lr':>10s}{'perplexity':>12s}"]
    for name, best in run["best"].items():
        tried = ", ".join(f"{lr:g}" for lr in by_lr(run["runs"], name))
        edge = "   at the edge of the rates tried" if best["at_edge"] else ""
        lines.append(f"{label_of(name):15s}{tried:>34s}{best['lr']:>10g}{best['perplexity']:>12.1f}{edge}")
    return "\n".join(lines)
