"""C-AdamW. Cautious Optimizers: Improving Training with One Line of Code. Liang et al. arXiv 2411.16085v4.

    1  t = 0, m_0 = 0, v_0 = 0
    2  while w_t not converged:
    3    t = t + 1
    4    g_t = grad L_t(w_{t-1})
    5    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    6    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    7    mhat_t = m_t / (1 - beta1^t)
    8    vhat_t = v_t / (1 - beta2^t)
    9    u_t = mhat_t / (sqrt(vhat_t) + eps)
    10   phi_t = 1[u_t g_t > 0]                          (the whole idea)
    11   alpha_t = d / (nnz(phi_t) + xi)                 (d entries, xi = 1)
    12   w_t = w_{t-1} - eta_t alpha_t phi_t u_t
    13   w_t = w_t - eta_t gamma w_t                     (decoupled weight decay)

Caller's lines: 2, 4 (`reference.descend` has the loop).

    symbol       here          torch's name      shape
    w            w             param             any
    g            g             grad              of w
    m            m             exp_avg           of w
    v            v             exp_avg_sq        of w
    phi          phi           none              of w, entries 0 and 1
    alpha        alpha         none              scalar: one for the whole tensor
    xi           xi            none              scalar > 0
    eta          lr            lr                scalar: step length per coordinate, before alpha
    gamma        weight_decay  weight_decay      scalar
    beta1,beta2  same          betas             scalars in [0, 1)
    t            t             step              integer

The paper's Algorithm 1 divides the mask by its mean plus a small number; that is line 11, and the number is xi / d.

Deviations: `rescale` chooses line 11. "count", the default, is the paper's. "mean" is the released code's
alpha = 1 / max(mean(phi), 1/1000): line 11 with xi = 0, as long as a thousandth of the entries agree. "none" is
alpha = 1, the cautious step of the inequalities in the Grams paper. The mask is strict, as in Algorithm 1 and in the
released code; the Grams paper writes u g >= 0, with which entries where g = 0 would move by momentum alone, and count.

The released code (repository kyleliang919/C-Optim) began with "count" and has "mean" now. It adds eps to sqrt(v_t)
before the bias correction, and in its newer versions it decays before the update.
"""

from typing import NamedTuple

from reference.ops import (
    Array,
    maximum,
    mean,
    ones_like,
    positive,
    require_same_shape,
    size_of,
    sqrt,
    total,
    where,
    zeros_like,
)


class State(NamedTuple):
    """After t steps, an int: the averages m and v, arrays of the shape of w."""

    t: int
    m: Array
    v: Array


def init(w: Array) -> State:
    """The state before the first step: t = 0, m and v zeros of the shape of w."""
    return State(t=0, m=zeros_like(w), v=zeros_like(w))  # l.1


def step(
    w: Array,
    g: Array,
    state: State,
    *,
    lr: Array,
    beta1: Array = 0.9,
    beta2: Array = 0.999,
    eps: Array = 1e-8,
    weight_decay: Array = 0.0,
    xi: Array = 1,
    rescale: str = "count",
) -> tuple[Array, State]:
    """One step from the parameter w and its gradient g (any shape, the same); returns the new w and State."""
    t, m, v = state
    require_same_shape(w, g, m)
    t = t + 1  # l.3
    m = beta1 * m + (1 - beta1) * g  # l.5
    v = beta2 * v + (1 - beta2) * g**2  # l.6
    mhat = m / (1 - beta1**t)  # l.7
    vhat = v / (1 - beta2**t)  # l.8
    u = mhat / (sqrt(vhat) + eps)  # l.9
    phi = where(positive(u * g), ones_like(u), zeros_like(u))  # l.10
    alpha = scale(phi, xi, rescale)  # l.11
    w = w - lr * alpha * phi * u  # l.12
    w = w - lr * weight_decay * w  # l.13
    return w, State(t, m, v)


def scale(phi: Array, xi: Array, rescale: str) -> Array:
    """Line 11, the factor that makes up for the entries left out by phi of 0 and 1; ValueError for an unknown rule."""
    if rescale == "count":
        return size_of(phi) / (total(phi) + xi)
    if rescale == "mean":
        return 1 / maximum(mean(phi), 1e-3)
    if rescale == "none":
        return 1
    raise ValueError(f'rescale must be "count", "mean" or "none", got {rescale!r}')
