"""Finds the attention layers of a module and how the outputs of their projections are cut.

Algorithm 3 cuts query and key by head and value by output neuron. A `Cut` says so for the outputs of a projection,
whichever axis of its weight holds them (nn.Linear: 0, Conv1D: 1); what could not be told is an `Unknown`, raised as
ValueError only if a parameter needs it, so that a user's rule can answer instead.

Attention is recognised in two ways: by children named as in SEPARATE (fast/partition/words.py), whatever their case; or by a fused
projection whose order of outputs is known from the layer's class (FUSED), if the layer's output projection takes as many
inputs as the query's heads then give. Everything else is `unknown_attention`'s. Head sizes come from the layer's
attributes, then the nearest config above it, then `heads=`. The number of key heads always follows from the key's own
size: grouped-query attention needs no rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from fast.partition.heads import (
    HEAD_SIZE,
    KEY_HEADS,
    QUERY_HEADS,
    Heads,
    agreed,
    counts_heads,
    divide,
    head_shape,
    in_words_of_its_own,
    key_count,
    key_heads,
    of_layer,
    query_heads,
    stated,
)
from fast.partition.layers import (
    BATCH_NORMS,
    Cut,
    Unknown,
    add,
    children_of,
    inputs,
    layers_through,
    multihead_cut,
    outputs,
    spread_over_wrappers,
    unwrapped,
)
from fast.partition.words import FUSED_NAMES, KEY, KEYS, QUERIES, QUERY, SEPARATE, WRAPPERS, speaks, tokens

# class of the attention layer -> its fused child and the order of that child's outputs.
#   chunks    [all q][all k][all v]
#   grouped   for each key-value head: [its q heads][k][v]; with as many key heads as query heads: [head][q|k|v]
FUSED = {
    "GPT2Attention": ("c_attn", "chunks"),
    "CausalSelfAttention": ("c_attn", "chunks"),  # nanoGPT
    "Phi3Attention": ("qkv_proj", "chunks"),
    "ModernBertAttention": ("wqkv", "chunks"),
    "GPTNeoXAttention": ("query_key_value", "grouped"),
    "BloomAttention": ("query_key_value", "grouped"),
    "PersimmonAttention": ("query_key_value", "grouped"),
    "FalconAttention": ("query_key_value", "grouped"),
}

_OUTPUT = ("c_proj", "o_proj", "wo", "dense", "out_proj", "proj")  # in small letters; takes all heads side by side


def projection_cuts(model: nn.Module, heads: Heads) -> tuple[dict[int, Cut | Unknown], bool]:
    """The cuts of all projections of `model` by id(layer), and whether it holds any attention."""
    cuts: dict[int, Cut | Unknown] = {}
    known: list[str] = []
    configs: dict[str, Any] = {}
    places: set[tuple[int, str]] = set()  # of projections: (id of the attention layer, the child's name)
    for path, module, config in _with_configs(model):
        configs[path] = config
        inner = unwrapped(module)
        if isinstance(inner, nn.MultiheadAttention):
            if inner is module:  # its parameters are its own: `multihead_cut` has their blocks
                known.append(path)
            try:
                for which in (0, 1):
                    agreed(inner.num_heads, heads, which, path)
                if inner is not module and (cut := multihead_cut(inner, "in_proj_weight")):
                    cuts[id(module)] = cut  # what LoRA beside it adapts
            except ValueError as error:
                cuts[id(module)] = Unknown(str(error))
        elif (layers := _projections(module, config, path, heads)) is not None:
            known.append(path)
            for name, child in children_of(module).items():
                if name.lower() in layers:
                    places.add((id(module), name))
                    add(cuts, child, layers[name.lower()])
    _elsewhere(model, places, cuts)
    spread_over_wrappers(model, cuts)
    mysteries = unknown_attention(model, known, cuts, configs)
    cuts.update(mysteries)
    return cuts, bool(known or mysteries)


def _elsewhere(model: nn.Module, places: set[tuple[int, str]], cuts: dict[int, Cut | Unknown]) -> None:
    """A projection that is also a layer outside its attention goes by output neuron there, as any layer does."""
    children = [(id(module), *item) for module in model.modules() for item in children_of(module).items()]
    standing = [layers_through(child) for holder, name, child in children if (holder, name) in places]
    projections = {id(layer) for layers in standing for layer in layers}
    for holder, name, child in children:
        inside = (holder, name) in places or (holder in projections and name in WRAPPERS)
        if not inside and id(child) in projections and (size := outputs(child)):
            add(cuts, child, Cut("rows", ((size, 1),), 1, f"{name!r} outside attention: by output neuron"))


def _with_configs(model: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    """(path, module, the nearest config at or above it that counts heads, or None).

    The nearest alone: a vision tower must not take its head size from the language model's config.
    """
    configs: dict[str, Any] = {}
    for path, module in model.named_modules():
        stated_here = getattr(module, "config", None)
        nearest = stated_here if counts_heads(stated_here) else configs.get(path.rpartition(".")[0]) if path else None
        configs[path] = of_layer(nearest, module)
        yield path, module, configs[path]


def _projections(module: nn.Module, config: Any, path: str, heads: Heads) -> dict[str, Cut | Unknown] | None:
    """The cuts of one attention layer's projections by their names in small letters; None where it is not recognised."""
    children = {name.lower(): child for name, child in children_of(module).items()}
    for names in SEPARATE:
        q, k, v = (children.get(name) for name in names)
        if q is not None and k is not None and (rows := outputs(q)) and (key_rows := outputs(k)):
            config = None if in_words_of_its_own(module) else config
            try:
                count, size = head_shape(module, config, path, heads, rows)
                keys = key_count(module, config, path, heads, key_rows, size)
                made: list[Cut | Unknown] = [
                    Cut("heads", ((count, size),), 1, f"query of {type(module).__name__}: by head"),
                    Cut("heads", ((keys, size),), 1, f"key of {type(module).__name__}: by head"),
                ]
            except ValueError as error:
                made = [Unknown(str(error))] * 2
            if v is not None and (value_rows := outputs(v)):
                made.append(Cut("rows", ((value_rows, 1),), 1, f"value of {type(module).__name__}: by output neuron"))
            return dict(zip(names, made, strict=False))  # without a value, two
    bases = [base.__name__ for base in type(module).__mro__]
    name, order = next((FUSED[base] for base in bases if base in FUSED), ("", ""))
    if name not in children or (size := outputs(children[name])) is None:
        return None
    try:
        if "q_attn" in children:  # GPT-2's cross-attention: q_attn beside a c_attn of [k|v]
            count, width = head_shape(module, config, path, heads, outputs(children["q_attn"]) or 0)
            keys = key_count(module, config, path, heads, divide(size, 2, path, "key and value"), width)
            return {
                "q_attn": Cut("heads", ((count, width),), 1, "cross-attention's query: by head"),
                name: Cut("fused", ((keys, width), (keys * width, 1)), 1, "cross-attention's [k|v]: key by head"),
            }
        return {name: _fused_cut(module, config, path, heads, size, order)}
    except ValueError as error:
        return {name: Unknown(str(error))}


def _fused_cut(module: nn.Module, config: Any, path: str, heads: Heads, size: int, order: str) -> Cut:
    """The cut of a fused [q|k|v] of `size` outputs."""
    count = query_heads(module, config, path, heads)
    if type(module).__name__ == "FalconAttention":  # its num_kv_heads counts only in the newer architecture
        newer = getattr(module, "new_decoder_architecture", False)
        own_keys = (
            getattr(module, "num_kv_heads", count) if newer else 1 if getattr(module, "multi_query", False) else count
        )
    else:
        own_keys = key_heads(module, config) if order == "chunks" else None if isinstance(heads, tuple) else count
    found = agreed(own_keys, heads, 1, path)
    keys, certain = found or count, found is not None
    width = divide(size, count + 2 * keys, path, f"fused projection, with {count} query and {keys} key heads,")
    stated_size = stated(module, config, HEAD_SIZE)
    if stated_size is not None and stated_size != width:
        raise ValueError(
            f"{path}: a fused projection of {size} outputs gives heads of {width} with {count} query and {keys} "
            f"key heads, but the layer says {stated_size}; give a rule with a Blocks for this parameter"
        )
    children = {name.lower(): child for name, child in children_of(module).items()}
    out = next((name for name in _OUTPUT if name in children), "")
    taken = inputs(children[out]) if out else None
    if taken not in (None, count * width):
        raise ValueError(
            f"{path}: a fused projection of {size} outputs gives {count} query heads of {width} with {keys} key "
            f"heads, but {out!r} takes {taken} inputs, not {count * width}; pass heads=(query heads, key heads), or "
            f"give a rule for its parameters (rules=)"
        )
    if not certain and taken is None and stated_size is None:
        raise ValueError(
            f"{path}: how many key heads a fused projection of {size} outputs has cannot be told: the layer has none "
            f"of {', '.join((*KEY_HEADS, *HEAD_SIZE))}, and no output projection; pass heads=(query heads, key heads), "
            f"or give a rule for its parameters (rules=)"
        )
    what = f"{type(module).__name__}: {count} query heads, {keys} key heads, value by neuron"
    if order == "chunks":
        return Cut("fused", ((count, width), (keys, width), (keys * width, 1)), 1, f"[q|k|v] of {what}")
    if count % keys:
        raise ValueError(f"{path}: {count} query heads do not divide among {keys} key heads")
    group = ((count // keys, width), (1, width), (width, 1))
    return Cut("fused", group, keys, f"[head][q|k|v] of {what}")


# Attention of no known form: where modules and raw parameters speak of queries and keys that nobody cut. A layer with matrices of
# its own counts with any of `words` in its name, a container only with a whole name of a query or key ("q_proj", not "encoder_q").
# A query alone is no attention: it is asked about only where the model has attention at all.


_LAYERS = (nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.LayerNorm, *BATCH_NORMS)


class _Part(NamedTuple):
    holder: str
    path: str
    about: set[str]
    ids: list[int]  # of the modules, or of the raw parameter


def unknown_attention(
    model: nn.Module, known: Sequence[str], cuts: Mapping[int, Cut | Unknown], configs: Mapping[str, Any]
) -> dict[int, Unknown]:
    """What to say of the layers and raw parameters, by id, that may give queries or keys and are not in `cuts`."""
    modules = dict(model.named_modules(remove_duplicate=False))
    ids = {id(modules[path]) for path in known}
    known = [path for path, module in modules.items() if id(module) in ids]
    parts = [part for part in _parts(modules, known) if not any(key in cuts for key in part.ids)]
    suspects = [path for path, module in modules.items() if _looks_like_attention(module)]
    # A wrapper around a recognised layer (BertAttention), or a helper inside one, is no mystery.
    suspects = [path for path in suspects if not any(_inside(path, k) or _inside(k, path) for k in known)]
    about = set[str]().union(*(part.about for part in parts))
    if not (known or suspects or (about & QUERY and about & KEY)):
        return {}
    found: dict[int, Unknown] = {}
    for part in parts:
        message = _message(part.holder, modules[part.holder], configs)
        found = {key: message for key in part.ids} | found  # the first of a shared layer's names has its config
    for path in suspects:
        inside = set[str]().union(*(part.about for part in parts if _inside(part.path, path)))
        if not (inside & QUERY and inside & KEY):  # nothing in it is known: each of its layers may be anything
            message = _message(path, modules[path], configs)
            found |= {id(layer): message for layer in modules[path].modules() if id(layer) not in cuts}
    return found


def _parts(modules: Mapping[str, nn.Module], known: Sequence[str]) -> Iterator[_Part]:
    """Layers and raw parameters whose own name speaks of queries or keys."""
    inside: list[str] = []
    for path, module in modules.items():
        holder, _, name = path.rpartition(".")
        raw_params = dict(module.named_parameters(recurse=False))
        matrices = any(p.ndim > 1 for p in raw_params.values()) or "parametrizations" in children_of(module)
        skip = isinstance(module, _LAYERS) or type(module).__name__.endswith("Norm") or name in WRAPPERS
        if skip or any(_inside(path, other) for other in inside):
            continue
        words = tokens(name)
        whole = name.lower() in QUERIES | KEYS | FUSED_NAMES and not any(_inside(k, path) for k in known)
        if path and ((matrices and speaks(words)) or (whole and any(p.ndim > 1 for p in module.parameters()))):
            inside.append(path)
            yield _Part(holder, path, words & (QUERY | KEY) or {"q", "k"}, [id(layer) for layer in module.modules()])
            continue
        for raw, param in raw_params.items():
            words = tokens(raw)
            if raw not in ("weight", "bias") and speaks(words) and (param.ndim > 1 or "bias" in words):
                yield _Part(path, f"{path}.{raw}", words & (QUERY | KEY), [id(param)])


def _message(path: str, module: nn.Module, configs: Mapping[str, Any]) -> Unknown:
    config = None if in_words_of_its_own(module) else configs.get(path)
    queries = stated(module, config, QUERY_HEADS)
    return Unknown(
        f"the attention layer {path!r} ({type(module).__name__}) is of no known form, so query, key and value "
        f"cannot be told apart",
        (queries, key_heads(module, config) or queries),
    )


def _looks_like_attention(module: nn.Module) -> bool:
    """By the whole end of its class's name, or a fused child's whole name; and with matrices of its own."""
    children = children_of(module)
    layers = (module, *children.values())
    named = re.search(r"Attention\d*$", type(module).__name__) or any(name.lower() in FUSED_NAMES for name in children)
    return bool(named) and any(p.ndim >= 2 for layer in layers for p in layer.parameters(recurse=False))


def _inside(path: str, other: str) -> bool:
    return other == "" or path == other or path.startswith(other + ".")
