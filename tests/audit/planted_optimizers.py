"""Optimizers written out by hand in torch, right or with one error: what the audit must call by its name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Planted(Optimizer):
    """Adam's family. `rule`: adamw, grams, cautious; `fault`: the error, "" for none."""

    rule, fault = "adamw", ""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **options})

    def fresh(self, p: Tensor) -> dict[str, Any]:
        return {"t": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}

    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.update(p, p.grad, group)
        return loss

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state, fault, (b1, b2) = self.state[p], self.fault, group["betas"]
        lr, eps, decay = group["lr"], group["eps"], group["weight_decay"]
        if not state:
            state.update(self.fresh(p))
        state["t"] += 1
        t, m, v = state["t"], state["m"], state["v"]
        if fault == "coupled decay":
            g = g + decay * p
        m.mul_(b1).add_(g, alpha=1 - b1)
        v.mul_(b1 if fault == "beta of m" else b2).addcmul_(g, g, value=1 - (b1 if fault == "beta of m" else b2))
        mhat = m if fault == "no bias correction" else m / (1 - b1**t)
        vhat = v / (1 - b2**t)
        u = mhat / ((vhat + eps).sqrt() if fault == "eps under the root" else vhat.sqrt() + eps)
        if self.rule == "grams":
            u = (m if fault == "sign of m" else g).sign() * u.abs()
        if self.rule == "cautious":
            mask = (u * g > 0).to(u.dtype)
            u = (
                u
                * mask
                * (1 / mask.mean().clamp(min=1e-3) if fault == "over the mean" else mask.numel() / (mask.sum() + 1))
            )
        after = self.rule != "adamw" or fault == "decay after"
        if not after and fault != "coupled decay":
            p.mul_(1 - lr * decay)
        p.add_(u * -lr)
        if after:
            p.mul_(1 - (decay if fault == "decay without lr" else lr * decay))


def planted(rule: str, fault: str = "") -> type[Planted]:
    return type("Planted", (Planted,), {"rule": rule, "fault": fault})


AdamW, Grams, Cautious = (planted(rule) for rule in ("adamw", "grams", "cautious"))
EpsUnderTheRoot = planted("adamw", "eps under the root")
BetaOfM = planted("adamw", "beta of m")
NoBiasCorrection = planted("adamw", "no bias correction")
CoupledDecay = planted("adamw", "coupled decay")
DecayAfter = planted("adamw", "decay after")
SignOfM = planted("grams", "sign of m")
DecayWithoutLr = planted("grams", "decay without lr")
OverTheMean = planted("cautious", "over the mean")


class Lion(Optimizer):
    """Lion; `fault`: "beta1 twice", where m is averaged with the beta that the sign was taken with."""

    fault = ""

    def __init__(self, params: Any, lr: float = 1e-3, beta: Any = (0.9, 0.99), wd: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "wd": wd})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            b1, b2 = group["beta"]
            for p in (p for p in group["params"] if p.grad is not None):
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                c = b1 * m + (1 - b1) * p.grad
                p.sub_(group["lr"] * (c.sign() + group["wd"] * p))
                m.lerp_(p.grad, 1 - (b1 if self.fault else b2))


class LionBeta1Twice(Lion):
    fault = "beta1 twice"


class Noisy(Planted):
    """Rounds at random, as it would say of itself."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super().update(p, g, group)
        p.mul_(1 + 1e-3 * (torch.rand_like(p) - 0.5))


class FewBits(Planted):
    """Keeps m in eight bits."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if state:
            state["m"] = state["m"].to(p.dtype) * state["scale"]
        super().update(p, g, group)
        state["scale"] = state["m"].abs().max() / 127 + 1e-30
        state["m"] = (state["m"] / state["scale"]).round().to(torch.int8)


class Crude(Planted):
    """Float32 inside, whatever it is given."""

    def fresh(self, p: Tensor) -> dict[str, Any]:
        return {"t": 0, "m": torch.zeros_like(p, dtype=torch.float32), "v": torch.zeros_like(p, dtype=torch.float32)}

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state, (b1, b2) = self.state[p], group["betas"]
        if not state:
            state.update(self.fresh(p))
        state["t"] += 1
        m, v, g = state["m"], state["v"], g.float()
        m.lerp_(g, 1 - b1)
        v.lerp_(g * g, 1 - b2)
        u = m / (1 - b1 ** state["t"]) / ((v / (1 - b2 ** state["t"])).sqrt() + group["eps"])
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * u)


class Unlike(Planted):
    """No rule that anyone has written down."""

    def update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        super().update(p, g, group)
        p.sub_(group["lr"] * 0.37 * torch.tanh(3.1 * g))
