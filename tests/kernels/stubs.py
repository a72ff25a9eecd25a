"""Steps of tensors of the CPU that go the way of a GPU's to their launches, which do nothing: for tests of what leads there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from gpu_interpreted import pretended
from optimizers import IDS

import fast
from experiments.bench import by_rows
from fast._kernels.gpu import launch
from fast._kernels.gpu.launch import Launch, Program

OURS = IDS


def made(name: str, params: Any, **options: Any) -> Any:
    return getattr(fast, name)(params, **options, **({"partition": by_rows} if name == "AdamMini" else {}))


@contextmanager
def stubbed(error: Exception | None = None) -> Iterator[list[Launch]]:
    """A step goes the way of a GPU's to its launches, which do nothing; or its kernels fail to compile."""
    launched: list[Launch] = []
    with ExitStack() as stack:
        pretended(stack)
        stack.enter_context(mock.patch.object(Program, "compiled", lambda *_: error))
        stack.enter_context(mock.patch.object(Launch, "run", lambda self, *_: launched.append(self)))
        stack.enter_context(mock.patch.object(launch, "_plans", type(launch._plans)()))
        yield launched


def stepped(params: Any, optimizer: Any, missing: Any = ()) -> None:
    for i, param in enumerate(params):
        param.grad = None if i in missing else torch.ones_like(param)
    optimizer.step()


def parameters(*shapes: tuple[int, ...]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
