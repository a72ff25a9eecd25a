"""What a CUDA card makes of the optimizers: python -m experiments.gpu, or `make gpu`.

In this order, within --minutes: the tests that are marked `cuda`; times by CUDA events, each step between two of fused AdamW,
against a device copy; first steps with an empty and with a full cache. Everything is kept in OUT/gpu.json as soon as it is known;
a second run with the same OUT goes on where the first has ended. OUT/log.txt has what the processes said.

Needs a torch with CUDA, NumPy and pytest, writes nothing into the checkout, and reads nothing from a network. --dry does the same
on a CPU with small tensors: its numbers say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.gpu import numerics
from experiments.gpu.batches import Batch, Command, command
from experiments.gpu.cases import DTYPES, FIRST_STEPS, MODES, PLAN, SETS, Case, plan
from experiments.gpu.child import ROOT, Child, environment, wait_for
from experiments.gpu.record import Record, keep
from experiments.gpu.table import lines

PARTS = ("numerics", "times", "first")
LABELS = tuple(dict.fromkeys(label for *_, labels in PLAN for label in labels))
NUMERICS_SECONDS = 150.0
ROOM = 0.75  # of the card's memory, for first steps side by side
LOG_BYTES = 200_000  # of each process, its last words


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m experiments.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = Path(os.environ.get("OUT") or ROOT / "build" / "gpu")
    made.add_argument("--out", type=Path, default=out, metavar="OUT", help="default: $OUT, or build/gpu")
    made.add_argument("--minutes", type=float, default=7.0, help="for all together (default %(default)s)")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    made.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    made.add_argument(
        "--optimizers", nargs="+", choices=LABELS, default=list(LABELS), metavar="NAME", help=", ".join(LABELS)
    )
    made.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    made.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    made.add_argument(
        "--processes", type=int, help="tests and first steps side by side (default: by the number of cores)"
    )
    made.add_argument("--dry", action="store_true", help="on the CPU, with small tensors, to try the command")
    made.add_argument(
        "--keep",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="copy the numbers of a run to figures/data, and nothing else; of several, the last one's where it has them",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser()
    given = made.parse_args(arguments)
    if given.keep:
        try:
            print(f"{keep(given.keep)}: now python -m experiments.notebooks notebooks/09_speed_and_memory.ipynb")
        except (OSError, ValueError) as error:
            made.error(str(error))
        return 0
    if given.minutes <= 0:
        made.error(f"--minutes must be above 0, got {given.minutes}")
    end = time.monotonic() + 60 * given.minutes
    out = given.out.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        made.error(f"the results cannot be written ({error}): give a folder with --out, or in the variable OUT")
    # the caches are thousands of files, and nobody's result
    with tempfile.TemporaryDirectory(prefix="adamlab-gpu-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        here = machine(given.dry, work)
        if "error" in here:
            print(f"no CUDA device can be used: {here['error']}\n--dry tries the command on a CPU", file=sys.stderr)
            return 2
        batches = plan(given.sets, given.optimizers, given.dtypes, given.modes) if "times" in given.parts else []
        settings = {"minutes": given.minutes, "parts": given.parts, "tests_without": "slow"}
        planned = [case.key for batch in batches for case in batch]
        try:
            record = Record(out / "gpu.json", here, settings, given.dry, planned)
        except ValueError as error:
            made.error(str(error))
        try:
            run(record, given, batches, work, end, command(given.dry))
        finally:
            print("\n".join(lines(record.results)), flush=True)
            logs(work, out / "log.txt")
        print(
            f"\n{record.path}" + ("" if given.dry else f"; to keep it: python -m experiments.gpu --keep {record.path}")
        )
    return 0


def run(record: Record, given: Any, batches: list[list[Case]], work: Path, end: float, start: Command) -> None:
    """The parts, the most valuable first, until the time is over."""
    cores = record.results["machine"].get("cores") or 1
    at_once = given.processes or max(1, cores - 2 if cores > 4 else cores // 2)
    room = ROOM * (record.results["machine"].get("card_gib") or 1000) * 2**30 / 1e9
    for part in given.parts:
        if part == "numerics":
            _numerics(record, work, min(12, at_once), end)
        elif part == "first":
            for label in [label for label in FIRST_STEPS if label in given.optimizers]:
                first_steps(record, label, work, end, start)
            said(record, part)
        else:
            _times(record, batches, work, end, start, at_once, room)


def _numerics(record: Record, work: Path, parts: int, end: float) -> None:
    if record.results["numerics"].get("complete"):
        return

    def found(numbers: dict[str, Any]) -> None:
        record.results["numerics"] = numbers
        record.write()

    numerics.run(work, parts, min(NUMERICS_SECONDS, end - time.monotonic()), found)
    record.results["numerics"]["complete"] = not record.results["numerics"]["without_a_result"]
    record.write()
    said(record, "numerics")


def _times(
    record: Record, batches: list[list[Case]], work: Path, end: float, start: Command, at_once: int, room: float
) -> None:
    def add(key: str, numbers: dict[str, Any]) -> None:
        record.add("rows", key, numbers)

    for cases in batches:
        waiting = [case for case in cases if not record.has("rows", case.key, "ms")]
        if waiting and time.monotonic() < end:
            Batch(waiting, work, add, start, SETS[cases[0].set].seconds, end, at_once, room).run()
            said(record, waiting[0].key.rpartition("/")[0])


def said(record: Record, part: str) -> None:
    """A line as a part is done, for who looks on."""
    rows = [row for key, row in record.results["rows"].items() if key.startswith(f"{part}/")]
    print(
        f"[{time.strftime('%H:%M:%S')}] {part}" + (f": {sum('ms' in row for row in rows)} measured" if rows else ""),
        flush=True,
    )


def machine(dry: bool, work: Path) -> dict[str, Any]:
    """What a process says of the card; it may be that it cannot use one, or hangs where it tries."""
    command = [sys.executable, "-m", "experiments.gpu.worker", json.dumps({"machine": True, "dry": dry})]
    child = Child(command, environment(work, work / "cache"), work / "machine.txt", ROOT)
    found: dict[str, Any] = {}
    try:
        while child.alive and child.seconds < 90:
            wait_for([child], 1)
            for line in child.lines():
                found |= line
    finally:
        child.end()
    return found or {"error": child.last_words() or "no answer in 90 s"}


def first_steps(record: Record, label: str, work: Path, end: float, start: Command) -> None:
    """The first step with an empty cache, and in a new process with what that one has left, each with nobody beside it."""
    case = Case(label, set="llama-60m")
    for name in ("cold", "warm"):
        if record.results["first_steps"].get(label, {}).get(name) is not None or time.monotonic() > end:
            continue
        own = environment(work, work / "cache" / f"first-{label}")
        child = Child(start(case), own, work / f"first-{label}-{name}.txt", ROOT)
        limit, found = min(end, time.monotonic() + SETS[case.set].seconds), {}
        try:
            while child.alive and "ready" not in found and time.monotonic() < limit:
                wait_for([child], limit - time.monotonic())
                for line in child.lines():
                    found |= line
        finally:
            child.end()
        failed = found.get("error") or f"over {child.seconds:.0f} s, or ended: {child.last_words()}"
        record.add("first_steps", label, {name: found["first_step_s"] if "ready" in found else failed})


def logs(work: Path, target: Path) -> None:
    """One file of what all processes said: a folder of many would not be carried away."""
    with target.open("w", encoding="utf-8") as file:
        for path in sorted(work.glob("*.txt")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                file.write(f"==== {path.stem}\n{text[-LOG_BYTES:]}\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are ended, too
    raise SystemExit(main())
