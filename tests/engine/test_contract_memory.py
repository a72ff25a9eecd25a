"""What a user lets go of is let go of, and what is saved is no larger than what it holds."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor
from torch.nn import Parameter
from twin import train

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
LARGE = (96, 130)  # not small: no pack


def trained(row: Row, shapes: list[tuple[int, ...]]) -> tuple[list[Tensor], torch.optim.Optimizer]:
    params: list[Tensor] = [Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = row.make(params, compile=False)
    train(optimizer, params, range(3))
    return params, optimizer


@pytest.mark.parametrize("shapes", [[LARGE, (40,)], [(10, 10)] * 200], ids=["large", "small"])
@walk
def test_a_pickle_is_as_large_as_its_entries(row: Row, shapes: list[tuple[int, ...]]) -> None:
    """A pickled view brings along all of what it is a view of; 200 of one vector would bring it 200 times."""
    params, optimizer = trained(row, shapes)
    entries = sum(p.numel() for p in params)
    per_tensor = 1_200  # bytes of pickle about a tensor
    size = 4 * len(row.state) * entries + per_tensor * (1 + len(row.state)) * len(params)
    assert len(pickle.dumps(optimizer.state_dict())) < size
    assert len(pickle.dumps(optimizer)) < size + (4 * entries + per_tensor * len(params))
    for state in optimizer.state.values():
        copied = copy.deepcopy(state["exp_avg"])
        assert copied.untyped_storage().nbytes() == copied.nbytes


@pytest.mark.parametrize("how", ["cleared", "popped", "moved away"])
@walk
def test_state_that_is_let_go_of_frees_its_memory(row: Row, how: str) -> None:
    """Views that are kept from step to step must not hold it."""
    params, optimizer = trained(row, [LARGE, LARGE, *[(10,)] * 8])
    left = [weakref.ref(t) for p in params for t in optimizer.state[p].values()]
    memory = [t.untyped_storage()._weak_ref() for p in params for t in optimizer.state[p].values()]
    if how == "cleared":
        optimizer.state.clear()
    elif how == "popped":
        optimizer.param_groups.clear()
        for param in params:
            optimizer.state.pop(param)
    else:
        for param in params:
            state = optimizer.state[param]
            state.update({name: tensor.to("meta") for name, tensor in state.items()})
    assert [ref() for ref in left] == [None] * len(left)
    assert all(torch.UntypedStorage._expired(m) for m in memory)
    for m in memory:
        torch.UntypedStorage._free_weak_ref(m)


@walk
def test_a_parameters_old_memory_is_freed_when_its_data_is_replaced(row: Row) -> None:
    """`model.to(...)` and offloading do it."""
    params, optimizer = trained(row, [LARGE])
    memory = params[0].data.untyped_storage()._weak_ref()
    params[0].data = torch.empty(0)
    assert torch.UntypedStorage._expired(memory)
    torch.UntypedStorage._free_weak_ref(memory)
    assert optimizer.state[params[0]]["exp_avg"].shape == LARGE
