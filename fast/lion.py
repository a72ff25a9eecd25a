"""Same updates as reference/lion.py and reference/cautious_lion.py, in place and compiled.

reference    here
w, g         param, grad
m            exp_avg
beta1,beta2  betas
phi, alpha   mask, scale
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fast._engine.calls import Call
from fast._engine.checks import Group
from fast._engine.moments import Average, New, Numbers, Variants, weights
from fast._engine.optimizer import FusedOptimizer, Options, hyper_parameters
from fast._engine.shards import shards_of
from fast._kernels.tensors import State
from fast._kernels.update import Update
from fast.cautious import rescaling, rescaling_option, sharded_call


def _sign(x: Tensor) -> Tensor:
    """sign(x), with sign(NaN) = NaN: a compiled sign gives 0 there, and would freeze the coordinate in silence."""
    return torch.where(x != x, x, x.sign())  # isnan() is not vectorised on the CPU


def _lion(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    lr, decay = numbers
    param, grad, exp_avg = tensors
    direction = _sign(first(exp_avg, grad))
    return param - (lr * direction + decay * param), second(exp_avg, grad)


def _mask(first: Average, exp_avg: Tensor, grad: Tensor) -> Tensor:
    # without `_sign`, which differs at NaN alone, where the mask is False either way; shared, it would become a buffer
    return first(exp_avg, grad).sign() * grad > 0


def _scale(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> Tensor:
    _, grad, exp_avg = tensors
    return rescaling(_mask(first, exp_avg, grad), numbers[2:], exp_avg.dtype)


def _cautious(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    lr, decay, *_ = numbers
    param, grad, exp_avg, scale = tensors
    direction = _sign(first(exp_avg, grad))
    mask = direction * grad > 0
    # (1 - d) (w - lr u) = w - (d w + (1 - d) lr u)
    param = param - (decay * param + ((lr - lr * decay) * scale) * (mask.to(direction.dtype) * direction))
    return param, second(exp_avg, grad)


LION = Variants(_lion, "N N N", elementwise=True)
CAUTIOUS_LION = Variants(_cautious, "N N N", statistic=_scale)
SHARDED = Variants(_cautious, "N N N 1")


class Lion(FusedOptimizer):
    """Lion: every coordinate moves by lr, in the direction of an average of the gradients.

        direction = sign(beta1 exp_avg + (1 - beta1) grad)
        param     = param - lr (direction + weight_decay param)
        exp_avg   = beta2 exp_avg + (1 - beta2) grad

    Args:
        params: parameters, (name, parameter) pairs or parameter groups (dicts), as in torch.optim.
        lr: step length per coordinate, exactly; three to ten times smaller than AdamW's is customary.
        betas: weights of the average in the direction and of the one that is kept, each in [0, 1).
        weight_decay: decoupled decay; each step shrinks a parameter by lr * weight_decay.
        stochastic_rounding, rounding_seed, exp_avg_dtype, maximize, compile, capturable: as in `fast.Grams`.

    One state of the parameter's shape. A gradient that is NaN makes the coordinate NaN.
    Source: Chen et al., arXiv 2302.06675; `reference/lion.py` has the pseudocode line by line.
    """

    _state_names = ("exp_avg",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, hyper_parameters(locals()))

    def _check(self, group: Group) -> None:
        """Nothing beyond what all optimizers have."""

    def _scalars(self, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        return *weights(group["betas"]), lr, lr * group["weight_decay"]

    def _update(self, group: Group) -> Update:
        return LION(group["betas"])


class CautiousLion(FusedOptimizer):
    """Lion that leaves a coordinate alone where its direction disagrees with the gradient, and makes up for it elsewhere.

        direction = sign(beta1 exp_avg + (1 - beta1) grad)
        mask      = direction * grad > 0
        param     = (1 - lr weight_decay) (param - lr scale mask direction)
        exp_avg   = beta2 exp_avg + (1 - beta2) grad

    Args:
        all but rescale: as in `fast.Lion`.
        rescale: `scale`, one number for a tensor of n entries: "count" is n / (mask.sum() + 1), the paper's; "mean" is
            1 / max(mask.mean(), 0.001), the released code's; "none" is 1. But for "none" it needs the whole of each tensor:
            FSDP2's shards are summed over, flat ones (FSDP1, DeepSpeed ZeRO) are refused where they can be recognised.

    Source: Liang et al., arXiv 2411.16085v4; `reference/cautious_lion.py` has the pseudocode line by line.
    """

    _state_names = ("exp_avg",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        rescale: str = "count",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, hyper_parameters(locals()))

    def _check(self, group: Group) -> None:
        rescaling_option(group["rescale"])

    def _needs_whole(self, group: Group, param: Tensor) -> bool:
        return group["rescale"] != "none"

    def _scalars(self, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        return *weights(group["betas"]), lr, lr * group["weight_decay"], *rescaling_option(group["rescale"])

    def _update(self, group: Group) -> Update:
        return CAUTIOUS_LION(group["betas"])

    def _calls(self, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Call]:
        shards = shards_of(param) if group["rescale"] != "none" else None
        if shards is None:
            return super()._calls(group, param, work, values)
        return [sharded_call(SHARDED(group["betas"]), _mask, shards, group, param, [values["exp_avg"]])]
