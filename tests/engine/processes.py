"""Processes that work together on tensors of the CPU, as the tests start them."""

from __future__ import annotations

import faulthandler
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore


def run_in_processes(count: int, folder: Path, work: Callable[..., None], *arguments: Any) -> None:
    """Calls work(*arguments) in `count` new processes, which are a gloo group of one thread each; raises what one of them raises.

    `work` is found by its name in its module, so it must be at the module's top; `folder` is for what they tell each other by.
    """
    path = str(folder / "store")
    torch.multiprocessing.spawn(_worker, (count, path, work, arguments), nprocs=count)  # pyright: ignore[reportPrivateImportUsage]


def _worker(rank: int, count: int, path: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    faulthandler.enable()  # who is killed by a signal says where
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = FileStore(path, count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    work(*arguments)
    # The group is not destroyed, nor the interpreter ended: gloo's threads, which a mesh keeps alive, see the others' sockets
    # close and let go of tensors then, and now and then a process aborts (pytorch/pytorch pull request 179291). What was to be
    # tested is done: all wait for each other without gloo, and end.
    if store.add("done", 1) == count:
        store.set("all done", "")
    store.wait(["all done"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
