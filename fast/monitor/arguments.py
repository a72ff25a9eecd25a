"""What `fast.Monitor` is given (settings, names, writers), and what is said where it cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, SupportsFloat

from torch import Tensor
from torch.optim import Optimizer


class Writer(Protocol):
    """What TensorBoard's SummaryWriter has, and what is used of it."""

    def add_scalar(self, tag: str, value: float, step: int, /) -> Any: ...


def checked(writer: Any) -> Writer:
    if not callable(getattr(writer, "add_scalar", None)):
        raise TypeError(
            f"writer must have add_scalar(tag, value, step), got {type(writer).__name__}: give a"
            " torch.utils.tensorboard.SummaryWriter or an object with that method"
        )
    return writer


def integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer >= {least}, got {value!r} of type {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value}")
    return value


def number(name: str, value: Any) -> float:
    """As a float, which may be nan or infinite; torch's and NumPy's numbers of one element too."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            raise ValueError(
                f"{name} must be one real number, got a {value.dtype} tensor of shape {tuple(value.shape)}: take its mean or sum"
            )
        return float(value)
    if isinstance(value, (bool, str)) or not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    return float(value)


def named(optimizer: Optimizer, names: Any) -> dict[int, str] | None:
    """Names by the identity of their parameters, which the optimizer keeps alive; None for all, as the groups name them."""
    if names is True:
        return None
    known = {
        name_of(group, i, k): p for i, group in enumerate(optimizer.param_groups) for k, p in enumerate(group["params"])
    }
    if isinstance(names, Mapping):
        theirs = {id(p) for p in known.values()}
        strange = [name for name, p in names.items() if id(p) not in theirs]
        if strange:
            raise ValueError(f"names has a parameter that the optimizer has not: {strange[0]!r}; leave it out")
        return {id(p): str(name) for name, p in names.items()}
    if isinstance(names, str) or not isinstance(names, Iterable):
        if names is None or names is False:
            return {}
        raise TypeError(f"names must be True, a list of names or a mapping of names to parameters, got {names!r}")
    found = {}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.0)
            raise ValueError(f"no parameter is named {name!r}; there are {', '.join(map(repr, close))} and others")
        found[id(known[name])] = name
    return found


def name_of(group: Mapping[str, Any], index: int, number: int) -> str:
    given = group.get("param_names")
    return given[number] if given else f"group{index}.{number}"


def write(writer: Writer, record: Mapping[str, float], prefix: str) -> None:
    """Gives a record to a writer, its numbers tagged with `prefix` and their names."""
    for key, value in record.items():
        if key != "step":
            writer.add_scalar(prefix + key, value, int(record["step"]))
