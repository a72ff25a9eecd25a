"""The user's own rules for Adam-mini's blocks: patterns over whole names, or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from fast._blocks import Blocks
from fast._layers import Decision

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
    if (
        isinstance(rule, tuple)
        and len(rule) in (2, 3)
        and rule[0] == "heads"
        and all(isinstance(n, int) for n in rule[1:])
    ):
        return Blocks.heads(shape, *rule[1:])
    raise ValueError(
        f"expected 'tensor', 'rows', 'columns', ('heads', count), ('heads', count, axis) or a Blocks, got {rule!r}"
    )
