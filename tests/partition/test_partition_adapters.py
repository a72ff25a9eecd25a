"""Adam-mini's blocks of LoRA in each of its forms, and of what weight_norm, spectral_norm and pruning make of a weight.

LoRA's A goes by row and its B as the outputs of the layer that it adapts; of an embedding, A by token.
"""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import transformers as hf
from blocks_by_hand import Attention, Cut, Holder, each, holds, is_cut, linear
from torch import nn
from torch.nn.utils import prune

from fast import partition

HEADS: Cut = (0, [4, 4, 4])
QKV: Cut = (0, [2] * 8 + [1] * 8)


class LoraLinear(nn.Linear):
    """As loralib writes it: its matrices are raw parameters of the layer."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2, rows: int | None = None) -> None:
        super().__init__(inputs, outputs)
        self.lora_A = nn.Parameter(torch.zeros(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(rows or outputs, rank))


class LoraEmbedding(nn.Embedding):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__(tokens, width)
        self.lora_A = nn.Parameter(torch.zeros(2, tokens))
        self.lora_B = nn.Parameter(torch.zeros(width, 2))


class LoraBag(nn.EmbeddingBag):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__(tokens, width)
        self.lora_A = nn.Parameter(torch.zeros(2, tokens))


def adapted(model: nn.Module, config: Any) -> nn.Module:
    return peft.inject_adapter_in_model(config, model)


def both(model: nn.Module, heads: int, expected: dict[str, Cut]) -> None:
    """By structure and by names alike."""
    for table in (partition(model), partition(dict(model.named_parameters()), heads=heads)):
        for name, cut in expected.items():
            is_cut(table[name].blocks, cut)


def test_loralib() -> None:
    model = nn.ModuleDict({"attn": Attention(num_heads=3), "emb": LoraEmbedding(7, 6)})
    for name, layer in (("q_proj", LoraLinear(6, 12)), ("o_proj", LoraLinear(12, 6))):
        model["attn"].add_module(name, layer)
    expected: dict[str, Cut] = {"attn.q_proj.lora_A": each(2), "attn.q_proj.lora_B": HEADS, "attn.q_proj.weight": HEADS}
    expected |= {"attn.o_proj.lora_A": each(2), "attn.o_proj.lora_B": each(6)}
    expected |= {"emb.weight": each(7), "emb.lora_A": each(7, axis=1), "emb.lora_B": each(6)}
    both(model, 3, expected)
    model.add_module("bag", LoraBag(7, 6))
    holds(partition(model)["bag.lora_A"].blocks, 1, [1] * 7)


def test_the_rank_of_lora_is_no_querys_size() -> None:
    """One key head of the query's size, by name: 12 / 3 rows."""
    shapes = {"q_proj.weight": (12, 6), "q_proj.lora_B": (12, 3), "q_proj.lora_A": (3, 6), "k_proj.weight": (4, 6)}
    table = partition({name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}, heads=3)
    holds(table["k_proj.weight"].blocks, 0, [4])


def test_the_b_of_a_query_says_how_large_a_head_is() -> None:
    """Where the adapters alone train: 16 rows in 4 heads, so that a key of 8 rows has 2."""
    shapes = {f"{part}_proj.lora_B.default.weight": (rows, 2) for part, rows in (("q", 16), ("k", 8))}
    table = partition({name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}, heads=4)
    holds(table["k_proj.lora_B.default.weight"].blocks, 0, [4, 4])


def test_lora_of_other_rows_than_its_layers_is_asked_about() -> None:
    model = nn.ModuleDict({"attn": Attention(num_heads=3), "fc": LoraLinear(6, 12, rows=8)})
    with pytest.raises(ValueError, match=r"'fc.lora_B': LoRA's B of shape \(8, 2\).*12 outputs.*'fc.lora_B': 'rows'"):
        partition(model)
    holds(partition(model, rules={"fc.lora_B": "rows"})["fc.lora_B"].blocks, 0, [1] * 8)


def test_a_weight_that_is_kept_transposed() -> None:
    model = nn.ModuleDict({"attn": Attention(num_heads=3), "fc": LoraLinear(6, 4)})
    model["fc"].register_parameter("weight", nn.Parameter(torch.ones(6, 4)))
    vars(model["fc"])["fan_in_fan_out"] = True
    table = partition(model)
    holds(table["fc.weight"].blocks, 1, [1] * 4)
    holds(table["fc.lora_B"].blocks, 0, [1] * 4)


def test_adalora() -> None:
    config = peft.AdaLoraConfig(init_r=2, target_r=1, total_step=10, target_modules=["q_proj", "o_proj"])
    model = adapted(nn.ModuleDict({"attn": Attention(num_heads=3)}), config)
    names = {part: f"attn.q_proj.lora_{part}.default" for part in "ABE"}
    expected: dict[str, Cut] = {names["A"]: each(2), names["B"]: HEADS, names["E"]: None}
    both(model, 3, expected | {"attn.o_proj.lora_B.default": each(6)})


def test_lora_on_multihead_attention_is_cut_as_its_fused_weight() -> None:
    layers = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 4)})
    model = adapted(layers, peft.LoraConfig(r=3, target_modules=["attn"]))
    expected: dict[str, Cut] = {"attn.base_layer.in_proj_weight": QKV, "attn.lora_B.default.weight": QKV}
    expected |= {"attn.lora_A.default.weight": each(3), "attn.base_layer.out_proj.lora_B.default.weight": each(8)}
    both(model, 4, expected)


def test_a_layer_that_is_trained_whole_beside_its_original() -> None:
    model = nn.ModuleDict({"attn": Attention(num_heads=3), "head": nn.Linear(6, 5)})
    config = peft.LoraConfig(r=3, target_modules=["v_proj"], modules_to_save=["head", "q_proj"])
    wrapped = peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    q, head = "base_model.model.attn.q_proj", "base_model.model.head"
    expected: dict[str, Cut] = {
        f"{head}.modules_to_save.default.weight": each(5),
        f"{head}.original_module.bias": each(5),
    }
    both(wrapped, 3, expected | {f"{q}.modules_to_save.default.weight": HEADS, f"{q}.original_module.weight": HEADS})


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # which PEFT asks transformers for
def test_lora_on_the_experts_of_a_mixture_says_that_its_b_holds_all_of_them() -> None:
    numbers: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1, "vocab_size": 11}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2}
    model = hf.MixtralForCausalLM(hf.MixtralConfig(**numbers, **heads))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    table = partition(peft.get_peft_model(model, config))  # pyright: ignore[reportArgumentType]
    entry = next(e for name, e in table.items() if "experts" in name and "lora_B" in name)
    holds(entry.blocks, 0, [1] * entry.shape[0])
    assert "experts in one matrix: by output neuron, over all experts" in entry.why


OTHERS = [
    peft.LoHaConfig(r=2, target_modules=["q_proj"]),
    peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
]


@pytest.mark.parametrize("config", OTHERS, ids=lambda config: type(config).__name__)
def test_other_adapters_are_one_block(config: Any) -> None:
    model = adapted(nn.ModuleDict({"attn": Attention(num_heads=3)}), config)
    trained = [name for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1]
    own: dict[str, Cut] = {name: None for name in trained if "base_layer" not in name and "default" in name}
    assert own
    both(model, 3, own)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_what_a_weight_is_made_from_is_cut_as_the_weight() -> None:
    norm: Any = nn.utils.weight_norm
    model = nn.ModuleDict({"attn": Attention(num_heads=3), "fc": norm(nn.Linear(4, 6))})
    model["attn"].add_module("q_proj", norm(nn.Linear(6, 12)))
    model["fc2"] = norm(nn.Linear(4, 6), dim=1)
    model["fc3"] = nn.utils.spectral_norm(nn.Linear(4, 6))
    model["fc4"] = prune.random_unstructured(nn.Linear(4, 6), "weight", 0.5)
    model["mha"] = norm(nn.MultiheadAttention(12, 3), "in_proj_weight")
    qkv: Cut = (0, [4] * 6 + [1] * 12)
    both(
        model,
        3,
        {
            "attn.q_proj.weight_g": HEADS,
            "attn.q_proj.weight_v": HEADS,
            "attn.q_proj.bias": HEADS,
            "fc.weight_g": each(6),
            "fc.weight_v": each(6),
            "fc2.weight_v": each(6),
            "fc3.weight_orig": each(6),
            "fc4.weight_orig": each(6),
            "mha.in_proj_weight_v": qkv,
            "mha.in_proj_weight_g": qkv,
        },
    )
    holds(partition(model)["fc2.weight_g"].blocks, None, [])  # (1, 4): a magnitude for each input
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6), dim=1)
    table = partition(nn.ModuleDict({"attn": Attention(num_heads=3), "fc": parametrized}))
    holds(table["fc.parametrizations.weight.original0"].blocks, None, [])
    holds(table["fc.parametrizations.weight.original1"].blocks, 0, [1] * 6)


def test_a_matrix_that_is_called_like_a_part_of_a_weight_is_one_of_its_own() -> None:
    """The weight is a parameter itself, so nothing makes it."""
    model = nn.ModuleDict({"attn": Attention(num_heads=3), "fc": nn.Linear(4, 6)})
    model["fc"].register_parameter("weight_v", nn.Parameter(torch.ones(3, 4)))
    table = partition(model)
    holds(table["fc.weight_v"].blocks, None, [])
    holds(table["fc.weight"].blocks, 0, [1] * 6)


def test_what_a_wrapper_adds_to_a_value_is_cut_as_any_layer() -> None:
    """By head is the query and the key alone; there it would be asked about."""
    value = Holder(base_layer=linear(), mixer=linear(5))
    table = partition(Holder(q_proj=linear(), k_proj=linear(), v_proj=value, num_heads=4))
    holds(table["v_proj.base_layer.weight"].blocks, 0, [1] * 8)
    holds(table["v_proj.mixer.weight"].blocks, 0, [1] * 5)


def test_trainable_tokens_go_by_token() -> None:
    config = peft.TrainableTokensConfig(target_modules=["emb"], token_indices=[1, 3, 4])
    model = adapted(nn.ModuleDict({"attn": Attention(num_heads=3), "emb": nn.Embedding(7, 6)}), config)
    both(model, 3, {"emb.trainable_tokens_delta.default": each(3), "emb.base_layer.weight": each(7)})
