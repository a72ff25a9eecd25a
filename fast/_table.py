"""How a partition shows itself: as a text table, as HTML, as a picture. Layers that are alike share one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from math import log2, prod
from typing import TYPE_CHECKING, NamedTuple

from fast._blocks import Blocks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fast.partition import Entry, Partition

_COLUMNS = ("parameter", "tensors", "shape", "kind", "blocks each", "state bytes", "why")
_LEFT = (0, 3, 6)  # the columns of words
_FILL = {  # Okabe and Ito's colours, told apart with any colour vision
    "tensor": "#999999",
    "rows": "#56B4E9",
    "columns": "#009E73",
    "heads": "#E69F00",
    "groups": "#CC79A7",
    "fused": "#F0E442",
}
_MOST_CUTS = 40  # lines drawn in one rectangle; more would be a grey area
_INCH = 0.13  # the side of n indices is this times log2(n + 1), in inches
_CELL = 1.12  # least width of a rectangle's place, in inches: the width of its label
_WIDTH = 11.0  # inches


class Line(NamedTuple):
    """Parameters that differ only in the numbers in their names. `name` has * for a number that varies."""

    name: str
    entries: list[Entry]


def lines(partition: Partition) -> list[Line]:
    found: dict[tuple[object, ...], list[Entry]] = {}
    for entry in partition.entries:
        key = (_starred(entry.name), entry.blocks, _starred(entry.why), entry.trains)
        found.setdefault(key, []).append(entry)
    return [Line(_common([entry.name for entry in entries]), entries) for entries in found.values()]


def table(partition: Partition) -> str:
    """The table in plain text, with its totals below."""
    rows = [_COLUMNS, *_cells(partition)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    text = [
        "  ".join(
            cell.ljust(width) if i in _LEFT else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:], "", _total(partition)])


def html(partition: Partition) -> str:
    """The table for Jupyter."""

    def row(cells: tuple[str, ...], tag: str) -> str:
        aligned = [f"text-align:{'left' if i in _LEFT else 'right'}" for i in range(len(cells))]
        inner = (f'<{tag} style="{style}">{escape(cell)}</{tag}>' for cell, style in zip(cells, aligned, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(row(cells, "td") for cells in _cells(partition))
    return f"<table><thead>{row(_COLUMNS, 'th')}</thead><tbody>{body}</tbody></table><p>{escape(_total(partition))}</p>"


def draw(partition: Partition) -> Figure:
    """Each tensor as a rectangle, axis 0 downwards, sides by the logarithm of the number of indices, cut into its blocks.

    Layers that are alike are drawn once. A rectangle of more than 40 blocks has 40 of its cuts. ImportError without matplotlib.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    placed, height = _place(lines(partition))
    figure = Figure(figsize=(_WIDTH, height + 0.75), layout=None)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(height + 0.05, -0.7)
    axes.set_axis_off()
    for line, x, y in placed:
        _rectangle(axes, line, x, y)
    shown = dict.fromkeys(entry.kind for entry in partition.entries)
    axes.legend(
        handles=[Patch(facecolor=_FILL[kind], edgecolor="black", label=kind) for kind in shown],
        loc="upper right",
        ncols=len(shown),
        frameon=False,
        fontsize=8,
    )
    axes.text(0.15, -0.45, _total(partition), fontsize=9, va="center")
    note = f"One number of state for each cell. Sides: log scale; at most {_MOST_CUTS} cuts are drawn in a rectangle."
    axes.text(0.15, -0.2, note, fontsize=8, va="center", color="#444444")
    return figure


def _cells(partition: Partition) -> list[tuple[str, ...]]:
    cells = []
    for name, entries in lines(partition):
        first = entries[0]
        state = f"{sum(entry.blocks.state_bytes for entry in entries):,}" if first.trains else "frozen"
        shape = " x ".join(map(str, first.shape)) or "scalar"
        cells.append((name, str(len(entries)), shape, first.kind, f"{first.blocks.count:,}", state, first.why))
    return cells


def _total(partition: Partition) -> str:
    return (
        f"{partition.total_parameters:,} parameters in {sum(entry.trains for entry in partition.entries)} tensors: "
        f"{partition.total_blocks:,} blocks, {partition.state_bytes:,} bytes for v; {100 * partition.removed:.3f} % of v removed"
    )


def _starred(text: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", text)


def _common(names: list[str]) -> str:
    """One name for all: parts on which they agree, a star where their numbers differ."""
    parts = zip(*(name.split(".") for name in names), strict=True)
    return ".".join(part[0] if len(set(part)) == 1 else "*" for part in parts)


def _place(all_lines: list[Line]) -> tuple[list[tuple[Line, float, float]], float]:
    """(line, x, y) in inches, left to right in rows that break where the layer changes; and the height of all."""
    placed: list[tuple[Line, float, float]] = []
    x, y, tallest, layer = 0.15, 0.2, 0.0, None
    for line in all_lines:
        width, height = _sides(line.entries[0].blocks)
        width, here = max(width + 0.14, _CELL), line.name.rpartition("*")[0]
        if placed and (here != layer or x + width > _WIDTH):
            x, y, tallest = 0.15, y + tallest + 0.75, 0.0
        placed.append((line, x, y))
        x, tallest, layer = x + width, max(tallest, height), here
    return placed, y + tallest + 0.6


def _sides(blocks: Blocks) -> tuple[float, float]:
    rows, columns = _matrix(blocks)
    return _INCH * log2(columns + 1), _INCH * log2(rows + 1)


def _matrix(blocks: Blocks) -> tuple[int, int]:
    """The tensor as (rows, columns): leading axes downwards where one of them is cut, a vector downwards."""
    if blocks.axis is None:
        axis = 1 if len(blocks.shape) > 1 else len(blocks.shape)
    else:
        axis = blocks.axis if _across(blocks) else blocks.axis + 1
    return prod(blocks.shape[:axis]), prod(blocks.shape[axis:])


def _across(blocks: Blocks) -> bool:
    """Whether the last axis of several is the one that is cut, so that cuts are vertical."""
    return blocks.axis is not None and len(blocks.shape) > 1 and blocks.axis == len(blocks.shape) - 1


def _edges(blocks: Blocks) -> Iterator[float]:
    """Where one block ends and the next begins, as shares of the cut axis, all batch axes together."""
    if blocks.axis is None:
        return
    outer = 1 if _across(blocks) else prod(blocks.shape[: blocks.batch])
    size, at = blocks.shape[blocks.axis] * outer, 0
    for _ in range(outer * blocks.repeat):
        for count, length in blocks.runs:
            for _ in range(count):
                at += length
                if at < size:
                    yield at / size


def _rectangle(axes: Axes, line: Line, x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    blocks = line.entries[0].blocks
    width, height = _sides(blocks)
    axes.add_patch(Rectangle((x, y), width, height, facecolor=_FILL[blocks.kind], edgecolor="black", linewidth=0.8))
    edges = list(_edges(blocks))
    stride = -(-len(edges) // _MOST_CUTS) if edges else 1
    for edge in edges[::stride]:
        if _across(blocks):
            axes.plot([x + edge * width] * 2, [y, y + height], color="black", linewidth=0.4)
        else:
            axes.plot([x, x + width], [y + edge * height] * 2, color="black", linewidth=0.4)
    many = f" ({len(line.entries)} times)" if len(line.entries) > 1 else ""
    parts = line.name.split(".")
    name = ".".join(parts[-2:] if parts[-1] != "weight" else parts[-2:-1] or parts)
    name = name if len(name) <= 19 else name[:9] + "…" + name[-9:]
    label = f"{name}\n{' x '.join(map(str, blocks.shape))}\n{blocks.count:,} {'block' if blocks.count == 1 else 'blocks'}{many}"
    axes.text(x, y + height + 0.05, label, fontsize=6.5, va="top", linespacing=1.15)
