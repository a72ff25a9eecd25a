"""Finds the attention layers of a module and how the outputs of their projections are cut.

Algorithm 3 cuts query and key by head and value by output neuron. A `Cut` says so for the outputs of a projection,
whichever axis of its weight holds them (nn.Linear: 0, Conv1D: 1); what could not be told is an `Unknown`, raised as
ValueError only if a parameter needs it, so that a user's rule can answer instead.

Two ways of telling: children named as in SEPARATE, or a fused projection whose order of outputs is known from the
layer's class, FUSED. Head sizes come from the layer's attributes, then the nearest config above it, then `heads=`. The
number of key heads always follows from the key's own size: grouped-query attention needs no rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from fast._blocks import Runs
from fast._heads import HEAD_SIZE, KEY_HEADS, QUERY_HEADS, Heads, divide, head_shape, query_heads, stated


class Cut(NamedTuple):
    """The blocks of a projection's outputs, in order; `why` is for the table."""

    kind: str
    runs: Runs
    repeat: int
    why: str


class Unknown(NamedTuple):
    """Why a projection's blocks cannot be told, and what to do."""

    message: str


SEPARATE = (
    ("q_proj", "k_proj", "v_proj"),  # Llama, Mistral, Qwen, Gemma, OPT, ViT, Whisper, GPT-J
    ("query", "key", "value"),  # BERT and its kin
    ("q", "k", "v"),  # T5
    ("wq", "wk", "wv"),  # Meta's Llama
    ("q_lin", "k_lin", "v_lin"),  # DistilBERT
    ("to_q", "to_k", "to_v"),  # diffusion models
    ("query_proj", "key_proj", "value_proj"),  # DeBERTa
    ("linear_q", "linear_k", "linear_v"),  # speech encoders
)
# class of the attention layer -> its fused child and the order of that child's outputs.
#   chunks    [all q][all k][all v]
#   grouped   for each key-value head: [its q heads][k][v]; with as many key heads as query heads: [head][q|k|v]
FUSED = {
    "GPT2Attention": ("c_attn", "chunks"),
    "CausalSelfAttention": ("c_attn", "chunks"),  # nanoGPT
    "Phi3Attention": ("qkv_proj", "chunks"),
    "ModernBertAttention": ("Wqkv", "chunks"),
    "GPTNeoXAttention": ("query_key_value", "grouped"),
    "BloomAttention": ("query_key_value", "grouped"),
    "PersimmonAttention": ("query_key_value", "grouped"),
    "FalconAttention": ("query_key_value", "grouped"),
}
FUSED_NAMES = ("c_attn", "qkv", "qkv_proj", "Wqkv", "wqkv", "query_key_value", "to_qkv")
WRAPPED = ("base_layer", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def projection_cuts(model: nn.Module, heads: Heads) -> tuple[dict[int, Cut | Unknown], bool]:
    """The cuts of all projections of `model` by id(layer), and whether it holds any attention."""
    cuts: dict[int, Cut | Unknown] = {}
    found = False
    known: list[str] = []
    unknown: list[tuple[str, nn.Module]] = []
    for path, module, config in _with_configs(model):
        if isinstance(module, nn.MultiheadAttention):  # its parameters are its own: `multihead_cut` has their blocks
            found = True
            known.append(path)
        elif (layers := _projections(module, config, path, heads)) is not None:
            found = True
            known.append(path)
            cuts.update(layers)
        elif _looks_like_attention(module):
            unknown.append((path, module))
    for path, module in unknown:
        # A wrapper around a recognised layer (BertAttention), or a helper inside one, is no mystery.
        if any(_inside(path, other) or _inside(other, path) for other in known):
            continue
        found = True
        message = (
            f"the attention layer {path!r} ({type(module).__name__}) is of no known form, so query, key and value "
            f"cannot be told apart; give a rule for its parameters, e.g. rules={{'{path}.*.weight': 'rows'}}"
        )
        for child in module.modules():
            cuts.setdefault(id(child), Unknown(message))
    _spread_over_wrappers(model, cuts)
    return cuts, found


def _with_configs(model: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    """(path, module, the nearest config at or above it that counts heads, or None).

    The nearest alone: a vision tower must not take its head size from the language model's config.
    """
    configs: dict[str, Any] = {}
    for path, module in model.named_modules():
        own = getattr(module, "config", None)
        counts = any(getattr(own, name, None) is not None for name in QUERY_HEADS)
        configs[path] = own if counts else configs.get(path.rpartition(".")[0]) if path else None
        yield path, module, configs[path]


def outputs(layer: nn.Module) -> int | None:
    """Number of outputs of a linear or convolutional layer, through an adapter's wrapper; None if it is neither."""
    layer = getattr(layer, "base_layer", layer)
    for name in ("out_features", "nf", "out_channels"):
        if isinstance(size := getattr(layer, name, None), int):
            return size
    return None


def multihead_cut(module: nn.MultiheadAttention, name: str) -> Cut | None:
    """The cut of nn.MultiheadAttention's own parameter `name`: [q|k|v] in one weight, or three weights."""
    count, size, width = module.num_heads, module.head_dim, module.embed_dim
    by_head = ((count, size),)
    if name in ("in_proj_weight", "in_proj_bias"):
        runs = (*by_head, *by_head, (width, 1))
        return Cut("fused", runs, 1, f"nn.MultiheadAttention: {count} query heads, {count} key heads, value by neuron")
    if name in ("q_proj_weight", "k_proj_weight", "bias_k"):
        return Cut("heads", by_head, 1, f"nn.MultiheadAttention: {'query' if name[0] == 'q' else 'key'} by head")
    if name in ("v_proj_weight", "bias_v"):
        return Cut("rows", ((width, 1),), 1, "nn.MultiheadAttention: value by output neuron")
    return None


def _projections(module: nn.Module, config: Any, path: str, heads: Heads) -> dict[int, Cut | Unknown] | None:
    """The cuts of one attention layer's projections; None where `module` is not a recognised attention layer."""
    children = dict(module.named_children())
    for names in SEPARATE:
        q, k, v = (children.get(name) for name in names)
        if q is not None and k is not None and (rows := outputs(q)) and (key_rows := outputs(k)):
            layers: list[nn.Module] = [q, k]
            try:
                count, size = head_shape(module, config, path, heads, rows)
                key_count = divide(key_rows, size, f"{path}.{names[1]}", "key")
                told = stated(module, config, KEY_HEADS) if heads is None or isinstance(heads, int) else heads[1]
                if told is not None and told != key_count:
                    raise ValueError(
                        f"{path}: {key_rows} outputs of the key make {key_count} heads, "
                        f"but {told} are stated by the layer, its config or heads=; give a rule for its parameters"
                    )
                made: list[Cut | Unknown] = [
                    Cut("heads", ((count, size),), 1, f"query of {type(module).__name__}: by head"),
                    Cut("heads", ((key_count, size),), 1, f"key of {type(module).__name__}: by head"),
                ]
            except ValueError as error:
                made = [Unknown(str(error))] * 2
            if v is not None and (value_rows := outputs(v)):
                layers.append(v)
                made.append(Cut("rows", ((value_rows, 1),), 1, f"value of {type(module).__name__}: by output neuron"))
            return {id(layer): cut for layer, cut in zip(layers, made, strict=True)}
    bases = [base.__name__ for base in type(module).__mro__]
    name, order = next((FUSED[base] for base in bases if base in FUSED), ("", ""))
    if name not in children or (size := outputs(children[name])) is None:
        return None
    try:
        if "q_attn" in children:  # GPT-2's cross-attention: q_attn beside a c_attn of [k|v]
            count, width = head_shape(module, config, path, heads, outputs(children["q_attn"]) or 0)
            key_count = divide(size, 2 * width, f"{path}.{name}", "key and value")
            return {
                id(children["q_attn"]): Cut("heads", ((count, width),), 1, "cross-attention's query: by head"),
                id(children[name]): Cut(
                    "fused", ((key_count, width), (key_count * width, 1)), 1, "cross-attention's [k|v]: key by head"
                ),
            }
        return {id(children[name]): _fused_cut(module, config, path, heads, size, order)}
    except ValueError as error:
        return {id(children[name]): Unknown(str(error))}


def _fused_cut(module: nn.Module, config: Any, path: str, heads: Heads, size: int, order: str) -> Cut:
    """The cut of a fused [q|k|v] of `size` outputs."""
    count = query_heads(module, config, path, heads)
    if isinstance(heads, tuple):
        key_count = heads[1]
    elif type(module).__name__ == "FalconAttention":  # its num_kv_heads counts only in the newer architecture
        newer = getattr(module, "new_decoder_architecture", False)
        key_count = (
            getattr(module, "num_kv_heads", count) if newer else 1 if getattr(module, "multi_query", False) else count
        )
    else:
        key_count = (stated(module, config, KEY_HEADS) if order == "chunks" else None) or count
    width = divide(
        size, count + 2 * key_count, path, f"fused projection, with {count} query and {key_count} key heads,"
    )
    told = stated(module, config, HEAD_SIZE)
    if told is not None and told != width:
        raise ValueError(
            f"{path}: a fused projection of {size} outputs gives heads of {width} with {count} query and {key_count} "
            f"key heads, but the layer says {told}; give a rule with a Blocks for this parameter"
        )
    what = f"{type(module).__name__}: {count} query heads, {key_count} key heads, value by neuron"
    if order == "chunks":
        return Cut("fused", ((count, width), (key_count, width), (key_count * width, 1)), 1, f"[q|k|v] of {what}")
    if count % key_count:
        raise ValueError(f"{path}: {count} query heads do not divide among {key_count} key heads")
    group = ((count // key_count, width), (1, width), (width, 1))
    return Cut("fused", group, key_count, f"[head][q|k|v] of {what}")


def _looks_like_attention(module: nn.Module) -> bool:
    """By the whole end of its class's name, or a fused child's whole name; and with matrices of its own."""
    layers = (module, *module.children())
    named = re.search(r"Attention\d*$", type(module).__name__) or any(
        name in FUSED_NAMES for name, _ in module.named_children()
    )
    return bool(named) and any(p.ndim >= 2 for layer in layers for p in layer.parameters(recurse=False))


def _inside(path: str, other: str) -> bool:
    return other == "" or path == other or path.startswith(other + ".")


def _spread_over_wrappers(model: nn.Module, cuts: dict[int, Cut | Unknown]) -> None:
    """A wrapper stands where its layer stood: the layer, LoRA's B and DoRA's magnitudes have the layer's outputs."""
    for module in model.modules():  # parents first, so that wrappers in wrappers are reached
        if id(module) not in cuts:
            continue
        children = dict(module.named_children())
        below = [children[name] for name in WRAPPED if name in children]
        for name in ("lora_B", "lora_magnitude_vector"):
            if name in children:
                below += list(children[name].children())
        cuts.update({id(layer): cuts[id(module)] for layer in below})
