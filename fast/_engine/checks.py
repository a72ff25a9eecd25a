"""The checks of parameters, gradients and hyper-parameters, all made before anything changes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Container, Iterable, Mapping
from numbers import Integral, Real
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from fast._kernels.update import users_line

Group = dict[str, Any]

SYNONYMS = {"epsilon": "eps", "wd": "weight_decay", "learning_rate": "lr", "beta1": "betas", "beta2": "betas"}
SWITCHES = (
    "amsgrad",
    "differentiable",
    "foreach",
    "fused",
)  # of torch.optim: without effect here, so not to be switched on


def check_keys(group: Mapping[str, Any], known: Iterable[str]) -> None:
    """ValueError where a key of a group is a hyper-parameter's, misspelt; other keys are the user's own."""
    known = list(known)
    for key, value in group.items():
        if key in known or key in ("params", "param_names"):
            continue
        if key in SWITCHES and value:
            raise ValueError(
                f"{key}={value!r} in a parameter group: this optimizer has no option {key!r}, leave it out"
            )
        meant = SYNONYMS.get(key) or next((name for name in known if _misspelt(str(key), name)), None)
        if meant is not None:
            what = f"did you mean {meant!r}?" if meant in known else f"this optimizer has no {meant!r}, leave it out"
            raise ValueError(f"unknown key {key!r} in a parameter group: {what}")


def _misspelt(key: str, name: str) -> bool:
    """Whether `key` is `name` but for a typing error, and no longer name: "weight_deacy", not "no_weight_decay"."""
    if f"_{name}_" in f"_{key}_":
        return False
    edits = _edits(key.lower(), name)
    if len(name) < 5:  # where one letter makes another word: "lr", "eps"
        return edits == 0 or (edits == 1 and len(name) > 2 and sorted(key) == sorted(name))
    return edits <= (2 if len(name) > 9 else 1)


def _edits(a: str, b: str) -> int:
    """How many letters are to be put in, left out, replaced or exchanged with their neighbour to make `b` of `a`."""
    before, row = [0], [*range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and (x, a[i - 2]) == (b[j - 2], y):
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Refuses what is not a finite number in [low, high) (in (low, high) with `above`)."""
    if isinstance(value, bool) or not isinstance(value, (Real, Tensor)):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    entry = _only_entry(name, value) if isinstance(value, Tensor) else float(value)
    if not math.isfinite(entry) or not (low < entry if above else low <= entry) or not entry < high:
        until = "" if high == math.inf else f" and < {high:g}"
        raise ValueError(f"{name} must be a finite number {'>' if above else '>='} {low:g}{until}, got {value}")


def _only_entry(name: str, value: Tensor) -> float:
    if value.numel() != 1:
        raise ValueError(f"{name} as a tensor must have one element, got shape {tuple(value.shape)}")
    try:
        entry = value.item()
    except RuntimeError as error:
        raise ValueError(
            f"{name} as a tensor must hold a number that can be read, got {value!r}: pass a float, or a tensor of a device"
            " that has memory"
        ) from error
    if isinstance(entry, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if isinstance(entry, complex):
        raise ValueError(f"{name} must be a real number, got {entry}")
    if value.layout != torch.strided or value.is_quantized or (value.is_floating_point() and value.dtype.itemsize < 2):
        raise ValueError(
            f"{name} as a tensor must be a dense one of a dtype that torch calculates with, got {value!r}: pass a float"
        )
    return float(entry)


def check_common(group: Mapping[str, Any]) -> None:
    """Raises where a hyper-parameter that all optimizers have is not what it should be."""
    number("lr", group["lr"], 0.0)
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


def plain(group: Mapping[str, Any], names: Container[str]) -> Group:
    """A copy of a group, whose hyper-parameters, of these names, become what a state_dict can hold: numbers, strings, tensors."""
    return {k: (_pair if k == "betas" else _plain)(v) if k in names else v for k, v in group.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.dtype):  # which torch.distributed.checkpoint does not take
        return str(value).removeprefix("torch.")
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, Tensor) or type(value) in (bool, int, float):
        return value
    if getattr(value, "shape", None) == () and hasattr(
        value, "item"
    ):  # NumPy's numbers, and its arrays of no dimension
        return value.item()
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _pair(value: Any) -> Any:
    """Any sequence (a tensor, an array, a configuration's list) as a tuple of numbers; a list stays one."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(type(value), "__getitem__"):
        return value
    try:
        items = list(value)
    except TypeError:  # an array of no dimension
        return value
    items = [x.item() if isinstance(x, Tensor) and x.numel() == 1 and not x.is_meta else _plain(x) for x in items]
    return items if isinstance(value, list) else tuple(items)


def _shared(value: Tensor, other: Any) -> bool:
    """Whether another hyper-parameter would change where somebody, a scheduler, writes this one in place."""
    if value is other or not (type(value) is Tensor and type(other) is Tensor):
        return value is other
    return value.device == other.device and value.device.type != "meta" and value.data_ptr() == other.data_ptr()


def unshare(group: Group, others: Iterable[Mapping[str, Any]], names: Container[str]) -> None:
    """Gives the group a copy of each tensor that is another's hyper-parameter, too: schedulers write a tensor in place."""
    for key, value in group.items():
        if key in names and isinstance(value, Tensor) and any(_shared(value, other.get(key)) for other in others):
            group[key] = value.detach().clone()


def warn_of_other_rules(name: str, saved: Mapping[str, Any]) -> None:
    """Warns where a saved group is of an optimizer with AdamW's state and another rule."""
    differs = "keeps the largest second moment (amsgrad)" if saved.get("amsgrad") else None
    if saved.get("decoupled_weight_decay") is False and saved["weight_decay"] != 0:
        differs = "adds its decay to the gradient (Adam's L2, not decoupled)"
    if differs:
        warnings.warn(
            f"the loaded state_dict is of an optimizer that {differs}, which {name} does not", stacklevel=users_line()
        )


def with_gradient(
    name: str, index: int, group: Mapping[str, Any], grads: list[Any], known: Collection[int]
) -> list[Tensor]:
    """The group's parameters that have one of `grads`, but those known by their ids; raises where one cannot be used."""
    params = [p for p, grad in zip(group["params"], grads, strict=True) if grad is not None]
    params = [p for p in params if id(p) not in known] if known else params
    for dtype in set(map(attrgetter("dtype"), params)):  # thousands of parameters have few dtypes and layouts
        if not (dtype.is_floating_point or dtype.is_complex):
            param = next(p for p in params if p.dtype == dtype)
            raise TypeError(
                f"{name} takes floating or complex parameters, got one of {param.dtype}, of shape"
                f" {tuple(param.shape)}: a step would be rounded away"
            )
        if dtype.itemsize < 2:
            param = next(p for p in params if p.dtype == dtype)
            raise TypeError(
                f"{name} takes parameters of 16 bits and more, got one of {param.dtype}, of shape"
                f" {tuple(param.shape)}: torch has no arithmetic for it; train it in bfloat16"
            )
    sparse = {grad.layout for grad in grads if grad is not None} - {torch.strided}
    if sparse:
        i = next(i for i, grad in enumerate(grads) if grad is not None and grad.layout in sparse)
        names = group.get("param_names")
        which = repr(names[i]) if names else f"number {i} of group {index}"
        raise ValueError(
            f"{name} takes dense gradients, got one of layout {grads[i].layout} for parameter {which} of"
            f" shape {tuple(grads[i].shape)}: build its embedding with sparse=False, or give it to torch.optim.SparseAdam"
        )
    return params


def each_once(params: Any) -> Any:
    """Parameters, or (name, parameter) pairs, each once: a second step with the same gradient would be nobody's intention."""
    if isinstance(params, (Tensor, set)):  # torch takes the first, and refuses the second
        return params
    params = list(params)
    tensors = [p[1] if isinstance(p, tuple) and len(p) == 2 else p for p in params]
    firsts = {id(p): i for i, p in reversed([*enumerate(tensors)])}
    if len(firsts) < len(params):
        twice = ", ".join(
            str(tuple(p.shape)) for i, p in enumerate(tensors) if firsts[id(p)] != i and isinstance(p, Tensor)
        )
        warnings.warn(
            f"a group holds the same parameters twice, of shape {twice}: each takes one step", stacklevel=users_line()
        )
    return [p for i, p in enumerate(params) if firsts[id(tensors[i])] == i]
