"""The trials of the protocol, the papers' recipes, and a trial for one GPU: see --help of each."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from experiments.trials import gpu, recipes
from experiments.trials.protocol import PATH, Protocol
from experiments.trials.run import OutOfTimeError, Place, Runner

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "figures" / "data" / "trials"


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
    _recipe(commands.add_parser("recipe", help="a paper's setting; under torchrun on several cards"))
    _gpu(commands.add_parser("gpu", help="a small model on one GPU, six optimizers, tuned; goes on where it was cut"))
    return top


def _recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help=f"one of {', '.join(recipes.read())}")
    command.add_argument("--optimizer", metavar="NAME", help="one of the recipe's (with --dry: default all)")
    command.add_argument("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--lr", type=float, help="default: the recipe's, as all that follows")
    command.add_argument("--steps", type=int, help="a shorter schedule")
    command.add_argument("--passes", type=int, help="parts of the batch that go through one card one after the other")
    command.add_argument(
        "--option", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="of the task, in JSON"
    )
    command.add_argument("--log", type=Path, default=Path("runs/recipes"), help="folder of logs (default %(default)s)")
    command.add_argument("--dry", action="store_true", help="counts and one step on a slice; reads no data")


def _gpu(command: argparse.ArgumentParser) -> None:
    out = Path(os.environ.get("OUT") or ROOT / "build" / "trials-gpu")
    command.add_argument("--out", type=Path, default=out, metavar="OUT", help="default: $OUT, or build/trials-gpu")
    command.add_argument("--minutes", type=float, default=6.0, help="for all together (default %(default)s)")
    command.add_argument("--device", default="cuda")
    command.add_argument("--processes", type=int, help="runs that share the card (default: by the cores, 8 at most)")
    command.add_argument(
        "--warmup",
        type=float,
        default=gpu.FULL.warmup,
        help="the part of the steps that it takes (default %(default)s)",
    )
    command.add_argument("--dry", action="store_true", help="on the CPU, with tiny sizes, to try the command")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 3 where the minutes were over before the trials."""
    began = time.time()
    top = parser()
    args = top.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    commands = {"run": run, "recipe": recipe, "gpu": lambda _, args: on_one_gpu(top, args, began)}
    try:
        return commands[args.command](top, args)
    except OutOfTimeError:
        print("the minutes are over; the same command goes on", file=sys.stderr)
        return 3
    except (ValueError, ImportError, FileNotFoundError, ConnectionError) as error:
        top.exit(2, f"{top.prog}: error: {error}\n")


def recipe(top: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    found = recipes.find(args.name)
    if args.dry:
        print("\n".join(recipes.lines(found, recipes.counts(found, args.optimizer))))
        for name in [args.optimizer] if args.optimizer else list(found.optimizers)[:1]:
            print(f"  one step of {name} on a slice: {recipes.step_on_a_slice(found, name)}")
        return 0
    if args.optimizer is None:
        top.exit(2, f"{top.prog}: error: expected --optimizer, one of {', '.join(found.optimizers)}\n")
    config = found.config(args.optimizer, seed=args.seed, lr=args.lr, steps=args.steps)
    options = {name: _value(value) for name, value in args.option}
    records = recipes.train(found, config, args.log, device=args.device, passes=args.passes, options=options)
    if records[-1]["event"] == "end":  # else another process has it
        print(json.dumps(records[-1]))
    return 0


def _value(text: str) -> object:
    """Of JSON, or the text itself where it is none: a folder's name, say."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def on_one_gpu(top: argparse.ArgumentParser, args: argparse.Namespace, began: float) -> int:
    device = "cpu" if args.dry else args.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        top.exit(2, f"{top.prog}: error: no CUDA device can be used; --dry tries the command on a CPU\n")
    if args.minutes <= 0 or (args.processes is not None and args.processes < 1):
        top.exit(2, f"{top.prog}: error: expected --minutes above 0 and --processes of 1 or more\n")
    if not 0 <= args.warmup <= 1:
        top.exit(2, f"{top.prog}: error: --warmup {args.warmup}: expected a part of the steps, 0 to 1\n")
    plan = replace(gpu.DRY if args.dry else gpu.FULL, warmup=args.warmup)
    until = began + 60 * args.minutes
    trial = gpu.Trial(plan, args.out, device, until, args.processes or gpu.processes(device))
    try:
        trial.all()
    finally:
        trial.close()
        print("\n".join([*gpu.lines(trial.results(finished=False)), str(trial.path)]), flush=True)
    return 0


def run(top: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    protocol = Protocol.read(args.protocol)
    unknown = set(args.only) - set(protocol.trials)
    if unknown or args.jobs < 1:
        top.exit(2, f"{top.prog}: error: expected trials of {', '.join(protocol.trials)} and --jobs of 1 or more\n")
    until = time.time() + 60 * args.minutes if args.minutes else float("inf")
    runner = Runner(protocol, Place(args.log, until), args.results, args.jobs)
    try:
        runner.all(args.only)
    finally:
        runner.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
