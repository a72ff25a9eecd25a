"""Param groups: what `partition` and `AdamMini` make of them, with and without names, from generators and later on."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from blocks_by_hand import advised, holds
from torch import nn
from twin import parameters, same, train

from fast import AdamMini, Blocks, partition


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


def frozen_then_trained() -> tuple[nn.TransformerEncoderLayer, AdamMini]:
    model = nn.TransformerEncoderLayer(8, 2, 12)
    model.self_attn.requires_grad_(False)
    optimizer = AdamMini(model, compile=False)
    model.self_attn.requires_grad_(True)
    return model, optimizer


@pytest.mark.parametrize("named", [False, True])
def test_a_layer_that_thaws_later_has_the_names_and_blocks_of_the_partition(named: bool) -> None:
    model, optimizer = frozen_then_trained()
    pairs = [(f"self_attn.{name}", p) for name, p in model.self_attn.named_parameters()]
    optimizer.add_param_group({"params": iter(pairs) if named else model.self_attn.parameters(), "lr": 0.5})
    group = optimizer.param_groups[1]
    assert group["param_names"] == [name for name, _ in pairs] and group["lr"] == 0.5
    table = partition(model)
    assert [Blocks.from_plain(b) for b in group["blocks"]] == [table[name].blocks for name, _ in pairs]
    assert table["self_attn.in_proj_weight"].kind == "fused"
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[model.self_attn.in_proj_weight]["exp_avg_sq"].shape == (2 + 2 + 8,)
    optimizer.load_state_dict(optimizer.state_dict())


def test_parameters_that_the_partition_does_not_know() -> None:
    head = nn.Linear(8, 3)
    pairs = [(f"lm_head.{name}", p) for name, p in head.named_parameters()]
    rows = [Blocks.along(p.shape, 0) for p in head.parameters()]
    for group in (
        {"params": pairs},
        {"params": list(head.named_parameters()), "partition": {"*": "rows"}},
        {"params": head.parameters(), "partition": partition(head, algorithm=3)},
        {"params": pairs, "blocks": rows},
        {"params": pairs, "blocks": [blocks.to_plain() for blocks in rows]},
    ):
        _, optimizer = frozen_then_trained()
        optimizer.add_param_group(group)
        assert optimizer.param_groups[1]["blocks"] == [blocks.to_plain() for blocks in rows]
        assert not {"heads", "partition"} & set(optimizer.param_groups[1])
    other = [(f"extra.{name}", p) for name, p in nn.MultiheadAttention(8, 4).named_parameters()]
    _, optimizer = frozen_then_trained()
    optimizer.add_param_group({"params": other, "heads": 4})
    assert optimizer.param_groups[1]["blocks"][0][3] == ((8, 2), (8, 1))


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"params": [nn.Parameter(torch.ones(3, 8))]}, "not in the optimizer's partition and have no names"),
        ({"params": nn.Linear(8, 3).named_parameters()}, r"'weight' has no known word.*rules=\{'weight': 'rows'\}"),
        ({"params": [("extra.q_proj.weight", nn.Parameter(torch.ones(4, 8)))]}, "pass heads="),
        (
            {"params": [("extra.k_proj.weight", nn.Parameter(torch.ones(4, 8)))], "heads": 4},
            "heads=4 counts query heads",
        ),
        ({"params": [("a.w", nn.Parameter(torch.ones(3)))], "blocks": []}, "0 blocks were given for a group of 1"),
        ({"params": [("a.w", nn.Parameter(torch.ones(3)))], "blocks": [Blocks((4,))]}, "are of another shape"),
        ({"params": [("a.w", nn.Parameter(torch.ones(3)))], "blocks": [Blocks((3,))], "heads": 2}, "takes no"),
        ({"params": [("a.w", nn.Parameter(torch.ones(3)))], "partition": {"b.w": "rows"}}, "match no parameter"),
    ],
)
def test_groups_that_cannot_be_told_are_refused_and_nothing_changes(group: dict[str, Any], words: str) -> None:
    _, optimizer = frozen_then_trained()
    with pytest.raises(ValueError, match=words):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


def test_an_answer_to_what_is_known_is_refused() -> None:
    model, optimizer = frozen_then_trained()
    with pytest.raises(ValueError, match='to change them, give "blocks"'):
        optimizer.add_param_group({"params": model.self_attn.parameters(), "heads": 4})


def test_an_unknown_attention_that_thaws_later_is_asked_about() -> None:
    model = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(8, 24)}), "head": nn.Linear(8, 3)})
    model["attn"].requires_grad_(False)
    optimizer = AdamMini(model, compile=False)
    model["attn"].requires_grad_(True)
    with pytest.raises(ValueError, match=r"'attn.qkv.weight'.*rules=") as caught:
        optimizer.add_param_group({"params": model["attn"].parameters()})
    rules = advised(str(caught.value), n=4, m=4)
    optimizer.add_param_group({"params": model["attn"].parameters(), "partition": rules})
    assert optimizer.param_groups[1]["param_names"] == ["attn.qkv.weight", "attn.qkv.bias"]
    assert optimizer.param_groups[1]["blocks"][0][3] == ((8, 2), (8, 1))


def test_frozen_parameters_that_are_handed_over_all_the_same() -> None:
    frozen, head = nn.Parameter(torch.ones(24, 8), requires_grad=False), nn.Parameter(torch.ones(3, 8))
    with pytest.warns(UserWarning, match=r"'attn.qkv.weight' and in all 1 frozen.*one block should it train"):
        optimizer = AdamMini({"attn.qkv.weight": frozen, "head.weight": head}.items(), compile=False)
    assert [b[0] for b in optimizer.param_groups[0]["blocks"]] == ["tensor", "rows"]


def test_bare_parameters_stay_one_block_each_in_later_groups() -> None:
    layers = [nn.Linear(3, 2), nn.Linear(2, 2)]
    optimizer = AdamMini(layers[0].parameters(), compile=False)
    optimizer.add_param_group({"params": layers[1].parameters()})
    assert {b[0] for group in optimizer.param_groups for b in group["blocks"]} == {"tensor"}


def test_the_state_of_another_partition_is_refused_and_nothing_changes() -> None:
    """A square has as many rows as columns: the shapes of their states do not tell them apart."""
    params = parameters([(4, 4), (4, 4)])
    rows, columns = (
        AdamMini([("w", p)], lr=lr, partition={"*": rule}, compile=False)
        for p, lr, rule in zip(params, (0.5, 0.1), ("rows", "columns"), strict=True)
    )
    train(rows, params[:1], range(2))
    train(columns, params[1:], range(1))
    before = copy.deepcopy(columns.state_dict())
    with pytest.raises(ValueError, match="another partition"):
        columns.load_state_dict(rows.state_dict())
    assert same(columns.state_dict(), before)


COPIES = pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"]
)


@COPIES
def test_a_copied_optimizer_cuts_later_groups_by_the_same_algorithm(again: Callable[[Any], Any]) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    _, optimizer = again((layer, AdamMini(layer, compile=False)))
    optimizer.add_param_group({"params": [("head.weight", nn.Parameter(torch.ones(3, 8)))]})
    holds(Blocks.from_plain(optimizer.param_groups[1]["blocks"][0]), 0, [1] * 3)
    with pytest.raises(ValueError, match="have no names to tell their blocks by"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, 8))]})


@COPIES
def test_a_copied_partition_knows_the_copied_parameters(again: Callable[[Any], Any]) -> None:
    layer = nn.MultiheadAttention(6, 3)
    copied, table = again((layer, partition(layer)))
    assert table.of(copied.in_proj_weight) == partition(layer).of(layer.in_proj_weight)
    assert list(table) == list(partition(layer)) and table.algorithm == 3


def test_a_copied_optimizer_leaves_a_frozen_model_behind() -> None:
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert len(pickle.dumps(AdamMini(model, compile=False))) < 20_000


@pytest.mark.parametrize("edited", ["params", "blocks"])
@pytest.mark.parametrize("edit", [lambda items: items[::-1], lambda items: items[1:]], ids=["reversed", "shorter"])
def test_blocks_that_no_longer_belong_to_the_parameters_are_refused(edited: str, edit: Callable[[Any], Any]) -> None:
    """A list edited alone, as ZeroRedundancyOptimizer does where it loads, would cut each parameter as another."""
    layer = nn.Linear(3, 3)
    optimizer = AdamMini([*layer.parameters(), nn.Parameter(torch.ones(4, 3))], compile=False)
    group = optimizer.param_groups[0]
    kept, group[edited] = group[edited], edit(group[edited])
    before = [p.detach().clone() for p in layer.parameters()]
    for param in layer.parameters():
        param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match='"blocks" no longer belong to its "params"'):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), before, strict=True))
    group[edited] = kept
    optimizer.step()  # nothing is left of the attempt
