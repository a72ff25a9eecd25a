"""Attention of no known form: where a model's modules and raw parameters speak of queries and keys that nobody cut.

The words are those that `names` asks about (`words`). A layer with matrices of its own counts with any of them in its name, a
container only with a whole name of a query or key ("q_proj", not "encoder_q"). A query alone is no attention: it is asked about
only where the model has attention at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from fast.partition.cuts import Cut, Unknown, children_of
from fast.partition.heads import QUERY_HEADS, in_words_of_its_own, key_heads, stated
from fast.partition.words import FUSED_NAMES, KEY, KEYS, QUERIES, QUERY, WRAPPERS, speaks, tokens

_LAYERS = (nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.modules.batchnorm._NormBase, nn.LayerNorm)


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
        own = dict(module.named_parameters(recurse=False))
        matrices = any(p.ndim > 1 for p in own.values()) or "parametrizations" in children_of(module)
        skip = isinstance(module, _LAYERS) or type(module).__name__.endswith("Norm") or name in WRAPPERS
        if skip or any(_inside(path, other) for other in inside):
            continue
        words = tokens(name)
        whole = name.lower() in QUERIES | KEYS | FUSED_NAMES and not any(_inside(k, path) for k in known)
        if path and ((matrices and speaks(words)) or (whole and any(p.ndim > 1 for p in module.parameters()))):
            inside.append(path)
            yield _Part(holder, path, words & (QUERY | KEY) or {"q", "k"}, [id(layer) for layer in module.modules()])
            continue
        for raw, param in own.items():
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
