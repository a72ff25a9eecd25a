"""AdamW with Cautious Weight Decay (CWD). Cautious Weight Decay. Chen, Li, Liang et al. arXiv 2510.12402v2.

    1  t = 0, m_0 = 0, v_0 = 0
    2  while x_t not converged:
    3    t = t + 1
    4    g_t = grad f_t(x_{t-1})
    5    m_t = beta1 m_{t-1} + (1 - beta1) g_t
    6    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    7    mhat_t = m_t / (1 - beta1^t)
    8    vhat_t = v_t / (1 - beta2^t)
    9    u_t = mhat_t / (sqrt(vhat_t) + eps)
    10   d_t = I(u_t x_{t-1} >= 0) x_{t-1}               (the whole idea: I is 1 where it holds, else 0)
    11   x_t = x_{t-1} - eta_t (u_t + lambda d_t)

Caller's lines: 2, 4 (`reference.descend` has the loop).

    symbol       here          torch's name      shape
    x            w             param             any
    g            g             grad              of w
    m            m             exp_avg           of w
    v            v             exp_avg_sq        of w
    u, d         u, d          none              of w
    eta          lr            lr                scalar: step length per coordinate
    lambda       weight_decay  weight_decay      scalar
    beta1,beta2  same          betas             scalars in [0, 1)
    t            t             step              integer

A coordinate that the update brings nearer to 0 decays; one that it takes away from 0 does not, so that the two never work
against each other. A zero update counts as agreeing: such a coordinate decays.

Deviations: the paper's Algorithm 1 is lines 10 and 11 for the update u_t of any optimizer; lines 3 to 9 are Adam's.
"""

from typing import NamedTuple

from reference.ops import Array, positive, require_same_shape, sqrt, where, zeros_like


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
    d = where(positive(-(u * w)), zeros_like(w), w)  # l.10
    w = w - lr * (u + weight_decay * d)  # l.11
    return w, State(t, m, v)
