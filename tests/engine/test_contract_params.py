"""Parameters and gradients of every kind: groups, names, layouts, missing, sparse and protected gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor, nn
from twin import Twin, bits, give, gradients, parameters, train

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)


@walk
def test_groups_have_their_own_hyper_parameters_and_may_come_later(row: Row) -> None:
    params = parameters([(4, 3), (5,), (2, 2)])
    later = {"params": params[1:2], "lr": 0.03, "betas": (0.5, 0.9)}
    optimizer = row.make([{"params": params[:1]}, later], lr=0.01, compile=False)
    twin = Twin(row, params)
    for i in range(9):
        if i == 4:
            optimizer.add_param_group({"params": params[2:], "weight_decay": 0.3, "maximize": True})
        grads = gradients(params, i)
        give(params, grads)
        optimizer.step()
        for j, group in enumerate(optimizer.param_groups):
            twin.step(group, [grads[j]], [j])
    assert max(twin.errors(optimizer).values()) <= row.fp32
    assert [int(optimizer.state[p]["step"]) for p in params] == [9, 9, 5]


@pytest.mark.parametrize("named", [False, True])
@walk
def test_groups_of_generators_train_every_parameter(row: Row, named: bool) -> None:
    """`module.parameters()` is a generator: whoever reads it twice finds nothing the second time."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    groups: list[dict[str, Any]] = [
        {"params": part.named_parameters() if named else part.parameters()} for part in model
    ]
    groups[1]["lr"] = 0.2
    optimizer = row.make(groups, lr=0.1, compile=False)
    later = nn.Linear(2, 2)
    optimizer.add_param_group({"params": later.named_parameters() if named else later.parameters()})
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2, 2]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2, 0.1]
    params = [*model.parameters(), *later.parameters()]
    before = [p.detach().clone() for p in params]
    train(optimizer, params, range(1))
    assert all(not torch.equal(p, b) for p, b in zip(params, before, strict=True))


@walk
def test_named_parameters_keep_their_names(row: Row) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimizer = row.make(model.named_parameters(), lr=0.1, compile=False)
    params = list(model.parameters())
    before = [p.detach().clone() for p in params]
    train(optimizer, params, range(1))  # two steps of one length may cancel
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert all(not torch.equal(p, b) for p, b in zip(params, before, strict=True))


@walk
def test_a_closure_runs_with_gradients_and_its_loss_comes_back(row: Row) -> None:
    p = torch.tensor([3.0, -2.0], requires_grad=True)
    optimizer = row.make([p], lr=0.1, compile=False)

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert float(loss.detach()) == 13.0
    assert float((p * p).sum().detach()) < 13.0
    assert optimizer.step() is None


@pytest.mark.parametrize(("maximize", "compile"), [(False, False), (True, False), (False, True)])
@walk
def test_gradients_are_never_changed(row: Row, maximize: bool, compile: bool) -> None:
    params = parameters([(4, 3), (5,), (), *[(6,)] * 16])
    params[0].grad = torch.randn(3, 4).t()
    optimizer = row.make(params, lr=0.1, weight_decay=0.1, maximize=maximize, compile=compile)
    for i in range(3):
        give(params[1:], gradients(params[1:], i))
        grads = [p.grad for p in params if p.grad is not None]
        before, versions = [g.clone() for g in grads], [g._version for g in grads]
        optimizer.step()
        for p, g, b, version in zip(params, grads, before, versions, strict=True):
            assert p.grad is g and g._version == version
            assert torch.equal(bits(g), bits(b))


@walk
def test_no_gradient_no_step(row: Row) -> None:
    params = parameters([(4, 3), (5,)])
    before = [p.detach().clone() for p in params]
    optimizer = row.make(params, lr=0.1, weight_decay=0.5, compile=False)
    optimizer.step()
    assert not optimizer.state_dict()["state"]
    give(params, [None, gradients(params, 0)[1]])
    optimizer.step()
    assert torch.equal(params[0], before[0]) and not torch.equal(params[1], before[1])
    assert list(optimizer.state) == [params[1]]
    optimizer.zero_grad()
    state = torch.stack([v.sum().float() for v in optimizer.state[params[1]].values()])
    optimizer.step()
    assert torch.equal(state, torch.stack([v.sum().float() for v in optimizer.state[params[1]].values()]))


@pytest.mark.parametrize("named", [False, True])
@walk
def test_a_sparse_gradient_is_refused_by_name_and_nothing_changes(row: Row, named: bool) -> None:
    model = nn.ModuleDict({"head": nn.Linear(3, 2), "tokens": nn.Embedding(5, 3, sparse=True)})
    optimizer = row.make(model.named_parameters() if named else model.parameters(), lr=0.1, compile=False)
    model["head"](model["tokens"](torch.tensor([0, 2]))).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="tokens.weight" if named else "number 2 of group 0") as caught:
        optimizer.step()
    assert "sparse" in str(caught.value).lower() and "(5, 3)" in str(caught.value)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert not optimizer.state_dict()["state"]
