"""python -m experiments.language_model train|sweep|compare ...: see --help of each."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from experiments.language_model import compare
from experiments.language_model.train import Config, run
from experiments.tasks import sources, tokens
from experiments.trials import optimizers
from experiments.trials.loop import Record
from fast.partition.extras import needs


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m experiments.language_model", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="one run; goes on where its checkpoint is")
    train.add_argument("--optimizer", default=Config.optimizer, help=f"one of {', '.join(optimizers.REGISTRY)}")
    train.add_argument("--lr", type=float, default=Config.lr, help="peak learning rate (default %(default)s)")
    train.add_argument(
        "--seed", type=int, default=Config.seed, help="of the weights and the order of the text (default 0)"
    )
    sweep = commands.add_parser(
        "sweep", help="optimizers x learning rates x seeds, a table and a figure; finished runs are kept"
    )
    sweep.add_argument(
        "--optimizers", nargs="+", default=["adamw", "grams"], metavar="NAME", help="default: adamw grams"
    )
    sweep.add_argument(
        "--lrs",
        nargs="+",
        type=float,
        metavar="LR",
        help="for all optimizers; default: three for each, from the registry",
    )
    sweep.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="default: 0")
    sweep.add_argument("--no-figure", action="store_true", help="the table only: figures/ stays as it is")
    each = commands.add_parser(
        "compare", help="every optimizer once, at its best of a few rates, beside the released packages; no ranking"
    )
    each.add_argument(
        "--optimizers",
        nargs="+",
        default=list(compare.RATES),
        metavar="NAME",
        help=f"default: {' '.join(compare.RATES)}",
    )
    each.add_argument("--lrs", nargs="+", type=float, metavar="LR", help="for all; default: two or three for each")
    each.add_argument(
        "--seed", type=int, default=Config.seed, help="of the weights and the order of the text (default 0)"
    )
    each.add_argument("--no-figure", action="store_true", help="the table only: figures/ stays as it is")
    for command in (train, sweep, each):
        _common(command)
    each.set_defaults(**compare.DEFAULTS)
    return top


def _common(command: argparse.ArgumentParser) -> None:
    size = command.add_argument_group("model and schedule")
    for name, meaning in (
        ("steps", "optimizer steps"),
        ("warmup", "steps until the peak learning rate; then a cosine to a tenth of it"),
        ("batch", "windows a step"),
        ("context", "tokens a window"),
        ("hidden", "width"),
        ("layers", "transformer blocks"),
        ("heads", "attention heads"),
        ("eval_every", "steps between looks at the held-out text"),
        ("eval_windows", "held-out windows looked at"),
    ):
        size.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            default=getattr(Config, name),
            help=f"{meaning} (default %(default)s)",
        )
    size.add_argument("--vocab", type=int, default=2048, help="tokens of the BPE (default %(default)s)")
    rule = command.add_argument_group("optimizer")
    rule.add_argument(
        "--weight-decay", type=float, help="of matrices and embeddings; norms never decay (default 0.1; adam 0)"
    )
    rule.add_argument("--betas", type=float, nargs=2, metavar=("B1", "B2"), help="default: the optimizer's own")
    rule.add_argument("--clip", type=float, default=0.0, help="clip the gradient's norm to this (default 0: off)")
    rule.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="this project's optimizers: default where a compiler is found",
    )
    place = command.add_argument_group("data and files")
    place.add_argument(
        "--data", default="stdlib", help="stdlib, a folder of text files, or hub:NAME[:CONFIG][:SPLIT][:COLUMN]"
    )
    place.add_argument(
        "--hub-bytes", type=int, default=sources.HUB_BYTES, help="text taken off a hub stream (default %(default)s)"
    )
    place.add_argument(
        "--log",
        type=Path,
        default=Path("runs/language_model"),
        help="folder of logs and checkpoints (default %(default)s)",
    )
    place.add_argument(
        "--cache", type=Path, default=Path("runs/cache"), help="folder of tokenised text (default %(default)s)"
    )
    place.add_argument("--checkpoint-every", type=int, default=100, help="steps; 0: never (default %(default)s)")
    place.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default %(default)s)")
    place.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, help="progress bars on stderr; default: on a terminal"
    )


def _shared(args: argparse.Namespace) -> dict[str, Any]:
    shared: dict[str, Any] = {f.name: getattr(args, f.name) for f in fields(Config) if hasattr(args, f.name)}
    return shared | {"betas": tuple(shared["betas"]) if shared["betas"] else None}


def configs(args: argparse.Namespace) -> list[Config]:
    shared = _shared(args)
    if args.command == "train":
        return [Config(**shared)]
    chosen = []
    for name in args.optimizers:
        rates = args.lrs or optimizers.entry(name).lrs
        if not rates:
            raise ValueError(f"no learning rates are known for {name!r} yet: give --lrs")
        chosen += [
            Config(**{**shared, "optimizer": name, "lr": lr, "seed": seed})
            for lr, seed in itertools.product(rates, args.seeds)
        ]
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Wrong arguments, a missing package, no hub: one line on stderr and exit status 2."""
    top = parser()
    args = top.parse_args(argv)
    try:
        if args.command == "compare":
            return _compare(args)
        chosen = configs(args)
        for name in dict.fromkeys(c.optimizer for c in chosen):
            optimizers.find(name)  # before the first run, not after an hour
        corpus = tokens.load(args.data, vocab=args.vocab, cache=args.cache, hub_bytes=args.hub_bytes)
        logs = [_watched(config, corpus, args, f"{n}/{len(chosen)}") for n, config in enumerate(chosen, 1)]
    except (ValueError, ImportError, FileNotFoundError, ConnectionError) as error:
        top.exit(2, f"{top.prog}: error: {error}\n")
    from experiments.language_model import report

    print(report.table(logs))
    if args.command == "sweep" and not args.no_figure:
        print(f"figure: {report.write(logs)}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    """Exit status 1 where ours, in a released package's form, does not give the package's run."""
    from experiments.language_model import side_by_side

    compare.check(args.optimizers)
    corpus = tokens.load(args.data, vocab=args.vocab, cache=args.cache, hub_bytes=args.hub_bytes)
    found = compare.train_each(
        args.optimizers, _shared(args), lambda config, place: _watched(config, corpus, args, place), args.lrs
    )
    result = side_by_side.summary(found)
    print(side_by_side.table(result))
    if not args.no_figure:
        print(f"figure: {side_by_side.write(result)}")
    return int(any(pair["agrees"] is False for pair in result["twins"]))


def _watched(config: Config, corpus: tokens.Corpus, args: argparse.Namespace, place: str) -> list[Record]:
    with needs("experiments", "the progress bar"):
        from tqdm import tqdm

    hidden = None if args.progress is None else not args.progress  # None: tqdm hides itself where stderr is no terminal
    label = f"{place} {config.optimizer} lr {config.lr:g} seed {config.seed}"
    with tqdm(total=config.steps, desc=label, disable=hidden, file=sys.stderr, unit="step") as bar:

        def on_step(step: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        return run(
            config, corpus, args.log, device=args.device, checkpoint_every=args.checkpoint_every, on_step=on_step
        )


if __name__ == "__main__":
    sys.exit(main())
