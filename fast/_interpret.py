"""Runs the GPU code that Inductor has written on CPU tensors, in Triton's interpreter: its numbers, not its speed.

The interpreter carries out a kernel block by block in NumPy. It must be chosen before Triton is imported: set TRITON_INTERPRET=1 in
the environment of the process. It has no libdevice: there the functions of CUDA's own library are stubs that return None (Triton
3.7.1). Those that our kernels call are NumPy's here; any other raises an error that names it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from fast._pretend_gpu import Generated

LIBDEVICE: dict[str, Callable[..., Any]] = {"atan2": np.arctan2}


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
    """NumPy's functions in the place of the interpreter's stubs of libdevice."""
    from triton.language.extra import libdevice

    stubs = [name for name, _ in inspect.getmembers(libdevice, inspect.isfunction)]
    ours: dict[str, Any] = {name: functools.partial(_of_libdevice, name) for name in stubs}
    return mock.patch.multiple(libdevice, **ours)


def _of_libdevice(name: str, *operands: Any) -> Any:
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if name not in LIBDEVICE:
        raise NotImplementedError(f"libdevice.{name} has no NumPy function here: add it to LIBDEVICE")
    value = LIBDEVICE[name](*(x.handle.data for x in operands))
    first = operands[0]
    return tl.core.tensor(TensorHandle(value.astype(first.handle.data.dtype), first.handle.dtype), first.type)
