"""The blocks of parameters whose names are all that is known: Algorithm 3 by whole words (see fast/partition/words.py).

Weights are taken as nn.Linear and nn.Conv keep them, (out, in, ...). Where the words say that a parameter needs more
than a name (a fused projection, GPT-2's `c_attn`, a stack of experts, the number of heads), and where they say nothing
of a matrix, that is an error, which a user's rule resolves. Vectors of no known name, and raw parameters called
tokens, fall under Algorithm 3's default, one block a tensor. Without any query or key there is no Transformer, and
Algorithm 2 makes each tensor one block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from fast.partition.blocks import Blocks, Decision
from fast.partition.heads import Heads
from fast.partition.layers import default, whole
from fast.partition.rules import NeedsRule
from fast.partition.words import (
    CONVOLUTIONS,
    EITHER_WAY,
    EMBEDDINGS,
    FUSED_NAMES,
    KEYS,
    LINEAR,
    NORMS,
    POSITION,
    QUERIES,
    TOKENS,
    TRANSPOSED,
    Name,
    read,
    speaks,
    tokens,
)

_ASK = "pass the module instead of its parameters, or"
_WHICH = "does not say which axis holds the outputs"


def decide_by_names(
    named: Mapping[str, Tensor], heads: Heads, algorithm: int | None
) -> tuple[dict[str, Decision | ValueError], bool]:
    """A decision, or the error that a rule would avoid, for each name; and whether any name speaks of attention."""
    names = {name: read(name) for name in named}
    transformer = any(_of_attention(name) for name in names.values())
    sizes = {
        name.holder: named[full].shape[0]
        for full, name in names.items()
        if name.exact in QUERIES and named[full].ndim and name.adapter in ("", "lora_B")
    }
    fused = {name.holder for name in names.values() if name.multihead}
    matrices = {name.path for full, name in names.items() if name.own == "weight" and named[full].ndim > 1}
    decisions: dict[str, Decision | ValueError] = {}
    for full, param in named.items():
        name = names[full]
        if algorithm == 2 or (algorithm is None and not transformer):
            decisions[full] = whole(
                param, f"Algorithm 2{'' if algorithm else ', no query or key among the names'}: one block a tensor"
            )
            continue
        try:
            if name.adapter == "lora_B" and name.path in fused:
                decisions[full] = _multihead(param, heads)
            else:
                decisions[full] = _decide(full, name, param, heads, sizes.get(name.holder), name.path in matrices)
        except ValueError as error:
            decisions[full] = error
    return decisions, transformer


def _of_attention(name: Name) -> bool:
    return speaks(tokens(name.layer)) or name.exact in FUSED_NAMES or _wrapped(name) or name.multihead


def _wrapped(name: Name) -> bool:
    """A part of something that stands in the place of a query or key: "q_proj.linear.weight"."""
    return name.above.lower() in QUERIES | KEYS


def _decide(full: str, name: Name, param: Tensor, heads: Heads, query_size: int | None, has_matrix: bool) -> Decision:
    shape, layer, last = tuple(param.shape), name.exact, full.rpartition(".")[2]
    numbered = layer.isdigit()
    words = tokens(name.above if numbered else name.layer)
    if param.numel() == 0 or param.ndim == 0:
        return whole(param, "a scalar, or empty: one block")
    if name.multihead:
        return _multihead(param, heads)
    if last in ("bias_k", "bias_v") and param.ndim == 3:  # of nn.MultiheadAttention
        count = _multihead_count(heads) if last == "bias_k" else shape[2]
        kind, why = ("heads", "key by head") if last == "bias_k" else ("rows", "value by output neuron")
        return Blocks(shape, kind, 2, ((count, _divide(shape[2], count)),)), f"name: nn.MultiheadAttention, {why}"
    if name.adapter == "other":
        return whole(param, "name: an adapter other than LoRA, one block")
    if words & NORMS:
        return whole(param, "name: a norm, one block")
    if name.adapter and (adapted := _adapter(name, words, param)):
        return adapted
    if layer in FUSED_NAMES | EITHER_WAY:
        axis = 1 if layer in EITHER_WAY and param.ndim > 1 and shape[1] > shape[0] else 0
        raise NeedsRule(f"the name {name.layer!r} does not say how its outputs are laid out; {_ASK}", axis=axis)
    if layer in QUERIES or layer in KEYS:
        if not name.own and param.ndim > 1:
            raise NeedsRule(f"{name.layer!r} of shape {shape}: the name {_WHICH}; {_ASK}")
        key = layer in KEYS
        count = _count(heads, int(key))
        if key and isinstance(heads, int) and heads > 1:  # the head's size is the query's; one head cannot be shared
            if query_size is None:
                raise NeedsRule(
                    f"heads={heads} counts query heads, of which several may share one of {name.layer!r}, and no query "
                    f"beside it says how large a head is; pass the query's parameters too, the module, or "
                    f"heads=(query heads, key heads), or"
                )
            count = _divide(shape[0], _divide(query_size, count))
        if key and query_size is not None and shape[0] * (queries := _count(heads, 0)) != query_size * count:
            raise ValueError(
                f"heads={heads} gives a query {query_size / queries:g} outputs a head and {name.layer!r}"
                f" {shape[0] / count:g}, which must be as many; check heads="
            )
        return Blocks.heads(shape, count), f"name: {'key' if key else 'query'} by head"
    if _wrapped(name):
        raise NeedsRule(f"{name.above!r} is no single layer, its parts are of no known form; {_ASK}")
    if param.ndim > 1 and words & POSITION[0] and words & POSITION[1]:
        return Blocks.along(shape, -2), "name: position embedding, by position"
    if param.ndim == 2 and (words & EMBEDDINGS or layer == "relative_attention_bias"):
        return Blocks.along(shape, 0), "name: embedding, by token (row)"
    if speaks(words) and (param.ndim > 1 or name.own == "bias"):
        raise NeedsRule(f"the name {name.layer!r} speaks of a query or key, but is of no known form; {_ASK}")
    return _layer(name, words, param, "patch" in tokens(name.path), has_matrix, numbered)


def _layer(name: Name, words: set[str], param: Tensor, patches: bool, has_matrix: bool, numbered: bool) -> Decision:
    """What is no part of the attention's query or key."""
    shape, many = tuple(param.shape), param.ndim > 1
    if re.match(r"(weight|bias)_(ih|hh|hr)", name.layer):
        return Blocks.along(shape, 0), "name: recurrent layer, by row"
    if words & TOKENS and not name.own:
        return default(param)
    linear = words & (LINEAR | CONVOLUTIONS)
    if patches or name.own == "bias":  # an embedding that has a bias is a linear layer or a convolution
        linear |= words & EMBEDDINGS
    if not many and linear and name.own and not (numbered and not has_matrix):
        return Blocks.along(shape, 0), "name: bias, by output neuron"
    if not many and (name.own != "bias" or not has_matrix):
        return default(param)
    if name.own == "weight" and param.ndim in (3, 4, 5) and (words & CONVOLUTIONS or (patches and linear)):
        if not words & TRANSPOSED:
            return Blocks.along(shape, 0), "name: convolution, by output channel"
    elif name.own == "weight" and param.ndim == 2 and linear:
        return Blocks.along(shape, 0), "name: linear layer, by output neuron"
    if linear or words & TRANSPOSED:
        raise NeedsRule(f"{name.layer!r} of shape {shape}: the name {_WHICH}; {_ASK}")
    raise NeedsRule(f"the name {name.layer!r} has no known word; {_ASK}", unknown=True)


def _adapter(name: Name, words: set[str], param: Tensor) -> Decision | None:
    """LoRA's parts that are not cut as their layer's outputs are."""
    embedding = words & EMBEDDINGS
    if name.adapter == "lora_embedding_A" or (name.adapter == "lora_A" and embedding and param.ndim == 2):
        return Blocks.along(param.shape, 1, "columns"), "name: LoRA's A of an embedding, by token (column)"
    if name.adapter == "lora_embedding_B" or (name.adapter == "lora_B" and embedding):
        return Blocks.along(param.shape, 0), "name: LoRA's B of an embedding, by row"
    if name.adapter == "lora_A":
        return Blocks.along(param.shape, 0), "name: LoRA's A, by row"
    if name.adapter == "trainable_tokens_delta":
        return Blocks.along(param.shape, 0), "name: the tokens that train, by token"
    if name.adapter == "lora_E":
        return default(param)
    if name.adapter == "lora_magnitude_vector" and param.ndim > 1:
        axis = max(range(param.ndim), key=lambda axis: param.shape[axis])
        return Blocks.along(param.shape, axis), "name: DoRA's magnitudes, as the rows that they scale"
    return None


def _multihead(param: Tensor, heads: Heads) -> Decision:
    count, shape = _multihead_count(heads), tuple(param.shape)
    width = _divide(shape[0], 3 * count)
    runs = ((2 * count, width), (count * width, 1))
    return Blocks(shape, "fused", 0, runs), "name: nn.MultiheadAttention's [q|k|v]"


def _multihead_count(heads: Heads) -> int:
    queries, keys = _count(heads, 0), _count(heads, 1)
    if queries != keys:
        raise ValueError(
            f"heads={heads!r} says {queries} query heads and {keys} key heads, of which nn.MultiheadAttention has as many;"
            " give a rule for its parameters (rules=)"
        )
    return queries


def _count(heads: Heads, which: int) -> int:
    if heads is None:
        raise ValueError(
            "the number of heads cannot be told from a name; pass heads=number or heads=(query, key heads)"
        )
    return heads if isinstance(heads, int) else heads[which]


def _divide(size: int, by: int) -> int:
    if by < 1 or size % by:
        raise ValueError(f"{size} outputs do not divide by {by}; check heads=")
    return size // by
