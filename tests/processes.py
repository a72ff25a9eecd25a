"""Processes that work together on tensors of the CPU, as the tests start them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore


def together(count: int, folder: Path, work: Callable[..., None], *arguments: Any) -> None:
    """Calls work(*arguments) in `count` new processes, which are a gloo group of one thread each; raises what one of them raises.

    `work` is found by its name in its module, so it must be at the module's top; `folder` is for what they tell each other by.
    """
    store = str(folder / "store")
    torch.multiprocessing.spawn(_worker, (count, store, work, arguments), nprocs=count)  # pyright: ignore[reportPrivateImportUsage]


def _worker(rank: int, count: int, store: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=FileStore(store, count), rank=rank, world_size=count)
    work(*arguments)
    dist.barrier()
    dist.destroy_process_group()
    # A mesh keeps gloo's threads alive. They may let go of tensors while the interpreter ends, for which they ask it: that
    # aborts the process now and then (pytorch/pytorch pull request 179291). So it ends without an interpreter's end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
