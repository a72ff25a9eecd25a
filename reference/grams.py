"""Grams: Gradient Descent with Adaptive Momentum Scaling. Cao, Li, Song. arXiv 2412.17107v3.

    1  t = 0, m_0 = 0, v_0 = 0
    2  while w_t not converged:
    3    t = t + 1
    4    g_t = grad L_t(w_{t-1})
    5    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    6    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    7    mhat_t = m_t / (1 - beta1^t)
    8    vhat_t = v_t / (1 - beta2^t)
    9    u_t = mhat_t / (sqrt(vhat_t) + eps)
    10   uhat_t = sign(g_t) |u_t|                    (the whole idea)
    11   w_t = w_{t-1} - eta_t uhat_t
    12   w_t = w_t - eta_t gamma w_t                 (decoupled weight decay)

Caller's lines: 2, 4 (`reference.descend` has the loop).

    symbol       here          torch's name      shape
    w            w             param             any
    g            g             grad              of w
    m            m             exp_avg           of w
    v            v             exp_avg_sq        of w
    eta          lr            lr                scalar: step length per coordinate
    gamma        weight_decay  weight_decay      scalar
    beta1,beta2  same          betas             scalars in [0, 1)
    t            t             step              integer

Deviations: none known in lines 5-11. We place the decay after the update (line 12), as the Cautious paper does; the
released package (`grams-pytorch` 0.0.2) decays first, and so ends lower by lr^2 gamma uhat_t: a test holds both places.
That package also adds eps to sqrt(v_t) before the bias correction and overwrites the gradient;
`fast.Grams(as_released=True)` has its arithmetic, without the overwriting.
"""

from typing import NamedTuple

from reference.ops import Array, absolute, require_same_shape, sign, sqrt, zeros_like


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
    uhat = sign(g) * absolute(u)  # l.10
    w = w - lr * uhat  # l.11
    w = w - lr * weight_decay * w  # l.12
    return w, State(t, m, v)
