"""The torch.optim.Optimizer that all optimizers of this package share.

A subclass says what one step does to one tensor; this class collects the parameters that have gradients, checks all of them before
it changes any, brings them into the form that the kernels take, and hands them over in as few calls as it can.

A subclass gives

    _check(group)                        ValueErrors for its own hyper-parameters
    _init_state(group, param, device)    a parameter's state, without `step` (base: zeros, named by `_state_names`)
    _scalars(group, lr, step)            the numbers that an update takes; lr and step are floats, or 0-d float64 tensors
    _pieces(group, param, work, values)  what to update by what: an Update, how it views tensors like `work` (the parameter
                                         as a dense real tensor), and the state tensors that it takes, views of `values`;
                                         base: everything as flat vectors

State of a parameter p: `step`, a 0-d float32 tensor (on the CPU unless `capturable`), and tensors in p's memory format, in
float32 where p is of a half type. It has its own count of steps, so a late or missing gradient has its own bias correction.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from fast._compile import Kernel, Update, apply, run
from fast._tensors import Slot, State, arranged, flat, number, zeros_like

Group = dict[str, Any]
Piece = tuple[Update, Callable[[Tensor], Tensor], tuple[Tensor, ...]]


class FusedOptimizer(Optimizer):
    """See the module's head. `maximize`, `compile` and `capturable` are every optimizer's."""

    _state_names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")  # in the order in which an update takes them
    _kept: tuple[str, ...] = ("compile", "capturable")  # of this machine: not taken over from a checkpoint
    _options: tuple[str, ...] = ()  # hyper-parameters on which `_pieces` depends
    _contiguous = False  # whether `_pieces` needs contiguous tensors, or takes dense ones of any memory format

    def __init__(self, params: ParamsT, defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params must be an iterable of tensors, of (name, tensor) pairs or of dicts, got a single Tensor: write"
                " [tensor] or model.parameters()"
            )
        self._slots = {}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group, as torch.optim does; its hyper-parameters are checked before anything changes."""
        if isinstance(param_group, Mapping):
            known = [*self.defaults, "params", "param_names"]
            for key in param_group:
                close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.8)
                if key not in known and close:
                    raise ValueError(f"unknown key {key!r} in a parameter group: did you mean {close[0]!r}?")
            self._check_common({**self.defaults, **param_group})
            self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _check(self, group: Group) -> None:
        raise NotImplementedError(f"{type(self).__name__} must check its hyper-parameters")

    def _scalars(self, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        raise NotImplementedError(f"{type(self).__name__} must say which numbers its update takes")

    def _update(self, group: Group) -> Update:
        raise NotImplementedError(f"{type(self).__name__} must name its elementwise update")

    def _init_state(self, group: Group, param: Tensor, device: Any = None) -> State:
        return {name: zeros_like(param, device) for name in self._state_names}

    def _pieces(self, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Piece]:
        return ((self._update(group), flat, tuple(flat(values[name]) for name in self._state_names)),)

    @staticmethod
    def _check_common(group: Group) -> None:
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
        work = [(group, self._with_gradient(i, group)) for i, group in enumerate(self.param_groups)]
        for group, params in work:
            if params:
                self._step_group(group, params)
        return loss

    def _with_gradient(self, index: int, group: Group) -> list[Tensor]:
        """The group's parameters that have a gradient; raises, before anything has changed, where one cannot be used."""
        params = [p for p in group["params"] if p.grad is not None]
        for param in params:
            grad = param.grad
            if grad.layout is not torch.strided:
                i = next(i for i, p in enumerate(group["params"]) if p is param)
                names = group.get("param_names")
                name = repr(names[i]) if names else f"number {i} of group {index}"
                raise ValueError(
                    f"{type(self).__name__} takes dense gradients, got one of layout {grad.layout} for parameter {name} of"
                    f" shape {tuple(param.shape)}: build its embedding with sparse=False, or give it to torch.optim.SparseAdam"
                )
        return params

    def _step_group(self, group: Group, params: list[Any]) -> None:
        if group["capturable"] or torch.compiler.is_compiling():
            return self._step_on_device(group, params)
        copies: list[tuple[Tensor, Tensor]] = []
        steps = []
        batches: dict[Any, list[tuple[Tensor, ...]]] = {}
        options = tuple(group[key] for key in self._options)
        for param in params:
            grad = param.grad
            state = self.state[param] or self._fresh_state(group, param)
            steps.append(step := state["step"])
            slot = self._slots.get(id(param))
            if slot is None or not slot.fits(param, grad, state, options):
                grad, slot = self._new_slot(group, param, state, options, copies)
            count, dtype = step.item(), grad.dtype
            for place, view, tensor, states in slot.pieces:
                key = (place, count, dtype)
                item = (tensor, view(grad), *states)
                if key in batches:
                    batches[key].append(item)
                else:
                    batches[key] = [item]
        lr = float(group["lr"])
        for ((update, _), count, _), items in batches.items():
            kernel = Kernel(update, group["maximize"], items[0][0].device, tuple(t.dtype for t in items[0]))
            run(kernel, group["compile"], self._scalars(group, lr, count + 1), items)
        for target, source in copies:
            target.copy_(source)
        torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
        return None

    def _step_on_device(self, group: Group, params: list[Tensor]) -> None:
        """The same with nothing read back to the host, for CUDA graphs and for steps inside the user's own torch.compile."""
        copies: list[tuple[Tensor, Tensor]] = []
        for param in params:
            state = self.state[param] or self._fresh_state(group, param)
            work, grad, values = arranged(param, state, copies, not self._contiguous)
            scalars = self._tensor_scalars(group, param, state["step"])
            for update, view, states in self._pieces(group, param, work, values):
                if work.numel():
                    apply(update, group["maximize"], scalars, [(t,) for t in (view(work), view(grad), *states)])
            state["step"].add_(1)
        for target, source in copies:
            target.copy_(source)

    def _new_slot(
        self, group: Group, param: Tensor, state: State, options: tuple[Any, ...], copies: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Slot]:
        """The gradient as the kernels take it, and the views of everything else, kept for the next steps where they last."""
        work, grad, values = arranged(param, state, copies, not self._contiguous)
        pieces = []
        for update, view, states in self._pieces(group, param, work, values) if work.numel() else ():
            tensor = view(work)
            pieces.append(((update, (tensor.shape, tensor.dtype, tensor.device)), view, tensor, states))
        slot = Slot(param, state, options, pieces)
        if work is param and param.is_contiguous():
            self._slots[id(param)] = slot
        else:
            self._slots.pop(id(param), None)
        return grad, slot

    def _fresh_state(self, group: Group, param: Tensor) -> State:
        state = self.state[param]
        state["step"] = torch.zeros((), dtype=torch.float32, device=param.device if group["capturable"] else "cpu")
        state.update(self._init_state(group, param))
        return state

    def _tensor_scalars(self, group: Group, param: Tensor, step: Tensor) -> tuple[Any, ...]:
        """The update's numbers as tensors, computed in float64 where `step` lies: nothing is read back to the host."""
        lr = group["lr"]
        values = self._scalars(group, lr.double() if isinstance(lr, Tensor) else lr, step.double() + 1)
        dtype = torch.float64 if param.dtype in (torch.float64, torch.complex128) else torch.float32
        return tuple(x.to(dtype) if isinstance(x, Tensor) else x for x in values)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict()` returned, or that of another optimizer whose state has the same names (AdamW's, say).

        Unlike torch's, it keeps float32 state of half-precision parameters, copies instead of sharing the tensors, refuses
        state of a wrong name or shape with a ValueError before it changes anything, and keeps this optimizer's own `compile`
        and `capturable`, which belong to the machine.
        """
        own = [{k: group[k] for k in self._kept} for group in self.param_groups]
        found: dict[Tensor, State] = {}

        def check(_: Optimizer, loaded: dict[str, Any]) -> None:
            if len(loaded["param_groups"]) != len(self.param_groups):
                return  # torch's own check, with its message, comes next
            for group, saved in zip(self.param_groups, loaded["param_groups"], strict=True):
                self._check_loaded(group, saved)
                for param, key in zip(group["params"], saved["params"], strict=False):
                    if key in loaded["state"]:
                        found[param] = self._checked_state(group, param, key, loaded["state"][key])

        def restore(_: Optimizer) -> None:
            for group, machine in zip(self.param_groups, own, strict=True):
                group.update(machine)
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
        """Raises a ValueError where a saved group cannot be this one; base: any can."""

    def _checked_state(self, group: Group, param: Tensor, key: Any, state: Mapping[str, Any]) -> State:
        for name, like in {"step": torch.zeros(()), **self._init_state(group, param, "meta")}.items():
            value = state.get(name)
            if value is None or (isinstance(value, Tensor) and value.shape != like.shape):
                shape = "nothing" if value is None else f"shape {tuple(value.shape)}"
                raise ValueError(
                    f"the state of parameter {key} must have {name!r} of shape {tuple(like.shape)}, got {shape}: this state_dict"
                    f" is of another model or another optimizer than {type(self).__name__}"
                )
        return dict(state)

    def _fitted(self, group: Group, param: Tensor, state: State) -> State:
        """A copy of `state` on the parameter's device, in the dtypes and the memory format of fresh state."""
        fresh = {"step": torch.zeros((), device=param.device if group["capturable"] else "cpu")}
        fresh.update(self._init_state(group, param))
        for name, tensor in fresh.items():
            value = state[name]
            tensor.copy_(value) if isinstance(value, Tensor) else tensor.fill_(value)
        return fresh

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._slots: dict[int, Slot] = {}  # views, no state: rebuilt where they are missing
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
