"""What Adams' spectral step costs, counted and not timed (claim A5).

Two counts. `eager_bytes` watches torch run the lines of `reference.adams`, one operation at a time, and adds up what
each reads and writes of tensors as large as W. `rows_moved` runs Adams, with its operations fused as far as they go,
row by row over matrices that count each row that is read or written: the naive order in three passes over W, and one
that needs a single pass. Vectors of length M and N are left out: their share goes to zero as the matrix grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reference import adams


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of tensors of at least `least` entries that operations read or write; views move none."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.bytes = least, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = [a for a in args if isinstance(a, torch.Tensor)]
        outputs = [out] if isinstance(out, torch.Tensor) else list(out)
        if func.is_view:
            return out
        for x in [*inputs, *outputs]:
            if x.numel() >= self.least:
                self.bytes += x.numel() * x.element_size()
        return out


def eager_bytes(rows: int, columns: int, *, spectral: bool) -> float:
    """Bytes a parameter that one eager fp32 step of `reference.adams` moves, with lines 6-7 or without any decay."""
    w, g = torch.ones(rows, columns), torch.ones(rows, columns)
    state = adams.init(w)
    with _Traffic(w.numel()) as traffic:
        if spectral:
            adams.step(w, g, state, lr=1e-3, weight_decay=0.1)
        else:  # as_released leaves out the decay at 0; line 12 is then its other form, with the same number of passes
            adams.step(w, g, state, lr=1e-3, weight_decay=0.0, as_released=True)
    return traffic.bytes / w.numel()


def elementwise_bytes(rows: int, columns: int) -> float:
    """Bytes a parameter that one elementwise operation of two matrices moves: the measure of the claim's "handful"."""
    w = torch.ones(rows, columns)
    with _Traffic(w.numel()) as traffic:
        torch.add(w, w)
    return traffic.bytes / w.numel()


class Rows:
    """A matrix (M, N) that is handed out and taken back row by row, and counts both."""

    def __init__(self, a: np.ndarray) -> None:
        self.a, self.moved = a.copy(), 0

    def __getitem__(self, i: int) -> np.ndarray:
        self.moved += 1
        return self.a[i].copy()

    def __setitem__(self, i: int, row: np.ndarray) -> None:
        self.moved += 1
        self.a[i] = row


def rows_moved(
    w: np.ndarray, gs: np.ndarray, *, one_pass: bool, lr: float, weight_decay: float
) -> tuple[np.ndarray, float]:
    """Runs Adams on w (M, N) through the gradients gs (T, M, N): (w after T steps, rows moved a step over M).

    Times 4 bytes, the second is fp32 bytes a parameter and step. Three passes: W^T u; W v; then, row by row, lines
    7-12. One pass: sigma u' = W v needs no second normalisation, (W v)_i needs row i alone, and the next step's W^T u
    is gathered from the new rows as they are written, since normalize() forgives the scale of u. The very first W^T u
    is a pass of its own, which is not counted here. It holds while nobody else writes W between two steps.
    """
    m_rows, n_columns = w.shape
    ws, ms, vs = Rows(w), Rows(np.zeros_like(w)), Rows(np.zeros_like(w))
    x = lr * weight_decay * np.sqrt(m_rows)
    u, gathered, moved = np.ones(m_rows), w.T @ np.ones(m_rows), 0
    for t, g in enumerate(gs):
        gradient = Rows(g)
        if not one_pass:
            gathered = sum((ws[i] * u[i] for i in range(m_rows)), np.zeros(n_columns))
        v = gathered / max(float(np.linalg.norm(gathered)), 1e-12)
        if not one_pass:
            wv = np.array([ws[i] @ v for i in range(m_rows)])
            u = wv / max(float(np.linalg.norm(wv)), 1e-12)
        else:
            wv = np.empty(m_rows)
        gathered = np.zeros(n_columns)
        for i in range(m_rows):
            row = ws[i]
            wv[i] = row @ v
            state = adams.State(t, ms[i], vs[i], None, None)
            row, state = adams.step(row - x * wv[i] * v, gradient[i], state, lr=lr, scalar_vector_weight_decay=0.0)
            ws[i], ms[i], vs[i] = row, state.m, state.v
            gathered += wv[i] * row
        moved += gradient.moved
    return ws.a, (ws.moved + ms.moved + vs.moved + moved) / m_rows / len(gs)
