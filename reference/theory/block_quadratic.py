"""Block-wise and per-coordinate learning rates on quadratics (claims M4 and M5; Adam-mini, arXiv 2406.16793).

f(w) = w^T H w / 2 with H symmetric positive definite. A method of the form w <- w - D H w, with D = diag(d), d > 0,
contracts at a rate set by kappa(D H), the ratio of the largest to the smallest eigenvalue of D H (those of
D^(1/2) H D^(1/2), so real): with the best multiple of D the worst direction shrinks by (kappa - 1) / (kappa + 1).

M4  H has three dense blocks. Compared: gradient descent with the best single lr; one lr for each block, the best for
    that block; Adam of `reference.adam` at its best lr over a grid; Adam with v frozen at the first gradient, which is
    w <- w - lr D H w.
M5  r = kappa(D H) / kappa(H): below 1, D helps. tau = sum_i |H_ii| / sum_ij |H_ij|: 1 for a diagonal H.

The claim fixes neither D nor the random matrices. Ours: H = Q diag(e) Q^T with Q = expm(angle K), K a random
antisymmetric matrix of spectral norm 1, so that the angle (radians, the largest one by which a plane is turned) moves
tau; and two readings of D:

    frozen(h, w0)   d = 1 / |g|, g = H w0: beta1 = 0, v kept as Adam's first step has it. Random through w0 ~ N(0, I).
    average(h)      d = 1 / sqrt(E g^2) over such w0, which is 1 / (Euclidean length of row i of H).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reference import adam
from reference.extras import needs
from reference.problems import rotation

with needs("theory", __name__):
    import scipy.linalg
    from scipy.stats import rankdata

SPECTRA = ((1.0, 2.0, 3.0), (99.0, 100.0, 101.0), (4998.0, 4999.0, 5000.0))


def dense_blocks(spectra: Sequence[Sequence[float] | np.ndarray] = SPECTRA, seed: int = 0) -> list[np.ndarray]:
    """One matrix for each spectrum, each turned by its own rotation from Haar's measure."""
    turns = [rotation(len(e), seed=1000 * seed + b) for b, e in enumerate(spectra)]
    return [(q * np.asarray(e)) @ q.T for q, e in zip(turns, spectra, strict=True)]


def whole(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """The block-diagonal matrix of these blocks."""
    return np.asarray(scipy.linalg.block_diag(*blocks))


def turned(eigenvalues: Sequence[float] | np.ndarray, angle: float, rng: np.random.Generator) -> np.ndarray:
    """Q diag(eigenvalues) Q^T with a random Q that turns by at most `angle` radians; 0 gives a diagonal matrix."""
    e = np.asarray(eigenvalues, dtype=np.float64)
    if e.ndim != 1 or e.size < 2 or (e <= 0).any():
        raise ValueError(f"eigenvalues must be at least two numbers > 0, got {eigenvalues!r}")
    k = rng.standard_normal((e.size, e.size))
    k = k - k.T
    q = scipy.linalg.expm(angle / np.linalg.norm(k, 2) * k)
    h = (q * rng.permutation(e)) @ q.T
    return (h + h.T) / 2


def kappa(h: np.ndarray, d: np.ndarray | None = None) -> float:
    """Largest over smallest eigenvalue of diag(d) h, for h positive definite and d > 0 (default: ones)."""
    e = _eigenvalues(h, d)
    return float(e[-1] / e[0])


def best_lr(h: np.ndarray, d: np.ndarray | None = None) -> float:
    """The lr that makes w <- w - lr diag(d) h w fastest in its worst direction: 2 / (largest + smallest eigenvalue)."""
    e = _eigenvalues(h, d)
    return float(2 / (e[-1] + e[0]))


def _eigenvalues(h: np.ndarray, d: np.ndarray | None) -> np.ndarray:
    root = np.ones(len(h)) if d is None else np.sqrt(d)
    e = np.linalg.eigvalsh(root[:, None] * h * root)
    if e[0] <= 0:
        raise ValueError(f"h must be positive definite, got the eigenvalue {e[0]:g}")
    return e


def tau(h: np.ndarray) -> float:
    """sum_i |H_ii| / sum_ij |H_ij|, in (0, 1]."""
    return float(np.abs(np.diag(h)).sum() / np.abs(h).sum())


def frozen(h: np.ndarray, w0: np.ndarray) -> np.ndarray:
    """d = 1 / |h w0|: Adam's preconditioner when v stays the first gradient squared."""
    return 1 / np.abs(h @ w0)


def average(h: np.ndarray) -> np.ndarray:
    """d = 1 / sqrt(E (h w0)^2) for w0 ~ N(0, I): one over the length of each row."""
    return 1 / np.sqrt((h**2).sum(1))


def ratio(h: np.ndarray, d: np.ndarray) -> float:
    """r = kappa(D H) / kappa(H): below 1, the preconditioner helps."""
    return kappa(h, d) / kappa(h)


def ratios(
    eigenvalues: Sequence[float] | np.ndarray, angles: Sequence[float], draws: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """tau, r of `frozen`, r of `average`: each (angles, draws), over random turns and starting points."""
    rng = np.random.default_rng(seed)
    out = {name: np.empty((len(angles), draws)) for name in ("tau", "frozen", "average")}
    for i, angle in enumerate(angles):
        for k in range(draws):
            h = turned(eigenvalues, angle, rng)
            w0 = rng.standard_normal(len(h))
            out["tau"][i, k] = tau(h)
            out["frozen"][i, k] = ratio(h, frozen(h, w0))
            out["average"][i, k] = ratio(h, average(h))
    return out


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's, over all entries: -1 where y always falls as x grows."""
    return float(np.corrcoef(rankdata(x.ravel()), rankdata(y.ravel()))[0, 1])


def ring(n: int, coupling: float) -> np.ndarray:
    """1 on the diagonal, `coupling` between neighbours on a ring of n. All rows are as long: `average` is constant."""
    if n < 3 or not 0 < abs(coupling) < 0.5:
        raise ValueError(
            f"a ring needs n >= 3 and 0 < |coupling| < 1/2 (positive definite), got n {n}, coupling {coupling}"
        )
    neighbours = np.roll(np.eye(n), 1, axis=0)
    return np.eye(n) + coupling * (neighbours + neighbours.T)


def badly_scaled(scales: Sequence[float] | np.ndarray, correlation: float) -> np.ndarray:
    """H_ij = s_i s_j C_ij with C_ii = 1 and C_ij = correlation in (0, 1): dense, but a diagonal D undoes the scales."""
    s = np.asarray(scales, dtype=np.float64)
    if not 0 < correlation < 1:
        raise ValueError(f"correlation must lie between 0 and 1, got {correlation}")
    c = np.full((s.size, s.size), correlation) + (1 - correlation) * np.eye(s.size)
    return s[:, None] * c * s


def diagonal_descent(h: np.ndarray, d: np.ndarray, w0: np.ndarray, steps: int) -> np.ndarray:
    """f along w <- w - diag(d) h w, over its first value: (steps + 1,)."""
    w, losses = w0, []
    for _ in range(steps + 1):
        losses.append(w @ h @ w)
        w = w - d * (h @ w)
    return np.array(losses) / losses[0]


def block_steps(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """d for the whole: on each block the best lr of that block."""
    return np.concatenate([np.full(len(b), best_lr(b)) for b in blocks])


def adam_descent(
    h: np.ndarray,
    w0: np.ndarray,
    lrs: np.ndarray,
    steps: int,
    beta1: float,
    beta2: float,
    cosine: bool,
    eps: float = 1e-12,
) -> np.ndarray:
    """f along Adam for each of `lrs`, over its first value: (steps + 1, lrs). cosine: lr falls to 0, else constant."""
    w = np.tile(w0, (len(lrs), 1))  # one row for each lr: Adam goes by coordinate, so the rows do not meet
    state, losses = adam.init(w), []
    for t in range(steps + 1):
        losses.append(np.einsum("li,ij,lj->l", w, h, w))
        lr = lrs[:, None] * (0.5 * (1 + np.cos(np.pi * t / steps)) if cosine else 1.0)
        w, state = adam.step(w, w @ h, state, lr=lr, beta1=beta1, beta2=beta2, eps=eps)
    return np.array(losses) / losses[0]


ADAMS = {  # name -> (beta1, beta2, cosine)
    "Adam, beta1 0": (0.0, 0.999, False),
    "Adam": (0.9, 0.999, False),
    "Adam, beta1 0, cosine": (0.0, 0.999, True),
    "Adam, cosine": (0.9, 0.999, True),
}


def contest(blocks: Sequence[np.ndarray], w0: np.ndarray, steps: int, lrs: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> f / f(w0), (steps + 1,), for every method of M4; of Adam the lr of `lrs` that ends lowest."""
    h = whole(blocks)
    d = frozen(h, w0)
    jacobi = 1 / np.diag(h)
    out = {
        "GD, one lr": diagonal_descent(h, np.full(len(h), best_lr(h)), w0, steps),
        "GD, one lr a block": diagonal_descent(h, block_steps(blocks), w0, steps),
        "GD, lr / H_ii": diagonal_descent(h, best_lr(h, jacobi) * jacobi, w0, steps),
        "Adam, v frozen": diagonal_descent(h, best_lr(h, d) * d, w0, steps),
    }
    for name, (beta1, beta2, cosine) in ADAMS.items():
        runs = adam_descent(h, w0, lrs, steps, beta1, beta2, cosine)
        out[name] = runs[:, np.argmin(runs[-1])]
    return out
