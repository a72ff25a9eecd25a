"""Steps that need a number of the whole tensor, on shards: each way to cut gives what one process gives.

tests/engine/test_contract_distributed.py holds all optimizers to the reference on shards of few shapes. Here AdamMini's blocks are
held to it, in all their kinds and cut by the shards' borders, and the others to their own runs on whole tensors.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from blocks_by_hand import Attention
from processes import run_in_processes
from sharded import agree, alike_everywhere, distributed
from test_adam_mini_blocks import CUTS, OPTIONS, drawn
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from twin import array, error, parameters

import fast
from reference import adam_mini

KINDS = {name: cut for name, cut in CUTS.items() if cut.shape and not name.startswith("small")}


def kinds_of_blocks(axis: int) -> None:
    """Three processes: heads lie across borders, shards are uneven, and of stacks of two matrices one is empty."""
    mesh = init_device_mesh("cpu", (3,))
    shapes = [cut.shape for cut in KINDS.values()]
    whole = parameters(shapes, torch.float64)
    params = distributed(whole, mesh, [[Shard(axis % len(shape))] for shape in shapes])
    rules = {f"p{i}.": cut.rule for i, cut in enumerate(KINDS.values())}
    optimizer = fast.AdamMini(list(zip(rules, params, strict=True)), lr=5e-3, **OPTIONS, partition=rules, compile=False)
    ws = [cut.arrange(array(p)) for cut, p in zip(KINDS.values(), whole, strict=True)]
    states = [adam_mini.init(w) for w in ws]
    numbers = {"lr": 5e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0.3}
    for step in range(10):
        grads = drawn(step, shapes)
        for p, g in zip(params, grads, strict=True):
            p.grad = g if g is None else distribute_tensor(g.double(), mesh, p.placements)
        optimizer.step()
        for i, (cut, g) in enumerate(zip(KINDS.values(), grads, strict=True)):
            if g is not None:
                g = cut.arrange(g.double().numpy())
                ws[i], states[i] = adam_mini.step(ws[i], g, states[i], **numbers, blocks=cut.blocks)
    for (name, cut), p, w, state in zip(KINDS.items(), params, ws, states, strict=True):
        ours = optimizer.state[p]
        assert alike_everywhere(ours["exp_avg_sq"])
        found = {
            "param": error(p, cut.back(w)),
            "exp_avg": error(ours["exp_avg"], cut.back(state.m)),
            "exp_avg_sq": error(ours["exp_avg_sq"], state.v),
        }
        assert max(found.values()) <= 1e-12, f"{name}: {found}"


@pytest.mark.parametrize("axis", [0, -1])
def test_every_kind_of_block_is_the_reference_s_on_shards(axis: int, tmp_path: Path) -> None:
    run_in_processes(3, tmp_path, kinds_of_blocks, axis)


def a_module() -> None:
    """Adam-mini 25 in small: 7 heads and 1 key head of 2 rows on two processes; a fused projection, rows, a norm."""
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(
        nn.Embedding(5, 6),
        Attention(14, 2, num_heads=7, num_key_value_heads=1),
        nn.MultiheadAttention(6, 3),
        nn.LayerNorm(6),
        nn.Linear(6, 1),
    )
    for p, value in zip(model.parameters(), parameters([tuple(p.shape) for p in model.parameters()]), strict=True):
        p.data = value.detach()
    whole = list(model.parameters())
    table = fast.partition(model)
    named: dict[str, Any] = {name: entry.blocks for name, entry in table.items()}
    assert named["1.q_proj.weight"].state_shape == (7,) and named["1.k_proj.weight"].state_shape == (1,)
    blocks = [b.to_plain() for b in named.values()]
    one = fast.AdamMini(model, compile=False)
    assert [tuple(b) for b in one.param_groups[0]["blocks"]] == blocks
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    agree(partial(mini, blocks=blocks, lr=0.01, compile=False), whole, list(model.parameters()), 1e-5)


def mini(params: list[Any], blocks: list[Any] | None = None, **options: Any) -> fast.AdamMini:
    """With blocks by row if nothing else is said."""
    blocks = blocks or [fast.Blocks.along(p.shape, 0) for p in params]
    return fast.AdamMini([{"params": params, "blocks": blocks}], **options)


MATRICES: list[tuple[tuple[int, ...], list[Any]]] = [
    *(((5, 4), [Shard(axis)]) for axis in (0, 1)),
    *(((1, 3), [Shard(0)]), ((7,), [Shard(0)]), ((6, 130), [Shard(1)])),
    *(((3, 5, 4), [Shard(axis)]) for axis in (0, 1, 2)),
    *(((2, 1, 3, 2), [Shard(axis)]) for axis in (0, 1, 2, 3)),
    ((4, 3), [Replicate()]),
]
OTHERS: list[tuple[Any, dict[str, Any], torch.dtype, float]] = [
    *((fast.Adams, {"flatten_kernels": flat}, torch.float64, 1e-12) for flat in (False, True)),
    (fast.Adams, {"as_released": True, "maximize": True}, torch.float64, 1e-12),
    (fast.Adams, {"as_released": True, "weight_decay": 0.0}, torch.float64, 1e-12),
    (fast.Adams, {}, torch.bfloat16, 1e-5),
    *((kind, {}, dtype, 1e-5) for kind in (fast.AdamMini, mini) for dtype in (torch.bfloat16, torch.complex64)),
    *(
        (kind, {"rescale": rule, "maximize": rule == "mean"}, torch.float64, 1e-12)
        for kind, rule in product((fast.CautiousAdamW, fast.CautiousLion), ("count", "mean", "none"))
    ),
    (fast.CautiousAdamW, {"exp_avg_dtype": torch.bfloat16}, torch.bfloat16, 1e-5),
    (fast.CautiousLion, {"exp_avg_dtype": torch.bfloat16}, torch.float32, 1e-5),
    (fast.CautiousAdamW, {}, torch.complex64, 1e-5),
    (fast.Grams, {"capturable": True}, torch.float64, 1e-12),
    *(
        (kind, {"capturable": True}, torch.float64, 1e-12)
        for kind in (fast.Adams, fast.AdamMini, fast.CautiousAdamW, fast.CautiousLion)
    ),
]


def all_others() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for kind, options, dtype, bound in OTHERS:
        whole = parameters([shape for shape, _ in MATRICES], dtype)
        parts = distributed(whole, mesh, [placements for _, placements in MATRICES])
        agree(partial(kind, lr=0.01, compile=False, **options), whole, parts, bound)
    a_zero_matrix(mesh)
    weights_from_elsewhere(mesh)


def a_zero_matrix(mesh: Any) -> None:
    """u is seeded again where W v is zero in all of its parts: not where it is in one of them."""
    for axis, left, released in product((0, 1), (0.0, 1.0), (False, True)):
        whole = parameters([(4, 4)], torch.float64)
        with torch.no_grad():
            whole[0][:2] *= 0 if axis == 0 else left
            whole[0][:, :2] *= 0 if axis == 1 else left
            whole[0][2:, 2:] *= left
        make = partial(fast.Adams, lr=0.01, as_released=released, compile=False)
        agree(make, whole, distributed(whole, mesh, [[Shard(axis)]]), 1e-12, 3)


def weights_from_elsewhere(mesh: Any) -> None:
    """The power iteration, too, is on what somebody else has written since the last step, not on the master of before."""
    whole = parameters([(4, 6)], torch.bfloat16)
    parts = distributed(whole, mesh, [[Shard(0)]])
    made = {id(params): fast.Adams(params, lr=0.01, compile=False) for params in (whole, parts)}
    for written in parameters([(4, 6)] * 2, torch.bfloat16, seed=1):
        with torch.no_grad():
            whole[0].copy_(written)
            parts[0].copy_(distribute_tensor(written.detach(), mesh, [Shard(0)]))
        agree(lambda params: made[id(params)], whole, parts, 1e-5, 1)


def rounds() -> None:
    """One collective a step for a whole model in two groups, and for Adams one for each sum that the next one needs."""
    mesh = init_device_mesh("cpu", (2,))
    expected: list[tuple[Any, tuple[int, ...], int]] = [
        *((kind, (0, 1), 1) for kind in (fast.AdamMini, fast.CautiousAdamW, fast.CautiousLion)),
        *((fast.Adams, axes, count) for axes, count in (((0,), 2), ((1,), 1), ((0, 1), 3))),
        *((kind, (0, 1), 0) for kind in (fast.Grams, fast.Lion)),
    ]
    for kind, axes, count in expected:
        params = distributed(parameters([(4, 3)] * 6), mesh, [[Shard(axes[i % len(axes)])] for i in range(6)])
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer = kind([{"params": params[:3]}, {"params": params[3:], "lr": 0.1}], compile=False)
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as sums:
            optimizer.step()
        assert sums.call_count == count, f"{kind.__name__}, cut along {axes}: {sums.call_count} collectives"


def two_processes() -> None:
    a_module()
    all_others()
    rounds()


def test_shards_on_two_processes(tmp_path: Path) -> None:
    """All in one pair of processes: to start them is what takes the time."""
    run_in_processes(2, tmp_path, two_processes)
