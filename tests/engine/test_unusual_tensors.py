"""Tensors that are not what a kernel takes them for: of a class of their own, with something deferred, without numbers.

Each stands first in a step beside a plain twin of the same shape, whose kernel is already there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from processes import run_in_processes
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fast._kernels import tensors
from fast._kernels.direct import Direct

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
either = pytest.mark.parametrize("compile", [True, False])
# two tensors of which each takes its step alone, and seven that take it together
SETS = {"large": ((200, 100), 2), "small": ((20, 10), 7)}
sets = pytest.mark.parametrize("shape, count", SETS.values(), ids=SETS)


class Own(Tensor):
    """A class that only gives torch's functions another type of result."""


def negative(x: Tensor) -> Tensor:
    """x, as a tensor that keeps -x and a sign to be applied."""
    return torch._neg_view(-x)  # pyright: ignore[reportPrivateImportUsage]


def zeros_without_memory(x: Tensor) -> Tensor:
    return torch._efficientzerotensor(x.shape)  # pyright: ignore[reportPrivateImportUsage]


def imaginary(x: Tensor) -> Tensor:
    """x, as the imaginary part of a conjugate: the public way to such a sign, and strided besides."""
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def wrapped(x: Tensor) -> Tensor:
    """x, in a wrapper that holds it twice and dispatches by itself."""
    return TwoTensor(x, x.clone())


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "of its own class": lambda x: x.as_subclass(Own),
    "negative": negative,
    "imaginary": imaginary,
    "wrapper": wrapped,
}


def numbers(t: Tensor) -> Tensor:
    t = t.detach()
    # the copy first: torch 2.6 cannot make another class of a sum that is still on its way
    return (t.a if isinstance(t, TwoTensor) else t).clone().as_subclass(Tensor)


def trained(
    row: Row,
    shape: tuple[int, ...],
    count: int,
    compile: bool,
    *,
    param: Callable[[Tensor], Tensor] = lambda x: x,
    grad: Callable[[Tensor], Tensor] = lambda x: x,
    steps: int = 3,
) -> list[Tensor]:
    """Parameters and states after some steps; `param` makes the first parameter, `grad` its gradients from the second step on."""
    random = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=random) for _ in range(count)]
    params = [param(values[0]).requires_grad_(), *[torch.nn.Parameter(x) for x in values[1:]]]
    optimizer = row.make(params, lr=1e-2, weight_decay=0.1, compile=compile)
    for step in range(steps):
        for i, p in enumerate(params):
            given = torch.randn(shape, generator=random)
            p.grad = given if step == 0 or i else grad(given)
        kept = [numbers(p.grad) for p in params if p.grad is not None]
        optimizer.step()
        assert all(torch.equal(numbers(p.grad), k) for p, k in zip(params, kept, strict=True) if p.grad is not None)
    return [numbers(t) for t in (*params, *itertools.chain(*(optimizer.state[p].values() for p in params)))]


def agree(ours: list[Tensor], plain: list[Tensor]) -> None:
    for own, other in zip(ours, plain, strict=True):
        # compiled and one operation at a time: a rounding of float32 each
        torch.testing.assert_close(own, other, rtol=2e-6, atol=2e-6)


@walk
@either
@sets
@pytest.mark.parametrize("kind", GRADIENTS)
def test_unusual_gradients(row: Row, compile: bool, shape: tuple[int, ...], count: int, kind: str) -> None:
    plain = trained(row, shape, count, compile)
    agree(trained(row, shape, count, compile, grad=GRADIENTS[kind]), plain)


@walk
@either
@sets
def test_a_gradient_of_zeros_that_has_no_memory(row: Row, compile: bool, shape: tuple[int, ...], count: int) -> None:
    plain = trained(row, shape, count, compile, grad=torch.zeros_like)
    agree(trained(row, shape, count, compile, grad=zeros_without_memory), plain)


@walk
@either
@sets
@pytest.mark.parametrize("kind", [lambda x: x.as_subclass(Own), wrapped, negative], ids=["own", "wrapper", "negative"])
def test_unusual_parameters(
    row: Row, compile: bool, shape: tuple[int, ...], count: int, kind: Callable[[Tensor], Tensor]
) -> None:
    agree(trained(row, shape, count, compile, param=kind), trained(row, shape, count, compile))


def test_a_parameter_without_memory_is_refused() -> None:
    param = zeros_without_memory(torch.ones(3)).requires_grad_()
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match="clone it"):
        OPTIMIZERS[0].make([param], lr=0.1).step()


def sums_still_on_their_way(compile: bool) -> None:
    from torch.distributed._functional_collectives import AsyncCollectiveTensor, all_reduce

    world: Any = torch.distributed.group.WORLD

    def summed(x: Tensor) -> Tensor:
        found = all_reduce(x / 2, "sum", world)
        assert isinstance(found, AsyncCollectiveTensor)
        return found

    for row, (shape, count) in itertools.product(OPTIMIZERS, SETS.values()):
        agree(trained(row, shape, count, compile, grad=summed), trained(row, shape, count, compile))


@either
def test_gradients_that_other_processes_still_send(compile: bool, tmp_path: Path) -> None:
    run_in_processes(2, tmp_path, sums_still_on_their_way, compile)


@walk
@sets
def test_without_torchs_private_keys(
    row: Row, shape: tuple[int, ...], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained(row, shape, count, True)
    monkeypatch.setattr(tensors, "_keys", None)
    for kind in ("negative", "of its own class"):
        agree(trained(row, shape, count, True, grad=GRADIENTS[kind]), plain)


@walk
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_without_numbers(row: Row, dtype: torch.dtype) -> None:
    """Nothing is read back that need not be: FakeTensorMode and the meta device tell what a step takes, without taking it."""
    for mode, device in ((FakeTensorMode(), "cpu"), (torch.no_grad(), "meta")):
        with mode:
            params = [torch.nn.Parameter(torch.ones(20, 10, dtype=dtype, device=device)) for _ in range(5)]
            optimizer = row.make(params, lr=0.1)
            for _ in range(2):
                for p in params:
                    p.grad = torch.ones_like(p)
                optimizer.step()
        state = optimizer.state[params[0]]
        assert state["exp_avg"].shape == (20, 10) and state["exp_avg"].device.type == device


class Listening(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Hearing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class OfAMoment:
    """A compiler that fails as long as this lasts, as a full disk makes it."""

    def __enter__(self) -> None:
        self._patch = pytest.MonkeyPatch()

        def full(*_: Any) -> None:
            raise OSError("no space left on device")

        self._patch.setattr(Direct, "_first", full)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


@pytest.mark.compiler
@walk
@pytest.mark.parametrize(
    "moment",
    [lambda: FlopCounterMode(display=False), Listening, Hearing, lambda: torch.device("cpu"), OfAMoment],
    ids=["flops", "dispatch", "function", "device", "full disk"],
)
@pytest.mark.filterwarnings("ignore:torch.compile failed:RuntimeWarning")
def test_what_refuses_for_a_moment(row: Row, moment: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step under a mode of torch's, or while the compiler fails: right, and the later ones are compiled all the same."""
    from fast._kernels import cpu

    monkeypatch.setattr(cpu, "_attempts", _fresh(cpu._Attempts))
    compiled: list[int] = []
    call = Direct.on

    def counted(self: Direct, item: Any) -> Any:
        compiled.append(1)
        return call(self, item)

    params = [torch.nn.Parameter(torch.ones(200, 100)) for _ in range(2)]
    twins = [torch.nn.Parameter(torch.ones(200, 100)) for _ in range(2)]
    ours, other = row.make(params, lr=0.1), row.make(twins, lr=0.1, compile=False)
    for step in range(3):
        for p, q in zip(params, twins, strict=True):
            p.grad = torch.full_like(p, step - 1.5)
            q.grad = torch.full_like(q, step - 1.5)
        if step == 0:
            with moment():
                ours.step()
        else:
            monkeypatch.setattr(Direct, "on", counted)
            ours.step()
        other.step()
    assert compiled, "no later step was compiled"
    agree([numbers(p) for p in params], [numbers(q) for q in twins])
    insists = row.make(params, lr=0.1, compile=True)
    insists.step()


def _fresh(kind: Callable[..., Any]) -> Callable[..., Any]:
    made: dict[Any, Any] = {}

    def attempts(*of: Any) -> Any:
        if of not in made:
            made[of] = kind(*of)
        return made[of]

    return attempts


@pytest.mark.compiler
def test_what_refuses_twice_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from fast._kernels import cpu, update

    tried: list[int] = []

    def never(*_: Any) -> None:
        tried.append(1)
        raise update.NotCompiled("OSError: never")

    monkeypatch.setattr(cpu, "_compiled", never)
    monkeypatch.setattr(cpu, "_attempts", _fresh(cpu._Attempts))
    update._warn_once.cache_clear()
    param = torch.nn.Parameter(torch.ones(200, 100))
    param.grad = torch.ones_like(param)
    optimizer = OPTIMIZERS[0].make([param], lr=0.1)
    with pytest.warns(RuntimeWarning, match="never"):
        optimizer.step()
    for _ in range(3):
        optimizer.step()
    assert len(tried) == 2


@walk
def test_no_count_in_int32_of_what_has_more_entries(row: Row) -> None:
    """A step of 2^31 + 1000 entries, on the meta device: no sum and no index of theirs is of a type that ends at 2^31."""
    narrow: list[str] = []

    class Wide(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            name = str(func)
            if isinstance(made, Tensor) and made.dtype == torch.int32 and ("sum" in name or "arange" in name):
                narrow.append(name)
            return made

    for hyper in ({}, {"stochastic_rounding": True}):
        param = torch.nn.Parameter(torch.empty(2**31 + 1000, dtype=torch.bfloat16, device="meta"))
        param.grad = torch.empty_like(param)
        optimizer = row.make([param], lr=0.1, compile=False, **hyper)
        with Wide():
            optimizer.step()
    assert not narrow


@pytest.mark.slow
@pytest.mark.parametrize("rule, expected", [((1.0, 0.0), 1.0), ((0.0, 1e-3), 1.0)])
def test_the_scale_of_more_entries_than_int32_counts(rule: tuple[float, float], expected: float) -> None:
    from fast.cautious import rescaling

    mask = torch.ones((), dtype=torch.bool).expand(2**31 + 1000)
    assert rescaling(mask, rule, torch.float32).item() == expected


@walk
@pytest.mark.parametrize("kind", ["negative", "conjugate", "dtype", "strides"])
@pytest.mark.parametrize("compile", [True, False])
def test_a_parameter_that_is_given_other_memory_between_steps(row: Row, kind: str, compile: bool) -> None:
    """What was noted of it in the steps before (fast/_kernels/tensors.py: CachedViews) is good no longer."""
    start = torch.linspace(-1, 1, 60).reshape(12, 5)
    if kind == "conjugate":  # at the same address, by a public function
        start = torch.complex(start, start.flip(0))
    params = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    ours, plain = (
        row.make([p], lr=1e-2, weight_decay=0.1, compile=c) for p, c in zip(params, (compile, False), strict=True)
    )
    for step in range(4):
        if step == 2:
            mine, other = (p.detach().clone() for p in params)
            if kind == "negative":
                mine = negative(mine)
            elif kind == "conjugate":
                mine, other = params[0].detach().conj(), other.conj().resolve_conj()
            elif kind == "dtype":
                mine, other = mine.bfloat16(), other.bfloat16()
            else:
                mine = mine.T.clone().T
            params[0].data, params[1].data = mine, other
            if kind == "dtype":
                for optimizer, p in zip((ours, plain), params, strict=True):
                    optimizer.state.pop(p)
        for p in params:
            p.grad = torch.full_like(p, 0.5 - step)
        ours.step()
        plain.step()
    ours_now, plain_now = ([p.detach().resolve_conj().to(start.dtype)] for p in params)
    agree(ours_now, plain_now)


@walk
@either
@pytest.mark.parametrize("shapes", [[(200, 100)], [(5, 5)] * 40], ids=["large", "small and many"])
def test_a_sign_that_is_deferred_where_the_parameter_was_is_noticed(
    row: Row, compile: bool, shapes: list[tuple[int, int]]
) -> None:
    """The same memory with the other sign, between two steps."""
    params, twins = ([torch.nn.Parameter(torch.linspace(-1, 1, r * c).view(r, c)) for r, c in shapes] for _ in range(2))
    optimizers = [row.make(ps, lr=0.01, compile=compile) for ps in (params, twins)]
    for turn in range(4):
        if turn == 2:
            params[0].data = torch._neg_view(params[0].data)  # pyright: ignore[reportPrivateImportUsage]
            twins[0].data = -twins[0].data
        for ps, optimizer in zip((params, twins), optimizers, strict=True):
            for p in ps:
                p.grad = torch.linspace(1, 2 + turn, p.numel()).cos().view(p.shape)
            optimizer.step()
    for p, twin in zip(params, twins, strict=True):
        torch.testing.assert_close(p.detach().resolve_neg(), twin.detach())
