"""The base class of all optimizers of this package. Begin here: `step`, and what a new optimizer gives.

A subclass gives

    _check(group)                        ValueErrors for its own hyper-parameters
    _scalars(group, lr, step)            the numbers that an update takes; lr and step are floats, or 0-d float64 tensors
    _update(group)                       its elementwise update; or, where one is not enough,
    _calls(group, param, work, values)   what to update by what: an Update, how it views tensors like `work` (the parameter as
                                         a dense real tensor), and what state it takes of `values` (base: flat vectors)
    _init_state(group, param, device)    a parameter's state, without `step` (base: zeros, named by `_state_names`)

Checks, checkpoints, storage and the step itself are parts in files of those names.

State of a parameter p: `step`, a 0-d float32 tensor (on the CPU unless `capturable`; in float64 from 2^24 steps on), and tensors in
p's memory format, in float32 where p is of a half type. It has its own count of steps, so a late or missing gradient has its own
bias correction.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, TypedDict, get_type_hints, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from fast._engine.calls import Call
from fast._engine.checkpoint import checked_and_copied, checked_state
from fast._engine.checks import (
    Group,
    check_common,
    check_keys,
    each_once,
    plain,
    unshare,
    warn_of_other_rules,
    with_gradient,
)
from fast._engine.flat_shards import Originals
from fast._engine.moments import nearer_ends
from fast._engine.step import Caches, Step
from fast._engine.storage import check_storage, rounds
from fast._kernels.gpu.launch import prepared
from fast._kernels.rounding import KEY
from fast._kernels.tensors import State, flat, zeros_like
from fast._kernels.update import Update


class Options(TypedDict, total=False):
    """The options that every optimizer of this package has; `fast.Grams` says what they mean."""

    stochastic_rounding: bool
    rounding_seed: int
    exp_avg_dtype: torch.dtype | None
    maximize: bool
    compile: bool | None
    capturable: bool


DEFAULTS: Group = {
    "stochastic_rounding": False,
    "rounding_seed": 0,
    "exp_avg_dtype": None,
    "maximize": False,
    "compile": None,
    "capturable": False,
}


def hyper_parameters(arguments: Mapping[str, Any], *others: str) -> Group:
    """What an optimizer's `__init__` was called with, its `locals()`, as a group has it: all but the parameters and `others`."""
    options = arguments["options"]
    if unknown := options.keys() - DEFAULTS.keys():
        name = type(arguments["self"]).__name__
        raise TypeError(f"{name}.__init__() got an unexpected keyword argument {min(unknown)!r}")
    left_out = ("self", "__class__", "params", "options", *others)
    return {**{k: v for k, v in arguments.items() if k not in left_out}, **DEFAULTS, **options}


class FusedOptimizer(Optimizer):
    """See the module's head."""

    __signature__: inspect.Signature
    _state_names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")  # state of the parameter's shape, in an update's order
    _optional: tuple[str, ...] = (KEY,)  # state that a checkpoint need not have: fresh where it is missing
    # not taken from a checkpoint
    _kept: tuple[str, ...] = ("stochastic_rounding", "exp_avg_dtype", "compile", "capturable")
    _options: tuple[str, ...] = ()  # hyper-parameters on which `_calls` depends
    _contiguous = False  # whether `_calls` needs contiguous tensors, or takes dense ones of any memory format
    _follows = False  # whether `_follow` is to be called before an update
    _prepared = staticmethod(prepared)  # what a GPU's kernels take

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Shows the options that all have in the signature, as an editor and `inspect` ask for it."""
        super().__init_subclass__(**kwargs)
        signature = inspect.signature(cls.__init__)
        _, *own = signature.parameters.values()
        if own and (own[-1].name, own[-1].kind) == ("options", inspect.Parameter.VAR_KEYWORD):
            hints = get_type_hints(Options)
            own[-1:] = [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=hints[name])
                for name, value in DEFAULTS.items()
            ]
        cls.__signature__ = signature.replace(parameters=own)

    def __init__(self, params: ParamsT, defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params must be an iterable of tensors, of (name, tensor) pairs or of dicts, got a single Tensor: write"
                " [tensor] or model.parameters()"
            )
        self._caches, self._originals = Caches(), Originals()
        super().__init__(params, plain(defaults, defaults))
        self.defaults = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in self.defaults.items()}
        self._check_whole()

    # What a subclass gives

    def _check(self, group: Group) -> None:
        raise NotImplementedError(f"{type(self).__name__} must check its hyper-parameters")

    def _scalars(self, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        raise NotImplementedError(f"{type(self).__name__} must say which numbers its update takes")

    def _update(self, group: Group) -> Update:
        raise NotImplementedError(f"{type(self).__name__} must name its elementwise update")

    def _calls(self, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Call]:
        return (Call(self._update(group), flat, tuple(flat(values[name]) for name in self._state_names)),)

    def _init_state(self, group: Group, param: Tensor, device: Any = None) -> State:
        return {name: zeros_like(param, device) for name in self._state_names}

    # What it may give

    def _packed_update(self, group: Group, param: Tensor) -> Update | None:
        """The update that a small parameter may take side by side with others, its state that of `_state_names`; or None."""
        update = self._update(group)
        return update if update.elementwise else None

    def _needs_whole(self, group: Group, param: Tensor) -> bool:
        """Whether the step of a parameter depends on its shape, or on all of its entries; base: no, it is elementwise."""
        return False

    def _before(self, group: Group) -> None:
        """What is to be said once a step before anything changes; base: nothing."""

    def _follow(self, param: Tensor, state: State) -> None:
        """Brings the state up to what somebody else may have made of the parameter; base: nothing."""

    def _views_depend_on(self, group: Group) -> tuple[Any, ...]:
        """What of a group decides by which calls its parameters are updated."""
        return (*nearer_ends(group["betas"]), group["stochastic_rounding"], *(group[key] for key in self._options))

    def _check_loaded(self, group: Group, saved: Group) -> None:
        """Raises a ValueError where a saved group cannot be this one. `group` is what this one would become."""
        check_common(group)
        self._check(group)
        warn_of_other_rules(type(self).__name__, saved)

    def _checked_state(self, group: Group, param: Tensor, key: Any, state: Mapping[str, Any]) -> State:
        return checked_state(self, group, param, key, state)

    # torch.optim's interface

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step. `closure`, if given, clears the gradients, computes the loss with gradients enabled and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        step = Step(self)
        ready = [(group, self._with_gradient(i, group, step)) for i, group in enumerate(self.param_groups)]
        for i, (group, params) in enumerate(ready):
            if params:
                step.prepare(i, group, params)
        step.run()
        return loss

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group, as torch.optim does; its hyper-parameters are checked before anything changes."""
        if isinstance(param_group, Mapping):
            check_keys(param_group, self.defaults)
            group = plain({**self.defaults, **param_group}, self.defaults)
            check_common(group)
            check_storage(group)
            self._check(group)
            unshare(group, [*self.param_groups, self.defaults] if self.param_groups else [], self.defaults)
            param_group = {**group, "params": each_once(param_group["params"])}
        super().add_param_group(param_group)
        self._originals.add(self.param_groups[-1]["params"])
        try:
            for param in self.param_groups[-1]["params"]:
                rounds(self.param_groups[-1], param)
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict()` returned, or that of another optimizer whose state has the same names (AdamW's, say).

        Unlike torch's, it keeps float32 state of half-precision parameters, copies instead of sharing the tensors, refuses
        state of a wrong name or shape and hyper-parameters that are out of range before it changes anything, and keeps this
        optimizer's own `compile`, `capturable`, `stochastic_rounding` and `exp_avg_dtype`: how numbers are worked on and
        stored is no part of what was saved.
        """
        with checked_and_copied(self):
            super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_originals" not in vars(
            self
        ):  # a copy, or out of a pickle; torch calls this when it loads a state_dict, too
            self._originals = Originals([p for group in self.param_groups for p in group["params"]])
        self.defaults.pop("differentiable", None)  # torch's own addition: no hyper-parameter of ours
        self._caches = Caches()
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)

    def _with_gradient(self, index: int, group: Group, step: Step) -> list[Tensor]:
        """The parameters that have a gradient, but those of buckets, of which nothing is to be asked any more."""
        if index == 0 and not torch.compiler.is_compiling():
            self._check_whole()  # of all groups: who flattens parameters may do it after the optimizer was built
        grads = list(map(attrgetter("grad"), group["params"]))
        known = step.buckets(index, group, grads)
        if len(known) == len(grads):
            return []
        params = with_gradient(type(self).__name__, index, group, grads, known)
        for param in params if group["stochastic_rounding"] else ():
            rounds(group, param)
        return params

    def _check_whole(self) -> None:
        if type(self)._needs_whole is not FusedOptimizer._needs_whole:
            self._originals.check_whole(type(self).__name__, self.param_groups, self._needs_whole)
