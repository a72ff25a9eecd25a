"""A child process that says lines of JSON and is killed, with all that it has started, at its limit."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def environment(work: Path, cache: Path, threads: int | None = None) -> dict[str, str]:
    """For a child that writes nothing into the checkout: its compilers' caches lie in `cache`, all else in `work`.

    `threads`: processes that compile kernels, where others compile at the same time.
    """
    cache.mkdir(parents=True, exist_ok=True)
    own = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "CUDA_CACHE_PATH": str(work / "cuda"),
        "KINETO_LOG_LEVEL": "6",  # else the profiler says when it starts and stops
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    if threads:
        own["TORCHINDUCTOR_COMPILE_THREADS"] = str(threads)
    return {**os.environ, **own}


class Child:
    """`lines()` gives what has come since it was asked last; `alive` is false once it has ended and all is read."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path) -> None:
        self.log, self.began = log, time.monotonic()
        with log.open("ab") as file:
            # a group of its own, so that a compiler's processes can be ended with it, but of this session
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment,
                cwd=folder,
                process_group=0,
            )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._rest = b""
        self._ended = False

    def fileno(self) -> int:
        return self._out.fileno()

    @property
    def alive(self) -> bool:
        return not self._ended

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it has said on its standard output since: JSON is given out, the rest goes into the log."""
        while not self._ended:
            try:
                read = os.read(self._out.fileno(), 1 << 16)
            except BlockingIOError:
                # a compiler's process that it has started may outlive it, and hold its standard output
                self._ended = self._process.poll() is not None
                return
            self._ended = not read
            *whole, self._rest = (self._rest + read).split(b"\n")
            for line in whole:
                if line.startswith(b'{"'):
                    yield json.loads(line)
                else:
                    with self.log.open("ab") as file:
                        file.write(line + b"\n")

    def go(self) -> None:
        """Sends the line for which a worker waits."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which the next reading finds
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()

    def end(self) -> int:
        """Kills what is left of it, and says how it ended: 0, or what to look for in the log."""
        if self._ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        status = self._process.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._out):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # pyright: ignore[reportOptionalMemberAccess]
        self._ended = True
        return -signal.SIGKILL if status is None else status

    def last_words(self) -> str:
        """The last line of its standard error, which says most about a crash."""
        said = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return said[-1][:300] if said else ""


def wait_for(children: Sequence[Child], seconds: float) -> None:
    """Until one of them has said something or ended, or the time is over."""
    if children:
        select.select(children, [], [], max(0.0, min(seconds, 1.0)))
