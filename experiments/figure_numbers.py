"""Compares the numbers of redrawn figures with those that are kept: python -m experiments.figure_numbers build/figures figures

The numbers, not the pictures: a picture's bytes change with matplotlib and its fonts. On one machine they come out the
same; another processor adds in another order, so TOLERANCE is what a reader of the picture would not see. The command
names each file and key that is farther off, or that is on one side only, and ends with status 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

TOLERANCE = 1e-2  # relative to the number, or a tenth of that relative to the largest of its list, which is the axis
# Figures of rounding errors: their last digits are the processor's and the compiler's.
ROUNDING = {"08_digits": 0.1, "08_ladders": 0.1, "08_adams_float32": 0.5}
# Left out: no notebook draws these. The first holds timings, the others take minutes of compiling or training.
MADE_ELSEWHERE = {
    "bench": "python -m fast.bench --json",
    "gpu_codegen": "python -m fast.gpu_codegen --json",
    "language_model": "python -m experiments.language_model sweep",
    "10_training_runs": "python -m experiments.language_model compare",
}


def differences(new: Any, kept: Any, tolerance: float = TOLERANCE, key: str = "", axis: float = 0.0) -> Iterator[str]:
    """What of two JSON values is not the same, one line each, with its key. `axis`: the size of the numbers around them."""
    if isinstance(new, dict) and isinstance(kept, dict):
        for name in sorted(new.keys() ^ kept.keys()):
            yield f"{key}[{name!r}]: {'only redrawn' if name in new else 'only kept'}"
        for name in [name for name in kept if name in new]:
            yield from differences(new[name], kept[name], tolerance, f"{key}[{name!r}]", axis)
    elif isinstance(new, list) and isinstance(kept, list):
        if len(new) != len(kept):
            yield f"{key}: {len(new)} entries redrawn, {len(kept)} kept"
            return
        axis = max([abs(x) for x in kept if _is_number(x)], default=axis)
        for i, (a, b) in enumerate(zip(new, kept, strict=True)):
            yield from differences(a, b, tolerance, f"{key}[{i}]", axis)
    elif _is_number(new) and _is_number(kept):
        if not math.isclose(new, kept, rel_tol=tolerance, abs_tol=0.1 * tolerance * axis):
            yield f"{key}: {new} redrawn, {kept} kept"
    elif repr(new) != repr(kept):  # nan is nan
        yield f"{key}: {new!r} redrawn, {kept!r} kept"


def _is_number(x: Any) -> TypeGuard[float]:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def compare(redrawn: Path, kept: Path) -> list[str]:
    """Every difference between the data of two folders of figures, with the name of its file."""
    new, old = ({path.stem: path for path in (folder / "data").glob("*.json")} for folder in (redrawn, kept))
    found = []
    for name in sorted(old.keys() | new.keys() - MADE_ELSEWHERE.keys()):
        if name in MADE_ELSEWHERE:
            continue
        if name not in new or name not in old:
            found.append(f"{name}.json: {'not kept' if name in new else 'not redrawn'}")
            continue
        values = (json.loads(path.read_text(encoding="utf-8")) for path in (new[name], old[name]))
        found += [f"{name}.json{line}" for line in differences(*values, ROUNDING.get(name, TOLERANCE))]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.figure_numbers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("redrawn", type=Path, help="folder of figures that the notebooks have just drawn")
    parser.add_argument("kept", type=Path, help="folder of figures to compare with")
    given = parser.parse_args(arguments)
    found = compare(given.redrawn, given.kept)
    if found:
        print("\n".join(found), file=sys.stderr)
        print("if the new ones are meant, keep them: python -m experiments.notebooks notebooks", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
