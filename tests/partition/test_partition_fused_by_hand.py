"""Fused projections of classes that everybody writes: the name says the order, the layer's own sizes the heads.

nanoGPT's CausalSelfAttention has as many key heads as query heads; others of that name have fewer. The output
projection takes all of the query's heads side by side, so what a fused projection gives is held against it.
"""

from __future__ import annotations

from typing import Any

import pytest
from blocks_by_hand import holds
from torch import nn

from fast import partition

WEIGHT = "c_attn.weight"


class CausalSelfAttention(nn.Module):
    def __init__(self, rows: int, takes: int | None, **stated: Any) -> None:
        super().__init__()
        self.c_attn = nn.Linear(16, rows)
        if takes:
            self.c_proj = nn.Linear(takes, 16)
        for name, value in stated.items():
            setattr(self, name, value)


GROUPED = [4] * 4 + [4] * 2 + [1] * 8  # 4 query heads and 2 key heads of 4, 8 rows of the value
EQUAL = [4] * 4 + [4] * 4 + [1] * 16


@pytest.mark.parametrize(
    ("layer", "lengths"),
    [
        (CausalSelfAttention(32, 16, n_head=4, n_query_groups=2), GROUPED),
        (CausalSelfAttention(32, None, n_head=4, n_kv_head=2), GROUPED),
        (CausalSelfAttention(48, 16, n_head=4), EQUAL),
        (CausalSelfAttention(48, None, n_head=4, head_dim=4), EQUAL),
    ],
)
def test_what_the_layer_states_fits_its_output_projection(layer: nn.Module, lengths: list[int]) -> None:
    holds(partition(layer)[WEIGHT].blocks, 0, lengths)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        # in truth 4 query heads and 2 key heads of 8; below, 8 and 2 of 8
        (CausalSelfAttention(64, 32, n_head=4), "64 outputs of the fused projection.*do not divide"),
        (CausalSelfAttention(96, 64, n_head=8, n_groups=2), r"'c_proj' takes 64 inputs, not 32.*rules="),
        (CausalSelfAttention(96, 64, n_head=8, n_kv_head=8), r"8 key heads, but 'c_proj' takes 64 inputs.*rules="),
        (CausalSelfAttention(96, None, n_head=8), r"how many key heads .* cannot be told.*heads=\(query heads.*rules="),
    ],
)
def test_what_does_not_fit_is_an_error(layer: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=f"'{WEIGHT}'.*{words}"):
        partition(layer)
    rules = {"c_attn.*": ("fused", 4, 2)}
    assert partition(layer, rules=rules)[WEIGHT].kind == "fused"
    assert partition(layer, algorithm=2)[WEIGHT].kind == "tensor"


def test_heads_answers_what_the_layer_does_not_say() -> None:
    """8 query heads and 2 key heads of 8, 16 rows of the value."""
    for takes in (64, None):
        table = partition(CausalSelfAttention(96, takes, n_head=8), heads=(8, 2))
        holds(table[WEIGHT].blocks, 0, [8] * 8 + [8] * 2 + [1] * 16)
    with pytest.raises(ValueError, match="'c_proj' takes 64 inputs, not 32"):
        partition(CausalSelfAttention(96, 64, n_head=8), heads=8)
