"""Lion: Symbolic Discovery of Optimization Algorithms. Chen et al. arXiv 2302.06675v4, Algorithm 2.

    1  m_0 = 0
    2  while theta_t not converged:
    3    g_t = grad f_t(theta_{t-1})
    4    c_t = beta1 m_{t-1} + (1 - beta1) g_t
    5    theta_t = theta_{t-1} - eta_t (sign(c_t) + lambda theta_{t-1})
    6    m_t = beta2 m_{t-1} + (1 - beta2) g_t

Caller's lines: 2, 3 (`reference.descend` has the loop).

    symbol       here          torch's name      shape
    theta        w             param             any
    g            g             grad              of w
    m            m             exp_avg           of w
    c            c             none              of w
    eta          lr            lr                scalar: exactly the step length per coordinate where c is not 0
    lambda       weight_decay  weight_decay      scalar
    beta1,beta2  same          betas             scalars in [0, 1)

Deviations: none. There is no t: nothing is corrected for bias, since a sign has none.
"""

from typing import NamedTuple

from reference.ops import Array, require_same_shape, sign, zeros_like


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
) -> tuple[Array, State]:
    """One step from the parameter w and its gradient g (any shape, the same); returns the new w and State."""
    (m,) = state
    require_same_shape(w, g, m)
    c = beta1 * m + (1 - beta1) * g  # l.4
    w = w - lr * (sign(c) + weight_decay * w)  # l.5
    m = beta2 * m + (1 - beta2) * g  # l.6
    return w, State(m)
