"""State: what is saved, copied and loaded continues bitwise; what does not fit is refused before anything changes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor, nn
from torch.optim import Optimizer
from twin import parameters, same, train

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(4, 3), (5,), (), (2, 3, 4)]
OPTIONS = {"lr": 0.05, "weight_decay": 0.1, "compile": False}


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def state_tensors(optimizer: Optimizer) -> list[Tensor]:
    return [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]


@pytest.mark.parametrize("carry", [copy.deepcopy, lambda s: s, through_a_file], ids=["deepcopy", "as_is", "file"])
@pytest.mark.parametrize("dtype", DTYPES)
@walk
def test_a_loaded_state_is_bitwise_the_saved_one_and_continues_so(
    row: Row, dtype: torch.dtype, carry: Callable[[Any], Any]
) -> None:
    """torch's own load_state_dict would round the float32 state of half-precision parameters."""
    params = parameters(SHAPES, dtype)
    optimizer = row.make(params, **OPTIONS)
    train(optimizer, params, range(3))
    twins = [p.detach().clone().requires_grad_() for p in params]
    other = row.make(twins, lr=7.0, compile=False)
    other.load_state_dict(carry(optimizer.state_dict()))
    assert same(other.state_dict(), optimizer.state_dict())
    addresses = {t.data_ptr() for t in state_tensors(optimizer)}
    assert not addresses & {t.data_ptr() for t in state_tensors(other)}
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for twin in twins:
        for name, value in other.state[twin].items():
            assert value.dtype == (torch.float32 if name == "step" else wide)
    train(optimizer, params, range(3, 6))
    train(other, twins, range(3, 6))
    assert same(list(params), list(twins)) and same(other.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize(
    "make", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
@walk
def test_copies_of_model_and_optimizer_continue_bitwise(row: Row, make: Callable[[Any], Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    options = {**OPTIONS, "maximize": True}
    groups: list[dict[str, Any]] = [
        {"params": list(model[0].parameters())},
        {"params": list(model[1].parameters()), "lr": 0.2},
    ]
    optimizer = row.make(groups, **options)
    train(optimizer, list(model.parameters()), range(2))
    model2, optimizer2 = make((model, optimizer))
    assert type(optimizer2) is type(optimizer)
    assert same(optimizer2.state_dict(), optimizer.state_dict())
    train(optimizer, list(model.parameters()), range(2, 5))
    train(optimizer2, list(model2.parameters()), range(2, 5))
    assert same(model2.state_dict(), model.state_dict())
    assert same(optimizer2.state_dict(), optimizer.state_dict())
    assert "load_state_dict" not in vars(optimizer2)


@walk
def test_saved_with_torch_save_it_is_plain_data(row: Row, tmp_path: Path) -> None:
    """Tensors, numbers, strings, tuples: what weights_only=True reads, and nothing that is None in the state."""
    params = parameters(SHAPES)
    optimizer = row.make([(f"p{i}", p) for i, p in enumerate(params)], lr=torch.tensor(0.1), compile=False)
    train(optimizer, params, range(2))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    assert same(torch.load(tmp_path / "optimizer.pt", weights_only=True), optimizer.state_dict())
    for state in optimizer.state.values():
        assert all(isinstance(v, Tensor | int | float) for v in state.values())
        assert state["step"].ndim == 0 and state["step"].dtype == torch.float32
        assert state["step"].device.type == "cpu"


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("row", [row for row in OPTIMIZERS if row.like_adamw], ids=str)
def test_adamw_state_is_taken_over(row: Row, fused: bool) -> None:
    """A run begun with torch.optim.AdamW goes on with ours: its moments, count of steps and hyper-parameters."""
    params = parameters(SHAPES)
    adamw = torch.optim.AdamW(params, lr=0.07, betas=(0.8, 0.95), weight_decay=0.3, fused=fused)
    train(adamw, params, range(3))
    optimizer = row.make(params, lr=1.0, compile=False)
    optimizer.load_state_dict(adamw.state_dict())
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.07 and group["betas"] == (0.8, 0.95) and group["weight_decay"] == 0.3
    for p in params:
        assert optimizer.state[p]["step"] == 3
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[p][name], adamw.state[p][name])
    train(optimizer, params, range(3, 5))
    assert all(optimizer.state[p]["step"] == 5 for p in params)


def snapshot(optimizer: Optimizer) -> dict[str, Any]:
    return copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize(
    "wrong",
    [
        [(4, 3), (6,), (), (2, 3, 4)],
        [(4, 3), (5,), ()],
        [(3, 4), (5,), (), (2, 3, 4)],
        [(4, 3), (5,), (), (2, 3, 4), (1,)],
    ],
    ids=["wider", "fewer", "transposed", "more"],
)
@walk
def test_the_state_of_another_model_is_refused_and_nothing_changes(row: Row, wrong: list[tuple[int, ...]]) -> None:
    params, others = parameters(SHAPES), parameters(wrong)
    optimizer, other = row.make(params, **OPTIONS), row.make(others, lr=9.0, compile=False)
    train(optimizer, params, range(2))
    train(other, others, range(3))
    before = snapshot(optimizer)
    with pytest.raises(ValueError):
        optimizer.load_state_dict(other.state_dict())
    assert same(optimizer.state_dict(), before)
    train(optimizer, params, range(2, 3))


@walk
def test_the_state_of_another_optimizer_is_refused_and_nothing_changes(row: Row) -> None:
    params = parameters(SHAPES)
    optimizer, sgd = row.make(params, **OPTIONS), torch.optim.SGD(params, lr=9.0, momentum=0.9)
    train(optimizer, params, range(2))
    train(sgd, params, range(2))
    before = snapshot(optimizer)
    with pytest.raises(ValueError):
        optimizer.load_state_dict(sgd.state_dict())
    assert same(optimizer.state_dict(), before)


@walk
def test_state_that_is_no_tensor_and_old_counts_of_steps_load(row: Row) -> None:
    """Old checkpoints have `step` as a plain number."""
    params = parameters(SHAPES)
    optimizer = row.make(params, **OPTIONS)
    train(optimizer, params, range(2))
    saved = snapshot(optimizer)
    old = copy.deepcopy(saved)
    for state in old["state"].values():
        state["step"] = int(state["step"])
    optimizer.load_state_dict(old)
    assert same(optimizer.state_dict(), saved)


@walk
def test_load_before_the_first_step_and_of_an_unused_optimizer(row: Row) -> None:
    params = parameters(SHAPES)
    optimizer = row.make(params, **OPTIONS)
    optimizer.load_state_dict(row.make(parameters(SHAPES), **OPTIONS).state_dict())
    assert not optimizer.state_dict()["state"]
    train(optimizer, params, range(2))
    saved = snapshot(optimizer)
    optimizer.load_state_dict(state_dict=saved)  # by keyword, as distributed checkpointing calls it
    train(optimizer, params, range(2, 4))
    optimizer.load_state_dict(state_dict=saved)
    assert same(optimizer.state_dict(), saved)


@walk
def test_hooks_run_in_order(row: Row) -> None:
    params = parameters(SHAPES)
    optimizer = row.make(params, **OPTIONS)
    seen: list[Any] = []
    optimizer.register_step_pre_hook(lambda o, a, k: seen.append(("before", float(params[2]))))  # pyright: ignore[reportArgumentType]
    optimizer.register_step_post_hook(lambda o, a, k: seen.append(("after", float(params[2]))))
    start = float(params[2].detach())
    with torch.no_grad():
        train(optimizer, params, range(1))
    assert seen == [("before", start), ("after", float(params[2].detach()))] and seen[0][1] != seen[1][1]

    seen.clear()
    moments: list[float] = []
    saved = snapshot(optimizer)
    optimizer.register_load_state_dict_pre_hook(lambda o, s: seen.append("first"))
    optimizer.register_load_state_dict_pre_hook(lambda o, s: seen.append("second"))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("third"))
    optimizer.register_load_state_dict_post_hook(lambda o: moments.append(float(o.state[params[2]]["step"])))
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("fourth"))
    optimizer.register_state_dict_post_hook(lambda o, s: seen.append("fifth"))
    optimizer.load_state_dict(saved)
    optimizer.state_dict()
    assert seen == ["first", "second", "third", "fourth", "fifth"]
    assert moments == [1.0]  # a post hook sees the loaded state


@walk
def test_a_pre_hook_of_load_may_give_another_state_dict(row: Row) -> None:
    params = parameters(SHAPES)
    optimizer = row.make(params, **OPTIONS)
    train(optimizer, params, range(2))
    saved = snapshot(optimizer)
    optimizer.register_load_state_dict_pre_hook(lambda o, s: copy.deepcopy(saved))
    train(optimizer, params, range(2, 4))
    optimizer.load_state_dict(snapshot(optimizer))
    assert same(optimizer.state_dict(), saved)


@walk
def test_step_hooks_of_all_optimizers_are_called(row: Row) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    params, seen = parameters([(3,)]), []
    optimizer = row.make(params, **OPTIONS)
    handle = register_optimizer_step_post_hook(lambda o, a, k: seen.append(o))
    try:
        train(optimizer, params, range(1))
    finally:
        handle.remove()
    assert seen == [optimizer]


@walk
def test_zero_grad_and_repr(row: Row) -> None:
    params = parameters([(3,)])
    optimizer = row.make(params, **OPTIONS)
    train(optimizer, params, range(1))
    optimizer.zero_grad(set_to_none=False)
    assert params[0].grad is not None and not params[0].grad.any()
    optimizer.zero_grad()
    assert params[0].grad is None
    assert row.name in repr(optimizer) and "lr: 0.05" in repr(optimizer)
