"""Errors about blocks that cannot be told, and the rules that would tell them: what to write, ready to be copied."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from glob import escape

from torch import Tensor

from fast.partition.words import KEY, QUERY, VALUE, Name, read, speaks, tokens

Counts = tuple[int | None, int | None]  # query heads, key heads


class Asks(ValueError):
    """A parameter's blocks cannot be told, a rule would help. `unknown`: nothing is known of it, so that any owner of a
    tied parameter who does know is right."""

    def __init__(self, message: str, heads: Counts = (None, None), axis: int = 0, unknown: bool = False) -> None:
        super().__init__(message)
        self.heads, self.axis, self.unknown = heads, axis, unknown


def advice(asked: Mapping[str, tuple[Tensor, Asks]], named: Mapping[str, Tensor]) -> str:
    """A rule for each parameter that asks; numbers of layers become "*" where that means no other parameter."""
    answers = {name: _rule(name, param, asks, asked) for name, (param, asks) in asked.items()}
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


def _rule(name: str, param: Tensor, asks: Asks, asked: Mapping[str, tuple[Tensor, Asks]]) -> str:
    read_name, shape = read(name), tuple(param.shape)
    axis = asks.axis if len(shape) > 1 else 0
    words = _about(read_name)
    inside = [p for other, (p, _) in asked.items() if read(other).holder == read_name.holder and p.ndim]
    wrapped = not speaks(tokens(read_name.layer)) and read_name.layer != "c_attn"
    small = wrapped and shape[axis] != max(p.shape[0] for p in inside)  # an adapter's inner side
    plain = "columns" if axis else "rows"
    if len(shape) > 2 or small or read_name.adapter == "lora_A" or not words:
        return repr(plain)
    (n, m), tail = asks.heads, f", {axis}" if axis else ""
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
