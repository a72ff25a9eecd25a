"""What every optimizer of this package asks of its parameters and groups before it takes them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Container, Iterable, Mapping
from numbers import Integral, Real
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fast._engine.checkpoint import CheckpointedOptimizer, Group
from fast._engine.flat_shards import Given
from fast._kernels.tensors import number

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


def users_line() -> int:
    """The `stacklevel` with which a warning, given by the caller of this, names the user's own line."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("fast", "torch"):
        frame, level = frame.f_back, level + 1
    return level


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


def hyper_parameters(arguments: Mapping[str, Any], *others: str) -> Group:
    """What an optimizer's `__init__` was called with, its `locals()`, as a group has it: all but the parameters and `others`."""
    return {name: value for name, value in arguments.items() if name not in ("self", "__class__", "params", *others)}


class CheckedOptimizer(CheckpointedOptimizer):
    """The part of the optimizers' base class that checks what it is given, and changes nothing where it refuses."""

    def __init__(self, params: ParamsT, defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params must be an iterable of tensors, of (name, tensor) pairs or of dicts, got a single Tensor: write"
                " [tensor] or model.parameters()"
            )
        self._given = Given()
        super().__init__(params, plain(defaults, defaults))
        self.defaults = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in self.defaults.items()}
        self._check_whole()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_given" not in vars(self):  # a copy, or out of a pickle; torch calls this when it loads a state_dict, too
            self._given = Given([p for group in self.param_groups for p in group["params"]])

    def _needs_whole(self, group: Group, param: Tensor) -> bool:
        """Whether the step of a parameter depends on its shape, or on all of its entries; base: no, it is elementwise."""
        return False

    def _check_whole(self) -> None:
        if type(self)._needs_whole is not CheckedOptimizer._needs_whole:
            self._given.check_whole(type(self).__name__, self.param_groups, self._needs_whole)

    def _check(self, group: Group) -> None:
        raise NotImplementedError(f"{type(self).__name__} must check its hyper-parameters")

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group, as torch.optim does; its hyper-parameters are checked before anything changes."""
        if isinstance(param_group, Mapping):
            check_keys(param_group, self.defaults)
            group = self._plain({**self.defaults, **param_group})
            check_common(group)
            self._check(group)
            self._unshare(group, [*self.param_groups, self.defaults] if self.param_groups else [])
            param_group = {**group, "params": each_once(param_group["params"])}
        super().add_param_group(param_group)
        self._given.add(self.param_groups[-1]["params"])

    def _plain(self, group: Mapping[str, Any]) -> Group:
        return plain(group, self.defaults)

    def _unshare(self, group: Group, others: Iterable[Group]) -> None:
        """Gives the group a copy of each tensor that is another's hyper-parameter, too: schedulers write a tensor in place."""
        for key, value in group.items():
            if key in self.defaults and isinstance(value, Tensor) and any(_shared(value, o.get(key)) for o in others):
                group[key] = value.detach().clone()

    def _check_loaded(self, group: Group, saved: Group) -> None:
        check_common(group)
        self._check(group)
        differs = "keeps the largest second moment (amsgrad)" if saved.get("amsgrad") else None
        if saved.get("decoupled_weight_decay") is False and saved["weight_decay"] != 0:
            differs = "adds its decay to the gradient (Adam's L2, not decoupled)"
        if differs:
            warnings.warn(
                f"the loaded state_dict is of an optimizer that {differs}, which {type(self).__name__} does not",
                stacklevel=users_line(),
            )

    def _with_gradient(self, index: int, group: Group) -> list[Tensor]:
        """The group's parameters that have a gradient; raises, before anything has changed, where one cannot be used."""
        if index == 0 and not torch.compiler.is_compiling():
            self._check_whole()  # of all groups: who flattens parameters may do it after the optimizer was built
        grads = list(map(attrgetter("grad"), group["params"]))
        params = [p for p, grad in zip(group["params"], grads, strict=True) if grad is not None]
        for dtype in set(map(attrgetter("dtype"), params)):  # thousands of parameters have few dtypes and layouts
            if not (dtype.is_floating_point or dtype.is_complex):
                param = next(p for p in params if p.dtype == dtype)
                raise TypeError(
                    f"{type(self).__name__} takes floating or complex parameters, got one of {param.dtype}, of shape"
                    f" {tuple(param.shape)}: a step would be rounded away"
                )
            if dtype.itemsize < 2:
                param = next(p for p in params if p.dtype == dtype)
                raise TypeError(
                    f"{type(self).__name__} takes parameters of 16 bits and more, got one of {param.dtype}, of shape"
                    f" {tuple(param.shape)}: torch has no arithmetic for it; train it in bfloat16"
                )
        sparse = {grad.layout for grad in grads if grad is not None} - {torch.strided}
        if sparse:
            i = next(i for i, grad in enumerate(grads) if grad is not None and grad.layout in sparse)
            names = group.get("param_names")
            name = repr(names[i]) if names else f"number {i} of group {index}"
            raise ValueError(
                f"{type(self).__name__} takes dense gradients, got one of layout {grads[i].layout} for parameter {name} of"
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
