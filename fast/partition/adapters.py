"""Wrappers around a layer, and adapters beside it: LoRA's and DoRA's parts are cut as the layer that they adapt."""

from __future__ import annotations

from torch import Tensor, nn

from fast.partition.blocks import Blocks
from fast.partition.cuts import Cut, Unknown, add, children_of, outputs
from fast.partition.layers import Decision, cut_along, default
from fast.partition.words import LORA, OTHER_ADAPTERS, WRAPPERS


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


def decide_adapter(path: str, layer: nn.Module, own: str, param: Tensor, cut: Cut | Unknown | None) -> Decision | None:
    """What is no layer: LoRA's raw matrices of a layer (loralib) or in dictionaries (AdaLoRA, embeddings), PEFT's tokens."""
    parts = path.split(".")
    if "trainable_tokens_delta" in parts and param.ndim == 2:  # PEFT's rows of an embedding
        return Blocks.along(param.shape, 0), "the tokens that train: by token"
    word = next((part for part in (own, *parts[-2:]) if part.startswith("lora_")), "")
    if own in ("weight", "bias") or not word or param.ndim != 2:
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
