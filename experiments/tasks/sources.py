"""Where the text comes from, and which of it is held out.

    --data stdlib                                  the sources of the Python that runs this (the default)
    --data FOLDER                                  every .txt, .md, .rst and .py file below it, UTF-8
    --data hub:NAME[:CONFIG][:SPLIT][:COLUMN]      a data set of the Hugging Face hub, streamed, its first documents

The standard library is read without site-packages, without its test folders (19 of its 31 MB in Python 3.11), and
without the files that hold one machine's build settings, so that equal Python versions give equal data. Another Python
version is another corpus: compare perplexities within one version only.

A document is held out when a hash of its name says so (one in twenty): the choice does not depend on the order of the
files, on their number, or on a seed. Names are relative paths; a document of the hub has a hash of its text for a name.
A document whose text appeared before (under an earlier name, in sorted order) is dropped, so that no text is on both
sides.
"""

from __future__ import annotations

import hashlib
import itertools
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fast.partition.extras import needs

SUFFIXES = (".txt", ".md", ".rst", ".py")
ONE_IN = 20
HUB_BYTES = 20_000_000
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


class Document(NamedTuple):
    name: str
    text: str


class Split(NamedTuple):
    train: list[Document]
    held_out: list[Document]


def load(data: str, *, hub_bytes: int = HUB_BYTES) -> Split:
    """Reads the source that `data` names and splits it.

    `hub_bytes`: how much text is taken off a stream, in bytes. FileNotFoundError: no such folder. ValueError: a file
    that is not UTF-8, or one side of the split empty. ConnectionError: the hub cannot be reached.
    """
    if data == "stdlib":
        documents: Iterable[Document] = stdlib()
    elif data.startswith("hub:"):
        documents = hub(data, max_bytes=hub_bytes)
    else:
        documents = folder(Path(data))
    return split(documents, data)


def stdlib() -> Iterator[Document]:
    """The *.py files of the running interpreter's standard library, by relative path."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        here = relative.parts[0]
        if _LEFT_OUT.isdisjoint(relative.parts) and not here.startswith(("_sysconfigdata", "config-", "sitecustomize")):
            yield Document(relative.as_posix(), _read(path))


def folder(root: Path) -> Iterator[Document]:
    """The text files below `root` (suffixes above; hidden files and folders left out), by relative path."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"--data {root}: no such folder. "
            "Give 'stdlib', a folder of text files, or hub:NAME[:CONFIG][:SPLIT][:COLUMN]."
        )
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.suffix in SUFFIXES and path.is_file() and not any(p.startswith(".") for p in relative.parts):
            yield Document(relative.as_posix(), _read(path))


def hub(spec: str, *, max_bytes: int = HUB_BYTES) -> list[Document]:
    """The first `max_bytes` of a hub data set, streamed. SPLIT is 'train' and COLUMN 'text' where not given."""
    name, config, split_name, column = parse_hub(spec)
    with needs("experiments", f"--data {spec}"):
        from datasets import load_dataset
    try:
        rows = load_dataset(name, config, split=split_name, streaming=True)
        return list(take(rows, column, max_bytes=max_bytes, of=spec))
    except (OSError, RuntimeError) as error:  # requests', httpx's and datasets' own network errors are among these
        raise ConnectionError(
            f"--data {spec}: could not read data set {name!r} from the hub ({type(error).__name__}: {error}). "
            "Check its name and the network, or give --data a folder of text files."
        ) from error


def parse_hub(spec: str) -> tuple[str, str | None, str, str]:
    """'hub:NAME[:CONFIG][:SPLIT][:COLUMN]' to (name, config, split, column); an empty field is its default."""
    fields = spec.removeprefix("hub:").split(":")
    if not fields[0] or len(fields) > 4:
        raise ValueError(
            f"--data {spec}: expected hub:NAME[:CONFIG][:SPLIT][:COLUMN], for example hub:allenai/c4:en:train:text"
        )
    name, config, split_name, column = fields + [""] * (4 - len(fields))
    return name, config or None, split_name or "train", column or "text"


def take(rows: Iterable[Mapping[str, Any]], column: str, *, max_bytes: int, of: str = "stream") -> Iterator[Document]:
    """Documents from the column `column` of `rows` (a streaming data set, say) until they hold `max_bytes` of UTF-8."""
    size = 0
    for row in rows:
        if column not in row:
            raise ValueError(f"--data {of}: no column {column!r}; the data set has {sorted(row)}")
        text = row[column]
        if not isinstance(text, str):
            raise ValueError(f"--data {of}: column {column!r} holds {type(text).__name__}, expected text")
        data = text.encode("utf-8", "surrogatepass")
        yield Document(hashlib.sha256(data).hexdigest(), text)
        size += len(data)
        if size >= max_bytes:
            return


def split(documents: Iterable[Document], of: str = "these documents") -> Split:
    """Drops empty and repeated texts, then parts the rest by a hash of the name. ValueError: a side stays empty."""
    seen: set[str] = set()
    parts = Split([], [])
    for document in sorted(documents):
        if document.text.strip() and document.text not in seen:
            seen.add(document.text)
            (parts.held_out if is_held_out(document.name) else parts.train).append(document)
    if not parts.train or not parts.held_out:
        count = len(parts.train) + len(parts.held_out)
        raise ValueError(
            f"--data {of}: {count} different documents, {len(parts.held_out)} held out (one in {ONE_IN}, by name). "
            f"Both sides need one: give more files ({', '.join(SUFFIXES)}), or cut a long file into pieces."
        )
    return parts


def is_held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % ONE_IN == 0


def digest(parts: Split) -> str:
    """One hash of all names, texts and sides, in order."""
    total = hashlib.sha256()
    for side, (name, text) in itertools.chain(
        zip(itertools.repeat("train"), parts.train, strict=False),
        zip(itertools.repeat("held out"), parts.held_out, strict=False),
    ):
        for piece in (side, name, text):
            data = piece.encode("utf-8", "surrogatepass")
            total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # not read_text: line ends stay as they are
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}): convert it or leave it out of the folder"
        ) from error
