"""Param groups as AdamMini keeps them: read once, copied, and each with the blocks of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def listed(model_or_params: Any) -> Any:
    """Parameters, pairs or groups in lists that can be read twice, with groups copied; as torch.optim takes them."""
    if isinstance(model_or_params, nn.Module):
        return [(name, p) for name, p in model_or_params.named_parameters() if p.requires_grad]
    if isinstance(model_or_params, Tensor):
        return model_or_params  # the base class says what is wrong with it
    params = list(model_or_params.items() if isinstance(model_or_params, Mapping) else model_or_params)
    for item in params:  # as torch.optim says it, before the partition asks what they are
        pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
        if not (pair or isinstance(item, (Tensor, Mapping))):
            raise TypeError(f"params must be tensors, (name, tensor) pairs or dicts, got an item {item!r}")
    return [read_group(item) if isinstance(item, Mapping) else item for item in params]


def read_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the group whose "params" is a list: an iterator gives its parameters only once."""
    params = group["params"]
    if isinstance(params, set):
        return dict(group)  # torch.optim refuses it: a set has no order
    return {**group, "params": [params] if isinstance(params, Tensor) else list(params)}
