"""Rows taken out of a parameter and put in, as Gaussian splatting prunes and densifies its points while it trains.

A new parameter stands in the old one's place, and the state, of which the averages were cut or made longer alike, goes with it.
Adam, which has nothing else, goes on with the rows that stayed; so do we.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor, nn
from twin import gradients, parameters, train

import fast

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
NAMES = ("exp_avg", "exp_avg_sq")


def replace(
    optimizer: Any, change: Callable[[Tensor], Tensor], names: tuple[str, ...] = NAMES, drop: bool = False
) -> Any:
    """As 3D Gaussian splatting writes it: a new parameter for the first of each group, and the state goes with it."""
    for group in optimizer.param_groups:
        old = group["params"][0]
        state = optimizer.state.pop(old)
        for name in names:
            if name in state and state[name].ndim:
                state[name] = change(state[name])
        group["params"][0] = nn.Parameter(change(old.detach()).clone())
        if not drop:
            optimizer.state[group["params"][0]] = state
    return [group["params"][0] for group in optimizer.param_groups]


def keep(t: Tensor) -> Tensor:
    return t[torch.arange(len(t)) % 5 != 0]


def longer(t: Tensor) -> Tensor:
    return torch.cat([t, torch.zeros_like(t[:7])])


def elsewhere(t: Tensor) -> Tensor:
    """Other columns: u, one number for a row, is as good as before."""
    return t[..., :2].clone() if t.ndim > 1 else t


CHANGES = pytest.mark.parametrize("change", [keep, longer, elsewhere], ids=lambda c: c.__name__)
SHAPES = {"points": (50, 3), "colours": (50, 1, 3), "features": (50, 15, 3), "kernels": (50, 4, 3, 3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("capturable", [False, True])
@CHANGES
@walk
def test_rows_taken_out_and_put_in(row: Row, change: Any, capturable: bool, dtype: torch.dtype) -> None:
    """The rest of the run is that of an optimizer that has the averages of these rows and makes all else anew."""
    options: dict[str, Any] = {"lr": 0.01, "compile": False, "capturable": capturable}
    params = parameters(SHAPES.values(), dtype)
    optimizer = row.make([{"params": [p]} for p in params], **options)
    train(optimizer, params, range(3))
    params = replace(optimizer, change)
    plain = [p.detach().clone().requires_grad_() for p in params]
    other = row.make([{"params": [p]} for p in plain], **options)
    train(other, plain, range(1))
    for p, q in zip(params, plain, strict=True):
        q.data.copy_(p.data)
        for name, value in optimizer.state[p].items():
            if name in (*NAMES, "step"):
                other.state[q][name].copy_(value)
            elif name in ("u", "sigma"):
                fits = value.shape == other.state[q][name].shape
                other.state[q][name].copy_(value if fits else torch.full_like(other.state[q][name], name == "u"))
            elif name == "master_param" and value.shape == q.shape:
                other.state[q][name].copy_(value)
            elif name == "master_param":
                other.state[q][name].copy_(p.data)
    for step in range(3, 6):
        train(optimizer, params, [step])
        train(other, plain, [step])
        for p, q in zip(params, plain, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=0)
            for name, value in other.state[q].items():
                torch.testing.assert_close(optimizer.state[p][name], value, rtol=0, atol=0)
    fresh = row.make([{"params": [p.detach().clone().requires_grad_()]} for p in params], compile=False)
    fresh.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("cut", ["rows", "columns"])
def test_a_number_for_each_row_goes_with_its_row(cut: str, compile: bool) -> None:
    """AdamMini: exp_avg_sq is cut by the same mask; in the shape of one matrix and of a stack of them. By hand, in one step."""
    axis = 0 if cut == "rows" else 1
    params = [torch.ones(10, 10).requires_grad_()]
    blocks = [fast.Blocks.along((10, 10), axis, cut)]
    optimizer = fast.AdamMini([{"params": params, "blocks": blocks}], lr=0.0, betas=(0.5, 0.75), compile=compile)
    scale = torch.arange(1.0, 11.0)
    params[0].grad = (scale.unsqueeze(1 - axis) * torch.ones(10, 10)).contiguous()
    optimizer.step()
    torch.testing.assert_close(optimizer.state[params[0]]["exp_avg_sq"], 0.25 * scale**2)
    (param,) = replace(optimizer, lambda t: keep(t) if axis == 0 or t.ndim == 1 else keep(t.T).T.contiguous())
    param.grad = torch.zeros_like(param)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[param]["exp_avg_sq"], 0.75 * 0.25 * keep(scale) ** 2)
    assert fast.Blocks.from_plain(optimizer.param_groups[0]["blocks"][0]) == fast.Blocks.along(
        tuple(param.shape), axis, cut
    )


def test_blocks_that_cannot_follow_are_refused() -> None:
    """A head without some of its rows, a number for each row that was not cut; a whole head is taken out as a row is."""
    heads = fast.Blocks.heads((12, 4), 3)
    rows = fast.Blocks.along((12, 4), 0)
    fused = fast.Blocks((12, 4), "fused", 0, ((2, 4), (4, 1)))
    for blocks, names, words in (
        (heads, ("exp_avg",), 'no longer belong to its "params"'),
        (rows, ("exp_avg",), r"exp_avg_sq has shape \(12,\), the blocks of its parameter \(10,\)"),
        (fused, ("exp_avg",), 'no longer belong to its "params"'),
    ):
        params = parameters([(12, 4)])
        optimizer = fast.AdamMini([{"params": params, "blocks": [blocks]}], compile=False)
        train(optimizer, params, range(2))
        params = replace(optimizer, lambda t: t[:10], names)
        before = params[0].detach().clone()
        with pytest.raises(ValueError, match=words):
            train(optimizer, params, range(1))
        assert torch.equal(params[0], before)
    params = parameters([(12, 4)])
    optimizer = fast.AdamMini([{"params": params, "blocks": [heads]}], compile=False)
    train(optimizer, params, range(2))
    params = replace(optimizer, lambda t: t[len(t) // 3 :])
    train(optimizer, params, range(1))
    assert optimizer.state[params[0]]["exp_avg_sq"].shape == (2,)


@walk
def test_a_new_parameter_without_its_state_begins_anew(row: Row) -> None:
    params = parameters([(50, 3)])
    optimizer = row.make(params, lr=0.01, compile=False)
    train(optimizer, params, range(3))
    params = replace(optimizer, keep, drop=True)
    plain = [params[0].detach().clone().requires_grad_()]
    other = row.make(plain, lr=0.01, compile=False)
    train(optimizer, params, range(2))
    train(other, plain, range(2))
    assert torch.equal(params[0], plain[0])


@walk
def test_rounding_at_random_goes_on(row: Row) -> None:
    """The key is the parameter's, not its rows'."""
    params = parameters([(50, 3)], torch.bfloat16)
    optimizer = row.make(params, lr=1e-4, stochastic_rounding=True, exp_avg_dtype=torch.bfloat16, compile=False)
    train(optimizer, params, range(2))
    key = optimizer.state[params[0]]["rounding_key"].clone()
    params = replace(optimizer, keep)
    before = params[0].detach().clone()
    train(optimizer, params, range(2, 3))
    assert torch.equal(optimizer.state[params[0]]["rounding_key"], key) and not torch.equal(params[0], before)


def test_averages_that_were_not_cut_are_still_refused() -> None:
    for kind in (fast.Adams, fast.AdamMini):
        params = parameters([(50, 3)])
        optimizer = kind(params, compile=False)
        train(optimizer, params, range(2))
        params = replace(optimizer, keep, ())
        grads = gradients(params, 0)
        params[0].grad = grads[0]
        with pytest.raises(ValueError, match=r"exp_avg has shape \(50, 3\), its parameter \(40, 3\)"):
            optimizer.step()
