"""The float32 master weight of a half-precision parameter: the parameter is the master, rounded."""

from __future__ import annotations

import torch
from torch import Tensor

from fast._kernels.cpu import CHUNK
from fast._kernels.tensors import dispatches


def half(param: Tensor) -> bool:
    """Whether a parameter is of a type that has a master."""
    return param.dtype in (torch.float16, torch.bfloat16)


def follow(param: Tensor, master: Tensor) -> None:
    """Makes the master follow where somebody else has written the parameter since it was rounded: a loaded model, `.data`.

    On the CPU, before a step; elsewhere `trained` does it within the kernels, without launches of its own.
    """
    if param.device.type != "cpu" or not param.numel():
        return
    if torch.compiler.is_compiling() or dispatches(param):
        master.copy_(_followed(param, master))
    else:
        for part, weights in zip(param.reshape(-1).split(CHUNK), master.view(-1).split(CHUNK), strict=True):
            if not torch.equal(part, weights.to(part.dtype)):
                weights.copy_(_followed(part, weights))


def trained(param: Tensor, master: Tensor) -> Tensor:
    """The weight that is trained: the master, which has followed the parameter."""
    return master if param.device.type == "cpu" else _followed(param, master)


def _followed(param: Tensor, master: Tensor) -> Tensor:
    # bits: a compiler leaves out a rounding to a half type that is followed by a comparison of numbers
    same = param.view(torch.int16) == master.to(param.dtype).view(torch.int16)
    return torch.where(same, master, param.to(master.dtype))
