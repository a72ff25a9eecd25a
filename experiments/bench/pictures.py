"""What the bench measured, as tables and pictures: notebook 09, which reads figures/data/bench.json."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import COLORS

OURS = ["Grams", "Lion", "CautiousAdamW", "CautiousLion", "AdamMini", "Adams"]
PAINT = {**COLORS, "CautiousAdamW": COLORS["Cautious"], "CautiousLion": "#8B6FB5", "AdamMini": COLORS["Adam-mini"]}
PAINT |= {"AdamW fused": COLORS["AdamW"]}
SETS = ("llama-60m", "wide-resnet-50-2")
Run = dict[str, Any]


def color_of(label: str) -> str:
    return PAINT.get(label, PAINT.get(label.split()[0], COLORS["GD"]))


def table(run: Run, name: str) -> str:
    lines = [f"{name}: time over fused AdamW's, its quartiles; GB/s; share of the memory limit"]
    for label, row in run["times"][name]["optimizers"].items():
        low, high = row["ratio_quartiles"]
        rest = f"{row['gb_s']:8.1f} GB/s {row['share_of_limit']:6.0%}"
        lines.append(f"  {label:18s}{row['ms']:7.1f} ms {row['ratio']:7.2f}  ({low:.2f} to {high:.2f}){rest}")
    return "\n".join(lines)


def machines(run: Run) -> str:
    """The machine, and how fast each loop streamed, for each set of tensors."""
    lines = []
    for name, result in run["times"].items():
        m = result["machine"]
        lines.append(
            f"{name}: {m['date']}, {m['cpu']}, {m['threads']} threads, torch {m['torch']}, Python {m['python']}"
        )
        lines.append(
            f"   {result['parameters']:,} parameters in {result['tensors']} tensors, {result['rounds']} rounds"
        )
        for kernel, row in result["limit"]["kernels"].items():
            mark = "  <- the limit" if kernel == result["limit"]["fastest"] else ""
            low, high = row["gb_s_quartiles"]
            lines.append(f"   {kernel:16s}{row['gb_s']:5.1f} GB/s  ({low:.0f} to {high:.0f}){mark}")
    return "\n".join(lines)


def roofline(run: Run) -> tuple[Figure, dict[str, Any]]:
    """Time over bytes, both for one parameter: nobody can lie in the grey, where memory would have to stream faster."""
    points: dict[str, Any] = {}
    fig, axes = plt.subplots(1, 2, figsize=(11, 5.0))
    for ax, name, top in zip(axes, SETS, (0.8, 0.75), strict=True):
        _roofline(ax, run["times"][name], name, top, points)
    axes[0].set_ylabel("nanoseconds a parameter")
    return fig, points


def _roofline(ax: Axes, result: Run, name: str, top: float, points: dict[str, Any]) -> None:
    rate = result["limit"]["kernels"][result["limit"]["fastest"]]["gb_s"]
    ends = np.array([13.0, 48.0])
    ax.fill_between(ends, 0, ends / rate, color="0.88", lw=0)
    ax.plot(ends, ends / rate, "k", lw=1.5)
    ax.text(46, 0.04, f"not reachable at {rate:.0f} GB/s", ha="right", fontsize=9, color="0.35")
    at: dict[int, list[tuple[float, str]]] = {}
    for label in ("AdamW fused", *OURS):
        row, scale = result["optimizers"][label], 1e6 / result["parameters"]
        ns, low, high = points[f"{name}, {label}"] = [x * scale for x in (row["ms"], *row["ms_quartiles"])]
        bytes_moved = row["bytes_a_parameter"]
        at.setdefault(bytes_moved, []).append((ns, label))
        x = bytes_moved + 0.7 * (len(at[bytes_moved]) - 1)
        if low > top:
            ax.annotate(
                f"{label}: {ns:.1f} ns, far above",
                (x, top),
                (x, top * 0.9),
                ha="center",
                fontsize=9,
                color=PAINT[label],
                arrowprops={"arrowstyle": "->", "color": PAINT[label]},
            )
            continue
        ax.errorbar(x, ns, [[ns - low], [high - ns]], fmt="o", color=PAINT[label], ms=6, capsize=3)
    for bytes_moved, found in at.items():
        _names(ax, bytes_moved, [x for x in found if x[0] < top])
    ax.set(title=name, xlabel="bytes a parameter that must move", xlim=(13, 48), ylim=(0, top), xticks=[20, 28, 36])


def _names(ax: Axes, bytes_moved: int, found: list[tuple[float, str]]) -> None:
    """Names beside the points of one number of bytes, in the points' order, none upon another."""
    low, left = 0.0, bytes_moved < 28
    x = bytes_moved + (-0.7 if left else 0.7 * len(found) + 0.5)
    for ns, label in sorted(found):
        low = max(ns, low + 0.032)
        look = {"va": "center", "ha": "right" if left else "left", "fontsize": 9, "color": PAINT[label]}
        ax.text(x, low, label, bbox={"fc": "w", "ec": "none", "pad": 0.6, "alpha": 0.8}, **look)


def shares(run: Run) -> tuple[Figure, dict[str, Any]]:
    """How much of the memory limit each optimizer uses, for two sets of tensors."""
    shown, found = ["AdamW fused", "AdamW foreach", *OURS, "Grams released"], {}
    fig, ax = plt.subplots(figsize=(8.4, 4.2))
    for i, (name, shade) in enumerate(zip(SETS, (1.0, 0.5), strict=True)):
        rows = run["times"][name]["optimizers"]
        mid = [100 * rows[s]["share_of_limit"] for s in shown]
        ends = 100 * np.array([rows[s]["share_of_limit_quartiles"] for s in shown]).T
        y, found[name] = np.arange(len(shown)) + 0.38 * i - 0.19, mid
        ax.barh(y, mid, 0.36, color=[PAINT.get(s, COLORS["GD"]) for s in shown], alpha=shade)
        ax.errorbar(mid, y, xerr=np.abs(ends - mid), fmt="none", ecolor="k", lw=1)
    ax.axvline(100, color="k", lw=1.2)
    ax.set(yticks=range(len(shown)), yticklabels=shown, xlabel="share of the memory limit, % (black: quartiles)")
    ax.set(title="Full colour: Llama-60M's tensors; pale: WideResNet-50-2's")
    ax.invert_yaxis()
    return fig, {"optimizers": shown, **found}


def state(entries: dict[str, Run]) -> tuple[Figure, dict[str, Any]]:
    """What stays in memory, what comes and goes in a step, and what the formula predicts."""
    size = {label: e["parameters"] for label, e in entries.items()}
    kept, peak, predicted = (
        {label: e[what] / size[label] for label, e in entries.items()} for what in ("measured", "peak", "predicted")
    )
    fig, ax = plt.subplots(figsize=(8.4, 4.4))
    names = list(entries)
    ax.barh(names, list(kept.values()), color=[color_of(n) for n in names])
    ax.barh(
        names,
        list(peak.values()),
        left=list(kept.values()),
        color="0.25",
        alpha=0.6,
        label="extra at the peak of a step",
    )
    ax.plot(list(predicted.values()), names, "k|", ms=16, mew=1.5, label="predicted state")
    ax.set(
        xlabel="bytes a parameter (weights and gradients are 8 more)", title="State and the peak of a step, Llama-60M"
    )
    ax.legend(loc="center right", fontsize=9)
    ax.invert_yaxis()
    return fig, {n: {"state": kept[n], "peak": peak[n]} for n in names}


def generated(record: Run, sets: tuple[str, ...]) -> str:
    """The kernels that a GPU would run, counted without one."""
    lines = [f"{record['arch']} (H100), triton {record['versions']['triton']}; bytes a parameter"]
    for name in sets:
        rows = record["sets"][name]
        lines.append(f"{name}: {rows[0]['tensors']} tensors, {rows[0]['parameters'] / 1e6:.1f} M parameters")
        for r in rows:
            moved = f"{r['read']:5.2f} read {r['written']:5.2f} written, {r['read'] + r['written']:.1f} in all"
            text = f"  {r['optimizer']:14s}{r['launches']:3d} launches  {moved}"
            more = f"  least {r['least']}" if r["least"] else "  "
            lines.append(f"{text}{more:11s} {r['registers']:3d} registers, {r['spilled']} spills")
    return "\n".join(lines)
