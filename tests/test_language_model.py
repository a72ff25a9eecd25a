"""experiments.language_model: data that do not leak, runs that resume bitwise, messages that say what to do.

Past 250 lines because it has not been split yet.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import experiments.language_model.__main__ as cli
from experiments.language_model import model as llama
from experiments.language_model import optimizers, report, sources, tokens, train

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


# ---- where the text comes from


def test_the_split_is_fixed_by_names_alone() -> None:
    """Literal sides: a change of the hash, or of the share held out, would change every published perplexity."""
    documents = [sources.Document(f"{i}.py", f"text of {i}") for i in range(400)]
    forward, backward = sources.split(documents), sources.split(reversed(documents))
    assert forward == backward
    assert [f"{i}.py" for i in range(60) if sources.is_held_out(f"{i}.py")] == ["29.py", "48.py", "49.py"]
    assert 10 <= len(forward.held_out) <= 30  # one in twenty of 400, within 2.3 standard deviations
    fewer = sources.split(d for d in documents if d.name not in ("7.py", "29.py"))
    assert fewer.held_out == [d for d in forward.held_out if d.name != "29.py"]


def test_no_text_is_on_both_sides() -> None:
    """Every name twice, with equal texts: copies of a held-out text would otherwise be trained on."""
    names = [f"{i}.py" for i in range(200)]
    parts = sources.split(
        sources.Document(f"{prefix}{n}", f"text of {n}") for n in names for prefix in ("", "copy of ")
    )
    train_texts, held_texts = ({d.text for d in side} for side in parts)
    assert not train_texts & held_texts
    assert len(parts.train) + len(parts.held_out) == len(train_texts | held_texts) == 200


def test_the_tokenizer_sees_the_training_side_only(tmp_path: Path) -> None:
    """The held-out files repeat a word that occurs nowhere else: no token may hold it."""
    names = [f"{i}.txt" for i in range(100)]
    for i, name in enumerate(names):
        word = "zyxwzyxw" if sources.is_held_out(name) else "abcdabcd"
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(f"{i} {word * 20}")
    found = tokens.load(str(tmp_path / "data"), vocab=290, cache=tmp_path / "cache")
    vocabulary = found.tokenizer.get_vocab()
    assert any("abcd" in t for t in vocabulary)
    assert not any("zy" in t or "xw" in t for t in vocabulary)
    assert "zyxw" in found.tokenizer.decode([int(i) for i in found.held_out if i < found.vocab - 1])
    assert "zyxw" not in found.tokenizer.decode([int(i) for i in found.train if i < found.vocab - 1])


def test_the_standard_library_without_its_tests() -> None:
    names = [d.name for d in sources.stdlib()]
    assert {"ast.py", "json/decoder.py"} <= set(names)
    assert not [n for n in names if "site-packages" in n or {"test", "tests"} & set(n.split("/"))]
    assert names == sorted(names, key=lambda n: Path(n).parts) and len(names) == len(set(names))


def test_a_folder_gives_its_text_files(tmp_path: Path) -> None:
    for name in ("a.txt", "deep/er/b.md", "c.py", "d.rst", "e.png", ".git/f.txt", ".g.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"line\r\nline " + name.encode())
    found = {d.name: d.text for d in sources.folder(tmp_path)}
    assert list(found) == ["a.txt", "c.py", "d.rst", "deep/er/b.md"]
    assert found["deep/er/b.md"] == "line\r\nline deep/er/b.md"
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 .* at byte 3.*: convert it"):
        list(sources.folder(tmp_path))


def test_a_streamed_data_set(tmp_path: Path) -> None:
    """The loader on a streaming data set of the library's own making, from a local file."""
    datasets = pytest.importorskip("datasets")
    rows = [{"id": i, "body": f"document {i} " + "é" * 10} for i in range(300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    stream = datasets.load_dataset(
        "json", data_files=str(tmp_path / "rows.jsonl"), split="train", streaming=True, cache_dir=str(tmp_path / "hf")
    )
    assert isinstance(stream, datasets.IterableDataset)
    documents = list(sources.take(stream, "body", max_bytes=1000))
    sizes = [len(d.text.encode()) for d in documents]
    assert [d.text for d in documents] == [r["body"] for r in rows[: len(documents)]]
    assert sum(sizes) >= 1000 > sum(sizes[:-1])
    assert all(sources.split(sources.take(stream, "body", max_bytes=10**6)))
    with pytest.raises(ValueError, match=r"no column 'text'; the data set has \['body', 'id'\]"):
        list(sources.take(stream, "text", max_bytes=1000))
    with pytest.raises(ValueError, match="column 'id' holds int, expected text"):
        list(sources.take(stream, "id", max_bytes=1000))


def test_the_hub_loader_asks_for_what_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[object] = []

    def load_dataset(*args: object, **options: object) -> list[dict[str, str]]:
        asked.append((args, options))
        return [{"words": f"text {i}"} for i in range(100)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    parts = sources.load("hub:someone/some-set:en:validation:words")
    assert asked == [(("someone/some-set", "en"), {"split": "validation", "streaming": True})]
    assert len(parts.train) + len(parts.held_out) == 100
    assert sources.parse_hub("hub:name") == ("name", None, "train", "text")
    assert sources.parse_hub("hub:name:::body") == ("name", None, "train", "body")
    for wrong in ("hub:", "hub:a:b:c:d:e"):
        with pytest.raises(ValueError, match=r"expected hub:NAME\[:CONFIG\]\[:SPLIT\]\[:COLUMN\]"):
            sources.parse_hub(wrong)


def test_offline_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(ConnectionError, match=r"could not read data set 'adamlab/no-such-set' from the hub .*folder"):
        sources.load("hub:adamlab/no-such-set")


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


def tiny_model(corpus: tokens.Corpus, seed: int = 0) -> torch.nn.Module:
    return llama.build(vocab=corpus.vocab, hidden=16, layers=1, heads=2, context=16, seed=seed)


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
    with pytest.raises(ValueError, match=r"unknown optimizer 'sgd': expected one of adamw, adam, grams, "):
        optimizers.find("sgd")
    monkeypatch.setitem(optimizers.REGISTRY, "gone", optimizers.Entry("no_such_module:Gone"))
    monkeypatch.setitem(optimizers.REGISTRY, "lost", optimizers.Entry("torch.optim:Lost"))
    for name, target in (("gone", "no_such_module.Gone"), ("lost", "torch.optim.Lost")):
        with pytest.raises(ImportError, match=rf"'{name}' needs {target}, which cannot .* Known names: adamw, adam, "):
            optimizers.find(name)


def test_the_schedule() -> None:
    factors = [train.lr_factor(s, warmup=4, steps=24) for s in range(25)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0 and factors[14] == pytest.approx(0.55) and factors[24] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(factors[4:]))
    assert train.lr_factor(0, warmup=0, steps=1) == 1.0


# ---- runs


class Interrupted(Exception):
    pass


def interrupt_after(step: int) -> Callable[[int, float], None]:
    def on_step(done: int, _: float) -> None:
        if done == step:
            raise Interrupted

    return on_step


def without_timing(records: list[train.Record]) -> list[train.Record]:
    return [r for r in records if r["event"] != "timing"]


class Noisy(torch.optim.SGD):
    """Draws from torch's generator at each step, so that a resume which forgets the random state is seen."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(torch.randn_like(p), alpha=1e-3)
        super().step(closure)


@pytest.mark.filterwarnings("ignore:.*world_size is 1:UserWarning")  # of the released Adams
@pytest.mark.parametrize("name", [*optimizers.REGISTRY, "noisy"])
def test_an_interrupted_run_resumes_bitwise(
    name: str, corpus: tokens.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at step 8, past the checkpoint of step 6: the log's tail is dropped and trained again."""
    monkeypatch.setitem(optimizers.REGISTRY, "noisy", optimizers.Entry(f"{__name__}:Noisy"))
    config = dataclasses.replace(TINY, optimizer=name, lr=0.01, clip=1.0)
    whole = train.run(config, corpus, tmp_path / "whole", checkpoint_every=3)
    with pytest.raises(Interrupted):
        train.run(config, corpus, tmp_path / "parts", checkpoint_every=3, on_step=interrupt_after(8))
    (log,) = (tmp_path / "parts").glob("*.jsonl")
    with log.open("a") as out:
        out.write('{"event": "st')  # a record cut short
    seen: list[int] = []
    torch.rand(5)  # whatever the caller drew in between
    resumed = train.run(config, corpus, tmp_path / "parts", checkpoint_every=3, on_step=lambda s, _: seen.append(s))
    assert seen == [7, 8, 9]
    assert without_timing(resumed) == without_timing(whole)
    assert train.read_log(log) == resumed
    one, two = (torch.load(next((tmp_path / x).glob("*.pt")), weights_only=True)["model"] for x in ("whole", "parts"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert [r["step"] for r in resumed if r["event"] == "eval"] == [4, 8]


def test_a_finished_run_is_not_run_again(corpus: tokens.Corpus, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first = train.run(TINY, corpus, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    seen: list[int] = []
    assert train.run(TINY, corpus, tmp_path, on_step=lambda s, _: seen.append(s)) == first and not seen
    train.run(dataclasses.replace(TINY, seed=1), corpus, tmp_path, on_step=lambda s, _: seen.append(s))
    assert seen == list(range(1, 10))


def test_the_log_holds_the_run(corpus: tokens.Corpus, tmp_path: Path) -> None:
    records = train.run(TINY, corpus, tmp_path)
    assert [r["event"] for r in records[:2]] == ["config", "model"]
    config, end = records[0], records[-1]
    assert {"torch", "transformers", "python"} <= set(config["versions"])
    assert config["data"] == corpus.facts and config["lr"] == TINY.lr
    steps = [r for r in records if r["event"] == "step"]
    assert [r["lr"] for r in steps] == [1e-3 * train.lr_factor(s, warmup=3, steps=9) for s in range(9)]
    assert end["event"] == "end" and end["tokens_seen"] == 9 * 2 * 16 and end["perplexity"] > 1
    model = tiny_model(corpus)
    inputs, targets = tokens.Batches(corpus.train, context=16, batch=2, seed=0)(0)
    assert steps[0]["loss"] == float(llama.next_token_loss(model, inputs, targets).detach())
    assert records[1]["parameters"] == sum(p.numel() for p in model.parameters())


def test_clipping_bounds_the_gradient(corpus: tokens.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of plain descent moves the weights by lr times the gradient's norm, so the step shows what was clipped."""
    monkeypatch.setitem(optimizers.REGISTRY, "descent", optimizers.Entry("torch.optim:SGD", weight_decay=0.0))
    moved = {}
    for clip in (0.0, 0.01, 100.0):
        config = dataclasses.replace(TINY, optimizer="descent", lr=0.5, steps=1, warmup=1, clip=clip)
        train.run(config, corpus, tmp_path / str(clip))
        after = torch.load(next((tmp_path / str(clip)).glob("*.pt")), weights_only=True)["model"]
        before = tiny_model(corpus).state_dict()
        moved[clip] = math.sqrt(sum(float((after[k].double() - before[k].double()).square().sum()) for k in before))
    assert moved[0.01] == pytest.approx(0.5 * 0.01, rel=1e-3)  # fp32 weights around a step of 1e-5 of their norm
    assert moved[0.0] == moved[100.0] > 10 * moved[0.01]


def test_a_run_that_diverges_says_where(corpus: tokens.Corpus, tmp_path: Path) -> None:
    end = train.run(dataclasses.replace(TINY, lr=1e30), corpus, tmp_path)[-1]
    assert end["perplexity"] is None and 1 < end["diverged_at"] <= 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "--lr 0.0: expected a finite number above 0"),
        ({"lr": math.nan}, "--lr nan"),
        ({"optimizer": "adamx"}, "unknown optimizer 'adamx'"),
        ({"steps": 0}, "--steps 0: expected 1 or more"),
        ({"eval_every": 0}, "--eval-every 0"),
        ({"warmup": 10}, r"--warmup 10: expected 0 to --steps \(9\)"),
        ({"clip": -1.0}, "--clip -1.0: expected a finite number, 0 or more"),
        ({"weight_decay": math.inf}, "--weight-decay inf"),
    ],
)
def test_a_wrong_value_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)  # pyright: ignore[reportArgumentType]


# ---- the command


def test_train_command(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data", str(texts), "--log", str(tmp_path / "log"), "--cache", str(tmp_path / "cache")]
    assert cli.main(["train", "--optimizer", "adam", "--lr", "3e-3", *SMALL, *where, "--progress"]) == 0
    out, err = capsys.readouterr()
    assert "adam: best at lr 0.003" in out and "1/1 adam lr 0.003 seed 0: 100%" in err
    cli.main(["train", "--optimizer", "adam", "--lr", "3e-3", *SMALL, *where])
    assert capsys.readouterr() == (out, "")  # no terminal: no bar


def test_sweep_command(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAMLAB_FIGURES", str(tmp_path / "figures"))
    what = ["sweep", "--optimizers", "adamw", "grams_released", "--lrs", "1e-3", "3e-3", "1e30", "--seeds", "0", "1"]
    where = ["--data", str(texts), "--log", str(tmp_path / "log"), "--cache", str(tmp_path / "cache")]
    assert cli.main([*what, *SMALL, *where]) == 0
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.startswith(("adamw  ", "grams_released  "))]) == 12
    assert "diverged" in out
    found = json.loads((tmp_path / "figures" / "data" / "language_model.json").read_text())
    assert (tmp_path / "figures" / "language_model.svg").read_text().count("held-out perplexity") == 1
    assert found["seeds"] == [0, 1] and found["config"]["steps"] == 4 and found["config"]["warmup"] == 1
    assert {(r["optimizer"], r["lr"], r["seed"]) for r in found["runs"]} == {
        (o, lr, s) for o in ("adamw", "grams_released") for lr in (1e-3, 3e-3, 1e30) for s in (0, 1)
    }
    for r in found["runs"]:
        (log,) = (tmp_path / "log").glob(f"{r['optimizer']}-lr{r['lr']:g}-seed{r['seed']}-*.jsonl")
        end = train.read_log(log)[-1]
        assert r["perplexity"] == (end["perplexity"] and float(f"{end['perplexity']:.6g}"))
        assert r["tokens_seen"] == end["tokens_seen"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "log").iterdir()}
    cli.main([*what, *SMALL, *where])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "log").iterdir()} == before


def log_of(optimizer: str, lr: float, perplexity: float | None, seed: int = 0) -> list[train.Record]:
    return [
        {"event": "config", "optimizer": optimizer, "lr": lr, "seed": seed, "data": {}, "versions": {}, "steps": 90},
        {"event": "model", "parameters": 5},
        *({"event": "step", "step": s, "loss": float(s), "lr": lr} for s in range(1, 91)),
        {"event": "timing", "tokens_per_second": 7.0},
        {"event": "end", "step": 90, "tokens_seen": 90, "perplexity": perplexity, "bits_per_byte": 1.0},
    ]


def test_the_summary_picks_the_best_rate() -> None:
    logs = [log_of("adamw", lr, p) for lr, p in ((1.0, 30.0), (2.0, 20.0), (3.0, None))]
    logs += [
        log_of("grams", lr, p, seed) for lr, p, seed in ((1.0, 9.0, 0), (1.0, 21.0, 1), (2.0, 16.0, 0), (2.0, 16.0, 1))
    ]
    found = report.summary(logs)
    assert found["best"]["adamw"] == {"lr": 2.0, "perplexity": 20.0, "at_edge": False}
    assert found["best"]["grams"] == {"lr": 1.0, "perplexity": 15.0, "at_edge": True}
    curve = found["runs"][0]["curve"]
    assert curve["step"][:2] == [2.0, 5.0] and curve["train_loss"] == curve["step"] and len(curve["step"]) == 30
    assert "at the edge" in report.table(logs)
    with pytest.raises(ValueError, match=r"no end yet \(adamw, lr 1\)"):
        report.summary([logs[0][:-1]])
    with pytest.raises(ValueError, match="differ in more than optimizer, lr and seed"):
        report.summary([logs[0], [{**logs[1][0], "steps": 91}, *logs[1][1:]]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--optimizer", "sgd"], "unknown optimizer 'sgd': expected one of adamw"),
        (["train", "--lr", "-1"], "--lr -1.0: expected a finite number above 0"),
        (["train", "--lr", "fast"], "invalid float value: 'fast'"),
        (["train", "--data", "/no/such/folder"], "--data /no/such/folder: no such folder. Give 'stdlib'"),
        (["train", "--vocab", "10"], "--vocab 10: expected 258 to 65536"),
        (["sweep", "--optimizers", "adamw", "adam"], "no learning rates are known for 'adam' yet: give --lrs"),
        (["train", "--data", "hub:"], "expected hub:NAME"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--log", str(tmp_path), "--cache", str(tmp_path)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_too_few_files_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text("all there is")
    with pytest.raises(SystemExit):
        cli.main(["train", "--data", str(tmp_path), "--log", str(tmp_path), "--cache", str(tmp_path)])
    assert "1 different documents, 0 held out (one in 20, by name). Both sides need one" in capsys.readouterr().err
