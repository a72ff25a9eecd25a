"""How many heads an attention layer has and how large they are: its own attributes, else its config, else `heads=`.

A `heads=` that contradicts the layer or its config is an error. A head's size times the
number of query heads is the query's number of outputs, which need not be the model's width (Gemma).
"""

from __future__ import annotations

import math
import re
from typing import Any

from torch import nn

Heads = int | tuple[int, int] | None

HEAD_SIZE = ("head_k_dim", "head_dim", "attention_head_size", "head_size", "key_value_proj_dim", "d_head")
QUERY_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "n_query_groups")
_VARIES = object()


def head_shape(module: nn.Module, config: Any, path: str, heads: Heads, rows: int) -> tuple[int, int]:
    """(number of query heads, size of a head) of a query with `rows` outputs."""
    size = stated(module, config, HEAD_SIZE)
    stated_count = agreed(stated(module, config, QUERY_HEADS), heads, 0, path)
    if size is None:
        count = query_heads(module, config, path, heads)
        if heads is None and count > 1 and stated(module, None, QUERY_HEADS) is None and _one_head(module, rows):
            raise ValueError(
                f"{path}: the config states {count} heads, but {type(module).__name__} has none and scales by 1 / sqrt({rows}),"
                f" as one head of all {rows} outputs of the query does; give a rule for its parameters"
            )
        return count, divide(rows, count, path, "query")
    count = divide(rows, size, path, "query")
    if stated_count is not None and stated_count != count:
        raise ValueError(
            f"{path}: {rows} outputs of the query in heads of {size} make {count} heads, but {stated_count} "
            f"are stated by the layer, its config or heads=; give a rule for its parameters"
        )
    return count, size


def _one_head(module: nn.Module, rows: int) -> bool:
    """Whether a layer scales its products as one head of so many entries does."""
    scale = getattr(module, "scale", None)
    return isinstance(scale, float) and math.isclose(scale, rows**-0.5, rel_tol=1e-6)


def query_heads(module: nn.Module, config: Any, path: str, heads: Heads) -> int:
    if (count := agreed(stated(module, config, QUERY_HEADS), heads, 0, path)) is None:
        raise ValueError(
            f"the number of heads of {path!r} ({type(module).__name__}) cannot be told: neither it nor a config above "
            f"it has any of {', '.join(QUERY_HEADS)}; pass heads=number or heads=(query heads, key heads)"
        )
    return count


def agreed(stated_count: int | None, heads: Heads, which: int, path: str) -> int | None:
    """The number of query heads (`which` 0) or key heads (1) that a layer or its config tells, else that of `heads=`.

    ValueError where the two contradict each other.
    """
    given = heads[which] if isinstance(heads, tuple) else None if which else heads  # of one number nothing about keys
    if given is None or stated_count in (None, given):
        return stated_count if given is None else given
    raise ValueError(
        f"{path}: heads={heads!r} says {given} {'key' if which else 'query'} heads, but the layer or its config says"
        f" {stated_count}; correct heads=, or give a rule for its parameters (rules=)"
    )


def key_count(module: nn.Module, config: Any, path: str, heads: Heads, rows: int, size: int) -> int:
    """The number of key heads of that size in `rows` outputs."""
    count = divide(rows, size, path, "key")
    stated_count = agreed(key_heads(module, config), heads, 1, path)
    if stated_count not in (None, count):
        raise ValueError(
            f"{path}: {rows} outputs of the key make {count} heads, but {stated_count} are stated by the layer, its config or"
            " heads=; give a rule for its parameters"
        )
    return count


def divide(size: int, by: int, path: str, what: str) -> int:
    if by < 1 or size % by:
        raise ValueError(
            f"{path}: {size} outputs of the {what} do not divide by {by}; correct heads= if that is its number, else give"
            " a rule for its parameters (rules=)"
        )
    return size // by


def stated(module: Any, config: Any, names: tuple[str, ...]) -> int | None:
    """The first of `names` that the layer itself, else a config above it, has as a positive integer.

    A config's value that differs between its layers is none, unless the layer's own config is known (`of_layer`).
    """
    for holder in (module, config):
        for name in names:
            value = _read(holder, name)
            if value is _VARIES:  # another of `names` would not be the layer's either
                break
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def key_heads(module: nn.Module, config: Any) -> int | None:
    """The number of key heads that the layer states, else its config, unless that speaks of layers with other queries."""
    here, theirs = (stated(holder, None, QUERY_HEADS) for holder in (module, config))
    if here is not None and theirs is not None and here != theirs:  # Whisper's decoder beside its encoder's numbers
        config = None
    return stated(module, config, KEY_HEADS)


def in_words_of_its_own(module: nn.Module) -> bool:
    """Whether a layer counts heads by other names than those above, so that its config's numbers are another layer's."""
    known = (*QUERY_HEADS, *KEY_HEADS)
    return any(re.fullmatch(r"(num|n)_\w*heads?", name) and name not in known for name in vars(module))


def counts_heads(config: Any) -> bool:
    """Whether a config speaks of a number of query heads, be it one for all layers or one for each."""
    return any(_read(config, name) is not None for name in QUERY_HEADS)


def of_layer(config: Any, module: nn.Module) -> Any:
    """The config of `module`'s own layer, where transformers keeps one for each and `layer_idx` says which."""
    index = getattr(module, "layer_idx", None)
    if isinstance(index, int) and getattr(config, "is_heterogeneous", False) is True:
        layers = config.per_layer_config
        return layers[index] if 0 <= index < len(layers) else config
    return config


def _read(holder: Any, name: str) -> Any:
    """An attribute, None without one; _VARIES where a config of many layers refuses one that is not the same in all."""
    try:
        return getattr(holder, name, None)
    except RuntimeError:  # transformers' AmbiguousGlobalPerLayerAttributeError, which older versions lack
        return _VARIES


def check_heads(heads: Heads) -> None:
    counts = heads if isinstance(heads, tuple) else (1 if heads is None else heads, 1)
    if len(counts) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in counts):
        raise ValueError(f"heads={heads!r}: expected a positive number of heads, or (query heads, key heads)")
