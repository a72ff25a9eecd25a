"""Runs the GPU code that Inductor has written on CPU tensors, in Triton's interpreter: its numbers, not its speed.

The interpreter carries out a kernel block by block in NumPy. It must be chosen before Triton is imported: set TRITON_INTERPRET=1 in
the environment of the process. It has no libdevice: there the functions of CUDA's own library are stubs that return None (Triton
3.7.1). Our kernels call none of them; here a stub raises an error that names it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Sequence
from typing import Any, NoReturn
from unittest import mock

import torch
from torch import Tensor

from fast._pretend_gpu import Generated


def interpret(code: Generated, given: Sequence[Tensor]) -> None:
    """One call of the graph on the tensors that it was generated for, given in their order, changed in place."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("Triton's interpreter is off: start the process with TRITON_INTERPRET=1")
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.codecache import PyCodeCache

    def load(self: Any, name: str, source: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(PyCodeCache.load(source), name)

    with (
        mock.patch.object(AsyncCompile, "triton", load),
        mock.patch.object(AsyncCompile, "wait", lambda self, scope: None),
        mock.patch.object(torch.cuda, "_DeviceGuard", lambda index: contextlib.nullcontext()),
        mock.patch.object(torch.cuda, "set_device", lambda index: None),
        mock.patch.object(torch._C, "_cuda_getCurrentRawStream", lambda index: 0, create=True),
        _libdevice(),
    ):
        names: dict[str, Any] = {"__name__": "generated", "__file__": "generated.py"}
        exec(compile(code.wrapper, "generated.py", "exec"), names)
        names["empty_strided_cuda"] = lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype)
        names["call"]([given[i] for i in code.order])


def _libdevice() -> Any:
    """Errors in the place of the interpreter's stubs of libdevice."""
    from triton.language.extra import libdevice

    def missing(name: str, *operands: Any) -> NoReturn:
        raise NotImplementedError(f"Triton's interpreter has no libdevice.{name}: write the update without it")

    stubs = [name for name, _ in inspect.getmembers(libdevice, inspect.isfunction)]
    errors: dict[str, Any] = {name: functools.partial(missing, name) for name in stubs}
    return mock.patch.multiple(libdevice, **errors)
