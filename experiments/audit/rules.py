"""The rules of `reference` as the audit takes them: their own source, whole or with an edit at a tagged line.

    rule = load("adamw")                                  reference/adamw.py, as it stands
    rule.step(w, g, state, lr=0.1, beta1=0.9, ...)        its own step
    other = load("adamw", [edit])                         the same source with the edit; EditError where it does not fit

An `Edit` names the line of pseudocode that it changes (`# l.10` in the source is "l.10"), so an explanation can name it too.
`DOCUMENTED` has, for each rule, the deviations that the papers, their released code or a library's documentation write down.
No algorithm is written out here: what is not a change of a line of `reference` is none of the audit's rules.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from reference import ops

NAMES = (  # in the order of the table
    "adam",
    "adamw",
    "lion",
    "cautious",
    "cautious_lion",
    "grams",
    "adams",
    "adam_mini",
    "adam_atan2",
    "cautious_weight_decay",
)
TITLES = {
    "adam": "Adam",
    "adamw": "AdamW",
    "lion": "Lion",
    "cautious": "C-AdamW",
    "cautious_lion": "C-Lion",
    "grams": "Grams",
    "adams": "Adams",
    "adam_mini": "Adam-mini",
    "adam_atan2": "Adam-atan2",
    "cautious_weight_decay": "Cautious decay",
}
TAG = re.compile(r"  # ((?:l\.|[A-Z]\d*\.)\d+)(?![\w.])")


class EditError(ValueError):
    """An edit that does not fit the source: what it replaces is not there, or not there once."""


@dataclass(frozen=True)
class Edit:
    """One change of one line of pseudocode.

    changes: ("replace", label, old, new) within the line of that label, ("move", label, "before" or "after", other), ("insert",
    label, text) before it; they are made one after the other, each in the source as it is by then. given: edits the numbers that
    the step is given, for a tensor of this name. shared_count: a step counts where the gradient is missing too. released: what
    code, released with the paper, is so.
    """

    line: str
    what: str
    changes: tuple[tuple[str, ...], ...] = ()
    given: Callable[[dict[str, Any], str], None] | None = field(default=None, compare=False)
    shared_count: bool = False
    released: str = ""

    def __str__(self) -> str:
        return f"{self.line}: {self.what}"


@dataclass(frozen=True)
class Rule:
    """A rule with its edits: `init(w)` and `step(w, g, state, **numbers)` as `reference` has them."""

    name: str
    module: ModuleType
    source: str
    edits: tuple[Edit, ...] = ()

    @cached_property
    def arguments(self) -> frozenset[str]:
        """The keyword arguments of its step."""
        return frozenset(
            n for n, p in inspect.signature(self.module.step).parameters.items() if p.kind == p.KEYWORD_ONLY
        )

    @property
    def shared_count(self) -> bool:
        return any(edit.shared_count for edit in self.edits)

    def init(self, w: np.ndarray) -> Any:
        return self.module.init(w)

    def step(self, w: np.ndarray, g: np.ndarray, state: Any, **numbers: Any) -> tuple[np.ndarray, Any]:
        return self.module.step(w, g, state, **numbers)

    def given(self, numbers: Mapping[str, Any], tensor: str) -> dict[str, Any]:
        """The numbers as the edits have them, for the tensor of this name."""
        out = dict(numbers)
        for edit in self.edits:
            if edit.given:
                edit.given(out, tensor)
        return out

    def skip(self, state: Any) -> Any:
        """The state after a step without a gradient."""
        return state._replace(t=state.t + 1) if self.shared_count and "t" in state._fields else state


def available() -> list[str]:
    """The rules that this checkout's `reference` has."""
    return [name for name in NAMES if find_spec(f"reference.{name}")]


@cache
def source_of(name: str) -> str:
    return inspect.getsource(import_module(f"reference.{name}"))


def load(name: str, edits: Sequence[Edit] = ()) -> Rule:
    """`reference`'s rule of this name, with the edits made in its source one after the other."""
    return _load(name, tuple(edits))


@cache
def _load(name: str, edits: tuple[Edit, ...]) -> Rule:
    if name not in NAMES:
        raise ValueError(f"the rules are {', '.join(available())}; got {name!r}")
    source = source_of(name)
    for edit in edits:
        for change in edit.changes:
            source = _changed(source, edit, *change)
    if not edits or not any(edit.changes for edit in edits):
        return Rule(name, import_module(f"reference.{name}"), source, edits)
    module = ModuleType(f"reference.{name}")
    vars(module).update({n: f for n, f in vars(ops).items() if not n.startswith("_")})  # an edit may call any of them
    exec(compile(source, f"reference/{name}.py with {'; '.join(map(str, edits))}", "exec"), vars(module))
    return Rule(name, module, source, edits)


def _changed(source: str, edit: Edit, how: str, label: str, *rest: str) -> str:
    lines = tagged(source)
    line = lines[label]
    if how == "insert":
        return source.replace(line, f"    {rest[0]}\n{line}")
    if how == "move":
        where, other = rest[0], lines[rest[1]]
        return source.replace(line, "").replace(other, line + other if where == "before" else other + line)
    old, new = rest
    if code(line).count(old) != 1 or old == new:
        raise EditError(f"{edit}: {label} has not {old!r} once: {code(line)!r}")
    return source.replace(line, line.replace(code(line), code(line).replace(old, new)))


def tagged(source: str) -> dict[str, str]:
    """The tagged lines of the module's `step`, in order: {"l.5": "    m = beta1 * m + ...  # l.5\\n"}."""
    body = source[source.index("\ndef step(") :]
    return {m[1]: line for line in body.splitlines(keepends=True) if (m := TAG.search(line))}


def code(line: str) -> str:
    """A tagged line without its indentation and its tag."""
    return TAG.split(line)[0].strip()


def replaced(label: str, what: str, old: str, new: str, released: str = "") -> Edit:
    """The edit that has `new` for `old` in the line of this label."""
    return Edit(label, what, (("replace", label, old, new),), released=released)


def moved(label: str, where: str, other: str, what: str, released: str = "") -> Edit:
    """The edit that puts one tagged line "before" or "after" another."""
    return Edit(label, what, (("move", label, where, other),), released=released)


def _argument(line: str, what: str, **arguments: Any) -> Edit:
    return Edit(line, what, given=lambda numbers, tensor: numbers.update(arguments))


def _lr32(numbers: dict[str, Any], tensor: str) -> None:
    numbers["lr"] = float(np.float32(numbers["lr"]))


def _released_atan2(numbers: dict[str, Any], tensor: str) -> None:
    numbers |= {"as_released": True, "weight_decay": numbers["weight_decay"] or 5e-324}  # the decays stay as they are


def _no_decay_at_zero(numbers: dict[str, Any], tensor: str) -> None:
    if numbers["weight_decay"] == 0:
        numbers |= {"scalar_vector_weight_decay": 0.0, "use_spectral_decay": False}


def _norms_undecayed(numbers: dict[str, Any], tensor: str) -> None:
    if "norm" in tensor:
        numbers["weight_decay"] = 0.0


def _whole_tensors(numbers: dict[str, Any], tensor: str) -> None:
    if numbers["blocks"] == "rows":
        numbers["blocks"] = "tensor"


LR32 = Edit("lr", "lr passes through float32", given=_lr32)
EPS = "eps before the bias correction"
FIRST, LAST = "decay before the update", "decay after the update"
DECOUPLED = "decoupled from the gradient, as AdamW's"
COUNT = "one count of steps, which goes on without a gradient"
CORRECTED = "the averages are kept corrected for bias"
MEAN, NONE = "rescaling 1 / max(mean, 1/1000)", "no rescaling"
UNDECAYED = "no decay of normalization layers"
WHOLE = "one block for each tensor but embeddings, queries and keys"
OUTSIDE = "bias correction of m outside the arctangent"
RESEED = "u starts anew where it has become 0"
COPTIM = "the paper's released code, C-Optim"
GRAMS, ADAMS, MINI = "grams-pytorch 0.0.2", "adams-torch 0.0.1", "adam-mini 1.1.1"


def _eps_first(label: str, released: str = "", inner: str = "vhat") -> Edit:
    return replaced(label, EPS, f"sqrt({inner}) + eps", f"sqrt({inner}) + eps / sqrt(1 - beta2**t)", released)


def _kept_corrected(*labels: str) -> Edit:
    """mhat and vhat themselves are averaged, with betas that grow: the same until a gradient is missing and t goes on."""
    lines = (
        ("m = beta1 * m + (1 - beta1) * g", "m = m + (g - m) * (1 - beta1) / (1 - beta1**t)"),
        ("v = beta2 * v + (1 - beta2) * g**2", "v = v + (g**2 - v) * (1 - beta2) / (1 - beta2**t)"),
        ("mhat = m / (1 - beta1**t)", "mhat = m"),
        ("vhat = v / (1 - beta2**t)", "vhat = v"),
    )
    changes = tuple(("replace", label, *pair) for label, pair in zip(labels, lines, strict=True))
    return Edit(labels[0], CORRECTED, changes)


def _shared(label: str) -> Edit:
    return Edit(label, COUNT, shared_count=True)


def _released(edit: Edit, by: str) -> Edit:
    return replace(edit, released=by)


# What papers, released code and libraries write down of themselves. The cautious rules' own defaults are the paper's.
DOCUMENTED: Mapping[str, Sequence[Edit]] = {
    "adam": [
        Edit("decay", DECOUPLED, (("insert", "l.3", "g = g - weight_decay * w\n    w = w - lr * weight_decay * w"),)),
        _eps_first("l.9"),
        _shared("l.3"),
        _kept_corrected("l.5", "l.6", "l.7", "l.8"),
        LR32,
    ],
    "adamw": [
        _eps_first("l.10"),
        moved("l.5", "after", "l.10", LAST),
        _shared("l.3"),
        _kept_corrected("l.6", "l.7", "l.8", "l.9"),
        LR32,
    ],
    "lion": [LR32],
    "cautious": [
        _released(_argument("l.11", MEAN, rescale="mean"), COPTIM),
        _argument("l.11", NONE, rescale="none"),
        _eps_first("l.9", COPTIM),
        moved("l.13", "before", "l.12", FIRST, COPTIM),
        _shared("l.3"),
        _kept_corrected("l.5", "l.6", "l.7", "l.8"),
        LR32,
    ],
    "cautious_lion": [
        _released(_argument("l.7", MEAN, rescale="mean"), COPTIM),
        _argument("l.7", NONE, rescale="none"),
        moved("l.9", "before", "l.8", FIRST, COPTIM),
        LR32,
    ],
    "grams": [_eps_first("l.9", GRAMS), moved("l.12", "before", "l.11", FIRST, GRAMS), _shared("l.3"), LR32],
    "adams": [
        Edit("l.7", "weight_decay = 0 turns off both decays", given=_no_decay_at_zero, released=ADAMS),
        Edit("l.12", OUTSIDE, given=_released_atan2, released=ADAMS),
        _argument("l.6", RESEED, reseed=True),
        LR32,
    ],
    "adam_mini": [
        Edit("l.5", UNDECAYED, given=_norms_undecayed, released=MINI),
        Edit("l.2", WHOLE, given=_whole_tensors),
        _eps_first("l.10", inner="spread(vhat, shape_of(w), blocks)"),
        _shared("t"),
        LR32,
    ],
    "adam_atan2": [
        _argument("l.10", "a = 1.27", a=1.27),
        _argument("l.10", "a = 4/pi", a=4 / math.pi),
        replaced("l.10", OUTSIDE, "a * atan2(mhat, ", "a / (1 - beta1**t) * atan2(m, "),
        _shared("l.3"),
        LR32,
    ],
    "cautious_weight_decay": [
        _eps_first("l.9"),
        _shared("l.3"),
        _kept_corrected("l.5", "l.6", "l.7", "l.8"),
        LR32,
    ],
}
