"""What a training loop puts around an optimizer: schedulers, loss scaling, torch.compile. And no recompilation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor, nn
from torch._dynamo.exc import RecompileError
from torch._dynamo.utils import counters
from torch.optim import Optimizer, lr_scheduler
from twin import Twin, channels_last, give, gradients, offset, parameters, permuted, same, sliced, train, transposed

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
SHAPES = [(4, 3), (5,), (), (2, 3, 4), *[(6,)] * 17]

SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda i: 1 / (1 + i)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda i: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-1, 3, cycle_momentum=True),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-1, total_steps=14, cycle_momentum=True),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@contextmanager
def nothing_is_compiled() -> Iterator[None]:
    """Dynamo falls back to eager mode in silence after eight recompilations; here any compilation is an error."""
    with torch._dynamo.config.patch(error_on_recompile=True):
        before = dict(counters["frames"]), counters["stats"]["unique_graphs"]
        yield
        after = dict(counters["frames"]), counters["stats"]["unique_graphs"]
    assert after == before, f"something was compiled: {before} -> {after}"


def test_a_recompilation_is_seen() -> None:
    compiled = torch.compile(lambda x, n: x * n, backend="eager", dynamic=False)
    compiled(torch.ones(3), 2)
    with pytest.raises((AssertionError, RecompileError)), nothing_is_compiled():
        compiled(torch.ones(3), 3)


def test_every_scheduler_of_torch_is_listed() -> None:
    found = {
        name
        for name, value in vars(lr_scheduler).items()
        if isinstance(value, type) and issubclass(value, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert found - {"LRScheduler"} == set(SCHEDULERS)


@pytest.mark.compiler
@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@walk
def test_every_scheduler_drives_the_step(row: Row, scheduler: str, tensor_lr: bool) -> None:
    """Its lr, and for the cyclic ones its betas, are what the next step uses; 14 steps compile nothing."""
    lr = torch.tensor(0.05) if tensor_lr else 0.05
    params = parameters(SHAPES)
    optimizer = row.make(params, lr=lr, weight_decay=0.1, compile=True)
    twin = Twin(row, params)
    warm_up(row)
    schedule = SCHEDULERS[scheduler](optimizer)
    theirs = torch.optim.AdamW(parameters(SHAPES), lr=torch.tensor(0.05) if tensor_lr else 0.05)
    their_schedule = SCHEDULERS[scheduler](theirs)
    used = []
    with nothing_is_compiled():
        for i in range(14):
            grads = gradients(params, i)
            give(params, grads)
            optimizer.step()
            group = optimizer.param_groups[0]
            twin.step(group, grads)
            used.append((float(group["lr"]), *map(float, group["betas"])))
            theirs.step()
            for each in (schedule, their_schedule):
                each.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
    assert len(set(used)) > 1
    assert max(twin.errors(optimizer).values()) <= row.fp32
    # ReduceLROnPlateau of torch 2.6 puts a float there
    assert isinstance(optimizer.param_groups[0]["lr"], Tensor) == isinstance(theirs.param_groups[0]["lr"], Tensor)


def warm_up(row: Row) -> None:
    params = parameters([(300, 250), (33, 20), (4, 3, 2), *[(6,)] * 17])
    train(row.make(params, lr=0.1, compile=True), params, range(1))


@pytest.mark.compiler
@pytest.mark.parametrize("tensor_lr", [False, True])
@walk
def test_two_hundred_steps_and_other_shapes_compile_nothing(row: Row, tensor_lr: bool) -> None:
    """A schedule, another model, more tensors, changed hyper-parameters: all served by what the first step compiled."""
    warm_up(row)
    with nothing_is_compiled():
        params = parameters([(), (1,), (2,), (3, 1), (1, 3), (7, 5), (300, 250), (2, 3, 4), (0,), *[(9,)] * 40])
        optimizer = row.make(params, lr=torch.tensor(0.05) if tensor_lr else 0.05, compile=True)
        schedule = lr_scheduler.CosineAnnealingLR(optimizer, 200)
        for i in range(200):
            give(params, gradients(params, 0) if i == 0 else [p.grad for p in params])
            optimizer.step()
            schedule.step()
            optimizer.param_groups[0]["weight_decay"] = 0.1 / (1 + i)


@pytest.mark.compiler
@walk
def test_memory_formats_and_views_compile_nothing(row: Row) -> None:
    """Where a tensor lies, of what it is a view and whether it needs gradients is nothing to compile for."""
    warm_up(row)
    shapes = [(2, 3, 4, 5), (3, 2, 2, 2), (5, 3, 2, 7)]
    with nothing_is_compiled():
        for i, layout in enumerate((torch.clone, channels_last, permuted, offset, transposed, sliced)):
            params = [layout(p.detach()).requires_grad_() for p in parameters([*shapes, (7 + i, 3 + i, 2, 2)])]
            optimizer = row.make(params, lr=0.05, compile=True)
            for grad_layout in (torch.clone, channels_last, permuted, offset, transposed, sliced):
                for p, g in zip(params, gradients(params, i), strict=True):
                    p.grad = grad_layout(g)
                optimizer.step()


@walk
def test_grad_scaler_scales_back_and_skips_infinities(row: Row) -> None:
    """A power of two costs no bits: the run equals the one without; a step with an infinity changes nothing."""
    model, plain = nn.Linear(5, 3), nn.Linear(5, 3)
    plain.load_state_dict(model.state_dict())
    optimizer = row.make(model.parameters(), lr=0.1, compile=False)
    bare = row.make(plain.parameters(), lr=0.1, compile=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)  # pyright: ignore[reportPrivateImportUsage]
    for i in range(5):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(i))
        for one, opt in ((model, optimizer), (plain, bare)):
            opt.zero_grad()
            loss = one(x).square().mean()
            (scaler.scale(loss) if opt is optimizer else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        bare.step()
    assert same(model.state_dict(), plain.state_dict()) and same(optimizer.state_dict(), bare.state_dict())
    optimizer.zero_grad()
    scaler.scale(model(torch.full((4, 5), torch.inf)).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert same(model.state_dict(), plain.state_dict()) and same(optimizer.state_dict(), bare.state_dict())


@pytest.mark.compiler
@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("tensor_lr", [False, True])
@walk
def test_a_step_inside_the_users_own_compile(row: Row, tensor_lr: bool, fullgraph: bool) -> None:
    """The same parameters and state as outside, to the last bits that another order of the same operations leaves."""
    shapes = [(4, 3), (5,), ()]
    inside, outside = parameters(shapes), parameters(shapes)
    lr = torch.tensor(0.05) if tensor_lr else 0.05
    one, two = row.make(inside, lr=lr, weight_decay=0.1), row.make(outside, lr=lr, weight_decay=0.1, compile=False)
    if fullgraph:  # as with torch.optim: the state must exist, since making it is not for a graph
        train(one, inside, [99])
        train(two, outside, [99])

    def step() -> None:
        one.step()

    step = torch.compile(step, fullgraph=fullgraph)

    for i in range(4):
        give(inside, gradients(inside, i))
        step()
        train(two, outside, [i])
    for p, q in zip(inside, outside, strict=True):
        torch.testing.assert_close(p, q, rtol=row.fp32, atol=row.fp32)
        assert one.state[p].keys() == two.state[q].keys()
        for name, value in two.state[q].items():
            torch.testing.assert_close(one.state[p][name], value, rtol=row.fp32, atol=row.fp32)


@pytest.mark.usefixtures("fresh_dynamo")
@walk
def test_the_users_own_compile_goes_on_from_packed_steps_and_back(row: Row) -> None:
    """Small tensors take their steps many at a time outside, and one by one inside: the state is the same."""
    shapes = [*[(5,)] * 6, (4, 3), (33,)]
    inside, outside = parameters(shapes), parameters(shapes)
    one, two = (row.make(params, lr=0.05, weight_decay=0.1, compile=False) for params in (inside, outside))
    graph = torch.compile(one.step, backend="eager", fullgraph=True)
    for i in range(8):
        give(inside, gradients(inside, i))
        graph() if 3 <= i < 6 else one.step()
        train(two, outside, [i])
    for p, q in zip(inside, outside, strict=True):
        torch.testing.assert_close(p, q, rtol=row.fp32, atol=row.fp32)
        for name, value in two.state[q].items():
            torch.testing.assert_close(one.state[p][name], value, rtol=row.fp32, atol=row.fp32)


@walk
def test_a_whole_training_step_compiled_by_the_user(row: Row) -> None:
    """Forward and backward compiled, the optimizer called beside them: the usual script."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = row.make(model.parameters(), lr=0.01, compile=False)
    compiled = torch.compile(model, backend="aot_eager")
    x, y = torch.randn(64, 5), torch.randn(64, 1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (compiled(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
