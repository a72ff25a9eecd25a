"""How long a call takes on the device, what it launches there, and the memory that it takes: by CUDA's own events and counters.

`Clock(dry=True)` serves a machine without a GPU: the same calls by the processor's clock, and None for what only a GPU has.
"""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

Call = Callable[[], object]
LAUNCH = re.compile(
    r"cu(da)?Launch\w*Kernel\w*"
)  # cudaLaunchKernel, cudaLaunchKernelExC, cuLaunchKernel, cuLaunchKernelEx
COPY_BYTES = 1 << 30


@dataclass
class Sample:
    """One call: milliseconds on the device, on the host, and whether the device was idle before the host was done."""

    ms: float
    host_ms: float
    copy_ms: float | None = None
    late: bool = False


class Clock:
    """Times calls on the current CUDA device, or dry."""

    def __init__(self, dry: bool) -> None:
        self.dry, self.device = dry, torch.device("cpu" if dry else "cuda")
        self._entries = (1 << 18 if dry else COPY_BYTES) // 4
        self.copied = 8 * self._entries  # bytes that a copy reads and writes
        self._vectors: tuple[torch.Tensor, ...] = ()

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if not self.dry:
            torch.cuda.synchronize()

    def copy(self) -> None:
        """Enqueues a copy of 1 GiB, larger than any cache, which it leaves without what the last step had there."""
        if not self._vectors:  # not before: others compile meanwhile, and want the memory
            self._vectors = tuple(torch.ones(self._entries, device=self.device) for _ in range(2))
        self._vectors[0].copy_(self._vectors[1])

    def alone(self, call: Call) -> Sample:
        """From an idle device to the last kernel: with all that the host does before the first one."""
        self.wait()
        start = time.perf_counter()
        if self.dry:
            call()
            ms = (time.perf_counter() - start) * 1e3
            return Sample(ms, ms)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        host = (time.perf_counter() - start) * 1e3
        end.record()
        end.synchronize()
        return Sample(begin.elapsed_time(end), host)

    def behind(self, call: Call, copies: int) -> Sample:
        """As in training, where the device still works on what came before while the host prepares the step.

        `copies`: how many copies come before, the last of which is timed too.
        """
        if self.dry:
            start = time.perf_counter()
            self.copy()
            copied = (time.perf_counter() - start) * 1e3
            sample = self.alone(call)
            return Sample(sample.ms, sample.host_ms, copied)
        before, begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        self.wait()
        for _ in range(copies - 1):
            self.copy()
        before.record()
        self.copy()
        begin.record()
        start = time.perf_counter()
        call()
        host = (time.perf_counter() - start) * 1e3
        late = begin.query()
        end.record()
        end.synchronize()
        return Sample(begin.elapsed_time(end), host, before.elapsed_time(begin), late)

    def first(self, call: Call) -> tuple[float, int | None]:
        """Seconds of a call until the device is done, and the most bytes that it held beyond those before."""
        self.wait()
        held = 0
        if not self.dry:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        start = time.perf_counter()
        call()
        self.wait()
        seconds = time.perf_counter() - start
        return seconds, None if self.dry else torch.cuda.max_memory_allocated() - held

    def captured(self, call: Call) -> Call:
        """A CUDA graph of the call, to be replayed. The call runs before, on a stream of its own, as capturing needs it."""
        if self.dry:
            return call
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def launches(self, call: Call) -> dict[str, int] | None:
        """What a call starts on the device, by torch's profiler."""
        if self.dry:
            return None
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the profiler's own notes about its cycle
            self.wait()
            with torch.profiler.profile(activities=activities) as profile:
                call()
                self.wait()
        events = profile.events() or []
        return counted(
            (e.name, str(e.device_type).rpartition(".")[2], bool(getattr(e, "is_user_annotation", False)))
            for e in events
        )


def counted(events: Iterable[tuple[str, str, bool]]) -> dict[str, int]:
    """Of a profile's events (name, device, whether somebody's annotation): kernels, copies and fills of the device, and launches.

    A replayed graph runs its kernels by one call, so that launches are fewer than kernels there. An annotation, such as
    Optimizer.step's, spans the kernels below it on the device and is none itself.
    """
    found = Counter(kernels=0, copies=0, fills=0, launches=0)
    for name, device, annotation in events:
        if device == "CPU":
            found["launches"] += LAUNCH.fullmatch(name) is not None
        elif not annotation and not name.startswith(("Optimizer.", "ProfilerStep", "Torch-Compiled", "## Call")):
            kind = "copies" if name.startswith("Memcpy") else "fills" if name.startswith("Memset") else "kernels"
            found[kind] += 1
    return dict(found)


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Counts the kernels that ours launch inside."""
    from fast._kernels.gpu.launch import Launch

    found, run = Counter[str](), Launch.run

    def counted(self: Any, *arguments: Any) -> None:
        run(self, *arguments)
        found["launches"] += len(self.works)

    with mock.patch.object(Launch, "run", counted):
        yield found
