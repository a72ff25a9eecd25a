"""Compares the numbers of redrawn figures with those that are kept: python -m experiments.figures build/figures figures

The numbers, not the pictures: a picture's bytes change with matplotlib and its fonts. Another processor adds in another
order, so each number is held as its kind allows, and each figure's data say what kind its numbers are (`figures.save`):

    formula    a formula gives it, or a run that forgets its rounding errors: within TOLERANCE of the largest number of its
               curve, that is of the list that it stands in. 1e-9 is as good as 0 on an axis that reaches to 1.
    steps      a count of steps until something happens: within one step, or STEPS of the count
    digits     how many digits of two results agree: within DIGITS digits. The last bits are the processor's.
    seeds      a chaotic run repeated from several seeds, the innermost lists: the redrawn runs must not all lie above nor
               all below the kept ones. Of n and n runs alike that happens once in binomial(2 n, n) / 2 (n = 8: 6,435).
    machine    of the machine and the day, or of one run of a chaotic training: it must be there, and may be anything

The command prints one line for each figure that is farther off: file, key, worst pair, what is allowed, how many more;
and ends with status 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

TOLERANCE = 1e-4
STEPS = 0.01
DIGITS = 1.5
KINDS = ("formula", "steps", "digits", "seeds", "machine")
HEAD = ("kind", "made by")  # what a figure's data say of themselves


@dataclass(frozen=True)
class Difference:
    """Two values that are farther apart than `allowed`; inf: of values that cannot be compared, such as a text and a number."""

    key: str
    new: Any
    kept: Any
    distance: float = math.inf
    allowed: float = 0.0

    @property
    def excess(self) -> float:
        return self.distance / self.allowed if self.allowed else math.inf

    def __str__(self) -> str:
        apart = "" if math.isinf(self.distance) else f", {self.distance:.2g} apart where {self.allowed:.2g} is allowed"
        return f"{self.key}: {_short(self.new)} redrawn, {_short(self.kept)} kept{apart}"


def differences(new: Any, kept: Any, kind: str, key: str = "") -> Iterator[Difference]:
    """What of two JSON values differs by more than `kind` allows."""
    if kind not in KINDS:
        raise ValueError(f"{key}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "machine":
        return
    if isinstance(new, dict) and isinstance(kept, dict):
        for name in sorted(new.keys() ^ kept.keys()):
            yield Difference(f"{key}[{name!r}]", new.get(name, "nothing"), kept.get(name, "nothing"))
        for name in [name for name in kept if name in new]:
            yield from differences(new[name], kept[name], kind, f"{key}[{name!r}]")
    else:
        yield from _curves(new, kept, kind, key, max(map(abs, _numbers(kept)), default=0.0))


def _curves(new: Any, kept: Any, kind: str, key: str, size: float) -> Iterator[Difference]:
    """The same of two lists or single values, which are one curve, whose largest number is `size`."""
    if isinstance(new, list) and isinstance(kept, list):
        if len(new) != len(kept):
            yield Difference(key, f"{len(new)} entries", f"{len(kept)} entries")
        elif kind == "seeds" and kept and all(map(is_number, [*new, *kept])):
            gap = max(min(new) - max(kept), min(kept) - max(new))
            if gap > TOLERANCE * size:
                yield Difference(key, new, kept, gap, TOLERANCE * size)
        else:
            for i, (a, b) in enumerate(zip(new, kept, strict=True)):
                yield from _curves(a, b, kind, f"{key}[{i}]", size)
    elif is_number(new) and is_number(kept):
        allowed = {"steps": max(1.0, STEPS * abs(kept)), "digits": DIGITS}.get(kind, TOLERANCE * size)
        if abs(new - kept) > allowed:
            yield Difference(key, new, kept, abs(new - kept), allowed)
    elif repr(new) != repr(kept):  # nan is nan
        yield Difference(key, new, kept)


def _numbers(x: Any) -> Iterator[float]:
    if isinstance(x, list):
        for value in x:
            yield from _numbers(value)
    elif is_number(x):
        yield x


def is_number(x: Any) -> TypeGuard[float]:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _short(x: Any) -> str:
    if isinstance(x, list) and x and all(map(is_number, x)):
        return f"{min(x)} to {max(x)}"
    text = x if isinstance(x, str) else repr(x)
    return text if len(text) < 60 else text[:57] + "..."


def of_figure(new: Mapping[str, Any], kept: Mapping[str, Any]) -> list[Difference]:
    """Every difference between the data of one figure, redrawn and kept. The kept one says of what kind each key is."""
    kinds = kept["kind"]
    found = [d for k in HEAD for d in differences(new.get(k), kept.get(k), "formula", f"[{k!r}]")]
    new, kept = ({k: v for k, v in data.items() if k not in HEAD} for data in (new, kept))
    for name in [*kept, *(name for name in new if name not in kept)]:
        if name not in new or name not in kept:
            found.append(Difference(f"[{name!r}]", new.get(name, "nothing"), kept.get(name, "nothing")))
        else:
            kind = kinds if isinstance(kinds, str) else kinds[name]
            found += differences(new[name], kept[name], kind, f"[{name!r}]")
    return found


def compare(redrawn: Path, kept: Path) -> dict[str, str]:
    """Each figure that differs, and how, in one line: its worst number and how many more. Figures are named as their files.

    One that is made apart from the notebooks, as its "made by" says, need not be redrawn. Data without a picture (bench.json)
    are not a figure.
    """
    new, old = (
        {p.stem: p.parent / "data" / f"{p.stem}.json" for p in folder.glob("*.svg")} for folder in (redrawn, kept)
    )
    found = {}
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            found[name] = "not kept"
            continue
        data = json.loads(old[name].read_text(encoding="utf-8"))
        if name not in new:
            if "made by" not in data:
                found[name] = "not redrawn"
            continue
        differ = of_figure(json.loads(new[name].read_text(encoding="utf-8")), data)
        if differ:
            more = f"; and {len(differ) - 1} more" if len(differ) > 1 else ""
            found[name] = f"{max(differ, key=lambda d: d.excess)}{more}"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.figures", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("redrawn", type=Path, help="folder of figures that have just been drawn")
    parser.add_argument("kept", type=Path, help="folder of figures to compare with")
    given = parser.parse_args(arguments)
    for folder in (given.redrawn, given.kept):
        if not any(folder.glob("*.svg")):
            parser.error(f"no figures in {folder}")
    found = compare(given.redrawn, given.kept)
    for name, line in found.items():
        print(f"{name}.json{'' if line.startswith('[') else ': '}{line}", file=sys.stderr)
    if found:
        print("if the new ones are meant, keep them: make reproduce KEEP=1", file=sys.stderr)
    return int(bool(found))
