"""Which part of Grams does the work: direction and size of the step, each from the momentum or from the gradient (claim N2).

    rule    direction    size       that is
    mm      momentum     momentum   Adam
    gm      gradient     momentum   Grams
    mg      momentum     gradient   Grams' mirror; as in Ano (arXiv 2508.18258), which has another second moment
    gg      gradient     gradient   RMSprop with bias correction
    masked  momentum     momentum   where it agrees with the gradient, rescaled: Cautious
    random  momentum     momentum   a random mask that keeps as many entries of each tensor as Cautious', rescaled alike

All divide by sqrt(vhat) + eps, with mhat = m / (1 - beta1^t), vhat = v / (1 - beta2^t); weights decay by lr weight_decay
before the step. Plain and uncompiled: what it is for is that the rules differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

RULES = ("mm", "gm", "mg", "gg", "masked", "random")


def update(rule: str, g: Tensor, mhat: Tensor, vhat: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """What is subtracted, times 1 / lr, in the shape of `g`. The random mask is drawn from `generator`."""
    scale = vhat.sqrt() + eps
    if rule in ("masked", "random"):
        u = mhat / scale
        kept = (u * g > 0).to(u.dtype)
        if rule == "random":
            places = torch.randperm(kept.numel(), generator=generator).to(kept.device)
            kept = kept.flatten()[places].view_as(kept)
        return u * kept * (kept.numel() / (kept.sum() + 1))
    direction, size = ({"m": mhat, "g": g}[letter] for letter in rule)
    return direction.sign() * size.abs() / scale


class Ablation(Optimizer):
    """Args: rule, one of RULES; seed, of the random masks. A gradient of None is passed over; gradients stay as they are."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rule: str = "mm",
        seed: int = 0,
    ) -> None:
        if rule not in RULES:
            raise ValueError(f"rule {rule!r}: expected one of {', '.join(RULES)}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "rule": rule})
        self._seed = seed

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        place = 0
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                place += 1
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                state["step"] += 1
                t, m, v = state["step"], state["exp_avg"], state["exp_avg_sq"]
                m.lerp_(p.grad, 1 - beta1)
                v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                # a function of seed, tensor and step, so that a resumed run draws what the whole run draws
                generator = torch.Generator().manual_seed((self._seed * 1_000_003 + place) * 1_000_003 + t)
                u = update(group["rule"], p.grad, m / (1 - beta1**t), v / (1 - beta2**t), group["eps"], generator)
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u, alpha=group["lr"])
        return loss
