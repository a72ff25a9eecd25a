"""How the outputs of an attention layer's projection are cut, and what can be said of it without its attention layer."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from fast.partition.advice import Counts
from fast.partition.blocks import Runs
from fast.partition.words import WRAPPERS


class Cut(NamedTuple):
    """The blocks of a projection's outputs, in order; `why` is for the table."""

    kind: str
    runs: Runs
    repeat: int
    why: str


class Unknown(NamedTuple):
    """Why a projection's blocks cannot be told. `heads`: what is known of their number where only a rule would help."""

    message: str
    heads: Counts | None = None


def add(cuts: dict[int, Cut | Unknown], layer: nn.Module, cut: Cut | Unknown) -> None:
    """One more place where `layer` stands, with the cut that it has there. As with tied weights, all must agree."""
    first = cuts.setdefault(id(layer), cut)
    if isinstance(first, Cut) and isinstance(cut, Unknown):
        cuts[id(layer)] = cut
    elif isinstance(first, Cut) and isinstance(cut, Cut) and first[:3] != cut[:3]:
        both = " and ".join(f"{c.why} ({sum(n for n, _ in c.runs) * c.repeat} blocks)" for c in (first, cut))
        cuts[id(layer)] = Unknown(f"its layer stands in several places, that disagree: {both}; give one rule for it")


def children_of(module: nn.Module) -> dict[str, nn.Module]:
    """A module's children, a shared one under each of its names (`named_children` has the first alone)."""
    return {name: child for name, child in module._modules.items() if child is not None}


def unwrapped(layer: nn.Module) -> nn.Module:
    """The layer inside the wrappers of PEFT, torch.compile, checkpointing and DataParallel."""
    return layers_through(layer)[-1]


def layers_through(layer: nn.Module) -> list[nn.Module]:
    """The wrappers around a layer, from the outermost on, and the layer."""
    layers = [layer]
    while inner := next((child for name, child in children_of(layers[-1]).items() if name in WRAPPERS), None):
        layers.append(inner)
    return layers


def outputs(layer: nn.Module) -> int | None:
    """Number of outputs of a linear or convolutional layer, through an adapter's wrapper; None if it is neither."""
    layer = unwrapped(layer)
    for name in ("out_features", "nf", "out_channels"):
        if isinstance(size := getattr(layer, name, None), int):
            return size
    return None


def inputs(layer: nn.Module) -> int | None:
    """Number of inputs of a linear layer, as `outputs`; None if it is none."""
    layer = unwrapped(layer)
    for name in ("in_features", "nx"):
        if isinstance(size := getattr(layer, name, None), int):
            return size
    return None


def multihead_cut(module: nn.MultiheadAttention, name: str) -> Cut | None:
    """The cut of nn.MultiheadAttention's own parameter `name`: [q|k|v] in one weight, or three weights."""
    count, size, width = module.num_heads, module.head_dim, module.embed_dim
    by_head = ((count, size),)
    if name in ("in_proj_weight", "in_proj_bias"):
        runs = (*by_head, *by_head, (width, 1))
        return Cut("fused", runs, 1, f"nn.MultiheadAttention: {count} query heads, {count} key heads, value by neuron")
    if name in ("q_proj_weight", "k_proj_weight", "bias_k"):
        return Cut("heads", by_head, 1, f"nn.MultiheadAttention: {'query' if name[0] == 'q' else 'key'} by head")
    if name in ("v_proj_weight", "bias_v"):
        return Cut("rows", ((width, 1),), 1, "nn.MultiheadAttention: value by output neuron")
    return None
