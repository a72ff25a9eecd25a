"""The audit's record as tables and pictures: notebook 11, which reads figures/data/audit.json."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.audit.report import finding
from experiments.audit.rules import TITLES
from experiments.figures import COLORS

PAINT = {
    "agrees": "#009E73",
    "documented": "#56B4E9",
    "released": "#0072B2",
    "differs": "#D55E00",
    "unexplained": "#CC79A7",
    "float32": "#BBBBBB",
    "low-bit": "#DDDDDD",
    "random": "#DDDDDD",
    "fails": "#E69F00",
}
_ORDER = list(PAINT)
Record = dict[str, Any]


def cells(record: Record) -> list[Record]:
    """What was asked and found: all but the classes that are not installed."""
    return [cell for cell in record["cells"] if cell["status"] != "absent"]


def libraries(record: Record) -> list[str]:
    return list(dict.fromkeys(cell["library"] for cell in cells(record)))


def rules(record: Record) -> list[str]:
    return [rule for rule in TITLES if any(cell["rule"] == rule for cell in cells(record))]


def _of(record: Record, library: str, rule: str) -> list[Record]:
    """The cells of a field, the best first."""
    found = [cell for cell in cells(record) if (cell["library"], cell["rule"]) == (library, rule)]
    return sorted(found, key=lambda cell: (_ORDER.index(cell["status"]), -(cell["least"] or 0)))


def grid(record: Record) -> tuple[Figure, dict[str, Any]]:
    """A row for each library, a column for each rule: the fewest digits of the best of its classes, coloured by what that means."""
    rows, columns = libraries(record), rules(record)
    least = np.full((len(rows), len(columns)), np.nan)
    fig, ax = plt.subplots(figsize=(9.6, 0.34 * len(rows) + 1.6))
    for i, library in enumerate(rows):
        for j, rule in enumerate(columns):
            if found := _of(record, library, rule):
                best = found[0]
                least[i, j] = np.nan if best["least"] is None else best["least"]
                ax.add_patch(Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, color=PAINT[best["status"]], alpha=0.75))
                text = best["status"] if best["least"] is None else f"{best['least']:.1f}"
                ax.text(j, i, text, ha="center", va="center", fontsize=9)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks(range(len(columns)), [TITLES[rule].replace(" ", "\n").replace("-", "-\n", 1) for rule in columns])
    ax.set_yticks(range(len(rows)), rows)
    ax.xaxis.tick_top()
    ax.grid(visible=False)
    shown = [s for s in PAINT if any(cell["status"] == s for cell in cells(record))]
    handles = [Rectangle((0, 0), 1, 1, color=PAINT[s], alpha=0.75) for s in shown]
    fig.legend(handles, shown, loc="outside lower center", ncols=len(shown), fontsize=9)
    digits = [[None if np.isnan(x) else x for x in row] for row in least]
    return fig, {"libraries": rows, "rules": columns, "digits": digits}


def findings(record: Record) -> str:
    """HTML, to be opened: a row for each class, with its digits and the line that explains them."""
    titles = "".join(f"<th>{x}</th>" for x in ("library", "class", "rule", "digits", "is", "finding"))
    lines = []
    for library in libraries(record):
        for rule in rules(record):
            for cell in _of(record, library, rule):
                least = "" if cell["least"] is None else f"{cell['least']:.1f}"
                name = f"{library} {cell['version']}"
                row = (name, cell["label"], TITLES[rule], least, cell["status"], finding(cell))
                lines.append(f"<tr>{''.join(f'<td>{escape(x)}</td>' for x in row)}</tr>")
    head = f"All {len(lines)} classes, with the line that tells each from its rule"
    return f"<details><summary>{head}</summary><table><tr>{titles}</tr>{''.join(lines)}</table></details>"


def _span(paths: Sequence[np.ndarray], axis: int) -> tuple[float, float]:
    both = np.concatenate([path[:, axis] for path in paths])
    margin = 0.1 * (both.max() - both.min())
    return float(both.min() - margin), float(both.max() + margin)


def faults(record: Record) -> tuple[Figure, list[tuple[float, float]]]:
    """Runs in the plane by a rule and by the class of its name; how far apart they are, and how far once explained."""
    apart = []
    fig, axes = plt.subplots(2, 3, figsize=(10.5, 6.4))
    for ax, fault in zip(axes.flat, record["faults"], strict=False):
        rule, port, mended = (np.array(fault[k]) for k in ("by the rule", "by the class", "explained"))
        x, y = np.meshgrid(np.linspace(*_span((rule, port), 0), 60), np.linspace(*_span((rule, port), 1), 60))
        ax.contour(x, y, x**2 + 10 * y**2, 8, colors="0.85", linewidths=0.8)
        ax.plot(*rule.T, "o-", ms=2.5, lw=1.2, color=COLORS["AdamW"], label="the rule")
        ax.plot(*port.T, "o-", ms=2.5, lw=1.2, color=COLORS["Grams"], label="the class")
        ax.plot(*mended[::4].T, "kx", ms=5, label="the rule with the lines changed")
        ax.set_title("\n".join(textwrap.wrap(fault["title"], 44)), fontsize=9)
        name = f"{fault['library']}: {fault['class'].partition('(')[0]}, as {TITLES[fault['rule']]}"
        ax.set_xlabel(name, fontsize=8)
        apart.append((float(np.abs(port - rule).max()), float(np.abs(port - mended).max())))
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center")
    return fig, apart


def contract(record: Record) -> tuple[Figure, dict[str, Any]]:
    """A row for each class, a column for each term of the contract; options that make no difference are one row."""
    terms = list(record["contract"][0]["terms"])
    code = {"holds": 0, "not asked": 1, "breaks": 2}
    kept: dict[str, tuple[int, ...]] = {}
    for entry in record["contract"]:
        name = f"{entry['library']}: {entry['label'].partition('(')[0]}"
        row = tuple(code[entry["terms"][term]["status"]] for term in terms)
        kept[name] = tuple(map(max, kept.get(name, row), row))
    fig, ax = plt.subplots(figsize=(10.5, 0.24 * len(kept) + 2.6))
    tones = np.array([[0.0, 0.62, 0.45, 0.35], [1, 1, 1, 1], [0.84, 0.37, 0.0, 0.9]])
    ax.imshow(tones[np.array(list(kept.values()))], aspect="auto")
    ax.set_xticks(range(len(terms)), terms, rotation=60, ha="left", fontsize=8)
    ax.set_yticks(range(len(kept)), list(kept), fontsize=8)
    ax.xaxis.tick_top()
    ax.grid(visible=False)
    return fig, {"terms": terms, **{name: list(row) for name, row in kept.items()}}
