"""A byte-level BPE trained on the training side, the tokenised corpus, its cache, and the order of the batches.

Every document ends with one token of its own, `end`, the last of the vocabulary. It is not a string that the tokenizer
knows, so no text can contain it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.tasks import Order, sources
from fast.partition.extras import needs

with needs("experiments", __name__):
    import tokenizers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

FORMAT = 1  # of the cache: raise it when the lines below would write something else
LEAST_VOCAB, MOST_VOCAB = 258, 65_536  # 256 bytes, one merge, `end`; what uint16 holds


@dataclass(frozen=True)
class Corpus:
    """`train`, `held_out`: token ids, uint16, 1-D. `token_bytes`: the UTF-8 bytes of each token (0 for `end`)."""

    tokenizer: Tokenizer
    train: np.ndarray
    held_out: np.ndarray
    token_bytes: np.ndarray
    facts: dict[str, int | str]

    @property
    def vocab(self) -> int:
        """Tokens in all, `end` among them."""
        return len(self.token_bytes)


def train_bpe(texts: Iterable[str], vocab: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab` - 1 tokens (`end` is not its business). Equal texts give equal tokenizers."""
    if not LEAST_VOCAB <= vocab <= MOST_VOCAB:
        raise ValueError(f"--vocab {vocab}: expected {LEAST_VOCAB} to {MOST_VOCAB}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - 1, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """All texts as one row of ids, `end` after each."""
    end = tokenizer.get_vocab_size()
    pieces = [
        np.array([*e.ids, end], dtype=np.uint16) for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ]
    return np.concatenate(pieces)


def load(data: str, *, vocab: int, cache: Path, hub_bytes: int = sources.HUB_BYTES) -> Corpus:
    """The corpus of `data` (see `sources`), from `cache` where the same text was tokenised the same way before.

    The key is a hash of all texts, the vocabulary and the tokenizers' version. A cache entry is a folder that appears
    whole or not at all.
    """
    parts = sources.load(data, hub_bytes=hub_bytes)
    recipe = json.dumps([FORMAT, tokenizers.__version__, vocab, sources.digest(parts)])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    entry = cache / key
    if not entry.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache))
        try:
            tokenizer = train_bpe((d.text for d in parts.train), vocab)
            tokenizer.save(str(partial / "tokenizer.json"))
            np.save(partial / "train.npy", encode(tokenizer, [d.text for d in parts.train]))
            np.save(partial / "held_out.npy", encode(tokenizer, [d.text for d in parts.held_out]))
            try:
                partial.rename(entry)
            except OSError:
                if not entry.exists():  # else: another process wrote the same entry first, and its work is as good
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    tokenizer = Tokenizer.from_file(str(entry / "tokenizer.json"))
    train, held_out = np.load(entry / "train.npy"), np.load(entry / "held_out.npy")
    facts: dict[str, int | str] = {
        "key": key,
        "vocab": tokenizer.get_vocab_size() + 1,
        "train_documents": len(parts.train),
        "held_out_documents": len(parts.held_out),
        "train_bytes": sum(len(d.text.encode("utf-8", "surrogatepass")) for d in parts.train),
        "held_out_bytes": sum(len(d.text.encode("utf-8", "surrogatepass")) for d in parts.held_out),
        "train_tokens": len(train),
        "held_out_tokens": len(held_out),
    }
    return Corpus(tokenizer, train, held_out, _token_bytes(tokenizer), facts)


def _token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    size = tokenizer.get_vocab_size()
    tokens = [tokenizer.id_to_token(i) for i in range(size)]
    return np.array(
        [*(len(t) for t in tokens if t is not None), 0]
    )  # byte-level: one character of a token's name is one byte


class Batches:
    """Batches of windows of `context` inputs, each with its targets one place further on, in the order of `Order`."""

    def __init__(self, ids: np.ndarray, *, context: int, batch: int, seed: int) -> None:
        self.windows = (len(ids) - 1) // context
        if self.windows < batch:
            raise ValueError(
                f"the training text has {len(ids)} tokens, {self.windows} windows of {context}: "
                f"fewer than a batch of {batch}. "
                "Give more text, or a smaller --batch or --context."
            )
        self._ids, self._context, self._order = ids, context, Order(self.windows, batch, seed)

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of step `step` (from 0), int64, (batch, context) each."""
        return cut(self._ids, self._order(step), self._context)


def cut(ids: np.ndarray, windows: np.ndarray, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The windows of these numbers as inputs and targets, int64, (windows, context) each."""
    places = windows[:, None] * context + np.arange(context + 1)
    rows = torch.from_numpy(ids[places].astype(np.int64))
    return rows[:, :-1], rows[:, 1:]
