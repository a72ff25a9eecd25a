"""Which entries fast.Monitor takes of a tensor, which of its states, and that both are those of this step."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from twin import give, gradients, parameters, train

import fast
from fast import Monitor
from fast.monitor.sample import Entry


@pytest.mark.parametrize("shape", [(1000,), (64, 128), (130, 30), (16, 10, 3, 3), (1, 999), (999, 1)], ids=str)
def test_a_sample_visits_all_columns_and_all_entries_in_the_end(shape: tuple[int, ...]) -> None:
    numbers = torch.arange(math.prod(shape), dtype=torch.float64).view(shape).requires_grad_()
    entry, seen, taken = Entry((0, None, numbers), 100), set(), torch.empty(0)
    with torch.no_grad():
        for start in range(entry.starts):
            entry.start = start
            taken = entry.of(numbers)
            assert 50 <= len(taken) <= 200 and len(taken.unique()) == len(taken)
            seen |= set(taken.tolist())
    assert len(seen) == numbers.numel()
    row = numbers.numel() // shape[0]
    visits = torch.bincount(taken.long() % row, minlength=row)
    assert visits.max() - visits.min() <= 1  # each column equally often


def test_sampled_sums_are_right_on_average() -> None:
    """Over many records of one and the same step: within five standard errors of the exact number."""
    params = parameters([(90, 70), (6000,)], torch.float64)
    optimizer = fast.Grams(params, lr=0.0, compile=False)
    grads = gradients(params, 0)
    grads[0] *= torch.linspace(0, 3, 70)  # columns of different weight
    give(params, grads)
    sampled, exact = Monitor(optimizer, sample=60), Monitor(optimizer, sample=None)
    for _ in range(200):
        optimizer.step()
    found = torch.tensor(sampled.columns()["grad_norm"]).square()
    error = found.mean() - exact.records[0]["grad_norm"] ** 2
    assert found.std() > 0
    assert abs(error) < 5 * found.std() / 200**0.5
    assert found.std() / found.mean() < 0.3


def test_the_sample_depends_on_seed_and_step_alone() -> None:
    def run(**options: Any) -> list[dict[str, float]]:
        params = parameters([(90, 70)])
        optimizer = fast.Lion(params, compile=False)
        torch.manual_seed(Random().randrange(1000))
        train(optimizer, params, range(options.get("start", 0)))
        with Monitor(optimizer, sample=50, **options) as monitor:
            train(optimizer, params, range(options.get("start", 0), 5))
        return monitor.records

    assert run() == run()
    assert run(start=2) == run()[2:]
    assert run(seed=1)[0]["grad_norm"] != run()[0]["grad_norm"]


def test_a_sum_over_equal_entries_is_exact_however_many_are_taken() -> None:
    """333 of 1000 stand for 3.003 each."""
    params = parameters([(1000,)])
    optimizer = fast.Lion(params, compile=False)
    give(params, [torch.ones(1000)])
    with Monitor(optimizer, sample=300) as monitor:
        optimizer.step()
    assert monitor.records[0]["grad_norm"] == pytest.approx(1000**0.5, rel=1e-12)


def test_a_parameter_that_shrank_where_it_lies_is_looked_at_anew() -> None:
    params = parameters([(6,)])
    optimizer = torch.optim.SGD(params, lr=0.1)
    with Monitor(optimizer) as monitor:
        for size in (6, 3):
            params[0].grad = None
            params[0].data = params[0].data[:size]
            give(params, [torch.ones(size)])
            optimizer.step()
    assert monitor.columns()["grad_norm"] == pytest.approx([6**0.5, 3**0.5])


class Steady(Optimizer):
    """Keeps one number for a whole tensor under the name that an average has elsewhere."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["exp_avg"] = -torch.ones(())


def test_a_state_of_another_shape_is_no_momentum() -> None:
    params = parameters([(4,)])
    optimizer = Steady(params, {"lr": 0.1})
    give(params, [torch.ones(4)])
    with Monitor(optimizer) as monitor:
        optimizer.step()
    assert "disagreement" not in monitor.records[0]


def test_signs_are_compared_where_their_product_would_be_zero() -> None:
    params = parameters([(2,)], torch.float64)
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    with Monitor(optimizer) as monitor:
        for size in (1e-180, -1e-181):
            give(params, [torch.tensor([size, abs(size)], dtype=torch.float64)])
            optimizer.step()
    assert monitor.columns()["disagreement"] == [0.0, 0.5]
