"""A network of some hundred parameters with tokens, attention, norms and a head, and how the tests train it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from optimizers import Row
from torch import Tensor, nn


def network(attention: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layer = (
        nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0) if attention else nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    )
    return nn.Sequential(nn.Embedding(11, 8), layer, nn.Linear(8, 11), nn.LogSoftmax(-1))


def train(model: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for i in steps:
        tokens = torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(i))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()


def of_model(row: Row, model: nn.Module) -> torch.optim.Optimizer:
    params: Any = model if row.name == "AdamMini" else model.parameters()
    return row.make(params, lr=0.01, weight_decay=0.1, compile=False)
