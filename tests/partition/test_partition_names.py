"""Adam-mini's blocks read off names alone: the same as off the structure, and as `reference` reads them, or an error.

Names that nobody can read are refused with a rule that, followed to the letter, is taken.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from blocks_by_hand import Cut, advised, each, holds, is_cut
from small_models import HEADS, family, small
from torch import nn

from fast import partition
from reference import adam_mini
from reference import adam_mini_partition as theirs

Shapes = dict[str, tuple[int, ...]]
MODELS = (
    "LlamaForCausalLM", "LlamaForSequenceClassification", "MistralForCausalLM", "Qwen2ForCausalLM", "GemmaForCausalLM",
    "GPT2LMHeadModel", "GPTNeoXForCausalLM", "BertModel", "BertForMaskedLM", "BertForPreTraining",
    "BertForSequenceClassification", "RobertaForMaskedLM", "RobertaForSequenceClassification", "AlbertForMaskedLM",
    "ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling", "T5ForConditionalGeneration",
    "DistilBertForMaskedLM", "OPTForCausalLM", "WhisperForConditionalGeneration",
)  # fmt: skip
LAYOUT = {"c_attn", "c_proj", "c_fc", "query_key_value"}  # names that do not say how their outputs lie


def named(shapes: Shapes) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", MODELS)
def test_names_agree_with_the_structure(name: str) -> None:
    model, heads = small(name), HEADS[family(name)]
    by_structure, params = partition(model), dict(model.named_parameters())
    silent = {n: "tensor" for n in params if set(n.split(".")) & LAYOUT}
    if name == "ViTForMaskedImageModeling":
        silent["decoder.0.weight"] = "tensor"  # a convolution of nn.Sequential: (out, in, ...) or (in, out, ...)
    by_names = partition(params, heads=heads, rules=silent) if silent else partition(params, heads=heads)
    for n in params.keys() - silent.keys():
        assert by_names[n].blocks == by_structure[n].blocks, n
    for n in silent:
        with pytest.raises(ValueError, match=f"parameter '{re.escape(n)}': .*does not say .*rules="):
            partition(params, heads=heads, rules={k: v for k, v in silent.items() if k != n} or None)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if family(name) not in ("T5", "DistilBert", "OPT", "Whisper")]
)
def test_the_structure_agrees_with_the_reference(name: str) -> None:
    """Wherever the reference's table of names has a word for the parameter."""
    model, heads = small(name), HEADS[family(name)]
    by_structure, shapes = partition(model), {n: tuple(p.shape) for n, p in model.named_parameters()}
    queries, keys = heads if isinstance(heads, tuple) else (heads, heads)
    found = theirs.partition(shapes, heads=queries, kv_heads=keys)
    known = [n for n in shapes if theirs.role_of(n) != "other" and "norm" not in n.lower()]
    assert len(known) >= 5
    for n in known:
        assert torch.equal(by_structure[n].blocks.ids(), ids_of_reference(shapes[n], found[n])), n


def ids_of_reference(shape: tuple[int, ...], blocks: adam_mini.Blocks) -> torch.Tensor:
    _, labels = adam_mini.layout(shape, blocks)
    numbers = adam_mini.spread(np.arange(labels.max() + 1), shape, blocks)
    return torch.from_numpy(np.broadcast_to(np.asarray(numbers), shape).copy())


META: Shapes = {
    "tok_embeddings.weight": (11, 8),
    "layers.0.attention.wq.weight": (8, 8),
    "layers.0.attention.wk.weight": (4, 8),
    "layers.0.attention.wv.weight": (4, 8),
    "layers.0.attention.wo.weight": (8, 8),
    "layers.0.feed_forward.w1.weight": (9, 8),
    "output.weight": (11, 8),
}


def test_meta_llama_as_the_reference_reads_it() -> None:
    table, found = partition(named(META), heads=(2, 1)), theirs.partition(META, heads=2, kv_heads=1)
    for name, shape in META.items():
        assert torch.equal(table[name].blocks.ids(), ids_of_reference(shape, found[name])), name
    holds(table["output.weight"].blocks, 0, [1] * 11)


NAMES: dict[str, tuple[tuple[int, ...], Cut]] = {
    "embeddings.patch_embeddings.projection.weight": ((6, 3, 2, 2), each(6)),
    "patch_embed.proj.weight": ((6, 3, 2, 2), each(6)),
    "visual.patch_embed.proj.weight": ((6, 3, 2, 2, 2), each(6)),
    "shared.weight": ((11, 8), each(11)),
    "block.0.layer.1.DenseReluDense.wi.weight": ((9, 8), each(9)),
    "block.0.layer.1.DenseReluDense.wi_0.weight": ((9, 8), each(9)),
    "block.0.layer.0.SelfAttention.relative_attention_bias.weight": ((32, 2), each(32)),
    "vocab_transform.weight": ((8, 8), each(8)),
    "project_in.weight": ((8, 4), each(8)),
    "encoder.conv1.weight": ((8, 4, 3), each(8)),
    "encoder.conv1.bias": ((8,), each(8)),
    "embed.lora_embedding_A.default": ((2, 11), each(11, axis=1)),
    "embed.lora_embedding_B.default": ((8, 2), each(8)),
    "lm_head.modules_to_save.default.weight": ((11, 8), each(11)),
    "lm_head.original_module.weight": ((11, 8), each(11)),
    "layers.1.q_proj._orig_mod.weight": ((8, 8), (0, [4, 4])),
    "layers.1.q_proj.parametrizations.weight.original": ((8, 8), (0, [4, 4])),
    "layers.1.q_proj.parametrizations.weight.original0": ((8, 1), (0, [4, 4])),
    "layers.1.q_proj.weight_v": ((8, 8), (0, [4, 4])),
    "layers.1.mlp.fc1.parametrizations.weight.original1": ((9, 8), each(9)),
    "_orig_mod.module.layers.1.q_proj.module.base_layer.weight": ((8, 8), (0, [4, 4])),
    "layers.1.W_Q.weight": ((8, 8), (0, [4, 4])),
    "layers.1.q_proj.lora_A": ((2, 8), each(2)),
    "layers.1.q_proj.lora_B.default": ((8, 2), (0, [4, 4])),
    "layers.1.q_proj.lora_E.default": ((2, 1), None),
    "layers.1.q_proj.ia3_l.default": ((8, 1), None),
    "encoder.conv1.lora_magnitude_vector.default.weight": ((1, 8, 1, 1), each(8, axis=1)),
    "layers.1.rnn.weight_hh_l0": ((16, 4), each(16)),
    "mlp.0.weight": ((9, 8), each(9)),
    "mlp.0.bias": ((9,), each(9)),
    "mlp.1.weight": ((9,), None),  # a norm, by its only axis
    "mlp.1.bias": ((9,), None),
    "cls_token": ((1, 1, 8), None),
    "query_tokens": ((1, 4, 8), None),
    "query_embed.weight": ((4, 8), each(4)),
    "logit_scale": ((1,), None),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_name_says(name: str) -> None:
    shape, cut = NAMES[name]
    sibling = {"mlp.0.weight": (9, 8)} if name == "mlp.0.bias" else {}
    table = partition(named(META | sibling | {name: shape}), heads=2)
    is_cut(table[name].blocks, cut)


def test_multihead_attention_with_separate_weights_by_name() -> None:
    layer = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True)
    by_structure, by_names = partition(layer), partition(dict(layer.named_parameters()), heads=2)
    assert {n: e.blocks for n, e in by_structure.items()} == {n: e.blocks for n, e in by_names.items()}
    with pytest.raises(ValueError, match=r"q_proj_weight.*pass heads="):
        partition(dict(layer.named_parameters()))


DEEPSEEK: Shapes = {
    "embed_tokens.weight": (11, 8),
    "layers.0.self_attn.q_a_proj.weight": (4, 8),
    "layers.0.self_attn.q_b_proj.weight": (8, 4),
    "layers.0.self_attn.kv_b_proj.weight": (8, 4),
    "layers.1.self_attn.q_b_proj.weight": (8, 4),
}
ASKED: dict[str, tuple[Shapes, str]] = {  # names -> (shapes, words of the message)
    "DeepSeek": (DEEPSEEK, "speaks of a query or key"),
    "a key without its query": ({"net.0.weight": (8, 8), "net.key_bank": (8, 8)}, "'0' has no known word"),
    "a wrapper of one's own": (META | {"q_proj.linear.weight": (8, 8), "q_proj.A.weight": (2, 8)}, "no single layer"),
    "a container": (META | {"q_proj.0.weight": (8, 8), "q_proj.0.bias": (8,)}, "no single layer"),
    "a bias": (META | {"attn.qk.bias": (8,)}, "speaks of a query or key"),
    "capitals": (META | {"attn.qProj.weight": (8, 8)}, "speaks of a query or key"),
    "a raw matrix": (META | {"mlp.w1": (8, 9)}, "does not say which axis"),
    "a raw query": (META | {"attn.w_q": (8, 9)}, "does not say which axis"),
    "transposed": (META | {"conv_transpose.weight": (8, 9, 3)}, "does not say which axis"),
    "no word": (META | {"blocks.0.thing.weight": (8, 9), "blocks.0.thing.bias": (8,)}, "has no known word"),
    "GPT-2": (META | {"c_attn.weight": (8, 24), "c_attn.bias": (24,)}, "how its outputs are laid out"),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_is_answered_by_the_advice(name: str) -> None:
    shapes, words = ASKED[name]
    params, count = named(shapes), (2 if "wq" in str(shapes) else None)
    with pytest.raises(ValueError, match=words) as caught:
        partition(params, heads=count)
    rules = advised(str(caught.value), n=2, m=2)
    table = partition(params, heads=count, rules=rules)
    if name == "DeepSeek":
        assert list(rules) == [f"layers.*.self_attn.{part}_proj.weight" for part in ("q_a", "q_b", "kv_b")]
        holds(table["layers.1.self_attn.q_b_proj.weight"].blocks, 0, [4, 4])
        holds(table["layers.0.self_attn.kv_b_proj.weight"].blocks, 0, [2, 2, 1, 1, 1, 1])
    if name == "GPT-2":
        holds(table["c_attn.weight"].blocks, 1, [4] * 4 + [1] * 8)
        holds(table["c_attn.bias"].blocks, 0, [4] * 4 + [1] * 8)
    assert {e.kind for e in partition(params, algorithm=2).values()} == {"tensor"}


@pytest.mark.parametrize(
    "own", ["weight", "bias", "lora_B.default.weight", "base_layer.weight", "lora_magnitude_vector"]
)
def test_a_key_without_its_query_is_asked_about(own: str) -> None:
    """Of 4 query heads, 8 rows of a key may be 4, 2 or 1 heads: a query in the same layer says which."""
    name, query = f"layers.0.self_attn.k_proj.{own}", "layers.0.self_attn.q_proj.weight"
    params = named({name: (8,) if own in ("bias", "lora_magnitude_vector") else (8, 3)})
    with pytest.raises(
        ValueError, match=r"heads=4 counts query heads.*heads=\(query heads, key heads\), or give a rule"
    ) as e:
        partition(params | named({"layers.1.self_attn.q_proj.weight": (16, 8)}), heads=4)
    holds(partition(params, rules=advised(str(e.value), n=4, m=2))[name].blocks, 0, [4, 4])
    holds(partition(params, heads=(4, 2))[name].blocks, 0, [4, 4])
    holds(partition(params | named({query: (16, 8)}), heads=4)[name].blocks, 0, [4, 4])
    holds(partition(params, heads=1)[name].blocks, 0, [8])


def test_a_number_of_key_heads_fits_the_querys() -> None:
    """A query and a key are multiplied: their heads are of one size. (4, 1) would cut the key once, without a word."""
    params = named({"attn.q_proj.weight": (16, 8), "attn.k_proj.weight": (8, 8), "attn.k_proj.bias": (8,)})
    for heads in ((4, 1), (4, 4), (2, 2)):
        with pytest.raises(ValueError, match=r"gives a query . outputs a head and 'k_proj' ., .*check heads="):
            partition(params, heads=heads)
    holds(partition(params, heads=(4, 2))["attn.k_proj.weight"].blocks, 0, [4, 4])
    holds(partition(params, heads=(2, 1))["attn.k_proj.bias"].blocks, 0, [8])
    with pytest.raises(ValueError, match="gives a query 16 outputs a head and 'k_proj' 8"):
        partition(params, heads=1)
