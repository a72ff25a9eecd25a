"""What `partition` takes besides a module: names, groups, rules; and how it shows what it found."""

from __future__ import annotations

import pytest
import torch
from blocks_by_hand import Attention, holds
from torch import nn

from fast import partition
from fast.partition.blocks import Blocks

Shapes = dict[str, tuple[int, ...]]


def named(shapes: Shapes) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}


LLAMA: Shapes = {
    "model.embed_tokens.weight": (9, 6),
    "model.layers.0.self_attn.q_proj.weight": (12, 6),
    "model.layers.0.self_attn.q_proj.bias": (12,),
    "model.layers.0.self_attn.k_proj.weight": (4, 6),
    "model.layers.0.self_attn.v_proj.weight": (4, 6),
    "model.layers.0.self_attn.o_proj.weight": (6, 12),
    "model.layers.0.self_attn.q_norm.weight": (4,),
    "model.layers.0.mlp.gate_proj.weight": (5, 6),
    "model.layers.0.input_layernorm.weight": (6,),
    "lm_head.weight": (9, 6),
}


def test_names_alone_tell_a_llama():
    table = partition(named(LLAMA), heads=3)
    expected = {
        "model.embed_tokens.weight": (0, [1] * 9),
        "model.layers.0.self_attn.q_proj.weight": (0, [4, 4, 4]),
        "model.layers.0.self_attn.q_proj.bias": (0, [4, 4, 4]),
        "model.layers.0.self_attn.k_proj.weight": (0, [4]),  # one key head of the query's size
        "model.layers.0.self_attn.v_proj.weight": (0, [1] * 4),
        "model.layers.0.self_attn.o_proj.weight": (0, [1] * 6),
        "model.layers.0.self_attn.q_norm.weight": (None, []),
        "model.layers.0.mlp.gate_proj.weight": (0, [1] * 5),
        "model.layers.0.input_layernorm.weight": (None, []),
        "lm_head.weight": (0, [1] * 9),
    }
    assert list(table) == list(expected)
    for name, cut in expected.items():
        holds(table[name].blocks, *cut)


def test_names_agree_with_the_module_that_they_come_from():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        vocab_size=9,
    )
    config.pad_token_id = config.bos_token_id = config.eos_token_id = 0
    model = LlamaForCausalLM(config)
    by_module, by_name = partition(model), partition(model.named_parameters(), heads=3)
    assert {n: e.blocks for n, e in by_module.items()} == {n: e.blocks for n, e in by_name.items()}
    torch_layer = nn.TransformerEncoderLayer(6, 3, 8)
    by_module, by_name = partition(torch_layer), partition(torch_layer.named_parameters(), heads=3)
    assert {n: e.blocks for n, e in by_module.items()} == {n: e.blocks for n, e in by_name.items()}


@pytest.mark.parametrize(
    "name", ["network.0.weight", "worker.weight", "monkey.weight", "snowq.weight", "headless.weight", "provalue.weight"]
)
def test_words_within_words_do_not_count(name):
    """The released package finds "wo" in "network". Nothing is known of these, which is said and not guessed."""
    with pytest.raises(ValueError, match=f"{name}.*has no known word.*rules={{'{name.replace('0', '.')}': 'rows'}}"):
        partition(named(LLAMA | {name: (4, 6)}), heads=3)
    table = partition(named(LLAMA | {name: (4,)}), heads=3)
    assert table[name].why.startswith("everything else")


def test_names_with_one_or_four_axes_do_not_crash():
    shapes: Shapes = {"wo.weight": (4,), "conv.weight": (4, 3, 2, 2), "scale": (), "embed_tokens.gain": (3,)}
    table = partition(named(LLAMA | shapes), heads=3)
    assert [table[name].blocks.count for name in shapes] == [4, 4, 1, 1]


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("h.0.attn.c_attn.weight", (6, 18), "does not say how its outputs are laid out"),
        ("h.0.attn.c_proj.weight", (6, 6), "does not say how its outputs are laid out"),
        ("layers.0.attention.query_key_value.weight", (18, 6), "does not say how its outputs are laid out"),
        ("blocks.0.attn.qkv.weight", (18, 6), "does not say how its outputs are laid out"),
        ("layers.0.self_attn.q_a_proj.weight", (4, 6), "is of no known form"),
        ("layers.0.mlp.experts.gate_up_proj", (2, 4, 6), "which axis holds the outputs"),
    ],
)
def test_what_a_name_cannot_tell_is_an_error(name, shape, words):
    with pytest.raises(ValueError, match=f"{name}.*{words}"):
        partition(named(LLAMA | {name: shape}), heads=3)
    assert partition(named(LLAMA | {name: shape}), heads=3, rules={name: "rows"})[name].kind == "rows"


def test_names_need_the_number_of_heads_too():
    with pytest.raises(ValueError, match=r"q_proj.weight.*cannot be told from a name; pass heads="):
        partition(named(LLAMA))
    with pytest.raises(ValueError, match=r"q_proj.weight.*does not divide into 5 heads"):
        partition(named(LLAMA), heads=5)


def test_lora_by_name():
    shapes: Shapes = {"attn.q_proj.lora_A.default.weight": (2, 6), "attn.q_proj.lora_B.default.weight": (6, 2)}
    table = partition(named(shapes), heads=3)
    holds(table["attn.q_proj.lora_A.default.weight"].blocks, 0, [1, 1])
    holds(table["attn.q_proj.lora_B.default.weight"].blocks, 0, [2, 2, 2])


def test_names_without_query_or_key_are_algorithm_2():
    table = partition({"fc.weight": torch.ones(3, 2), "embed.weight": torch.ones(4, 2)})
    assert [entry.kind for entry in table.values()] == ["tensor", "tensor"]
    assert partition({"fc.weight": torch.ones(3, 2)}, algorithm=3)["fc.weight"].kind == "rows"


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        (torch.ones(2), {}, TypeError, "got one tensor"),
        ([1.0], {}, TypeError, "expected a tensor or a pair"),
        ([], {}, ValueError, "no parameters"),
        ([torch.ones(2)], {"algorithm": 3}, ValueError, "without a name"),
        ([torch.ones(2)], {"algorithm": 1}, ValueError, "expected 2"),
        ([torch.ones(2)], {"heads": 2}, ValueError, "no attention layer"),
    ],
)
def test_bad_input_is_refused(given, options, error, words):
    with pytest.raises(error, match=words):
        partition(given, **options)


def test_rules_come_first_and_the_first_that_matches_counts():
    model = Attention(num_heads=3)
    table = partition(model, rules={"q_proj.weight": ("heads", 6), "*.weight": "tensor", "v_*": "rows"})
    holds(table["q_proj.weight"].blocks, 0, [2] * 6)
    holds(table["k_proj.weight"].blocks, None, [])
    holds(table["k_proj.bias"].blocks, 0, [4, 4, 4])
    holds(table["v_proj.bias"].blocks, 0, [1] * 12)
    assert "'q_proj.weight'" in table["q_proj.weight"].why
    partition(model, rules={"*": "tensor", "q_proj.weight": "rows"})  # one that comes too late is no misspelt one

    def rule(name: str, param: torch.Tensor) -> Blocks | str | tuple[str, int, int] | None:
        if name == "q_proj.weight":
            return Blocks.along(param.shape, 1, "columns")
        return {"k_proj.weight": "columns", "v_proj.weight": ("heads", 2, 1)}.get(name)

    table = partition(model, rules=rule)
    holds(table["q_proj.weight"].blocks, 1, [1] * 6)
    holds(table["k_proj.weight"].blocks, 1, [1] * 6)
    holds(table["v_proj.weight"].blocks, 1, [3, 3])
    holds(table["o_proj.weight"].blocks, 0, [1] * 6)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"q_porj.weight": "rows"}, r"\['q_porj.weight'\] match no parameter"),
        ({"q_proj.weight": "row"}, r"'q_proj.weight'.*expected 'tensor', 'rows'"),
        ({"q_proj.weight": ("heads", 5)}, r"'q_proj.weight'.*does not divide into 5 heads"),
        ({"q_proj.bias": "columns"}, r"'q_proj.bias'.*needs axis 1"),
        ({"q_proj.weight": Blocks((2, 2))}, r"shape \(2, 2\) were given to a parameter of shape \(12, 6\)"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rules, words):
    with pytest.raises(ValueError, match=words):
        partition(Attention(num_heads=3), rules=rules)


def test_the_partition_is_a_mapping_with_totals():
    model = Attention(num_heads=3)
    model.v_proj.requires_grad_(False)
    table = partition(model)
    # q and k: 3 heads each for weight and bias; o: 6 rows and 6 bias entries; v is frozen
    assert table.total_blocks == 3 + 3 + 3 + 3 + 6 + 6
    assert table.state_bytes == 4 * 24
    assert table.total_parameters == 2 * (12 * 6 + 12) + (6 * 12 + 6)
    assert table.removed == pytest.approx(1 - 24 / 246)
    assert table.of(model.q_proj.weight) is table["q_proj.weight"].blocks
    assert len(table) == 8 and next(iter(table)) == "q_proj.weight" and "nothing" not in table
    with pytest.raises(ValueError, match="not in this partition"):
        table.of(torch.ones(12, 6))
    with pytest.raises(KeyError):
        table["nothing"]


def test_the_table_shows_what_decided(capsys):
    model = nn.ModuleList([Attention(num_heads=3) for _ in range(2)])
    table = partition(model)
    text = repr(table)
    q = next(line for line in text.splitlines() if "q_proj.weight" in line)
    assert q.split()[:7] == ["*.q_proj.weight", "2", "12", "x", "6", "heads", "3"]
    assert f"{2 * 3 * 4}" in q and "by head" in q
    assert f"{table.total_blocks:,} blocks" in text.splitlines()[-1]
    markup = table._repr_html_()
    assert markup.count("<tr>") == 1 + 8 and "*.q_proj.weight" in markup
    assert capsys.readouterr().out == ""


def test_the_picture_draws_each_kind_of_layer_once():
    model = nn.ModuleList([nn.TransformerEncoderLayer(6, 3, 8) for _ in range(2)])
    figure = partition(model).draw()
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert sum("in_proj_weight" in text for text in texts) == 1
    assert any(text.startswith("*: 2 alike") for text in texts)
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"tensor", "rows", "heads"}
    # One cell a block where there are few: [q|k|v] 12, its bias 12, out 6 + 6, linear1 8 + 8, linear2 6 + 6, norms 4;
    # and an outline for each of the 12 tensors.
    assert len(axes.patches) == 12 + 12 + 12 + 16 + 12 + 4 + 12
