"""What is Grams' own: first steps by hand, and `as_released` against the released package itself."""

from __future__ import annotations

import math

import pytest
import torch
from grams import Grams as Released
from twin import bits, give, gradients, parameters

from fast import Grams

W, G = [1.0, -2.0, 0.5, 3.0], [0.5, -0.25, 0.0, -4.0]
LR, DECAY, EPS = 0.1, 0.01, 1e-3


def param(values: list[float], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("compile", [False, True])
def test_first_step_by_hand(compile: bool) -> None:
    """After one step mhat = g and vhat = g^2, so each coordinate moves by lr |g| / (|g| + eps) against its gradient."""
    p = param(W)
    p.grad = torch.tensor(G, dtype=torch.float64)
    optimizer = Grams([p], lr=LR, eps=EPS, weight_decay=DECAY, compile=compile)
    optimizer.step()
    moved = [1.0 - LR * 0.5 / 0.501, -2.0 + LR * 0.25 / 0.251, 0.5, 3.0 + LR * 4.0 / 4.001]
    torch.testing.assert_close(p.tolist(), [0.999 * w for w in moved], rtol=1e-14, atol=0)
    state = optimizer.state[p]
    torch.testing.assert_close(state["exp_avg"].tolist(), [0.05, -0.025, 0.0, -0.4], rtol=1e-14, atol=0)
    torch.testing.assert_close(state["exp_avg_sq"].tolist(), [0.00025, 0.0000625, 0.0, 0.016], rtol=1e-12, atol=0)
    assert state["step"] == 1


@pytest.mark.parametrize("compile", [False, True])
def test_first_step_as_released_by_hand(compile: bool) -> None:
    """Decay first; the denominator is sqrt(v) + eps before the correction: lr |g| / (|g| + eps / sqrt(1 - beta2))."""
    p = param(W)
    p.grad = torch.tensor(G, dtype=torch.float64)
    Grams([p], lr=LR, eps=EPS, weight_decay=DECAY, as_released=True, compile=compile).step()
    wider = EPS / math.sqrt(0.001)
    moves = [-0.5 / (0.5 + wider), 0.25 / (0.25 + wider), 0.0, 4.0 / (4.0 + wider)]
    expected = [0.999 * w + LR * move for w, move in zip(W, moves, strict=True)]
    torch.testing.assert_close(p.tolist(), expected, rtol=1e-13, atol=0)


def test_second_step_goes_against_the_gradient_and_not_the_momentum() -> None:
    """g = 1, then -0.5: momentum 0.04 still points up, the step follows the gradient, with the momentum's size."""
    p = param([0.0])
    optimizer = Grams([p], lr=LR, eps=0.0, compile=False)
    for g in (1.0, -0.5):
        before = p.item()
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
    m, v = 0.9 * 0.1 - 0.1 * 0.5, 0.999 * 0.001 + 0.001 * 0.25
    size = (m / (1 - 0.9**2)) / math.sqrt(v / (1 - 0.999**2))
    assert m > 0
    assert p.item() - before == pytest.approx(LR * size, rel=1e-12)


def test_a_zero_gradient_moves_nothing_whatever_the_momentum() -> None:
    p = param([1.0, 1.0])
    optimizer = Grams([p], lr=LR, compile=False)
    p.grad = torch.tensor([1.0, 1.0], dtype=torch.float64)
    optimizer.step()
    before = p.detach().clone()
    p.grad = torch.tensor([0.0, 1.0], dtype=torch.float64)
    optimizer.step()
    assert p[0] == before[0]
    assert p[1] != before[1]
    assert optimizer.state[p]["exp_avg"][0] != 0


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("eps", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_as_released_is_the_released_package(dtype: torch.dtype, eps: float, compile: bool) -> None:
    """300 steps with decay, beside the package from PyPI, which gets gradients of its own since it overwrites them.

    The order of the operations is the package's, so the moments agree to their last few bits, and the parameters, which
    collect one rounding a step, to 300 of them at most.
    """
    shapes = [(257,), (16, 33), (2, 3, 4)]
    ours, theirs = parameters(shapes, dtype), parameters(shapes, dtype)
    options = {"lr": 3e-3, "betas": (0.9, 0.99), "eps": eps, "weight_decay": 0.1}
    a = Grams(ours, **options, as_released=True, compile=compile)
    b = Released(theirs, **options)  # pyright: ignore[reportArgumentType]
    for i in range(300):
        give(ours, gradients(ours, i))
        give(theirs, gradients(theirs, i))
        a.step()
        b.step()
    ulp = torch.finfo(dtype).eps
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=20 * ulp * float(q.detach().abs().max()))
        for name in ("exp_avg", "exp_avg_sq"):
            x, y = a.state[p][name], b.state[q][name]
            torch.testing.assert_close(x, y, rtol=0, atol=4 * ulp * float(y.abs().max()))


def test_the_released_package_overwrites_gradients_and_ours_does_not() -> None:
    ours, theirs = parameters([(5,)]), parameters([(5,)])
    released = Released(theirs)  # pyright: ignore[reportArgumentType]
    for params, optimizer in ((ours, Grams(ours, as_released=True, compile=False)), (theirs, released)):
        give(params, gradients(params, 0))
        optimizer.step()
    given = gradients(ours, 0)[0]
    assert ours[0].grad is not None and torch.equal(bits(ours[0].grad), bits(given))
    assert theirs[0].grad is not None and not torch.equal(theirs[0].grad, given)


def test_paper_and_released_differ_where_the_docstring_says() -> None:
    """With eps = 0 only the place of the decay differs: the released package ends lower by lr^2 gamma uhat."""
    paper, released = param(W), param(W)
    for p, as_released in ((paper, False), (released, True)):
        p.grad = torch.tensor([0.5, -0.25, 1.0, -4.0], dtype=torch.float64)
        Grams([p], lr=LR, eps=0.0, weight_decay=DECAY, as_released=as_released, compile=False).step()
    difference = (paper - released).detach().tolist()
    assert difference == pytest.approx([LR**2 * DECAY * s for s in (1, -1, 1, -1)], rel=1e-9)


def test_as_released_may_change_between_steps() -> None:
    """A group's hyper-parameters are read at each step."""
    params, plain = parameters([(40,)], torch.float64), parameters([(40,)], torch.float64)
    switched, released = Grams(params, lr=LR, compile=False), Grams(plain, lr=LR, as_released=True, compile=False)
    for i in range(2):
        for some, optimizer in ((params, switched), (plain, released)):
            give(some, gradients(some, i))
            optimizer.step()
        with torch.no_grad():
            params[0].copy_(plain[0])
        switched.param_groups[0]["as_released"] = True
    assert torch.equal(params[0], plain[0])
    for some, optimizer in ((params, switched), (plain, released)):
        give(some, gradients(some, 2))
        optimizer.step()
    torch.testing.assert_close(params[0], plain[0], rtol=1e-14, atol=1e-15)


def test_as_released_must_be_a_bool() -> None:
    with pytest.raises(TypeError, match="as_released"):
        Grams(parameters([(2,)]), as_released="yes")  # pyright: ignore[reportArgumentType]
