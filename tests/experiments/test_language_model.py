"""experiments.language_model: tokens, windows, the model and its perplexity, optimizers by name, the schedule."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_language_model as small
import torch
from small_language_model import tiny_model
from torch.nn import functional as F

from experiments.tasks import language as llama
from experiments.tasks import tokens
from experiments.trials import loop, optimizers

corpus, offline, texts = small.corpus, small.offline, small.texts


# ---- tokens and windows


def test_tokens_round_trip_and_count_their_bytes(corpus: tokens.Corpus) -> None:
    text = "def f(x):\n\treturn 'naïve €'  # 漢字 \U0001f600\r\n"
    ids = tokens.encode(corpus.tokenizer, [text, "x"])
    first = ids[: list(ids).index(corpus.vocab - 1)]
    assert corpus.tokenizer.decode([int(i) for i in first]) == text
    assert corpus.token_bytes[first].sum() == len(text.encode())
    assert corpus.token_bytes[ids].sum() == len(text.encode()) + 1
    assert (corpus.vocab, ids.dtype, corpus.token_bytes[-1]) == (300, np.uint16, 0)
    assert corpus.token_bytes[corpus.held_out].sum() == corpus.facts["held_out_bytes"]
    assert corpus.token_bytes[corpus.train].sum() == corpus.facts["train_bytes"]


def test_equal_text_comes_from_the_cache(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokens.load(str(texts), vocab=300, cache=tmp_path / "cache")
    again = tokens.load(str(texts), vocab=300, cache=tmp_path / "other")
    assert (first.train == again.train).all() and first.tokenizer.to_str() == again.tokenizer.to_str()

    with monkeypatch.context() as patch:
        patch.delattr(tokens, "train_bpe")  # from here a second training would fail
        cached = tokens.load(str(texts), vocab=300, cache=tmp_path / "cache")
    assert (first.train == cached.train).all() and (first.held_out == cached.held_out).all()
    assert first.facts == cached.facts
    copy = tmp_path / "copy"
    shutil.copytree(texts, copy)
    changed = next(copy.rglob("*.py"))
    changed.write_text(changed.read_text() + "#")
    assert tokens.load(str(copy), vocab=300, cache=tmp_path / "cache").facts["key"] != first.facts["key"]
    assert tokens.load(str(texts), vocab=299, cache=tmp_path / "cache").facts["key"] != first.facts["key"]
    assert len(list((tmp_path / "cache").iterdir())) == 3  # and nothing half written


def test_a_failed_cache_leaves_nothing_behind(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tokens.np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        tokens.load(str(texts), vocab=300, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_batches_cover_an_epoch_once() -> None:
    ids = np.arange(101, dtype=np.uint16)
    batches = tokens.Batches(ids, context=10, batch=2, seed=1)
    epochs = [[batches(step) for step in range(5 * e, 5 * e + 5)] for e in range(2)]
    for epoch in epochs:
        inputs, targets = (torch.cat(x) for x in zip(*epoch, strict=True))
        assert sorted(inputs.flatten().tolist()) == list(range(100))
        assert torch.equal(targets, inputs + 1)
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])
    assert torch.equal(tokens.Batches(ids, context=10, batch=2, seed=1)(7)[0], epochs[1][2][0])
    assert not torch.equal(tokens.Batches(ids, context=10, batch=2, seed=2)(0)[0], epochs[0][0][0])
    with pytest.raises(ValueError, match=r"101 tokens, 10 windows of 10: fewer than a batch of 11"):
        tokens.Batches(ids, context=10, batch=11, seed=1)


# ---- the model and its perplexity


def test_weights_follow_the_seed_alone(corpus: tokens.Corpus) -> None:
    before = torch.get_rng_state()
    one = tiny_model(corpus)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    two, other = tiny_model(corpus), tiny_model(corpus, seed=1)
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
    with pytest.raises(ValueError, match=r"--hidden 10 --heads 3: a head's width"):
        llama.build(vocab=300, hidden=10, layers=1, heads=3, context=16, seed=0)


def test_perplexity_by_hand(corpus: tokens.Corpus) -> None:
    """Against a plain loop over the chosen windows; a head of zeros is the uniform guess, perplexity = vocabulary."""
    model = tiny_model(corpus)
    there = (len(corpus.held_out) - 1) // 16
    nats, size = 0.0, 0
    for w in {0, (there - 1) // 2, there - 1}:
        row = torch.from_numpy(corpus.held_out[16 * w : 16 * w + 17].astype(np.int64))
        with torch.no_grad():
            scores = F.log_softmax(model(input_ids=row[None, :-1]).logits[0].double(), dim=-1)
        nats -= sum(float(scores[i, row[i + 1]]) for i in range(16))
        size += sum(int(corpus.token_bytes[t]) for t in row[1:])
    held = llama.evaluate(model, corpus, context=16, windows=3, batch=2)
    assert (held.tokens, held.bytes) == (48, size)
    assert held.loss == pytest.approx(nats / 48, rel=1e-6)  # fp32 sums against fp64
    assert held.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-6)
    assert held.perplexity == pytest.approx(math.exp(held.loss))
    assert held == llama.evaluate(model, corpus, context=16, windows=3, batch=2)
    assert model.training
    with torch.no_grad():
        model.get_parameter("lm_head.weight").zero_()
    assert llama.evaluate(model, corpus, context=16, windows=10**6).perplexity == pytest.approx(300, rel=1e-5)


# ---- optimizers


def test_norms_do_not_decay_and_all_else_does(corpus: tokens.Corpus) -> None:
    model = tiny_model(corpus)
    for name in ("adamw", "grams", "lion", "adam_mini", "grams_released"):
        decayed, kept = optimizers.make(name, model, lr=1e-3, compile=False).param_groups
        assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
        norms = [p for n, p in model.named_parameters() if "norm" in n]
        assert [id(p) for p in kept["params"]] == [id(p) for p in norms] and len(norms) == 3
        assert len(decayed["params"]) + len(norms) == len(list(model.parameters()))
    assert optimizers.make("adam", model, lr=1e-3).param_groups[0]["weight_decay"] == 0.0
    chosen = optimizers.make("adamw", model, lr=0.5, weight_decay=0.2, betas=(0.8, 0.9)).param_groups[0]
    assert (chosen["lr"], chosen["weight_decay"], chosen["betas"]) == (0.5, 0.2, (0.8, 0.9))


def test_a_missing_optimizer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"unknown optimizer 'adamx': expected one of adamw, adam, grams, "):
        optimizers.find("adamx")
    monkeypatch.setitem(optimizers.REGISTRY, "gone", optimizers.Entry("no_such_module:Gone"))
    monkeypatch.setitem(optimizers.REGISTRY, "lost", optimizers.Entry("torch.optim:Lost"))
    for name, target in (("gone", "no_such_module.Gone"), ("lost", "torch.optim.Lost")):
        with pytest.raises(ImportError, match=rf"'{name}' needs {target}, which cannot .* Known names: adamw, adam, "):
            optimizers.find(name)


def test_the_schedule() -> None:
    factors = [loop.lr_factor(s, warmup=4, steps=24) for s in range(25)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0 and factors[14] == pytest.approx(0.55) and factors[24] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(factors[4:]))
    assert loop.lr_factor(0, warmup=0, steps=1) == 1.0
