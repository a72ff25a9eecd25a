"""F1 for every finite gradient of float16 and bfloat16: where a Grams step is NaN, in `reference` and in `fast`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fast import Grams
from reference import grams
from reference.theory.half_formats import FORMATS, finite_values, overflow, unbounded

HALF, BFLOAT = FORMATS
EPS = (0.0, 1e-8, 6e-8, 8e-8, 8.9e-8, 1e-7, 1e-6, 1e-4, 1.0)
DECAYS = (0.0, 0.1, 10.0, 1e3, 1e38)
STARTS = (0.0, 1.0, -58_000.0, 58_000.0)


def test_all_finite_numbers_are_there():
    for dtype, count in ((HALF, 63_488), (BFLOAT, 65_280)):
        values = finite_values(dtype)
        assert values.numel() == count and values.unique().numel() == count - 1  # 0 and -0 are one value
        largest = torch.finfo(dtype).max
        assert values.max() == largest and values.min() == -largest
        edge = overflow(dtype)
        below = torch.nextafter(torch.tensor(edge), torch.tensor(0.0))
        assert torch.tensor(edge).to(dtype).isinf() and below.to(dtype) == largest
    with pytest.raises(ValueError, match="16 bits"):
        finite_values(torch.float32)


@pytest.mark.claim("T9")
@pytest.mark.claim("F1")
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_first_step_is_nan_exactly_where_u_is_not_finite(dtype, eps, decay):
    g = finite_values(dtype)
    for start in STARTS:
        new, state = grams.step(torch.full_like(g, start), g, grams.init(g), lr=0.1, eps=eps, weight_decay=decay)
        assert torch.equal(torch.isnan(new), unbounded(state, eps))
        # there is no other way out of the format but a decay that throws w out
        assert decay > 20 or torch.equal(torch.isnan(new), ~torch.isfinite(new))


@pytest.mark.claim("F1")
def test_near_the_end_of_the_format_a_finite_u_is_enough():
    """The ledger once named no w: from 65504 a step of 0.1 u goes past the end where u, finite, is some hundreds."""
    w = torch.full((1,), 65504.0, dtype=HALF)
    for decay in (0.0, 0.1):
        new, state = grams.step(w, torch.full_like(w, -1e-5), grams.init(w), lr=0.1, eps=6e-8, weight_decay=decay)
        assert torch.isnan(new) and not unbounded(state, 6e-8)
    g = finite_values(HALF)
    for eps in (6e-8, 1e-7, 1e-6):
        new, state = grams.step(torch.full_like(g, 65504.0), g, grams.init(g), lr=0.1, eps=eps)
        assert int((torch.isnan(new) & ~unbounded(state, eps)).sum()) > 5000


@pytest.mark.claim("F1")
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_decay_that_no_float32_holds_is_nan_at_zero(dtype):
    """The ledger once said "any decay": lr times 1e40 is infinite there, and 0 times that is NaN where w and g are 0."""
    zero = torch.zeros(1, dtype=dtype)
    for decay, broken in ((1e38, False), (1e40, True)):
        new, state = grams.step(zero, zero, grams.init(zero), lr=0.1, eps=1e-6, weight_decay=decay)
        assert bool(torch.isnan(new)) is broken and not unbounded(state, 1e-6)


@pytest.mark.claim("T9")
@pytest.mark.claim("F1")
def test_in_float16_an_eps_that_is_stored_is_not_enough():
    """6e-8 is stored (as 2^-24), and yet 820 of the 63,488 gradients give NaN: 0.004 is one of them."""
    g = finite_values(HALF)
    counts = {}
    for eps in EPS:
        new, state = grams.step(torch.ones_like(g), g, grams.init(g), lr=0.1, eps=eps, weight_decay=0.1)
        bad, size = torch.isnan(new), g.double().abs()
        counts[eps] = int(bad.sum())
        stored = torch.tensor(eps, dtype=HALF).double()
        vanished = size[state.v == 0].max()  # the largest gradient whose v underflows
        assert 0.0054 < vanished < 0.0056
        mhat = (state.m / (1 - 0.9)).double().abs()  # g, but for the rounding: 0.003904 comes out as 0.003906
        window = (size <= vanished) & (mhat >= overflow(HALF) * stored)
        assert torch.equal(bad, window | (size == torch.finfo(HALF).max))  # 65504: mhat overflows, inf / inf
    # we once said that an eps above 8.4e-8 closes the window: up to 8.9e-8 it is stored as 6e-8
    assert counts == {0.0: 15154, 1e-8: 15154, 6e-8: 820, 8e-8: 820, 8.9e-8: 820, 1e-7: 2, 1e-6: 2, 1e-4: 2, 1.0: 2}
    one = torch.ones(1, dtype=HALF)
    new, state = grams.step(one, 0.004 * one, grams.init(one), lr=0.1, eps=6e-8, weight_decay=0.1)
    assert torch.tensor(6e-8, dtype=HALF) == 2.0**-24 and state.v == 0 and torch.isnan(new)


@pytest.mark.claim("F1")
def test_the_counts_are_of_torchs_arithmetic():
    """The ledger once named no arithmetic. NumPy's float16 rounds 0.1 and eps first: the same condition, and other counts."""
    g, counts = finite_values(HALF).numpy(), {}
    for eps in (1e-8, 6e-8, 1e-7):
        with np.errstate(all="ignore"):
            new, state = grams.step(np.ones_like(g), g, grams.init(g), lr=0.1, eps=eps)
            mhat, root = state.m / (1 - 0.9), np.sqrt(state.v / (1 - 0.999)) + eps
        assert new.dtype == mhat.dtype == root.dtype == np.float16
        beyond = np.abs(mhat.astype(float)) >= overflow(HALF) * root.astype(float)
        np.testing.assert_array_equal(np.isnan(new), beyond | np.isinf(mhat))
        counts[eps] = int(np.isnan(new).sum())
    assert counts == {1e-8: 15150, 6e-8: 814, 1e-7: 0}


@pytest.mark.claim("T9")
@pytest.mark.claim("F1")
def test_in_bfloat16_only_an_eps_of_zero_gives_nan():
    g = finite_values(BFLOAT)
    for eps in EPS:
        new, state = grams.step(torch.ones_like(g), g, grams.init(g), lr=0.1, eps=eps, weight_decay=0.1)
        bad = torch.isnan(new)
        assert bad[(g == 0) | (g == g[g > 1e-20].min())].all() if eps == 0 else not bad.any()
        assert not bad[state.v > 0].any()
        assert float(g[state.v == 0].abs().max()) < 1e-18  # for these u overflows only below an eps of 1e-56


@pytest.mark.claim("F1")
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_later_steps_follow_the_same_condition(dtype):
    """Every gradient at the second step, after first gradients that leave a small, an ordinary and an overflowing v."""
    g = finite_values(dtype)
    for first in (0.0, 2.0**-14, 0.003, 1.0, 300.0):  # after 0.003 u can be float16's largest number, and finite
        for eps in (0.0, 6e-8, 1e-6):
            w = torch.ones_like(g)
            w, state = grams.step(w, torch.full_like(g, first), grams.init(g), lr=0.1, eps=eps)
            if torch.isnan(w).any():
                continue
            new, state = grams.step(w, g, state, lr=0.1, eps=eps)
            assert torch.equal(torch.isnan(new), unbounded(state, eps)), (first, eps)


@pytest.mark.claim("F1")
def test_in_float16_a_gradient_of_256_stops_the_coordinate_for_ever():
    w = torch.ones(2, dtype=HALF)
    state = grams.init(w)
    for t in range(50):
        g = torch.tensor([255.0, 256.0] if t == 0 else [1.0, 1.0], dtype=HALF)
        w, state = grams.step(w, g, state, lr=0.1, eps=1e-6)
    assert torch.isinf(state.v[1]) and w[1] == 1 and torch.isfinite(state.v[0]) and w[0] < 0.9
    decayed, _ = grams.step(w, torch.ones_like(w), state, lr=0.1, eps=1e-6, weight_decay=1.0)
    assert decayed[1] == torch.tensor(0.9, dtype=HALF)  # the decay alone still moves it


def fast_step(g, eps, *, start=1.0, decay=0.1, compile=False):
    p = torch.nn.Parameter(torch.full_like(g, start))
    p.grad = g.clone()
    Grams([p], lr=0.1, eps=eps, weight_decay=decay, compile=compile).step()
    return p.detach()


def check_fast(dtype, eps, compile):
    g = finite_values(dtype)
    p = fast_step(g, eps, compile=compile)
    assert torch.equal(torch.isnan(p), (g == 0) & (eps == 0))
    infinite = torch.isinf(p)
    if eps or dtype == HALF:
        assert not infinite.any()
    else:
        assert 0 < float(g[infinite].abs().min()) <= float(g[infinite].abs().max()) < 1e-21


@pytest.mark.claim("T9")
@pytest.mark.claim("F1")
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_fast_keeps_its_averages_in_float32_and_gives_nan_for_zero_over_zero_alone(dtype):
    """What is left is g = 0 with eps = 0; and there the bfloat16 gradients whose squares float32 rounds to 0 go to infinity."""
    for eps in EPS:
        check_fast(dtype, eps, compile=False)
        g = finite_values(dtype)
        for start in STARTS:
            for decay in (0.0, 1.0, 1e3):
                assert torch.equal(torch.isnan(fast_step(g, eps, start=start, decay=decay)), (g == 0) & (eps == 0))


@pytest.mark.claim("F1")
def test_where_lr_times_the_decay_is_1_fast_gives_nan_for_infinite_steps_too():
    """The factor 1 - lr decay is 0 there, and 0 * inf is NaN. It takes a step that float32 cannot hold: bfloat16 at eps 0."""
    for dtype in FORMATS:
        g = finite_values(dtype)
        for eps in EPS:
            infinite = torch.isinf(fast_step(g, eps))
            assert torch.equal(torch.isnan(fast_step(g, eps, decay=10.0)), infinite | ((g == 0) & (eps == 0)))
            assert bool(infinite.any()) is (dtype == BFLOAT and eps == 0)


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_compiled_it_is_the_same(dtype):
    for eps in (0.0, 6e-8):
        check_fast(dtype, eps, compile=True)


@pytest.mark.claim("F1")
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_an_eps_that_the_format_rounds_to_zero_is_an_eps_of_zero(dtype):
    """The ledger once said "at eps 0 alone" of bfloat16 and of `fast`: a positive eps can be too small for them, too."""
    zero = torch.zeros(2, dtype=dtype)
    for eps, broken in ((1e-45, True), (2.2e-44, True), (2.3e-44, False), (1e-43, False)):
        assert bool(torch.isnan(fast_step(zero, eps)).all()) is broken, (
            eps
        )  # float32 holds 1e-45, but not sqrt(1 - beta2) of it
    if dtype == BFLOAT:
        for eps, broken in ((1e-42, True), (4.5e-41, True), (4.6e-41, False), (1e-40, False)):
            new, _ = grams.step(zero, zero, grams.init(zero), lr=0.1, eps=eps)
            assert bool(torch.isnan(new).all()) is broken, eps


@pytest.mark.claim("F1")
def test_what_a_first_step_of_fast_says_ends_at_the_second_and_at_a_decay_of_1e38():
    """The ledger once said neither "first step" nor a largest decay of `fast`."""
    large = fast_step(torch.full((1,), -4e-29, dtype=BFLOAT), 1e-31, start=-58_000.0, decay=1e38)
    assert torch.isnan(large).all()  # u is finite; w and u times the decay are both infinite, against each other
    g = finite_values(BFLOAT)
    for eps in (1e-8, 1.0):
        p = torch.nn.Parameter(torch.ones_like(g))
        optimizer = Grams([p], lr=0.1, eps=eps, compile=False)
        for t in (1, 2):
            p.grad = g.clone()
            optimizer.step()
            far = (g.abs() >= 2.0**64) & (t == 2)
            assert torch.isfinite(p[~far]).all() and not torch.isfinite(p.detach()[far]).any()


@pytest.mark.claim("F1")
def test_in_bfloat16_the_largest_number_again_and_again_is_nan():
    """ "At eps 0 alone" is of a first step: after some twenty the rounding of mhat goes past the end of the format."""
    g = torch.full((1,), torch.finfo(BFLOAT).max, dtype=BFLOAT)
    w, state = torch.zeros_like(g), grams.init(g)
    broken = []
    for _ in range(21):
        w, state = grams.step(w, g, state, lr=0.1, eps=1e-8)
        assert torch.equal(torch.isnan(w), unbounded(state, 1e-8))
        broken.append(bool(torch.isnan(w)))
    assert broken == [False] * 20 + [True]


@pytest.mark.claim("F1")
def test_fast_at_the_gradients_that_break_the_reference():
    g = torch.tensor([0.004, 65504.0, 300.0], dtype=HALF)
    broken, _ = grams.step(torch.ones_like(g), g, grams.init(g), lr=0.1, eps=6e-8, weight_decay=0.1)
    assert torch.isnan(broken).tolist() == [True, True, False] and broken[2] == torch.tensor(0.99, dtype=HALF)
    p = torch.nn.Parameter(torch.ones_like(g))
    p.grad = g
    Grams([p], lr=0.1, eps=6e-8, weight_decay=0.1, compile=False).step()
    expected, _ = grams.step(torch.ones(3), g.float(), grams.init(torch.ones(3)), lr=0.1, eps=6e-8, weight_decay=0.1)
    torch.testing.assert_close(p.detach(), expected.to(HALF), rtol=2e-3, atol=0)
