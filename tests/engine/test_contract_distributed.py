"""Parameters that several processes share: DTensors on one process and on two, and distributed checkpointing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from optimizers import IDS, OPTIMIZERS, Row
from processes import run_in_processes
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from twin import Twin, error, gradients, parameters, same, train

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)

# Uneven shards (5 rows on two processes), an empty one (1 row), cuts of the last axis (shards of other strides).
LAYOUTS: list[tuple[tuple[int, ...], Placement]] = [
    ((5, 4), Shard(0)),
    ((4, 6), Shard(1)),
    ((1, 3), Shard(0)),
    ((7,), Shard(0)),
    ((3, 5, 2), Shard(1)),
    ((3, 2), Replicate()),
]


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def steps_agree(row: Row, mesh: DeviceMesh, compile: bool) -> None:
    """DTensors against the reference on whole tensors; gradients come placed otherwise, as FSDP and TP leave them."""
    plain = parameters([shape for shape, _ in LAYOUTS])
    params = [
        nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [placement]))
        for p, (_, placement) in zip(plain, LAYOUTS, strict=True)
    ]
    optimizer = row.make(params, lr=0.05, weight_decay=0.1, compile=compile)
    twin = Twin(row, plain)
    for i in range(4):
        grads = gradients(plain, i)
        for p, g, (_, placement) in zip(params, grads, LAYOUTS, strict=True):
            if i == 1:
                p.grad = distribute_tensor(g, mesh, [Replicate()])
            elif i == 2:
                p.grad = DTensor.from_local(g / mesh.size(), mesh, [Partial()])
            else:
                p.grad = distribute_tensor(g, mesh, [placement])
        version = params[0]._version
        optimizer.step()
        assert params[0]._version > version
        twin.step(optimizer.param_groups[0], grads)
    for p, (shape, placement) in zip(params, LAYOUTS, strict=True):
        moment = optimizer.state[p][next(iter(row.state))]
        assert isinstance(moment, DTensor) and moment.placements == (placement,) and moment.shape == shape
    worst = twin.errors(optimizer, params)
    assert max(worst.values()) <= row.fp32, f"{row.name}: {worst}"

    others = [nn.Parameter(p.detach().clone()) for p in params]
    other = row.make(others, lr=1.0, compile=compile)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for some, opt in ((params, optimizer), (others, other)):
        for p, g, (_, placement) in zip(some, gradients(plain, 9), LAYOUTS, strict=True):
            p.grad = distribute_tensor(g, mesh, [placement])
        opt.step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p.full_tensor(), q.full_tensor()), "a loaded optimizer continues otherwise"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("compile", [False, True])
@walk
def test_dtensors_on_one_process(row: Row, mesh: DeviceMesh, compile: bool) -> None:
    steps_agree(row, mesh, compile)


def all_steps() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for row in OPTIMIZERS:
        steps_agree(row, mesh, compile=False)


def test_dtensors_on_two_processes(tmp_path: Path) -> None:
    """All optimizers in one pair of processes, uncompiled: starting and compiling is what takes the time."""
    run_in_processes(2, tmp_path, all_steps)


@walk
def test_distributed_checkpointing_on_one_process(row: Row, mesh: DeviceMesh) -> None:
    """It makes a fresh optimizer's state by a hidden step with lr = 0 and zero gradients, which must move nothing."""
    model, fresh = nn.Linear(4, 3), nn.Linear(4, 3)
    optimizer = row.make(model.parameters(), lr=0.05, weight_decay=0.1, compile=False)
    train(optimizer, list(model.parameters()), range(3))
    fresh.load_state_dict(model.state_dict())
    other = row.make(fresh.parameters(), lr=0.05, weight_decay=0.1, compile=False)
    get_optimizer_state_dict(fresh, other)
    assert all(p in other.state and all(v is not None for v in other.state[p].values()) for p in fresh.parameters())
    assert same(fresh.state_dict(), model.state_dict()), "the hidden step moved a parameter"
    state = get_optimizer_state_dict(model, optimizer)
    assert set(state["state"]) == {"weight", "bias"}
    set_optimizer_state_dict(fresh, other, copy.deepcopy(state))
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])
    train(optimizer, list(model.parameters()), range(3, 5))
    train(other, list(fresh.parameters()), range(3, 5))
    assert same(fresh.state_dict(), model.state_dict())
    flat = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
    assert all(isinstance(v, Tensor | int | float | bool | str | tuple | list | type(None)) for v in flat.values())
    set_optimizer_state_dict(fresh, other, flat, options=StateDictOptions(flatten_optimizer_state_dict=True))
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


@walk
def test_fully_sharded_model_on_one_process(row: Row, mesh: DeviceMesh) -> None:
    """FSDP2 turns parameters into DTensors; the run is the plain model's."""
    from torch.distributed.fsdp import fully_shard

    if not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("this torch's fully_shard asks a CPU for a GPU's events (2.6)")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    sharded = copy.deepcopy(plain)
    fully_shard(sharded, mesh=mesh)
    one = row.make(plain.parameters(), lr=0.05, weight_decay=0.1, compile=False)
    two = row.make(sharded.parameters(), lr=0.05, weight_decay=0.1, compile=False)
    for i in range(3):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(i))
        for model, optimizer in ((plain, one), (sharded, two)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for p, q in zip(plain.parameters(), sharded.parameters(), strict=True):
        assert error(q, p.detach().double().numpy()) <= row.fp32
