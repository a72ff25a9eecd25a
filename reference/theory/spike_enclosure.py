"""How high Adam and Adams spike, and how far one outlier carries them, between bounds. (A4, `adaptive_spikes`)

The run on w^2 / 2 is a recursion without chance, but its spikes multiply every error: floats say how high some run goes, balls how
high this one does. The outlier's way is a series, whose rest is bounded by a geometric one.

Needs python-flint (the extra `test`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from flint import arb, ctx

from reference.theory.balls import Undecided, ball, decide, less, path


@dataclass(frozen=True)
class SpikeBounds:
    """On w^2 / 2: `crossing`, the first step whose denominator is below what the minimum bears, and sizes over lr."""

    crossing: int
    quiet: arb  # max |w| / lr over the 50 steps before
    height: arb  # max |w| / lr from the crossing on


def spike(
    rule: ModuleType,
    *,
    beta2: str,
    steps: int,
    lr: str = "0.01",
    beta1: str = "0.9",
    bits: int,
    eps: str | None = None,
    start: str = "1",
) -> SpikeBounds:
    """`steps` steps of adam (give eps), adam_atan2 or adams from `start`; ValueError where the denominator never crosses.

    The threshold is sqrt(vhat) + eps < lr (1 - beta1) / (2 (1 + beta1)) (`adaptive_spikes.rest_point`).
    """
    hyper: dict[str, Any] = {"lr": lr, "beta1": beta1, "beta2": beta2}
    hyper |= {} if eps is None else {"eps": eps}
    hyper |= {"scalar_vector_weight_decay": 0} if "sigma" in rule.State._fields else {}

    def run() -> SpikeBounds:
        threshold = ball(lr) * (1 - ball(beta1)) / (2 * (1 + ball(beta1)))
        guard, crossing, before, height = ball(eps or 0), 0, [], arb(0)
        for t, w, _, state in path(rule, lambda w: w, ball(start), steps, **hyper):
            size = abs(w) / ball(lr)
            root = (state.v / (1 - ball(beta2) ** t)).sqrt()
            if not crossing and less(root + guard, threshold):
                crossing = t
            if crossing:
                height = height.max(size)
            else:
                before = [*before[-49:], size]
            if not size.rad() < ball("1e-6"):  # NaN included
                raise Undecided(f"|w| / lr = {size} at step {t} is too wide to say anything")
            ctx.prec = min(ctx.prec, max(64, w.rel_accuracy_bits() + 64))
        if not crossing:
            raise ValueError(f"the denominator stays above the threshold for {steps} steps: take more")
        quiet = arb(0)
        for size in before:
            quiet = quiet.max(size)
        return SpikeBounds(crossing, quiet, height)

    return decide(run, bits=bits, most=4 * bits)


def outlier_way(beta1: str, beta2: str, *, angle: bool, terms: int = 2000) -> arb:
    """The whole way in lr that one gradient without bound causes: `adaptive_spikes.outlier_limit`, enclosed.

    The sum over k of r_k (Adam) or atan r_k (angle), r_k = (1 - beta1) / sqrt(1 - beta2) q^k, q = beta1 / sqrt(beta2) < 1. As
    atan r <= r, what is left out lies between 0 and the rest of the geometric series.
    """
    b1, b2 = ball(beta1), ball(beta2)
    q, first = b1 / b2.sqrt(), (1 - b1) / (1 - b2).sqrt()
    if not less(q, 1):
        raise ValueError(f"beta1 must be less than sqrt(beta2), got beta1 {beta1}, beta2 {beta2}")
    if not angle:
        return first / (1 - q)
    total, r = arb(0), first
    for _ in range(terms):
        total, r = total + r.atan(), r * q
    return total + arb(0).union(r / (1 - q))
