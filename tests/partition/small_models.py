"""Small random models of the architectures that `fast.partition` is held to: each keeps what is peculiar to its family."""

from __future__ import annotations

import logging
from typing import Any

import transformers as hf
from blocks_by_hand import TINY
from torch import nn

logging.getLogger("transformers").setLevel(logging.ERROR)  # our vocabularies are smaller than the special tokens

ONE: dict[str, Any] = TINY | {"num_hidden_layers": 1}
_GATED: dict[str, Any] = {"hidden_size": 12, "intermediate_size": 10, "num_attention_heads": 6, **ONE}
_BERT: dict[str, Any] = _GATED | {"num_attention_heads": 3, "max_position_embeddings": 7}
_VIT: dict[str, Any] = {"hidden_size": 6, "intermediate_size": 10, "num_attention_heads": 3, "num_hidden_layers": 1}

CONFIGS: dict[str, Any] = {
    "Llama": hf.LlamaConfig(num_key_value_heads=3, tie_word_embeddings=False, **_GATED),
    "Mistral": hf.MistralConfig(num_key_value_heads=2, head_dim=4, **_GATED),
    "Qwen2": hf.Qwen2Config(num_key_value_heads=2, tie_word_embeddings=True, **_GATED),
    "Gemma": hf.GemmaConfig(num_key_value_heads=1, head_dim=8, **_GATED),
    "GPT2": hf.GPT2Config(n_embd=6, n_head=3, n_layer=1, n_positions=7, **ONE),
    "GPTNeoX": hf.GPTNeoXConfig(**_GATED),
    "Bert": hf.BertConfig(**_BERT),
    "Roberta": hf.RobertaConfig(**_BERT),
    "Albert": hf.AlbertConfig(embedding_size=5, **_BERT),
    "ViT": hf.ViTConfig(image_size=4, patch_size=2, encoder_stride=2, **_VIT),
    "T5": hf.T5Config(d_model=6, d_kv=4, d_ff=10, num_layers=1, num_heads=2, vocab_size=11),
    "DistilBert": hf.DistilBertConfig(
        dim=6, hidden_dim=10, n_heads=3, n_layers=1, vocab_size=11, max_position_embeddings=7
    ),
    "OPT": hf.OPTConfig(
        hidden_size=8, ffn_dim=9, num_attention_heads=2, word_embed_proj_dim=4, max_position_embeddings=5, **ONE
    ),
    "Whisper": hf.WhisperConfig(
        d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=9, decoder_ffn_dim=9, vocab_size=11, num_mel_bins=4, max_source_positions=5,
        max_target_positions=5, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    ),
}  # fmt: skip
HEADS: dict[str, int | tuple[int, int]] = {  # query heads, or query and key heads
    "Llama": (6, 3), "Mistral": (6, 2), "Qwen2": (6, 2), "Gemma": (6, 1), "GPT2": 3, "GPTNeoX": 6, "Bert": 3,
    "Roberta": 3, "Albert": 3, "ViT": 3, "T5": 2, "DistilBert": 3, "OPT": 2, "Whisper": 2,
}  # fmt: skip


def small(name: str) -> nn.Module:
    """The model of transformers' class `name`, whose family is the part of it before "For", "Model" and the like."""
    return getattr(hf, name)(CONFIGS[family(name)])


def family(name: str) -> str:
    return max((known for known in CONFIGS if name.startswith(known)), key=len)
