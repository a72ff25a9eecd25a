"""What an optimizer keeps and what it computes, counted (claims M1 and G8).

    state_entries(rule, w)     numbers that a rule of this package keeps for a parameter, counted on its State
    operations(rule)           which elementwise operations one step of a rule does on arrays, counted as they run
    llama(), gpt2(), vit()     name -> shape of real models, names as in the library `transformers` 5
    Model.second_moments()     how many numbers Adam-mini's v has on a model, by `reference.adam_mini_partition`

Memory here is entries of optimizer state that grow with the model, all in one dtype. Not counted: parameters,
gradients, temporaries, the step's number, and what an allocator adds.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from reference.adam_mini import layout
from reference.adam_mini_partition import partition

Shapes = dict[str, tuple[int, ...]]


def state_entries(rule: ModuleType, w: np.ndarray, **hyper: Any) -> int:
    """Entries of all arrays in the State of `rule` after one step from w (numbers such as t are not arrays)."""
    _, state = rule.step(w, np.ones_like(w), rule.init(w), lr=0.1, **hyper)
    return sum(part.size for part in state if isinstance(part, np.ndarray | np.generic))


class _Counted(np.ndarray):
    """An array that notes each elementwise operation that it takes part in."""

    seen: ClassVar[Counter[str]] = Counter()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        _Counted.seen[ufunc.__name__] += 1
        plain = [x.view(np.ndarray) if isinstance(x, _Counted) else x for x in inputs]
        out = getattr(ufunc, method)(*plain, **kwargs)
        return out.view(_Counted) if isinstance(out, np.ndarray) else out


def operations(rule: ModuleType, **hyper: Any) -> Counter[str]:
    """NumPy's name of each operation on arrays in the second step of `rule` -> how often (no rule branches)."""
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(8).view(_Counted) for _ in range(2))
    w, state = rule.step(w, g, rule.init(w), lr=0.1, **hyper)
    _Counted.seen.clear()
    rule.step(w, g, state, lr=0.1, **hyper)
    return Counter(_Counted.seen)


@dataclass(frozen=True)
class Model:
    name: str
    shapes: Shapes  # each tensor once: a tied output layer is not repeated
    heads: int
    kv_heads: int
    roles: dict[str, str] = field(default_factory=dict)  # what `partition` cannot tell from the names

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def second_moments(self) -> int:
        """How many numbers Adam-mini keeps as v: the blocks of Algorithm 3."""
        table = partition(self.shapes, heads=self.heads, kv_heads=self.kv_heads, roles=self.roles)
        return sum(int(layout(self.shapes[name], blocks)[1].max()) + 1 for name, blocks in table.items())

    def v_removed(self) -> float:
        """The share of AdamW's v that Adam-mini does not keep."""
        return 1 - self.second_moments() / self.size

    def memory_saved(self) -> float:
        """The share of AdamW's state (m and v for each parameter) that Adam-mini (m, one v a block) does not keep."""
        return 1 - (self.size + self.second_moments()) / (2 * self.size)


def llama(
    name: str, *, vocab: int, width: int, mlp: int, layers: int, heads: int, kv_heads: int | None = None
) -> Model:
    """A Llama with an untied output layer and head dimension width / heads."""
    kv_heads = heads if kv_heads is None else kv_heads
    kv = width // heads * kv_heads
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, width)}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {at + "self_attn.q_proj.weight": (width, width), at + "self_attn.k_proj.weight": (kv, width)}
        shapes |= {at + "self_attn.v_proj.weight": (kv, width), at + "self_attn.o_proj.weight": (width, width)}
        shapes |= {at + "mlp.gate_proj.weight": (mlp, width), at + "mlp.up_proj.weight": (mlp, width)}
        shapes |= {at + "mlp.down_proj.weight": (width, mlp)}
        shapes |= {at + "input_layernorm.weight": (width,), at + "post_attention_layernorm.weight": (width,)}
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (vocab, width)}
    return Model(name, shapes, heads, kv_heads)


def gpt2(
    name: str, *, vocab: int = 50257, positions: int = 1024, width: int = 768, layers: int = 12, heads: int = 12
) -> Model:
    """A GPT-2: fused query, key, value; transposed weights (Conv1D); biases; learned positions; tied output layer."""
    shapes: Shapes = {"transformer.wte.weight": (vocab, width), "transformer.wpe.weight": (positions, width)}
    for i in range(layers):
        at = f"transformer.h.{i}."
        for part, into, out in (("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width)):
            shapes |= {f"{at}{part}.weight": (into, out), f"{at}{part}.bias": (out,)}
        for part, into, out in (("mlp.c_fc", width, 4 * width), ("mlp.c_proj", 4 * width, width)):
            shapes |= {f"{at}{part}.weight": (into, out), f"{at}{part}.bias": (out,)}
        shapes |= {f"{at}ln_{k}.{kind}": (width,) for k in (1, 2) for kind in ("weight", "bias")}
    shapes |= {"transformer.ln_f.weight": (width,), "transformer.ln_f.bias": (width,)}
    return Model(name, shapes, heads, heads)


def vit(
    name: str,
    *,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    patch: int = 16,
    image: int = 224,
    classes: int = 1000,
) -> Model:
    """A Vision Transformer for classification, with an MLP of 4 x width.

    Patch projection, class token and position table (1, places, width) are none of Algorithm 3's parts: a block each.
    """
    places = (image // patch) ** 2 + 1
    shapes: Shapes = {
        "vit.embeddings.cls_token": (1, 1, width),
        "vit.embeddings.position_embeddings": (1, places, width),
    }

    def linear(at: str, out: int, *into: int) -> Shapes:
        return {f"{at}.weight": (out, *into), f"{at}.bias": (out,)}

    shapes |= linear("vit.embeddings.patch_embeddings.projection", width, 3, patch, patch)
    for i in range(layers):
        at = f"vit.layers.{i}."
        for part in "qkvo":
            shapes |= linear(f"{at}attention.{part}_proj", width, width)
        shapes |= linear(f"{at}mlp.fc1", 4 * width, width) | linear(f"{at}mlp.fc2", width, 4 * width)
        shapes |= linear(f"{at}layernorm_before", width) | linear(f"{at}layernorm_after", width)
    shapes |= linear("vit.layernorm", width) | linear("classifier", classes, width)
    return Model(name, shapes, heads, heads, {f"classifier.{kind}": "output" for kind in ("weight", "bias")})


def models() -> list[Model]:
    """Published configurations, smallest first."""
    return [
        llama("Llama 60M", vocab=32000, width=512, mlp=1376, layers=8, heads=8),
        vit("ViT-B/16"),
        gpt2("GPT-2 124M"),
        llama("Llama 130M", vocab=32000, width=768, mlp=2048, layers=12, heads=12),
        llama("Llama 1B", vocab=32000, width=2048, mlp=5461, layers=24, heads=32),
        gpt2("GPT-2 1.5B", width=1600, layers=48, heads=25),
        llama("Llama-2 7B", vocab=32000, width=4096, mlp=11008, layers=32, heads=32),
        llama("Llama-3 8B", vocab=128256, width=4096, mlp=14336, layers=32, heads=32, kv_heads=8),
        llama("Llama-2 13B", vocab=32000, width=5120, mlp=13824, layers=40, heads=40),
    ]
