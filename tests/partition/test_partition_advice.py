"""What the advice of an error says, and what it does not pretend to know, where attention is of no known form."""

from __future__ import annotations

import pytest
from blocks_by_hand import AttentionBlock, FooAttention, Holder, linear
from torch import nn

from fast import partition


def test_advice_for_a_fused_projection_says_for_which_order_it_is() -> None:
    with pytest.raises(
        ValueError, match=r"rules=.*'fused', 4, 4.*right where the outputs lie as \[queries \| keys \| values\]"
    ):
        partition(nn.Sequential(FooAttention(qkv=linear(24), num_heads=4)))
    with pytest.raises(ValueError) as caught:
        partition(nn.Sequential(AttentionBlock(q_proj=linear(), key_layer=linear(), num_heads=4)))
    assert "lie as" not in str(caught.value)


def test_a_layer_that_counts_heads_in_words_of_its_own_is_not_advised_by_its_config() -> None:
    """Linear attention beside softmax attention: 16 key heads of its own, 4 query heads of the model's."""
    layer = FooAttention(in_proj_qkv=linear(24), num_k_heads=16, num_v_heads=16)
    with pytest.raises(ValueError, match=r"\('fused', n, m\).* with n for its number of query heads"):
        partition(Holder(config=Holder(num_attention_heads=4, num_key_value_heads=2), layers=nn.Sequential(layer)))


def test_a_query_fused_with_a_gate_is_asked_about() -> None:
    """Qwen3-Next's [q|k|v|z]."""
    with pytest.raises(ValueError, match=r"'0\.in_proj_qkvz\.weight'"):
        partition(nn.Sequential(Holder(in_proj_qkvz=linear(32))))
