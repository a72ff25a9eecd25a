"""Checkpoints: weights, optimizer, schedule, data's and random state, in a file that appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def replace_file(path: Path, data: bytes) -> None:
    """Writes `path` whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def save(
    path: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LambdaLR,
    source: Any,
    device: torch.device,
) -> None:
    """`source`: of a task; one whose data depend on the run has a state_dict, the others follow from seed and step."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "source": source.state_dict() if hasattr(source, "state_dict") else None,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, partial)
    partial.replace(path)


def restore(
    path: Path, model: nn.Module, optimizer: Optimizer, schedule: LambdaLR, source: Any, device: torch.device
) -> int:
    """Puts a checkpoint back in place; returns the number of steps that it has behind it."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    if state["source"] is not None:
        source.load_state_dict(state["source"])
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] is not None:
        torch.cuda.set_rng_state(state["cuda_rng"], device)
    return state["step"]
