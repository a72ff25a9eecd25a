"""Attention that `partition` has no form for: it asks, for the parameters that may be a query's or key's and no others.

What the message advises is taken as it stands and gives the blocks that the layer has.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from blocks_by_hand import Attention, AttentionBlock, Cut, FooAttention, Holder, advised, each, holds, is_cut, linear
from torch import nn

from fast import AdamMini, partition


class SelfAttn(Holder): ...


class OwnLora(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.linear = layer
        self.A, self.B = nn.Linear(layer.in_features, 2, bias=False), nn.Linear(2, layer.out_features, bias=False)


class Wrapper(nn.Module):
    """Keeps the layer under a name that wrappers use, and adds matrices of its own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.module, self.extra = layer, nn.Linear(2, layer.out_features, bias=False)


def raw(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


def attention(**changed: Any) -> nn.Module:
    layers = {"q_proj": linear(), "k_proj": linear(), "v_proj": linear()}
    return Holder(num_heads=4, **layers | changed)


FUSED = [2] * 4 + [2] * 4 + [1] * 8
HEADS: Cut = (0, [2] * 4)
UNKNOWN: dict[str, tuple[nn.Module, dict[str, Cut]]] = {  # -> parameters that are asked about, and some of the others
    "query and [k|v]": (
        AttentionBlock(q=linear(), kv=linear(16), proj=linear()),
        {"0.q.weight": HEADS, "0.q.bias": HEADS, "0.kv.weight": (0, [2] * 4 + [1] * 8), "0.proj.weight": each(8)},
    ),
    "beside a known layer": (
        Holder(known=nn.MultiheadAttention(8, 2), own=Holder(to_q=linear(), to_kv=linear(16))),
        {"0.own.to_q.weight": HEADS, "0.own.to_kv.bias": (0, [2] * 4 + [1] * 8), "0.known.out_proj.bias": each(8)},
    ),
    "a query alone beside a known layer": (
        Holder(known=nn.MultiheadAttention(8, 2), query_extra=linear()),
        {"0.query_extra.weight": HEADS},
    ),
    "raw parameters": (
        Holder(w_q=raw(8, 8), w_k=raw(8, 8), w_v=raw(8, 8)),
        {"0.w_q": HEADS, "0.w_k": HEADS, "0.w_v": None},
    ),
    "raw parameters beside a known layer": (
        Holder(known=nn.MultiheadAttention(8, 2), w_q=raw(8, 8), q_scale=raw(8), query_tokens=raw(1, 3, 8)),
        {"0.w_q": HEADS, "0.q_scale": None, "0.query_tokens": None},
    ),
    "LoRA of one's own": (
        attention(q_proj=OwnLora(linear())),
        {"0.q_proj.linear.weight": HEADS, "0.q_proj.A.weight": each(2), "0.q_proj.B.weight": HEADS},
    ),
    "a sequence": (
        attention(q_proj=nn.Sequential(linear(), nn.LayerNorm(8))),
        {"0.q_proj.0.weight": HEADS, "0.q_proj.1.weight": None, "0.k_proj.weight": HEADS, "0.v_proj.weight": each(8)},
    ),
    "a wrapper with more than its layer": (
        attention(q_proj=Wrapper(linear())),
        {"0.q_proj.module.weight": HEADS, "0.q_proj.extra.weight": HEADS, "0.k_proj.weight": HEADS},
    ),
    "a fused projection": (
        FooAttention(qkv=linear(24), norm=nn.LayerNorm(8), num_heads=4),
        {"0.qkv.weight": (0, FUSED), "0.qkv.bias": (0, FUSED), "0.norm.weight": None},
    ),
    "nothing but its class": (
        FooAttention(one=linear(), two=linear()),
        {"0.one.weight": each(8), "0.two.bias": each(8)},
    ),
    "a positional key in a known layer": (
        attention(pos_key_proj=linear()),
        {"0.pos_key_proj.weight": HEADS, "0.q_proj.weight": HEADS},
    ),
}


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_asked_is_answered_by_the_advice(name: str, root: bool) -> None:
    layer, expected = UNKNOWN[name]
    model = layer if root else nn.ModuleList([layer, nn.Linear(8, 3), nn.Embedding(5, 8)])
    with pytest.raises(ValueError, match=r"(of no known form|of no known kind).*give a rule") as caught:
        partition(model)
    with pytest.raises(ValueError, match=r"parameter "):
        AdamMini(model, compile=False)
    rules = advised(str(caught.value), n=4, m=4)
    table = partition(model, rules=rules)
    for path, cut in expected.items():
        is_cut(table[path.removeprefix("0.") if root else path].blocks, cut)
    assert AdamMini(model, partition=rules, compile=False).param_groups[0]["blocks"]
    if not root:
        assert not {"*.weight", "*.*.weight", "1.weight", "2.weight"} & set(rules)
        holds(table["1.weight"].blocks, 0, [1] * 3)


def test_the_advice_covers_all_layers_alike_and_no_others() -> None:
    blocks = [Holder(attn=FooAttention(qkv=linear(24), num_heads=4), mlp=linear()) for _ in range(3)]
    model = Holder(blocks=nn.ModuleList(blocks), other=FooAttention(qkv=linear(24), num_heads=2))
    with pytest.raises(ValueError, match=r"of no known form") as caught:
        partition(model)
    rules = advised(str(caught.value))
    assert list(rules) == ["blocks.*.attn.qkv.weight", "blocks.*.attn.qkv.bias", "other.qkv.weight", "other.qkv.bias"]
    table = partition(model, rules=rules)
    holds(table["blocks.2.attn.qkv.weight"].blocks, 0, FUSED)
    holds(table["other.qkv.weight"].blocks, 0, [4] * 4 + [1] * 8)


def test_only_what_may_be_a_query_or_key_is_asked_about() -> None:
    lora = Holder(to_q=OwnLora(linear()), q_proj=OwnLora(linear()), to_kv=linear(16))  # how many heads is not said
    for layer, asked in (
        (FooAttention(to_q=linear(), to_kv=linear(16), out=linear()), {"to_q", "to_kv"}),
        (lora, {"q_proj", "to_q", "to_kv"}),
    ):
        with pytest.raises(ValueError, match=r"of no known form") as caught:
            partition(layer)
        rules = advised(str(caught.value), n=4, m=4)
        assert {name.partition(".")[0] for name in rules} == asked
        partition(layer, rules=rules)


def test_a_pattern_never_reaches_a_layer_that_is_known() -> None:
    """ "*.q.weight" would match the second as well."""
    model = nn.ModuleList([AttentionBlock(q=linear(), kv=linear(16)), Holder(q=linear(), k=linear(), num_heads=2)])
    with pytest.raises(ValueError, match=r"rules=\{'0.q.weight': \('heads', n\)") as caught:
        partition(model)
    table = partition(model, rules=advised(str(caught.value), n=4, m=4))
    holds(table["0.q.weight"].blocks, 0, [2] * 4)
    holds(table["1.q.weight"].blocks, 0, [4] * 2)


@pytest.mark.parametrize("names", [("W_Q", "W_K", "W_V"), ("Wq", "Wk", "Wv"), ("w_q", "w_k", "w_v")])
def test_capitals_are_no_other_names(names: tuple[str, ...]) -> None:
    layers = {name: linear() for name in names}
    with pytest.raises(ValueError, match=r"number of heads of '' \(SelfAttn\) cannot be told.*pass heads="):
        partition(SelfAttn(**layers))
    table = partition(SelfAttn(**layers, n_heads=4))
    holds(table[f"{names[1]}.weight"].blocks, 0, [2] * 4)
    holds(table[f"{names[2]}.weight"].blocks, 0, [1] * 8)


@pytest.mark.parametrize(
    "model",
    [
        Holder(q=linear(), value=linear()),  # a critic
        Holder(encoder_q=nn.Sequential(linear()), encoder_k=nn.Sequential(linear())),  # momentum contrast
        Holder(network=linear(), monkey=linear(), headless=linear()),
    ],
)
def test_words_that_make_no_attention(model: nn.Module) -> None:
    table = partition(model)
    assert all("Algorithm 2, no attention found" in entry.why for entry in table.values())


def test_wrappers_of_the_shelf_are_seen_through() -> None:
    model = Attention(num_heads=3)
    model.add_module("q_proj", nn.DataParallel(model.q_proj))
    holds(partition(model)["q_proj.module.weight"].blocks, 0, [4, 4, 4])


def test_a_frozen_parameter_is_not_asked_about() -> None:
    model = nn.Sequential(FooAttention(qkv=linear(24)).requires_grad_(False), nn.Linear(8, 3))
    table = partition(model)
    assert table["0.qkv.weight"].why.startswith("frozen, so it need not be told: the attention layer '0'")
    holds(table["1.weight"].blocks, 0, [1] * 3)
    optimizer = AdamMini(model, compile=False)
    assert len(optimizer.param_groups[0]["params"]) == 2
    by_name = {"attn.qkv.weight": raw(24, 8).requires_grad_(False), "fc.weight": raw(3, 8)}
    holds(partition(by_name)["fc.weight"].blocks, 0, [1] * 3)
    qkv = model.get_parameter("0.qkv.weight").requires_grad_(True)
    with pytest.raises(ValueError, match=r"'0.qkv.weight'.*rules=\{'\*.qkv.weight': \('fused', n, m\)\}"):
        table.of(qkv)
    with pytest.raises(ValueError, match=r"'0.qkv.weight'.*of no known form"):
        partition(model)


@pytest.mark.parametrize(
    ("rule", "lengths"),
    [(("fused", 4, 4), [2] * 8 + [1] * 8), (("fused", 4, 1), [4] * 5 + [1] * 4), (("fused", 0, 3), [4] * 3 + [1] * 12)],
)
def test_a_rule_for_a_fused_projection(rule: tuple[str, int, int], lengths: list[int]) -> None:
    params = {"a.qkv.weight": raw(24, 6), "a.qkv.bias": raw(24)}
    table = partition(params, rules=lambda name, param: rule)
    holds(table["a.qkv.weight"].blocks, 0, lengths)
    holds(table["a.qkv.bias"].blocks, 0, lengths)
    table = partition({"c_attn.weight": raw(6, 24), "c_attn.bias": raw(24)}, rules=lambda name, param: (*rule, 1))
    holds(table["c_attn.weight"].blocks, 1, lengths)
    holds(table["c_attn.bias"].blocks, 0, lengths)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (("fused", 5, 5), "does not divide into 5 query heads and 5"),
        (("fused", 1, 0), "no such heads or axis"),
        (("fused", -1, 2), "no such heads or axis"),
        (("fused", 1, 1, 2), "no such heads or axis"),
        (("fused", 4), r"expected 'tensor'.*\('fused', query heads, key heads\)"),
        (("fused", True, 1), "expected 'tensor'"),
    ],
)
def test_a_rule_for_a_fused_projection_that_does_not_fit(rule: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        partition({"qkv.weight": raw(24, 6)}, rules={"*": rule})
