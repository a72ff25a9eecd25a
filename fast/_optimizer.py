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

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fast._checkpoint import Group
from fast._checks import check_common, check_keys
from fast._compile import Item, Kernel, Update, apply, updater
from fast._graphs import run_graphs
from fast._moments import nearer_ends
from fast._packs import Packs
from fast._rounding import Piece, StoredOptimizer, check_storage, rounds
from fast._tensors import Slot, State, alias, arranged, flat, zeros_like


class FusedOptimizer(StoredOptimizer):
    """See the module's head. `maximize`, `compile`, `capturable` and the options of fast/_rounding.py are every optimizer's."""

    _state_names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")  # in the order in which an update takes them
    _options: tuple[str, ...] = ()  # hyper-parameters on which `_pieces` depends
    _watches_writes = False  # whether `_pieces` must run again after somebody else wrote a parameter
    _contiguous = False  # whether `_pieces` needs contiguous tensors, or takes dense ones of any memory format

    def __init__(self, params: ParamsT, defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params must be an iterable of tensors, of (name, tensor) pairs or of dicts, got a single Tensor: write"
                " [tensor] or model.parameters()"
            )
        self._slots, self._packs = {}, {}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group, as torch.optim does; its hyper-parameters are checked before anything changes."""
        if isinstance(param_group, Mapping):
            check_keys(param_group, [*self.defaults, "params", "param_names"])
            group = {**self.defaults, **param_group}
            check_common(group)
            check_storage(group)
            self._check(group)
        super().add_param_group(param_group)

    def _check(self, group: Group) -> None:
        raise NotImplementedError(f"{type(self).__name__} must check its hyper-parameters")

    def _before(self, group: Group) -> None:
        """What is to be said once a step before anything changes; base: nothing."""

    def _update(self, group: Group) -> Update:
        raise NotImplementedError(f"{type(self).__name__} must name its elementwise update")

    def _packed_update(self, group: Group, param: Tensor) -> Update | None:
        """The update that a small parameter may take side by side with others, its state that of `_state_names`; or None."""
        update = self._update(group)
        return update if update.elementwise else None

    def _init_state(self, group: Group, param: Tensor, device: Any = None) -> State:
        return {name: zeros_like(param, device) for name in self._state_names}

    def _pieces(self, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Piece]:
        return ((self._update(group), flat, tuple(flat(values[name]) for name in self._state_names)),)

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
        for i, (group, params) in enumerate(work):
            if params:
                self._step_group(i, group, params)
        return loss

    def _with_gradient(self, index: int, group: Group) -> list[Tensor]:
        """The group's parameters that have a gradient; raises, before anything has changed, where one cannot be used."""
        params = [p for p in group["params"] if p.grad is not None]
        for param in params if group["stochastic_rounding"] else ():
            rounds(group, param)
        sparse: list[Any] = [p for p in params if p.grad.layout is not torch.strided]
        if sparse:
            i = next(i for i, p in enumerate(group["params"]) if p is sparse[0])
            names = group.get("param_names")
            name = repr(names[i]) if names else f"number {i} of group {index}"
            raise ValueError(
                f"{type(self).__name__} takes dense gradients, got one of layout {sparse[0].grad.layout} for parameter {name} of"
                f" shape {tuple(sparse[0].shape)}: build its embedding with sparse=False, or give it to torch.optim.SparseAdam"
            )
        return params

    def _step_group(self, index: int, group: Group, params: list[Tensor]) -> None:
        if group["capturable"] or torch.compiler.is_compiling():
            return self._step_on_device(group, params)
        self._before(group)
        jobs: list[Callable[[], object]] = []  # everything is compiled before anything changes
        if params[0].device.type == "cpu":
            params = self._pack(index, group, params, jobs)
        return self._step_each(group, params, jobs)

    def _pack(self, index: int, group: Group, params: list[Tensor], jobs: list[Callable[[], object]]) -> list[Any]:
        """Notes the step of the small parameters that take it many at a time; returns the others that have gradients."""
        packs, rest = self._packs.setdefault(index, Packs()).sort(
            group["params"],
            self.state,
            lambda param: None if self._alone(group, param) else self._packed_update(group, param),
            lambda param: self._fresh_state(group, param),
            self._state_names,
            len(params) == len(group["params"]),
        )
        for pack, count in packs:
            scalars = self._scalars(group, float(group["lr"]), count + 1)
            kernel = Kernel(pack.update, group["maximize"], torch.device("cpu"), pack.dtypes)
            jobs.append(partial(pack.step, updater(kernel, group["compile"], scalars)))
        return rest

    @staticmethod
    def _kernel(update: Update, group: Group, item: Item) -> Kernel:
        return Kernel(update, group["maximize"], item[0].device, tuple(t.dtype for t in item))

    def _step_each(self, group: Group, params: list[Any], jobs: list[Callable[[], object]]) -> None:
        copies: list[tuple[Tensor, Tensor]] = []
        steps, counts = [], []
        batches: dict[Any, list[tuple[Tensor, ...]]] = {}
        options = (*nearer_ends(group["betas"]), group["stochastic_rounding"], *(group[key] for key in self._options))
        for param in params:
            grad = param.grad
            state = self.state[param] or self._fresh_state(group, param)
            steps.append(step := state["step"])
            slot = self._slots.get(id(param))
            if slot is None or not slot.fits(param, grad, state, options):
                grad, slot = self._new_slot(group, param, state, options, copies)
            counts.append(count := step.item())
            dtype = grad.dtype
            for place, view, tensor, states in slot.pieces:
                key = (place, count, dtype)
                item = (tensor, view(grad), *states)
                if key in batches:
                    batches[key].append(item)
                else:
                    batches[key] = [item]
        lr = float(group["lr"])
        for ((update, _), count, _), items in batches.items():
            kernel, scalars = self._kernel(update, group, items[0]), self._numbers(update, group, lr, count + 1)
            if kernel.device.type == "cpu":
                jobs.append(partial(updater(kernel, group["compile"], scalars), items))
            else:  # a compiled graph would ask of a view what it is a view of
                items = [(param, alias(grad), *states) for param, grad, *states in items]
                jobs.append(partial(run_graphs, kernel, group["compile"], scalars, items))
        for job in jobs:
            job()
        for target, source in copies:
            target.copy_(source)
        if self._watches_writes:
            for param in params:
                if id(param) in self._slots:
                    self._slots[id(param)].version = param._version
        for step, count in zip(steps, counts, strict=True):
            step.fill_(count + 1)

    def _step_on_device(self, group: Group, params: list[Tensor]) -> None:
        """The same with nothing read back to the host, for CUDA graphs and for steps inside the user's own torch.compile."""
        copies: list[tuple[Tensor, Tensor]] = []
        batches: dict[Kernel, list[tuple[Tensor, tuple[Tensor, ...]]]] = {}
        for param in params:
            state = self.state[param] or self._fresh_state(group, param)
            work, grad, values = arranged(param, state, copies, not self._contiguous)
            for update, view, states in self._stored_pieces(group, param, work, values) if work.numel() else ():
                item = (view(work), view(grad), *states)
                kernel = self._kernel(update, group, item)
                batches.setdefault(kernel, []).append((state["step"], item))
        for kernel, batch in batches.items():
            if kernel.device.type == "cpu" or torch.compiler.is_compiling():
                for step, item in batch:
                    scalars = self._tensor_scalars(group, kernel, step)
                    apply(kernel.update, kernel.maximize, scalars, [(t,) for t in item])
            else:
                scalars = self._tensor_scalars(group, kernel, torch.stack([step for step, _ in batch]))
                run_graphs(kernel, group["compile"], scalars, [item for _, item in batch])
        for target, source in copies:
            target.copy_(source)
        torch._foreach_add_([self.state[param]["step"] for param in params], 1)  # pyright: ignore[reportPrivateImportUsage]

    def _new_slot(
        self, group: Group, param: Tensor, state: State, options: tuple[Any, ...], copies: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Slot]:
        """The gradient as the kernels take it, and the views of everything else, kept for the next steps where they last."""
        work, grad, values = arranged(param, state, copies, not self._contiguous)
        pieces = []
        for update, view, states in self._stored_pieces(group, param, work, values) if work.numel() else ():
            tensor, states = alias(view(work)), tuple(map(alias, states))
            # a kernel of the CPU takes tensors of one shape, a graph of the GPU all at once
            shape = tensor.shape if tensor.device.type == "cpu" else None
            pieces.append(((update, (shape, tensor.dtype, tensor.device)), view, tensor, states))
        slot = Slot(param, state, options, pieces, param._version if self._watches_writes else None)
        if work is param and param.is_contiguous():
            self._slots[id(param)] = slot
        else:
            self._slots.pop(id(param), None)
        return grad, slot

    def _fresh_state(self, group: Group, param: Tensor) -> State:
        state = self.state[param]
        state["step"] = torch.zeros((), dtype=torch.float32, device=param.device if group["capturable"] else "cpu")
        state.update(self._new_state(group, param))
        return state

    def _tensor_scalars(self, group: Group, kernel: Kernel, step: Tensor) -> tuple[Any, ...]:
        """The update's numbers as tensors, computed in float64 where `step` lies: nothing is read back to the host."""
        lr = group["lr"]
        if isinstance(lr, Tensor):  # of the host it goes anywhere, of a GPU only with tensors of the same one
            lr = lr.double() if lr.device.type == "cpu" else lr.double().to(step.device)
        values = self._numbers(kernel.update, group, lr, step.double() + 1)
        return tuple(x.to(kernel.scalar_dtype) if isinstance(x, Tensor) else x for x in values)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch's own addition: no hyper-parameter of ours
        self._packs: dict[int, Packs] = {}  # by group
        self._slots: dict[int, Slot] = {}  # views, no state: rebuilt where they are missing
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
