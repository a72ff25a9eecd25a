"""What is particular to reference.adam_mini: the blocks, and Algorithms 2 and 3 as a table name -> blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reference import adam, adam_mini
from reference.adam_mini import block_mean, layout, spread
from reference.adam_mini_partition import ROLES, partition, role_of

# blocks, and for a 4 x 6 tensor the mask of each block, written out
MASKS = {
    "tensor": ("tensor", [np.s_[:, :]]),
    "rows": ("rows", [np.s_[i, :] for i in range(4)]),
    "columns": ("columns", [np.s_[:, i] for i in range(6)]),
    "two heads": (("heads", 2), [np.s_[:2, :], np.s_[2:, :]]),
    "segments": ([("heads", 2, 1), ("rows", 2, 2)], [np.s_[:2, :], np.s_[2, :], np.s_[3, :]]),
    "segments of columns": (
        [("column_heads", 4, 2), ("columns", 2, 2)],
        [np.s_[:, :2], np.s_[:, 2:4], np.s_[:, 4], np.s_[:, 5]],
    ),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("array", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_block_means_are_the_means_of_the_blocks(name, array):
    blocks, slices = MASKS[name]
    x = np.random.default_rng(0).standard_normal((4, 6))
    means = block_mean(array(x), blocks)
    np.testing.assert_allclose(means, [x[s].mean() for s in slices], rtol=1e-14)
    whole = np.broadcast_to(np.array(spread(means, (4, 6), blocks).tolist()), (4, 6))
    for s, m in zip(slices, means.tolist(), strict=True):
        assert (whole[s] == m).all()


def test_blocks_of_a_kernel_take_all_other_axes():
    x = np.random.default_rng(1).standard_normal((4, 3, 2, 5))
    np.testing.assert_allclose(block_mean(x, "rows"), x.mean((1, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(block_mean(x, "columns"), x.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(block_mean(x, ("heads", 2)), [x[:2].mean(), x[2:].mean()], rtol=1e-13)
    assert spread(np.arange(4.0), x.shape, "rows").shape == (4, 1, 1, 1)
    assert block_mean(np.array(3.0), "tensor").tolist() == [3.0]


@pytest.mark.parametrize("name", MASKS)
def test_each_block_steps_as_a_tensor_of_its_own(name):
    blocks, slices = MASKS[name]
    rng = np.random.default_rng(2)
    w, gs = rng.standard_normal((4, 6)), [rng.standard_normal((4, 6)) for _ in range(5)]

    def run(w, gs, blocks):
        state = adam_mini.init(w)
        for g in gs:
            w, state = adam_mini.step(w, g, state, lr=0.1, weight_decay=0.2, blocks=blocks)
        return w, state

    whole, state = run(w, gs, blocks)
    assert state.v.shape == (len(slices),)
    for i, s in enumerate(slices):
        alone, own = run(w[s], [g[s] for g in gs], "tensor")
        np.testing.assert_allclose(alone, whole[s], rtol=1e-12)
        np.testing.assert_allclose(own.v, state.v[i : i + 1], rtol=1e-13)


def test_a_vector_by_rows_is_adam():
    """One number for each entry is no saving, and no difference: eps and the decay stand where AdamW has them."""
    rng = np.random.default_rng(3)
    w, gs = rng.standard_normal(5), [rng.standard_normal(5) for _ in range(20)]
    a, b = adam.init(w), adam_mini.init(w)
    x = y = w
    for g in gs:
        x, a = adam.step(x, g, a, lr=0.1)
        y, b = adam_mini.step(y, g, b, lr=0.1, blocks="rows")
    np.testing.assert_allclose(x, y, rtol=1e-14)


@pytest.mark.parametrize(
    ("shape", "blocks", "message"),
    [
        ((4, 6), ("heads", 3), "4 indices of axis 0 do not fall into 3 equal heads blocks"),
        ((4, 6), ("heads", 0), "do not fall into 0 equal"),
        ((4, 6), "row", r'must be "tensor", "rows".*got \'row\''),
        ((4, 6), [("row", 4, 4)], "must be"),
        ((4, 6), [], "must be"),
        ((4, 6), ("heads", 2.0), "must be"),
        ((4, 6), [("rows", 3, 3)], "cover 3 indices, but axis 0 of shape .* has 4"),
        ((4, 6), [("columns", 4, 4)], "cover 4 indices, but axis 1 of shape .* has 6"),
        ((4, 6), [("columns", 3, 3), ("rows", 1, 1)], "same axis"),
        ((), "rows", r"shape \(\) has no axis to cut"),
        ((4, 0), "rows", "leave the empty tensor"),
    ],
    ids=str,
)
def test_blocks_that_do_not_fit_are_refused(shape, blocks, message):
    with pytest.raises(ValueError, match=message):
        layout(shape, blocks)
    w = np.ones(shape)
    with pytest.raises(ValueError, match=message):
        adam_mini.step(w, w, adam_mini.init(w), lr=0.1, blocks=blocks)


# ---------------------------------------------------------------------------------------------- Algorithms 2 and 3


def test_algorithm_2_is_one_block_a_tensor():
    shapes = {"conv.weight": (8, 3, 3, 3), "fc.weight": (10, 8), "fc.bias": (10,), "q_proj.weight": (8, 8)}
    assert partition(shapes, transformer=False) == dict.fromkeys(shapes, "tensor")


def test_algorithm_3_on_a_llama_with_grouped_queries():
    """Width 64, 4 query heads of width 32 (not 64 / 4), 2 heads of key and value."""
    attn, mlp = "model.layers.0.self_attn.", "model.layers.0.mlp."
    expected = {
        "model.embed_tokens.weight": ((100, 64), "rows"),
        attn + "q_proj.weight": ((128, 64), ("heads", 4)),
        attn + "q_proj.bias": ((128,), ("heads", 4)),
        attn + "k_proj.weight": ((64, 64), ("heads", 2)),
        attn + "k_proj.bias": ((64,), ("heads", 2)),
        attn + "v_proj.weight": ((64, 64), "rows"),
        attn + "v_proj.bias": ((64,), "rows"),
        attn + "o_proj.weight": ((64, 128), "rows"),
        mlp + "gate_proj.weight": ((96, 64), "rows"),
        mlp + "up_proj.weight": ((96, 64), "rows"),
        mlp + "down_proj.weight": ((64, 96), "rows"),
        "model.layers.0.input_layernorm.weight": ((64,), "tensor"),
        "model.norm.weight": ((64,), "tensor"),
        "lm_head.weight": ((100, 64), "rows"),
    }
    table = partition({n: s for n, (s, _) in expected.items()}, heads=4, kv_heads=2)
    assert table == {n: b for n, (_, b) in expected.items()}
    for name, (shape, _) in expected.items():
        layout(shape, table[name])  # fits


def test_algorithm_3_on_fused_and_transposed_weights():
    """Width 12, 3 heads of width 4: GPT-2's Conv1D (in x out), torch's MultiheadAttention, GPT-NeoX head by head."""
    by_row = [("heads", 12, 3), ("heads", 12, 3), ("rows", 12, 12)]
    by_column = [("column_heads", 12, 3), ("column_heads", 12, 3), ("columns", 12, 12)]
    by_head = [("heads", 4, 1), ("heads", 4, 1), ("rows", 4, 4)] * 3
    expected = {
        "transformer.wte.weight": ((50, 12), "rows"),
        "transformer.wpe.weight": ((16, 12), "rows"),
        "transformer.h.0.ln_1.weight": ((12,), "tensor"),
        "transformer.h.0.ln_1.bias": ((12,), "tensor"),
        "transformer.h.0.attn.c_attn.weight": ((12, 36), by_column),
        "transformer.h.0.attn.c_attn.bias": ((36,), by_row),
        "transformer.h.0.attn.c_proj.weight": ((12, 12), "columns"),
        "transformer.h.0.attn.c_proj.bias": ((12,), "rows"),
        "transformer.h.0.mlp.c_fc.weight": ((12, 48), "columns"),
        "encoder.layers.0.self_attn.in_proj_weight": ((36, 12), by_row),
        "encoder.layers.0.self_attn.in_proj_bias": ((36,), by_row),
        "encoder.layers.0.self_attn.out_proj.weight": ((12, 12), "rows"),
        "encoder.layers.0.linear1.weight": ((24, 12), "rows"),
        "gpt_neox.layers.0.attention.query_key_value.weight": ((36, 12), by_head),
        "gpt_neox.layers.0.attention.dense.weight": ((12, 12), "rows"),
        "bert.encoder.layer.0.attention.self.query.weight": ((12, 12), ("heads", 3)),
        "bert.encoder.layer.0.attention.output.dense.weight": ((12, 12), "rows"),
        "bert.encoder.layer.0.attention.output.LayerNorm.weight": ((12,), "tensor"),
        "bert.pooler.dense.weight": ((12, 12), "tensor"),
    }
    table = partition({n: s for n, (s, _) in expected.items()}, heads=3)
    assert table == {n: b for n, (_, b) in expected.items()}
    for name, (shape, _) in expected.items():
        layout(shape, table[name])
    _, labels = layout((36, 12), table["gpt_neox.layers.0.attention.query_key_value.weight"])
    assert labels[:12].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 4, 5]


def test_a_fused_weight_with_grouped_queries():
    """4 query heads and 1 of key and value, width 3: 12 + 3 + 3 rows."""
    table = partition({"attn.qkv_proj.weight": (18, 8)}, heads=4, kv_heads=1)
    assert table == {"attn.qkv_proj.weight": [("heads", 12, 4), ("heads", 3, 1), ("rows", 3, 3)]}


@pytest.mark.parametrize(
    "name", ["network.weight", "wollen.weight", "wo_gate.weight", "output_norm.weight", "keys.weight"]
)
def test_names_are_read_by_whole_tokens(name):
    assert role_of(name) == "other"
    assert partition({name: (4, 4)}, heads=2) == {name: "tensor"}


def test_every_role_of_the_table_is_reached_by_its_own_keys():
    for role, keys in ROLES.items():
        for key in keys:
            assert role_of(f"model.layers.3.{key}.weight") == role, key


def test_the_users_roles_come_first():
    shapes = {"net.alpha.weight": (6, 4), "lm_head.weight": (9, 4)}
    table = partition(shapes, heads=3, roles={"net.alpha.weight": "query", "lm_head.weight": "other"})
    assert table == {"net.alpha.weight": ("heads", 3), "lm_head.weight": "tensor"}


@pytest.mark.parametrize(
    ("shapes", "kwargs", "message"),
    [
        ({"q_proj.weight": (8, 8)}, {}, "give the number of heads"),
        ({"q_proj.weight": (8, 8)}, {"heads": 3}, "8 rows, which do not fall into 3 heads"),
        ({"k_proj.weight": (8, 8)}, {"heads": 4, "kv_heads": 3}, "do not fall into 3 heads"),
        (
            {"c_attn.weight": (8, 25)},
            {"heads": 2},
            "25 output neurons, which do not fall into 2 heads of query and 2 each",
        ),
        ({"qkv.weight": (24, 8)}, {}, "give the number of heads"),
        ({"query_key_value.weight": (24, 8)}, {"heads": 4, "kv_heads": 2}, "kv_heads=2"),
        ({"a.weight": (2, 2)}, {"roles": {"a.weight": "queen"}}, "roles needs names of parameters and roles among"),
        ({"a.weight": (2, 2)}, {"roles": {"b.weight": "query"}}, "roles needs names"),
    ],
    ids=str,
)
def test_what_cannot_be_told_is_an_error(shapes, kwargs, message):
    with pytest.raises(ValueError, match=message):
        partition(shapes, **kwargs)
