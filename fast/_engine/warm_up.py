"""Compiles the kernels of a GPU before the first step needs them."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fast._engine.checks import Group
from fast._engine.optimizer import FusedOptimizer
from fast._engine.step import Caches, Step
from fast._kernels.gpu.launch import Plan, on
from fast._kernels.tensors import is_dtensor
from fast._kernels.update import Kernel, ready


def warm_up(optimizer: torch.optim.Optimizer) -> int:
    """Compiles the kernels of a step in which all parameters on GPUs have gradients of their dtypes; returns how many it needs.

    Nothing moves: parameters, state, gradients and counts of steps stay as they are, and no memory of their size is taken. The
    machine code goes into Triton's cache (the variable TRITON_CACHE_DIR, else ~/.triton/cache). Where the ranks of a cluster share
    it, rank 0 warms up, all wait at a barrier, and the others then warm up from what it has left there. For parameters on a CPU
    nothing is done: there one kernel, compiled in seconds, serves tensors of all sizes.

    TypeError for an optimizer that is not of this package; RuntimeError where compilation fails and `compile=True`. Where it fails
    and `compile=None`, a warning says so once, as in a step.
    """
    if not isinstance(optimizer, FusedOptimizer):
        raise TypeError(f"warm_up takes an optimizer of this package, got {type(optimizer).__name__}")
    groups = [group for group in optimizer.param_groups if group["compile"] is not False]
    places = [(group, device) for group in groups for device in sorted({p.device for p in group["params"]}, key=str)]
    return sum(_kernels(optimizer, *place) for place in places if on_gpu(place[1]))


def on_gpu(device: torch.device) -> bool:
    return device.type not in ("cpu", "meta")


def _kernels(optimizer: FusedOptimizer, group: Group, device: torch.device) -> int:
    """Those of a group's parameters on a device: a step of tensors that have shapes and no memory, of which none runs."""
    here = [i for i, p in enumerate(group["params"]) if p.device == device]
    mine = {**group, "params": [_without_memory(group["params"][i]) for i in here]}
    mine |= {name: [group[name][i] for i in here] for name in ("param_names", "blocks") if name in group}
    shadow = copy.copy(optimizer)
    shadow.__dict__ |= {"state": defaultdict(dict), "param_groups": [mine], "_caches": Caches()}
    found: list[Plan] = []

    def prepared(kernel: Kernel, compile: bool | None, scalars: Any, items: Any) -> Any:
        with on(device):
            found.append(Plan(replace(kernel, device=device), len(scalars), items, [True] * len(items)))
        ready(found[-1].error or found[-1].step, compile)
        return found[-1].step

    shadow.__dict__["_prepared"] = prepared
    step = Step(shadow)
    (step.on_device if group["capturable"] else step.each)(mine, mine["params"])
    return sum(len(launch.works) for plan in found for launch in plan.launches)


def _without_memory(param: Tensor) -> Tensor:
    def empty(t: Tensor) -> Tensor:
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")

    dtensor: Any = param
    if is_dtensor(param):
        from torch.distributed.tensor import DTensor

        local = empty(dtensor.to_local())
        made = DTensor.from_local(
            local,
            dtensor.device_mesh,
            dtensor.placements,
            run_check=False,
            shape=dtensor.shape,
            stride=dtensor.stride(),
        )
    else:
        made = empty(param)
    made = torch.nn.Parameter(made, requires_grad=False)
    made.grad = torch.empty_like(made)
    if hasattr(param, "use_spectral_decay"):
        made.use_spectral_decay = dtensor.use_spectral_decay  # pyright: ignore[reportAttributeAccessIssue]
    return made
