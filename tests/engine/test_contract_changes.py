"""What a user changes between two steps (data, state, hyper-parameters, dtype) is what the next step works with.

An optimizer that keeps views or kernels from one step to the next must notice each of these.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor, nn
from twin import Twin, array, error, give, gradients, parameters, train

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)


@walk
def test_replaced_data_is_what_is_updated(row: Row) -> None:
    """`param.data = ...`, as `model.to(...)` does it: no stale copy wins."""
    params = parameters([(5, 4)])
    optimizer = row.make(params, lr=0.1, compile=False)
    train(optimizer, params, range(2))
    new = torch.full((5, 4), 3.0)
    params[0].data = new
    twin = Twin(row, params)
    twin.states = [reference_state(row, optimizer, params[0], twin.states[0])]
    grads = gradients(params, 2)
    give(params, grads)
    optimizer.step()
    twin.step(optimizer.param_groups[0], grads)
    assert params[0].data_ptr() == new.data_ptr()
    assert error(new, twin.w[0]) <= row.fp32


def reference_state(row: Row, optimizer: torch.optim.Optimizer, param: Tensor, fresh: Any) -> Any:
    """The reference's state that continues an optimizer's."""
    state = optimizer.state[param]
    fields: dict[str, Any] = {theirs: array(state[ours]) for ours, theirs in row.state.items() if ours in state}
    if "t" in fresh._fields:
        fields["t"] = int(state["step"])
    return fresh._replace(**fields)


@walk
def test_a_model_turned_to_half_and_back(row: Row) -> None:
    """The state stays in float32, and what the parameter became is what is updated."""
    model = nn.Linear(6, 4)
    params = list(model.parameters())
    optimizer = row.make(params, lr=0.1, compile=False)
    for change in (model.float, model.half, model.float):
        change()
        before = [p.detach().clone() for p in params]
        train(optimizer, params, range(1))
        for p, b in zip(params, before, strict=True):
            assert p.dtype == b.dtype and not torch.equal(p, b)
            assert float((p.detach() - b).abs().max()) < 1.0
            assert all(
                optimizer.state[p][name].dtype == torch.float32 for name in row.state if name in optimizer.state[p]
            )


@walk
def test_a_part_of_a_model_turned_to_half(row: Row) -> None:
    """Six small parameters, which step together until three of them have another dtype: each goes on as it does alone."""
    params, plain = parameters([(20,)] * 6), parameters([(20,)] * 6)
    optimizers = [row.make(part, lr=0.1, compile=False) for part in (params, *([p] for p in plain))]
    for i in range(3):
        grads = gradients(params, i)
        for part in (params, plain):
            give(part, grads)
        for optimizer in optimizers:
            optimizer.step()
        for p, q in zip(params, plain, strict=True):
            assert p.dtype == q.dtype and error(p, array(q)) <= row.fp32
        if i == 0:
            for p in (*params[:3], *plain[:3]):
                p.data = p.data.bfloat16()


@walk
def test_a_model_moved_to_channels_last_between_steps(row: Row) -> None:
    params, plain = parameters([(4, 6, 3, 5)]), parameters([(4, 6, 3, 5)])
    moved, still = row.make(params, lr=0.1, compile=False), row.make(plain, lr=0.1, compile=False)
    for i in range(4):
        if i == 2:
            params[0].data = params[0].data.contiguous(memory_format=torch.channels_last)
        train(moved, params, [i])
        train(still, plain, [i])
    assert error(params[0], plain[0].detach().double().numpy()) <= row.fp32
    assert params[0].is_contiguous(memory_format=torch.channels_last)


@walk
def test_state_that_the_user_replaced_is_used(row: Row) -> None:
    params = parameters([(5, 4)])
    optimizer = row.make(params, lr=0.1, compile=False)
    train(optimizer, params, range(2))
    name = next(iter(row.state))
    optimizer.state[params[0]][name] = torch.full_like(optimizer.state[params[0]][name], 0.25)
    twin = Twin(row, params)
    twin.states = [reference_state(row, optimizer, params[0], twin.states[0])]
    grads = gradients(params, 2)
    give(params, grads)
    optimizer.step()
    twin.step(optimizer.param_groups[0], grads)
    assert max(twin.errors(optimizer).values()) <= row.fp32


@pytest.mark.compiler
@walk
def test_changed_hyper_parameters_count_from_the_next_step_on(row: Row) -> None:
    params = parameters([(5, 4), (3,)])
    optimizer = row.make(params, lr=0.1, compile=False)
    twin, group = Twin(row, params), optimizer.param_groups[0]
    for i in range(8):
        group.update({"lr": 0.1 / (1 + i), "betas": (0.1 * i, 0.99 - 0.1 * i), "weight_decay": 0.1 * i})
        group["maximize"], group["compile"] = i % 3 == 1, i == 5
        grads = gradients(params, i)
        give(params, grads)
        optimizer.step()
        twin.step(group, grads)
    assert max(twin.errors(optimizer).values()) <= row.fp32


@walk
def test_a_group_s_own_maximize_holds_from_step_to_step(row: Row) -> None:
    """Six small parameters, which step together: bitwise what an optimizer built to maximize makes of gradients turned round."""
    params, plain = parameters([(20,)] * 6), parameters([(20,)] * 6)
    optimizer = row.make([{"params": params, "maximize": True}], lr=0.1, compile=False)
    built = row.make(plain, lr=0.1, maximize=True, compile=False)
    for i, up in enumerate((True, True, False, True)):
        optimizer.param_groups[0]["maximize"] = up
        grads = gradients(params, i)
        give(params, grads)
        give(plain, grads if up else [-grad for grad in grads])
        optimizer.step()
        built.step()
        assert all(map(torch.equal, params, plain))


@walk
def test_a_cleared_state_starts_anew(row: Row) -> None:
    params, plain = parameters([(5, 4)]), parameters([(5, 4)])
    optimizer, fresh = row.make(params, lr=0.1, compile=False), row.make(plain, lr=0.1, compile=False)
    train(optimizer, params, range(3))
    optimizer.state.clear()
    with torch.no_grad():
        params[0].copy_(plain[0])
    train(optimizer, params, range(2))
    train(fresh, plain, range(2))
    assert torch.equal(params[0], plain[0]) and optimizer.state[params[0]]["step"] == 2


@walk
def test_data_swapped_back_and_forth(row: Row) -> None:
    """Two sets of weights in turn, as an average of weights is tried out: a step touches only the one in use."""
    params = parameters([(5, 4)])
    optimizer = row.make(params, lr=0.1, compile=False)
    first, second = params[0].data, torch.ones(5, 4)
    for i in range(6):
        used, idle = (first, second) if i % 2 == 0 else (second, first)
        params[0].data = used
        before, kept = used.clone(), idle.clone()
        train(optimizer, params, [i])
        assert torch.equal(idle, kept) and not torch.equal(used, before)


@pytest.mark.parametrize("compile", [False, True])
@walk
def test_a_parameter_that_shrank_is_refused_as_torch_does(row: Row, compile: bool) -> None:
    """Its state has the old shape; nothing beyond the parameter is written."""
    params = parameters([(6, 4)])
    optimizer = row.make(params, lr=0.1, compile=compile)
    train(optimizer, params, range(2))
    whole = params[0].data
    params[0].data = whole[:3]
    before = whole.clone()
    with pytest.raises((RuntimeError, ValueError, AssertionError)):
        train(optimizer, params, [2])
    assert torch.equal(whole, before)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("shapes", [[(96, 130)], [(5, 4)] * 6], ids=["large", "small"])
@walk
def test_state_that_was_moved_away_is_asked_back(row: Row, shapes: list[tuple[int, ...]], compile: bool) -> None:
    params = parameters(shapes)
    optimizer = row.make(params, lr=0.1, compile=compile)
    train(optimizer, params, range(2))
    state = optimizer.state[params[-1]]
    here = state["exp_avg"]
    state["exp_avg"] = here.to("meta")
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match=r"exp_avg is on meta, its parameter on cpu"):
        train(optimizer, params, [2])
    assert all(map(torch.equal, params, before))
    state["exp_avg"] = here
    train(optimizer, params, [2])
