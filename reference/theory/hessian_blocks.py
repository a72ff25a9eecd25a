"""How block-diagonal is a network's Hessian along Adam-mini's blocks? (claim M3; Adam-mini, arXiv 2406.16793)

Exact Hessians come from `reference.theory.small_nets`. A *grouping* is an integer array (n,): the number of the block
that each parameter belongs to. For a matrix H and a grouping,

    mass_share = sum of |H_ij|^p over pairs (i, j) of one block  /  sum of |H_ij|^p over all pairs

with p = 2 (squared Frobenius norm) or 1. It is 1 for a block-diagonal matrix. It is not 0 for a bad grouping, since the
diagonal counts and large blocks catch much by chance: `chance_share` is its exact mean over all groupings with the same
block sizes. The paper's evidence is pictures; the measure, the networks and the controls are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import sympy as sp

from reference.adam_mini import Blocks, layout
from reference.adam_mini_partition import partition
from reference.theory.small_nets import Net


def grouping(shapes: Mapping[str, tuple[int, ...]], blocks: Mapping[str, Blocks] | str) -> np.ndarray:
    """The grouping (n,) of a table name -> blocks (as `reference.adam_mini` has them) or of one form for all tensors.

    "tensor" is PyTorch's own division, "rows" and "columns" cut every tensor; the table of `partition` is Algorithm 3.
    """
    table = dict.fromkeys(shapes, blocks) if isinstance(blocks, str) else blocks
    groups, first = [], 0
    for name, shape in shapes.items():
        axis, labels = layout(shape, table[name])
        own = np.expand_dims(labels, [i for i in range(len(shape)) if i != axis])
        groups.append(first + np.broadcast_to(own, shape).reshape(-1))
        first += int(labels.max()) + 1
    return np.concatenate(groups)


def algorithm3(net: Net) -> dict[str, Blocks]:
    """Algorithm 3's blocks of a small net. The MLP's hidden layer goes by output neuron, as a Transformer's does."""
    roles = {name: "neurons" for name in net.init if name.startswith("hidden.")}
    return partition(net.shapes, heads=net.heads or None, roles=roles)


def shuffled(group: np.ndarray, within: np.ndarray, seed: int) -> np.ndarray:
    """A control: the blocks of `group` dealt anew to the parameters inside each block of the coarser `within`."""
    rng, out = np.random.default_rng(seed), group.copy()
    for block in np.unique(within):
        places = np.flatnonzero(within == block)
        out[places] = rng.permutation(group[places])
    return out


def mass_share(h: np.ndarray, group: np.ndarray, power: int = 2) -> float:
    """The share of sum |H_ij|^power that lies within the blocks of `group`."""
    mass = np.abs(h) ** power
    return float(mass[group[:, None] == group].sum() / mass.sum())


def chance_share(h: np.ndarray, group: np.ndarray, power: int = 2) -> float:
    """The mean of `mass_share` over all groupings with the block sizes of `group`, each equally likely.

    The diagonal is always inside. Any other pair is with probability sum_b n_b (n_b - 1) / (n (n - 1)).
    """
    mass = np.abs(h) ** power
    sizes, n = np.bincount(group), len(group)
    diagonal = np.trace(mass) / mass.sum()
    return float(diagonal + (1 - diagonal) * (sizes * (sizes - 1)).sum() / (n * (n - 1)))


def contrast(h: np.ndarray, group: np.ndarray) -> float:
    """Mean of H_ij^2 over pairs i != j within a block, over its mean between blocks: 1 for a meaningless grouping."""
    mass = h**2
    same = group[:, None] == group
    outside = mass[~same].mean()
    np.fill_diagonal(same, False)
    if not same.any():
        raise ValueError("contrast needs a block of at least two parameters; every block of this grouping has one")
    return float(mass[same].mean() / outside)


def between_tensors(h: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """(tensors, tensors): the share of the squared Frobenius norm of H between each pair of tensors; sums to 1."""
    group = grouping(shapes, "tensor")
    onto = np.eye(group.max() + 1)[group]
    return onto.T @ h**2 @ onto / (h**2).sum()


def output_rows_share() -> tuple[sp.Expr, sp.Symbol]:
    """`mass_share` (p = 2) by rows of the output layer's own Hessian at uniform predictions, and C, the classes.

    For cross entropy of the logits z = W x the Hessian in W is the mean of S(z) kron x x^T, S = diag(p) - p p^T the
    Hessian of log sum exp.
    At p = 1/C for all samples S is constant, the Kronecker product's mass is a product, and x drops out of the share.
    """
    c = sp.Symbol("C", integer=True, positive=True)
    z, y, rest = sp.symbols("z y rest", real=True)
    loss = sp.log(sp.exp(z) + sp.exp(y) + rest)  # two logits, the others in `rest`; what is linear in z has no Hessian
    uniform = {z: 0, y: 0, rest: c - 2}
    own, other = (sp.diff(loss, z, b).subs(uniform) for b in (z, y))
    return sp.simplify(c * own**2 / (c * own**2 + c * (c - 1) * other**2)), c


class Within(NamedTuple):
    """Shares of the squared norm of one tensor's own Hessian."""

    share: float  # in the blocks asked for
    chance: float  # in random blocks of the same sizes
    columns: float  # in its columns
    total: float  # of the whole Hessian's squared norm, in this tensor


def within_tensor(
    h: np.ndarray, shapes: Mapping[str, tuple[int, ...]], table: Mapping[str, Blocks], name: str
) -> Within:
    """How block-diagonal the Hessian of one tensor alone is, the others held fixed."""
    if name not in shapes:
        raise ValueError(f"there is no tensor {name!r}; the tensors are {', '.join(shapes)}")
    place = grouping(shapes, "tensor") == list(shapes).index(name)
    own, shape = h[np.ix_(place, place)], {name: shapes[name]}
    group, columns = grouping(shape, {name: table[name]}), grouping(shape, "columns")
    total = float((own**2).sum() / (h**2).sum())
    return Within(mass_share(own, group), chance_share(own, group), mass_share(own, columns), total)
