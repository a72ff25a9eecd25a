"""The torch.optim.Optimizer that all optimizers of this package share.

A subclass says what one step does to one tensor; this class collects the parameters that have gradients, checks all of them before
it changes any, brings them into the form that the kernels take, and hands them over in as few calls as it can.

A subclass gives

    _check(group)                        ValueErrors for its own hyper-parameters
    _init_state(group, param, device)    a parameter's state, without `step` (base: zeros, named by `_state_names`)
    _scalars(group, lr, step)            the numbers that an update takes; lr and step are floats, or 0-d float64 tensors
    _pieces(group, param, work, values)  what to update by what: an Update, how it views tensors like `work` (the parameter as
                                         a dense real tensor), and what state it takes of `values` (base: flat vectors)

State of a parameter p: `step`, a 0-d float32 tensor (on the CPU unless `capturable`; in float64 from 2^24 steps on), and tensors in
p's memory format, in float32 where p is of a half type. It has its own count of steps, so a late or missing gradient has its own
bias correction.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.optimizer import ParamsT

from fast._engine.checkpoint import Group
from fast._engine.moments import nearer_ends
from fast._engine.pieces import Batch, Piece, batch, emptied, quick
from fast._engine.rounding import COUNTED, StoredOptimizer
from fast._engine.shards import Rounds, together
from fast._kernels.direct import Item, vectors, watched
from fast._kernels.fleet import FLEETS, LEAST, Fleet, joins
from fast._kernels.launch import prepared
from fast._kernels.packs import Packs
from fast._kernels.tensors import (
    PLAIN_TYPES,
    Slot,
    State,
    arranged,
    dispatches,
    flat,
    on_cpu,
    plain,
    writable,
    zeros_like,
)
from fast._kernels.update import Kernel, Update, apply, updater

Jobs = list[Callable[[], object]]


class FusedOptimizer(StoredOptimizer):
    """See the module's head. `maximize`, `compile`, `capturable` and the options of `rounding` are every optimizer's."""

    _options: tuple[str, ...] = ()  # hyper-parameters on which `_pieces` depends
    _follows = False  # whether `_follow` is to be called before an update
    _prepared = staticmethod(prepared)  # what a GPU's kernels take
    _contiguous = False  # whether `_pieces` needs contiguous tensors, or takes dense ones of any memory format

    def __init__(self, params: ParamsT, defaults: Group) -> None:
        self._slots: dict[int, Slot] = {}
        self._packs: dict[int, Packs] = {}
        self._fleets: dict[int, list[Fleet]] = {}
        super().__init__(params, defaults)

    def _before(self, group: Group) -> None:
        """What is to be said once a step before anything changes; base: nothing."""

    def _follow(self, param: Tensor, state: State) -> None:
        """Brings the state up to what somebody else may have made of the parameter; base: nothing."""

    def _update(self, group: Group) -> Update:
        raise NotImplementedError(f"{type(self).__name__} must name its elementwise update")

    def _packed_update(self, group: Group, param: Tensor) -> Update | None:
        """The update that a small parameter may take side by side with others, its state that of `_state_names`; or None."""
        update = self._update(group)
        return update if update.elementwise else None

    def _init_state(self, group: Group, param: Tensor, device: Any = None) -> State:
        return {name: zeros_like(param, device) for name in self._state_names}

    def _pieces(self, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Piece]:
        return (Piece(self._update(group), flat, tuple(flat(values[name]) for name in self._state_names)),)

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
        for index in [i for i in self._fleets if i >= len(work)]:  # of a group that somebody has taken out
            del self._fleets[index]
        jobs: Jobs = []  # everything is checked and compiled before anything changes
        shared: list[Rounds] = []
        for i, (group, params) in enumerate(work):
            if params:
                self._prepare(i, group, params, jobs, shared)
        together(shared)
        for job in jobs:
            job()
        return loss

    def _prepare(self, index: int, group: Group, params: list[Tensor], jobs: Jobs, shared: list[Rounds]) -> None:
        """Notes what makes the step of these parameters: in `shared` what comes before, worked out with other processes."""
        if not torch.compiler.is_compiling():
            self._before(group)
        if group["capturable"] or torch.compiler.is_compiling():
            self._fleets.pop(index, None)
            return self._prepare_on_device(group, params, jobs, shared)
        sails = not (on_cpu(params[0]) or params[0].is_meta or group["compile"] is False or watched())
        if not sails and self._fleets:  # which would keep parameters that nobody else has
            self._fleets.pop(index, None)
        if on_cpu(params[0]):
            params = self._pack(index, group, params, jobs)
        elif sails:
            params = self._sail(index, group, params, jobs)
        if not set(map(type, params)).issubset(PLAIN_TYPES) and (own := [p for p in params if dispatches(p)]):
            self._prepare_on_device(group, own, jobs, shared)  # which reads nothing back: it may not be there
            params = [p for p in params if not dispatches(p)]
        if params:
            self._prepare_each(group, params, jobs, shared)
            if sails:
                jobs.append(partial(self._gather, index, group))
        return None

    def _pack(self, index: int, group: Group, params: list[Tensor], jobs: Jobs) -> list[Any]:
        """Notes the step of the small parameters that take it many at a time; returns the others that have gradients."""
        packs, rest = self._packs.setdefault(index, Packs()).sort(
            group["params"],
            self.state,
            lambda param: None if self._alone(group, param) else self._packed_update(group, param),
            lambda param: self._fresh_state(group, param),
            self._state_names,
            len(params) == len(group["params"]),
        )
        for pack, count, grads in packs:
            scalars = self._scalars(group, float(group["lr"]), count + 1)
            kernel = Kernel(pack.update, group["maximize"], torch.device("cpu"), pack.dtypes(grads))
            jobs.append(partial(pack.step, updater(kernel, group["compile"], scalars), grads))
        return rest

    def _sail(self, index: int, group: Group, params: list[Tensor], jobs: Jobs) -> list[Tensor]:
        """Notes the steps of the fleets (fast/_kernels/fleet.py); returns the others, which may be in one from the next step on."""
        lr, options = float(group["lr"]), self._fleet_options(group)
        fleets, stepped = self._fleets.get(index, []), set[int]()
        for fleet in fleets:
            grads = fleet.ready(group["params"], self.state, options)
            run = fleet.step(grads, lambda update, step: self._numbers(update, group, lr, step)) if grads else None
            if run:
                jobs.append(run)
                stepped |= fleet.members
        return [p for p in params if id(p) not in stepped] if stepped else params

    def _fleet_options(self, group: Group) -> tuple[Any, ...]:
        return group["maximize"], *self._cut_by(group)

    def _gather(self, index: int, group: Group) -> None:
        """Makes fleets of those that have taken a step and are in none, a device at a time; those that are as they were stay.

        Where gradients come and go, a step has some that are new to it; to begin anew with all of them would cost more than one.
        """
        options = self._fleet_options(group)
        fleets = [
            f for f in self._fleets.get(index, []) if f.options == options and f.as_it_was(group["params"], self.state)
        ]
        many = Counter(fleet.device for fleet in fleets)
        fleets = [fleet for fleet in fleets if many[fleet.device] < FLEETS]
        taken, together = set[int]().union(*(f.members for f in fleets)), defaultdict[torch.device, list[Tensor]](list)
        for param in group["params"]:
            slot, state = self._slots.get(id(param)), self.state.get(param)
            if slot is None or not state or id(param) in taken or on_cpu(param):
                continue
            if joins(slot, state):
                together[param.device].append(param)
        if fleets:  # some few may as well go the other way
            together = {device: params for device, params in together.items() if len(params) >= LEAST}
        for params in together.values():
            slots, states = [self._slots[id(p)] for p in params], [self.state[p] for p in params]
            numbers = partial(self._numbers, group=group, lr=float(group["lr"]), step=1.0)
            kernel = partial(self._kernel_of, group)
            with suppress(torch.OutOfMemoryError):  # the step is done, and the next one goes the other way
                fleet = Fleet(group["params"], params, states, slots, kernel, numbers, options)
                fleets += [fleet] if fleet.error is None else []
        self._fleets[index] = fleets

    def _kernel_of(self, group: Group, update: Update, item: Item) -> Kernel:
        return self._kernel(update, group, item)

    def _cut_by(self, group: Group) -> tuple[Any, ...]:
        """What of a group decides how its parameters are cut."""
        return (*nearer_ends(group["betas"]), group["stochastic_rounding"], *(group[key] for key in self._options))

    @staticmethod
    def _kernel(update: Update, group: Group, item: Item) -> Kernel:
        return Kernel(update, group["maximize"], item[0].device, tuple(t.dtype for t in item))

    def _prepare_each(self, group: Group, params: list[Any], jobs: Jobs, shared: list[Rounds]) -> None:
        copies: list[tuple[Tensor, Tensor]] = []
        steps: dict[float, list[Tensor]] = defaultdict(list)
        batches: dict[tuple[Batch, float, torch.dtype], list[Item]] = defaultdict(list)
        options = self._cut_by(group)
        for param in params:
            work, grad = param, param.grad
            state = self.state[param] or self._fresh_state(group, param)
            slot = self._slots.get(id(param))
            if slot is None or not slot.fits(param, grad, state, options):
                work, grad, slot = self._new_slot(group, param, state, options, copies, shared)
            count = state["step"].item()
            if count >= COUNTED and state["step"].dtype == torch.float32:
                state["step"] = state["step"].double()
            steps[count].append(state["step"])
            for alike, view, states in slot.pieces:
                batches[alike, count, grad.dtype].append((view(work), view(grad), *states))
            if self._follows:
                jobs.append(partial(self._follow, work, state))
        lr = float(group["lr"])
        for (alike, count, _), items in batches.items():
            compile = group["compile"] if alike.by_kernel else False
            kernel = self._kernel(alike.update, group, items[0])
            scalars = self._numbers(alike.update, group, lr, count + 1)
            if kernel.device.type == "cpu":
                jobs.append(partial(updater(kernel, compile, scalars), emptied(items)))
            else:
                if alike.update.of_vectors:
                    items = [(*vectors(item[:2]), *item[2:]) for item in items]
                jobs.append(self._prepared(kernel, compile, scalars, items))

        def finish() -> None:
            for target, source in copies:
                target.copy_(source)
            for count, same in steps.items():
                dtype = torch.float64 if count >= COUNTED else torch.float32
                new = torch.tensor(count + 1, dtype=dtype, device=same[0].device)
                torch._foreach_copy_(same, [new] * len(same))  # pyright: ignore[reportPrivateImportUsage]
            increment_version(params)  # autograd has not seen the kernels write

        jobs.append(finish)

    def _prepare_on_device(self, group: Group, params: list[Tensor], jobs: Jobs, shared: list[Rounds]) -> None:
        """The same with nothing read back to the host, for CUDA graphs and for steps inside the user's own torch.compile."""
        copies: list[tuple[Tensor, Tensor]] = []
        batches: dict[Any, tuple[Kernel, bool, list[tuple[Tensor, Item]]]] = {}
        for param in params:
            state = self.state[param] or self._fresh_state(group, param)
            work, grad, values = arranged(param, state, copies, not self._contiguous)
            for piece in self._stored_pieces(group, param, work, values) if param.numel() else ():
                item = (piece.view(work), piece.view(grad), *piece.states)
                if piece.shared:
                    shared.append(piece.shared(*item[:2]))
                if work.numel():
                    kernel, alone = self._kernel(piece.update, group, item), dispatches(item[0])
                    # which the Dynamo of torch 2.6 takes for no key; its graph has each item alone
                    key = len(batches) if torch.compiler.is_compiling() else (kernel, alone)
                    batches.setdefault(key, (kernel, alone, []))[2].append((state["step"], item))
            if self._follows:
                jobs.append(partial(self._follow, work, state))
        jobs += [self._on_device(group, *batch) for batch in batches.values()]

        def finish() -> None:
            for target, source in copies:
                target.copy_(source)
            torch._foreach_add_([self.state[param]["step"] for param in params], 1)  # pyright: ignore[reportPrivateImportUsage]

        jobs.append(finish)

    def _on_device(
        self, group: Group, kernel: Kernel, alone: bool, batch: list[tuple[Tensor, Item]]
    ) -> Callable[[], object]:
        if not (alone or kernel.device.type == "cpu" or torch.compiler.is_compiling()):
            scalars = self._tensor_scalars(group, kernel, torch.stack([step for step, _ in batch]))
            return self._prepared(kernel, group["compile"], scalars, [item for _, item in batch])

        def each() -> None:
            for step, item in batch:
                scalars = self._tensor_scalars(group, kernel, step)
                apply(kernel.update, kernel.maximize, scalars, [(t,) for t in item])

        return each

    def _new_slot(
        self,
        group: Group,
        param: Tensor,
        state: State,
        options: tuple[Any, ...],
        copies: list[tuple[Tensor, Tensor]],
        shared: list[Rounds],
    ) -> tuple[Tensor, Tensor, Slot]:
        """Parameter and gradient as the kernels take them, and how they are cut, kept where that lasts: never of a DTensor."""
        work, grad, values = arranged(param, state, copies, not self._contiguous)
        pieces = []
        for update, view, states, before in self._stored_pieces(group, param, work, values) if param.numel() else ():
            tensor, states = view(work), tuple(t.data for t in states)  # which keeps no tensor of the state alive
            if before:
                shared.append(before(tensor, view(grad)))
            if not work.numel():
                continue
            # a call of the CPU's takes tensors that are alike, a graph of the GPU all at once
            cpu = tensor.device.type == "cpu"
            like = [(t.dtype, (t.shape, t.stride()) if cpu else None) for t in (tensor, *states)]
            pieces.append(
                (batch(update, not dispatches(tensor), tensor.device, *like), quick(view, tensor, work), states)
            )
        slots, key = self._slots, id(param)
        slot = Slot(param, state, options, pieces, lambda _: slots.pop(key, None))
        if work is param and plain(param) and param.is_contiguous():
            slots[key] = slot
        else:
            slots.pop(key, None)
        return work, grad, slot

    def _fresh_state(self, group: Group, param: Tensor) -> State:
        state = self.state[writable(param)]
        new = {"step": self._new_step(group, param), **self._new_state(group, param)}
        for name in new:  # all of it, or nothing; no update(), which the Dynamo of torch 2.6 to 2.11 does not know
            state[name] = new[name]
        return state

    def _tensor_scalars(self, group: Group, kernel: Kernel, step: Tensor) -> tuple[Any, ...]:
        """The update's numbers as tensors, computed in float64 where `step` lies: nothing is read back to the host."""
        lr = group["lr"]
        if isinstance(lr, Tensor):  # of the host it goes anywhere, of a GPU only with tensors of the same one
            lr = lr.double().reshape(())
            lr = lr if lr.device.type == "cpu" else lr.to(step.device)
        values = self._numbers(kernel.update, group, lr, step.double() + 1)
        return tuple(x.to(kernel.scalar_dtype) if isinstance(x, Tensor) else x for x in values)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch's own addition: no hyper-parameter of ours
        self._packs: dict[int, Packs] = {}  # by group
        self._fleets: dict[int, list[Fleet]] = {}
        self._slots: dict[int, Slot] = {}  # views, no state: rebuilt where they are missing
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
