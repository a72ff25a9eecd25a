"""What every optimizer of this package asks of a parameter group before it takes it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fast._tensors import number


def check_keys(group: Iterable[Any], known: list[str]) -> None:
    """Raises a ValueError where a key of a group looks like a misspelt hyper-parameter; other keys are the user's own."""
    for key in group:
        close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.8)
        if key not in known and close:
            raise ValueError(f"unknown key {key!r} in a parameter group: did you mean {close[0]!r}?")


def check_common(group: Mapping[str, Any]) -> None:
    """Raises where a hyper-parameter that all optimizers have is not what it should be."""
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr as a tensor must have one element, got shape {tuple(lr.shape)}")
    number("lr", lr, 0.0)
    betas = group["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"betas must be a pair (beta1, beta2), got {betas!r}")
    for i, beta in enumerate(betas):
        number(f"betas[{i}]", beta, 0.0, 1.0)
    number("weight_decay", group["weight_decay"], 0.0)
    for flag, allowed in {
        "maximize": (True, False),
        "capturable": (True, False),
        "compile": (True, False, None),
    }.items():
        if not any(group[flag] is value for value in allowed):
            raise TypeError(f"{flag} must be one of {allowed}, got {group[flag]!r}")
