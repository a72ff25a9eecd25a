"""Same update as reference/grams.py, in place and compiled.

reference    here
w, g         param, grad
m, v         exp_avg, exp_avg_sq
beta1,beta2  betas
t            step
"""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from fast._engine.checks import Group, number
from fast._engine.moments import Average, New, Numbers, Variants, weights
from fast._engine.optimizer import FusedOptimizer, Options, hyper_parameters
from fast._kernels.update import Update


def _paper(first: Average, second: Average, numbers: Numbers, *tensors: Tensor) -> New:
    eps, step_size, decay = numbers
    param, grad, exp_avg, exp_avg_sq = tensors
    exp_avg, exp_avg_sq = first(exp_avg, grad), second(exp_avg_sq, grad * grad)
    size = exp_avg.abs() / (exp_avg_sq.sqrt() + eps)
    # (1 - d) (w - lr u) = w - (d w + (1 - d) lr u), which keeps small decays exact
    return param - (decay * param + step_size * (grad.sign() * size)), exp_avg, exp_avg_sq


def _released(numbers: Numbers, param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor) -> New:
    beta1, weight1, beta2, weight2, eps, step_size, decay = numbers
    param, grad = param.to(exp_avg.dtype), grad.to(exp_avg.dtype)
    param = param - decay * param
    exp_avg = beta1 * exp_avg + weight1 * grad  # the package's own roundings
    exp_avg_sq = beta2 * exp_avg_sq + weight2 * grad * grad
    return param - step_size * (grad.sign() * exp_avg.abs() / (exp_avg_sq.sqrt() + eps)), exp_avg, exp_avg_sq


PAPER = Variants(_paper, "N N N N", elementwise=True)
RELEASED = Update(_released, "N N N N", elementwise=True)


class Grams(FusedOptimizer):
    """Grams: the size of the step from Adam's momentum, its direction from the gradient's sign.

        exp_avg    = beta1 exp_avg + (1 - beta1) grad
        exp_avg_sq = beta2 exp_avg_sq + (1 - beta2) grad^2
        update     = exp_avg / (1 - beta1^step) / (sqrt(exp_avg_sq / (1 - beta2^step)) + eps)
        param      = (1 - lr weight_decay) (param - lr sign(grad) |update|)

    Args:
        params: parameters, (name, parameter) pairs or parameter groups (dicts), as in torch.optim.
        lr: step length per coordinate, a float or a tensor of one element. A tensor is the first group's own, which may be
            written in place; each further group gets a copy, so that a scheduler may give each its own lr.
        betas: decay rates of the two averages, each in [0, 1): any ordered pair of numbers, kept as floats.
        eps: added to the root of the second average, >= 0; with 0, an entry whose gradient has always been 0 becomes NaN.
        weight_decay: decoupled decay; each step shrinks a parameter by lr * weight_decay.
        maximize: ascend instead of descend.
        as_released: the arithmetic of the package `grams-pytorch` 0.0.2 (decay first; eps added before the bias correction),
            without its overwriting of the gradients.
        stochastic_rounding: bfloat16 parameters, and a bfloat16 exp_avg, are rounded up or down at random, right on average: a
            step below half their spacing is not lost. No effect on float32 and wider; float16 and sharded ones are refused.
        rounding_seed: what the random bits are made from, with the parameter's place among all, its step and the entry. torch's
            generators are not used; a run that goes on from a checkpoint keeps the saved bits.
        exp_avg_dtype: torch.bfloat16 keeps the first average so, half of its memory. Rounded to nearest it stands still at
            beta1 > 0.998, where a step is below half its spacing; not with stochastic_rounding. The second stays float32.
        compile: None compiles where a compiler is found and warns once where not; True insists; False never compiles.
        capturable: keep `step` on the parameter's device and read nothing back, as CUDA graphs need it.

    Under gradient noise Grams moves less than Adam at the same lr (0.42 times at beta1 = 0.9): tune lr, do not carry it over.
    A coordinate whose gradient is exactly 0 stays where it is, whatever its momentum. Does not change the gradients.
    Source: Cao, Li, Song, arXiv 2412.17107v3; `reference/grams.py` has the pseudocode line by line.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        as_released: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, hyper_parameters(locals()))

    _options = ("as_released",)

    def _check(self, group: Group) -> None:
        number("eps", group["eps"], 0.0)
        if not isinstance(group["as_released"], bool):
            raise TypeError(f"as_released must be True or False, got {group['as_released']!r}")

    def _scalars(self, group: Group, lr: Any, step: Any) -> tuple[Any, ...]:
        (beta1, beta2), eps, decay = group["betas"], group["eps"], lr * group["weight_decay"]
        # m / (1 - beta1^t) / (sqrt(v / c) + eps) = m sqrt(c) / (1 - beta1^t) / (sqrt(v) + sqrt(c) eps), c = 1 - beta2^t
        root = (1 - beta2**step) ** 0.5
        step_size = lr * root / (1 - beta1**step)
        if group["as_released"]:  # which leaves eps as it is
            return beta1, 1 - beta1, beta2, 1 - beta2, eps, step_size, decay
        return *weights((beta1, beta2)), eps * root, step_size * (1 - decay), decay

    def _update(self, group: Group) -> Update:
        return RELEASED if group["as_released"] else PAPER(group["betas"])
