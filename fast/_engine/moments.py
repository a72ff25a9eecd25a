"""The moving averages that the updates share, exact to the last bits at any beta."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from fast._kernels.update import Update

Average = Callable[[Tensor, Tensor], Tensor]  # (old, new) -> beta old + (1 - beta) new
Numbers = Sequence[Any]  # the scalars of an update, numbers or 0-d tensors
New = tuple[Tensor, ...]  # what an update gives: the new parameter, and the new state in its order


def _from_old(weight: Any, old: Tensor, new: Tensor) -> Tensor:
    return old + weight * (new - old)


def _from_new(weight: Any, old: Tensor, new: Tensor) -> Tensor:
    return new + (1 - weight) * (old - new)


def weights(betas: Sequence[float]) -> tuple[float, ...]:
    """1 - beta, for each beta.

    In float32 beta = 0.999 is 0.99900001, so that beta old + (1 - beta) new would make an average of g^2 a hundred-thousandth too
    large. In the forms above the two weights add up to 1 whatever the rounding.
    """
    return tuple(1 - beta for beta in betas)


class Variants:
    """An Update for any betas: each average starts from its old or from its new end, whichever has more weight.

    `function` and `statistic` take (first, second, numbers, param, grad, exp_avg, ...): the averages, the update's scalars after
    `weights(betas)`, and param (unless `as_stored`) and grad in the dtype of exp_avg.
    """

    def __init__(
        self,
        function: Callable[..., New],
        shapes: str,
        statistic: Callable[..., Tensor] | None = None,
        as_stored: bool = False,
        **options: Any,
    ) -> None:
        self._made: dict[tuple[bool, ...], Update] = {}
        for ends in ((a, b) for a in (False, True) for b in (False, True)):
            averaged = statistic and _averaging(statistic, ends, as_stored)
            self._made[ends] = Update(_averaging(function, ends, as_stored), shapes, statistic=averaged, **options)

    def __call__(self, betas: Sequence[float]) -> Update:
        return self._made[nearer_ends(betas)]


def averages(betas: Sequence[float]) -> tuple[Average, ...]:
    """The averages of these betas as an Update has them."""
    forms = [_from_new if new else _from_old for new in nearer_ends(betas)]
    return tuple(partial(form, weight) for form, weight in zip(forms, weights(betas), strict=True))


def _averaging(function: Callable[..., Any], ends: tuple[bool, ...], as_stored: bool) -> Callable[..., Any]:
    forms = [_from_new if new else _from_old for new in ends]

    def averaged(scalars: Numbers, param: Tensor, grad: Tensor, exp_avg: Tensor, *rest: Tensor) -> Any:
        first, second = (partial(form, weight) for form, weight in zip(forms, scalars[:2], strict=True))
        param, grad = param if as_stored else param.to(exp_avg.dtype), grad.to(exp_avg.dtype)
        return function(first, second, scalars[2:], param, grad, exp_avg, *rest)

    averaged.__module__ = getattr(function, "func", function).__module__  # whose kernels a profile shows
    return averaged


def nearer_ends(betas: Sequence[float]) -> tuple[bool, ...]:
    """For each beta, whether the average starts from the new end."""
    return tuple(bool(beta < 0.5) for beta in betas)
