"""Runs of the small Llama by the commands of this package: the loop of `experiments.trials` on the task `language`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.tasks.language import Language
from experiments.tasks.tokens import Corpus
from experiments.trials import loop
from experiments.trials.loop import Record

SHAPE = ("context", "hidden", "layers", "heads", "eval_windows")


@dataclass(frozen=True)
class Config(loop.Config):
    """The loop's configuration, and the model's shape."""

    context: int = 128
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    eval_windows: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in SHAPE:
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 1 or more")


def parts(config: Config, corpus: Corpus) -> tuple[loop.Config, Language]:
    fields = {k: v for k, v in asdict(config).items() if k not in SHAPE}
    return loop.Config(**fields), Language(corpus, **{k: getattr(config, k) for k in SHAPE})


def run(
    config: Config,
    corpus: Corpus,
    folder: Path,
    *,
    device: str = "cpu",
    checkpoint_every: int = 100,
    on_step: Callable[[int, float], None] | None = None,
) -> list[Record]:
    """See `loop.run`."""
    return loop.run(*parts(config, corpus), folder, device=device, checkpoint_every=checkpoint_every, on_step=on_step)
