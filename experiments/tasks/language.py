"""A Llama or GPT-2 from new weights on a tokenised corpus, and its held-out perplexity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.tasks.sources import HUB_BYTES
from experiments.tasks.tokens import Batches, Corpus, cut, load
from fast.partition.extras import needs

ARCHITECTURES = ("llama", "gpt2")


class Held(NamedTuple):
    """`loss`: nats a token. `perplexity`: exp(loss), which depends on the tokenizer; `bits_per_byte` does not.

    `val_loss`, `test_loss`: of every second window, from the first and from the second on (of one window: both its loss).
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int
    val_loss: float
    test_loss: float


def build(
    *, vocab: int, hidden: int, layers: int, heads: int, context: int, seed: int, architecture: str = "llama"
) -> nn.Module:
    """A `LlamaForCausalLM`, or with "gpt2" a `GPT2LMHeadModel`, with new weights, the same for one seed. Nothing is downloaded.

    As in Llama: rotary positions, RMS norms, SwiGLU of width 8/3 `hidden` (rounded up to a multiple of 32), and an
    embedding and a head of their own. As in GPT-2: learnt positions, biases, a head tied to the embedding; no dropout.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r}: expected one of {', '.join(ARCHITECTURES)}")
    if hidden % heads or (hidden // heads) % 2:
        raise ValueError(
            f"--hidden {hidden} --heads {heads}: a head's width hidden / heads must be a whole, even number"
        )
    with needs("experiments", "the language model"):
        from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
    gpt2 = GPT2Config(
        vocab_size=vocab,
        n_embd=hidden,
        n_layer=layers,
        n_head=heads,
        n_positions=context,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=None,  # else the tokens of its own vocabulary
        eos_token_id=None,
    )
    llama = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=math.ceil(8 * hidden / 3 / 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        use_cache=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(llama) if architecture == "llama" else GPT2LMHeadModel(gpt2)


def next_token_loss(model: nn.Module, inputs: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Cross entropy in nats of the next token; `inputs` and `targets` (batch, context)."""
    logits = model(input_ids=inputs).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction)


@torch.no_grad()
def evaluate(model: nn.Module, corpus: Corpus, *, context: int, windows: int, batch: int = 16) -> Held:
    """Loss on at most `windows` windows of the held-out text, evenly spaced over it: the same ones at every call.

    The bits per byte divide by the bytes of the predicted tokens; predicting `end` costs bits and has no bytes.
    """
    there = (len(corpus.held_out) - 1) // context
    if there < 1:
        raise ValueError(
            f"the held-out text has {len(corpus.held_out)} tokens, fewer than one window of {context}: give more text"
        )
    chosen = np.unique(np.linspace(0, there - 1, min(windows, there)).astype(np.int64))
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    nats, size = [], 0
    for first in range(0, len(chosen), batch):
        inputs, targets = cut(corpus.held_out, chosen[first : first + batch], context)
        each = next_token_loss(model, inputs.to(device), targets.to(device), reduction="none")
        nats += each.cpu().double().view(targets.shape).mean(1).tolist()
        size += int(corpus.token_bytes[targets.numpy()].sum())
    model.train(training)
    loss, tokens = sum(nats) / len(nats), len(nats) * context
    halves = [sum(half) / len(half) for half in (nats[::2], nats[1::2] or nats)]
    return Held(loss, math.exp(min(loss, 700.0)), loss * tokens / math.log(2) / size, tokens, size, *halves)


class Language:
    """Options: a corpus (or what `tokens.load` takes to get one) and the model's shape. A batch is that many windows."""

    name = "language"

    def __init__(
        self,
        corpus: Corpus | None = None,
        *,
        data: str = "stdlib",
        vocab: int = 1024,
        cache: Path | str = Path("runs/cache"),
        context: int = 64,
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        eval_windows: int = 256,
        architecture: str = "llama",
        hub_bytes: int = HUB_BYTES,
    ) -> None:
        self._corpus = load(data, vocab=vocab, cache=Path(cache), hub_bytes=hub_bytes) if corpus is None else corpus
        self._shape: dict[str, Any] = {"hidden": hidden, "layers": layers, "heads": heads, "context": context}
        self._shape |= {} if architecture == "llama" else {"architecture": architecture}
        self.size: dict[str, Any] = self._shape | {"eval_windows": eval_windows}
        self.facts = self._corpus.facts

    def model(self, seed: int) -> nn.Module:
        return build(vocab=self._corpus.vocab, seed=seed, **self._shape)

    def source(self, batch: int, seed: int) -> Batches:
        return Batches(self._corpus.train, context=self.size["context"], batch=batch, seed=seed)

    def loss(self, model: nn.Module, source: Batches, step: int) -> Tensor:
        device = next(model.parameters()).device
        inputs, targets = (x.to(device) for x in source(step))
        return next_token_loss(model, inputs, targets)

    def evaluate(self, model: nn.Module, seed: int) -> dict[str, float]:
        context, windows = self.size["context"], self.size["eval_windows"]
        return evaluate(model, self._corpus, context=context, windows=windows)._asdict()
