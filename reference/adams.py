"""Adams: Adam with a spectral weight decay and an arctangent. Repository imoneoi/Adams: a picture, no paper.

    2   t = 0, m_0 = 0, n_0 = 0, u_0 = 1                 (ones, length M)
    3   while theta_t not converged:
    4     t = t + 1
    5     g_t = grad f_t(theta_{t-1})
    6     u_t, sigma_t, v_t = PowerIterationStep(u_{t-1}, theta_{t-1})
    7     theta_t = theta_{t-1} - gamma lambda sqrt(M) u_t sigma_t v_t^T
    8     m_t = beta1 m_{t-1} + (1 - beta1) g_t
    9     n_t = beta2 n_{t-1} + (1 - beta2) g_t^2
    10    mhat_t = m_t / (1 - beta1^t)
    11    nhat_t = n_t / (1 - beta2^t)
    12    theta_t = theta_t - gamma atan2(mhat_t, sqrt(nhat_t))

    PowerIterationStep(u, W):
    P1.1  v = normalize(W^T u)
    P1.2  Wv = W v
    P1.3  u' = normalize(Wv)
    P1.4  sigma = <u', Wv>

Caller's lines: 3, 5 (`reference.descend` has the loop). Line 1 of the picture names the inputs.

    symbol       here           torch's name                shape
    theta, W     w              param                       (..., M, N); or any, without spectral decay
    g            g              grad                        of w
    m            m              exp_avg                     of w
    n            n, State.v     exp_avg_sq                  of w
    u            u              u                           (..., M)
    sigma        sigma          sigma                       (...): the largest singular value's estimate
    v            v              none                        (..., N)
    gamma        lr             lr                          scalar: a step is at most pi/2 lr for each coordinate
    lambda       weight_decay   weight_decay                scalar; lr weight_decay sqrt(M) > 2 diverges
    none         same           scalar_vector_weight_decay  scalar
    beta1,beta2  same           betas                       scalars in [0, 1)
    t            t              step                        integer

normalize(x) = x / max(||x||, 1e-12). Leading dimensions are batch: a tensor of more than two dimensions is a stack of
matrices, each with its own u and sigma. A convolution's kernel (out, in, h, w), read as it lies, is so out * in
matrices of h x w; whoever wants another cut reshapes it first.
Scalars, vectors and tensors with `use_spectral_decay=False` have, for lines 6-7, the decay
theta_t = theta_{t-1} - gamma lambda' theta_{t-1} with lambda' = `scalar_vector_weight_decay`.

Deviations: a matrix with M = 1 or N = 1 counts as a vector, as in the released package (lines 6-7 would decay an M x 1
matrix sqrt(M) times as fast). `reseed=True` is our mend, off here: by lines 6-7 a matrix that is zero once makes u = 0
and is never decayed again; with it, where ||W^T u|| or ||u'|| is 0 or no number, u is set to ones for the next step. It does
not mend a u that a W below the floor of 1e-12 has only shrunk: that grows back by itself once W is large again.

The released package (`adams-torch` 0.0.1) computes (gamma / (1 - beta1^t)) atan2(m_t, sqrt(nhat_t)) for line 12: at
t = 1 and beta1 = 0.9 a step of 0.997 gamma, not gamma pi/4. It leaves out lines 6-7 and the scalar decay alike where
lambda = 0. `as_released=True` does both. Besides, its line 6 reads the model's weights and not their fp32 master copy:
here they are one.
"""

from typing import NamedTuple

from reference.ops import (
    Array,
    atan2,
    norm,
    normalize,
    number,
    ones_like,
    require_same_shape,
    shape_of,
    sqrt,
    total,
    transpose,
    where,
    zeros_like,
)


class State(NamedTuple):
    """After t steps, an int: m and v of the shape of w; of a w (..., M, N) u (..., M) and sigma (...), else None."""

    t: int
    m: Array
    v: Array  # n: the second moment
    u: Array  # None without spectral decay
    sigma: Array  # None without spectral decay


def is_matrix(w: Array) -> bool:
    """Whether lines 6-7 apply to a tensor of w's shape: (..., M, N) with M > 1 and N > 1."""
    shape = shape_of(w)
    return len(shape) >= 2 and shape[-1] != 1 and shape[-2] != 1


def init(w: Array) -> State:
    """The state before the first step: zeros, and ones for u, from which the power iteration starts."""
    u, sigma = (ones_like(w[..., 0]), zeros_like(w[..., 0, 0])) if is_matrix(w) else (None, None)
    return State(t=0, m=zeros_like(w), v=zeros_like(w), u=u, sigma=sigma)  # l.2


def power_iteration_step(u: Array, w: Array) -> tuple[Array, Array, Array]:
    """u (..., M) and W (..., M, N) to the next u (..., M), sigma (...) and v (..., N)."""
    v = normalize((transpose(w) @ u[..., None])[..., 0])  # P1.1
    wv = (w @ v[..., None])[..., 0]  # P1.2
    u = normalize(wv)  # P1.3
    sigma = total(u * wv, axis=-1)[..., 0]  # P1.4
    return u, sigma, v


def step(
    w: Array,
    g: Array,
    state: State,
    *,
    lr: Array,
    beta1: Array = 0.9,
    beta2: Array = 0.95,
    weight_decay: Array = 0.1,
    scalar_vector_weight_decay: Array = 0.1,
    use_spectral_decay: bool = True,
    reseed: bool = False,
    as_released: bool = False,
) -> tuple[Array, State]:
    """One step from the parameter w and its gradient g (any shape, the same); returns the new w and State."""
    t, m, n, u, sigma = state
    require_same_shape(w, g, m)
    t = t + 1  # l.4
    if as_released and weight_decay == 0:
        pass
    elif is_matrix(w) and use_spectral_decay:
        u, sigma, v = power_iteration_step(u, w)  # l.6
        height = number(shape_of(w)[-2], w)
        rank_one = u[..., :, None] * sigma[..., None, None] * v[..., None, :]
        w = w - lr * weight_decay * sqrt(height) * rank_one  # l.7
        if reseed:  # deviation: ||v|| is 0 just where ||W^T u|| is; of a W that is not finite one is NaN, not itself
            size = norm(v) * norm(u)
            u = where((size == 0) | (size != size), ones_like(u), u)
    else:
        w = w - lr * scalar_vector_weight_decay * w
    m = beta1 * m + (1 - beta1) * g  # l.8
    n = beta2 * n + (1 - beta2) * g**2  # l.9
    mhat = m / (1 - beta1**t)  # l.10
    nhat = n / (1 - beta2**t)  # l.11
    if as_released:
        mhat, lr = m, lr / (1 - beta1**t)
    w = w - lr * atan2(mhat, sqrt(nhat))  # l.12
    return w, State(t, m, n, u, sigma)
