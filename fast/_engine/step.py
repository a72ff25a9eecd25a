"""One step of an optimizer: which kernels take which of its parameters, prepared as a whole before anything changes.

A parameter takes one of four ways:

    packs      small ones on a CPU, many side by side in one call         fast/_kernels/packs.py
    buckets    those of a GPU that are as in the step before              fast/_kernels/gpu/bucket.py
    each       any other, by calls on views of it                         fast/_kernels/cpu.py, fast/_kernels/gpu/launch.py
    on_device  where nothing may be read back: CUDA graphs, torch.compile, tensors with a __torch_dispatch__ of their own
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fast._engine.calls import Batch, batch, cheapest_view, consumed
from fast._engine.checks import Group
from fast._engine.shards import Reductions, all_reduce
from fast._engine.storage import half_average, new_state, new_step, rounds, stored_calls
from fast._kernels import shortcuts
from fast._kernels.cpu import updater
from fast._kernels.direct import vectors, watched
from fast._kernels.gpu.bucket import BUCKETS, LEAST, Bucket, joins
from fast._kernels.packs import Packs
from fast._kernels.rounding import COUNTED
from fast._kernels.tensors import PLAIN_TYPES, CachedViews, State, arranged, dispatches, on_cpu, plain, writable
from fast._kernels.update import Item, Kernel, Update, apply

if TYPE_CHECKING:
    from fast._engine.optimizer import FusedOptimizer

Copies = list[tuple[Tensor, Tensor]]  # (parameter, what was worked on in its place)


class Caches:
    """What an optimizer keeps from step to step beside its state: all of it is made anew where it is missing."""

    def __init__(self) -> None:
        self.views: dict[int, CachedViews] = {}  # by a parameter's id
        self.packs: dict[int, Packs] = {}  # by a group's index
        self.buckets: dict[int, list[Bucket]] = {}
        self.asked: dict[int, Any] = {}  # what an optimizer has asked of a group, by its id, while all views last

    def forget(self, param: Tensor) -> None:
        self.views.pop(id(param), None)
        self.buckets.clear()


class Step:
    """Collects the jobs of one step, and runs them."""

    def __init__(self, optimizer: FusedOptimizer) -> None:
        self.optimizer, self.caches = optimizer, optimizer._caches
        self.jobs: list[Callable[[], object]] = []
        self.reductions: list[Reductions] = []  # what is summed over processes before the jobs
        gone = [i for i in self.caches.buckets if i >= len(optimizer.param_groups)]  # of groups that were taken out
        for index in gone:
            del self.caches.buckets[index]

    def run(self) -> None:
        all_reduce(self.reductions)
        for job in self.jobs:
            job()

    def buckets(self, index: int, group: Group, grads: list[Any]) -> Collection[int]:
        """Notes the steps of a group's buckets that are as they were; returns whom these are of, by their ids."""
        if not torch.compiler.is_compiling():
            self.optimizer._before(group)
        if not (known := self.caches.buckets.get(index)):
            return ()
        if not _takes_buckets(group):  # which would keep parameters that nobody else has
            del self.caches.buckets[index]
            return ()
        numbers = partial(_numbers, self.optimizer, group=group, lr=float(group["lr"]))
        asked = group["params"], self.optimizer.state, _bucket_options(self.optimizer, group)
        runs = [(bucket, bucket.step(*asked, grads, numbers)) for bucket in known]
        self.jobs += [run for _, run in runs if run]
        members = [bucket.members for bucket, run in runs if run]
        return members[0] if len(members) == 1 else set[int]().union(*members)

    def prepare(self, index: int, group: Group, params: list[Tensor]) -> None:
        """Notes what makes the step of a group's parameters that have gradients, but those of buckets."""
        if group["capturable"] or torch.compiler.is_compiling():
            return self.on_device(group, params)
        on_gpu = _takes_buckets(group) and not (on_cpu(params[0]) or params[0].is_meta)
        if not on_gpu:
            self.caches.buckets.pop(index, None)
        if on_cpu(params[0]):
            params = self._packs(index, group, params)
        if not set(map(type, params)).issubset(PLAIN_TYPES) and (wrapped := [p for p in params if dispatches(p)]):
            self.on_device(group, wrapped)  # which reads nothing back: it may not be there
            params = [p for p in params if not dispatches(p)]
        if params:
            self.each(group, params)
            if on_gpu:
                self.jobs.append(partial(_gather, self.optimizer, index, group))
        return None

    def _packs(self, index: int, group: Group, params: list[Tensor]) -> list[Any]:
        """Notes the step of the small parameters that take it many at a time; returns the others that have gradients."""
        optimizer = self.optimizer

        def update(param: Tensor) -> Update | None:  # in a pack a rounded parameter would have another place
            alone = rounds(group, param) or half_average(group, param)
            return None if alone else optimizer._packed_update(group, param)

        packs, rest = self.caches.packs.setdefault(index, Packs()).sort(
            group["params"],
            optimizer.state,
            update,
            lambda param: _fresh_state(self.optimizer, group, param),
            optimizer._state_names,
            len(params) == len(group["params"]),
        )
        for pack, count, grads in packs:
            scalars = optimizer._scalars(group, float(group["lr"]), count + 1)
            kernel = Kernel(pack.update, group["maximize"], torch.device("cpu"), pack.dtypes(grads))
            self.jobs.append(partial(pack.step, updater(kernel, group["compile"], scalars), grads))
        return rest

    def each(self, group: Group, params: list[Any]) -> None:
        """Notes the step of parameters by calls on views of them; those that are alike go in one batch."""
        copies: Copies = []
        steps: dict[float, list[Tensor]] = defaultdict(list)
        batches: dict[tuple[Batch, float, torch.dtype], list[Item]] = defaultdict(list)
        options = self.optimizer._views_depend_on(group)
        for param in params:
            work, grad = param, param.grad
            state = self.optimizer.state[param] or _fresh_state(self.optimizer, group, param)
            cached = self.caches.views.get(id(param)) if shortcuts.VIEWS else None
            if cached is None or not cached.fits(param, grad, state, options):
                work, grad, cached = self._new_views(group, param, state, options, copies)
            count = state["step"].item()
            if count >= COUNTED and state["step"].dtype == torch.float32:
                state["step"] = state["step"].double()
            steps[count].append(state["step"])
            for alike, view, states in cached.calls:
                batches[alike, count, grad.dtype].append((view(work), view(grad), *states))
            if self.optimizer._follows:
                self.jobs.append(partial(self.optimizer._follow, work, state))
        lr = float(group["lr"])
        for (alike, count, _), items in batches.items():
            compile = group["compile"] if alike.by_kernel else False
            kernel = _kernel(group, alike.update, items[0])
            scalars = _numbers(self.optimizer, alike.update, group, lr, count + 1)
            if kernel.device.type == "cpu":
                self.jobs.append(partial(updater(kernel, compile, scalars), consumed(items)))
            else:
                if alike.update.of_vectors:
                    items = [(*vectors(item[:2]), *item[2:]) for item in items]
                self.jobs.append(self.optimizer._prepared(kernel, compile, scalars, items))

        def finish() -> None:
            for target, source in copies:
                target.copy_(source)
            for count, same in steps.items():
                dtype = torch.float64 if count >= COUNTED else torch.float32
                new = torch.tensor(count + 1, dtype=dtype, device=same[0].device)
                torch._foreach_copy_(same, [new] * len(same))  # pyright: ignore[reportPrivateImportUsage]
            increment_version(params)  # autograd has not seen the kernels write

        self.jobs.append(finish)

    def on_device(self, group: Group, params: list[Tensor]) -> None:
        """The same with nothing read back to the host, for CUDA graphs and for steps inside the user's own torch.compile."""
        optimizer = self.optimizer
        copies: Copies = []
        batches: dict[Any, tuple[Kernel, bool, list[tuple[Tensor, Item]]]] = {}
        for param in params:
            state = optimizer.state[param] or _fresh_state(self.optimizer, group, param)
            work, grad, values = arranged(param, state, copies, not optimizer._contiguous)
            for call in stored_calls(optimizer, group, param, work, values) if param.numel() else ():
                item = (call.view(work), call.view(grad), *call.states)
                if call.reductions:
                    self.reductions.append(call.reductions(*item[:2]))
                if work.numel():
                    kernel, alone = _kernel(group, call.update, item), dispatches(item[0])
                    # which the Dynamo of torch 2.6 takes for no key; its graph has each item alone
                    key = len(batches) if torch.compiler.is_compiling() else (kernel, alone)
                    batches.setdefault(key, (kernel, alone, []))[2].append((state["step"], item))
            if optimizer._follows:
                self.jobs.append(partial(optimizer._follow, work, state))
        self.jobs += [_batch_on_device(optimizer, group, *batch) for batch in batches.values()]

        def finish() -> None:
            for target, source in copies:
                target.copy_(source)
            torch._foreach_add_([optimizer.state[param]["step"] for param in params], 1)  # pyright: ignore[reportPrivateImportUsage]

        self.jobs.append(finish)

    def _new_views(
        self, group: Group, param: Tensor, state: State, options: tuple[Any, ...], copies: Copies
    ) -> tuple[Tensor, Tensor, CachedViews]:
        """Parameter and gradient as the kernels take them, and the calls on them, kept where that lasts: never of a DTensor."""
        work, grad, values = arranged(param, state, copies, not self.optimizer._contiguous)
        calls = []
        for call in stored_calls(self.optimizer, group, param, work, values) if param.numel() else ():
            tensor = call.view(work)
            states = tuple(t.data for t in call.states)  # which keeps no tensor of the state alive
            if call.reductions:
                self.reductions.append(call.reductions(tensor, call.view(grad)))
            if not work.numel():
                continue
            # a call of the CPU's takes tensors that are alike, a launch of the GPU's all at once
            cpu = tensor.device.type == "cpu"
            like = [(t.dtype, (t.shape, t.stride()) if cpu else None) for t in (tensor, *states)]
            alike = batch(call.update, not dispatches(tensor), tensor.device, *like)
            calls.append((alike, cheapest_view(call.view, tensor, work), states))
        self.caches.asked.clear()
        views, key = self.caches.views, id(param)
        cached = CachedViews(param, state, options, calls, lambda _: views.pop(key, None))
        if work is param and plain(param) and param.is_contiguous():
            views[key] = cached
        else:
            views.pop(key, None)
        return work, grad, cached


def _fresh_state(optimizer: FusedOptimizer, group: Group, param: Tensor) -> State:
    state = optimizer.state[writable(param)]
    new = {"step": new_step(group, param), **new_state(optimizer, group, param)}
    for name in new:  # all of it, or nothing; no update(), which the Dynamo of torch 2.6 to 2.11 does not know
        state[name] = new[name]
    return state


def _numbers(optimizer: FusedOptimizer, update: Update, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
    """What `update` takes in the step that is counted as `step`."""
    scalars = optimizer._scalars(group, lr, step)
    # in two numbers, since float32 counts no further than COUNTED
    return (*scalars, step % COUNTED, step // COUNTED) if update.keyed else scalars


def _tensor_scalars(optimizer: FusedOptimizer, group: Group, kernel: Kernel, step: Tensor) -> tuple[Any, ...]:
    """The update's numbers as tensors, computed in float64 where `step` lies: nothing is read back to the host."""
    lr = group["lr"]
    if isinstance(lr, Tensor):  # of the host it goes anywhere, of a GPU only with tensors of the same one
        lr = lr.double().reshape(())
        lr = lr if lr.device.type == "cpu" else lr.to(step.device)
    values = _numbers(optimizer, kernel.update, group, lr, step.double() + 1)
    return tuple(x.to(kernel.scalar_dtype) if isinstance(x, Tensor) else x for x in values)


def _batch_on_device(
    optimizer: FusedOptimizer, group: Group, kernel: Kernel, alone: bool, batch: list[tuple[Tensor, Item]]
) -> Callable[[], object]:
    if not (alone or kernel.device.type == "cpu" or torch.compiler.is_compiling()):
        scalars = _tensor_scalars(optimizer, group, kernel, torch.stack([step for step, _ in batch]))
        return optimizer._prepared(kernel, group["compile"], scalars, [item for _, item in batch])

    def one_by_one() -> None:
        for step, item in batch:
            scalars = _tensor_scalars(optimizer, group, kernel, step)
            apply(kernel.update, kernel.maximize, scalars, [(t,) for t in item])

    return one_by_one


def _takes_buckets(group: Group) -> bool:
    return not (group["capturable"] or torch.compiler.is_compiling() or group["compile"] is False or watched())


def _bucket_options(optimizer: FusedOptimizer, group: Group) -> tuple[Any, ...]:
    return group["maximize"], *optimizer._views_depend_on(group)


def _gather(optimizer: FusedOptimizer, index: int, group: Group) -> None:
    """Makes buckets of those that have taken a step and are in none, a device at a time; those that are as they were stay.

    Where gradients come and go, a step has some that are new to it; to begin anew with all of them would cost more than one.
    """
    options, state, caches = _bucket_options(optimizer, group), optimizer.state, optimizer._caches
    known = caches.buckets.get(index, [])
    buckets = [f for f in known if f.options == options and f.as_it_was(group["params"], state)]
    many = Counter(bucket.device for bucket in buckets)
    buckets = [bucket for bucket in buckets if many[bucket.device] < BUCKETS]
    taken, found = set[int]().union(*(f.members for f in buckets)), defaultdict[torch.device, list[Tensor]](list)
    unaligned, views = set[int]().union(*(f.unaligned for f in known)), caches.views
    for param in group["params"]:
        cached = views.get(id(param))
        if cached is None or not state.get(param) or id(param) in taken or on_cpu(param):
            continue
        if joins(cached, state[param]):
            found[param.device].append(param)
    if buckets:  # some few may as well go the other way
        found = {device: params for device, params in found.items() if len(params) >= LEAST}
    for params in found.values():
        numbers = partial(_numbers, optimizer, group=group, lr=float(group["lr"]), step=1.0)
        cached_views = [views[id(p)] for p in params]
        with suppress(torch.OutOfMemoryError):  # the step is done, and the next one goes the other way
            bucket = Bucket(
                group["params"], params, state, cached_views, partial(_kernel, group), numbers, options, unaligned
            )
            buckets += [bucket] if bucket.error is None else []
    caches.buckets[index] = buckets


def _kernel(group: Group, update: Update, item: Item) -> Kernel:
    return Kernel(update, group["maximize"], item[0].device, tuple(t.dtype for t in item))
