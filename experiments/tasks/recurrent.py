"""Characters of the standard library's sources, predicted by an LSTM."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.tasks import sources, tokens

CHARACTERS = 128  # ASCII; every byte of another character counts as 127


class CharacterLSTM(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, hidden // 2)
        self.lstm = nn.LSTM(hidden // 2, hidden, batch_first=True)
        self.head = nn.Linear(hidden, CHARACTERS)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(ids))[0])


class Recurrent:
    """`context` characters a window, each window from a state of zeros. Losses are nats a character."""

    name = "recurrent"

    def __init__(self, *, data: str = "stdlib", context: int = 64, hidden: int = 96, held: int = 256) -> None:
        self.size: dict[str, Any] = {"context": context, "hidden": hidden, "held": held}
        parts = sources.load(data)
        self._train, held_out = _ids(parts.train), _ids(parts.held_out)
        there = (len(held_out) - 1) // context
        chosen = np.unique(np.linspace(0, there - 1, min(2 * held, there)).astype(np.int64))
        self._held = {
            "val": tokens.cut(held_out, chosen[::2], context),
            "test": tokens.cut(held_out, chosen[1::2], context),
        }
        self.facts: dict[str, int | str] = {
            "key": hashlib.sha256(self._train.tobytes() + held_out.tobytes()).hexdigest()[:16],
            "train_characters": len(self._train),
            "held_out_characters": len(held_out),
        }

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return CharacterLSTM(self.size["hidden"])

    def source(self, batch: int, seed: int) -> tokens.Batches:
        return tokens.Batches(self._train, context=self.size["context"], batch=batch, seed=seed)

    def loss(self, model: nn.Module, source: tokens.Batches, step: int) -> Tensor:
        return _cross_entropy(model, *source(step))

    @torch.no_grad()
    def evaluate(self, model: nn.Module, seed: int) -> dict[str, float]:
        return {f"{side}_loss": float(_cross_entropy(model, *windows)) for side, windows in self._held.items()}


def _ids(documents: Sequence[sources.Document]) -> np.ndarray:
    data = np.frombuffer("\x00".join(d.text for d in documents).encode("utf-8", "surrogatepass"), dtype=np.uint8)
    return np.minimum(data, CHARACTERS - 1)


def _cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    device = next(model.parameters()).device
    return F.cross_entropy(model(inputs.to(device)).flatten(0, 1).float(), targets.to(device).flatten())
