"""Parameters that somebody has flattened: elementwise steps are right with them, the others are right or refused.

FSDP1 is run on two processes; of DeepSpeed's ZeRO and of Megatron's optimizer the tests do what those do to an optimizer's groups
and to the parameters' attributes.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from processes import run_in_processes
from torch import Tensor, nn
from twin import parameters, same, train

import fast
from fast._engine import flat_shards

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
ELEMENTWISE = ("Grams", "Lion", "CautiousWeightDecay")
WHOLE = pytest.mark.parametrize("row", [row for row in OPTIMIZERS if row.name not in ELEMENTWISE], ids=str)
REFUSED = r"needs parameters that are whole, of which {}.*fully_shard"


class Weight(nn.Module):
    """One parameter of these numbers, whose gradient is `x` summed over the processes' means."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(sizes))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).sum()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 3) -> None:
    for i in range(count):
        optimizer.zero_grad()
        model(torch.randn(8, 5, generator=torch.Generator().manual_seed(i))).square().mean().backward()
        optimizer.step()


def refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=REFUSED.format("FSDP1")):
        make()


def fsdp1() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
    from torch.distributed.fsdp import StateDictType as Kind

    def wrapped(model: nn.Module, strategy: str, original: bool = True) -> Any:
        return FullyShardedDataParallel(
            model,
            sharding_strategy=getattr(ShardingStrategy, strategy),
            use_orig_params=original,
            device_id=torch.device("cpu"),
        )

    # the right value, of a mean over all four entries
    for sizes in ((4,), (2, 2)):
        model = wrapped(Weight(*sizes), "NO_SHARD")
        optimizer = fast.AdamMini(list(model.parameters()), betas=(0.9, 0.99), compile=False)
        model(torch.tensor([1.0, 1.0, 3.0, 3.0]).view(sizes)).backward()
        optimizer.step()
        torch.testing.assert_close(optimizer.state[model.weight]["exp_avg_sq"], torch.tensor(0.05))

    for row in OPTIMIZERS:
        plain = network()
        steps(plain, row.make(plain.parameters(), lr=0.05, weight_decay=0.1, compile=False))
        cases = [
            ("NO_SHARD", True),
            ("NO_SHARD", False),
            ("FULL_SHARD", True),
            ("SHARD_GRAD_OP", True),
            ("FULL_SHARD", False),
        ]
        for strategy, original in cases:
            model = wrapped(network(), strategy, original)
            if row.name in ELEMENTWISE or (strategy, original) == ("NO_SHARD", True):
                steps(model, row.make(model.parameters(), lr=0.05, weight_decay=0.1, compile=False))
                with FullyShardedDataParallel.state_dict_type(model, Kind.FULL_STATE_DICT):
                    found = model.state_dict()
                for name, value in plain.state_dict().items():
                    torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
                continue
            refused(lambda row=row, model=model: row.make(model.parameters()))
            groups = [{"params": [p], "lr": 0.1} for p in model.parameters()]
            refused(lambda row=row, groups=groups: row.make(groups))
            later = row.make([nn.Parameter(torch.ones(2, 2))], compile=False)
            later.add_param_group({"params": list(model.parameters()), **blocks(row, model)})
            refused(later.step)
        # an optimizer that was there before the model was wrapped: all processes refuse, also one that has no part of it
        model = network()
        optimizer = row.make(model.parameters(), lr=0.05, weight_decay=0.1, compile=False)
        model = wrapped(model, "FULL_SHARD")
        if row.name not in ELEMENTWISE:
            before = [p.detach().clone() for p in model.parameters()]
            refused(lambda model=model, optimizer=optimizer: steps(model, optimizer, 1))
            assert same([p.detach() for p in model.parameters()], before) and not optimizer.state

    module = wrapped(nn.ModuleDict({"a": network()}), "FULL_SHARD")
    refused(lambda: fast.AdamMini(module))
    refused(lambda: fast.AdamMini(module, partition={"*": "tensor"}))
    refused(lambda: fast.AdamMini(dict(module.named_parameters())))
    refused(lambda: fast.CautiousAdamW(module.parameters()))
    # what is elementwise of the others, too
    for make in (
        lambda p: fast.CautiousAdamW(p, rescale="none", compile=False),
        lambda p: fast.CautiousLion(p, rescale="none", compile=False),
        lambda p: fast.Adams(p, use_spectral_decay=False, compile=False),
        lambda p: fast.Adams(p, weight_decay=0.0, as_released=True, compile=False),
        lambda p: fast.Adams(p, weight_decay=0.0, scalar_vector_weight_decay=0.0, compile=False),
    ):
        plain, model = network(), wrapped(network(), "FULL_SHARD")
        steps(plain, make(plain.parameters()))
        steps(model, make(model.parameters()))
        with FullyShardedDataParallel.summon_full_params(model):
            for p, q in zip(model.parameters(), plain.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    # where nothing tells which of FSDP1's are whole, none is taken to be
    model = wrapped(network(), "NO_SHARD")
    with mock.patch.object(flat_shards, "_uncut", return_value=[]):
        refused(lambda: fast.Adams(model.parameters()))


def blocks(row: Row, model: nn.Module) -> dict[str, Any]:
    return {"blocks": [fast.Blocks(tuple(p.shape)) for p in model.parameters()]} if row.name == "AdamMini" else {}


def test_fsdp1_on_two_processes(tmp_path: Path) -> None:
    """All in one pair of processes: to start them is what takes the time."""
    run_in_processes(2, tmp_path, fsdp1)


@WHOLE
def test_parameters_that_zero_3_has_numbered_are_refused(row: Row) -> None:
    """It does so before the optimizer is built, or after, and leaves the parameters empty in between."""
    params = parameters([(2, 3), (3,)])
    optimizer = row.make(params, compile=False)
    for i, p in enumerate(params):
        p.ds_id = i  # pyright: ignore[reportAttributeAccessIssue]
    for fails in (lambda: row.make(params), lambda: train(optimizer, params, range(1))):
        with pytest.raises(ValueError, match=REFUSED.format("DeepSpeed ZeRO-3")):
            fails()
    assert not optimizer.state


def zero_1(groups: list[Any]) -> None:
    """ZeRO-1 and 2, and the bfloat16 optimizer: one vector for each group, here of the first of two processes."""
    for group in groups:
        whole = torch.cat([p.detach().reshape(-1) for p in group["params"]])
        group["params"] = [whole[: -(-whole.numel() // 2)].clone().requires_grad_()]


def megatron(groups: list[Any]) -> None:
    for group in groups:
        group["params"] = [nn.Parameter(p.detach().reshape(-1)[: p.numel() // 2 + 1].clone()) for p in group["params"]]


def zero_3(groups: list[Any]) -> None:
    """Its sub-groups one after another; all other groups are empty meanwhile."""
    zero_1(groups)
    groups[1]["params"] = []


FLATTENED = pytest.mark.parametrize("flatten", [zero_1, megatron, zero_3], ids=lambda f: f.__name__)
SHAPES = [[(2, 3), (3, 4), (5,)], [(3,), (4,)]]


@FLATTENED
@WHOLE
def test_vectors_in_the_place_of_what_was_given_are_refused(row: Row, flatten: Callable[[list[Any]], None]) -> None:
    params = [parameters(shapes) for shapes in SHAPES]
    made: Any = row.make([{"params": part} for part in params], compile=False)
    for again in (lambda o: o, pickled, loaded):
        optimizer = again(made)
        flatten(optimizer.param_groups)
        given = [p for group in optimizer.param_groups for p in group["params"]]
        before = copy.deepcopy([p.detach() for p in given])
        with pytest.raises(ValueError, match=REFUSED.format("somebody .DeepSpeed ZeRO, Megatron.")):
            train(optimizer, given, range(1))
        assert same([p.detach() for p in given], before) and not optimizer.state
        made = row.make([{"params": part} for part in params], compile=False)


def pickled(optimizer: Any) -> Any:
    return pickle.loads(pickle.dumps(optimizer))


def loaded(optimizer: Any) -> Any:
    optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


@FLATTENED
@pytest.mark.parametrize("row", [row for row in OPTIMIZERS if row.name in ELEMENTWISE], ids=str)
def test_elementwise_steps_take_vectors_in_the_place_of_what_was_given(row: Row, flatten: Any) -> None:
    params, plain = ([parameters(shapes) for shapes in SHAPES] for _ in range(2))
    optimizer = row.make([{"params": part} for part in params], lr=0.1, compile=False)
    flatten(optimizer.param_groups)
    given = [p for group in optimizer.param_groups for p in group["params"]]
    other = row.make([p.detach().clone().requires_grad_() for p in given], lr=0.1, compile=False)
    train(optimizer, given, range(3))
    train(other, (whole := other.param_groups[0]["params"]), range(3))
    assert same([p.detach() for p in given], [p.detach() for p in whole]) and plain


@walk
def test_what_a_user_replaces_in_its_own_shape_is_no_flat_vector(row: Row) -> None:
    """Rows added or taken away, a model of vectors alone, parameters that were left out: none of it is refused for its form."""
    for shapes, new in (([(6, 4), (6,)], [(4, 4), (4,)]), ([(5,), (4,)], [(3,), (4,)])):
        optimizer = row.make(parameters(shapes), lr=0.1, compile=False)
        group = optimizer.param_groups[0]
        group["params"] = parameters(new)
        if "blocks" in group:
            group["blocks"] = [fast.Blocks(shape).to_plain() for shape in new]
        train(optimizer, group["params"], range(2))
    params = parameters([(6, 4), (6,)])
    optimizer = row.make(params, lr=0.1, compile=False)
    group = optimizer.param_groups[0]
    group["params"] = params[1:]
    if "blocks" in group:
        group["blocks"] = group["blocks"][1:]
    train(optimizer, params[1:], range(2))


@WHOLE
def test_one_process_is_no_shard(row: Row) -> None:
    """FSDP1 then turns to NO_SHARD, with a warning, and its marks mean nothing."""
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore
    from torch.distributed.fsdp import FullyShardedDataParallel

    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        with warnings.catch_warnings(action="ignore"):
            model = FullyShardedDataParallel(network(), use_orig_params=True, device_id=torch.device("cpu"))
            plain = network()
            for one in (plain, model):
                steps(one, row.make(one.parameters(), lr=0.05, compile=False))
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q)
    finally:
        dist.destroy_process_group()
