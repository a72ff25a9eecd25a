"""Errors of one line: every change of a tagged line of `reference` that an implementation is likely to have made.

    for edit in mutations("grams"): ...      the ones with a name first (place of eps, order of decay, beta swapped, ...),
                                             then whatever else changes one operation, name or place of one line

All are made from the source of `reference` itself, by its tags, so that each can say which line it changes.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from experiments.audit.rules import Edit, code, moved, replaced, source_of, tagged

# (pattern in a line's code, [(what it is called, its replacement)]); a replacement that changes nothing is left out
NAMED: list[tuple[str, list[tuple[str, str]]]] = [
    (
        r"sqrt\((?P<v>.*vhat.*?)\) \+ eps\b",
        [
            ("eps before the bias correction", r"sqrt(\g<v>) + eps / sqrt(1 - beta2**t)"),
            ("eps under the root", r"sqrt(\g<v> + eps)"),
            ("eps squared under the root", r"sqrt(\g<v> + eps**2)"),
            ("no eps", r"sqrt(\g<v>)"),
            ("eps as a floor", r"maximum(sqrt(\g<v>), eps)"),
            ("eps scaled by the bias correction of m", r"sqrt(\g<v>) + eps / (1 - beta1**t)"),
            ("eps under the root, before the bias correction", r"sqrt(\g<v> + eps / (1 - beta2**t))"),
        ],
    ),
    (
        r"^(?P<x>\w) = (?P<a>beta\d) \* \w \+ \(1 - beta\d\) \* (?P<g>.*)$",
        [
            ("1 - beta where beta belongs", r"\g<x> = (1 - \g<a>) * \g<x> + \g<a> * \g<g>"),
            ("no 1 - beta on the new value", r"\g<x> = \g<a> * \g<x> + \g<g>"),
        ],
    ),
    (
        r"\(1 - beta1\) \* (?P<g>.*?) \+ beta1 \* m$",
        [("1 - beta where beta belongs", r"beta1 * \g<g> + (1 - beta1) * m")],
    ),
    (
        r"^(?P<x>\w+hat) = (?P<m>\w) / \(1 - (?P<b>beta\d)\*\*t\)$",
        [
            ("no bias correction", r"\g<x> = \g<m>"),
            ("bias correction twice", r"\g<x> = \g<m> / (1 - \g<b>**t) ** 2"),
            ("square root of the bias correction", r"\g<x> = \g<m> / sqrt(1 - \g<b>**t)"),
            ("bias correction of the step before", r"\g<x> = \g<m> / (1 - \g<b>**maximum(t - 1, 1))"),
            ("bias correction of the step after", r"\g<x> = \g<m> / (1 - \g<b>**(t + 1))"),
        ],
    ),
    (
        r"^w = w - lr \* weight_decay \* w$",
        [
            ("no decay", "w = w"),
            ("decay without lr", "w = w - weight_decay * w"),
            ("decay by the square of lr", "w = w - lr * lr * weight_decay * w"),
            ("growth for decay", "w = w + lr * weight_decay * w"),
        ],
    ),
    (r"sign\(g\)", [("sign of the momentum", "sign(m)"), ("sign of the negative gradient", "sign(-g)")]),
    (r"absolute\(u\)", [("no absolute value", "u")]),
    (
        r"positive\(u \* g\)",
        [
            ("mask of the sign of the momentum", "positive(m * g)"),
            ("mask the wrong way", "positive(-u * g)"),
            ("mask that counts entries of no gradient", "u * g >= 0"),
            ("mask by sign bits: +0 counts as positive", "(np.signbit(u) == np.signbit(g))"),
        ],
    ),
    (
        r"where\(positive\(-\(u \* w\)\), zeros_like\(w\), w\)",
        [
            ("decay of a weight that the update leaves alone: not", "where(positive(u * w), w, zeros_like(w))"),
            ("decay where the sign bits agree", "where(np.signbit(u) == np.signbit(w), w, zeros_like(w))"),
            ("decay everywhere", "w"),
            ("decay where the gradient agrees", "where(positive(-(g * w)), zeros_like(w), w)"),
            ("decay where the update and the weight disagree", "where(positive(u * w), zeros_like(w), w)"),
        ],
    ),
    (
        r"^alpha = scale\(phi, xi, rescale\)$",
        [
            ("no rescaling", "alpha = 1"),
            ("rescaling 1 / max(mean, 1/1000)", 'alpha = scale(phi, xi, "mean")'),
            ("rescaling d / (count + 1)", 'alpha = scale(phi, 1, "count")'),
            ("rescaling 1 / max(mean, 1e-8)", "alpha = 1 / maximum(mean(phi), 1e-8)"),
            ("rescaling 1 / (mean + 1e-8)", "alpha = 1 / (mean(phi) + 1e-8)"),
            ("rescaling 1 / (mean + eps)", "alpha = 1 / (mean(phi) + eps)"),
            ("rescaling d / max(count, 1)", "alpha = size_of(phi) / maximum(total(phi), 1)"),
            ("rescaling by the mean, not over it", "alpha = mean(phi)"),
        ],
    ),
    (
        r"block_mean\(g \* g, blocks\)",
        [
            ("square of the mean", "block_mean(g, blocks) ** 2"),
            ("sum, not mean", "block_mean(g * g, blocks) * (g.size / block_mean(g, blocks).size)"),
        ],
    ),
    (
        r"sign\(c\) \+ weight_decay \* w",
        [
            ("decay without lr", "sign(c) + weight_decay * w / lr"),
            ("no decay", "sign(c)"),
            ("decay inside the sign", "sign(c + weight_decay * w)"),
        ],
    ),
]
DECAY = "w = w - lr * weight_decay * w"
SCALARS = ("lr", "beta1", "beta2", "eps", "weight_decay", "t")
ARRAYS = ("w", "g", "m", "v", "n", "c", "mhat", "vhat", "nhat", "u", "uhat", "phi")
FUNCTIONS = ("sqrt", "sign", "absolute", "positive")


@cache
def named(name: str) -> tuple[Edit, ...]:
    """The errors that have a name."""
    lines, found = tagged(source_of(name)), []
    for label, line in lines.items():
        text = code(line)
        for pattern, choices in NAMED:
            for what, new in choices if re.search(pattern, text) else []:
                if (other := re.sub(pattern, new, text, count=1)) != text:
                    found.append(replaced(label, what, text, other))
        for a, b in (("beta1", "beta2"), ("beta2", "beta1")):
            if a in text and b not in text:
                found.append(replaced(label, f"{b} for {a}", text, text.replace(a, b)))
    return (*found, *_decays(lines))


def _decays(lines: dict[str, str]) -> Iterator[Edit]:
    """The decay in another place, or coupled: part of the gradient that the averages see."""
    first = next(label for label, line in lines.items() if re.match(r"\w = .*\bg\b", code(line)))
    coupled = ("insert", first, "g = g + weight_decay * w")
    labels = list(lines)
    for label, line in lines.items():
        text = code(line)
        if text == DECAY:
            gone = ("replace", label, DECAY, "w = w")
            yield Edit(label, "decay coupled: part of the gradient", (coupled, gone))
            for x in labels:
                step = re.fullmatch(r"w = w - lr \* (alpha \* )?(phi \* )?(?P<u>\w+)(?P<rest>.*)", code(lines[x]))
                if x == label or not step:
                    continue
                if labels.index(x) < labels.index(label):
                    yield moved(label, "before", x, "decay before the update")
                else:
                    yield moved(label, "after", x, "decay after the update")
                if not step["rest"]:
                    into = code(lines[x]).replace(f" {step['u']}", f" ({step['u']} + weight_decay * w)")
                    both = (gone, ("replace", x, code(lines[x]), into))
                    yield Edit(label, "decay rescaled and masked with the update", both)
        elif "sign(c) + weight_decay * w" in text:
            gone = ("replace", label, "sign(c) + weight_decay * w", "sign(c)")
            yield Edit(label, "decay coupled: part of the gradient", (gone, coupled))


@cache
def other(name: str) -> tuple[Edit, ...]:
    """Every other change of one operation, one name or one place, without a name of its own."""
    lines = tagged(source_of(name))
    found: dict[tuple[tuple[str, ...], ...], Edit] = {}
    for label, line in lines.items():
        statement = ast.parse(code(line)).body[0]
        if isinstance(statement, ast.Assign):
            for changed in _changes(statement):
                new = ast.unparse(changed)
                if new != ast.unparse(statement):
                    edit = replaced(label, f"`{new}` where the paper has `{code(line)}`", code(line), new)
                    found.setdefault(edit.changes, edit)
    labels = list(lines)
    for a, b in pairwise(labels):
        edit = moved(b, "before", a, f"comes before {a}")
        found.setdefault(edit.changes, edit)
    return tuple(found.values())


def _changes(statement: ast.Assign) -> Iterator[ast.Assign]:
    for i, node in enumerate(ast.walk(statement.value)):
        for new in _instead(node):
            changed = copy.deepcopy(statement)
            place = list(ast.walk(changed.value))[i]
            value: Any = _Put(place, new).visit(changed.value)
            changed.value = value
            yield ast.fix_missing_locations(changed)


class _Put(ast.NodeTransformer):
    def __init__(self, place: ast.AST, new: ast.expr) -> None:
        self.place, self.new = place, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.place else self.generic_visit(node)


def _instead(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp):
        yield node.left
        yield node.right
        swaps = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
        if type(node.op) in swaps:
            yield ast.BinOp(node.left, swaps[type(node.op)](), node.right)
        if isinstance(node.op, ast.Pow):
            yield ast.Call(ast.Name("absolute"), [node.left], [])
    elif isinstance(node, ast.Name) and (kind := next((k for k in (SCALARS, ARRAYS) if node.id in k), None)):
        yield from (ast.Name(x) for x in kind if x != node.id)
        if kind is ARRAYS:
            yield from (ast.Call(ast.Name(f), [node], []) for f in ("sqrt", "sign", "absolute"))
            yield ast.UnaryOp(ast.USub(), node)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        yield node.args[0]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)


def mutations(name: str) -> tuple[Edit, ...]:
    """All of them, those with a name first."""
    return (*named(name), *other(name))
