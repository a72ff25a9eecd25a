"""A run with fast.Monitor is the run without it; and when it watches: every, start, removal, copies."""

from __future__ import annotations

import copy
import math
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from twin import give, gradients, parameters, same, train

import fast
from fast import Monitor

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
SHAPES = [(4, 3), (5,), (), (2, 3, 4), (0,), (7,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@walk
def test_a_run_with_it_is_the_run_without_it(row: Row, dtype: torch.dtype) -> None:
    runs = []
    for watched in (False, True):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        real = torch.float32 if dtype == torch.complex64 else dtype
        params = [p.detach().to(dtype).requires_grad_() for p in parameters([*SHAPES, (40, 30)], real)]
        optimizer = row.make(params, lr=0.05, weight_decay=0.1, compile=False)
        monitor = Monitor(optimizer, names=True, sample=100, loss_star=0.0) if watched else None
        for i in range(4):
            give(params, [g if i or k else None for k, g in enumerate(gradients(params, i))])
            if monitor:
                monitor.loss(torch.tensor(1.0))
            optimizer.step()
        grads = [p.grad for p in params]
        seeds = [torch.get_rng_state(), str(random.getstate()), str(np.random.get_state())]
        runs.append((list(params), grads, seeds, optimizer.state_dict(), sorted(vars(optimizer))))
        assert monitor is None or (len(monitor.records) == 4 and math.isfinite(monitor.records[-1]["alignment"]))
    assert same(runs[0], runs[1])


@pytest.mark.compiler
def test_a_compiled_run_too() -> None:
    runs = []
    for watched in (False, True):
        params = parameters([(300, 250), *[(9,)] * 17])
        optimizer = fast.Grams(params, lr=0.05, compile=True)
        monitor = Monitor(optimizer) if watched else None
        train(optimizer, params, range(3))
        runs.append((list(params), optimizer.state_dict()))
        assert monitor is None or len(monitor.records) == 3
    assert same(runs[0], runs[1])


def test_no_state_is_made_where_there_was_none() -> None:
    params = parameters([(3,), (4,)])
    optimizer = torch.optim.SGD(params, lr=0.1)
    with Monitor(optimizer):
        train(optimizer, params, range(2))
        assert len(optimizer.state) == 0 or all(not state for state in optimizer.state.values())
    twin = torch.optim.SGD(parameters([(3,), (4,)]), lr=0.1)
    train(twin, twin.param_groups[0]["params"], range(2))
    assert optimizer.state_dict() == twin.state_dict()


def test_every_and_start_and_removal() -> None:
    params = parameters([(3,)])
    optimizer = fast.Lion(params, compile=False)
    with Monitor(optimizer, every=3, start=100) as monitor:
        train(optimizer, params, range(7))
    train(optimizer, params, range(3))
    assert [record["step"] for record in monitor.records] == [101, 104, 107]
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    monitor.remove()  # again: nothing
    one, two = Monitor(optimizer), Monitor(optimizer, every=2)
    train(optimizer, params, range(2))
    one.remove()
    train(optimizer, params, range(2))
    assert (len(one.records), len(two.records)) == (2, 2)


def test_a_seed_does_not_sample_as_the_next_one_a_step_before() -> None:
    params = parameters([(90, 70)])
    optimizer = fast.Lion(params, compile=False)
    give(params, gradients(params, 0))  # the same in each step: the entries alone decide
    one, other = (Monitor(optimizer, sample=50, seed=seed) for seed in (0, 1))
    for _ in range(4):
        optimizer.step()
    norms = zip(one.columns()["grad_norm"][1:], other.columns()["grad_norm"], strict=False)
    assert all(a != b for a, b in norms)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
@walk
def test_a_copy_is_not_watched(row: Row, again: Any) -> None:
    params = parameters([(3, 2)])
    optimizer = row.make(params, lr=0.1, compile=False)
    monitor = Monitor(optimizer)
    train(optimizer, params, range(1))
    other = again(optimizer)
    assert not other._optimizer_step_pre_hooks and not other._optimizer_step_post_hooks
    train(other, other.param_groups[0]["params"], range(1, 3))
    assert len(monitor.records) == 1
    train(optimizer, params, range(1, 3))
    assert len(monitor.records) == 3
    assert same(optimizer.state_dict(), other.state_dict())
