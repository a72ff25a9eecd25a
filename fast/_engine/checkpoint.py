"""Loading a checkpoint without losing what it holds: the part of the optimizers' base class that is about saved state.

torch.optim casts floating state to the parameter's dtype when it loads, so that float32 state of a bfloat16 parameter is lost,
and shares its tensors with the dictionary that it was given. Neither happens here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fast._kernels.tensors import State

Group = dict[str, Any]
# what optimizers keep for themselves; other entries of a state are the user's
OWNED = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "mu_product", "u", "sigma", "master_param", "rounding_key"}


class CheckpointedOptimizer(Optimizer):
    """An Optimizer that checks a state_dict before it changes anything, and takes over copies in its own dtypes."""

    _kept: tuple[str, ...] = ("compile", "capturable")  # of this machine: not taken over from a checkpoint
    _optional: tuple[str, ...] = ()  # state that a checkpoint need not have: fresh where it is missing

    def _init_state(self, group: Group, param: Tensor, device: Any = None) -> State:
        """A parameter's fresh state, without `step`."""
        raise NotImplementedError(f"{type(self).__name__} must say which state it has")

    def _new_state(self, group: Group, param: Tensor, device: Any = None) -> State:
        """The same in the dtypes in which this group keeps it."""
        return self._init_state(group, param, device)

    def _new_step(self, group: Group, param: Tensor) -> Tensor:
        """A parameter's count of steps."""
        return torch.zeros((), dtype=torch.float32, device=param.device if group["capturable"] else "cpu")

    def _plain(self, group: Mapping[str, Any]) -> Group:
        """A copy of a group whose hyper-parameters are what a state_dict can hold."""
        return dict(group)

    def _unshare(self, group: Group, others: Iterable[Group]) -> None:
        """Gives the group tensors of its own."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict()` returned, or that of another optimizer whose state has the same names (AdamW's, say).

        Unlike torch's, it keeps float32 state of half-precision parameters, copies instead of sharing the tensors, refuses
        state of a wrong name or shape and hyper-parameters that are out of range before it changes anything, and keeps this
        optimizer's own `compile`, `capturable`, `stochastic_rounding` and `exp_avg_dtype`: how numbers are worked on and
        stored is no part of what was saved.
        """
        own: list[Group] = [{k: group[k] for k in self._kept} for group in self.param_groups]
        found: dict[Tensor, State] = {}

        def check(_: Optimizer, loaded: dict[str, Any]) -> None:
            if len(loaded["param_groups"]) != len(self.param_groups):
                return  # torch's own check, with its message, comes next
            for group, saved, kept in zip(self.param_groups, loaded["param_groups"], own, strict=True):
                # what an older checkpoint has not
                kept.update({key: group[key] for key in self.defaults if key in group and key not in saved})
                mine = ("params", "param_names", *self._kept)
                merged = self._plain({**group, **{key: value for key, value in saved.items() if key not in mine}})
                self._check_loaded(merged, saved)
                for param, key in zip(group["params"], saved["params"], strict=False):
                    if key in loaded["state"]:
                        found[param] = self._checked_state(merged, param, key, loaded["state"][key])

        def restore(_: Optimizer) -> None:
            for i, (group, machine) in enumerate(zip(self.param_groups, own, strict=True)):
                group.update(self._plain({**group, **machine}))
                self._unshare(group, self.param_groups[:i])
                for param in group["params"]:
                    if param in found:
                        self.state[param] = self._fitted(group, param, found[param])

        handles = (
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()

    def _check_loaded(self, group: Group, saved: Group) -> None:
        """Raises a ValueError where a saved group cannot be this one. `group` is what this one would become."""

    def _checked_state(self, group: Group, param: Tensor, key: Any, state: Mapping[str, Any]) -> State:
        for name, like in {"step": torch.zeros((), device="meta"), **self._new_state(group, param, "meta")}.items():
            value = state.get(name)
            if value is None and name in self._optional:
                continue
            if value is None or (isinstance(value, Tensor) and value.shape != like.shape):
                shape = "nothing" if value is None else f"shape {tuple(value.shape)}"
                raise ValueError(
                    f"the state of parameter {key} must have {name!r} of shape {tuple(like.shape)}, got {shape}: this state_dict"
                    f" is of another model or another optimizer than {type(self).__name__}"
                )
        return dict(state)

    def _fitted(self, group: Group, param: Tensor, state: State) -> State:
        """A copy of `state` on the parameter's device, in the dtypes and the memory format of fresh state."""
        fresh = {"step": self._new_step(group, param), **self._new_state(group, param)}
        if (
            isinstance(state.get("step"), Tensor) and state["step"].dtype == torch.float64
        ):  # it may be beyond float32's counts
            fresh["step"] = fresh["step"].double()
        for name, value in state.items():
            if name in fresh and value is not None:
                fresh[name].copy_(value) if isinstance(value, Tensor) else fresh[name].fill_(value)
            elif name not in OWNED:  # the user's own
                fresh[name] = copy.deepcopy(value)
        return fresh
