"""Every optimizer against its reference rule, in parameters and state, over 200 steps: the main evidence for `fast`."""

from __future__ import annotations

import math

import compiler
import numpy as np
import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor
from twin import Twin, array, give, gradients, parameters

import fast

# All dimensions, sizes of 1 and 0, odd sizes, one of more entries than an eager step takes at a time, and, last,
# seventeen of one shape, more than a pack of small tensors.
SHAPES = [(260, 270), (), (1,), (7,), (1, 9), (9, 1), (33, 5), (3, 4, 5), (2, 3, 4, 5), (2, 2, 3, 2, 3), (0,), (3, 0)]
UNPACKED = len(SHAPES)
SHAPES += [(12,)] * 17
MAXIMIZE_COMPILED = {"Grams"}  # the base class turns the gradient around: one kernel more, and one optimizer is enough
CASES = [(row, case) for row in OPTIMIZERS for case in row.cases]
CASE_IDS = [f"{row.name}-{i}" for row in OPTIMIZERS for i in range(len(row.cases))]


def set_lr(group: dict, lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


@pytest.mark.parametrize(("row", "case"), CASES, ids=CASE_IDS)
def test_agrees_with_the_reference(row: Row, case: dict) -> None:
    """200 steps with a changing lr, in float64 and float32, eager and compiled, all against one run of the reference.

    Gradients come late (from step 37) and go missing (one in five), so each parameter has its own count of steps.
    """
    runs = []
    maximize = case.get("maximize", False)
    wanted = [(torch.float64, False), (torch.float32, not maximize or row.name in MAXIMIZE_COMPILED)]
    if case is row.cases[0]:
        wanted += [(torch.float64, True), (torch.float32, False)]
    for dtype, compile in wanted:
        if compile and not compiler.expected():
            continue
        shapes = SHAPES[:UNPACKED] if compile and dtype == torch.float64 else SHAPES  # one kernel less to compile
        params = parameters(shapes, dtype)
        lr = case["lr"].clone() if isinstance(case["lr"], Tensor) else case["lr"]
        runs.append((params, row.make(params, **{**case, "lr": lr}, compile=compile), dtype, compile))
    twin = Twin(row, parameters(SHAPES))
    missing = torch.rand(200, len(SHAPES), generator=torch.Generator().manual_seed(5)) < 0.2
    missing[:37, 3::4] = True
    missing[:, 0], missing[::17, 0] = True, False  # the large one is slow: twelve steps
    # Where a rule takes the sign of an average, an average within a rounding of 0 may have either. Among the few
    # entries of the small tensors none comes so near in 200 steps; the large one's averages are kept away from 0.
    away = torch.randn(SHAPES[0], generator=torch.Generator().manual_seed(6)).sign()
    for i in range(200):
        lr = float(case["lr"]) * (1 + 0.5 * math.sin(i))
        drawn = gradients(twin.params, i)
        drawn[0] = 0.1 * drawn[0] + away
        grads = [None if gone else g for g, gone in zip(drawn, missing[i], strict=True)]
        for params, optimizer, _, _ in runs:
            set_lr(optimizer.param_groups[0], lr)
            give(params, grads[: len(params)])
            optimizer.step()
        twin.step(runs[0][1].param_groups[0], grads)
    for params, optimizer, dtype, compile in runs:
        for what, worst in twin.errors(optimizer, params).items():
            bound = row.fp64 if dtype == torch.float64 else row.fp32
            if dtype == torch.float32 and what == "param":
                bound = row.param32 or bound
            elif what.startswith("exp_avg"):
                bound = min(bound, 2e-6)
            assert worst <= bound, f"{what} in {dtype}, compile={compile}: relative error {worst:.1e} > {bound:.0e}"
        counts = [int((~missing[:, j]).sum()) for j in range(len(params))]
        assert [int(optimizer.state[p]["step"]) for p in params] == counts
    if len(runs) < len(wanted):
        pytest.skip(compiler.REASON)  # the others have passed


def half_spacing(w: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Half the distance of neighbours of `dtype` around the float64 numbers w."""
    info = torch.finfo(dtype)
    exponent = torch.floor(torch.log2(w.abs().clamp(min=info.smallest_normal)))
    return 0.5 * info.eps * 2.0**exponent


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_half_precision_parameters_with_float32_state(row: Row, dtype: torch.dtype, compile: bool) -> None:
    """Each step is the reference's from the same parameter, rounded once at the end; the state is as in float32."""
    params = parameters([(40, 30), (33,), ()], dtype)
    optimizer = row.make(params, lr=1e-2, weight_decay=0.1, compile=compile)
    twin = Twin(row, params)
    for i in range(60):
        grads = gradients(params, i)
        give(params, grads)
        optimizer.step()
        twin.step(optimizer.param_groups[0], grads)
        for j, param in enumerate(params):
            exact = torch.as_tensor(twin.w[j])
            slack = half_spacing(exact, dtype) + row.fp32 * exact.abs().max()
            assert param.dtype == dtype
            assert bool(((param.detach().double() - exact).abs() <= slack).all()), f"step {i}, {param.shape}"
            if not row.master:
                twin.w[j] = array(param)
    for what, worst in twin.errors(optimizer).items():
        assert what == "param" or worst <= row.fp32, f"{what}: {worst:.1e}"
    for param in params:
        assert all(v.dtype != dtype for v in optimizer.state[param].values())
        assert all(
            optimizer.state[param][name].dtype == torch.float32 for name in row.state if name in optimizer.state[param]
        )


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_a_complex_parameter_is_a_pair_of_real_ones(row: Row, dtype: torch.dtype, compile: bool) -> None:
    """As torch.optim has it: the step of view_as_real(param)."""
    params = parameters([(8, 6), (), (4, 3, 2)], dtype)
    optimizer = row.make(params, lr=1e-2, weight_decay=0.1, compile=compile)
    twin = Twin(row, params)
    for i in range(20):
        generator = torch.Generator().manual_seed(i)
        grads = [torch.randn(p.shape, dtype=dtype, generator=generator) for p in params]
        if i % 2:
            grads = [g.conj() for g in grads]  # lazily conjugated gradients, as autograd gives them
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone() if i % 2 == 0 else g
        optimizer.step()
        twin.step(optimizer.param_groups[0], grads)
    bound = row.fp32 if dtype == torch.complex64 else row.fp64
    for what, worst in twin.errors(optimizer).items():
        assert worst <= bound, f"{what}: {worst:.1e} > {bound:.0e}"


BAD = {2: (2, 3), 1: (4,)}  # the entry of a matrix and of a vector whose gradient is not finite


@pytest.mark.parametrize(
    ("bad", "compile"), [(math.inf, False), (-math.inf, False), (math.nan, False), (math.nan, True)]
)
@pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
def test_a_gradient_that_is_not_finite_acts_as_in_the_reference(row: Row, bad: float, compile: bool) -> None:
    """Nothing is hidden or repaired: what the rule makes NaN is NaN, and an average that has become infinite is NaN a step later.

    The reference's stays infinite: there Lion goes on in one direction for ever, and a block of AdamMini stands still.
    """
    params = parameters([(6, 5), (9,)])
    optimizer = row.make(params, lr=1e-2, weight_decay=0.1, compile=compile)
    twin = Twin(row, params)
    for i in range(3):
        grads = gradients(params, i)
        if i == 1:
            grads[0][BAD[2]] = bad
            grads[1][BAD[1]] = bad
        give(params, grads)
        optimizer.step()
        with np.errstate(all="ignore"):
            twin.step(optimizer.param_groups[0], grads)
        for param, w in zip(params, twin.w, strict=True):
            ours, theirs = torch.as_tensor(array(param)), torch.as_tensor(np.array(w))
            if i == 2 and math.isinf(bad):
                hit = ours.isnan()
                assert hit[BAD[param.ndim]], "an infinite gradient must show"
                assert int(hit.sum()) == (param.numel() if row.name == "AdamMini" else 1)
                continue
            if row.name == "CautiousAdamW" and math.isinf(bad):
                # ours counts that entry, whose update is NaN, as one that agrees: its scale is another by one count
                assert param.isnan().tolist() == theirs.isnan().tolist()
                continue
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(("rescale", "scale"), [("count", 8 / 9), ("mean", 1.0), ("none", 1.0)])
def test_a_tiny_gradient_agrees_with_lions_direction(rescale: str, scale: float) -> None:
    """Its product with the sign is not 0, as that with the average would be."""
    params = parameters([(8,)])
    before, grad = params[0].detach().clone(), torch.full((8,), 1e-30).copysign(gradients(params, 0)[0])
    give(params, [grad])
    fast.CautiousLion(params, lr=0.1, rescale=rescale, compile=False).step()
    torch.testing.assert_close(params[0].detach(), before - 0.1 * scale * grad.sign())


def test_a_mask_that_is_almost_empty_is_made_up_for_by_a_thousand_at_most() -> None:
    """One entry of 2000 agrees with the momentum."""
    p = torch.zeros(2000, requires_grad=True)
    optimizer = fast.CautiousLion([p], lr=0.1, rescale="mean", compile=False)
    give([p], [torch.ones(2000)])
    optimizer.step()
    before, grad = p.detach().clone(), torch.full((2000,), -1e-4)
    grad[7] = 1.0
    give([p], [grad])
    optimizer.step()
    moved = (before - p).detach()
    assert moved.count_nonzero() == 1 and moved[7].item() == pytest.approx(100.0)
