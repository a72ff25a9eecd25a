"""AdamMini with every kind of block against the reference, in parameters and state, over 200 steps.

The contract tests walk AdamMini with one block a tensor. Here a tensor is cut by rows, columns, heads, slabs in the middle,
fused projections and stacks of matrices: each by hand into what the reference takes, whose blocks cut the first or the last
axis of one matrix. Gradients differ in size from entry to entry, so that a mean over the wrong entries is another number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from twin import array, error, give, parameters

from fast import AdamMini, Blocks, partition
from reference import adam_mini

Rearrange = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Cut:
    """A tensor's blocks as ours has them, and as the reference takes them of the rearranged tensor."""

    rule: Any
    shape: tuple[int, ...]
    blocks: Any
    arrange: Rearrange = lambda w: w
    back: Rearrange = lambda w: w


def middle_first(w: np.ndarray) -> np.ndarray:
    return np.moveaxis(w, 1, 0)


CUTS = {
    "tensor": Cut("tensor", (33, 20), "tensor"),
    "scalar": Cut("tensor", (), "tensor"),
    "rows": Cut("rows", (33, 20), "rows"),
    "a bias by rows": Cut("rows", (33,), "rows"),
    "columns": Cut("columns", (20, 33), "columns"),
    "heads": Cut(("heads", 4), (24, 20), ("heads", 4)),
    "fewer heads of the key": Cut(("heads", 2), (12, 20), ("heads", 2)),
    "a bias by heads": Cut(("heads", 4), (24,), ("heads", 4)),
    "heads of columns": Cut(("heads", 4, 1), (20, 24), [("column_heads", 24, 4)]),
    "a bias of [q|k|v]": Cut(
        Blocks((32,), "fused", 0, ((4, 4), (2, 4), (8, 1))), (32,), [("heads", 16, 4), ("heads", 8, 2), ("rows", 8, 8)]
    ),
    "[q|k|v] with fewer heads of the key": Cut(
        Blocks((32, 20), "fused", 0, ((4, 4), (2, 4), (8, 1))),
        (32, 20),
        [("heads", 16, 4), ("heads", 8, 2), ("rows", 8, 8)],
    ),
    "[q|k|v] by column": Cut(
        Blocks((20, 36), "fused", 1, ((4, 6), (12, 1))), (20, 36), [("column_heads", 24, 4), ("columns", 12, 12)]
    ),
    "[head][q|k|v]": Cut(
        Blocks((48, 20), "fused", 0, ((2, 4), (4, 1)), 4), (48, 20), [("heads", 8, 2), ("rows", 4, 4)] * 4
    ),
    "a convolution by rows": Cut("rows", (8, 4, 3, 5), "rows"),
    "groups of a convolution": Cut(Blocks((8, 3, 3, 5), "groups", 0, ((2, 4),)), (8, 3, 3, 5), ("heads", 2)),
    "the middle axis": Cut(Blocks.along((3, 7, 5), 1), (3, 7, 5), "rows", middle_first, middle_first),
    "heads of the middle axis": Cut(
        Blocks.heads((3, 12, 5), 4, axis=1), (3, 12, 5), ("heads", 4), middle_first, middle_first
    ),
    "experts": Cut(
        Blocks.along((3, 7, 5), 1, batch=1), (3, 7, 5), "rows", lambda w: w.reshape(21, 5), lambda w: w.reshape(3, 7, 5)
    ),
    "experts transposed": Cut(
        Blocks.along((3, 5, 7), 2, "columns", batch=1),
        (3, 5, 7),
        "rows",
        lambda w: w.swapaxes(1, 2).reshape(21, 5),
        lambda w: w.reshape(3, 7, 5).swapaxes(1, 2),
    ),
    "experts of [head][q|k|v]": Cut(
        Blocks((2, 12, 5), "fused", 1, ((1, 4), (2, 1)), 2, 1),
        (2, 12, 5),
        [("heads", 4, 1), ("rows", 2, 2)] * 4,
        lambda w: w.reshape(24, 5),
        lambda w: w.reshape(2, 12, 5),
    ),
    **{f"small, number {i}": Cut(("heads", 3), (12, 6), ("heads", 3)) for i in range(17)},
}
OPTIONS: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.3}


def drawn(step: int, shapes: list[tuple[int, ...]]) -> list[Tensor | None]:
    """Gradients in float32, of sizes between a tenth and ten that each entry keeps; one in five is missing."""
    sizes, noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1000 + step)
    out: list[Tensor | None] = []
    for shape in shapes:
        g = torch.exp(torch.randn(shape, generator=sizes)) * torch.randn(shape, generator=noise)
        out.append(None if float(torch.rand((), generator=noise)) < 0.2 else g)
    return out


def rate(step: int) -> float:
    return 5e-3 * (1 + 0.5 * math.sin(step))


@pytest.fixture(scope="module")
def followed() -> list[tuple[np.ndarray, adam_mini.State]]:
    """The reference's parameters and states after 200 steps, from the same float32 numbers."""
    shapes = [cut.shape for cut in CUTS.values()]
    ws = [cut.arrange(array(p)) for cut, p in zip(CUTS.values(), parameters(shapes), strict=True)]
    states = [adam_mini.init(w) for w in ws]
    for step in range(200):
        for i, (cut, g) in enumerate(zip(CUTS.values(), drawn(step, shapes), strict=True)):
            if g is not None:
                numbers = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0.3, "blocks": cut.blocks}
                ws[i], states[i] = adam_mini.step(
                    ws[i], cut.arrange(g.double().numpy()), states[i], lr=rate(step), **numbers
                )
    return list(zip(ws, states, strict=True))


@pytest.mark.parametrize(
    ("dtype", "bound", "compile", "part"),
    [
        (torch.float64, 1e-12, False, None),
        (torch.float64, 1e-12, False, 20),
        (torch.float64, 1e-12, False, 50),
        (torch.float64, 1e-12, True, None),
        (torch.float32, 2e-6, False, None),
        (torch.float32, 2e-6, True, None),
        (torch.float32, 2e-6, True, 20),
    ],
)
def test_every_kind_of_block_agrees_with_the_reference(
    followed: list[tuple[np.ndarray, adam_mini.State]],
    dtype: torch.dtype,
    bound: float,
    compile: bool,
    part: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`part`: entries that are worked on at a time on a CPU, so few that blocks of each kind come in several parts.

    With 50 the three small heads come in parts of two: the last is a shorter one.
    """
    if part:
        monkeypatch.setattr("fast.adam_mini.adam_mini.PART", part)
    shapes = [cut.shape for cut in CUTS.values()]
    params = parameters(shapes, dtype)
    rules = {f"p{i}.": cut.rule for i, cut in enumerate(CUTS.values())}
    optimizer = AdamMini(
        [(name, p) for name, p in zip(rules, params, strict=True)], **OPTIONS, partition=rules, compile=compile
    )
    for step in range(200):
        optimizer.param_groups[0]["lr"] = rate(step)
        give(params, drawn(step, shapes))
        optimizer.step()
    for (name, cut), p, (w, state) in zip(CUTS.items(), params, followed, strict=True):
        ours = optimizer.state[p]
        found = {
            "param": error(p, cut.back(w)),
            "exp_avg": error(ours["exp_avg"], cut.back(state.m)),
            "exp_avg_sq": error(ours["exp_avg_sq"], state.v),
        }
        assert max(found.values()) <= bound, f"{name}: {found}"
        assert int(ours["step"]) == state.t > 100


def test_each_way_to_cut_gives_other_numbers(followed: list[tuple[np.ndarray, adam_mini.State]]) -> None:
    """What makes the comparison one: with one block for the tensor, each of these parameters would be another."""
    shapes = [cut.shape for cut in CUTS.values()]
    params = parameters(shapes, torch.float64)
    optimizer = AdamMini(params, **OPTIONS, compile=False)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = rate(step)
        give(params, drawn(step, shapes))
        optimizer.step()
    for (name, cut), p, (w, _) in zip(CUTS.items(), params, followed, strict=True):
        assert (error(p, cut.back(w)) < 1e-12) == (cut.blocks == "tensor"), name


def test_a_grouped_query_layer_of_a_model_agrees_with_the_reference() -> None:
    """The blocks as `fast.partition` itself reads them, of 4 query heads and 2 key heads: 50 steps."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model: nn.Module = transformers.LlamaForCausalLM(config).double()
    by_hand: dict[str, Any] = {"q_proj": ("heads", 4), "k_proj": ("heads", 2), "norm": "tensor", "layernorm": "tensor"}
    params = dict(model.named_parameters())
    optimizer = AdamMini(params.items(), lr=0.01, partition=partition(model), weight_decay=0.1, compile=False)
    ws = {n: array(p) for n, p in params.items()}
    states = {n: adam_mini.init(w) for n, w in ws.items()}
    for step in range(50):
        grads = [g for g in map(grad_like(step), params.values())]
        give(list(params.values()), grads)
        optimizer.step()
        for n, g in zip(params, grads, strict=True):
            blocks = next((b for word, b in by_hand.items() if word in n), "rows")
            ws[n], states[n] = adam_mini.step(
                ws[n], array(g), states[n], lr=0.01, beta2=0.95, weight_decay=0.1, blocks=blocks
            )
    for n, p in params.items():
        assert error(p, ws[n]) <= 1e-12, n
        assert error(optimizer.state[p]["exp_avg_sq"], states[n].v) <= 1e-12, n


def grad_like(step: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(step)
    return lambda p: torch.randn(p.shape, dtype=p.dtype, generator=generator)
