"""Theorem 4.15's bound on f(w) = w^2 / 2 from w = 1, between bounds: the T at which Grams first breaks it. (G4)

Near the minimum a small eps lets v fade and the iterates are thrown out again, chaotically: each step doubles the error of
the arithmetic or worse. In float64 the first failing T is therefore the rounding's and not the algorithm's; the balls of
`reference.theory.balls` lose about a bit a step, too, but say so. G is what the run needs: the largest gradient up to T.

Needs python-flint (the extra `test`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from flint import arb, ctx

from reference import grams
from reference.theory.balls import ball, decide, less, path
from reference.theory.pl_theorem import theorem_bound


@dataclass(frozen=True)
class Failure:
    """The bound holds at 1 ... T - 1 and is broken at T, where f(w_T) = loss > bound."""

    T: int
    loss: arb
    bound: arb
    G: arb


def first_failure(
    rule: ModuleType,
    lr: str,
    eps: str,
    *,
    steps: int,
    bits: int,
    beta1: str = "0.9",
    beta2: str = "0.999",
    **hyper: Any,
) -> Failure | None:
    """The first T <= steps at which f(w_T) > 4 G / (lr T) f(w_0) on w^2 / 2 from 1 (mu = L = 1); None if there is none.

    lr, eps, beta1, beta2: decimals as text, taken exactly. bits: where to start; eight times as many is the limit, past
    which `reference.theory.balls.Undecided` is raised.
    """
    how = {"lr": lr, "eps": eps, "beta1": beta1, "beta2": beta2, **hyper}

    def run() -> Failure | None:
        mu, first, G = ball(1), ball(1) / 2, ball(0)
        for t, w, g, _ in path(rule, lambda w: w, ball(1), steps, **how):
            G = G.max(abs(g))
            ctx.prec = min(ctx.prec, max(64, 64 + w.rel_accuracy_bits()))
            loss, bound = w**2 / 2, theorem_bound(G, mu, ball(lr), t, first)
            if less(bound, loss):
                return Failure(t, loss, bound, G)
        return None

    return decide(run, bits=bits, most=8 * bits)


def outlasts(lr: str, eps: str, *, steps: int, bits: int = 256, beta2: str = "0.999") -> bool:
    """Whether, with beta1 = 0, the bound holds on w^2 / 2 from 1 for *every* T: up to `steps` by balls, from then on always.

    The distance shrinks each step by at least 1 - q, q = lr / (1 + eps), while the bound shrinks by T / (T + 1): once
    (1 - q)^2 < T / (T + 1) a bound that holds goes on holding. ValueError where `steps` is too few for that.
    """
    tail = (1 - ball(lr) / (1 + ball(eps))) ** 2
    if not less(tail, ball(steps) / (steps + 1)):
        raise ValueError(f"steps must be at least about (1 + eps) / (2 lr) for the tail's argument, got {steps}")
    if not less(ball(lr), ball(eps)):
        raise ValueError(f"the tail's argument needs lr < eps (a step never overshoots), got lr {lr}, eps {eps}")
    return first_failure(grams, lr, eps, steps=steps, bits=bits, beta1="0", beta2=beta2) is None
