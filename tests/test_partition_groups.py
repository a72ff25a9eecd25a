"""Param groups: what `partition` and `AdamMini` make of them, with and without names, from generators and later on."""

from __future__ import annotations

import pytest
import torch
from blocks_by_hand import holds
from torch import nn

from fast import AdamMini, partition


def test_the_groups_that_were_given_stay_as_they_are():
    layers = [nn.Linear(3, 2), nn.Linear(2, 2)]
    groups = [{"params": list(layer.parameters()), "lr": 0.5} for layer in layers]
    before = [dict(group) for group in groups]
    optimizer = AdamMini(groups, compile=False)
    later = {"params": list(nn.Linear(2, 2).parameters())}
    optimizer.add_param_group(later)
    assert groups == before and list(later) == ["params"]


def test_groups_whose_names_repeat_are_told_apart():
    """`layer.named_parameters()` of two layers gives each name twice."""
    first, second = nn.MultiheadAttention(6, 3), nn.MultiheadAttention(4, 1)
    groups = [{"params": list(layer.named_parameters())} for layer in (first, second)]
    table = partition([*groups, {"params": groups[0]["params"][:1]}], heads=1)
    assert len(table) == 8 and table.of(second.in_proj_weight) is table["groups.1.in_proj_weight"].blocks
    holds(table.of(first.in_proj_weight), 0, [6, 6] + [1] * 6)
    holds(table.of(second.in_proj_weight), 0, [4, 4] + [1] * 4)
    with pytest.raises(ValueError, match="two parameters are called 'w'"):
        partition([("w", torch.ones(2)), ("w", torch.ones(3))])


def test_groups_with_and_without_names():
    layer = nn.MultiheadAttention(6, 3)
    pairs, params = list(layer.named_parameters()), list(layer.parameters())
    whole = partition(layer)
    for given in (
        [{"params": pairs[:2], "lr": 1.0}, {"params": pairs[2:]}],
        [{"params": params, "param_names": [name for name, _ in pairs]}],
        pairs,
        dict(pairs),
    ):
        table = partition(given, heads=3)
        assert all(table.of(param) == whole.of(param) for param in params)
    for given in (
        params,
        [{"params": params[:1]}, {"params": params[1:]}],
        [{"params": params[0]}, {"params": params[1:]}],
    ):
        table = partition(given)
        assert [table.of(param).kind for param in params] == ["tensor"] * 4
        assert all("no module and no name" in entry.why for entry in table.values())
