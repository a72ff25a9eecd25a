"""How a partition shows itself in words: a text table, and HTML for Jupyter. Layers that are alike share one line."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
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
