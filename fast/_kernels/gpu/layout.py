"""Divides tensors into lines, and picks the kind of kernel and its block sizes."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from fast._kernels.gpu.code import COLUMNS, ROWS, SLABS, Form
from fast._kernels.update import Stage

FLAT = 2048  # entries that a program takes
PART = 4096  # places of a part of a longer line
TILES = (128, 512, 1024, 2048, 4096, 8192)  # places of a line that a program takes; as many lines as make FLAT entries
# entries of all tensors that a program keeps at once; half of them where each is addressed by itself
REGISTERS = 5 * 8192
MANY, NEAR = 512, 65536  # lines enough to share the work out; places of one that a cache keeps between two passes
WIDE = 64  # lines, and places of each, where a line's entries lie apart
SHARES = {ROWS: 1024, COLUMNS: 32, SLABS: 1024}  # segments of a split line at most
LEAST_SEGMENT = {ROWS: 4096, COLUMNS: 256, SLABS: 4096}
LONGEST = 2**31 - 2**20  # places of a line that an int32 counts


@dataclass(frozen=True)
class Cut:
    """How a tensor is laid out in lines: what the table says of it. Strides in entries."""

    lines: int
    length: int
    inner: int
    outer: int
    across: int

    @property
    def layout(self) -> int:
        if self.inner == self.length or self.length == 1:
            return ROWS
        return COLUMNS if self.inner == 1 and self.across == 1 else SLABS

    @property
    def regular(self) -> bool:
        """Whether all lines begin where an address of 16 bytes does, and are as long."""
        if self.layout == COLUMNS:
            return self.lines % 16 == 0 and self.outer % 16 == 0
        return all(n % 16 == 0 for n in (self.length, self.across, self.inner, self.outer))


@dataclass(frozen=True)
class Variant:
    """What decides a launch's machine code, beside the form."""

    kind: str  # "flat", "lines", "loops" or "split"
    block: int
    lines: int
    shares: int
    layout: int
    aligned: bool

    def options(self) -> dict[str, Any]:
        return {
            "BLOCK": self.block,
            "LINES": self.lines,
            "SHARES": self.shares,
            "LAYOUT": self.layout,
            "ALIGNED": self.aligned,
            # a product and a sum rounded one after the other, as torch's own operations round them
            "enable_fp_fusion": False,
            "num_warps": max(4, min(16, self.block * self.lines // 256)) if self.kind == "lines" else 8,
        }


@functools.cache
def cut_of(shape: tuple[int, ...], stride: tuple[int, ...], word: str, stage: Stage) -> Cut:
    """How a tensor of a stage, less its batch, lies in lines."""
    axes = [c for c in word if c not in stage.batch]
    size = dict(zip(axes, shape, strict=True))
    stride_of = dict(zip(axes, stride, strict=True))
    lines = math.prod(size[c] for c in axes if c in stage.line)
    across = next((stride_of[c] for c in axes if c in stage.line), 0)
    places = [c for c in axes if c not in stage.line]
    length = math.prod(size[c] for c in places)
    # places that lie side by side: the last axis, and those before it whose entries follow each other
    inner = outer = 1
    if places:
        inner, outer = size[places[-1]], 0
        if stride_of[places[-1]] != 1 and inner > 1:
            inner, outer = 1, stride_of[places[-1]]
        elif len(places) > 1:
            outer = stride_of[places[-2]]
            if outer == inner or size[places[-2]] == 1:
                inner, outer = length, 0
    return Cut(lines, length, inner, outer, across if lines > 1 else 0)


@functools.cache
def variant_of(form: Form, cut: Cut, aligned: bool) -> Variant:
    if not form.levels and not form.lined and cut.layout == ROWS:
        return Variant("flat", FLAT, 1, 1, ROWS, aligned)
    layout, aligned = cut.layout, aligned and cut.regular
    levels = form.levels
    if layout == ROWS:
        most = REGISTERS // form.long // (1 if aligned else 2)
        tile = next((tile for tile in TILES if cut.length <= tile <= most), None)
        if tile is not None:
            return Variant("lines", tile, max(1, FLAT // tile) if cut.lines > 1 else 1, 1, layout, aligned)
        if levels != 1 or (cut.lines >= MANY and cut.length <= NEAR):
            return Variant("loops", PART, 1, 1, layout, aligned)
    wide = layout == COLUMNS
    block, lines = (WIDE, WIDE) if wide else (PART if aligned and form.long > 2 else PART // 2, 1)
    return Variant("split" if levels else "loops", block, lines, SHARES[layout] if levels else 1, layout, aligned)


def segments_of(variant: Variant, cut: Cut) -> tuple[int, int]:
    """How many segments a line is split into, and how long they are."""
    if variant.kind != "split":
        return 1, cut.length
    least = LEAST_SEGMENT[variant.layout]
    count = min(variant.shares, -(-cut.length // least))
    segment = -(-cut.length // count)
    segment = -(-segment // variant.block) * variant.block
    return -(-cut.length // segment), segment
