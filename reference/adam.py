"""Adam: A Method for Stochastic Optimization. Kingma, Ba. arXiv 1412.6980v9, Algorithm 1.

    1  t = 0, m_0 = 0, v_0 = 0
    2  while theta_t not converged:
    3    t = t + 1
    4    g_t = grad f_t(theta_{t-1})
    5    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    6    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    7    mhat_t = m_t / (1 - beta1^t)
    8    vhat_t = v_t / (1 - beta2^t)
    9    theta_t = theta_{t-1} - alpha mhat_t / (sqrt(vhat_t) + eps)

Caller's lines: 2, 4 (`reference.descend` has the loop).

    symbol       here    torch's name      shape
    theta        w       param             any
    g            g       grad              of w
    m            m       exp_avg           of w
    v            v       exp_avg_sq        of w
    alpha        lr      lr                scalar: step length per coordinate
    beta1,beta2  same    betas             scalars in [0, 1)
    t            t       step              integer

Deviations: `weight_decay` adds weight_decay * w to the gradient before line 5, as torch.optim.Adam does; the paper has
no decay, and 0 (the default) is the paper.
"""

from typing import NamedTuple

from reference.ops import Array, require_same_shape, sqrt, zeros_like


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
    g = g + weight_decay * w  # deviation
    t = t + 1  # l.3
    m = beta1 * m + (1 - beta1) * g  # l.5
    v = beta2 * v + (1 - beta2) * g**2  # l.6
    mhat = m / (1 - beta1**t)  # l.7
    vhat = v / (1 - beta2**t)  # l.8
    w = w - lr * mhat / (sqrt(vhat) + eps)  # l.9
    return w, State(t, m, v)
