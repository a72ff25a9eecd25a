"""Same update as reference/cautious.py, in place and compiled.

reference    here
w, g         param, grad
m, v         exp_avg, exp_avg_sq
beta1,beta2  betas
t            step
phi, alpha   mask, scale
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fast._engine.calls import Call
from fast._engine.checks import Group, number
from fast._engine.moments import Average, New, Numbers, Variants, averages, weights
from fast._engine.optimizer import FusedOptimizer, Options, hyper_parameters
from fast._engine.shards import Reductions, Shards, shards_of
from fast._kernels.direct import single
from fast._kernels.tensors import WIDER, State, flat
from fast._kernels.update import Update

# The rules of the rescaling as numbers (extra, least): a tensor of n entries has n / max(mask.sum() + extra, least * n).
RULES = {"count": (1.0, 0.0), "mean": (0.0, 1e-3), "none": (0.0, 1.0)}


def rescaling_option(rule: Any) -> tuple[float, float]:
    """The numbers of a rule of rescaling; ValueError where there is none of that name."""
    if not isinstance(rule, str) or rule not in RULES:
        raise ValueError(f"rescale must be one of {', '.join(map(repr, RULES))}, got {rule!r}")
    return RULES[rule]


def rescaling(mask: Tensor, rule: Sequence[Any], dtype: torch.dtype) -> Tensor:
    """What makes up for the entries that are left out, a 0-d tensor."""
    return _rescaled(_count(mask, dtype), mask.numel(), rule)


def _count(mask: Tensor, dtype: torch.dtype) -> Tensor:
    # the CPU adds integers several times as fast as floats, and short ones twice as fast as long ones
    return mask.sum(dtype=torch.int32 if mask.numel() < 2**31 else torch.int64).to(dtype)


def _rescaled(count: Tensor, n: int, rule: Sequence[Any]) -> Tensor:
    """n / max(count + extra, least n)."""
    extra, least = rule
    return n / torch.clamp(count + extra, min=least * n)


Mask = Callable[[Average, Tensor, Tensor], Tensor]  # of the direction's average, exp_avg and grad


def sharded_call(
    update: Update, mask: Mask, shards: Shards, group: Group, param: Tensor, moments: Sequence[Tensor]
) -> Call:
    """A shard: `update` takes its moments, exp_avg first, and the whole tensor's scale."""
    moments = [flat(t) for t in moments]
    scale = moments[0].new_empty(1, dtype=WIDER.get(moments[0].dtype))
    entries = param.numel() * (2 if param.is_complex() else 1)
    return Call(
        update, flat, (*moments, scale), partial(_shared_scale, mask, shards, group, entries, moments[0], scale)
    )


def _shared_scale(
    mask: Mask, shards: Shards, group: Group, entries: int, exp_avg: Tensor, scale: Tensor, param: Tensor, grad: Tensor
) -> Reductions:
    first, _ = averages(group["betas"])

    def here() -> Tensor:
        signed = (-grad if group["maximize"] else grad).to(scale.dtype)
        return _count(mask(first, exp_avg.to(scale.dtype), signed), scale.dtype)

    scale.copy_(here())
    yield [(scale, shards.over())]
    scale.copy_(_rescaled(scale, entries, rescaling_option(group["rescale"])))


def _mask(first: Average, exp_avg: Tensor, grad: Tensor) -> Tensor:
    return first(exp_avg, grad) * grad > 0


def _scale(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> Tensor:
    _, grad, exp_avg, _ = tensors
    return single(rescaling(_mask(first, exp_avg, grad), numbers[3:], exp_avg.dtype))


def _cautious(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    eps, step_size, decay, *_ = numbers
    param, grad, exp_avg, exp_avg_sq, scale = tensors
    exp_avg, exp_avg_sq = first(exp_avg, grad), second(exp_avg_sq, grad * grad)
    mask = (exp_avg * grad > 0).to(exp_avg.dtype)  # the signs of u and m are the same
    update = exp_avg / (exp_avg_sq.sqrt() + eps)
    # (1 - d) (w - lr u) = w - (d w + (1 - d) lr u)
    param = param - (decay * param + (step_size * scale) * (mask * update))
    return param, exp_avg, exp_avg_sq


CAUTIOUS_ADAMW = Variants(_cautious, "N N N N", statistic=_scale)
SHARDED = Variants(_cautious, "N N N N 1")


class CautiousAdamW(FusedOptimizer):
    """AdamW that leaves a coordinate alone where its step disagrees with the gradient, and makes up for it elsewhere.

        exp_avg    = beta1 exp_avg + (1 - beta1) grad
        exp_avg_sq = beta2 exp_avg_sq + (1 - beta2) grad^2
        update     = exp_avg / (1 - beta1^step) / (sqrt(exp_avg_sq / (1 - beta2^step)) + eps)
        mask       = update * grad > 0
        param      = (1 - lr weight_decay) (param - lr scale mask update)

    Args:
        all but rescale: as in `fast.Grams`.
        rescale: `scale`, one number for a tensor of n entries: "count" is n / (mask.sum() + 1), the paper's; "mean" is
            1 / max(mask.mean(), 0.001), the released code's; "none" is 1. But for "none" it needs the whole of each tensor:
            FSDP2's shards are summed over, flat ones (FSDP1, DeepSpeed ZeRO) are refused where they can be recognised.

    A gradient that is NaN makes the coordinate NaN.
    Source: Liang et al., arXiv 2411.16085v4; `reference/cautious.py` has the pseudocode line by line.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        rescale: str = "count",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, hyper_parameters(locals()))

    def _check(self, group: Group) -> None:
        number("eps", group["eps"], 0.0)
        rescaling_option(group["rescale"])

    def _needs_whole(self, group: Group, param: Tensor) -> bool:
        return group["rescale"] != "none"

    def _scalars(self, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        (beta1, beta2), decay = group["betas"], lr * group["weight_decay"]
        # m / (1 - beta1^t) / (sqrt(v / c) + eps) = m sqrt(c) / (1 - beta1^t) / (sqrt(v) + sqrt(c) eps), c = 1 - beta2^t
        root = (1 - beta2**step) ** 0.5
        step_size = lr * (1 - decay) * root / (1 - beta1**step)
        return *weights((beta1, beta2)), group["eps"] * root, step_size, decay, *rescaling_option(group["rescale"])

    def _update(self, group: Group) -> Update:
        return CAUTIOUS_ADAMW(group["betas"])

    def _calls(self, group: Group, param: Tensor, work: Tensor, values: State) -> Iterable[Call]:
        shards = shards_of(param) if group["rescale"] != "none" else None
        if shards is None:
            return super()._calls(group, param, work, values)
        moments = [values[name] for name in self._state_names]
        return [sharded_call(SHARDED(group["betas"]), _mask, shards, group, param, moments)]
