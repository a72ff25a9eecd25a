"""The tensors that fast.Monitor must bear: of any layout, number format and placement."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from twin import channels_last, give, gradients, offset, parameters, permuted, sliced, train, transposed

import fast
from fast import Monitor
from fast.monitor.sums import Sums

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)


@pytest.mark.parametrize("layout", [transposed, sliced, offset, channels_last, permuted])
@walk
def test_layouts_do_not_matter(row: Row, layout: Any) -> None:
    """Parameters in one memory format, gradients in another, averages in the optimizer's own."""
    runs = []
    for change in (lambda t: t, layout):
        plain = parameters([(6, 5, 4, 3)], torch.float64)
        params: list[Tensor] = [change(plain[0].detach()).requires_grad_()]
        optimizer = row.make(params, lr=0.1, compile=False)
        with Monitor(optimizer, sample=40) as monitor:
            for i in range(3):
                params[0].grad = change(gradients(plain, i)[0]) if i % 2 else gradients(plain, i)[0]
                optimizer.step()
        runs.append(monitor.records)
    for one, other in zip(*runs, strict=True):
        assert other == pytest.approx(one, rel=1e-9)


@walk
def test_complex_numbers_count_as_two(row: Row) -> None:
    made = parameters([(6, 5, 2)], torch.float64)[0].detach()
    runs = []
    for params in ([torch.view_as_complex(made).clone().requires_grad_()], [made.clone().requires_grad_()]):
        optimizer = row.make(params, lr=0.1, compile=False)
        with Monitor(optimizer) as monitor:
            grad = torch.ones_like(made).cumsum(0)
            params[0].grad = torch.view_as_complex(grad).conj().clone().conj() if params[0].is_complex() else grad
            optimizer.step()
        runs.append(monitor.records[0])
    assert {k: runs[0][k] for k in ("grad_norm", "disagreement")} == {
        k: runs[1][k] for k in ("grad_norm", "disagreement")
    }
    assert runs[0]["alignment"] > 0
    if row.name in ("Grams", "Lion"):  # elementwise: the same run
        assert runs[0] == pytest.approx(runs[1])


@walk
def test_half_precision_is_measured_as_it_is_stored(row: Row) -> None:
    params = parameters([(20, 10)], torch.bfloat16)
    optimizer = row.make(params, lr=1e-2, compile=False)
    before = params[0].detach().double()
    with Monitor(optimizer) as monitor:
        train(optimizer, params, range(1))
    change = params[0].detach().double() - before
    decrease = -(gradients(params, 0)[0].double() * change).sum().item()
    assert monitor.records[0]["decrease"] == pytest.approx(decrease, rel=1e-12)
    assert monitor.records[0]["alignment"] > 0


def test_missing_gradients_leave_a_parameter_out() -> None:
    params = parameters([(3,), (3,), (4,)], torch.float64)
    optimizer = fast.Grams(params, lr=0.1, compile=False)
    with Monitor(optimizer, names=True) as monitor:
        for missing in (0, 1, None):
            grads: list[Tensor | None] = [*gradients(params, 0)]
            if missing is not None:
                grads[missing] = None

            def closure(grads: list[Tensor | None] = grads) -> float:
                give(params, grads)
                return 0.0

            optimizer.step(closure)
            record = monitor.records[-1]
            norms = [g.norm().item() for g in grads if g is not None]
            assert record["grad_norm"] == pytest.approx(math.hypot(*norms))
            names = {k for k in record if k.endswith("grad_norm")} - {"grad_norm"}
            assert names == {f"param/group0.{i}/grad_norm" for i in range(3) if i != missing}
    give(params, [None] * 3)
    with Monitor(optimizer) as monitor:
        optimizer.step()
    assert math.isnan(monitor.records[0]["alignment"])


def test_momentum_that_is_gone_is_not_remembered() -> None:
    params = parameters([(60,), (60,)])
    optimizer = torch.optim.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=0.1, momentum=0.9)
    with Monitor(optimizer) as monitor:
        train(optimizer, params, range(3))
        assert monitor.records[-1]["group0/disagreement"] > 0
        optimizer.param_groups[0]["momentum"] = 0
        optimizer.state.clear()
        train(optimizer, params, range(4, 6))
    record = monitor.records[-1]
    assert "group0/disagreement" not in record
    assert record["disagreement"] == record["group1/disagreement"]


def test_not_a_number_stays_where_it_is() -> None:
    params = parameters([(3,), (3,)])
    optimizer = fast.Grams([{"params": params[:1]}, {"params": params[1:]}], lr=0.1, compile=False)
    with Monitor(optimizer) as monitor:
        give(params, [torch.full((3,), math.nan), torch.ones(3)])
        optimizer.step()
    (record,) = monitor.records
    assert math.isnan(record["alignment"]) and math.isnan(record["group0/alignment"])
    assert record["group1/grad_norm"] == pytest.approx(3**0.5)


def test_a_sigma_that_is_not_a_number_stays_in_either_order() -> None:
    for one, other in ((math.nan, 1.0), (1.0, math.nan)):
        sums = Sums(sigma=one)
        sums.add(Sums(sigma=other))
        assert math.isnan(sums.sigma)


def test_sparse_gradients_are_left_out() -> None:
    embedding, linear = nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2)
    optimizer = torch.optim.SGD([*embedding.parameters(), *linear.parameters()], lr=0.1)
    linear(embedding(torch.tensor([1, 2]))).sum().backward()
    with Monitor(optimizer) as monitor:
        optimizer.step()
    norms = [p.grad.norm().item() for p in linear.parameters() if p.grad is not None]
    assert monitor.records[0]["grad_norm"] == pytest.approx(math.hypot(*norms))
    refused = fast.Lion(embedding.parameters(), compile=False)
    monitor = Monitor(refused)
    with pytest.raises(ValueError, match="dense"):
        refused.step()  # a step that fails is no step, and the next one is watched
    assert monitor.records == []
    embedding.weight.grad = torch.ones(5, 3)
    refused.step()
    assert monitor.records[0]["step"] == 1


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


@walk
def test_dtensors(row: Row, mesh: DeviceMesh) -> None:
    plain = parameters([(6, 4), (5,)])
    shared = [nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)])) for p in plain]
    records = []
    for params in (plain, shared):
        optimizer = row.make(params, lr=0.1, compile=False)
        with Monitor(optimizer) as monitor:
            for i in range(2):
                for p, q, g in zip(params, plain, gradients(plain, i), strict=True):
                    p.grad = g if p is q else distribute_tensor(g, mesh, [Shard(0)])
                optimizer.step()
        records.append(monitor.records)
    for one, other in zip(*records, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    with Monitor(optimizer) as monitor:
        shared[0].grad = distribute_tensor(torch.ones(6, 4), mesh, [Replicate()])  # of another placement
        optimizer.step()
    assert monitor.records[0]["grad_norm"] == pytest.approx(gradients(plain, 1)[1].norm().item(), rel=1e-6)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@walk
def test_on_a_gpu_and_in_a_cuda_graph(row: Row) -> None:
    records = []
    for device in ("cpu", "cuda"):
        params = [p.detach().to(device).requires_grad_() for p in parameters([(40, 30), (7,)])]
        optimizer = row.make(params, lr=0.01, compile=False, capturable=device == "cuda")
        with Monitor(optimizer) as monitor:
            for i in range(3):
                give(params, [g.to(device) for g in gradients(params, i)])
                optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
                with torch.cuda.graph(torch.cuda.CUDAGraph()):
                    optimizer.step()
        assert len(monitor.records) == 3  # the captured step is not seen
        records.append(monitor.records)
    for one, other in zip(*records, strict=True):
        assert other == pytest.approx(one, rel=1e-3)
