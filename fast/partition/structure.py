"""The blocks of a module's parameters, from what its layers are; fast/partition/names.py is the same for names alone."""

from __future__ import annotations

from torch import nn

from fast.partition.adapters import decide_adapter
from fast.partition.attention import projection_cuts
from fast.partition.given import owned
from fast.partition.heads import Heads
from fast.partition.layers import Decision, decide, whole


def decide_by_structure(
    module: nn.Module, heads: Heads, algorithm: int | None
) -> tuple[dict[str, Decision | ValueError], bool]:
    """A decision, or the error that a rule would avoid, for each name; and whether there is any attention."""
    cuts, attention = projection_cuts(module, heads)
    decisions: dict[str, Decision | ValueError] = {}
    for name, param, layer, own in owned(module):
        if algorithm == 2 or (algorithm is None and not attention):
            decisions[name] = whole(
                param, f"Algorithm 2{'' if algorithm else ', no attention found'}: one block a tensor"
            )
        elif not param.is_floating_point():
            decisions[name] = whole(param, f"{param.dtype} does not train: one block")
        else:
            try:
                cut = cuts.get(id(param)) or cuts.get(id(layer))
                decisions[name] = decide_adapter(name, layer, own, param, cut) or decide(layer, own, param, cut)
            except ValueError as error:
                decisions[name] = error
    return decisions, attention
