"""Adam-mini's blocks of what models have on top: language model and classification heads, against tables by hand.

Algorithm 3 (arXiv 2406.16793): output layers by token, that is by row, and a bias as the rows of its weight. A head's
bias that two modules hold is one parameter.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from blocks_by_hand import Cut, each, holds, is_cut
from small_models import small
from torch import nn

from fast import AdamMini, partition

Table = dict[str, Cut]


def linear(path: str, outputs: int) -> Table:
    return {f"{path}.weight": each(outputs), f"{path}.bias": each(outputs)}


def norm(path: str) -> Table:
    return {f"{path}.weight": None, f"{path}.bias": None}


def masked(path: str) -> Table:
    """BERT's head of a language model: a dense layer, a norm, and one bias; the decoder's weight is the embedding's."""
    return linear(f"{path}.transform.dense", 12) | norm(f"{path}.transform.LayerNorm") | {f"{path}.bias": each(11)}


SCORE: Table = {"score.weight": each(2)}
LM_HEAD: Table = {"lm_head.weight": each(11)}
MODELS: dict[str, tuple[str, Table]] = {  # the model -> (where its body is, its parameters outside the body)
    "LlamaForCausalLM": ("model", LM_HEAD),
    "LlamaForSequenceClassification": ("model", SCORE),
    "LlamaForTokenClassification": ("model", linear("score", 2)),
    "LlamaForQuestionAnswering": ("transformer", linear("qa_outputs", 2)),
    "MistralForCausalLM": ("model", LM_HEAD),
    "MistralForSequenceClassification": ("model", SCORE),
    "Qwen2ForCausalLM": ("model", {}),  # tied
    "Qwen2ForSequenceClassification": ("model", SCORE),
    "GemmaForCausalLM": ("model", {}),
    "GemmaForSequenceClassification": ("model", SCORE),
    "GPT2LMHeadModel": ("transformer", {}),
    "GPT2ForSequenceClassification": ("transformer", SCORE),
    "GPT2ForTokenClassification": ("transformer", linear("classifier", 2)),
    "GPTNeoXForSequenceClassification": ("gpt_neox", SCORE),
    "GPTNeoXForQuestionAnswering": ("gpt_neox", linear("qa_outputs", 2)),
    "BertForMaskedLM": ("bert", masked("cls.predictions")),
    "BertLMHeadModel": ("bert", masked("cls.predictions")),
    "BertForPreTraining": ("bert", masked("cls.predictions") | linear("cls.seq_relationship", 2)),
    "BertForSequenceClassification": ("bert", linear("classifier", 2)),
    "BertForQuestionAnswering": ("bert", linear("qa_outputs", 2)),
    "RobertaForMaskedLM": (
        "roberta",
        linear("lm_head.dense", 12) | norm("lm_head.layer_norm") | {"lm_head.bias": each(11)},
    ),
    "RobertaForSequenceClassification": ("roberta", linear("classifier.dense", 12) | linear("classifier.out_proj", 2)),
    "AlbertForMaskedLM": (
        "albert",
        linear("predictions.dense", 5) | norm("predictions.LayerNorm") | {"predictions.bias": each(11)},
    ),
    "AlbertForSequenceClassification": ("albert", linear("classifier", 2)),
    "ViTForImageClassification": ("vit", linear("classifier", 2)),
    "ViTForMaskedImageModeling": ("vit", linear("decoder.0", 12)),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_models_have_on_top(name: str) -> None:
    body, expected = MODELS[name]
    model = small(name)
    table = partition(model)
    own = {n for n, _ in model.named_parameters() if not n.startswith(f"{body}.")}
    assert own == set(expected) and len(table) == len(list(model.parameters()))
    for n, cut in expected.items():
        is_cut(table[n].blocks, cut)
    assert AdamMini(model, compile=False).param_groups[0]["blocks"]


def test_neox_keeps_its_head_apart() -> None:
    """Its name is another in older versions of transformers."""
    table = partition(small("GPTNeoXForCausalLM"))
    (name,) = [n for n in table if not n.startswith("gpt_neox.")]
    assert name in ("embed_out.weight", "lm_head.weight")
    holds(table[name].blocks, 0, [1] * 11)


class Tied(nn.Module):
    """Its head is no layer but the embedding's own weight."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        emb: Any = nn.Embedding(9, 4)
        if first:
            self.out = emb.weight
        self.attn, self.emb = nn.MultiheadAttention(4, 2), emb
        if not first:
            self.out = emb.weight


@pytest.mark.parametrize("first", [False, True])
def test_a_default_yields_to_the_owner_that_knows(first: bool) -> None:
    table = partition(Tied(first))
    assert table["out"] is table["emb.weight"] and table["out"].why.startswith("embedding: by token")
    holds(table["out"].blocks, 0, [1] * 9)
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2)})
    model.register_parameter("one", nn.Parameter(torch.ones(2, 3)))
    model.register_parameter("two", model.get_parameter("one"))
    assert partition(model)["two"].why == "everything else: one block a tensor (Algorithm 3); tied to two"
