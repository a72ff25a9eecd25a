"""How a partition shows itself: a text table, HTML for Jupyter, and a picture (which needs matplotlib)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from math import ceil, log2, prod
from typing import TYPE_CHECKING, NamedTuple

from fast.partition.blocks import Blocks
from fast.partition.extras import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fast.partition.partition import Entry, Partition

_COLUMNS = ("parameter", "tensors", "shape", "kind", "blocks each", "state bytes", "why")
_LEFT = (0, 3, 6)  # the columns of words


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
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:], "", total(partition)])


def html(partition: Partition) -> str:
    """The table for Jupyter."""

    def row(cells: tuple[str, ...], tag: str) -> str:
        aligned = [f"text-align:{'left' if i in _LEFT else 'right'}" for i in range(len(cells))]
        inner = (f'<{tag} style="{style}">{escape(cell)}</{tag}>' for cell, style in zip(cells, aligned, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(row(cells, "td") for cells in _cells(partition))
    return f"<table><thead>{row(_COLUMNS, 'th')}</thead><tbody>{body}</tbody></table><p>{escape(total(partition))}</p>"


def _cells(partition: Partition) -> list[tuple[str, ...]]:
    cells = []
    for name, entries in lines(partition):
        first = entries[0]
        state = f"{sum(entry.blocks.state_bytes for entry in entries):,}" if first.trains else "frozen"
        shape = " x ".join(map(str, first.shape)) or "scalar"
        cells.append((name, str(len(entries)), shape, first.kind, f"{first.blocks.count:,}", state, first.why))
    return cells


def total(partition: Partition) -> str:
    return (
        f"{partition.total_parameters:,} parameters in {sum(entry.trains for entry in partition.entries)} tensors: "
        f"{partition.total_blocks:,} blocks, {partition.state_bytes:,} bytes for v; "
        f"{100 * partition.removed:.3f} % of v removed"
    )


def _starred(text: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", text)


def _common(names: list[str]) -> str:
    """One name for all: parts on which they agree, a star where their numbers differ."""
    parts = zip(*(name.split(".") for name in names), strict=True)
    return ".".join(part[0] if len(set(part)) == 1 else "*" for part in parts)


# The picture: each tensor a rectangle, cut into its blocks


_FILL = {  # Okabe and Ito's colours, told apart with any colour vision; a fused projection has its parts' colours
    "tensor": "#999999",
    "rows": "#56B4E9",
    "columns": "#009E73",
    "heads": "#E69F00",
    "groups": "#CC79A7",
}
_MOST_CUTS = 40  # lines drawn across the whole of a rectangle; more would be a grey area
_INCH = 0.12  # the side of n indices is this times log2(n + 1), in inches
_CELL = 1.14  # least width of a rectangle's place, in inches: the width of its label
_WIDTH = 12.0  # inches

Part = tuple[float, float, str, int]  # begin and end as shares of the cut axis, kind, number of blocks


def draw(partition: Partition) -> Figure:
    """Axis 0 downwards, sides by the logarithm of the number of indices, colour by kind; equal layers once."""
    with needs("plot", "Partition.draw"):
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

    placed, headings, height = _place(lines(partition))
    figure = Figure(figsize=(_WIDTH, height + 0.8))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(height, -0.8)
    axes.set_axis_off()
    for text, y in headings:
        axes.text(0.15, y - 0.07, text, fontsize=9, weight="bold", va="bottom")
    for line, x, y in placed:
        _rectangle(axes, line, x, y)
    shown = dict.fromkeys(kind for line, *_ in placed for *_, kind, _ in _parts(line.entries[0].blocks))
    patches = [Patch(facecolor=_FILL[kind], edgecolor="black", label=kind) for kind in shown]
    axes.legend(handles=patches, loc="upper right", ncols=len(shown), frameon=False, fontsize=9)
    axes.text(0.15, -0.6, total(partition), fontsize=10, va="center")
    note = (
        "Each cell is one number of state. Sides in log scale, cuts in true proportion; where there are more than "
        f"{_MOST_CUTS} cells, {_MOST_CUTS} are drawn."
    )
    axes.text(0.15, -0.36, note, fontsize=9, va="center", color="#444444")
    return figure


def _place(all_lines: list[Line]) -> tuple[list[tuple[Line, float, float]], list[tuple[str, float]], float]:
    """(line, x, y) in inches, left to right, a new row where the layer changes; (heading, y); the height of all."""
    placed: list[tuple[Line, float, float]] = []
    headings: list[tuple[str, float]] = []
    x, y, tallest, layer = 0.15, 0.15, 0.0, None
    for line in all_lines:
        width, height = _sides(line.entries[0].blocks)
        width, here = max(width + 0.14, _CELL), _layer(line)
        if here != layer or x + width > _WIDTH:
            x, y, tallest = 0.15, y + (tallest + 0.6 if placed else 0.0), 0.0
            if here != layer and here[0]:
                headings.append((f"{here[0]}: {here[1]} alike", y + 0.2))
            y += 0.2 if here != layer and here[0] else 0.0
        placed.append((line, x, y))
        x, tallest, layer = x + width, max(tallest, height), here
    return placed, headings, y + tallest + 0.55


def _layer(line: Line) -> tuple[str, int]:
    """The stack that repeats, and how often: ("model.layers.*", 8); ("", 1) for what stands alone."""
    head, star, _ = line.name.partition("*")
    return (head + star, len(line.entries)) if star else ("", 1)


def _sides(blocks: Blocks) -> tuple[float, float]:
    """Width and height in inches: the tensor as a matrix, cut leading axes downwards; a vector downwards."""
    axis = min(1, len(blocks.shape))
    if blocks.axis is not None:
        axis = blocks.axis if _across(blocks) else blocks.axis + 1
    return _INCH * log2(prod(blocks.shape[axis:]) + 1), _INCH * log2(prod(blocks.shape[:axis]) + 1)


def _across(blocks: Blocks) -> bool:
    """Whether the last axis of several is the one that is cut, so that the cuts are vertical."""
    return blocks.axis is not None and len(blocks.shape) > 1 and blocks.axis == len(blocks.shape) - 1


def _parts(blocks: Blocks) -> Iterator[Part]:
    """The ranges of equal blocks; batch axes one after the other where they run the same way."""
    if blocks.axis is None:
        yield 0.0, 1.0, "tensor", 1
        return
    outer = 1 if _across(blocks) else prod(blocks.shape[: blocks.batch])
    if blocks.uniform:
        yield 0.0, 1.0, blocks.kind, outer * blocks.uniform[0]
        return
    size, at = blocks.shape[blocks.axis] * outer, 0
    for _ in range(outer * blocks.repeat):
        for count, length in blocks.runs:
            neurons = "columns" if _across(blocks) else "rows"
            yield at / size, (at + count * length) / size, "heads" if length > 1 else neurons, count
            at += count * length


def _rectangle(axes: Axes, line: Line, x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    blocks = line.entries[0].blocks
    width, height = _sides(blocks)

    def box(begin: float, end: float, color: str, edge: float) -> None:
        if _across(blocks):
            place, wide, high = (x + begin * width, y), (end - begin) * width, height
        else:
            place, wide, high = (x, y + begin * height), width, (end - begin) * height
        axes.add_patch(Rectangle(place, wide, high, facecolor=color, edgecolor="black", linewidth=edge))

    for begin, end, kind, count in _parts(blocks):
        cells = min(count, max(1, ceil(_MOST_CUTS * (end - begin))))
        step = (end - begin) / cells
        for i in range(cells):
            box(begin + i * step, begin + (i + 1) * step, _FILL[kind], 0.4)
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="black", linewidth=0.9))
    parts = line.name.split(".")
    layer, last = ".".join(parts[-2:-1]), parts[-1]
    name = layer or last if last == "weight" else f"{layer}.bias" if last == "bias" else last
    name = name if len(name) <= 19 else f"{name[:9]}…{name[-9:]}"
    unit = "block" if blocks.count == 1 else "blocks"
    label = f"{name}\n{' x '.join(map(str, blocks.shape)) or 'scalar'}\n{blocks.count:,} {unit}"
    axes.text(x, y + height + 0.05, label, fontsize=7, va="top", linespacing=1.15)
