"""Layers that stand in several places of a module: cut as all places say, refused where they disagree, like tied weights."""

from __future__ import annotations

from typing import Any

import pytest
from blocks_by_hand import each, holds, is_cut
from torch import nn

from fast import partition


class Block(nn.Module):
    """No class called attention; `shared` says which of its projections are one layer."""

    def __init__(self, num_heads: int = 4, /, **shared: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        for name in ("q_proj", "k_proj", "v_proj"):
            self.add_module(name, self.get_submodule(shared[name]) if name in shared else nn.Linear(8, 8, bias=False))


def tied(model: nn.Module) -> nn.Module:
    """The same with layers of their own that hold one weight."""
    for module in list(model.modules()):
        seen: set[int] = set()
        for name, child in list(module._modules.items()):
            if isinstance(child, nn.Linear) and id(child) in seen:
                layer: Any = nn.Linear(8, 8, bias=False)
                layer.weight = child.weight
                module.add_module(name, layer)
            seen.add(id(child))
    return model


@pytest.mark.parametrize("names", [("k_proj", "q_proj"), ("v_proj", "k_proj"), ("v_proj", "q_proj")])
@pytest.mark.parametrize("ties", [False, True])
def test_a_layer_that_is_several_projections_of_one_attention(names: tuple[str, str], ties: bool) -> None:
    model, first = Block(4, **{names[0]: names[1]}), f"{names[1]}.weight"
    model = tied(model) if ties else model
    if names[0] == "k_proj":
        table = partition(model)
        assert table.algorithm == 3 and table["k_proj.weight"] is table["q_proj.weight"]
        holds(table[first].blocks, 0, [2] * 4)
        holds(table["v_proj.weight"].blocks, 0, [1] * 8)
        return
    with pytest.raises(ValueError, match=f"{first}.*give one rule"):
        partition(model)
    holds(partition(model, rules={first: "rows"})[first].blocks, 0, [1] * 8)
    assert partition(model, algorithm=2)[first].kind == "tensor"


@pytest.mark.parametrize("heads", [4, 2])
def test_a_query_of_two_attentions(heads: int) -> None:
    model = nn.ModuleList([Block(4), Block(heads)])
    model[1].add_module("q_proj", model[0].get_submodule("q_proj"))
    if heads == 4:
        holds(partition(model)["1.q_proj.weight"].blocks, 0, [2] * 4)
        return
    with pytest.raises(ValueError, match=r"'0.q_proj.weight'.*\(4 blocks\) and .*\(2 blocks\); give one rule"):
        partition(model)
    assert partition(model, rules={"1.q_proj.weight": ("heads", 2)})["0.q_proj.weight"].kind == "heads"


def test_a_projection_that_is_a_layer_outside_attention_too() -> None:
    block = Block()
    agree = partition(nn.ModuleDict({"block": block, "out": block.get_submodule("v_proj")}))
    is_cut(agree["out.weight"].blocks, each(8))
    with pytest.raises(ValueError, match=r"'block.q_proj.weight'.*'out' outside attention.*give one rule"):
        partition(nn.ModuleDict({"block": block, "out": block.get_submodule("q_proj")}))


@pytest.mark.parametrize("first", [0, 1])
def test_a_query_that_cannot_be_told_in_one_of_its_places_is_asked_about(first: int) -> None:
    blocks = [Block(4), Block(4)]
    del blocks[1].num_heads
    blocks[1].add_module("q_proj", blocks[0].get_submodule("q_proj"))
    model = nn.ModuleList([blocks[first], blocks[1 - first]])
    with pytest.raises(ValueError, match=f"heads of '{1 - first}'.*cannot be told"):
        partition(model, rules={f"{1 - first}.k_proj.weight": "tensor"})


def test_attention_that_stands_in_two_places_is_one() -> None:
    block = Block()
    table = partition(nn.ModuleDict({"first": block, "again": nn.ModuleList([block])}))
    assert len(table) == 3
    holds(table["again.0.q_proj.weight"].blocks, 0, [2] * 4)


def wrapped(layer: nn.Module) -> nn.Module:
    wrapper = nn.Module()
    wrapper.add_module("base_layer", layer)
    return wrapper


def test_layers_in_wrappers_are_shared_too() -> None:
    block = Block()
    query = block.get_submodule("q_proj")
    block.add_module("k_proj", wrapped(wrapped(query)))
    holds(partition(block)["k_proj.base_layer.base_layer.weight"].blocks, 0, [2] * 4)
    block.add_module("v_proj", wrapped(query))
    with pytest.raises(ValueError, match=r"'q_proj.weight'.*query.*value.*give one rule"):
        partition(block)
    block = Block()
    query = block.get_submodule("q_proj")
    block.add_module("q_proj", wrapped(query))
    with pytest.raises(ValueError, match=r"'block.q_proj.base_layer.weight'.*'out' outside attention.*give one rule"):
        partition(nn.ModuleDict({"block": block, "out": query}))


def test_a_layer_of_no_known_form_is_asked_about_under_any_of_its_names() -> None:
    mixer = nn.ModuleDict({"one": nn.Linear(8, 8), "two": nn.Linear(8, 8)})
    mixer["in_query"], mixer["in_key"] = mixer["one"], mixer["two"]
    with pytest.raises(ValueError, match=r"'one.weight'.*of no known form.*rules="):
        partition(mixer)
