"""The user's own rules for Adam-mini's blocks: patterns over whole names, or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from fast.partition.blocks import Blocks
from fast.partition.layers import Decision

Rule = str | tuple[Any, ...] | Blocks
Rules = Mapping[str, Rule] | Callable[[str, Tensor], Rule | None] | None


def apply_rules(named: Sequence[tuple[str, Tensor]], rules: Rules) -> dict[str, Decision]:
    """The decisions of the user's rules, for the names that they answer. ValueError: a pattern matches nothing."""
    if rules is None:
        return {}
    decisions: dict[str, Decision] = {}
    unused = set(rules) if isinstance(rules, Mapping) else set()
    for name, param in named:
        if isinstance(rules, Mapping):
            matching = [pattern for pattern in rules if fnmatchcase(name, pattern)]
            unused -= set(matching)
            if not matching:
                continue
            rule, source = rules[matching[0]], f"the user's rule {matching[0]!r}"
        else:
            answer, source = rules(name, param), "the user's rule"
            if answer is None:
                continue
            rule = answer
        try:
            decisions[name] = _blocks(rule, tuple(param.shape)), source
        except ValueError as error:
            raise ValueError(f"parameter {name!r}, {source}: {error}") from error
    if unused:
        raise ValueError(
            f"rules={sorted(unused)} match no parameter; names look like {[name for name, _ in named[:3]]}"
        )
    return decisions


def _blocks(rule: Rule, shape: tuple[int, ...]) -> Blocks:
    if isinstance(rule, Blocks):
        if rule.shape != shape:
            raise ValueError(f"blocks for shape {rule.shape} were given to a parameter of shape {shape}")
        return rule
    if rule == "tensor":
        return Blocks(shape)
    if rule == "rows":
        return Blocks.along(shape, 0)
    if rule == "columns":
        return Blocks.along(shape, 1, "columns")
    if isinstance(rule, tuple) and rule and all(isinstance(n, int) and not isinstance(n, bool) for n in rule[1:]):
        if rule[0] == "heads" and len(rule) in (2, 3):
            return Blocks.heads(shape, *rule[1:])
        if rule[0] == "fused" and len(rule) in (3, 4):
            return _fused(shape, *rule[1:])
    raise ValueError(
        f"expected 'tensor', 'rows', 'columns', ('heads', count), ('fused', query heads, key heads), either with an axis "
        f"as one number more, or a Blocks, got {rule!r}"
    )


def _fused(shape: tuple[int, ...], queries: int, keys: int, axis: int = 0) -> Blocks:
    """[q|k|v] along `axis`: q and k by head, v by neuron. With no query it is [k|v]."""
    axis = 0 if len(shape) == 1 else axis
    if queries < 0 or keys < 1 or not 0 <= axis < len(shape):
        raise ValueError(f"('fused', {queries}, {keys}, {axis}): no such heads or axis in a parameter of shape {shape}")
    width, rest = divmod(shape[axis], queries + 2 * keys)
    if rest or not width:
        raise ValueError(
            f"axis {axis} of shape {shape} does not divide into {queries} query heads and {keys} heads each of key and value"
        )
    return Blocks(shape, "fused", axis, ((queries + keys, width), (keys * width, 1)))
