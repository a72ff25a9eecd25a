"""What each shortcut of fast/_kernels/shortcuts.py brings: steps with it and without it, in turn, in one process."""

from __future__ import annotations

import time
from statistics import median, quantiles
from typing import Any

from experiments.bench.sets import CONTESTANTS, Shape, make
from fast._kernels import shortcuts

NAMES = [name for name in vars(shortcuts) if name.isupper()]


def worth(label: str, shapes: list[Shape], without: str, rounds: int) -> dict[str, Any]:
    """The ratio of a step without to a step with, over the rounds: the median and the quartiles."""
    switched = {on: CONTESTANTS[label].make(make(shapes)) for on in (True, False)}
    times: dict[bool, list[float]] = {True: [], False: []}
    try:
        for i in range(rounds + 3):  # three to warm up
            for on in (True, False) if i % 2 else (False, True):
                setattr(shortcuts, without, on)
                begin = time.perf_counter()
                switched[on].step()
                times[on].append((time.perf_counter() - begin) * 1e3)
    finally:
        setattr(shortcuts, without, True)
    found = [off / on for off, on in zip(times[False][3:], times[True][3:], strict=True)]
    low, _, high = quantiles(found, n=4, method="inclusive")
    return {
        "ratio": median(found),
        "ratio_quartiles": [low, high],
        "ms": median(times[True][3:]),
        "ms_without": median(times[False][3:]),
        "rounds": rounds,
    }


def line(label: str, without: str, row: dict[str, Any]) -> str:
    low, high = row["ratio_quartiles"]
    return (
        f"  {label:18}without {without:7}{row['ratio']:7.2f} times as long ({low:.2f} to {high:.2f}):"
        f" {row['ms_without']:.2f} ms, with it {row['ms']:.2f} ms"
    )
