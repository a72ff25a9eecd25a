"""Which parameters Adams decays by their largest singular value, and when that decay diverges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from fast._engine.checks import Group
from fast._engine.shards import leading
from fast._kernels.tensors import State, local, state_dtype
from fast._kernels.update import users_line

EMPTY: Mapping[str, Any] = MappingProxyType({})


def matrix_shape(group: Group, param: Tensor, state: Mapping[str, Any] = EMPTY) -> tuple[int, ...] | None:
    """The shape (..., M, N) in which a parameter has spectral decay, or None where it decays as a vector.

    Its attribute says so; without one the group's False, or what `state` was made for: a copied parameter lost its attributes.
    """
    shape = tuple(param.shape)
    axes = state["u"].ndim if "u" in state else len(shape)
    if axes < len(shape):
        shape = (*shape[:axes], math.prod(shape[axes:]))
    elif len(shape) > 3 and group["flatten_kernels"]:
        shape = (shape[0], math.prod(shape[1:]))
    if len(shape) < 2 or 1 in shape[-2:] or 0 in shape or param.is_complex():
        return None
    return shape if spectral(group, param, "u" in state or "exp_avg" not in state) else None


def spectral(group: Group, param: Tensor, unless_told: bool = True) -> bool:
    """What a parameter's attribute says, or its group's False; where neither does, `unless_told`."""
    said = getattr(param, "use_spectral_decay", None)
    return bool(group["use_spectral_decay"] and unless_told if said is None else said)


def iteration(param: Tensor, shape: tuple[int, ...], device: Any = None) -> State:
    """u and sigma before the first power iteration on a parameter of this `matrix_shape`."""
    batch, dtype = len(shape) - 2, state_dtype(param)
    return {
        "u": leading(param, batch + 1, 1.0, dtype, device),
        "sigma": leading(param, batch, 0.0, dtype, device),
    }


def settled(group: Group, param: Tensor, state: State, values: State) -> bool:
    """Whether this step decays a parameter as a matrix; `state` and `values`, of this process's shard, then say so, too.

    Where somebody has taken rows out of a parameter and its averages, or put some in, the iteration begins anew: it is an estimate.
    """
    shape = matrix_shape(group, param, state)
    old = [None if name not in state else tuple(state[name].shape) for name in ("u", "sigma")]
    if shape is None:
        for name in ("u", "sigma"):
            state.pop(name, None)
    elif old != [shape[:-1], shape[:-2]]:
        new = iteration(param, shape)
        state.update(new)
        values.update({name: local(t) for name, t in new.items()})
    return shape is not None


def warn_of_growth(pull: float, rows: int) -> None:
    """Says that a step will multiply the largest singular value of a matrix by less than -1."""
    warnings.warn(
        f"lr * weight_decay * sqrt(M) = {pull * rows**0.5:.3g} > 2 for a matrix of M = {rows} rows: its largest singular"
        f" value will grow without bound; take lr * weight_decay below {2 / rows**0.5:.3g}, or set use_spectral_decay ="
        " False on it or in its group",
        RuntimeWarning,
        stacklevel=users_line(),
    )
