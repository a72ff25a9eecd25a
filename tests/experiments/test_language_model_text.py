"""experiments.language_model.sources: which text there is, and that none of it is on both sides of the split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_language_model as small

from experiments.tasks import sources, tokens

corpus, offline, texts = small.corpus, small.offline, small.texts


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
