"""The blocks of each parameter of a module, from what its layer is: Algorithm 3 of Adam-mini (arXiv 2406.16793).

    layer                                  weight                                       bias
    Embedding, EmbeddingBag, classes that  by token (row)
    are named so (VocabParallelEmbedding)
    Linear, and what has its two sizes     by output neuron (row); query, key by head   as the weight's rows
    Conv1D of transformers                 the same along columns                       as the weight's columns
    Conv1d, 2d, 3d                         by output channel (axis 0)                   by channel
    ConvTranspose1d, 2d, 3d                by output channel (axis 1); with groups, by group (axis 0): the weight is
                                           (in, out/groups, ...), where a channel is no range of one axis
    MultiheadAttention                     [q|k|v]: q, k by head, v by neuron; bias_k by head, bias_v by neuron
    RNN, LSTM, GRU and their cells         by row: the output neuron of one gate        by row
    Bilinear                               by output neuron (axis 0)                    by neuron
    LoRA (PEFT's, AdaLoRA's, loralib's)    A by row; B as the outputs of its layer; an embedding's A by token (column)
    other adapters (LoHa, IA3, OFT ...)    one block each
    weight_norm, spectral_norm, pruning    what the weight is made from goes as the weight
    experts of a mixture, (E, out, in)     by expert and output neuron                  the same
    router of a mixture                    by row: one expert's neuron                  by row
    position embeddings                    by position
    norms                                  one block each
    everything else                        one block (Algorithm 3's own default)

Where the paper is silent (biases, convolutions, recurrent layers, LoRA, experts, positions, fused projections) the rule
is this project's; the table that `fast.partition` shows names the rule that decided for each parameter.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import Tensor, nn

from fast.partition.blocks import Blocks, Decision, Runs
from fast.partition.rules import Counts, NeedsRule
from fast.partition.words import EMBEDDINGS, LORA, OTHER_ADAPTERS, POSITION, WRAPPERS, tokens

# How the outputs of a projection are cut, and what a layer says of its sizes


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


BATCH_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, *BATCH_NORMS)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
EVERYTHING_ELSE = "everything else: one block a tensor (Algorithm 3)"


def whole(param: Tensor, why: str) -> Decision:
    return Blocks(tuple(param.shape)), why


def default(param: Tensor) -> Decision:
    """Algorithm 3's last line, for what no rule knows: a tied weight's other owners may know better."""
    return whole(param, EVERYTHING_ELSE)


def decide(layer: nn.Module, name: str, param: Tensor, cut: Cut | Unknown | None) -> Decision:
    """The blocks of `layer`'s own parameter `name` and the rule that gave them. ValueError where it cannot be told."""
    kind, name = type(layer).__name__, _kept(layer, name)
    if param.numel() == 0 or param.ndim == 0:
        return whole(param, "a scalar, or empty: one block")
    if isinstance(layer, nn.MultiheadAttention) and (multihead := multihead_cut(layer, name)):
        if (
            isinstance(cut, Unknown) and multihead.kind != "rows"
        ):  # `heads=` contradicts it, which is nothing to its values
            raise ValueError(cut.message)
        return cut_along(param, multihead, param.ndim - 1 if name in ("bias_k", "bias_v") else 0, False)
    if isinstance(layer, _NORMS) or kind.endswith("Norm"):
        return whole(param, f"{kind}: a norm's {name} is one block")
    if isinstance(cut, Unknown):
        axis = 1 if kind == "Conv1D" and param.ndim > 1 else 0
        raise ValueError(cut.message) if cut.heads is None else NeedsRule(cut.message, cut.heads, axis)
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return Blocks.along(param.shape, 0), "embedding: by token (row)"
    if kind == "Conv1D" and isinstance(outs := getattr(layer, "nf", None), int):
        return _outputs(layer, name, param, cut, axis=1, what="Conv1D, weight transposed", size=outs)
    if isinstance(layer, _TRANSPOSED):
        return _transposed(layer, param)
    if isinstance(layer, _CONVOLUTIONS):
        return _outputs(layer, name, param, cut, axis=0, what="convolution", size=layer.out_channels)
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        return Blocks.along(param.shape, 0), f"{kind}: by row, the output neuron of one gate"
    if kind.startswith("Dora"):
        return _magnitudes(param, cut)
    if isinstance(outs := getattr(layer, "out_features", None), int) and name in ("weight", "bias"):
        axis = int(
            getattr(layer, "fan_in_fan_out", False) is True and name == "weight"
        )  # loralib, for Conv1D's weights
        return _outputs(layer, name, param, cut, axis=axis, what=kind, size=outs)
    return _unlayered(layer, kind, name, param)


def _kept(layer: nn.Module, name: str) -> str:
    """What `name` makes: weight_norm's "weight_v" and "weight_g", spectral_norm's and pruning's "weight_orig": "weight"."""
    stem, _, end = name.rpartition("_")
    made = (
        end in ("g", "v", "orig") and stem not in layer._parameters and isinstance(getattr(layer, stem, None), Tensor)
    )
    return stem if made else name


def _unlayered(layer: nn.Module, kind: str, name: str, param: Tensor) -> Decision:
    """Parameters that a module of no standard type holds itself."""
    if kind.endswith("Experts") and param.ndim in (2, 3):
        return _experts(layer, kind, name, param)
    if re.search(r"Router$", kind) and name in ("weight", "bias"):
        return Blocks.along(param.shape, 0), f"{kind}: by row, one expert's neuron"
    words = tokens(name)
    if param.ndim >= 2 and words & POSITION[0] and words & POSITION[1]:
        return Blocks.along(param.shape, -2), "position embedding: by position"
    if param.ndim == 2 and (words & EMBEDDINGS or (name == "weight" and kind.endswith("Embedding"))):
        return Blocks.along(param.shape, 0), "embedding: by token (row)"
    return default(param)


def _outputs(
    layer: nn.Module, name: str, param: Tensor, cut: Cut | None, *, axis: int, what: str, size: int
) -> Decision:
    """A weight whose `axis` holds the outputs, or a bias: by output neuron, or as the attention layer's `cut` says."""
    axis = axis if param.ndim > 1 else 0
    if param.ndim > 1 and param.shape[axis] == 1 != size:
        return whole(param, f"{what}: magnitudes along another axis than its outputs, one block")
    if axis >= param.ndim or param.shape[axis] != size:
        raise ValueError(
            f"{type(layer).__name__} has {size} outputs, but axis {axis} of its {name} of shape {tuple(param.shape)} "
            f"has not; partition the module before it is sharded, flattened or quantised"
        )
    if cut is not None:
        return cut_along(param, cut, axis, axis == 1)
    words = "output channel" if "conv" in what and "Conv1D" not in what else "output neuron"
    place = {"bias": f"bias of {what}: as its weight, by {words}"}.get(name, f"{what}: by {words}")
    return Blocks.along(param.shape, axis, "columns" if axis == 1 else "rows"), place


def cut_along(param: Tensor, cut: Cut, axis: int, transposed: bool) -> Decision:
    kind = "columns" if transposed and cut.kind == "rows" else cut.kind
    return Blocks(tuple(param.shape), kind, axis, cut.runs, cut.repeat), cut.why


def _transposed(layer: Transposed, param: Tensor) -> Decision:
    groups = layer.groups
    if groups == 1:
        return Blocks.along(param.shape, 1 if param.ndim > 1 else 0), "transposed convolution: by output channel"
    blocks = Blocks(tuple(param.shape), "groups", 0, ((groups, param.shape[0] // groups),))
    return blocks, f"transposed convolution in {groups} groups: by group"


def _magnitudes(param: Tensor, cut: Cut | Unknown | None) -> Decision:
    """DoRA's magnitudes: (out,) of a linear layer, (1, out, 1, 1) of a convolution, (1, dim) of an embedding."""
    axis = max(range(param.ndim), key=lambda axis: param.shape[axis])
    if isinstance(cut, Cut):
        return cut_along(param, cut, axis, False)
    return Blocks.along(param.shape, axis), "DoRA's magnitudes: as the rows that they scale"


def _experts(layer: nn.Module, kind: str, name: str, param: Tensor) -> Decision:
    """One matrix for each expert: (E, out, in), or (E, in, out) where the layer says that it is transposed."""
    if param.ndim == 2:  # (E, out)
        return Blocks.along(param.shape, 1, batch=1), f"{kind}: bias by expert and output neuron"
    transposed = getattr(layer, "is_transposed", None)
    if not isinstance(transposed, bool):
        raise ValueError(
            f"{kind}.{name} of shape {tuple(param.shape)} is a matrix for each expert, but the layer has "
            f"no `is_transposed` to say which axis holds the outputs; give a rule: Blocks.along(shape, 1 or 2, batch=1)"
        )
    axis = 2 if transposed else 1
    blocks = Blocks.along(param.shape, axis, "columns" if transposed else "rows", batch=1)
    return blocks, f"{kind}: by expert and output neuron"


# Wrappers around a layer, and adapters beside it: LoRA's and DoRA's parts are cut as the layer that they adapt


def spread_over_wrappers(model: nn.Module, cuts: dict[int, Cut | Unknown]) -> None:
    """A wrapper stands where its layer stood: the layer, LoRA's B and DoRA's magnitudes have the layer's outputs.

    What a wrapper of an unknown kind has beside the layer of a query or key cannot be told.
    """
    for module in model.modules():  # parents first, so that wrappers in wrappers are reached
        _of_experts(module, cuts)
        if id(module) not in cuts or isinstance(module, nn.MultiheadAttention):
            continue
        cut, children = cuts[id(module)], children_of(module)
        below = [children[name] for name in WRAPPERS if name in children]
        for name in ("lora_B", "lora_magnitude_vector", "modules_to_save"):
            if name in children:
                below += [children[name], *children_of(children[name]).values()]
        if below and isinstance(cut, Cut) and cut.kind != "rows":
            what = f"{type(module).__name__}, a wrapper of no known kind, has matrices beside a layer that goes by head"
            for name, child in children.items():
                if name not in (*WRAPPERS, *LORA, "modules_to_save") and not name.startswith(OTHER_ADAPTERS):
                    cuts.update({id(layer): Unknown(what, (None, None)) for layer in child.modules()})
        for layer in below:
            add(cuts, layer, cut)


def _of_experts(module: nn.Module, cuts: dict[int, Cut | Unknown]) -> None:
    """PEFT's LoRA of a mixture's experts, B of shape (out, rank experts): one expert's part of a row is no range of an axis."""
    experts = getattr(module, "num_experts", 1)
    if type(module).__name__ != "ParamWrapper" or not isinstance(experts, int) or experts < 2:
        return
    for layer in children_of(module.get_submodule("lora_B")).values():
        size = outputs(layer)
        if size:
            what = f"LoRA's B of {experts} experts in one matrix: by output neuron, over all experts"
            cuts[id(layer)] = Cut("rows", ((size, 1),), 1, what)


def decide_adapter(path: str, layer: nn.Module, name: str, param: Tensor, cut: Cut | Unknown | None) -> Decision | None:
    """What is no layer: LoRA's raw matrices of a layer (loralib) or in dictionaries (AdaLoRA, embeddings), PEFT's tokens."""
    parts = path.split(".")
    if "trainable_tokens_delta" in parts and param.ndim == 2:  # PEFT's rows of an embedding
        return Blocks.along(param.shape, 0), "the tokens that train: by token"
    word = next((part for part in (name, *parts[-2:]) if part.startswith("lora_")), "")
    if name in ("weight", "bias") or not word or param.ndim != 2:
        return None
    embedding = isinstance(layer, (nn.Embedding, nn.EmbeddingBag))
    if word == "lora_embedding_A" or (word == "lora_A" and embedding):  # (r, tokens)
        return Blocks.along(param.shape, 1, "columns"), "LoRA's A of an embedding: by token (column)"
    if word == "lora_embedding_B" or (word == "lora_B" and embedding):  # (dim, r)
        return Blocks.along(param.shape, 0), "LoRA's B of an embedding: by row"
    if word == "lora_A":
        return Blocks.along(param.shape, 0), "LoRA's A: by row"
    if word != "lora_B":
        return default(param)
    if isinstance(cut, Unknown):
        return None  # `decide` says why
    size = sum(count * length for count, length in cut.runs) * cut.repeat if cut else outputs(layer)
    if size not in (None, param.shape[0]):
        raise ValueError(
            f"LoRA's B of shape {tuple(param.shape)} has other rows than the {size} outputs of its layer; "
            f"give a rule, e.g. rules={{{path!r}: 'rows'}}"
        )
    if cut is not None:
        return cut_along(param, cut, 0, False)
    return Blocks.along(param.shape, 0), "LoRA's B: by its layer's output neuron"
