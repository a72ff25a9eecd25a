"""What attention layers state of their heads, where that is not one number for the whole model.

transformers keeps a config for each layer where they differ, and reading such a number from the model's config raises.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from blocks_by_hand import is_cut
from torch import nn

from fast import partition


def gemma() -> nn.Module:
    """Five layers with heads of 256, 4 for the query and 2 for the key; the sixth has heads of 512, 4 and 1."""
    options: dict[str, Any] = {"num_hidden_layers": 6, "vocab_size": 11}
    config = hf.CONFIG_MAPPING["embedding_gemma2_text"](**options)
    with torch.device("meta"):
        return hf.AutoModel.from_config(config)


def test_a_config_whose_numbers_differ_between_layers() -> None:
    model = gemma()
    table = partition(model)
    for layer, (size, keys) in enumerate([(256, 2)] * 5 + [(512, 1)]):
        runs = [table[f"layers.{layer}.self_attn.{part}_proj.weight"].blocks.runs for part in "qkv"]
        assert runs == [((4, size),), ((keys, size),), ((512, 1),)]
    assert {entry.kind for entry in partition(model, rules={"*": "tensor"}).values()} == {"tensor"}
    assert {entry.kind for entry in partition(model, algorithm=2).values()} == {"tensor"}


def test_the_config_of_the_layer_is_held_against_its_outputs() -> None:
    model = gemma()
    model.get_submodule("layers.5.self_attn").add_module("k_proj", nn.Linear(512, 1024, device="meta"))
    with pytest.raises(ValueError, match=r"layers.5.*1024 outputs of the key make 2 heads, but 1 are stated.*rule"):
        partition(model)


def test_a_config_that_counts_no_heads_hides_none() -> None:
    """The nearest config that speaks of heads is asked, not the nearest."""
    model = nn.ModuleDict({"attn": Attention(config=SimpleNamespace(dropout=0.1))})
    model.__dict__["config"] = SimpleNamespace(num_attention_heads=4)
    is_cut(partition(model)["attn.q_proj.weight"].blocks, (0, [2] * 4))


def test_a_switch_is_no_number_of_heads() -> None:
    table = partition(Attention(heads=True, config=SimpleNamespace(num_heads=4)))
    is_cut(table["q_proj.weight"].blocks, (0, [2] * 4))


class Varies(SimpleNamespace):
    """A config that refuses its number of heads."""

    @property
    def num_attention_heads(self) -> int:
        raise RuntimeError("'num_attention_heads' is a per-layer attribute and may vary across layers")


class Attention(nn.Module):
    def __init__(self, **stated: Any) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8, bias=False) for _ in range(3))
        for name, value in stated.items():
            setattr(self, name, value)


def test_a_number_that_no_layer_states_is_asked_for() -> None:
    """And is not taken from a config further up, which is another model's."""
    model = nn.ModuleDict({"tower": Attention(config=Varies(n_head=2))})
    model.__dict__["config"] = SimpleNamespace(num_attention_heads=4)
    with pytest.raises(ValueError, match=r"heads of 'tower'.*cannot be told.*pass heads="):
        partition(model)
    assert partition(model, algorithm=2)["tower.q_proj.weight"].kind == "tensor"
    is_cut(partition(model, heads=2)["tower.k_proj.weight"].blocks, (0, [4, 4]))
    is_cut(partition(Attention(config=Varies(), num_heads=2))["q_proj.weight"].blocks, (0, [4, 4]))


def test_a_configs_key_heads_are_not_those_of_a_layer_with_another_number_of_queries() -> None:
    """Whisper's config has the encoder's numbers under the names that all layers share; its decoder states its own."""
    config = SimpleNamespace(num_attention_heads=4, num_key_value_heads=4)
    model = nn.ModuleDict({"encoder": Attention(num_heads=4), "decoder": Attention(num_heads=2)})
    model.__dict__["config"] = config
    table = partition(model)
    is_cut(table["encoder.k_proj.weight"].blocks, (0, [2] * 4))
    is_cut(table["decoder.k_proj.weight"].blocks, (0, [4] * 2))
    is_cut(partition(Attention(num_heads=8, config=config))["k_proj.weight"].blocks, (0, [1] * 8))
    config.num_attention_heads = 2  # now it speaks of the decoder
    with pytest.raises(ValueError, match=r"decoder.*8 outputs of the key make 2 heads, but 4 are stated"):
        partition(nn.ModuleDict({"decoder": Attention(num_heads=2, config=config)}))


def test_a_layer_that_counts_heads_in_words_of_its_own_is_not_cut_by_its_config() -> None:
    """OLMo Hybrid: linear attention with 2 heads of 4 for query and key, beside softmax attention with 4 heads of 3."""
    options: dict[str, Any] = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 4}
    options |= {"hidden_size": 12, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2}
    options |= {"layer_types": ["linear_attention", "full_attention"], "intermediate_size": 10, "vocab_size": 11}
    options["pad_token_id"] = None
    with torch.device("meta"):
        table = partition(hf.AutoModel.from_config(hf.CONFIG_MAPPING["olmo_hybrid"](**options)))
    for part in "qk":
        is_cut(table[f"layers.0.linear_attn.{part}_proj.weight"].blocks, (0, [4, 4]))
        is_cut(table[f"layers.1.self_attn.{part}_proj.weight"].blocks, (0, [3] * 4))
    model = nn.ModuleDict({"mixer": Attention(num_k_heads=2, num_v_heads=2)})
    model.__dict__["config"] = SimpleNamespace(num_attention_heads=4)
    with pytest.raises(ValueError, match=r"heads of 'mixer'.*cannot be told.*pass heads="):
        partition(model)


def test_a_layer_of_one_head_is_not_cut_by_the_heads_of_its_config() -> None:
    """GroupViT's assignment to its groups; its other layers have the heads that its config states."""
    model = nn.ModuleDict({"attn": Attention(scale=4**-0.5), "assign": Attention(scale=8**-0.5)})
    model.__dict__["config"] = SimpleNamespace(num_attention_heads=2)
    with pytest.raises(
        ValueError, match=r"'assign.q_proj.weight': assign: the config states 2 heads, but Attention has none"
    ):
        partition(model)
    table = partition(model, rules={"assign.[qk]_proj.weight": "tensor"})
    is_cut(table["attn.q_proj.weight"].blocks, (0, [4, 4]))
    is_cut(partition(model["assign"], heads=2)["q_proj.weight"].blocks, (0, [4, 4]))
