"""Calls that go past the compiler's guards must see what the guards would have seen."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from fast import AdamMini, CautiousAdamW, CautiousLion, Grams, Lion, grams
from fast._kernels import direct
from fast._kernels.cpu import _compiled
from fast._kernels.direct import Direct, takes_addresses
from fast._kernels.update import Kernel, NotCompiled

pytestmark = pytest.mark.compiler
SHAPE = (96, 130)  # not small: no pack


def two(compile: bool) -> tuple[list[Parameter], Grams]:
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(SHAPE, generator=generator)) for _ in range(2)]
    return params, Grams(params, lr=1e-2, compile=compile)


def step(params: list[Parameter], optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    optimizer.step()


def test_state_of_another_dtype_is_not_misread() -> None:
    found: list[list[Tensor]] = []
    for compile in (True, False):
        params, optimizer = two(compile)
        for seed in (1, 2, 3):
            step(params, optimizer, seed)
            if seed == 2:
                state = optimizer.state[params[1]]
                state["exp_avg"] = state["exp_avg"].double()
        assert optimizer.state[params[1]]["exp_avg"].dtype == torch.float64
        found.append([*params, *(optimizer.state[p]["exp_avg"].float() for p in params)])
    for compiled, eager in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


def test_state_of_another_shape_is_an_error_and_not_read_past_its_end() -> None:
    params, optimizer = two(True)
    step(params, optimizer, 1)
    optimizer.state[params[1]]["exp_avg"] = torch.zeros(3)
    before = [p.detach().clone() for p in params[1:]]
    with pytest.raises(Exception, match=r"size|shape|broadcast"):
        step(params, optimizer, 2)
    assert torch.equal(params[1].detach(), before[0])


@pytest.fixture
def threads() -> Iterator[None]:
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.usefixtures("threads")
def test_another_number_of_threads_gets_code_of_its_own() -> None:
    """A reduction's code has an array with a place for each thread."""
    found = []
    for numbers in ((1, 1), (1, 3), (2, 1)):
        param = Parameter(torch.ones(200_000))
        optimizer = AdamMini([param], lr=1e-2, compile=True, partition=lambda name, p: "tensor")
        for number, seed in zip(numbers, (1, 2), strict=True):
            torch.set_num_threads(number)
            step([param], optimizer, seed)
        found.append(param.detach().clone())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


def adds_one_to_the_first_row(arguments: list[Tensor]) -> None:
    """As Inductor's code does that reads a size off a tensor."""
    _, one, two = arguments
    arguments.clear()
    two.view(-1)[: one.size()[0]] += 1


def test_code_that_asks_a_tensor_for_its_size_gets_vectors() -> None:
    direct = Direct(lambda: None, of_vectors=True)
    direct._guarded = lambda *tensors: direct._ran.append((adds_one_to_the_first_row, list(tensors)))
    item = torch.ones(3, 4), torch.zeros(3, 4)
    direct.on(item)(torch.ones(1), item)  # which is said to have run
    direct.on(item)(torch.ones(1), item)
    assert torch.equal(item[1], torch.ones(3, 4))
    assert not takes_addresses(adds_one_to_the_first_row)


@pytest.mark.parametrize("kind", [Grams, Lion, CautiousAdamW, CautiousLion])
def test_a_matrix_that_is_taken_for_a_vector_needs_no_view(kind: type[Grams], monkeypatch: pytest.MonkeyPatch) -> None:
    param = Parameter(torch.ones(SHAPE))
    optimizer = kind([param], compile=True)
    step([param], optimizer, 1)
    calls = [call for call in gc.get_objects() if type(call) is Direct and call._known]
    if all(getattr(call._guarded, "__name__", "") == "<lambda>" for call in calls):  # another test's own
        pytest.skip(
            "the code that Inductor has made is not found in this torch (2.6): each step goes through the guards"
        )

    def fail(item: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        raise AssertionError(f"views of {len(item)} tensors")

    monkeypatch.setattr(direct, "vectors", fail)
    step([param], optimizer, 2)


def test_what_goes_wrong_before_anything_is_compiled_is_a_refusal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the direct call the vectors' width is asked for when the kernel is made."""

    def fail() -> dict[str, int]:
        raise RuntimeError("no width")

    monkeypatch.setattr(direct, "vector_width", fail)
    kernel = Kernel(grams.PAPER((0.9, 0.999)), False, torch.device("cpu"), (torch.float32,) * 4)
    with pytest.raises(NotCompiled, match="RuntimeError: no width"):
        _compiled(kernel, 7, past_guards=False)
