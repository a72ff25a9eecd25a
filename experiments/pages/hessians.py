"""07: Hessians as pictures, in steps of half a power of ten, with the blocks that a partition cuts; and those of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from experiments.figures import COLORS

PIXELS = 260  # of a picture's side: of more entries the largest of a square is shown
KINDS = {"rows": COLORS["Adam-mini"], "heads": COLORS["Adams"], "tensor": COLORS["GD"]}
Shapes = Mapping[str, tuple[int, ...]]


def short(name: str) -> str:
    """ "model.layers.0.mlp.up_proj.weight" -> "up_proj"."""
    parts = name.split(".")
    return parts[-2] + (" bias" if parts[-1] == "bias" else "")


def _pooled(h: np.ndarray) -> np.ndarray:
    step = -(-len(h) // PIXELS)
    if step == 1:
        return h
    padded = np.pad(h, (0, -len(h) % step))
    return padded.reshape(len(padded) // step, step, -1, step).max(axis=(1, 3))


def show(ax: Axes, h: np.ndarray, decades: int, ends: Sequence[float], color: str, width: float) -> AxesImage:
    """log10 of |h| over its largest entry, with lines behind the entries in `ends`."""
    size = np.abs(h) / np.abs(h).max()
    bounds = np.arange(-decades, 0.01, 0.5)
    cmap = plt.get_cmap("magma", len(bounds) - 1).with_extremes(under="black")
    extent = (-0.5, len(h) - 0.5, len(h) - 0.5, -0.5)
    image = ax.imshow(
        np.log10(_pooled(size) + 1e-12),
        cmap=cmap,
        norm=BoundaryNorm(bounds, cmap.N),
        interpolation="nearest",
        extent=extent,
    )
    for lines in (ax.hlines, ax.vlines):
        lines(np.asarray(ends) - 0.5, -0.5, len(h) - 0.5, color=color, lw=width)
    ax.grid(visible=False)
    return image


def matrix(ax: Axes, h: np.ndarray, decades: float, tau: float, r: Mapping[str, float]) -> AxesImage:
    """log10 of |h|, with how near to diagonal it is, and what each reading of Adam's v makes of its condition number."""
    image = ax.imshow(np.log10(np.abs(h) + 1e-12), vmin=-3, vmax=decades, cmap="magma")
    ax.set_title(f"tau = {tau:.2f}\n" + "r = " + ", ".join(f"{x:.2g} ({name})" for name, x in r.items()))
    ax.grid(visible=False)
    return image


def two(hessians: Mapping[str, tuple[np.ndarray, Shapes]]) -> Figure:
    """Whole Hessians side by side; the lines separate their tensors."""
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 5.0))
    image = None
    for ax, (title, (h, shapes)) in zip(axes, hessians.items(), strict=True):
        edges = np.cumsum([0] + [int(np.prod(s)) for s in shapes.values()])
        image = show(ax, h, 4, edges[1:-1].tolist(), "w", 0.5)
        wide = [i for i, size in enumerate(np.diff(edges)) if size > 0.02 * edges[-1]]
        at, labels = (edges[:-1] + edges[1:])[wide] / 2, [short(list(shapes)[i]) for i in wide]
        ax.set_xticks(at, labels, rotation=90, fontsize=7)
        ax.set_yticks(at, labels, fontsize=7)
        ax.set(title=title, xlabel="parameter j", ylabel="parameter i")
    assert image is not None
    bar = fig.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("log10 |H_ij| / largest entry")
    return fig


def tensors(found: Mapping[str, tuple[np.ndarray, str, Sequence[int]]]) -> Figure:
    """One tensor's own Hessian a panel, name to (Hessian, kind of block, last entry of each block): lines cut the blocks."""
    fig, axes = plt.subplots(2, 3, figsize=(10.5, 7.0))
    image = None
    for ax, (name, (h, kind, ends)) in zip(axes.flat, found.items(), strict=True):
        image = show(ax, h, 3, ends, "c", 0.9)
        ax.set(title=f"{short(name)}: {len(ends) + 1} {kind}", xlabel="parameter j", ylabel="parameter i")
    assert image is not None
    fig.colorbar(image, ax=axes, shrink=0.6, extend="min").set_label("log10 |H_ij| / the tensor's largest entry")
    fig.suptitle("Transformer at the start: each tensor's own Hessian; cyan lines cut the blocks of Algorithm 3")
    return fig


def shares(rows: Mapping[tuple[str, int], Sequence[float]], names: Sequence[str], steps: Sequence[int]) -> Figure:
    """The share in the blocks, of its controls, and what one would call nearly block-diagonal, over training."""
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.8), sharey=True)
    labels = ("Algorithm 3's blocks", "columns", "shuffled in the tensors", "chance")
    looks = ((COLORS["Adam-mini"], "o-"), (COLORS["Grams"], "s--"), (COLORS["GD"], "^:"), ("#bbbbbb", "v:"))
    for ax, name in zip(axes, names, strict=True):
        for k, (label, (color, mark)) in enumerate(zip(labels, looks, strict=True)):
            ax.plot([str(t) for t in steps], [rows[name, t][k] for t in steps], mark, color=color, label=label)
        ax.axhline(0.9, color="k", lw=0.8)
        ax.set(title=name, xlabel="steps of training", ylim=(0, 1))
    axes[0].set_ylabel("share of squared entries in the blocks")
    axes[0].text(0, 0.92, "what one would call nearly block-diagonal", fontsize=8)
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.88))
    return fig


def by_tensor(own: Mapping[int, Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Each tensor's own share in Algorithm 3's blocks, in columns, and by chance, at two times."""
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    y = np.arange(len(names))
    for ax, (t, found) in zip(axes, own.items(), strict=True):
        blocks, columns = [found[n].share for n in names], [found[n].columns for n in names]
        ax.barh(y - 0.2, blocks, 0.4, color=COLORS["Adam-mini"], label="Algorithm 3's blocks")
        ax.barh(y + 0.2, columns, 0.4, color=COLORS["Grams"], label="columns")
        ax.plot([found[n].chance for n in names], y - 0.2, "k|", ms=10, label="chance (Algorithm 3's sizes)")
        ax.set(title=f"after {t} steps", xlabel="share of the tensor's own squared entries", xlim=(0, 1))
        ax.set_yticks(y, [short(n) for n in names])
    axes[0].invert_yaxis()
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return fig


def by_seed(shares: Mapping[str, Sequence[float]], first: Mapping[str, float]) -> Figure:
    """Each tensor's own share from other starts, and from the first (a black mark)."""
    fig, ax = plt.subplots(figsize=(7.2, 4.2))
    for y, (name, row) in enumerate(shares.items()):
        ax.plot(
            row,
            [y] * len(row),
            "o",
            color=COLORS["Adam-mini"],
            alpha=0.6,
            label="eight other starts" * (y == 0) or None,
        )
        ax.plot(first[name], y, "k|", ms=14, label="the start above" if y == 0 else None)
    ax.set_yticks(range(len(shares)), list(shares))
    ax.invert_yaxis()
    ax.set(xlabel="share of the tensor's own squared entries in Algorithm 3's blocks", xlim=(0, 1))
    ax.set_title("Before training: only the output layer does not mind the start")
    ax.legend(loc="upper left", fontsize=8)
    return fig


def partition(table: Mapping[str, Any], shapes: Shapes, count: Callable[[str, Any], int]) -> Figure:
    """A model's tensors as rectangles, cut into blocks; `count(name, blocks)` says into how many."""
    fig, ax = plt.subplots(figsize=(9.5, 3.8))
    x = 0.0
    for name, blocks in table.items():
        kind, shape, blocks_here = blocks if isinstance(blocks, str) else blocks[0], shapes[name], count(name, blocks)
        tall, wide = (*shape, 1)[:2]
        ax.add_patch(Rectangle((x, 0), wide, tall, color=KINDS[kind], alpha=0.6))
        ax.hlines(np.linspace(0, tall, blocks_here + 1), x, x + wide, color="k", lw=0.7)
        text = f"{short(name)}\n{blocks_here} of {int(np.prod(shape))}"
        ax.text(x + wide / 2, tall + 0.5, text, rotation=90, ha="center", fontsize=7)
        x += max(wide, 3) + 3
    for kind, color in KINDS.items():
        ax.bar(0, 0, color=color, alpha=0.6, label=kind)
    ax.set(xlabel="columns", ylabel="rows", xlim=(-2, x), ylim=(0, 40), yticks=range(0, 30, 5), xticks=[])
    ax.set_title("Adam-mini's blocks: one number of v between two lines (numbers of v, of parameters)")
    ax.legend(loc="upper center")
    return fig


def contest(curves: Mapping[str, np.ndarray], adams: Sequence[str]) -> Figure:
    """The median loss of each contestant on the quadratic of three blocks."""
    fig, ax = plt.subplots(figsize=(8.6, 4.4))
    looks = {
        name: (COLORS["Adams" if "cosine" in name else "Adam"], ":" if "beta1 0" in name else "-") for name in adams
    }
    looks |= {"GD, one lr": (COLORS["GD"], "-"), "GD, one lr a block": (COLORS["Adam-mini"], "-")}
    looks |= {"GD, lr / H_ii": (COLORS["Cautious"], "-"), "Adam, v frozen": (COLORS["Lion"], "-")}
    for name, curve in curves.items():
        color, line = looks[name]
        ax.plot(curve, line, color=color, label=name, lw=3 if "block" in name else 1.5)
    ax.set(
        title="Three dense blocks: median of 40 draws", xlabel="steps", ylabel="log10 of f / f(start)", ylim=(-70, 2)
    )
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def clouds(found: Mapping[tuple[int, int], Mapping[str, np.ndarray]]) -> Figure:
    """r over tau: medians of each angle, and the band that nine of ten draws lie in."""
    fig, axes = plt.subplots(1, 2, figsize=(9.8, 4.2), sharey=True)
    for ax, n in zip(axes, (10, 30), strict=True):
        for d, color in (("frozen", COLORS["Lion"]), ("average", COLORS["Adam"])):
            for k, mark in ((10, "o"), (1000, "^")):
                out = found[n, k]
                tau, r = np.median(out["tau"], 1), np.median(out[d], 1)
                ax.plot(tau, r, mark + "-", color=color, mec="w", label=f"{d}, kappa = {k}")
                ax.fill_between(tau, *np.percentile(out[d], [5, 95], axis=1), color=color, alpha=0.15, lw=0)
        ax.axhline(1, color="k", lw=0.8)
        ax.set(title=f"{n} by {n} matrices", xlabel="tau (1: diagonal)", yscale="log", ylim=(3e-4, 500))
    axes[0].set_ylabel("r = kappa(D H) / kappa(H)")
    words = "above the black line Adam's D hurts, below it helps"
    axes[0].text(0.03, 0.94, words, fontsize=8, transform=axes[0].transAxes)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return fig
