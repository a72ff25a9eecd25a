"""fast/_kernels/gpu/lists.py: a step of a GPU without a compiler. On the CPU, whose tensors go the way of a GPU's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
import torch
from gpu_interpreted import pretended
from stubs import OURS, made
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.bench.sets import llama_60m
from fast._kernels.gpu import launch, lists
from fast._kernels.update import Kernel
from fast.grams import PAPER

SHAPES = [(37,), (20, 50), (8, 8), (3, 4, 5), (1,), (20, 50), (37,), (8, 8), (20, 50)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1, "maximize": True},
    {"weight_decay": 0.1, "betas": (0.3, 0.4)},
]


def steps(name: str, params: list[Tensor], grads: list[list[Tensor]], by_lists: bool, **options: Any) -> list[Tensor]:
    """Parameters and state after a step with each of the gradients."""
    params = [torch.nn.Parameter(p.clone()) for p in params]
    with ExitStack() as stack:
        pretended(stack)
        if not by_lists:
            stack.enter_context(mock.patch.object(launch, "lists_of", lambda *_: None))
        optimizer = made(name, params, compile=False, **{"lr": 0.01, **options})
        for step in grads:
            for param, grad in zip(params, step, strict=True):
                param.grad = grad.clone()
            optimizer.step()
            for param, grad in zip(params, step, strict=True):
                assert param.grad is not None and torch.equal(param.grad.nan_to_num(7), grad.nan_to_num(7))
    states = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return [p.detach() for p in params] + states


def random(shapes: Any, dtype: torch.dtype, steps: int = 4) -> tuple[list[Tensor], list[list[Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    params, *grads = [[torch.randn(shape, generator=generator).to(dtype) for shape in shapes] for _ in range(steps + 1)]
    return params, grads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", OURS)
def test_a_step_by_lists_is_that_of_single_operations(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    params, grads = random(SHAPES, dtype)
    found, expected = (steps(name, params, grads, by_lists, **options) for by_lists in (True, False))
    for a, b in zip(found, expected, strict=True):
        # a product and a sum are rounded once or twice; of a bfloat16 that may turn the last bit, in each step
        rtol, atol = {torch.float32: (2e-5, 2e-6), torch.float64: (1e-12, 1e-14)}.get(a.dtype, (2**-6, 2**-8))
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", OURS)
def test_what_is_no_number_goes_where_it_goes_one_by_one(name: str) -> None:
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45, 3e38, 1.0])
    params, _ = random([(8,), (8, 2)], torch.float32)
    grads = [[special, special[:, None].expand(8, 2).contiguous()], [special.flip(0), torch.ones(8, 2)]]
    found, expected = (steps(name, params, grads, by_lists) for by_lists in (True, False))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan()) and torch.equal(a.isinf(), b.isinf())
        torch.testing.assert_close(a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["Grams", "Lion"])
def test_stochastic_rounding_goes_one_by_one_with_its_bits(name: str) -> None:
    params, grads = random(SHAPES, torch.bfloat16)
    found, expected = (steps(name, params, grads, by_lists, stochastic_rounding=True) for by_lists in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("bound", [{"SEGMENT": 100}, {"MANY": 2}])
def test_how_many_go_together_changes_nothing(
    name: str, bound: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, grads = random(SHAPES, torch.float32)
    expected = steps(name, params, grads, True)
    for constant, value in bound.items():
        monkeypatch.setattr(lists, constant, value)
    for a, b in zip(steps(name, params, grads, True), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_without_an_operation_of_lists_it_goes_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_foreach_lerp_")
    kernel = Kernel(PAPER((0.9, 0.999)), False, torch.device("cuda"), (torch.float32,) * 4)
    assert launch.lists_of.__wrapped__(kernel, 5) is None


# Launches

TENSORS = {
    1: 110,
    2: 64,
    3: 48,
    4: 36,
}  # that one launch of a `_foreach` operation takes, by how many lists it works on
BLOCKS, BLOCK = 320, 65_536
CAT = 128  # tensors that one launch lays side by side
NONE = {"detach", "empty", "empty_like", "_local_scalar_dense"}


def launches_of(sizes: list[int], tensors: int) -> int:
    """Of one operation on tensors of these sizes: a launch is full when it has so many tensors, or blocks."""
    launches = taken = blocks = 0
    for size in sizes:
        taken += 1
        for left in range(-(-size // BLOCK), 0, -1):
            blocks += 1
            if blocks == BLOCKS or (taken == tensors and left == 1):
                launches, blocks, taken = launches + 1, 0, int(left > 1)
    return launches + (blocks > 0)


class Launches(TorchDispatchMode):
    """Counts what a GPU would launch, but for the steps' counts, which lie on the CPU there, too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        many = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor)]
        if name.startswith("_foreach") and many[0][0].ndim:
            alike = all(a.shape == b.shape for one in many for a, b in zip(one, many[0], strict=True))
            sizes = [t.numel() for t in many[0]]
            lists = len(many) + (0 if name.endswith("_") or name == "_foreach_norm" else 1)
            # a norm adds up what its blocks have found in a launch of its own
            self.count += (launches_of(sizes, TENSORS[lists]) if alike else len(sizes)) + (name == "_foreach_norm")
        elif name == "cat":
            self.count += -(-len(args[0]) // CAT)
        elif not (name.startswith(("_foreach", "_record")) or func.is_view or name in NONE):
            self.count += 1
        return func(*args, **(kwargs or {}))


def launched(optimizer: Any) -> int:
    optimizer.step()
    with Launches() as counted:
        optimizer.step()
    return counted.count


# of a model of 75 tensors in 5 shapes, and of 2,000 tensors of one; the least are those of entries that go side by side
BOUNDS = {
    "Grams": (1.3, 0.9),
    "Lion": (0.9, 0.9),
    "CautiousWeightDecay": (2.5, 0.9),
    "CautiousAdamW": (2.1, 2.0),
    "CautiousLion": (2.5, 2.3),
    "AdamMini": (3.5, 1.0),
    "Adams": (6.5, 0.9),
}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("of", [0, 1], ids=["llama-60m", "small-2000"])
def test_launches_of_a_step_without_a_compiler(name: str, of: int) -> None:
    """Against torch's AdamW(foreach=True) on the same tensors, each with weight decay."""
    params = [torch.zeros(shape).requires_grad_() for shape in (llama_60m(), [(1000,)] * 2000)[of]]
    for param in params:
        param.grad = torch.ones_like(param)
    base = launched(torch.optim.AdamW(params, foreach=True))
    with ExitStack() as stack:
        pretended(stack)
        stack.enter_context(mock.patch("fast._engine.step.watched", lambda: False))
        assert launched(made(name, params, compile=False, weight_decay=0.01)) <= BOUNDS[name][of] * base
