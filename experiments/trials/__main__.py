"""python -m experiments.trials run ...: see --help."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.trials.protocol import PATH, Protocol
from experiments.trials.run import OutOfTimeError, Place, Runner

RESULTS = Path(__file__).resolve().parents[2] / "figures" / "data" / "trials"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m experiments.trials", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="the trials of experiments/protocol.toml; goes on where it was stopped")
    run.add_argument("--only", nargs="+", default=[], metavar="TRIAL", help="default: all, in the protocol's order")
    run.add_argument("--protocol", type=Path, default=PATH, help="another version of it (default %(default)s)")
    run.add_argument("--jobs", type=int, default=2, help="runs side by side, a thread each (default %(default)s)")
    run.add_argument("--minutes", type=float, help="begin no run after that (default: no limit)")
    run.add_argument("--log", type=Path, default=Path("runs/trials"), help="folder of logs (default %(default)s)")
    run.add_argument("--results", type=Path, default=RESULTS, help="folder of the results (default %(default)s)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 3 where the minutes were over before the trials."""
    top = parser()
    args = top.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    protocol = Protocol.read(args.protocol)
    unknown = set(args.only) - set(protocol.trials)
    if unknown or args.jobs < 1:
        top.exit(2, f"{top.prog}: error: expected trials of {', '.join(protocol.trials)} and --jobs of 1 or more\n")
    until = time.time() + 60 * args.minutes if args.minutes else float("inf")
    runner = Runner(protocol, Place(args.log, until), args.results, args.jobs)
    try:
        runner.all(args.only)
    except OutOfTimeError:
        print("the minutes are over; the same command goes on", file=sys.stderr)
        return 3
    except (ValueError, ImportError, FileNotFoundError) as error:
        top.exit(2, f"{top.prog}: error: {error}\n")
    finally:
        runner.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
