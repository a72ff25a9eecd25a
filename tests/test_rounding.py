"""Half precision that trains: stochastic rounding of bfloat16 parameters, and a bfloat16 exp_avg.

Past 250 lines because all that is said of one small file is tested in one place.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from test_contract_state import through_a_file
from torch import Tensor
from twin import give, gradients, parameters, same, train

from fast import Grams
from fast._compile import CHUNK
from fast._rounding import KEY, new_key, random_bits, stochastic

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
BF16 = torch.bfloat16
ON = {"stochastic_rounding": True, "exp_avg_dtype": BF16, "compile": False}
SHAPES = [(40, 30), (33,), (2, 3, 4), ()]


def bits_of(place: int = 0, step: int = 1, size: int = 4096, seed: int = 0) -> Tensor:
    return random_bits(new_key(seed, place, None), step, (size,), None)


@pytest.mark.parametrize(
    "x", [1.0, 1 + 2.0**-9, -1.00390625 * 1.3, 3.14159e-5, -2.7e12, 1.9999999, 0.0, 1e-20, 255.9999]
)
def test_the_mean_of_many_roundings_is_the_number(x: float) -> None:
    exact = torch.full((1 << 18,), x)
    rounded = stochastic(exact, bits_of(size=1 << 18))
    assert torch.equal(rounded, rounded.to(BF16).float()), "not on the grid"
    assert len(rounded.unique()) <= 2
    spread = float(rounded.double().std()) / rounded.numel() ** 0.5
    # noise has 16 bits, all that a float32 has more than a bfloat16: the mean is exact
    assert abs(float(rounded.double().mean() - exact.double().mean())) <= 5 * spread


def test_the_two_neighbours_are_those_around_the_number() -> None:
    x = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.linspace(-25, 25, 1 << 16)
    low, high = (stochastic(x, torch.full_like(x, b, dtype=torch.int32)) for b in (0, 65535))
    nearest = x.to(BF16).float()
    assert bool(((low <= x) & (x <= high)).all())
    assert bool(((nearest == low) | (nearest == high)).all())
    representable = stochastic(nearest, bits_of(size=1 << 16))
    assert torch.equal(representable, nearest)


def test_what_is_not_finite_or_out_of_range_stays() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e-42, -0.0])
    for bits in (0, 65535, -1):
        got = stochastic(x, torch.full((7,), bits, dtype=torch.int32))
        assert got[0].isnan() and torch.equal(got[1:5], x[1:5])
        assert bool((got[5:].abs() <= 2.0**-107).all())


def test_bits_are_even_and_independent() -> None:
    """Chi-square over 256 cells and correlations, over entries, steps, places, seeds and the two halves; no flakes: fixed."""
    streams = [bits_of(), bits_of(step=2), bits_of(step=3), bits_of(place=1), bits_of(place=2), bits_of(seed=1)]
    halves = [(s >> shift) & 0xFFFF for s in streams for shift in (0, 16)]
    for half in halves:
        for cell in (half >> 8, half & 0xFF):
            counts = torch.bincount(cell.long(), minlength=256).double()
            assert float(((counts - 16) ** 2 / 16).sum()) < 255 + 5 * (2 * 255) ** 0.5
    table = torch.stack([half.double() for half in [*halves, halves[0].roll(1), halves[1].roll(7)]])
    off = torch.corrcoef(table) - torch.eye(len(table))
    assert float(off.abs().max()) < 5 / 4096**0.5
    over_steps = torch.stack([(bits_of(step=t, size=8) & 0xFFFF).double() for t in range(1, 4097)])
    assert float((torch.corrcoef(over_steps.T) - torch.eye(8)).abs().max()) < 5 / 4096**0.5
    lagged = torch.corrcoef(torch.stack([over_steps[1:, 0], over_steps[:-1, 0]]))[0, 1]
    assert abs(float(lagged)) < 5 / 4096**0.5
    assert abs(float(over_steps.mean()) / 32767.5 - 1) < 5 * 0.577 / over_steps.numel() ** 0.5


def test_tiny_updates_move_bfloat16_weights_on_average() -> None:
    """lr = 2^-12 near 1, where half the spacing is 2^-9: nearest stands still, stochastic goes where float32 goes."""
    ends = {}
    for on in (False, True):
        p = torch.ones(20_000, dtype=BF16).requires_grad_()
        optimizer = Grams([p], lr=2.0**-12, compile=False, stochastic_rounding=on)
        for _ in range(40):
            p.grad = -torch.ones_like(p)
            optimizer.step()
        ends[on] = p.detach().double()
    assert bool((ends[False] == 1).all())
    standard_error = float(ends[True].std()) / 20_000**0.5
    assert abs(float(ends[True].mean()) - (1 + 40 * 2.0**-12)) < 5 * standard_error + 1e-6
    assert standard_error < 1e-4


@walk
def test_every_optimizer_is_right_on_average(row: Row) -> None:
    """One step of equal entries against the same in float32: the mean within 5 standard errors, at no more than two values."""
    ends = []
    for dtype in (torch.float32, BF16):
        p = torch.full((200, 300), 1.0, dtype=dtype).requires_grad_()
        optimizer = row.make([p], lr=1e-3, compile=False, weight_decay=0.01, stochastic_rounding=True)
        p.grad = torch.ones_like(p)
        optimizer.step()
        ends.append(p.detach().double())
    exact, found = ends
    assert 1 < len(found.unique()) <= 2
    assert abs(float(found.mean() - exact.mean())) < 5 * float(found.std()) / 60_000**0.5


@pytest.mark.parametrize(
    ("beta", "on", "stalls"), [(0.9, False, False), (0.99, False, False), (0.999, False, True), (0.999, True, False)]
)
def test_where_a_bfloat16_average_stalls(beta: float, on: bool, stalls: bool) -> None:
    """200 gradients of 0 leave beta^200 of it; 0.999 of it is rounded back to what it was, unless stochastically."""
    p = torch.ones(4096, dtype=BF16).requires_grad_()
    optimizer = Grams([p], betas=(beta, 0.999), compile=False, stochastic_rounding=on, exp_avg_dtype=BF16)
    for i in range(201):
        p.grad = torch.full_like(p, float(i == 0))
        optimizer.step()
        if i == 0:
            optimizer.state[p]["exp_avg"].fill_(1)
    average = optimizer.state[p]["exp_avg"].double()
    assert bool((average == 1).all()) == stalls
    assert on or stalls or float(average.max()) < 0.5
    if on:
        assert abs(float(average.mean()) - beta**200) < 5 * float(average.std()) / 64


@pytest.mark.parametrize("carry", [copy.deepcopy, through_a_file], ids=["deepcopy", "file"])
@walk
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(row: Row, carry: Any) -> None:
    params = parameters(SHAPES, BF16)
    optimizer = row.make(params, lr=1e-3, rounding_seed=5, **ON)
    train(optimizer, params, range(3))
    twins = [p.detach().clone().requires_grad_() for p in params]
    other = row.make(twins, lr=7.0, **ON)
    other.load_state_dict(carry(optimizer.state_dict()))
    assert same(other.state_dict(), optimizer.state_dict())
    random = torch.get_rng_state()
    for p, q in ((params, optimizer), (twins, other)):
        train(q, p, range(3, 6))
    assert torch.equal(random, torch.get_rng_state())
    assert same(list(params), list(twins)) and same(other.state_dict(), optimizer.state_dict())
    params2, optimizer2 = pickle.loads(pickle.dumps((params, optimizer)))
    for p, q in ((params, optimizer), (params2, optimizer2)):
        train(q, p, range(6, 8))
    assert same(list(params), list(params2)) and optimizer2.state[params2[0]]["exp_avg"].dtype == BF16


@walk
def test_seed_and_place_decide_the_bits(row: Row) -> None:
    ends = []
    for seed in (0, 0, 1):
        params = [torch.ones(50, 40, dtype=BF16).requires_grad_() for _ in range(2)]
        train_equal(row.make(params, lr=1e-3, rounding_seed=seed, **ON), params)
        ends.append([p.detach() for p in params])
    assert same(ends[0], ends[1]) and not same(ends[0], ends[2])
    assert not torch.equal(*ends[0])


def train_equal(optimizer: Any, params: list[Tensor]) -> None:
    give(params, [torch.ones_like(p) for p in params])
    optimizer.step()


@walk
def test_dtypes_and_bytes_of_the_state(row: Row) -> None:
    """A bfloat16 exp_avg has 2 bytes an entry; what is summed or squared stays float32; Adams needs no master."""
    params = parameters([(64, 32)], BF16)
    optimizer = row.make(params, lr=1e-3, **ON)
    train(optimizer, params, range(2))
    state = optimizer.state[params[0]]
    assert state["exp_avg"].dtype == BF16 and state[KEY].numel() == 2
    assert "master_param" not in state
    others = [v.dtype for k, v in state.items() if k not in ("exp_avg", KEY)]
    assert set(others) == {torch.float32}
    size = sum(v.numel() * v.element_size() for k, v in state.items() if v.shape == params[0].shape)
    assert size == 64 * 32 * (2 + 4 * ("exp_avg_sq" in state and state["exp_avg_sq"].shape == params[0].shape))


@walk
def test_checkpoints_are_cast_between_dtypes_of_exp_avg(row: Row) -> None:
    params = parameters(SHAPES)
    wide, half = (row.make(params, lr=1e-3, compile=False, exp_avg_dtype=dtype) for dtype in (None, BF16))
    train(wide, params, range(2))
    half.load_state_dict(wide.state_dict())
    for p in params:
        assert same(half.state[p]["exp_avg"], wide.state[p]["exp_avg"].to(BF16))
    train(half, params, range(2, 4))
    wide.load_state_dict(half.state_dict())
    assert all(wide.state[p]["exp_avg"].dtype == torch.float32 for p in params)
    assert all(torch.equal(wide.state[p]["exp_avg"], half.state[p]["exp_avg"].float()) for p in params)


@walk
def test_without_bfloat16_the_option_changes_nothing(row: Row) -> None:
    ends = []
    for on in (False, True):
        params = parameters([*SHAPES, *[(6,)] * 9])
        optimizer = row.make(params, lr=1e-3, compile=False, stochastic_rounding=on)
        train(optimizer, params, range(3))
        ends.append((list(params), optimizer.state_dict()["state"]))
    assert same(ends[0], ends[1])


def test_parts_of_an_eager_step_have_the_bits_of_the_whole() -> None:
    key = new_key(3, 4, None)
    whole = random_bits(key, 7, (3 * CHUNK // 2,), None)
    part = random_bits(torch.cat([key, torch.tensor([CHUNK], dtype=torch.int32)]), 7, (CHUNK // 2,), None)
    assert torch.equal(whole[CHUNK:], part)
    p = torch.ones(2 * CHUNK, dtype=BF16).requires_grad_()
    train_equal(Grams([p], lr=1e-3, **ON), [p])
    assert not torch.equal(p[:CHUNK], p[CHUNK:])


def test_compiled_is_eager() -> None:
    """The bits are the same; a number may differ in its last place, so that one in thousands is rounded otherwise."""
    runs = []
    for compile in (False, True):
        params = parameters([(300, 250), (70_001,), (5,)], BF16)
        optimizer = Grams(params, lr=1e-3, **{**ON, "compile": compile})
        train(optimizer, params, range(2))
        runs.append((params, [optimizer.state[p]["exp_avg"] for p in params]))
    for one, two in zip(runs[0][0] + runs[0][1], runs[1][0] + runs[1][1], strict=True):
        assert float((one != two).float().mean()) < 1e-3


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"stochastic_rounding": 1}, TypeError, "stochastic_rounding"),
    ({"stochastic_rounding": None}, TypeError, "stochastic_rounding"),
    ({"rounding_seed": 0.5}, TypeError, "rounding_seed"),
    ({"rounding_seed": True}, TypeError, "rounding_seed"),
    ({"rounding_seed": -1}, ValueError, "rounding_seed"),
    ({"exp_avg_dtype": "bfloat16"}, TypeError, "exp_avg_dtype"),
    ({"exp_avg_dtype": torch.float16}, ValueError, "exp_avg_dtype"),
]


@pytest.mark.parametrize(("options", "error", "word"), BAD, ids=str)
@walk
def test_bad_options_are_refused(row: Row, options: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        row.make(parameters([(3,)]), **options)


@walk
def test_float16_is_refused_and_nothing_changes(row: Row) -> None:
    params, half = parameters([(3,), (2, 2)], BF16), parameters([(4,)], torch.float16)
    optimizer = row.make(params, lr=1e-3, **ON)
    with pytest.raises(ValueError, match="float16"):
        optimizer.add_param_group({"params": half})
    assert len(optimizer.param_groups) == 1
    with torch.no_grad():
        params[1].data = params[1].data.half()
    before = [p.detach().clone() for p in params]
    give(params, gradients(params, 0))
    with pytest.raises(ValueError, match="float16"):
        optimizer.step()
    assert same(before, [p.detach() for p in params])
