"""`experiments.bench`'s memory ledger: what an optimizer must remember against what it has allocated.

predicted   bytes of state by a formula of the shapes (experiments/bench/sets.py)
measured    bytes behind the tensors of `optimizer.state` after a step, each storage once, the parameters' own left out
held        bytes that making the optimizer and its first step have allocated and not freed, by torch's profiler: state,
            and what else is kept between two steps
peak        the highest sum of what a later step has allocated and not yet freed
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from experiments.bench.sets import CONTESTANTS, Shape, make


@dataclass(frozen=True)
class Entry:
    """One optimizer's line, in bytes; see the head."""

    optimizer: str
    parameters: int
    predicted: int
    measured: int
    held: int
    peak: int

    @property
    def peak_percent(self) -> float:
        """The peak, in percent of the parameters' own bytes."""
        return 100 * self.peak / (4 * self.parameters)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """The memory behind an optimizer's state tensors, each storage once; a state that is a parameter costs nothing."""
    own = {p.untyped_storage().data_ptr() for group in optimizer.param_groups for p in group["params"]}
    tensors = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(size for place, size in storages.items() if place not in own)


def kept_and_peak_bytes(call: Callable[[], object]) -> tuple[int, int]:
    """What a call has allocated and not freed by its end, and the highest such sum on the way, by torch's profiler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's own notes about its cycle
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            result = call()
            gc.collect()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # pyright: ignore[reportOptionalMemberAccess]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, now)
    del result
    return now, peak


def peak_extra_bytes(step: Callable[[], object]) -> int:
    """The highest sum of what a call has allocated and not yet freed."""
    return kept_and_peak_bytes(step)[1]


def ledger(shapes: list[Shape], labels: list[str]) -> Iterator[Entry]:
    """One entry for each optimizer, made one after the other. ImportError where a released package is missing."""
    count = sum(prod(shape) for shape in shapes)
    for label in labels:
        contestant = CONTESTANTS[label]
        contestant.make(make(shapes[-1:])).step()  # the compiler's own memory is not the optimizer's
        made: list[torch.optim.Optimizer] = []
        params = make(shapes)

        def begin(made: list[torch.optim.Optimizer] = made, params: list[Tensor] = params, label: str = label) -> None:
            made.append(CONTESTANTS[label].make(params))
            made[0].step()

        held, _ = kept_and_peak_bytes(begin)
        (optimizer,) = made
        optimizer.step()
        peak = peak_extra_bytes(optimizer.step)
        predicted = contestant.state(shapes)
        yield Entry(label, count, predicted, state_bytes(optimizer), held, peak)
