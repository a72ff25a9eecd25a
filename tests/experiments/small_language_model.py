"""A corpus and a Llama so small that a training run takes a second: what the tests of experiments.language_model share.

The fixtures reach a test module by assignment: `corpus, offline, texts = small.corpus, small.offline, small.texts`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.language_model import train
from experiments.tasks import language as llama
from experiments.tasks import sources, tokens

TINY = train.Config(
    steps=9, warmup=3, batch=2, context=16, hidden=16, layers=1, heads=2, eval_every=4, eval_windows=3, compile=False
)
SHAPE = ["--steps", "4", "--warmup", "1", "--batch", "2", "--context", "16", "--hidden", "16", "--layers", "1"]
SMALL = [*SHAPE, "--heads", "2", "--eval-every", "2", "--eval-windows", "3", "--vocab", "300", "--no-compile"]


@pytest.fixture(scope="module", autouse=True)
def offline() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small files: some of the standard library's modules, cut short."""
    root = tmp_path_factory.mktemp("texts")
    for document in list(sources.stdlib())[:60]:
        path = root / document.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document.text[:1500].encode())
    return root


@pytest.fixture(scope="module")
def corpus(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tokens.Corpus:
    return tokens.load(str(texts), vocab=300, cache=tmp_path_factory.mktemp("cache"))


def tiny_model(corpus: tokens.Corpus, seed: int = 0) -> torch.nn.Module:
    return llama.build(vocab=corpus.vocab, hidden=16, layers=1, heads=2, context=16, seed=seed)
