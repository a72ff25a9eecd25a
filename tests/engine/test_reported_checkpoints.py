"""Adam-mini 5, 14 and 36: users' checkpoints under FSDP fail to save or to load, or load at one world size only. Ours do not."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from optimizers import IDS, OPTIMIZERS, Row
from processes import run_in_processes
from small_network import network, of_model, train
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from twin import same

import fast

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@walk
def test_a_checkpoint_of_a_sharded_model_goes_on_without_shards(row: Row, one_process: None, tmp_path: Path) -> None:
    """FSDP2 and torch.distributed.checkpoint: saved by a sharded model, read by a plain one, which goes on as if it had run all."""
    from torch.distributed.fsdp import fully_shard

    sharded, plain, whole = network(), network(), network()
    with torch.no_grad():  # what is read must come from the file
        for p in plain.parameters():
            p.zero_()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    one, two, three = of_model(row, sharded), of_model(row, plain), of_model(row, whole)
    train(sharded, one, range(3))
    model_state, optimizer_state = get_state_dict(sharded, one)
    save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=tmp_path)
    model_state, optimizer_state = get_state_dict(plain, two)
    loaded = {"model": model_state, "optimizer": optimizer_state}
    load(loaded, checkpoint_id=tmp_path)
    set_state_dict(plain, two, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
    train(plain, two, range(3, 6))
    train(whole, three, range(6))
    assert same(plain.state_dict(), whole.state_dict())
    assert same(two.state_dict()["state"], three.state_dict()["state"])


def goes_on(folder: str, first: int) -> None:
    """All optimizers in these processes, or in this one: loads what was saved before step `first`, takes three steps, saves.

    Without attention: its key's bias has a gradient of rounding errors alone, of which Lion would take the sign.
    """
    from torch.distributed.fsdp import fully_shard

    for row in OPTIMIZERS:
        model, whole = network(attention=False), network(attention=False)
        if dist.is_initialized():
            fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        one, two = of_model(row, model), of_model(row, whole)
        if first:
            loaded = of_both(model, one)
            load(loaded, checkpoint_id=f"{folder}/{first}/{row.name}")
            set_state_dict(model, one, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
        train(model, one, range(first, first + 3))
        save(of_both(model, one), checkpoint_id=f"{folder}/{first + 3}/{row.name}")
        as_one_file(model, one, of_model(row, model))
        train(whole, two, range(first + 3))
        for p, q in zip(model.parameters(), whole.parameters(), strict=True):
            # several processes add gradients in another order
            torch.testing.assert_close(full(p), full(q), rtol=1e-5, atol=1e-6)
            for name, value in two.state[q].items():
                torch.testing.assert_close(full(one.state[p][name]), value, rtol=1e-4, atol=1e-7)


def of_both(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizer)
    return {"model": model_state, "optimizer": optimizer_state}


def as_one_file(model: nn.Module, optimizer: Optimizer, other: Optimizer) -> None:
    """The whole state on the CPU of the first process, as it goes into one file, and from there into all of them."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=dist.is_initialized())
    state = get_optimizer_state_dict(model, optimizer, options=options)
    optimizer.zero_grad()  # torch makes the state that it then fills only where there is no gradient
    set_optimizer_state_dict(model, other, state, options=options)
    for p in model.parameters():
        for name, value in optimizer.state[p].items():
            assert torch.equal(full(other.state[p][name]), full(value)), name


def full(t: Tensor) -> Tensor:
    return (t.full_tensor() if isinstance(t, DTensor) else t).detach()


ROUNDED = {"stochastic_rounding": True, "rounding_seed": np.int64(3), "exp_avg_dtype": torch.bfloat16}


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("full", [False, True])
@walk
def test_every_option_goes_through_distributed_checkpointing(
    row: Row, full: bool, offload: bool, one_process: None
) -> None:
    """Whose functions take tensors, numbers and strings alone of a group: "Unexpected value type torch.dtype"."""
    model, fresh = network(), network()
    config = {"betas": np.array([0.5, 0.75]), "weight_decay": np.float32(0.25), "lr": torch.tensor(0.01)}
    optimizer, other = (row.make(m.parameters(), **ROUNDED, **config, compile=False) for m in (model, fresh))
    assert "torch.bfloat16" not in repr(optimizer) and "bfloat16" in repr(optimizer)
    train(model, optimizer, range(2))
    options = StateDictOptions(full_state_dict=full, cpu_offload=offload)
    state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=options)
    (group,) = state["param_groups"]
    assert group["exp_avg_dtype"] == "bfloat16" and tuple(group["betas"]) == (0.5, 0.75)
    set_optimizer_state_dict(fresh, other, state, options=options)
    fresh.load_state_dict(model.state_dict())
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])
    train(model, optimizer, range(2, 4))
    train(fresh, other, range(2, 4))
    assert same(fresh.state_dict(), model.state_dict())


@walk
def test_a_checkpoint_that_has_a_dtype_still_loads(row: Row) -> None:
    """Older ones had torch.bfloat16 itself; so may a group that is written by hand."""
    model, fresh = network(), network()
    optimizer, other = (row.make(m.parameters(), **ROUNDED, compile=False) for m in (model, fresh))
    train(model, optimizer, range(2))
    saved = optimizer.state_dict()
    saved["param_groups"][0]["exp_avg_dtype"] = torch.bfloat16
    other.load_state_dict(saved)
    assert other.param_groups[0]["exp_avg_dtype"] == "bfloat16"
    assert same(other.state_dict()["state"], saved["state"])
    other.param_groups[0]["exp_avg_dtype"] = torch.bfloat16
    train(fresh, other, range(2, 3))
    assert all(state["exp_avg"].dtype == torch.bfloat16 for state in other.state.values())


def test_a_checkpoint_goes_on_at_another_world_size(tmp_path: Path) -> None:
    """One process, two, three, and one again, each with the checkpoint of the one before."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that there is one process only
        goes_on(str(tmp_path), 0)
        run_in_processes(2, tmp_path, goes_on, str(tmp_path), 3)
        (tmp_path / "store").unlink()
        run_in_processes(3, tmp_path, goes_on, str(tmp_path), 6)
        goes_on(str(tmp_path), 9)


def test_the_state_does_not_depend_on_the_number_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released package takes torch.cuda.device_count() for the world size."""
    states = []
    for devices in (0, 1, 8):
        monkeypatch.setattr(torch.cuda, "device_count", lambda devices=devices: devices)
        model = network()
        optimizer = fast.AdamMini(model, lr=0.01, compile=False)
        train(model, optimizer, range(1))
        states.append(copy.deepcopy(optimizer.state_dict()))
    assert same(states[0], states[1]) and same(states[0], states[2])
