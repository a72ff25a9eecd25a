"""13, 14: the trials of experiments/protocol.toml as tables and pictures, from the numbers that are kept in figures/data/trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import COLORS
from experiments.trials import loop
from experiments.trials.protocol import Protocol
from experiments.trials.statistics import Difference, counts, differences, gains, means, optima, verdict, wilson

LABELS = {
    "adamw": "AdamW",
    "grams": "Grams",
    "adams": "Adams",
    "adam_mini": "Adam-mini",
    "lion": "Lion",
    "cautious_adamw": "Cautious AdamW",
    "adam_atan2": "Adam-atan2",
    "sgd": "SGD, momentum",
    "adamw_95": "AdamW (0.9, 0.95)",
    "grams_95": "Grams (0.9, 0.95)",
    "adam_mini_value_whole": "value one block",
    "adam_mini_embedding_whole": "embedding one block",
    "adam_mini_head_whole": "head one block",
    "adam_mini_embedding_each": "embedding by element",
    "adam_mini_head_each": "head by element",
    "adam_mini_query_key_each": "query, key by element",
    "adam_mini_value_each": "value by element",
    "adam_mini_mlp_each": "MLP by element",
    "ablation_mm": "m, m: Adam",
    "ablation_gm": "g, m: Grams",
    "ablation_mg": "m, g: the mirror",
    "ablation_gg": "g, g: RMSprop",
    "ablation_masked": "mask: Cautious",
    "ablation_random": "random mask",
}
UNITS = {"control": "steps short of 500"}
Result = Mapping[str, Any]


def color(name: str) -> str:
    label = LABELS.get(name, name).removesuffix(" AdamW").split(",")[0]
    own = {"ablation_gm": "Grams", "ablation_masked": "Cautious", "adam_atan2": "Adams", "sgd": "GD", "adamw": "AdamW"}
    return COLORS.get(own.get(name, label), "#444444")


def rates(result: Result) -> str:
    """Each task's tuned rates; `edge` where the best was still at the edge when the extensions were used up."""
    names = list(next(iter(result["tasks"].values()))["tuning"])
    lines = [f"{'best rate':<20}" + "".join(f"{task:>12}" for task in result["tasks"])]
    for name in names:
        row = [found["tuning"][name] for found in result["tasks"].values()]
        shown = [f"{x['best']:.2g}{' edge' if x['at_edge'] else ''}" if x["best"] else "none" for x in row]
        lines.append(f"{LABELS[name]:<20}" + "".join(f"{x:>12}" for x in shown))
    return "\n".join(lines)


def table(result: Result, protocol: Protocol, trial: str, comparison: str, key: str = "test_loss") -> str:
    """One line for each task and optimizer: difference to the baseline, interval, Holm's p, what would have been seen."""
    lines = [f"{'':<10}{'':<17}{'n':>3}{'difference':>11}{'95 % interval':>19}{'p (Holm)':>9}{'visible':>8}  verdict"]
    for task in result["tasks"]:
        if comparison not in result["tasks"][task]["fresh"]:
            continue
        places = 1 if task in UNITS else 4
        for name, d in differences(result, protocol, trial, task, comparison, key).items():
            inside = f"{d.low:+.{places}f} to {d.high:+.{places}f}"
            lost = f" ({d.diverged[0]} diverged)" if d.diverged[0] else ""
            numbers = f"{d.n:>3}{d.mean:>+11.{places}f}{inside:>19}{d.p:>9.2g}{d.smallest:>8.{places}f}"
            lines.append(f"{task:<10}{LABELS[name]:<17}{numbers}  {verdict(d)}{lost}")
    return "\n".join(lines)


def forest(
    result: Result, protocol: Protocol, trial: str, comparison: str, tasks: Sequence[str] = (), reach: float = 7.0
) -> tuple[Figure, dict[str, Any]]:
    """Differences with intervals, a panel a task. Grey: too small to be seen. An arrow: beyond the panel, with its number."""
    chosen = list(tasks) or [t for t in result["tasks"] if comparison in result["tasks"][t]["fresh"]]
    fig, axes = plt.subplots(1, len(chosen), figsize=(2.6 * len(chosen) + 1.2, 3.4), sharey=True, squeeze=False)
    kept = {}
    for ax, task in zip(axes[0], chosen, strict=True):
        found = differences(result, protocol, trial, task, comparison)
        kept[task] = {name: [d.mean, d.low, d.high, d.smallest] for name, d in found.items()}
        _panel(ax, found, reach)
        ax.set_title(task)
        ax.set_xlabel(UNITS.get(task, "nats"))
    axes[0][0].invert_yaxis()
    return fig, kept


def _panel(ax: Axes, found: Mapping[str, Difference], reach: float) -> None:
    # a panel's width: the visible difference of the middle optimizer, `reach` times over
    width = reach * median(d.smallest for d in found.values())
    ax.set_xlim(-width, width)
    ax.axvline(0, color="0.3", lw=1)
    for row, (name, d) in enumerate(found.items()):
        ax.barh(row, 2 * min(d.smallest, width), left=-min(d.smallest, width), color="0.92", height=0.8, zorder=0)
        if abs(d.mean) <= width:
            ax.plot([max(d.low, -width), min(d.high, width)], [row, row], color=color(name), lw=2)
            ax.plot(d.mean, row, "o", color=color(name), ms=6)
        else:
            side = 1 if d.mean > 0 else -1
            ax.plot(side * width * 0.95, row, ">" if side > 0 else "<", color=color(name), ms=7)
            ax.annotate(
                f"{d.mean:+.2g}",
                (side * width * 0.88, row),
                ha="right" if side > 0 else "left",
                va="center",
                fontsize=8,
            )
    ax.set_yticks(range(len(found)), [LABELS[name] for name in found])
    ax.locator_params(axis="x", nbins=4)
    ax.grid(axis="y", visible=False)


def second_looks(
    looks: Mapping[str, tuple[str, Result]], protocol: Protocol, optimizers: Sequence[str]
) -> tuple[Figure, dict[str, Any]]:
    """Tuned differences to AdamW, trial by trial: a panel a task, a row for each of `looks` (its words to trial and result)."""
    tasks = list(dict.fromkeys(task for _, result in list(looks.values())[1:] for task in result["tasks"]))
    fig, axes = plt.subplots(1, len(tasks), figsize=(3.4 * len(tasks) + 1.2, 0.5 * len(looks) + 1.4), sharey=True)
    kept: dict[str, Any] = {}
    for ax, task in zip(axes, tasks, strict=True):
        ax.axvline(0, color="0.3", lw=1)
        for row, (words, (trial, result)) in enumerate(looks.items()):
            if task not in result["tasks"]:
                continue
            found = differences(result, protocol, trial, task, "tuned")
            for shift, name in enumerate(n for n in optimizers if n in found):
                d, y = found[name], row + 0.24 * (shift - 0.5)
                ax.plot([d.low, d.high], [y, y], color=color(name), lw=2)
                ax.plot(d.mean, y, "o", color=color(name), ms=5, label=LABELS[name] if row == 0 else None)
                kept.setdefault(task, {}).setdefault(words, {})[name] = [d.mean, d.low, d.high]
        ax.set(title=task, xlabel="difference to AdamW, nats", yticks=range(len(looks)))
        ax.set_yticklabels(list(looks))
        ax.locator_params(axis="x", nbins=4)
        ax.grid(axis="y", visible=False)
    axes[0].set_ylim(len(looks) - 0.5, -0.5)
    axes[-1].legend(fontsize=8, loc="lower left")
    return fig, kept


def curves(
    looks: Mapping[str, tuple[str, Result]], task: str, optimizers: Sequence[str]
) -> tuple[Figure, dict[str, Any]]:
    """Training loss along the tuned runs of one task, a panel a trial: mean over the seeds, and the band from least to largest."""
    chosen = {words: result for words, (_, result) in looks.items() if task in result["tasks"]}
    columns = min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(3.2 * columns + 0.8, 2.9 * rows), sharey=True, squeeze=False)
    kept: dict[str, Any] = {}
    for ax, (words, result) in zip(axes.flat, chosen.items(), strict=False):
        fresh = result["tasks"][task]["fresh"]["tuned"]
        for name in (n for n in optimizers if n in fresh):
            seen = np.array([run["curve"] for run in fresh[name]])
            steps = (np.arange(seen.shape[1]) + 0.5) * fresh[name][0]["steps"] / seen.shape[1]
            ax.fill_between(steps, seen.min(0), seen.max(0), color=color(name), alpha=0.2, lw=0)
            ax.plot(steps, seen.mean(0), "o-", ms=3, color=color(name), label=LABELS[name])
            kept.setdefault(words, {})[name] = seen.mean(0)
        ax.set(title=words, xlabel="step")
    for ax in axes[:, 0]:
        ax.set_ylabel("training loss, nats")
    for ax in axes.flat[len(chosen) :]:
        ax.set_visible(False)
    axes[0][0].legend(fontsize=8)
    return fig, kept


def times(result: Result, comparison: str = "tuned", base: str = "adamw") -> str:
    """Median milliseconds of a step, over the baseline's, and the optimizer's part and share, by task; beside other work."""
    lines = [f"{'':<12}{'':<20}{'ms a step':>11}{'/ AdamW':>9}{'optimizer':>11}{'share':>8}"]
    for task, found in result["tasks"].items():
        each = found["fresh"][comparison]
        steps = {name: median(r["ms_a_step"] for r in runs) for name, runs in each.items()}
        for name, runs in each.items():
            own = median(r["optimizer_ms_a_step"] for r in runs)
            shown = f"{steps[name]:>11.2f}{steps[name] / steps[base]:>9.2f}{own:>11.3f}{own / steps[name]:>8.0%}"
            lines.append(f"{task:<12}{LABELS[name]:<20}{shown}")
    return "\n".join(lines)


def cost(result: Result) -> tuple[int, float]:
    """How many runs, those of the tuning among them, and the minutes that their steps took on one core each."""
    found = result["tasks"].values()
    fresh = (r for task in found for by_name in task["fresh"].values() for runs in by_name.values() for r in runs)
    tuning = (r for task in found for tuned in task.get("tuning", {}).values() for r in tuned["runs"])
    runs = [*fresh, *tuning]
    return len(runs), sum(r["steps"] * (r["ms_a_step"] or 0) for r in runs) / 6e4


def watched(result: Result, task: str, key: str, comparison: str = "tuned") -> dict[str, tuple[list[int], list[float]]]:
    """Optimizer to the steps looked at and the median over the seeds of what the monitor saw there."""
    found = {}
    for name, runs in result["tasks"][task]["fresh"][comparison].items():
        seen = [r["monitor"] for r in runs if "monitor" in r]
        rows = [[m[key][i] for m in seen if m[key][i] is not None] for i in range(len(seen[0]["step"]))] if seen else []
        if rows and all(rows):
            found[name] = (seen[0]["step"], [float(np.median(row)) for row in rows])
    return found


def along(
    result: Result, keys: Mapping[str, str], tasks: Sequence[str], lines: Mapping[str, float]
) -> tuple[Figure, dict[str, Any]]:
    """What the monitor saw along the runs: a row for each of `keys` (its name to the axis's), a column for each task.

    lines: where a dashed line is drawn across the row of a key.
    """
    fig, axes = plt.subplots(len(keys), len(tasks), figsize=(3.0 * len(tasks), 2.6 * len(keys)), squeeze=False)
    kept: dict[str, Any] = {}
    for row, (key, words) in zip(axes, keys.items(), strict=True):
        for ax, task in zip(row, tasks, strict=True):
            for name, (steps, values) in watched(result, task, key).items():
                ax.plot(steps, values, "-" if name != "adam_atan2" else "--", color=color(name), label=LABELS[name])
                kept.setdefault(key, {}).setdefault(task, {})[name] = values
            if key in lines:
                ax.axhline(lines[key], color="0.3", ls="--", lw=1)
            ax.set(title=task, xlabel="step", yscale="log" if key == "pl_ratio" else "linear")
        row[0].set_ylabel(words)
    axes[0][0].legend(fontsize=7)
    return fig, kept


def ratio_against(result: Result, chance: float, kappa: Callable[[Any], Any]) -> tuple[Figure, dict[str, Any]]:
    """Grams' best rate over AdamW's, by beta1 and by batch size, with what the drift in pure noise says."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.6))
    kept = {}
    for ax, axis in ((left, "beta1"), (right, "batch")):
        found = optima(result, axis, chance)
        x, y = [float(v) for v in found], np.array([cell["ratio"] for cell in found.values()])
        ax.errorbar(
            x, y[:, 0], np.abs(y[:, 1:] - y[:, :1]).T, fmt="o", color=COLORS["Grams"], label="measured, 95 % over seeds"
        )
        kept[axis] = {v: cell["ratio"] for v, cell in found.items()}
        ax.set(yscale="log", ylabel="Grams' best rate / AdamW's")
        ax.axhline(1, color="0.6", lw=1)
    grid = np.linspace(0, 0.985, 100)
    left.plot(grid, 1 / kappa(grid), color="0.3", ls="--", label="1 / kappa: equal drift in noise")
    right.axhline(1 / float(kappa(0.9)), color="0.3", ls="--")
    left.set(xlabel="beta1 (batch 64)")
    right.set(xlabel="batch size (beta1 0.9)", xscale="log")
    left.legend(fontsize=8, loc="upper left")
    right.set_xticks([float(v) for v in kept["batch"]], list(kept["batch"]))
    right.minorticks_off()
    for ax in (left, right):
        ax.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        ax.yaxis.minorticks_off()
    return fig, kept


def maps(result: Result, axis: str, chance: float) -> tuple[Figure, dict[str, Any]]:
    """Mean test loss over rate and one hyper-parameter, a panel an optimizer; the dot is each row's best."""
    cells = {
        c.split(" ")[1]: by
        for c, by in next(iter(result["tasks"].values()))["fresh"].items()
        if c.startswith(axis + " ")
    }
    names = list(next(iter(cells.values())))
    fig, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 3.4), sharey=True)
    kept: dict[str, Any] = {}
    for ax, name in zip(axes, names, strict=True):
        rows = [means(by[name], chance) for by in cells.values()]
        grid = np.array([losses for _, losses in rows])
        kept[name] = grid
        ax.imshow(np.log10(grid), aspect="auto", cmap="viridis_r", vmin=-1.4, vmax=0.4)
        ax.plot(grid.argmin(1), range(len(rows)), "o", color="w", mec="k")
        ax.set_xticks(range(len(rows[0][0])), [f"{lr:.2g}" for lr in rows[0][0]], rotation=60)
        ax.set(title=LABELS[name], xlabel="peak learning rate")
        ax.grid(visible=False)
    axes[0].set_yticks(range(len(cells)), list(cells))
    axes[0].set_ylabel(axis)
    fig.colorbar(axes[-1].images[0], ax=axes, label="log10 of the test loss, nats")
    return fig, kept


def stability(result: Result, protocol: Protocol) -> tuple[Figure, dict[str, Any]]:
    """Shares of runs that diverged or spiked, against multiples of each optimizer's tuned rate, with Wilson's intervals."""
    tasks = list(result["tasks"])
    fig, axes = plt.subplots(2, len(tasks), figsize=(4.4 * len(tasks), 5.2), sharex=True, sharey=True, squeeze=False)
    kept = {}
    for column, task in enumerate(tasks):
        found = counts(result, task, protocol.tasks[task]["chance"])
        kept[task] = found
        for shift, (name, by_factor) in enumerate(found.items()):
            x = np.array([float(f) for f in by_factor]) * 2 ** (0.12 * (shift - len(found) / 2))
            for row, place in ((0, 1), (1, 2)):
                share = np.array([c[place] / c[0] for c in by_factor.values()])
                bounds = np.array([wilson(c[place], c[0]) for c in by_factor.values()])
                error = np.abs(bounds - share[:, None]).T
                style = "--" if name == "adam_atan2" else "-"
                axes[row][column].errorbar(
                    x, share, error, ls=style, marker="o", ms=4, color=color(name), label=LABELS[name], lw=1
                )
        axes[0][column].set_title(task)
        axes[1][column].set(xscale="log", xlabel="rate / tuned rate")
        axes[1][column].set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
        axes[1][column].minorticks_off()
    axes[0][0].set_ylabel("share diverged")
    axes[1][0].set_ylabel("share with a spike")
    axes[0][0].legend(fontsize=7)
    return fig, kept


def decays(result: Result, protocol: Protocol) -> tuple[Figure, dict[str, Any]]:
    """Points of test accuracy that each weight decay gains over none, with intervals; right labels left, wrong ones right."""
    trial = protocol.trials["decay"]
    fig, axes = plt.subplots(1, len(trial["wrong"]), figsize=(4.4 * len(trial["wrong"]), 3.4), sharey=True)
    kept: dict[str, Any] = {}
    for ax, wrong in zip(axes, trial["wrong"], strict=True):
        ax.axhline(0, color="0.3", lw=1)
        for shift, name in enumerate(trial["optimizers"]):
            found = gains(result, protocol, name, f"{wrong:g}").values()
            points = 100 * np.array([[d.mean, d.low, d.high] for d in found])
            x = np.arange(len(found)) + 0.12 * (shift - 0.5)
            error = np.abs(points[:, 1:] - points[:, :1]).T
            ax.errorbar(x, points[:, 0], error, fmt="o", color=color(name), label=LABELS[name])
            kept.setdefault(f"{wrong:g}", {})[name] = points
        ax.set(title=f"{wrong:.0%} wrong labels", xlabel="weight decay")
        ax.set_xticks(range(len(trial["decays"]) - 1), [f"{d:g}" for d in trial["decays"][1:]])
    axes[0].set_ylabel("points of accuracy over no decay")
    axes[0].legend(fontsize=8, loc="lower left")
    return fig, kept


def foretold(found: Sequence[Any]) -> str:
    """Predictions and what came out, those that failed first."""
    lines = []
    for came, words in ((False, "did not come out"), (True, "came out")):
        lines.append(f"{words}:")
        lines += [f"  {o.source:<7} {o.sentence}\n          {o.seen}" for o in found if o.holds == came]
    return "\n".join(lines)


def again(
    result: Result, task: Any, name: str, optimizers: Sequence[str], folder: Any, seeds: int = 3
) -> dict[str, bool]:
    """Runs the first fresh seeds of `tuned` once more, now; is each mean within the spread of the kept runs?

    Another processor rounds otherwise, and a run is chaotic: so its mean is held to the kept runs' least and largest.
    """
    protocol, inside = Protocol.read(), {}
    for optimizer in optimizers:
        runs = result["tasks"][name]["fresh"]["tuned"][optimizer]
        jobs = [protocol.job(name, optimizer, lr=r["lr"], seed=r["seed"]) for r in runs[:seeds]]
        ends = [loop.run(job.config, task, folder, checkpoint_every=0)[-1]["test_loss"] for job in jobs]
        kept = [r["test_loss"] for r in runs]
        inside[optimizer] = min(kept) <= sum(ends) / len(ends) <= max(kept)
    return inside
