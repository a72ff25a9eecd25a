"""Small parameters take their steps many at a time; nobody may notice it but by the clock."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from fast import Adams, Grams, Lion
from fast._kernels.packs import LEAST, SMALL

MAKERS = {
    "Grams": lambda p, **k: Grams(p, lr=1e-2, weight_decay=0.1, compile=False, **k),
    "Lion": lambda p, **k: Lion(p, lr=1e-2, weight_decay=0.1, compile=False, **k),
    "Adams": lambda p, **k: Adams(p, lr=1e-2, compile=False, **k),
}
SHAPES = [(5,), (), (3,), (7,), (2, 3, 2), (1,), (4, 1), (SMALL,), (SMALL + 1,), (6,)]


def values(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def give(params: list[Parameter], seed: int, leave_out: tuple[int, ...] = ()) -> None:
    for i, (param, grad) in enumerate(zip(params, values(seed), strict=True)):
        param.grad = None if i in leave_out else grad.to(param.dtype)


def alone(name: str, **options: object) -> tuple[list[Parameter], list[torch.optim.Optimizer]]:
    """The same parameters with an optimizer for each: no pack."""
    params = [Parameter(v) for v in values()]
    return params, [MAKERS[name]([p], **options) for p in params]


def together(name: str, **options: object) -> tuple[list[Parameter], torch.optim.Optimizer]:
    """The same in one group, which has the options for itself: those of `alone` are the constructor's."""
    params = [Parameter(v) for v in values()]
    return params, MAKERS[name]([{"params": params, **options}])


def packed(optimizer: torch.optim.Optimizer) -> list[int]:
    """How many parameters each pack of the optimizer's first group has."""
    return [len(pack.params) for pack in optimizer._caches.packs[0]._packs]  # pyright: ignore[reportAttributeAccessIssue]


def assert_same(params: list[Parameter], others: list[Parameter]) -> None:
    for param, other in zip(params, others, strict=True):
        torch.testing.assert_close(param.detach(), other.detach(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("maximize", [False, True])
def test_together_is_alone(name: str, maximize: bool) -> None:
    params, optimizer = together(name, maximize=maximize)
    singles, optimizers = alone(name, maximize=maximize)
    for seed in range(1, 6):
        give(params, seed)
        give(singles, seed)
        before = [(p.grad, p.grad.clone(), p._version) for p in params if p.grad is not None]
        optimizer.step()
        for single in optimizers:
            single.step()
        for param, (grad, copied, version) in zip(params, before, strict=True):
            assert param.grad is grad and torch.equal(grad, copied), "gradients are the caller's"
            assert param._version > version, "autograd must see the write"
    assert sum(packed(optimizer)) == (0 if name == "Adams" else len(params) - 1), "all but the one that is not small"
    assert_same(params, singles)
    for param, single, other in zip(params, optimizers, singles, strict=True):
        assert optimizer.state[param].keys() == single.state[other].keys()
        for key, value in optimizer.state[param].items():
            torch.testing.assert_close(value, single.state[other][key], rtol=1e-14, atol=0)
            assert value.shape == single.state[other][key].shape


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_that_come_and_go(name: str) -> None:
    """Each parameter has its own count of steps, and who was missing does not break up the others for ever."""
    params, optimizer = together(name)
    singles, optimizers = alone(name)
    for seed, missing in enumerate([(0,), (), (2, 3), (), (0, 1, 2, 3, 4), (), ()], 1):
        give(params, seed, missing)
        give(singles, seed, missing)
        optimizer.step()
        for single in optimizers:
            single.step()
    assert_same(params, singles)
    counts = [int(optimizer.state[p]["step"]) for p in params]
    assert counts == [int(s.state[p]["step"]) for s, p in zip(optimizers, singles, strict=True)]
    assert len(set(counts)) == 3


def change_state(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    optimizer.state[params[1]]["exp_avg"] = torch.ones_like(params[1])


def edit_state(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    optimizer.state[params[1]]["exp_avg"].fill_(1)


def edit_count(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    optimizer.state[params[1]]["step"].fill_(40)


def point_elsewhere(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    optimizer.state[params[1]]["exp_avg"].data = torch.ones_like(params[1])


def forget(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    del optimizer.state[params[2]]


def move_weights(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    for param in params:
        param.data = param.detach().clone() + 1


def turn_weights(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    params[4].data = torch.empty(2, 2, 3, dtype=torch.float64).mT.copy_(params[4].detach())


def load(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def set_beta(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
    for group in optimizer.param_groups:
        group["betas"] = (0.3, 0.2)  # takes another kernel


MEDDLING = [change_state, edit_state, edit_count, point_elsewhere, forget, move_weights, turn_weights, load, set_beta]


@pytest.mark.parametrize("meddle", MEDDLING, ids=lambda f: f.__name__)
def test_whoever_meddles_is_noticed(meddle) -> None:
    """What others do to parameters and state between two steps holds, as it would without packs."""
    params, optimizer = together("Grams")
    singles, optimizers = alone("Grams")
    for seed in range(1, 6):
        give(params, seed)
        give(singles, seed)
        optimizer.step()
        for single in optimizers:
            single.step()
        if seed == 2:
            meddle(optimizer, params)
            merged = torch.optim.SGD(singles)  # one view of all of the single optimizers
            merged.state.update({p: s.state[p] for s, p in zip(optimizers, singles, strict=True)})
            if meddle is load:
                for single in optimizers:
                    load(single, singles)
            elif meddle is set_beta:
                for single in optimizers:
                    set_beta(single, singles)
            elif meddle is forget:
                forget(optimizers[2], singles)
            else:
                meddle(merged, singles)
    assert_same(params, singles)


def test_a_member_that_leaves_or_joins() -> None:
    params, optimizer = together("Grams")
    give(params, 1)
    optimizer.step()
    kept = {p: p.detach().clone() for p in params[:3]}
    optimizer.param_groups[0]["params"] = params[3:]
    late = Parameter(torch.zeros(3, dtype=torch.float64))
    late.grad = torch.ones_like(late)
    optimizer.param_groups[0]["params"].append(late)
    give(params, 2)
    optimizer.step()
    assert all(torch.equal(p, value) for p, value in kept.items())
    assert late.eq(-1e-2 * (1 - 1e-3)).logical_or(late.sub(-1e-2 * (1 - 1e-3)).abs() < 1e-8).all()


def test_copies_and_pickles_are_independent() -> None:
    params, optimizer = together("Grams")
    give(params, 1)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        for group in other.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        other.step()
    for key, values_ in optimizer.state_dict()["state"].items():
        for name, value in values_.items():
            assert torch.equal(value, state["state"][key][name])


def test_a_checkpoint_holds_each_entry_once(tmp_path) -> None:
    """State tensors that are views must not each bring along all of what they are views of."""
    params, optimizer = together("Grams")
    give(params, 1)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    entries = sum(p.numel() for p in params)
    assert (tmp_path / "state.pt").stat().st_size < 2 * 8 * entries * 1.1 + 50_000


def test_a_cleared_state_frees_the_vectors() -> None:
    params, optimizer = together("Grams")
    give(params, 1)
    optimizer.step()
    (pack,) = optimizer._caches.packs[0]._packs  # pyright: ignore[reportAttributeAccessIssue]
    parts = [weakref.ref(part) for parts in pack._parts for part in parts]
    optimizer.state.clear()
    assert parts and all(part() is None for part in parts)


def test_shared_memory_stays_where_it_is() -> None:
    params, optimizer = together("Grams")
    for param in params:
        optimizer.state[param] = {
            "step": torch.zeros(()),
            **{k: torch.zeros_like(param).share_memory_() for k in ("exp_avg", "exp_avg_sq")},
        }
    places = [optimizer.state[p]["exp_avg"].data_ptr() for p in params]
    give(params, 1)
    optimizer.step()
    assert packed(optimizer) == []
    assert places == [optimizer.state[p]["exp_avg"].data_ptr() for p in params]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_and_mixed_gradients(dtype: torch.dtype) -> None:
    """Parameters of two dtypes make two packs; state is float32 for the half types."""
    params = [Parameter(torch.ones(3, dtype=dtype)) for _ in range(LEAST)]
    params += [Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(LEAST)]
    optimizer = MAKERS["Grams"](params)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert packed(optimizer) == [LEAST, LEAST]
    assert optimizer.state[params[0]]["exp_avg"].dtype == torch.float32
    assert optimizer.state[params[-1]]["exp_avg"].dtype == torch.float64
    torch.testing.assert_close(params[0].float(), torch.full((3,), (1 - 1e-3) * 0.99).to(dtype).float())
