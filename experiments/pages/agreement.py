"""08: the pictures of a thousand configurations, of the ladders to the released packages, and of a v in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import fast
from experiments.agreement import digits
from experiments.agreement.configurations import RULES
from experiments.figures import COLORS

_NAMED = {"Grams": "Grams", "Adams": "Adams", "AdamMini": "Adam-mini", "Lion": "Lion"}
COLOR = {name: COLORS[_NAMED.get(name, "Cautious")] for name in RULES}
BOUND = {(name, dtype): bound for name in RULES for dtype, bound in (("float64", 1e-12), ("float32", 2e-6))}
BOUND["Adams", "float32"] = 3e-5  # section 4 of the notebook says why
RUNGS = {
    "Grams": ["paper", "+ eps", "+ place\nof decay", "+ step\nlength"],
    "Adams": ["paper", "+ both\ndecays", "+ atan2", "+ zero\nmatrix", "+ step\nlength"],
    "AdamMini": ["paper", "+ names", "+ biases", "+ heads", "+ step\nlength"],
}


def _strip(ax: Axes, y: float, errors: Sequence[float], color: str) -> None:
    x = [digits(e) for e in errors]
    jitter = np.random.default_rng(0).uniform(-0.28, 0.28, len(x))
    ax.plot(x, y + jitter, "o", color=color, ms=3, mew=0, alpha=0.6, rasterized=True)


def cloud(cases: Sequence[Any], found: Sequence[Mapping[str, float]]) -> tuple[Figure, dict[str, Any]]:
    """A point for each configuration: parameters coloured, state grey; the figure and the sorted digits."""
    fig, ax = plt.subplots(figsize=(9, 4.6))
    for y, name in enumerate(reversed(RULES)):
        own = [e for c, e in zip(cases, found, strict=True) if c.optimizer == name]
        _strip(ax, y + 0.16, [e["param"] for e in own], COLOR[name])
        _strip(ax, y - 0.16, [max(v for k, v in e.items() if k != "param") for e in own if len(e) > 1], "0.55")
    for bound, text in ((2e-6, "bound, float32"), (1e-12, "bound, float64")):
        ax.axvline(digits(bound), color="k", lw=1, ls="--")
        ax.text(digits(bound) - 0.1, len(RULES) - 0.35, text, ha="right", fontsize=8)
    ax.set(yticks=range(len(RULES)), yticklabels=list(reversed(RULES)), xlim=(3, 17.3), ylim=(-0.6, len(RULES)))
    ax.set(xlabel="digits that agree, worst tensor of a configuration (17: all bits)")
    ax.set_title("A thousand configurations: parameters (coloured), state (grey); float32 left, float64 right")
    worst = [max(e.values()) for e in found]
    numbers = {n: [digits(w) for c, w in zip(cases, worst, strict=True) if c.optimizer == n] for n in RULES}
    return fig, {n: np.round(np.sort(d), 1) for n, d in numbers.items()}


def within(cases: Sequence[Any], worst: Sequence[float]) -> str:
    """For each optimizer and format, how many configurations lie within its bound."""
    lines = ["relative error within the bound, of all configurations"]
    for name in RULES:
        counts = []
        for dtype in ("float64", "float32"):
            own = [w for c, w in zip(cases, worst, strict=True) if (c.optimizer, c.dtype) == (name, dtype)]
            bound = BOUND[name, dtype]
            counts.append(f"{dtype}: {sum(w <= bound for w in own)} of {len(own)} within {bound:.0e}")
        lines.append(f"{name:14} " + ", ".join(counts))
    return "\n".join(lines)


def fewest(cases: Sequence[Any], found: Sequence[Mapping[str, float]]) -> str:
    """The fewest digits that agree, for each optimizer, format and tensor."""
    kinds = ("param", "m", "v", "u", "sigma")
    lines = ["fewest digits that agree:   " + "".join(f"{k:>8}" for k in kinds)]
    for name in RULES:
        for dtype in ("float64", "float32"):
            own = [e for c, e in zip(cases, found, strict=True) if (c.optimizer, c.dtype) == (name, dtype)]
            least = (min((digits(e[k]) for e in own if k in e), default=None) for k in kinds)
            lines.append(f"{name:15}{dtype:12} " + "".join("       -" if d is None else f"{d:8.1f}" for d in least))
    return "\n".join(lines)


def reactions(moved: Sequence[float], ours: Sequence[float], number: int) -> tuple[Figure, dict[str, Any]]:
    """Errors of Adams in float32 over how far roundings alone move the exact rule; `number`: the configuration that moves most."""
    first = int(np.argmax(moved))
    fig, ax = plt.subplots(figsize=(6.4, 4))
    ax.loglog(np.maximum(moved, 1e-9), np.maximum(ours, 1e-9), "o", color=COLORS["Adams"], ms=4, alpha=0.8)
    line = np.array([1e-8, 1e-6])
    ax.loglog(line, line, "k-", lw=0.8)
    ax.loglog(line, 10 * line, "k:", lw=0.8)
    ax.axhline(2e-6, color="k", ls="--", lw=1)
    ax.annotate(f"number {number}", (moved[first], ours[first]), xytext=(6, -3), textcoords="offset points")
    ax.set(
        xlabel="how far one rounding of the weights a step moves the exact rule", ylabel="error of fast.Adams, float32"
    )
    ax.set(xlim=(5e-9, 1e-5), ylim=(1.2e-8, 1e-5), title="Adams in float32: errors are where the rule is sensitive")
    return fig, {name: sorted(map(digits, e)) for name, e in (("rule moved by", moved), ("error", ours))}


def ladders(rungs: Mapping[str, np.ndarray]) -> tuple[Figure, dict[str, Any]]:
    """Digits that agree, one line a configuration, as one deviation of the package after the other goes into the rule."""
    fig, axes = plt.subplots(1, 3, figsize=(11, 4.4), sharey=True)
    for ax, (name, table) in zip(axes, rungs.items(), strict=True):
        height = np.clip(-np.log10(np.maximum(table, 1e-17)), 0, 17)
        x = np.arange(table.shape[1]) + np.random.default_rng(1).uniform(-0.22, 0.22, table.shape[:1])[:, None]
        ax.plot(x.T, height.T, "-", color=COLOR[name], lw=0.4, alpha=0.35)
        ax.plot(x, height, "o", color=COLOR[name], ms=3, mew=0, rasterized=True)
        ax.axhline(12, color="k", ls="--", lw=1)
        ax.set_xticks(range(table.shape[1]), RUNGS[name], fontsize=8)
        ax.set(title=f"released {name}", xlabel="put into the reference")
    axes[0].set(ylabel="digits that agree (worst tensor)", yticks=range(0, 18, 4))
    heights = {n: np.round(np.sort(-np.log10(np.clip(t, 1e-17, 1)), axis=0), 1)[::6] for n, t in rungs.items()}
    return fig, {n: dict(enumerate(h.T)) for n, h in heights.items()}


def first_steps(makers: Mapping[str, Callable[[Any], Any]]) -> tuple[Figure, dict[str, np.ndarray]]:
    """The length of the first step of each optimizer, in units of lr = 1, over the size of the gradient."""
    sizes = np.geomspace(1e-9, 1e-2, 57)
    found = {}
    for name, make in makers.items():
        p = torch.nn.Parameter(torch.zeros(sizes.size, dtype=torch.float64))
        p.grad = torch.tensor(sizes)
        make([p]).step()
        found[name] = -p.detach().numpy()
    fig, ax = plt.subplots()
    for (name, y), dash in zip(found.items(), ("-", "--", "-"), strict=True):
        ax.semilogx(sizes, y, dash, lw=2, color="k" if "released" in name else COLORS["Grams"], label=name)
    ax.axvline(1e-6, color="k", lw=0.6, ls=":")
    ax.set(xlabel="size of the gradient", ylabel="first step, units of lr", ylim=(0, 1.45))
    ax.set_title("The first step of a small gradient, by the paper and as released")
    ax.legend(loc="upper left")
    return fig, {"gradient": sizes, **found}


def second_moments(adam_mini: Any, steps: int = 4000, change: int = 500, beta2: float = 0.999) -> np.ndarray:
    """v of gradients that shrink to an eighth: in plain bfloat16, in the released Adam-mini, in fast.Grams, and exactly."""
    size = np.where(np.arange(steps) < change, 1.0, 0.125)  # both exact in bfloat16
    p, q = (torch.nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16)) for _ in range(2))
    ours = fast.Grams([p], lr=0.0, betas=(0.9, beta2), compile=False)
    theirs = adam_mini.Adam_mini([("norm.weight", q)], lr=0.0, betas=(0.9, beta2), verbose=False)
    plain, v = torch.zeros(8, 8, dtype=torch.bfloat16), []
    for s in size:
        g = torch.full((8, 8), float(s), dtype=torch.bfloat16)
        plain.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        p.grad, q.grad = g, g.clone()
        ours.step()
        theirs.step()
        exact = beta2 * (v[-1][-1] if v else 0.0) + (1 - beta2) * s**2
        kept = (plain, theirs.state[q]["vmean"], ours.state[p]["exp_avg_sq"])
        v.append([*(t.float().mean().item() for t in kept), exact])
    return np.array(v).T


def stuck(found: Sequence[np.ndarray], exact: np.ndarray) -> tuple[Figure, dict[str, Any]]:
    """`second_moments`, drawn."""
    looks = {
        "plain bfloat16 v (torch operations)": ("0.4", "--"),
        "released Adam-mini, bfloat16": (COLORS["Adam-mini"], ":"),
        "fast.Grams, bfloat16 parameters: v in float32": (COLORS["Grams"], "-"),
    }
    fig, ax = plt.subplots(figsize=(8.2, 4))
    ax.semilogy(exact, color="k", lw=5, alpha=0.2, label="exact")
    for (label, (color, line)), v in zip(looks.items(), found, strict=True):
        ax.semilogy(v, line, color=color, lw=2, label=label)
    ax.axvline(500, color="k", lw=0.8)
    ax.text(520, 0.75, "from here on gradients are eight times smaller", fontsize=8)
    ax.set(xlabel="step", ylabel="v", ylim=(6e-4, 1.2), title="A bfloat16 v stays where the large gradients left it")
    ax.legend(loc="lower right", fontsize=9)
    return fig, {k: v[::100] for k, v in zip([*looks, "exact"], [*found, exact], strict=True)}
