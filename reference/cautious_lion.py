"""C-Lion. Cautious Optimizers: Improving Training with One Line of Code. Liang et al. arXiv 2411.16085v4.

    1  m_0 = 0
    2  while w_t not converged:
    3    g_t = grad L_t(w_{t-1})
    4    u_t = sign(beta1 m_{t-1} + (1 - beta1) g_t)
    5    m_t = beta2 m_{t-1} + (1 - beta2) g_t
    6    phi_t = 1[u_t g_t > 0]                          (the whole idea)
    7    alpha_t = d / (nnz(phi_t) + xi)                 (d entries, xi = 1)
    8    w_t = w_{t-1} - eta_t alpha_t phi_t u_t
    9    w_t = w_t - eta_t gamma w_t                     (decoupled weight decay)

Caller's lines: 2, 3 (`reference.descend` has the loop).

    symbol       here          torch's name      shape
    w            w             param             any
    g            g             grad              of w
    m            m             exp_avg           of w
    phi          phi           none              of w, entries 0 and 1
    alpha        alpha         none              scalar: one for the whole tensor
    xi           xi            none              scalar > 0
    eta          lr            lr                scalar: step length per coordinate, before alpha
    gamma        weight_decay  weight_decay      scalar
    beta1,beta2  same          betas             scalars in [0, 1)

Deviations: `rescale` chooses line 7, and the mask is strict, as in `reference.cautious`, whose head says why. The
released code decays before the update, not after it (line 9).
"""

from typing import NamedTuple

from reference.ops import (
    Array,
    maximum,
    mean,
    ones_like,
    positive,
    require_same_shape,
    sign,
    size_of,
    total,
    where,
    zeros_like,
)


class State(NamedTuple):
    """The average m, an array of the shape of w."""

    m: Array


def init(w: Array) -> State:
    """The state before the first step: m zeros of the shape of w."""
    return State(m=zeros_like(w))  # l.1


def step(
    w: Array,
    g: Array,
    state: State,
    *,
    lr: Array,
    beta1: Array = 0.9,
    beta2: Array = 0.99,
    weight_decay: Array = 0.0,
    xi: Array = 1,
    rescale: str = "count",
) -> tuple[Array, State]:
    """One step from the parameter w and its gradient g (any shape, the same); returns the new w and State."""
    (m,) = state
    require_same_shape(w, g, m)
    u = sign(beta1 * m + (1 - beta1) * g)  # l.4
    m = beta2 * m + (1 - beta2) * g  # l.5
    phi = where(positive(u * g), ones_like(u), zeros_like(u))  # l.6
    alpha = scale(phi, xi, rescale)  # l.7
    w = w - lr * alpha * phi * u  # l.8
    w = w - lr * weight_decay * w  # l.9
    return w, State(m)


def scale(phi: Array, xi: Array, rescale: str) -> Array:
    """Line 7, the factor that makes up for the entries left out by phi of 0 and 1; ValueError for an unknown rule."""
    if rescale == "count":
        return size_of(phi) / (total(phi) + xi)
    if rescale == "mean":
        return 1 / maximum(mean(phi), 1e-3)
    if rescale == "none":
        return 1
    raise ValueError(f'rescale must be "count", "mean" or "none", got {rescale!r}')
