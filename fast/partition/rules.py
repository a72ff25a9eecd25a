"""The user's own rules for Adam-mini's blocks (patterns over whole names, or a function), and the error where blocks are unknown,
which suggests a rule to copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import escape
from typing import Any

from torch import Tensor

from fast.partition.blocks import Blocks, Decision
from fast.partition.words import KEY, QUERY, VALUE, Name, read, speaks, tokens

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


# What to write where blocks cannot be told


Counts = tuple[int | None, int | None]  # query heads, key heads


class NeedsRule(ValueError):
    """A parameter's blocks cannot be told, a rule would help. `unknown`: nothing is known of it, so that any owner of a
    tied parameter who does know is right."""

    def __init__(self, message: str, heads: Counts = (None, None), axis: int = 0, unknown: bool = False) -> None:
        super().__init__(message)
        self.heads, self.axis, self.unknown = heads, axis, unknown


def advice(ambiguous: Mapping[str, tuple[Tensor, NeedsRule]], named: Mapping[str, Tensor]) -> str:
    """A rule for each parameter that asks; numbers of layers become "*" where that means no other parameter."""
    answers = {name: _rule(name, param, error, ambiguous) for name, (param, error) in ambiguous.items()}
    rules: dict[str, str] = {}
    for name, rule in answers.items():
        if any(fnmatchcase(name, pattern) for pattern in rules):
            continue
        pattern = ".".join("*" if part.isdigit() else escape(part) for part in name.split("."))
        alike = all(answers.get(other) == rule for other in named if fnmatchcase(other, pattern))
        rules[pattern if alike else escape(name)] = rule
    text = f"give a rule, e.g. rules={{{', '.join(f'{p!r}: {rule}' for p, rule in rules.items())}}}"
    letters = [f"{x} for its number of {w} heads" for x, w in (("n", "query"), ("m", "key")) if _has(x, rules)]
    text += f" with {' and '.join(letters)}" if letters else ""
    text += " (AdamMini: partition={...})"
    if any("'fused'" in rule for rule in rules.values()):
        text += (
            "; 'fused' is right where the outputs lie as [queries | keys | values], heads in order: else give a Blocks"
        )
    return f"{text}; or partition(..., algorithm=2) for one block a tensor"


def _has(letter: str, rules: Mapping[str, str]) -> bool:
    return any(part.strip("() ") == letter for rule in rules.values() for part in rule.replace("+", ",").split(","))


def _rule(name: str, param: Tensor, error: NeedsRule, ambiguous: Mapping[str, tuple[Tensor, NeedsRule]]) -> str:
    read_name, shape = read(name), tuple(param.shape)
    axis = error.axis if len(shape) > 1 else 0
    words = _about(read_name)
    inside = [p for other, (p, _) in ambiguous.items() if read(other).holder == read_name.holder and p.ndim]
    wrapped = not speaks(tokens(read_name.layer)) and read_name.layer != "c_attn"
    small = wrapped and shape[axis] != max(p.shape[0] for p in inside)  # an adapter's inner side
    plain = "columns" if axis else "rows"
    if len(shape) > 2 or small or read_name.adapter == "lora_A" or not words:
        return repr(plain)
    (n, m), tail = error.heads, f", {axis}" if axis else ""
    q, k, v = ("q" in words, "k" in words, "v" in words)
    known = n is not None and m is not None
    if q and k and not v:
        count, rule = (n + m if n and m else None), f"('heads', {n + m if n and m else 'n + m'}{tail})"
    elif k and v:
        count = ((n if q else 0) + 2 * m) if n and m else None
        rule = f"('fused', {(n or 'n') if q else 0}, {m or 'm'}{tail})"
    else:
        count = n if q else m
        rule = f"('heads', {count or ('n' if q else 'm')}{tail})"
    fits = count is None or shape[axis] % count == 0
    return rule if fits or not known else repr(plain)


def _about(name: Name) -> set[str]:
    """Which of "q", "k", "v" the nearest part of the path that speaks of any is about; none for a latent's projection."""
    if name.exact == "c_attn":
        return {"q", "k", "v"}
    for part in (name.layer, *reversed(name.holder.split("."))):
        if speaks(words := tokens(part)):
            if words & {"a", "down", "latent"}:  # DeepSeek's q_a_proj: what the heads are made from
                return set()
            return {letter for letter, those in (("q", QUERY), ("k", KEY), ("v", VALUE)) if words & those}
    return set()
