"""The blocks of parameters whose names are all that is known: Algorithm 3 by whole words.

A name is split at dots and underscores and only whole words count: "network.0.weight" has no "wo". Weights are taken as
nn.Linear keeps them, (out, in). Where the words say that a parameter needs more than a name (a fused projection,
GPT-2's `c_attn`, a stack of experts, the number of heads) the answer is a ValueError; where they say nothing it is
Algorithm 3's default, one block a tensor. Without any query or key there is no Transformer, and Algorithm 2 makes each
tensor one block.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fast._attention import FUSED_NAMES, SEPARATE, Heads
from fast._blocks import Blocks
from fast._layers import POSITION, Decision, default, tokens, whole

_QUERIES = {names[0] for names in SEPARATE}
_KEYS = {names[1] for names in SEPARATE}
_FUSED = {name.lower() for name in FUSED_NAMES}
_EITHER_WAY = {"c_attn", "c_proj", "c_fc", "q_attn"}  # (in, out) in transformers' GPT-2, (out, in) in nanoGPT
_QUERY_OR_KEY = {"q", "k", "query", "key", "wq", "wk", "kv"}
_EMBEDDINGS = {"embed", "embedding", "embeddings", "emb", "wte", "wpe"}
_NORMS = {"norm", "layernorm", "rmsnorm", "batchnorm", "groupnorm", "ln", "bn"}
_LINEAR = {"v", "value", "wv", "o", "out", "wo", "dense", "gate", "up", "down", "fc", "mlp", "proj", "linear", "lin"}
_LINEAR |= {"head", "classifier", "score", "router", "w1", "w2", "w3"}
_ASK = "pass the module instead of its parameters, or a rule"


def decide_by_names(
    named: Mapping[str, Tensor], heads: Heads, algorithm: int | None
) -> tuple[dict[str, Decision | ValueError], bool]:
    """A decision, or the error that a rule would avoid, for each name; and whether any name speaks of attention."""
    layers = {name: _layer(name) for name in named}
    transformer = any(
        layer in _QUERIES | _KEYS | _FUSED or name.endswith("in_proj_weight") for name, layer in layers.items()
    )
    sizes = {_above(name): param.shape[0] for name, param in named.items() if layers[name] in _QUERIES and param.ndim}
    decisions: dict[str, Decision | ValueError] = {}
    for name, param in named.items():
        if algorithm == 2 or (algorithm is None and not transformer):
            decisions[name] = whole(
                param, f"Algorithm 2{'' if algorithm else ', no query or key among the names'}: one block a tensor"
            )
            continue
        try:
            decisions[name] = _decide(name, layers[name], param, heads, sizes.get(_above(name)))
        except ValueError as error:
            decisions[name] = error
    return decisions, transformer


def _decide(name: str, layer: str, param: Tensor, heads: Heads, query_size: int | None) -> Decision:
    shape, last = tuple(param.shape), name.rpartition(".")[2]
    words = {word.rstrip("0123456789") for word in tokens(layer)} | tokens(layer)
    if param.numel() == 0 or param.ndim == 0:
        return whole(param, "a scalar, or empty: one block")
    if last in ("in_proj_weight", "in_proj_bias"):
        count = _count(heads, 0)
        width = _divide(shape[0], 3 * count)
        return Blocks(
            shape, "fused", 0, ((2 * count, width), (count * width, 1))
        ), "name: nn.MultiheadAttention's [q|k|v]"
    if words & _NORMS:
        return whole(param, "name: a norm, one block")
    if layer in _FUSED or layer in _EITHER_WAY:
        raise ValueError(f"the name {layer!r} does not say how its outputs are laid out; {_ASK}")
    if "lora_A" in name.split("."):
        return Blocks.along(shape, 0), "name: LoRA's A, by row"
    if layer in _QUERIES or layer in _KEYS:
        key = layer in _KEYS
        count = _count(heads, int(key))
        if key and isinstance(heads, int) and query_size is not None:  # the head's size is the query's
            count = _divide(shape[0], _divide(query_size, count))
        return Blocks.heads(shape, count), f"name: {'key' if key else 'query'} by head"
    if param.ndim > 1 and words & POSITION[0] and words & POSITION[1]:
        return Blocks.along(shape, -2), "name: position embedding, by position"
    if param.ndim == 2 and words & _EMBEDDINGS:
        return Blocks.along(shape, 0), "name: embedding, by token (row)"
    if param.ndim > 1 and words & _QUERY_OR_KEY:
        raise ValueError(f"the name {layer!r} speaks of a query or key, but is of no known form; {_ASK}")
    if words & _LINEAR and param.ndim < 3:
        return Blocks.along(shape, 0), f"name: {'bias' if param.ndim == 1 else 'linear layer'}, by output neuron"
    if words & _LINEAR:
        raise ValueError(f"{layer!r} of shape {shape}: the name does not say which axis holds the outputs; {_ASK}")
    return default(param)


def _layer(name: str) -> str:
    """The layer's part of a parameter's name: "h.0.attn.q_proj.lora_B.default.weight" -> "q_proj"."""
    parts = name.split(".")
    for adapter in ("lora_A", "lora_B", "lora_magnitude_vector", "base_layer"):
        if adapter in parts[1:]:
            return parts[parts.index(adapter) - 1].lower()
    return (parts[-2] if parts[-1] in ("weight", "bias") and len(parts) > 1 else parts[-1]).lower()


def _above(name: str) -> str:
    """The path of what holds the layer, by which a key finds its query."""
    parts = name.split(".")
    layer = _layer(name)
    return ".".join(parts[: [part.lower() for part in parts].index(layer)])


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
