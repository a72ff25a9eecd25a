"""Tensors that are cut along two dimensions of a mesh, steps on shards compiled, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from optimizers import IDS, OPTIMIZERS, Row
from processes import run_in_processes
from sharded import agree, distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from twin import gradients, parameters

import fast

SHAPES = [(8, 4), (5, 6), (4, 3, 6)]
SUMMED = [fast.AdamMini, fast.Adams, fast.CautiousAdamW, fast.CautiousLion]


def two_dimensions() -> None:
    """HSDP, cuts of two axes, two cuts of one; and FSDP2 of a matrix that tensor parallelism has cut along the same axis."""
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    ways: list[list[Any]] = [
        [Replicate(), Shard(0)],
        [Shard(0), Shard(1)],
        [Shard(1), Shard(0)],
        [Shard(0), Shard(0)],
        [Shard(1), Replicate()],
    ]
    for kind in SUMMED:
        make = partial(by_rows if kind is fast.AdamMini else kind, lr=0.01, compile=False)
        for way in ways:
            whole = parameters(SHAPES, torch.float64)
            agree(make, whole, distributed(whole, mesh, [way] * len(whole)), 1e-12, 3)
        for axis in (0, 1):
            plain = nn.Linear(4, 8, bias=False, dtype=torch.float64)
            torch.nn.init.normal_(plain.weight, generator=torch.Generator().manual_seed(1))
            layer = nn.Linear(4, 8, bias=False)
            layer.weight = nn.Parameter(distribute_tensor(plain.weight.detach().clone(), mesh["model"], [Shard(axis)]))
            fully_shard(layer, mesh=mesh["data"])
            agree(make, [plain.weight], [layer.weight], 1e-12, 3)


def rounded_apart() -> None:
    """Shards take random bits of their own, copies of a shard the same ones; and as the whole does, on average."""
    mesh = init_device_mesh("cpu", (2, 2))
    rank = dist.get_rank()
    for row in OPTIMIZERS:
        (param,) = distributed([nn.Parameter(torch.ones(64, 96).bfloat16())], mesh, [[Replicate(), Shard(0)]])
        optimizer = row.make([param], lr=1e-3, stochastic_rounding=True, compile=False)
        for _ in range(3):
            param.grad = distribute_tensor(torch.full((64, 96), 0.25), mesh, param.placements).bfloat16()
            optimizer.step()
        own = param.to_local().detach()
        found = [torch.empty_like(own) for _ in range(4)]
        dist.all_gather(found, own)
        assert all(torch.equal(found[i], found[i + 2]) for i in (0, 1)), f"{row.name}: copies differ"
        assert (found[0] != found[1]).float().mean() > 0.1, f"{row.name}: shards are rounded alike"
        whole = nn.Parameter(torch.ones(64, 96))
        exact = row.make([whole], lr=1e-3, compile=False)
        for _ in range(3):
            whole.grad = torch.full((64, 96), 0.25)
            exact.step()
        spacing = 2.0**-8
        mean = (found[0].double() + found[1].double()).mean() / 2
        assert abs(mean - whole.double().mean()) < 5 * spacing * 3**0.5 / 2 / whole.numel() ** 0.5, (
            f"{row.name}, {rank}"
        )


def test_shards_are_rounded_stochastically(tmp_path: Path) -> None:
    run_in_processes(4, tmp_path, rounded_apart)


def by_rows(params: list[Any], **options: Any) -> fast.AdamMini:
    heads = [fast.Blocks.heads(p.shape, 2) if p.shape[0] % 2 == 0 else fast.Blocks.along(p.shape, 0) for p in params]
    return fast.AdamMini([{"params": params, "blocks": heads}], **options)


def test_meshes_of_two_dimensions(tmp_path: Path) -> None:
    run_in_processes(4, tmp_path, two_dimensions)


@pytest.fixture
def half_of_two() -> Iterator[DeviceMesh]:
    """One process that takes itself for the first of two, whose sums are its own parts."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        yield init_device_mesh("cpu", (2,))
    finally:
        dist.destroy_process_group()


def part(own: Tensor, mesh: DeviceMesh, placement: Any, whole: torch.Size | None = None) -> Any:
    """A parameter of which this process has `own`; of the shape `whole` if told."""
    stride = None if whole is None else torch.empty(whole).stride()
    return nn.Parameter(DTensor.from_local(own.detach(), mesh, [placement], shape=whole, stride=stride))


# a shape of this process's part, and what axis tells AdamMini's block in how many axes of matrices
CUTS = [((33, 20), 1, 0), ((20, 33), 0, 0), ((6, 5, 4), 2, 1), ((3, 4, 5, 2), 2, 1), ((9,), None, 0), ((7,), 0, 0)]


@pytest.mark.compiler
@pytest.mark.parametrize("kind", SUMMED)
def test_compiled_and_uncompiled_steps_of_shards_are_the_same(kind: Any, half_of_two: DeviceMesh) -> None:
    found = []
    for compile in (False, True):
        params, blocks = [], []
        for own, (_, axis, batch) in zip(parameters([shape for shape, *_ in CUTS]), CUTS, strict=True):
            for cut in range(min(own.ndim, 2)):
                params.append(part(own, half_of_two, Shard(cut)))
                shape = tuple(params[-1].shape)
                blocks.append(fast.Blocks(shape) if axis is None else fast.Blocks.along(shape, axis, batch=batch))
        group = {"params": params, "blocks": blocks} if kind is fast.AdamMini else {"params": params}
        optimizer = kind([group], lr=0.01, compile=compile)
        for i in range(3):
            for p, g in zip(params, gradients([p.to_local() for p in params], i), strict=True):
                p.grad = DTensor.from_local(g, half_of_two, p.placements)
            optimizer.step()
        found.append([p.to_local().detach() for p in params])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_a_parameter_in_partial_sums_is_refused(row: Row, half_of_two: DeviceMesh) -> None:
    for placement in (Partial(), Replicate()):  # of the gradient
        param = part(torch.ones(4, 3), half_of_two, Partial())
        param.grad = DTensor.from_local(torch.ones(4, 3), half_of_two, [placement])
        with pytest.raises(ValueError, match=r"placed as .*Partial.*Shard and Replicate"):
            row.make([param], lr=0.1, compile=False).step()
        assert torch.equal(param.to_local(), torch.ones(4, 3))


@pytest.mark.parametrize("kind", SUMMED)
def test_a_shard_of_another_size_is_refused(kind: Any, half_of_two: DeviceMesh) -> None:
    param = part(torch.ones(2, 3), half_of_two, Shard(0), torch.Size((8, 3)))
    param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match=r"shard of shape \(2, 3\) where \(4, 3\) was expected"):
        kind([param], compile=False).step()


@pytest.mark.usefixtures("fresh_dynamo")
def test_inside_torch_compile_it_is_said_to_stay_outside(half_of_two: DeviceMesh) -> None:
    param = part(torch.ones(4, 3), half_of_two, Shard(0))
    param.grad = torch.ones_like(param)
    optimizer = fast.CautiousAdamW([param])
    with pytest.raises(Exception, match=r"outside of what you compile"):
        torch.compile(optimizer.step, backend="eager", fullgraph=True)()
