"""Strides of every kind: a parameter, its gradient and its state may each lie in memory as they like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor
from twin import Twin, channels_last, gradients, offset, parameters, permuted, sliced, train, transposed

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)


LAYOUTS: list[Callable[[Tensor], Tensor]] = [torch.clone, transposed, sliced, offset, channels_last, permuted]


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("grad_layout", LAYOUTS, ids=lambda f: f"grad_{f.__name__}")
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@walk
def test_any_strides_give_what_contiguous_ones_give(
    row: Row, layout: Callable[[Tensor], Tensor], grad_layout: Callable[[Tensor], Tensor], compile: bool
) -> None:
    """torch's own fused CPU AdamW is silently wrong where a gradient's strides differ from its parameter's."""
    plain = parameters([(4, 6, 3, 5)])[0]
    odd = layout(plain.detach().clone()).requires_grad_()
    where, version = odd.data_ptr(), odd._version
    view = odd.detach().view_as(odd)
    optimizer = row.make([odd], lr=0.05, weight_decay=0.1, compile=compile)
    twin = Twin(row, [plain])
    for i in range(3):
        grad = gradients([plain], i)[0]
        odd.grad = grad_layout(grad)
        optimizer.step()
        twin.step(optimizer.param_groups[0], [grad])
    worst = twin.errors(optimizer, [odd])
    assert max(worst.values()) <= row.fp32, worst
    assert odd.data_ptr() == where and odd._version >= version + 3
    assert torch.equal(view, odd)


@walk
def test_a_slice_leaves_its_neighbours_alone(row: Row) -> None:
    wide = torch.full((6, 9), 7.0)
    part = wide[1:5, 2:8:2].requires_grad_()
    optimizer = row.make([part], lr=0.05, weight_decay=0.1, compile=False)
    train(optimizer, [part], range(2))
    untouched = torch.ones(6, 9, dtype=torch.bool)
    untouched[1:5, 2:8:2] = False
    assert bool((wide[untouched] == 7).all()) and not bool((wide[~untouched] == 7).any())


@walk
def test_expanded_gradients(row: Row) -> None:
    """What `p.sum().backward()` leaves: one number with strides of 0."""
    plain, odd = parameters([(4, 6)]), parameters([(4, 6)])
    one, two = row.make(plain, lr=0.05, compile=False), row.make(odd, lr=0.05, compile=False)
    for i in range(3):
        plain[0].grad = torch.full((4, 6), 0.5 - i)
        odd[0].grad = torch.tensor(0.5 - i).expand(4, 6)
        one.step()
        two.step()
    assert torch.equal(plain[0], odd[0])


@pytest.mark.parametrize("compile", [False, True])
@walk
def test_in_place_steps_are_seen_by_autograd(row: Row, compile: bool) -> None:
    """A graph that saved the parameter before the step must refuse its backward, for every kind of parameter."""
    for p in [*parameters([(), (3,), (4, 6), *[(8,)] * 16]), sliced(torch.randn(3, 3)).requires_grad_()]:
        optimizer = row.make([p], lr=0.1, compile=compile)
        loss = (p * p).sum()
        p.grad = torch.ones_like(p)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@walk
def test_the_parameter_does_not_enter_a_graph(row: Row) -> None:
    params = parameters([(3, 4)])
    optimizer = row.make(params, lr=0.1, compile=False)
    params[0].grad = torch.randn(3, 4, requires_grad=True) * 2  # as backward(create_graph=True) leaves it
    optimizer.step()
    assert params[0].grad_fn is None and params[0].is_leaf
    assert all(not v.requires_grad for v in optimizer.state[params[0]].values())


@walk
def test_empty_and_one_element_parameters_in_one_group(row: Row) -> None:
    params = parameters([(0,), (3, 0, 2), (1,), (1, 1), ()])
    optimizer = row.make(params, lr=0.1, compile=False)
    train(optimizer, params, range(3))
    assert [int(optimizer.state[p]["step"]) for p in params] == [3] * 5
