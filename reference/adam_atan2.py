"""Adam-atan2: Scaling Exponents Across Parameterizations and Optimizers. Everett et al. arXiv 2407.05872v2.

    1  t = 0, m_0 = 0, v_0 = 0
    2  while theta_t not converged:
    3    t = t + 1
    4    g_t = grad f_t(theta_{t-1})
    5    theta_t = theta_{t-1} - eta_t lambda theta_{t-1}
    6    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    7    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    8    mhat_t = m_t / (1 - beta1^t)
    9    vhat_t = v_t / (1 - beta2^t)
    10   theta_t = theta_t - eta_t a atan2(mhat_t, b sqrt(vhat_t))     (in AdamW: mhat_t / (sqrt(vhat_t) + eps))

Caller's lines: 2, 4 (`reference.descend` has the loop).

    symbol       here          torch's name      shape
    theta        w             param             any
    g            g             grad              of w
    m            m             exp_avg           of w
    v            v             exp_avg_sq        of w
    eta          lr            lr                scalar: a step is at most a pi/2 lr for each coordinate
    lambda       weight_decay  weight_decay      scalar
    a, b         same          none              scalars > 0: 1 and 1 are the plain form
    beta1,beta2  same          betas             scalars in [0, 1)
    t            t             step              integer

With b = 1, a = 4/pi makes the step lr where mhat = sqrt(vhat), as at t = 1 (and as Adam with eps = 0).

Deviations: the paper gives the change of one line of Adam (line 10) and leaves the rest to Adam. The lines around it
are AdamW's, in the order of `reference.adamw`.
"""

from typing import NamedTuple

from reference.ops import Array, atan2, require_same_shape, sqrt, zeros_like


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
    weight_decay: Array = 0.0,
    a: Array = 1,
    b: Array = 1,
) -> tuple[Array, State]:
    """One step from the parameter w and its gradient g (any shape, the same); returns the new w and State."""
    t, m, v = state
    require_same_shape(w, g, m)
    t = t + 1  # l.3
    w = w - lr * weight_decay * w  # l.5
    m = beta1 * m + (1 - beta1) * g  # l.6
    v = beta2 * v + (1 - beta2) * g**2  # l.7
    mhat = m / (1 - beta1**t)  # l.8
    vhat = v / (1 - beta2**t)  # l.9
    w = w - lr * a * atan2(mhat, b * sqrt(vhat))  # l.10
    return w, State(t, m, v)
