"""Which line of its parent's pseudocode an optimizer changes: compared by the statements that run, and drawn as a map.

A rule is a module of `reference`, whose step has one statement for each line of its paper's pseudocode, tagged "# l.6".
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.figures import COLORS

PARENT = {
    "AdamW": "Adam",
    "Grams": "AdamW",
    "Cautious": "AdamW",
    "Adam-mini": "AdamW",
    "Adam-atan2": "AdamW",
    "Adams": "Adam-atan2",
    "Lion": "AdamW",
}
EDGES = {
    "Grams": "step  sign(g) |u|:  size from momentum, direction from the gradient",
    "Cautious": "step  u where u g > 0, else 0:  wait where they disagree",
    "Adam-mini": "one v for a whole block of weights",
    "Adam-atan2": r"step  atan2($\hat m$, $\sqrt{\hat v}$):  bounded, no $\epsilon$",
    "Adams": r"decay  $\sqrt{M}\, u \sigma v^\top$:  of the top singular direction only",
    "Lion": "step  sign(c), c a mix of m and g:  no v at all",
}


def tagged(rule: ModuleType) -> list[str]:
    """The statements of rule.step, with the line of the pseudocode that each one is."""
    return re.findall(r"^    (.+  # l\.\d+)", inspect.getsource(rule.step), re.MULTILINE)


def lines(rule: ModuleType) -> list[str]:
    """The statements of rule.step that are tagged with a line of the pseudocode, but for the count of steps."""
    found = (line.partition("  # l.")[0].strip() for line in tagged(rule))
    return [line for line in found if line != "t = t + 1"]


def _meaning(line: str) -> tuple[str, list[str]]:
    # the order of a sum does not count, nor that Adams writes n for Adam's v, nor Adam-atan2's factors a = b = 1
    line = re.sub(r"\b[ab] \* ", "", re.sub(r"\bn(hat)?\b", r"v\1", line))
    name, _, value = line.partition(" = ")
    return name, sorted(value.split(" + "))


def changes(parent: ModuleType, child: ModuleType) -> tuple[list[str], list[str]]:
    """The parent's lines that the child does without, and the child's own."""
    old, new = lines(parent), lines(child)
    gone = [x for x in old if _meaning(x) not in map(_meaning, new)]
    come = [x for x in new if _meaning(x) not in map(_meaning, old)]
    return gone, come


def family(rules: Mapping[str, ModuleType]) -> dict[str, tuple[list[str], list[str]]]:
    """For each name in PARENT its `changes`."""
    return {name: changes(rules[parent], rules[name]) for name, parent in PARENT.items()}


def draw_map() -> Figure:
    """A tree from Adam to each successor, with what each does instead."""
    row = {name: 5.0 - i for i, name in enumerate(EDGES)} | {"Adam": 2.5, "AdamW": 2.5}
    column = {"Adam": 0.0, "AdamW": 2.3}
    box: dict[str, Any] = {"ha": "center", "va": "center", "color": "white", "weight": "bold"}
    fig, ax = plt.subplots(figsize=(10.5, 4.4))
    ax.plot([0, 3.3], [2.5, 2.5], "k", lw=1)
    ax.text(1.15, 2.62, "decay apart", ha="center", fontsize=9)
    ax.plot([3.3, 3.3], [0, 5], "k", lw=1)
    for name, text in EDGES.items():
        ax.plot([3.3, 9.6], [row[name]] * 2, "k", lw=1)
        ax.text(3.45, row[name] + 0.12, text, fontsize=9)
    ax.plot([9.6, 9.6], [row["Adam-atan2"], row["Adams"]], "k", lw=1)
    for name in (*EDGES, "Adam", "AdamW"):
        shape = {"boxstyle": "round,pad=0.4", "ec": "none", "fc": COLORS.get(name, COLORS["Adams"])}
        ax.text(column.get(name, 9.6), row[name], name, bbox=shape, **box)
    ax.set(
        xlim=(-0.6, 10.5), ylim=(-0.5, 5.5), title="The map: what each successor does where Adam takes the step -lr u"
    )
    ax.axis("off")
    return fig


def first_and_later(rule: ModuleType) -> tuple[Any, Any]:
    """The state before the first step of one weight; and a later one, m = 0.15 and v = 0.1, without corrections."""
    late = {"t": 10**6, "m": 0.15, "v": 0.1, "u": None, "sigma": None}
    return rule.init(np.float64(0)), rule.State(**{k: late[k] for k in rule.State._fields})


def subtracted(rule: ModuleType, g: np.ndarray, state: Any, **hyper: Any) -> np.ndarray:
    """What one step subtracts from a weight, in units of lr, for each gradient of `g` that may arrive."""
    if not hasattr(rule, "block_mean"):
        many = state._replace(m=np.full_like(g, state.m))
        return -rule.step(np.zeros_like(g), g, many, lr=1.0, **hyper)[0]
    out = []
    for x in g:  # Adam-mini: the weight and its three neighbours, one block
        v = np.array([0.7 if state.t else 0.0])  # the mean of 0.1, 0.9, 0.9, 0.9
        block = state._replace(m=np.full(4, state.m), v=v)
        out.append(-rule.step(np.zeros(4), np.array([x, 1.0, 1.0, 1.0]), block, lr=1.0, **hyper)[0][0])
    return np.array(out)
