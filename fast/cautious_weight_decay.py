"""Same update as reference/cautious_weight_decay.py, in place and compiled.

reference    here
w, g         param, grad
m, v         exp_avg, exp_avg_sq
beta1,beta2  betas
t            step
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fast._engine.checks import Group, number
from fast._engine.moments import Average, New, Numbers, Variants, weights
from fast._engine.optimizer import FusedOptimizer, Options, hyper_parameters
from fast._kernels.update import Update


def _step(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    eps, step_size, decay = numbers
    param, grad, exp_avg, exp_avg_sq = tensors
    exp_avg, exp_avg_sq = first(exp_avg, grad), second(exp_avg_sq, grad * grad)
    update = step_size * exp_avg / (exp_avg_sq.sqrt() + eps)
    return param - (update + torch.where(update * param >= 0, decay * param, 0.0)), exp_avg, exp_avg_sq


UPDATE = Variants(_step, "N N N N", elementwise=True)


class CautiousWeightDecay(FusedOptimizer):
    """AdamW that decays a coordinate only where its update, too, brings it nearer to 0.

        exp_avg    = beta1 exp_avg + (1 - beta1) grad
        exp_avg_sq = beta2 exp_avg_sq + (1 - beta2) grad^2
        update     = exp_avg / (1 - beta1^step) / (sqrt(exp_avg_sq / (1 - beta2^step)) + eps)
        param      = param - lr (update + weight_decay param where update param >= 0)

    Args:
        params, lr, betas, eps: as in `fast.Grams`.
        weight_decay: decoupled decay; a step shrinks a coordinate by lr * weight_decay, or not at all.
        options: stochastic_rounding, rounding_seed, exp_avg_dtype, maximize, compile, capturable, as in `fast.Grams`.

    Source: Chen et al., arXiv 2510.12402v2; `reference/cautious_weight_decay.py` has the pseudocode line by line.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, hyper_parameters(locals()))

    def _check(self, group: Group) -> None:
        number("eps", group["eps"], 0.0)

    def _scalars(self, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        (beta1, beta2), root = group["betas"], (1 - group["betas"][1] ** step) ** 0.5
        # m / (1 - beta1^t) / (sqrt(v / c) + eps) = m sqrt(c) / (1 - beta1^t) / (sqrt(v) + sqrt(c) eps), c = 1 - beta2^t
        step_size = lr * root / (1 - beta1**step)
        return *weights((beta1, beta2)), group["eps"] * root, step_size, lr * group["weight_decay"]

    def _update(self, group: Group) -> Update:
        return UPDATE(group["betas"])
