"""How this package's optimizers look at tensors: as dense vectors on one device, without a copy where possible."""

from __future__ import annotations

import functools
import operator
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

State = dict[str, Tensor]
PLAIN_TYPES = (Tensor, Parameter)  # no set, which the Dynamo of torch 2.6 cannot ask for a class
WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}


# The keys under which torch's dispatcher files a tensor: one call tells whether anything is deferred, or wrapped around it.
_keys = getattr(torch._C, "_dispatch_keys", None)
_by_torch: Any = getattr(Tensor, "__torch_dispatch__")  # noqa: B009  of which pyright makes a method


def plain(t: Tensor) -> bool:
    """Whether a tensor's memory holds its numbers and nothing has to be done before they are read or after they are written.

    Not so are tensors of a class of their own (a DTensor, a sum that other processes still send), and those that keep a sign, a
    complex conjugate or zeros without writing them out.
    """
    if type(t) not in PLAIN_TYPES:
        return False
    if torch.compiler.is_compiling():
        return True  # the compiler knows them
    if _keys is not None:
        return (keys := _keys(t).raw_repr()) in _plain_keys or keys in _keys_of_plain_ones(t.device.type)
    return not (t.is_neg() or t.is_conj() or (hasattr(t, "_is_zerotensor") and t._is_zerotensor()))


_plain_keys: set[int] = (
    set()
)  # on the devices that have been met: to ask a tensor for its device takes longer than all the rest


@functools.cache
def _keys_of_plain_ones(device: str) -> set[int]:
    assert _keys is not None
    with torch.inference_mode():
        inference = torch.empty(0, device=device)
    keys = {_keys(t).raw_repr() for t in (torch.empty(0, device=device), inference)}
    _plain_keys.update(keys)
    return keys


def dispatches(t: Tensor) -> bool:
    """Whether a tensor is of a class that does its operations in Python, as those do that wrap other tensors; no DTensor."""
    kind: Any = type(t)
    return kind not in PLAIN_TYPES and kind.__torch_dispatch__ is not _by_torch and not is_dtensor(t)


def resolved(t: Tensor, like: Tensor | None = None) -> Tensor:
    """A tensor as a plain one: the same memory where its class only gives functions other names, else a copy.

    The copy is laid out as `like` is. A tensor that dispatches itself is waited for, if it defers something, and unwrapped.
    """
    if type(t) not in PLAIN_TYPES and not dispatches(t) and not is_dtensor(t):
        t = t.as_subclass(Tensor)
    if plain(t):
        return t
    if like is None:
        copy = torch.empty(t.shape, dtype=t.dtype, device=t.device)
    else:
        copy = torch.empty_like(like, dtype=t.dtype, requires_grad=False)
    copy.copy_(t)
    return copy


@functools.cache
def _getter(names: tuple[str, ...]) -> Callable[[State], tuple[Tensor, ...]]:
    return operator.itemgetter(*names, *names[: len(names) < 2])  # a single one twice, since it would give no tuple


_address = Tensor.data_ptr


class CachedViews:
    """How a parameter is cut into pieces, with views of its state, good as long as the state and the parameter's form stay.

    It keeps no memory that others have let go: of the parameter it has no view, and those of the state go when a tensor of
    the state does.
    """

    __slots__ = ("calls", "device", "dtype", "options", "own", "place", "pointers", "refs", "shape")

    def __init__(
        self, param: Tensor, state: State, options: tuple[Any, ...], calls: list[Any], forget: Callable[[Any], object]
    ) -> None:
        self.options, self.calls = options, calls
        self.shape, self.dtype, self.device, self.place = param.shape, param.dtype, param.device, param.data_ptr()
        names = tuple(name for name, t in state.items() if isinstance(t, Tensor) and name != "step")
        self.own = _getter(names)
        self.pointers = [*map(_address, self.own(state))]
        self.refs = [weakref.ref(state[name], forget) for name in names]

    def fits(self, param: Tensor, grad: Tensor, state: State, options: tuple[Any, ...]) -> bool:
        """Whether the views are still those of this parameter's state, and neither it nor its gradient needs rearranging.

        A view keeps its memory alive, so that nothing else can lie at the same address. Each tensor is asked in each step, so
        it is asked what `plain` would in fewer calls: a parameter that stays where it was is what it was, zeros that are
        not written out have no address, and complex ones, which are worked on as real ones, are not kept.
        """
        if self.options != options or grad.requires_grad or not (param.is_contiguous() and grad.is_contiguous()):
            return False
        if type(param) not in PLAIN_TYPES or type(grad) not in PLAIN_TYPES or grad.is_neg() or param.is_neg():
            return False
        try:
            if (place := param.data_ptr()) != self.place or not place:
                if param.device != self.device or not plain(param):
                    return False
                self.place = place
            if not grad.data_ptr() and place:
                return False
        except RuntimeError:  # a tensor without memory
            return False
        return self.is_of(state) and self.shape == param.shape and self.dtype == param.dtype

    def is_of(self, state: State) -> bool:
        """Whether the views are still those of this state."""
        try:
            return self.pointers == [*map(_address, self.own(state))]
        except (KeyError, RuntimeError):  # no such state, or a tensor without memory
            return False


def writable(param: Tensor) -> Tensor:
    """The parameter; ValueError where no step could write it in place, before one has written others."""
    if not torch.compiler.is_compiling() and param.is_inference():  # Dynamo cannot ask
        raise ValueError(
            f"a parameter of shape {tuple(param.shape)} was made in torch.inference_mode(), where nothing trains: clone it outside"
        )
    if not torch.compiler.is_compiling() and hasattr(param, "_is_zerotensor") and param._is_zerotensor():
        raise ValueError(f"a parameter of shape {tuple(param.shape)} has no memory to write to: clone it")
    if any(size > 1 and stride == 0 for size, stride in zip(param.shape, local(param).stride(), strict=True)):
        raise ValueError(
            f"a parameter of shape {tuple(param.shape)} has entries that share memory, as expand() makes them: clone it"
        )
    return param


def state_dtype(param: Tensor) -> torch.dtype:
    """The dtype of a parameter's state: float32 for the half types (complex64 for the complex one), else the parameter's own."""
    return WIDER.get(param.dtype, param.dtype)


def zeros_like(param: Tensor, device: Any = None, form: torch.memory_format = torch.preserve_format) -> Tensor:
    """State of the parameter's shape, in its memory format if nothing else is said; for a DTensor a DTensor."""
    return torch.zeros_like(param, dtype=state_dtype(param), device=device, memory_format=form, requires_grad=False)


def flat(t: Tensor) -> Tensor:
    """A dense tensor's entries in the order of its memory, as a vector without a copy."""
    return t.view(-1) if t.is_contiguous() else t.as_strided((t.numel(),), (1,))


def on_cpu(t: Tensor) -> bool:
    """Whether a tensor is where its kernels are made for a CPU."""
    return t.device.type == "cpu"


def local(t: Tensor) -> Tensor:
    """This process's shard of a DTensor; any other tensor itself."""
    return t.to_local() if is_dtensor(t) else t  # pyright: ignore[reportAttributeAccessIssue]


def is_dtensor(t: Tensor) -> bool:
    """Whether t is a DTensor; without importing that part of torch, which takes a second, where nobody else has."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def like_placed(grad: Any, param: Any) -> Tensor:
    """The gradient, a DTensor, placed as its parameter is. ValueError where that has partial sums."""
    if any(p.is_partial() for p in param.placements):
        raise ValueError(
            f"a parameter of shape {tuple(param.shape)} is placed as {param.placements}: no process has its entries, only"
            " parts of a sum; place it with Shard and Replicate (DTensor.redistribute)"
        )
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
    values = {k: v for k, v in state.items() if k != "step" and isinstance(v, Tensor)}
    if type(param) not in PLAIN_TYPES and is_dtensor(param):
        grad = like_placed(grad, param)
        torch.autograd.graph.increment_version(param)  # its shard is edited behind its back
        param, grad, values = local(param), local(grad), {k: local(v) for k, v in values.items()}
    if grad.requires_grad:
        grad = grad.detach()
    if not dispatches(param):  # those do all of this themselves
        if not plain(param):
            dense = resolved(param)
            if not dense.is_set_to(param):
                copies.append((param, dense))
            param = dense
        grad = resolved(grad, param)
        for name, value in values.items():
            if not plain(value):
                values[name] = state[name] = resolved(value)
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
        if value.shape != param.shape and state.get(name) is value and not value.is_contiguous():
            values[name] = state[name] = value.contiguous()  # somebody has taken rows out of it
    if param.is_complex():
        param, grad = torch.view_as_real(param), torch.view_as_real(grad.resolve_conj())
        values = {k: torch.view_as_real(v) if v.is_complex() else v for k, v in values.items()}
    return param, grad, values
