"""An optimizer on tensors that several processes share, beside the same one on whole tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, distribute_tensor
from torch.optim import Optimizer
from twin import array, error, give, gradients


def distributed(whole: Sequence[Tensor], mesh: DeviceMesh, placements: Sequence[Sequence[Placement]]) -> list[Any]:
    """The same parameters, each cut as its placements say."""
    return [
        nn.Parameter(distribute_tensor(p.detach().clone(), mesh, own)) for p, own in zip(whole, placements, strict=True)
    ]


def agree(
    make: Callable[[Any], Optimizer], whole: Sequence[Tensor], parts: Sequence[Any], bound: float, steps: int = 5
) -> None:
    """`make(params)` steps both alike, in the parameters and in everything of the state."""
    one, two = make(whole), make(parts)
    for i in range(steps):
        grads = gradients(whole, i)
        give(whole, grads)
        give(parts, [distribute_tensor(g, p.device_mesh, p.placements) for g, p in zip(grads, parts, strict=True)])
        one.step()
        two.step()
    for p, q in zip(whole, parts, strict=True):
        found = {"param": error(q, array(p))}
        assert one.state[p].keys() == two.state[q].keys()
        for name, value in one.state[p].items():
            assert two.state[q][name].shape == value.shape and two.state[q][name].dtype == value.dtype, name
            found[name] = error(two.state[q][name], array(value))
        assert max(found.values()) <= bound, f"{type(one).__name__} {tuple(p.shape)} as {q.placements}: {found}"


def alike_everywhere(value: Tensor) -> bool:
    """Whether all processes have the same bits."""
    found = [torch.empty_like(value) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, value)
    return all(torch.equal(t, value) for t in found)
