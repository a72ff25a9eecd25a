"""Adam-mini's blocks of fused and transposed projections, against tables written by hand; and of what it cannot read.

A fused projection is cut into query, key and value first; query and key by head, value by output neuron. Where its
weight is transposed (GPT-2) the outputs are columns. That the outputs are in this order is checked on the layers' own
gradients.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from blocks_by_hand import TINY, Cut, compare, each, holds
from torch import nn

from fast import partition

ONE: dict[str, Any] = TINY | {"num_hidden_layers": 1}


def test_gpt2_whose_weights_are_transposed():
    """c_attn is [q|k|v] by column: 3 heads of 2 columns, 3 heads, 6 columns; c_proj goes by column, not by row."""
    config = hf.GPT2Config(n_embd=6, n_head=3, n_layer=2, n_positions=7, vocab_size=11, bos_token_id=0, eos_token_id=1)
    qkv = [2, 2, 2] + [2, 2, 2] + [1] * 6
    outside = {"transformer.wte.weight": each(11), "transformer.wpe.weight": each(7)}
    outside |= {"transformer.ln_f.weight": None, "transformer.ln_f.bias": None}
    inside: dict[str, Cut] = {
        "attn.c_attn.weight": (1, qkv),
        "attn.c_attn.bias": (0, qkv),
        "attn.c_proj.weight": each(6, axis=1),
        "attn.c_proj.bias": each(6),
        "mlp.c_fc.weight": each(24, axis=1),
        "mlp.c_fc.bias": each(24),
        "mlp.c_proj.weight": each(6, axis=1),
        "mlp.c_proj.bias": each(6),
    }
    inside |= dict.fromkeys(["ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"])
    compare(hf.GPT2LMHeadModel(config), outside, "transformer.h", inside)


def test_gpt2_with_cross_attention():
    config = hf.GPT2Config(n_embd=6, n_head=3, n_layer=1, n_positions=7, vocab_size=11, add_cross_attention=True)
    config.bos_token_id = config.eos_token_id = 0
    table = partition(hf.GPT2LMHeadModel(config))
    holds(table["transformer.h.0.crossattention.q_attn.weight"].blocks, 1, [2, 2, 2])
    holds(table["transformer.h.0.crossattention.c_attn.weight"].blocks, 1, [2, 2, 2] + [1] * 6)
    holds(table["transformer.h.0.attn.c_attn.weight"].blocks, 1, [2] * 6 + [1] * 6)


def test_gpt_neox_whose_query_key_and_value_alternate_head_by_head():
    """query_key_value is [head][q|k|v]: for each of 3 heads 2 rows of q, 2 of k, 2 of v. It is not a query."""
    config = hf.GPTNeoXConfig(hidden_size=6, intermediate_size=10, num_attention_heads=3, **TINY)
    qkv = [2, 2, 1, 1] * 3
    outside = {"gpt_neox.embed_in.weight": each(11), "embed_out.weight": each(11), "lm_head.weight": each(11)}
    model = hf.GPTNeoXForCausalLM(config)
    outside = {name: cut for name, cut in outside.items() if name in dict(model.named_parameters())}
    assert len(outside) == 2
    outside |= {"gpt_neox.final_layer_norm.weight": None, "gpt_neox.final_layer_norm.bias": None}
    inside: dict[str, Cut] = {}
    for own in ("weight", "bias"):
        inside |= {f"input_layernorm.{own}": None, f"post_attention_layernorm.{own}": None}
        inside[f"attention.query_key_value.{own}"] = (0, qkv)
        inside[f"attention.dense.{own}"] = each(6)
        inside[f"mlp.dense_h_to_4h.{own}"] = each(10)
        inside[f"mlp.dense_4h_to_h.{own}"] = each(6)
    compare(model, outside, "gpt_neox.layers", inside)


LAYOUTS = {  # one layer of each; the fused weight; the lengths of its blocks, of columns where it is transposed
    "GPT-2": (
        lambda: hf.GPT2Model(hf.GPT2Config(n_embd=6, n_head=3, n_positions=7, **ONE)),
        "h.0.attn.c_attn.weight",
        [2] * 6 + [1] * 6,
    ),
    "GPT-NeoX": (
        lambda: hf.GPTNeoXModel(hf.GPTNeoXConfig(hidden_size=6, intermediate_size=8, num_attention_heads=3, **ONE)),
        "layers.0.attention.query_key_value.weight",
        [2, 2, 1, 1] * 3,
    ),
    "BLOOM": (
        lambda: hf.BloomModel(hf.BloomConfig(hidden_size=6, n_head=3, **ONE)),
        "h.0.self_attention.query_key_value.weight",
        [2, 2, 1, 1] * 3,
    ),
    "Phi-3": (
        lambda: hf.Phi3Model(
            hf.Phi3Config(hidden_size=8, intermediate_size=6, num_attention_heads=4, num_key_value_heads=2, **ONE)
        ),
        "layers.0.self_attn.qkv_proj.weight",
        [2] * 4 + [2] * 2 + [1] * 4,
    ),
    "ModernBERT": (
        lambda: hf.ModernBertModel(
            hf.ModernBertConfig(
                hidden_size=8, intermediate_size=6, num_attention_heads=4, cls_token_id=1, sep_token_id=2, **ONE
            )
        ),
        "layers.0.attn.Wqkv.weight",
        [2] * 8 + [1] * 8,
    ),
    "Persimmon": (
        lambda: hf.PersimmonModel(
            hf.PersimmonConfig(hidden_size=8, intermediate_size=6, num_attention_heads=2, qk_layernorm=False, **ONE)
        ),
        "layers.0.self_attn.query_key_value.weight",
        [4, 4, 1, 1, 1, 1] * 2,
    ),
    "Falcon, one key head": (
        lambda: falcon(multi_query=True, new_decoder_architecture=False),
        "h.0.self_attention.query_key_value.weight",
        [2, 2, 2, 2, 2, 1, 1],
    ),
    "Falcon, a key head for each query head": (
        lambda: falcon(multi_query=False, new_decoder_architecture=False),
        "h.0.self_attention.query_key_value.weight",
        [2, 2, 1, 1] * 4,
    ),
    "Falcon, two key heads": (
        lambda: falcon(new_decoder_architecture=True, num_kv_heads=2),
        "h.0.self_attention.query_key_value.weight",
        [2, 2, 2, 1, 1] * 2,
    ),
}


def falcon(**options: Any) -> nn.Module:
    return hf.FalconModel(hf.FalconConfig(hidden_size=8, num_attention_heads=4, **options, **ONE))


@pytest.mark.parametrize("name", LAYOUTS)
def test_fused_projections_against_the_hand_and_the_gradient(name):
    """With its value zero, attention gives zero whatever query and key are: their gradients vanish, and only theirs."""
    torch.manual_seed(0)
    build, path, lengths = LAYOUTS[name]
    model = build().eval()
    blocks, weight = partition(model)[path].blocks, model.get_parameter(path)
    axis = 1 if name == "GPT-2" else 0
    holds(blocks, axis, lengths)
    is_value = torch.tensor([length == 1 for length in lengths for _ in range(length)])
    with torch.no_grad():
        for param in model.parameters():  # away from the small values that they start with
            param.normal_()
        weight.index_fill_(axis, is_value.nonzero().flatten(), 0.0)
        if (bias := model.get_submodule(path.rpartition(".")[0])._parameters.get("bias")) is not None:
            bias[is_value] = 0.0
    out = model(input_ids=torch.tensor([[3, 7, 5, 9]])).last_hidden_state
    (out * torch.randn_like(out)).sum().backward()
    assert weight.grad is not None
    outputs = weight.grad.abs().sum(1 - axis)
    assert torch.equal(outputs[~is_value], torch.zeros(int((~is_value).sum())))
    assert (outputs[is_value] > 0).all()


def test_a_query_that_holds_more_than_a_query_is_an_error():
    """Qwen3-Next puts a gate beside each head's query: twice as many rows as its config's heads need."""
    config = hf.Qwen2Config(hidden_size=8, intermediate_size=6, num_attention_heads=4, num_key_value_heads=2, **TINY)
    model = hf.Qwen2ForCausalLM(config)
    model.get_submodule("model.layers.1.self_attn").add_module("q_proj", nn.Linear(8, 16))
    with pytest.raises(ValueError, match=r"q_proj.weight.*heads of 2 make 8 heads, but 4 are stated"):
        partition(model)


def test_attention_of_no_known_form_is_an_error_and_its_norms_are_not():
    config = hf.DeepseekV3Config(
        hidden_size=8, num_attention_heads=2, num_hidden_layers=1, q_lora_rank=4, kv_lora_rank=4, vocab_size=11
    )
    config.bos_token_id = config.eos_token_id = 0
    with torch.device("meta"):
        model = hf.DeepseekV3Model(config)
    with pytest.raises(ValueError, match=r"DeepseekV3Attention\) is of no known form.*give a rule"):
        partition(model)
    table = partition(model, rules={"*.self_attn.*_proj*.weight": "rows"})
    assert table["layers.0.self_attn.q_a_layernorm.weight"].why.startswith("DeepseekV3RMSNorm")
