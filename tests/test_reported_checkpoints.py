"""Adam-mini 5, 14 and 36: users' checkpoints under FSDP fail to save or to load, or load at one world size only. Ours do not."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from optimizers import IDS, OPTIMIZERS, Row
from processes import together
from small_network import network, of_model, train
from torch._C._distributed_c10d import HashStore
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
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


def saved_by_two(folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    for row in OPTIMIZERS:
        if row.shards == "agree":
            model = network(attention=False)
            fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
            optimizer = of_model(row, model)
            train(model, optimizer, range(3))
            model_state, optimizer_state = get_state_dict(model, optimizer)
            save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=f"{folder}/{row.name}")


def test_a_checkpoint_of_two_processes_goes_on_in_one(tmp_path: Path) -> None:
    """Those whose step works on a shard; the others refuse one (tests/test_contract_distributed.py).

    Without attention: its key's bias has a gradient of rounding errors alone, of which Lion would take the sign.
    """
    together(2, tmp_path, saved_by_two, str(tmp_path))
    rows = [row for row in OPTIMIZERS if row.shards == "agree"]
    assert rows
    for row in rows:
        plain, whole = network(attention=False), network(attention=False)
        one, two = of_model(row, plain), of_model(row, whole)
        model_state, optimizer_state = get_state_dict(plain, one)
        loaded = {"model": model_state, "optimizer": optimizer_state}
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that there is one process only
            load(loaded, checkpoint_id=tmp_path / row.name)
        set_state_dict(plain, one, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
        train(plain, one, range(3, 6))
        train(whole, two, range(6))
        for p, q in zip(plain.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)  # two processes add gradients in another order
            for name, value in two.state[q].items():
                torch.testing.assert_close(one.state[p][name], value, rtol=1e-4, atol=1e-7)


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
