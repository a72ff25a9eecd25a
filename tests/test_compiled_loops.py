"""The loops that a CPU's compiler makes of an update: a row that is summed and stepped in one loop is read from memory once."""

from __future__ import annotations

import pytest
import torch
from torch._inductor.utils import fresh_cache, run_and_get_code

from fast._compile import Kernel, Update, _compiled
from fast.adam_mini import HEADS, ROWS
from fast.adams import MATRIX

BETAS = (0.9, 0.95)


def loops(update: Update, states: int, scalars: int) -> int:
    """How often the threads share out a loop in the code of an update, which is compiled anew."""
    kernel, threads = (
        Kernel(update, False, torch.device("cpu"), (torch.float32,) * (2 + states)),
        torch.get_num_threads(),
    )
    torch.set_num_threads(2)  # one shares nothing out
    try:
        with fresh_cache():
            call, code = run_and_get_code(_compiled.__wrapped__, kernel, scalars)
    finally:
        torch.set_num_threads(threads)
    assert not isinstance(call, Exception), call
    return "\n".join(code).count("#pragma omp for")


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("update", "states", "scalars"),
    [(ROWS(BETAS), 2, 5), (MATRIX[False, False, False](BETAS), 7, 6)],
    ids=["rows of AdamMini", "a matrix of Adams"],
)
def test_a_row_is_summed_and_stepped_in_one_loop(update: Update, states: int, scalars: int) -> None:
    assert loops(update, states, scalars) == 1


@pytest.mark.compiler
def test_the_count_tells_one_loop_from_several() -> None:
    """Blocks of several lines need one loop for the lines, one for the blocks and one for the step."""
    assert loops(HEADS(BETAS), 2, 5) == 3
