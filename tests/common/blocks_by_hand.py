"""What the tests of `fast.partition` compare with: block numbers made by plain loops, and models against tables."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fast import partition
from fast.partition.blocks import Blocks

logging.getLogger("transformers").setLevel(logging.ERROR)  # our vocabularies are smaller than the special tokens


def ids(shape: tuple[int, ...], axis: int | None, lengths: list[int], batch: int = 0) -> torch.Tensor:
    """The number of its block for each entry, entry by entry: the range that its index along `axis` falls into."""
    out = torch.zeros(shape, dtype=torch.int64)
    if axis is None:
        return out
    number = [block for block, length in enumerate(lengths) for _ in range(length)]
    assert len(number) == shape[axis]
    for index in torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape)).tolist():
        matrix = 0
        for i in range(batch):
            matrix = matrix * shape[i] + index[i]
        out[tuple(index)] = matrix * len(lengths) + number[index[axis]]
    return out


def holds(blocks: Blocks, axis: int | None, lengths: list[int], batch: int = 0) -> None:
    """`blocks` is the cut of `axis` into ranges of `lengths`."""
    assert torch.equal(blocks.ids(), ids(blocks.shape, axis, lengths, batch))
    assert blocks.count == int(blocks.ids().max()) + 1


class Attention(nn.Module):
    """An attention layer that may keep its number of heads to itself."""

    def __init__(self, width: int = 12, keys: int = 12, **attributes: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(6, width), nn.Linear(6, keys)
        self.v_proj, self.o_proj = nn.Linear(6, keys), nn.Linear(width, 6)
        for name, value in attributes.items():
            setattr(self, name, value)


Cut = tuple[Any, ...] | None  # (axis, lengths of the blocks along it), and the number of batch axes if there are any
# What the small models of transformers have in common.
TINY: dict[str, Any] = {
    "num_hidden_layers": 2,
    "vocab_size": 11,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def each(n: int, axis: int = 0) -> Cut:
    """One block for each of n rows (axis 0) or columns (axis 1)."""
    return (axis, [1] * n)


def is_cut(blocks: Blocks, cut: Cut) -> None:
    """`blocks` is the table's `cut`."""
    axis, lengths, *batch = cut or (None, [])
    holds(blocks, axis, lengths, *batch)


def compare(model: nn.Module, outside: Mapping[str, Cut], layer: str, inside: Mapping[str, Cut]) -> None:
    """The whole model against its table: `outside` by full name, `inside` for each of the two layers under `layer`."""
    expected = dict(outside) | {f"{layer}.{i}.{name}": cut for i in range(2) for name, cut in inside.items()}
    table = partition(model)
    assert set(table) == set(expected)
    for name, cut in expected.items():
        is_cut(table[name].blocks, cut)


def advised(message: str, **counts: int) -> dict[str, Any]:
    """The rules that a message gives, as Python reads them."""
    found = re.search(r"rules=(\{.*?\})( with| \()", message)
    assert found is not None, message
    return eval(found[1], dict(counts))


class Holder(nn.Module):
    """A module with the given children, raw parameters and attributes."""

    def __init__(self, **members: Any) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)


class AttentionBlock(Holder): ...


class FooAttention(Holder): ...


def linear(outputs: int = 8) -> nn.Linear:
    return nn.Linear(8, outputs)
