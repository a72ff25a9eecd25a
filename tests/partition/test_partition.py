"""Adam-mini's blocks as read off torch's own layers, off attention layers, tied weights, LoRA and wrappers.

By hand for each parameter: (axis, lengths of the blocks along it), or None for one block.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from blocks_by_hand import Attention, Cut, holds
from torch import nn

from fast import partition
from fast.partition.blocks import Blocks


def matches(table, expected: Mapping[str, Cut]) -> None:
    assert list(table) == list(expected)
    for name, cut in expected.items():
        axis, lengths = cut or (None, [])
        holds(table[name].blocks, axis, lengths)
        assert table[name].why


def test_multihead_attention_with_one_fused_weight():
    table = partition(nn.MultiheadAttention(6, 3, add_bias_kv=True))
    qkv = (0, [2, 2, 2] + [2, 2, 2] + [1] * 6)  # a head has 2 rows
    matches(
        table,
        {
            "in_proj_weight": qkv,
            "in_proj_bias": qkv,
            "bias_k": (2, [2, 2, 2]),
            "bias_v": (2, [1] * 6),
            "out_proj.weight": (0, [1] * 6),
            "out_proj.bias": (0, [1] * 6),
        },
    )


def test_multihead_attention_with_separate_weights():
    table = partition(nn.MultiheadAttention(6, 2, kdim=4, vdim=5, bias=False))
    assert table["k_proj_weight"].shape == (6, 4) and table["v_proj_weight"].shape == (6, 5)
    expected = {"q_proj_weight": (0, [3, 3]), "k_proj_weight": (0, [3, 3]), "v_proj_weight": (0, [1] * 6)}
    matches(table, expected | {"out_proj.weight": (0, [1] * 6)})


def test_transformer_encoder_layer_finds_query_and_key():
    """Adam-mini issue 30: the released package finds no query and no key here."""
    qkv, row8, row4 = (0, [2, 2] + [2, 2] + [1] * 4), (0, [1] * 8), (0, [1] * 4)
    expected = {"self_attn.in_proj_weight": qkv, "self_attn.in_proj_bias": qkv}
    expected |= {"self_attn.out_proj.weight": row4, "self_attn.out_proj.bias": row4}
    expected |= {"linear1.weight": row8, "linear1.bias": row8, "linear2.weight": row4, "linear2.bias": row4}
    expected |= dict.fromkeys(["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"])
    matches(partition(nn.TransformerEncoderLayer(4, 2, 8)), expected)


def test_transformer_decoder_layer_cuts_both_attentions():
    table = partition(nn.TransformerDecoderLayer(4, 2, 8))
    for name in ("self_attn", "multihead_attn"):
        holds(table[f"{name}.in_proj_weight"].blocks, 0, [2, 2, 2, 2, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("layer", "weight", "bias"),
    [
        (nn.Conv1d(2, 4, 3), (0, [1] * 4), (0, [1] * 4)),
        (nn.Conv2d(4, 6, 2, groups=2), (0, [1] * 6), (0, [1] * 6)),
        (nn.Conv3d(2, 3, 2), (0, [1] * 3), (0, [1] * 3)),
        (nn.ConvTranspose1d(2, 5, 3), (1, [1] * 5), (0, [1] * 5)),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), (0, [2, 2]), (0, [3, 3])),
        (nn.ConvTranspose3d(2, 3, 2), (1, [1] * 3), (0, [1] * 3)),
        (nn.Bilinear(2, 3, 4), (0, [1] * 4), (0, [1] * 4)),
        (nn.Linear(3, 2), (0, [1] * 2), (0, [1] * 2)),
        (nn.LayerNorm([2, 3]), None, None),
        (nn.GroupNorm(2, 4), None, None),
        (nn.BatchNorm2d(4), None, None),
        (nn.InstanceNorm2d(4, affine=True), None, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_each_layer_of_torch(layer, weight, bias):
    matches(partition(layer, algorithm=3), {"weight": weight, "bias": bias})


def test_layers_without_a_bias():
    matches(partition(nn.RMSNorm(4), algorithm=3), {"weight": None})
    matches(partition(nn.PReLU(4), algorithm=3), {"weight": None})
    matches(partition(nn.Embedding(5, 2), algorithm=3), {"weight": (0, [1] * 5)})
    matches(partition(nn.EmbeddingBag(5, 2), algorithm=3), {"weight": (0, [1] * 5)})


class QuantEmbedding(nn.Module):
    """An embedding that is no nn.Embedding, as I-BERT's and those of tensor parallelism are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, 2))
        self.scale = nn.Parameter(torch.zeros(5, 2))


def test_embeddings_of_other_classes_go_by_token_too():
    matches(partition(QuantEmbedding(), algorithm=3), {"weight": (0, [1] * 5), "scale": None})


@pytest.mark.parametrize(("layer", "gates"), [(nn.LSTM(3, 2), 4), (nn.GRU(3, 2), 3), (nn.RNN(3, 2), 1)])
def test_recurrent_layers_go_by_the_output_neuron_of_a_gate(layer, gates):
    row = (0, [1] * (2 * gates))
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    matches(partition(layer, algorithm=3), dict.fromkeys(names, row))


def test_without_attention_every_tensor_is_one_block():
    """Algorithm 2; here too no name crashes on its number of axes, and "network" has nothing of "wo"."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model = nn.ModuleDict({"network": network})
    table = partition(model)
    assert {entry.blocks.count for entry in table.values()} == {1}
    assert all("Algorithm 2" in entry.why for entry in table.values())
    assert partition(model, algorithm=3).total_blocks == 4 + 4 + 1 + 1 + 2 + 2
    assert partition(nn.TransformerEncoderLayer(4, 2, 8), algorithm=2).total_blocks == 12


def test_heads_that_cannot_be_told_are_asked_for():
    with pytest.raises(ValueError, match=r"'q_proj.weight'.*cannot be told.*pass heads="):
        partition(Attention())
    table = partition(Attention(), heads=3)
    holds(table["q_proj.weight"].blocks, 0, [4, 4, 4])
    holds(table["q_proj.bias"].blocks, 0, [4, 4, 4])
    holds(partition(Attention(keys=4), heads=3)["k_proj.weight"].blocks, 0, [4])  # the key's heads are as large
    holds(partition(Attention(keys=8), heads=(3, 2))["k_proj.weight"].blocks, 0, [4, 4])


@pytest.mark.parametrize(
    ("layer", "heads", "words"),
    [
        (Attention(12), 5, r"12 outputs of the query do not divide by 5"),
        (Attention(12, 6), 3, r"6 outputs of the key do not divide by 4"),
        (Attention(12, head_dim=4), 2, r"make 3 heads, but 2 are stated"),
        (Attention(12, head_dim=4, num_heads=4), None, r"make 3 heads, but 4 are stated"),
        (Attention(12, 4), (3, 3), r"make 1 heads, but 3 are stated"),
        (Attention(12, head_dim=5), None, r"do not divide by 5"),
        (nn.Linear(2, 2), 3, r"no attention layer was found"),
        (Attention(), 0, r"expected a positive number of heads"),
        (Attention(), (3, True), r"expected a positive number of heads"),
    ],
)
def test_heads_that_do_not_fit_are_refused(layer, heads, words):
    with pytest.raises(ValueError, match=words):
        partition(layer, heads=heads)


def test_a_fused_projection_of_unknown_order_is_an_error_until_a_rule_says_it():
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.norm = nn.Linear(4, 12, bias=False), nn.LayerNorm(4)

    with pytest.raises(ValueError, match=r"'qkv.weight'.*'' \(Mixer\) is of no known form.*rules="):
        partition(Mixer())
    cut = Blocks((12, 4), "fused", 0, ((4, 2), (4, 1)))
    table = partition(Mixer(), rules={"qkv.weight": cut})
    holds(table["qkv.weight"].blocks, 0, [2] * 4 + [1] * 4)
    holds(table["norm.weight"].blocks, None, [])


def test_tied_weights_are_one_parameter():
    """Adam-mini issue 11."""
    model = nn.ModuleDict(
        {"attn": Attention(num_heads=3), "emb": nn.Embedding(5, 6), "head": nn.Linear(6, 5, bias=False)}
    )
    model["head"].register_parameter("weight", model["emb"].get_parameter("weight"))
    table = partition(model)
    assert list(table).count("emb.weight") == 1 and "head.weight" not in list(table)
    assert table["head.weight"] is table["emb.weight"] and table["emb.weight"].aliases == ("head.weight",)
    assert len(table) == len(list(model.parameters()))
    holds(table["head.weight"].blocks, 0, [1] * 5)


def test_owners_of_a_tied_weight_that_disagree_are_an_error():
    model = nn.ModuleDict({"attn": Attention(num_heads=3), "emb": nn.Embedding(12, 6)})
    model["emb"].register_parameter("weight", model["attn"].get_parameter("q_proj.weight"))
    with pytest.raises(ValueError, match=r"tied parameter attn.q_proj.weight = emb.weight is heads.*rows"):
        partition(model)
    assert partition(model, rules={"emb.weight": "rows"})["attn.q_proj.weight"].kind == "rows"


def lora(model: nn.Module, **config) -> nn.Module:
    import peft

    return peft.inject_adapter_in_model(peft.LoraConfig(r=3, **config), model)


def test_lora_adapters_follow_the_layer_that_they_adapt():
    model = nn.ModuleDict({"emb": nn.Embedding(7, 6), "attn": Attention(num_heads=3)})
    table = partition(lora(model, target_modules=["emb", "q_proj", "v_proj", "o_proj"], use_dora=True))
    q, v = "attn.q_proj.", "attn.v_proj."
    assert not table[q + "base_layer.weight"].trains and table[q + "lora_A.default.weight"].trains
    holds(table[q + "base_layer.weight"].blocks, 0, [4, 4, 4])
    holds(table[q + "lora_A.default.weight"].blocks, 0, [1] * 3)
    holds(table[q + "lora_B.default.weight"].blocks, 0, [4, 4, 4])
    holds(table[q + "lora_magnitude_vector.default.weight"].blocks, 0, [4, 4, 4])
    holds(table[v + "lora_B.default.weight"].blocks, 0, [1] * 12)
    holds(table["emb.lora_embedding_A.default"].blocks, 1, [1] * 7)
    holds(table["emb.lora_embedding_B.default"].blocks, 0, [1] * 6)
    trained = [entry for entry in table.values() if entry.trains]
    assert table.total_blocks == sum(e.blocks.count for e in trained) < sum(e.blocks.count for e in table.values())


def test_parametrized_weights_are_cut_as_their_layer():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    table = partition(nn.ModuleDict({"attn": Attention(num_heads=3), "out": layer}))
    holds(table["out.parametrizations.weight.original0"].blocks, 0, [1] * 4)
    holds(table["out.parametrizations.weight.original1"].blocks, 0, [1] * 4)


def test_a_compiled_layer_is_seen_through_its_wrapper():
    model = Attention(num_heads=3)
    compiled = torch.compile(model.q_proj, backend="eager")
    assert isinstance(compiled, nn.Module)
    model.add_module("q_proj", compiled)
    holds(partition(model)["q_proj._orig_mod.weight"].blocks, 0, [4, 4, 4])


def test_flattened_and_foreign_weights_are_refused():
    model = nn.ModuleDict({"attn": Attention(num_heads=3), "out": nn.Linear(3, 4)})
    model["out"].register_parameter("weight", nn.Parameter(torch.ones(6)))
    with pytest.raises(ValueError, match=r"'out.weight'.*has 4 outputs.*before it is sharded"):
        partition(model)
    model["out"].register_parameter("_flat_param", nn.Parameter(torch.ones(6)))
    with pytest.raises(ValueError, match=r"out was flattened by FSDP"):
        partition(model)
