"""The loops that a CPU's compiler makes of an update: what they share out among threads, and what they call.

A row that is summed and stepped in one loop is read from memory once. A function that is called for every vector keeps nothing in
registers over the call: Adams took up to twice its time with `copysign`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch._inductor.utils import fresh_cache, run_and_get_code

from fast._kernels.cpu import _compiled
from fast._kernels.update import Kernel, Update
from fast.adam_mini.adam_mini import HEADS, ROWS
from fast.adams.adams import MATRIX, VECTOR

BETAS = (0.9, 0.95)


@functools.cache
def code(update: Update, states: int, scalars: int) -> str:
    """The code of an update, which is compiled anew."""
    kernel, threads = (
        Kernel(update, False, torch.device("cpu"), (torch.float32,) * (2 + states)),
        torch.get_num_threads(),
    )
    torch.set_num_threads(2)  # one shares nothing out
    try:
        with fresh_cache():
            call, parts = run_and_get_code(_compiled, kernel, scalars, past_guards=True)
    finally:
        torch.set_num_threads(threads)
    assert not isinstance(call, Exception), call
    return "\n".join(parts)


def loops(update: Update, states: int, scalars: int) -> int:
    """How often the threads share out a loop in the code of an update."""
    return code(update, states, scalars).count("#pragma omp for")


def calls(update: Update, states: int, scalars: int) -> set[str]:
    """The operations on vectors, by their names in the code, that are not instructions of a processor."""
    instructions = {"abs", "neg", "sqrt", "store", "template"}  # the last is a cast's
    return set(re.findall(r"\btmp\d+\.(\w+)", code(update, states, scalars))) - instructions


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


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("update", "states", "scalars"),
    [(MATRIX[False, False, False](BETAS), 7, 6), (VECTOR(BETAS), 2, 6)],
    ids=["a matrix", "a vector"],
)
def test_adams_calls_no_function_for_each_vector(update: Update, states: int, scalars: int) -> None:
    assert calls(update, states, scalars) == set()


@pytest.mark.compiler
def test_a_function_that_is_called_for_each_vector_is_seen() -> None:
    def signed(numbers: Sequence[Any], param: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.copysign(param, grad),)

    assert calls(Update(signed, "N N"), 0, 1) == {"copysign"}
