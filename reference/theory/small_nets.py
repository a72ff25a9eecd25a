"""Two small networks on real data, and their exact Hessians (claim M3).

digits_mlp()         an MLP on scikit-learn's digits (8 x 8 pixels, 10 classes)
zen_transformer()    a one-layer Transformer that predicts the next character of the Zen of Python
train(net, ...)      Adam of `reference.adam`, whole batch; the weights at the steps asked for
hessian(net, w)      the exact Hessian, (n, n), in float64
"""

from __future__ import annotations

import ast
import codecs
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from reference import adam
from reference.extras import needs

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Net:
    """A differentiable loss of named tensors."""

    name: str
    loss: Callable[[Mapping[str, Tensor]], Tensor]  # named tensors -> scalar, nats for each prediction
    init: Weights  # float64
    heads: int  # attention heads; 0: no attention

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(w.shape) for name, w in self.init.items()}

    def pack(self, w: Mapping[str, Tensor]) -> Tensor:
        """Named tensors -> one vector (n,), in the order of `shapes`, each tensor row by row."""
        return torch.cat([w[name].reshape(-1) for name in self.shapes])

    def unpack(self, flat: Tensor) -> Weights:
        """The inverse of `pack`."""
        parts = torch.split(flat, [math.prod(s) for s in self.shapes.values()])
        return {name: part.reshape(s) for part, (name, s) in zip(parts, self.shapes.items(), strict=True)}


def start(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Weights:
    """Biases 0, norms 1, matrices Gaussian with variance 1 / inputs (embeddings 1 / width)."""
    rng = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            return (torch.ones if "norm" in name else torch.zeros)(shape, dtype=torch.float64)
        return torch.randn(shape, generator=rng, dtype=torch.float64) / math.sqrt(shape[1])

    return {name: draw(name, shape) for name, shape in shapes.items()}


def digits_mlp(hidden: int = 16, classes: int = 10, samples: int = 500, seed: int = 0) -> Net:
    """16 inputs -> `hidden` tanh units -> `classes`, cross entropy on scikit-learn's digits below `classes`.

    The first `samples` of them. Pixels are averaged in 2 x 2 squares and lie in [0, 1], so that the exact Hessian stays
    small. Needs scikit-learn.
    """
    if not 2 <= classes <= 10:
        raise ValueError(f"classes must be 2 to 10 (there are ten digits), got {classes}")
    with needs("theory", "mlp"):
        from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    keep = np.flatnonzero(labels < classes)[:samples]
    squares = images[keep].reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16) / 16
    x, y = torch.tensor(squares, dtype=torch.float64), torch.tensor(labels[keep], dtype=torch.int64)

    def loss(w: Mapping[str, Tensor]) -> Tensor:
        z = torch.tanh(x @ w["hidden.weight"].T + w["hidden.bias"])
        return torch.nn.functional.cross_entropy(z @ w["output.weight"].T + w["output.bias"], y)

    shapes = {
        "hidden.weight": (hidden, 16),
        "hidden.bias": (hidden,),
        "output.weight": (classes, hidden),
        "output.bias": (classes,),
    }
    return Net("MLP on digits", loss, start(shapes, seed), heads=0)


def zen_of_python() -> str:
    """Tim Peters' twenty aphorisms, from the source of the module `this`: lower-case letters and single spaces."""
    spec = find_spec("this")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the standard library's module `this` has no source file here; install Python with its sources"
        )
    module = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))  # read, since importing it prints the text
    secret = next(s.value.value for s in module.body if isinstance(s, ast.Assign) and isinstance(s.value, ast.Constant))
    letters = "".join(c if c.isalpha() else " " for c in codecs.decode(str(secret), "rot13").lower())
    return " ".join(letters.split())


def zen_transformer(width: int = 8, heads: int = 2, context: int = 12, seed: int = 0) -> Net:
    """Token and position embeddings, causal attention, a GELU MLP of 2 x width, RMS norms, an untied output layer.

    Loss: cross entropy of the next character at each of `context` places of each window of the text. Names as in Llama.
    """
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got width {width} and heads {heads}")
    text = zen_of_python()
    symbols = sorted(set(text))
    ids = torch.tensor([symbols.index(c) for c in text])
    windows = ids[: (len(ids) - 1) // context * context].reshape(-1, context)
    targets = ids[1 : windows.numel() + 1].reshape(-1)
    future = torch.ones(context, context, dtype=torch.bool).triu(1)
    layer = "model.layers.0."

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        return scale * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)

    def loss(w: Mapping[str, Tensor]) -> Tensor:
        x = w["model.embed_tokens.weight"][windows] + w["model.embed_positions.weight"]
        h = norm(x, w[layer + "input_layernorm.weight"])
        q, k, v = (  # (windows, heads, context, width / heads)
            (h @ w[f"{layer}self_attn.{p}_proj.weight"].T).unflatten(-1, (heads, -1)).transpose(1, 2) for p in "qkv"
        )
        scores = (q @ k.transpose(-1, -2) / math.sqrt(width // heads)).masked_fill(future, -math.inf)
        mixed = (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)
        x = x + mixed @ w[layer + "self_attn.o_proj.weight"].T
        h = norm(x, w[layer + "post_attention_layernorm.weight"])
        x = x + torch.nn.functional.gelu(h @ w[layer + "mlp.up_proj.weight"].T) @ w[layer + "mlp.down_proj.weight"].T
        logits = norm(x, w["model.norm.weight"]) @ w["lm_head.weight"].T
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)

    square, n = (width, width), len(symbols)
    shapes = {"model.embed_tokens.weight": (n, width), "model.embed_positions.weight": (context, width)}
    shapes |= {layer + "input_layernorm.weight": (width,)} | {
        f"{layer}self_attn.{p}_proj.weight": square for p in "qkvo"
    }
    shapes |= {layer + "post_attention_layernorm.weight": (width,)}
    shapes |= {layer + "mlp.up_proj.weight": (2 * width, width), layer + "mlp.down_proj.weight": (width, 2 * width)}
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (n, width)}
    return Net("one-layer Transformer on the Zen of Python", loss, start(shapes, seed), heads)


def train(net: Net, steps: Sequence[int], lr: float = 0.01) -> dict[int, Weights]:
    """Adam with default betas on the whole batch; the weights after each number of `steps` (0: the start)."""
    flat = net.pack(net.init)
    state, gradient, kept = adam.init(flat), grad(lambda x: net.loss(net.unpack(x))), {}
    for t in range(max(steps) + 1):
        if t in steps:
            kept[t] = net.unpack(flat)
        flat, state = adam.step(flat, gradient(flat), state, lr=lr)
    return kept


def hessian(net: Net, w: Mapping[str, Tensor], tensor: str | None = None, chunk: int = 128) -> np.ndarray:
    """The exact Hessian (n, n) of net.loss at w: the gradient's vector-Jacobian products, `chunk` rows at a time.

    tensor: of this tensor's n entries alone, the others held fixed.
    """
    if tensor is None:
        flat, f = net.pack(w), lambda x: net.loss(net.unpack(x))
    else:
        shape = net.shapes[tensor]
        flat, f = w[tensor].reshape(-1), lambda x: net.loss({**w, tensor: x.reshape(shape)})
    pull = vjp(grad(f), flat)[1]
    rows = vmap(lambda e: pull(e)[0], chunk_size=chunk)(torch.eye(flat.numel(), dtype=flat.dtype))
    h = rows.detach().numpy()
    return (h + h.T) / 2  # equal up to rounding
