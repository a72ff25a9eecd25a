"""How this package's optimizers look at tensors: as dense vectors on one device, without a copy where it can be helped."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

State = dict[str, Tensor]


class Slot:
    """A parameter's views as the kernels take them, good as long as nobody has moved what they are views of."""

    __slots__ = ("options", "pieces", "pointer", "pointers", "shape", "version")

    def __init__(
        self, param: Tensor, state: State, options: tuple[Any, ...], pieces: list[Any], version: int | None
    ) -> None:
        self.options, self.pieces, self.version = options, pieces, version
        self.pointer, self.shape = param.data_ptr(), param.shape
        self.pointers = [t.data_ptr() for t in state.values()]

    def fits(self, param: Tensor, grad: Tensor, state: State, options: tuple[Any, ...]) -> bool:
        """Whether the views are still those of this parameter and state, and the gradient needs no rearranging.

        A view keeps its memory alive, so that nothing else can lie at the same address.
        """
        return (
            self.pointer == param.data_ptr()
            and self.pointers == [t.data_ptr() for t in state.values()]
            and self.shape == param.shape
            and param.is_contiguous()
            and grad.is_contiguous()
            and not grad.requires_grad
            and self.options == options
            and (self.version is None or self.version == param._version)
        )


def number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Refuses what is not a finite number in [low, high) (in (low, high) with `above`)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not math.isfinite(value) or not (low < value if above else low <= value) or not value < high:
        until = "" if high == math.inf else f" and < {high:g}"
        raise ValueError(f"{name} must be a finite number {'>' if above else '>='} {low:g}{until}, got {value}")


def state_dtype(param: Tensor) -> torch.dtype:
    """The dtype of a parameter's state: float32 for the half types, else the parameter's own."""
    return torch.float32 if param.dtype in (torch.float16, torch.bfloat16) else param.dtype


def zeros_like(param: Tensor, device: Any = None, form: torch.memory_format = torch.preserve_format) -> Tensor:
    """State of the parameter's shape, in its memory format if nothing else is said; for a DTensor a DTensor."""
    return torch.zeros_like(param, dtype=state_dtype(param), device=device, memory_format=form, requires_grad=False)


def flat(t: Tensor) -> Tensor:
    """A dense tensor's entries in the order of its memory, as a vector without a copy."""
    return t.view(-1) if t.is_contiguous() else t.as_strided((t.numel(),), (1,))


def alias(t: Tensor) -> Tensor:
    """The same memory as a tensor that is no view, for which a compiled kernel would ask after what it is a view of."""
    return t.detach()


def local(t: Tensor) -> Tensor:
    """This process's shard of a DTensor; any other tensor itself."""
    return t.to_local() if is_dtensor(t) else t  # pyright: ignore[reportAttributeAccessIssue]


def is_dtensor(t: Tensor) -> bool:
    """Whether t is a DTensor; without importing that part of torch, which takes a second, where nobody else has."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def like_placed(grad: Any, param: Any) -> Tensor:
    """The gradient, a DTensor, placed as its parameter is."""
    if is_dtensor(grad) and grad.placements != param.placements:
        return grad.redistribute(param.device_mesh, param.placements)
    return grad


def arranged(
    param: Tensor, state: State, copies: list[tuple[Tensor, Tensor]], any_format: bool
) -> tuple[Tensor, Tensor, State]:
    """Parameter, gradient and state as dense real tensors with the same strides, on this device's own shard.

    What already is so, is passed on as it is. A gradient or a state of other strides is laid out anew. A parameter that is
    not dense (a slice), or not contiguous where not `any_format` will do, is worked on as a copy, noted in `copies`, which
    the caller writes back.
    """
    grad = param.grad
    assert grad is not None
    values = {k: v for k, v in state.items() if k != "step"}
    if type(param) is not Parameter and type(param) is not Tensor and is_dtensor(param):
        grad = like_placed(grad, param)
        torch.autograd.graph.increment_version(param)  # its shard is edited behind its back
        param, grad, values = local(param), local(grad), {k: local(v) for k, v in values.items()}
    if grad.requires_grad:
        grad = grad.detach()
    contiguous = param.is_contiguous()
    if not contiguous and (not any_format or torch.empty_like(param, device="meta").stride() != param.stride()):
        form = torch.preserve_format if any_format else torch.contiguous_format
        copies.append((param, torch.empty_like(param, memory_format=form, requires_grad=False).copy_(param)))
        param = copies[-1][1]
        contiguous = param.is_contiguous()
    if not (contiguous and grad.is_contiguous()) and grad.stride() != param.stride():
        grad = torch.empty_like(param, dtype=grad.dtype, requires_grad=False).copy_(grad)
    for name, value in values.items():
        if (
            value.shape == param.shape
            and not (contiguous and value.is_contiguous())
            and value.stride() != param.stride()
        ):
            values[name] = state[name] = torch.empty_like(param, dtype=value.dtype, requires_grad=False).copy_(value)
    if param.is_complex():
        param, grad = torch.view_as_real(param), torch.view_as_real(grad.resolve_conj())
        values = {k: torch.view_as_real(v) if v.is_complex() else v for k, v in values.items()}
    return param, grad, values
