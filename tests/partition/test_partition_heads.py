"""`heads=` beside what a model says of its own heads: it fills in what is not said, and must not say otherwise."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from blocks_by_hand import Attention, holds
from torch import nn

from fast import AdamMini, partition
from fast.partition.heads import Heads


def fused(kind: str, rows: int, **said: Any) -> nn.Module:
    """A layer of a class that fast/partition/attention.py knows by its name, with a fused projection of so many outputs from 12."""
    child = {"GPT2Attention": "c_attn", "Phi3Attention": "qkv_proj"}.get(kind, "query_key_value")
    layer = type(kind, (nn.Module,), {})()
    layer.add_module(child, nn.Linear(12, rows, bias=False))
    vars(layer).update(said)
    return layer


def crossed(**said: Any) -> nn.Module:
    """GPT-2's cross-attention: a query of its own beside [k|v]."""
    layer = fused("GPT2Attention", 24, **said)
    layer.add_module("q_attn", nn.Linear(12, 12, bias=False))
    return layer


def under(config: dict[str, int], layer: nn.Module) -> nn.Module:
    model = nn.ModuleDict({"layer": layer})
    model.__dict__["config"] = SimpleNamespace(**config)
    return model


CONTRADICTIONS: dict[str, tuple[nn.Module, Heads, str]] = {
    "queries": (Attention(num_heads=3), 2, "says 2 query heads, but the layer or its config says 3"),
    "queries of a pair": (Attention(num_heads=3), (2, 3), "says 2 query heads, but the layer or its config says 3"),
    "keys": (
        Attention(12, 4, num_heads=3, num_key_value_heads=1),
        (3, 3),
        "says 3 key heads, but the layer or its config says 1",
    ),
    "config": (under({"num_attention_heads": 3}, Attention()), 2, "layer: heads=2 says 2 query heads, but .* says 3"),
    "config's keys": (
        under({"num_attention_heads": 3, "num_key_value_heads": 1}, Attention(12, 4)),
        (3, 3),
        "layer: .* says 3 key heads, but .* says 1",
    ),
    "with a size": (Attention(num_heads=3, head_dim=4), 2, "says 2 query heads, but .* says 3"),
    "MultiheadAttention": (nn.MultiheadAttention(12, 3), 2, "says 2 query heads, but .* says 3"),
    "MultiheadAttention's keys": (nn.MultiheadAttention(12, 3, kdim=5), (3, 1), "says 1 key heads, but .* says 3"),
    "inside another": (nn.TransformerEncoderLayer(12, 3, 8), 2, "self_attn: .* says 2 query heads, but .* says 3"),
    "chunks": (fused("GPT2Attention", 36, num_heads=3, head_dim=4), 2, "says 2 query heads, but .* says 3"),
    "chunks' keys": (
        fused("Phi3Attention", 20, num_heads=3, num_key_value_heads=1),
        (3, 3),
        "says 3 key heads, but .* says 1",
    ),
    "grouped": (fused("GPTNeoXAttention", 36, num_heads=3), 2, "says 2 query heads, but .* says 3"),
    "Falcon's keys": (
        fused("FalconAttention", 20, num_heads=3, multi_query=True),
        (3, 3),
        "says 3 key heads, but .* says 1",
    ),
    "cross-attention": (crossed(num_heads=3), 2, "says 2 query heads, but .* says 3"),
    "cross-attention's keys": (crossed(num_heads=3), (3, 1), "12 outputs of the key make 3 heads, but 1 are stated"),
}


@pytest.mark.parametrize("layer, heads, words", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_contradicts_the_model_is_refused(layer: nn.Module, heads: Heads, words: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)parameter .*{words}") as caught:
        partition(layer, heads=heads)
    assert "rule" in str(caught.value)
    with pytest.raises(ValueError, match=words):
        AdamMini(layer, heads=heads)
    partition(layer)  # says enough of itself
    partition(layer, heads=heads, algorithm=2)  # has no heads
    partition(layer, heads=heads, rules={"*": "tensor"})  # has been answered


def test_the_same_number_is_no_contradiction() -> None:
    for layer in (
        Attention(num_heads=3),
        nn.MultiheadAttention(12, 3),
        fused("GPT2Attention", 36, num_heads=3, head_dim=4),
    ):
        for heads in (3, (3, 3)):
            assert repr(partition(layer, heads=heads)) == repr(partition(layer))
    pair = Attention(12, 4, num_heads=3, num_key_value_heads=1)
    assert repr(partition(pair, heads=(3, 1))) == repr(partition(pair, heads=3)) == repr(partition(pair))


def test_values_are_not_asked_about() -> None:
    """They go by output neuron, however many heads there are."""
    layer = nn.MultiheadAttention(12, 3, vdim=5, bias=False)
    table = partition(layer, heads=2, rules={"[qk]_proj_weight": ("heads", 3)})
    holds(table["v_proj_weight"].blocks, 0, [1] * 12)


def test_a_layer_that_says_nothing_beside_one_that_does() -> None:
    """What is said of one is no answer for the other; a rule is."""
    model = nn.ModuleDict({"own": Attention(), "other": nn.MultiheadAttention(12, 3)})
    with pytest.raises(ValueError, match=r"'own.q_proj.weight'.*cannot be told"):
        partition(model)
    with pytest.raises(ValueError, match=r"'other.in_proj_weight'.*says 4 query heads, but .* says 3"):
        partition(model, heads=4)
    table = partition(model, rules={"own.[qk]_proj.*": ("heads", 4)})
    holds(table["own.q_proj.weight"].blocks, 0, [3] * 4)
    holds(table["other.in_proj_weight"].blocks, 0, [4] * 6 + [1] * 12)


@pytest.mark.parametrize("name", ["attn.in_proj_weight", "attn.in_proj_bias", "attn.bias_k"])
def test_a_name_that_says_as_many_keys_as_queries(name: str) -> None:
    shape = {"attn.in_proj_weight": (36, 12), "attn.in_proj_bias": (36,), "attn.bias_k": (1, 1, 12)}[name]
    named = [("attn.in_proj_weight", torch.ones(36, 12)), (name, torch.ones(shape))]
    params = {key: nn.Parameter(t) for key, t in named}
    with pytest.raises(ValueError, match=re.escape("heads=(3, 1) says 3 query heads and 1 key heads")):
        partition({name: params[name]} if name != "attn.bias_k" else params, heads=(3, 1), algorithm=3)
    assert repr(partition(params, heads=(3, 3))) == repr(partition(params, heads=3))
