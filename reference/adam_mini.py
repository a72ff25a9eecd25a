"""Adam-mini: Use Fewer Learning Rates To Gain More. Zhang et al. arXiv 2406.16793v7 (ICLR 2025), Algorithm 1.

    1  input lambda (weight decay), t (step)
    2  choose param_blocks from Algorithm 2 or 3
    3  for param in param_blocks:
    4    g = param.grad
    5    param = param - eta_t lambda param
    6    m = (1 - beta1) g + beta1 m
    7    mhat = m / (1 - beta1^t)
    8    v = (1 - beta2) mean(g o g) + beta2 v            (one number for a block: the whole idea)
    9    vhat = v / (1 - beta2^t)
    10   param = param - eta_t mhat / (sqrt(vhat) + eps)

Caller's lines: 1, 2, 3, 4 (`reference.adam_mini_partition` has Algorithms 2 and 3, `reference.descend` the loop).
A step here takes a whole tensor with all its blocks.

    symbol       here          torch's name      shape
    param        w             param             any
    g            g             grad              of w
    m            m             exp_avg           of w
    v            v             exp_avg_sq        (number of blocks,), in the order in which they lie
    eta          lr            lr                scalar: step length per coordinate
    lambda       weight_decay  weight_decay      scalar
    beta1,beta2  same          betas             scalars in [0, 1)
    t            t             step              integer

`blocks` says how a tensor of shape S falls into blocks. All cut one axis and keep the others whole:

    "tensor"               one block
    "rows"                 each index of the first axis: output neurons of a Linear, tokens of an Embedding
    "columns"              each index of the last axis: output neurons of a transposed weight (Conv1D)
    ("heads", n)           the first axis in n equal groups
    [(kind, size, count)]  the first axis in segments of `size` indices, each in `count` equal blocks; the kind
                           ("tensor", "rows", "heads") is for the reader. With the kinds "columns" and
                           "column_heads" it is the last axis that is cut.

Deviations: none.

The released package (`adam-mini` 1.1.1) gives every bias a full Adam, takes the weight decay from names that contain
"ln", "norm" or "bias", counts a head as dim * dim / n_heads entries, and keeps v in the parameter's dtype.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reference.ops import Array, is_expression, require_same_shape, shape_of, sqrt, total, total_by, zeros_like

Segment = tuple[str, int, int]
Blocks = str | tuple[str, int] | Sequence[Segment]

_COLUMNS = ("columns", "column_heads")
_KINDS = ("tensor", "rows", "heads", *_COLUMNS)


class State(NamedTuple):
    """After t steps, an int: m of the shape of w, and v (number of blocks,), or (1,) before the first step."""

    t: int
    m: Array
    v: Array


def init(w: Array) -> State:
    """The state before the first step; v is one zero, which the first step spreads over the blocks."""
    return State(t=0, m=zeros_like(w), v=zeros_like(w) if is_expression(w) else zeros_like(w.reshape(-1)[:1]))


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
    blocks: Blocks = "tensor",
) -> tuple[Array, State]:
    """One step from the parameter w and its gradient g (any shape, the same); returns the new w and State."""
    t, m, v = state
    require_same_shape(w, g, m)
    t = t + 1
    w = w - lr * weight_decay * w  # l.5
    m = (1 - beta1) * g + beta1 * m  # l.6
    mhat = m / (1 - beta1**t)  # l.7
    v = (1 - beta2) * block_mean(g * g, blocks) + beta2 * v  # l.8
    vhat = v / (1 - beta2**t)  # l.9
    w = w - lr * mhat / (sqrt(spread(vhat, shape_of(w), blocks)) + eps)  # l.10
    return w, State(t, m, v)


def block_mean(x: Array, blocks: Blocks) -> Array:
    """The mean of x over each block: (number of blocks,); for a single SymPy expression the expression itself."""
    axis, labels = layout(shape_of(x), blocks)
    if is_expression(x):
        return x
    if x.ndim == 0:
        return x.reshape(1)
    others = tuple(i for i in range(x.ndim) if i != axis)
    line = (total(x, axis=others) if others else x).reshape(-1)  # one sum for each index of the axis
    sizes = np.bincount(labels) * (int(np.prod(shape_of(x))) // len(labels))
    sums = total_by(line, labels)
    return sums / (sizes if isinstance(x, np.ndarray) else sums.new_tensor(sizes))


def spread(v: Array, shape: tuple[int, ...], blocks: Blocks) -> Array:
    """Block values v (number of blocks,) in a form that broadcasts against a tensor of `shape`."""
    axis, labels = layout(shape, blocks)
    if is_expression(v):
        return v
    return v[labels].reshape([len(labels) if i == axis else 1 for i in range(len(shape))])


def layout(shape: tuple[int, ...], blocks: Blocks) -> tuple[int, np.ndarray]:
    """The axis that `blocks` cuts in a tensor of `shape`, and for each index along it the number of its block.

    ValueError where the blocks do not fit the shape, or are of no known form.
    """
    if 0 in shape:
        raise ValueError(f"a mean over a block needs at least one entry: leave the empty tensor of shape {shape} out")
    if blocks == "tensor":
        return 0, np.zeros(shape[0] if shape else 1, dtype=np.int64)
    if not shape:
        raise ValueError(f'a tensor of shape () has no axis to cut: use blocks="tensor", got {blocks!r}')
    segments = _segments(shape, blocks)
    by_column = [kind in _COLUMNS for kind, _, _ in segments]
    if any(by_column) != all(by_column):
        raise ValueError(f"all segments must cut the same axis, and {_COLUMNS} cut the last one; got {blocks!r}")
    axis = len(shape) - 1 if all(by_column) else 0
    covered = sum(size for _, size, _ in segments)
    if covered != shape[axis]:
        raise ValueError(
            f"blocks {blocks!r} cover {covered} indices, but axis {axis} of shape {shape} has {shape[axis]}"
        )
    for kind, size, count in segments:
        if count < 1 or size % count:
            raise ValueError(
                f"{size} indices of axis {axis} do not fall into {count} equal {kind} blocks (shape {shape})"
            )
    lengths = np.concatenate([np.full(count, size // count) for _, size, count in segments])
    return axis, np.repeat(np.arange(len(lengths)), lengths)


def _segments(shape: tuple[int, ...], blocks: Blocks) -> list[Segment]:
    """Any form of `blocks` but "tensor" as a list of segments."""
    match blocks:
        case "rows":
            return [("rows", shape[0], shape[0])]
        case "columns":
            return [("columns", shape[-1], shape[-1])]
        case ("heads", int(n)):
            return [("heads", shape[0], n)]
        case [_, *_] if all(isinstance(s, tuple) and len(s) == 3 and s[0] in _KINDS for s in blocks):
            return [s for s in blocks if isinstance(s, tuple)]
    raise ValueError(
        'blocks must be "tensor", "rows", "columns", ("heads", n) or a list of (kind, size, count) '
        f"with kinds of {', '.join(_KINDS)}; got {blocks!r}"
    )
