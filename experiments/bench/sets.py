"""What `experiments.bench` measures: sets of tensors, and the optimizers with what each cannot do without.

A contestant's `traffic` is the number of bytes a float32 parameter that no way of computing its step can do without: each tensor
is read once and written once. AdamW reads param, grad and two averages and writes all but grad: 28. Lion has one average,
AdamMini one and a number for a row: 20. The Cautious scale counts a whole tensor's mask before the first entry can move, so grad
and exp_avg are read once more (a tensor that fits into the cache is spared that). Adams moves AdamW's 28; W^T u, which it takes
before anything else, reads each matrix once more, 32, unless the matrix is still in the cache.

Its `state` is the number of bytes that the algorithm must remember for float32 parameters of given shapes. Ours keep a
4-byte count of steps for each parameter besides.

AdamMini gets the blocks that a model of these tensors has: Llama's by their names (queries and keys by head), of a network with
convolutions one for each tensor (Algorithm 2), and else by rows.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

import fast

Shape = tuple[int, ...]
STEP = 4  # bytes of a parameter's own count of steps


def llama_60m() -> list[Shape]:
    """Llama-60M: 58.1 M parameters in 75 tensors."""
    layer = [(512, 512)] * 4 + [(1376, 512)] * 2 + [(512, 1376), (512,), (512,)]
    return [(32000, 512), *(layer * 8), (512,), (32000, 512)]


def llama_names() -> list[str]:
    """Their names, as a model has them."""
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    layer = [*attention, *(f"mlp.{name}_proj" for name in ("gate", "up", "down")), "input_layernorm"]
    layers = [f"model.layers.{i}.{name}" for i in range(8) for name in (*layer, "post_attention_layernorm")]
    return [f"{name}.weight" for name in ("model.embed_tokens", *layers, "model.norm", "lm_head")]


def wide_resnet_50_2() -> list[Shape]:
    """WideResNet-50-2 for ten classes: 66.9 M parameters, convolutions, batch norms and one linear layer."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for blocks, width in ((3, 128), (4, 256), (6, 512), (3, 1024)):
        outputs = 2 * width
        for block in range(blocks):
            convs = [(width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)]
            convs += [(outputs, inputs, 1, 1)] if block == 0 else []
            for conv in convs:
                shapes += [conv, conv[:1], conv[:1]]
            inputs = outputs
    return [*shapes, (10, inputs), (10,)]


SETS: dict[str, Callable[[], list[Shape]]] = {
    "llama-60m": llama_60m,
    "wide-resnet-50-2": wide_resnet_50_2,
    "small-2000": lambda: [(1000,)] * 2000,
    # for a first look and for tests, in seconds: a Transformer's layer of 3.1 M parameters, and one tensor of each kind
    "one-layer": lambda: [(1000, 512), *([(512, 512)] * 4), (2048, 512), (512, 1024), (512,), (512,)],
    "one-of-each": lambda: [(96, 64), (64,), (3, 40, 24), (32, 16, 3, 3), (16, 8, 1, 1), (1, 50), (5,), *[(48,)] * 9],
}
LARGE = ("llama-60m", "wide-resnet-50-2", "small-2000")


@dataclass(frozen=True)
class Contestant:
    """How to make an optimizer, and the head's two numbers."""

    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    traffic: int
    state: Callable[[Sequence[Shape]], int]


def _summed(one: Callable[[Shape], int]) -> Callable[[Sequence[Shape]], int]:
    return lambda shapes: sum(map(one, shapes))


@_summed
def _one_average(shape: Shape) -> int:
    return 4 * prod(shape) + STEP


@_summed
def _two_averages(shape: Shape) -> int:
    return 8 * prod(shape) + STEP


@_summed
def _two_averages_alone(shape: Shape) -> int:
    return 8 * prod(shape)  # the count is a Python int


def _numbers_for_blocks(shapes: Sequence[Shape]) -> int:
    heads = (
        16 if list(shapes) == llama_60m() else 0
    )  # its matrices of queries and keys have 8 numbers, not one for a row
    rows = all(len(s) < 4 for s in shapes)
    numbers = [s[0] if rows and len(s) > 1 else 1 for s in shapes]
    return 4 * (sum(map(prod, shapes)) + sum(numbers) - heads * (512 - 8)) + STEP * len(shapes)


@_summed
def _numbers_for_rows_of_matrices(shape: Shape) -> int:
    return 4 * (prod(shape) + (shape[0] if len(shape) == 2 else 1))


@_summed
def _u_and_sigma(shape: Shape) -> int:
    matrices = len(shape) > 1 and 1 not in shape[-2:]
    return _two_averages([shape]) + (4 * (prod(shape[:-1]) + prod(shape[:-2])) if matrices else 0)


def _released_grams(params: list[Any]) -> torch.optim.Optimizer:
    from grams import Grams

    return Grams(params, lr=1e-3)


def _released_adams(params: list[Any]) -> torch.optim.Optimizer:
    from adams import Adams_ZeRO

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a world of one process
        return Adams_ZeRO(params)


def _released_adam_mini(params: list[Any]) -> torch.optim.Optimizer:
    from adam_mini import Adam_mini

    # it tells a parameter's blocks by its name: rows of matrices, one block for everything else
    named = [(f"{'mlp' if p.ndim == 2 else 'norm'}.{i}.weight", p) for i, p in enumerate(params)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints each name
        return Adam_mini(named, dim=512, n_heads=8, verbose=False)


def by_rows(name: str, param: Tensor) -> str:
    """The blocks of a Transformer's matrices without its names: one for a row, and one for each vector."""
    return "rows" if param.ndim > 1 else "tensor"


def adam_mini(params: Sequence[Tensor], **options: Any) -> fast.AdamMini:
    """AdamMini with the head's blocks."""
    shapes = [tuple(p.shape) for p in params]
    if shapes == llama_60m():
        return fast.AdamMini(list(zip(llama_names(), params, strict=True)), heads=8, **options)
    if any(len(shape) > 3 for shape in shapes):
        return fast.AdamMini(list(params), partition=lambda name, param: "tensor", **options)
    return fast.AdamMini(list(params), partition=by_rows, **options)


BASE = "AdamW fused"
LIMIT = "memory limit"
CONTESTANTS: dict[str, Contestant] = {
    BASE: Contestant(lambda p: torch.optim.AdamW(p, fused=True), 28, _two_averages),
    "AdamW foreach": Contestant(lambda p: torch.optim.AdamW(p, foreach=True), 28, _two_averages),
    "Grams": Contestant(lambda p: fast.Grams(p), 28, _two_averages),
    "Lion": Contestant(lambda p: fast.Lion(p), 20, _one_average),
    "CautiousAdamW": Contestant(lambda p: fast.CautiousAdamW(p), 36, _two_averages),
    "CautiousLion": Contestant(lambda p: fast.CautiousLion(p), 28, _one_average),
    "AdamMini": Contestant(adam_mini, 20, _numbers_for_blocks),
    "Adams": Contestant(lambda p: fast.Adams(p), 28, _u_and_sigma),
    "Grams eager": Contestant(lambda p: fast.Grams(p, compile=False), 28, _two_averages),
    "Grams released": Contestant(_released_grams, 28, _two_averages_alone),
    "Adams released": Contestant(_released_adams, 28, _u_and_sigma),
    "AdamMini released": Contestant(_released_adam_mini, 20, _numbers_for_rows_of_matrices),
}
COMPILED = ("Grams", "Lion", "CautiousAdamW", "CautiousLion", "AdamMini", "Adams")


def make(shapes: list[Shape], seed: int = 0) -> list[Tensor]:
    """Parameters of these shapes with gradients, both drawn from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    params = []
    for shape in shapes:
        param = torch.nn.Parameter(torch.randn(shape, generator=generator))
        param.grad = torch.randn(shape, generator=generator) * 1e-2
        params.append(param)
    return params
