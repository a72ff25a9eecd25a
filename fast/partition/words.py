"""What the words in a parameter's name say: of queries and keys, of layers, and of wrappers that stand around a layer.

A name is split at dots, underscores and capitals, and only whole words count: "network.0.weight" has no "wo".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SEPARATE = (  # in small letters
    ("q_proj", "k_proj", "v_proj"),  # Llama, Mistral, Qwen, Gemma, OPT, ViT, Whisper, GPT-J
    ("query", "key", "value"),  # BERT and its kin
    ("q", "k", "v"),  # T5
    ("wq", "wk", "wv"),  # Meta's Llama
    ("w_q", "w_k", "w_v"),  # by hand, after the paper
    ("q_lin", "k_lin", "v_lin"),  # DistilBERT
    ("to_q", "to_k", "to_v"),  # diffusion models
    ("query_proj", "key_proj", "value_proj"),  # DeBERTa
    ("linear_q", "linear_k", "linear_v"),  # speech encoders
)
QUERIES = {names[0] for names in SEPARATE}
KEYS = {names[1] for names in SEPARATE}
FUSED_NAMES = {"c_attn", "qkv", "qkv_proj", "wqkv", "query_key_value", "to_qkv"}
EITHER_WAY = {"c_attn", "c_proj", "c_fc", "q_attn"}  # (in, out) in transformers' GPT-2, (out, in) in nanoGPT

_FUSED = {"qkv", "wqkv"}
QUERY = {"q", "query", "queries", "wq", "qk"} | _FUSED
KEY = {"k", "key", "keys", "wk", "qk", "kv", "wkv"} | _FUSED
VALUE = {"v", "value", "values", "wv", "kv", "wkv"} | _FUSED

NORMS = {"norm", "norms", "layernorm", "rmsnorm", "batchnorm", "groupnorm", "ln", "bn"}
EMBEDDINGS = {"embed", "embedding", "embeddings", "emb", "wte", "wpe", "shared"}  # T5, BART: shared
POSITION = ({"pos", "position", "positions", "positional"}, {"embed", "embedding", "embeddings", "emb"})
TOKENS = {"token", "tokens"}  # learned tokens: cls_token, query_tokens
CONVOLUTIONS = {"conv", "conv1d", "conv2d", "conv3d", "convolution"}
TRANSPOSED = {"deconv", "upconv", "convtranspose", "transpose", "transposed"}
LINEAR = {"v", "value", "wv", "o", "out", "wo", "dense", "gate", "up", "down", "fc", "mlp", "ffn", "wi"}
LINEAR |= {"proj", "projection", "projector", "project", "transform", "linear", "lin", "intermediate", "pooler"}
LINEAR |= {"head", "classifier", "score", "router", "decoder", "output", "outputs", "predictions", "relationship"}
LINEAR |= {"w1", "w2", "w3"}

WRAPPERS = ("base_layer", "original_module", "module", "_orig_mod")  # PEFT, DataParallel, torch.compile
WRAPPERS += ("_checkpoint_wrapped_module", "_fsdp_wrapped_module")
LORA = ("lora_A", "lora_B", "lora_E", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
LORA += ("trainable_tokens_delta",)  # PEFT's rows of an embedding, which it trains beside LoRA
OTHER_ADAPTERS = ("hada_", "lokr_", "ia3_", "oft_", "boft_", "vera_")  # PEFT's beginnings of names
_MADE_FROM = re.compile(r"(weight)_(g|v|orig)$|(bias)_orig$")  # weight_norm, spectral_norm, pruning


def tokens(name: str) -> set[str]:
    """The whole words of a name, and each without the number at its end: "pos_embed" has "pos", "fc1" has "fc"."""
    words = set(re.split(r"[._]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()))
    words |= {"qkv" for word in words if re.fullmatch(r"w?qkv[a-z]", word)}  # and a gate: "in_proj_qkvz"
    return {stem for word in words if (stem := word.rstrip("0123456789"))} | words


def speaks(words: set[str]) -> bool:
    """Whether the words are those of a layer that gives queries or keys."""
    about = words & (QUERY | KEY)
    return bool(about) and not words & (NORMS | EMBEDDINGS | TOKENS)


@dataclass(frozen=True)
class Name:
    """A parameter's name without what wraps its layer: "h.0.attn.q_proj.base_layer.weight" is the weight of "q_proj"."""

    holder: str  # the path of what holds the layer: "h.0.attn"
    layer: str  # "q_proj"; of parts[-1] itself where a module holds a parameter of another name
    own: str  # "weight" or "bias" (of a layer, or at the end: "q_proj_weight"); "" for any other parameter
    adapter: str = ""  # the word of LORA that it belongs to, or "other"
    multihead: bool = False  # nn.MultiheadAttention's "in_proj_weight" or "in_proj_bias"

    @property
    def exact(self) -> str:
        return self.layer.lower()

    @property
    def path(self) -> str:
        return f"{self.holder}.{self.layer}" if self.holder else self.layer

    @property
    def above(self) -> str:
        """The last part of the holder's path: the layer's own name where the layer has a number (nn.Sequential)."""
        return self.holder.rpartition(".")[2]


def read(name: str) -> Name:
    parts, adapter = name.split("."), ""
    if len(parts) > 3 and parts[-3] == "parametrizations" and parts[-1].startswith("original"):
        parts = [*parts[:-3], parts[-2]]
    for i, part in enumerate(parts[1:], 1):
        if part in LORA or part.startswith(OTHER_ADAPTERS):
            parts, adapter = [*parts[:i], "weight"], part if part in LORA else "other"
            break
    while "modules_to_save" in parts[:-2]:  # followed by the adapter's name
        i = parts.index("modules_to_save")
        parts = parts[:i] + parts[i + 2 :]
    parts = [part for part in parts[:-1] if part not in WRAPPERS] + parts[-1:]
    parts[-1] = _MADE_FROM.sub(r"\1\3", parts[-1])
    last, own, multihead = parts[-1], "", parts[-1] in ("in_proj_weight", "in_proj_bias")
    if len(parts) > 1 and last in ("weight", "bias"):
        parts, own = parts[:-1], last
    elif (kept := re.fullmatch(r"(.+)_(weight|bias)", last)) is not None:
        parts, own = [*parts[:-1], kept[1]], kept[2]
    return Name(".".join(parts[:-1]), parts[-1], own, adapter, multihead)
