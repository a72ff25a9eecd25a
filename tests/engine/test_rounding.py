"""Half precision that trains: stochastic rounding of bfloat16 parameters, and a bfloat16 exp_avg."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from test_contract_state import through_a_file
from torch import Tensor
from twin import give, gradients, parameters, same, train

from fast import AdamMini, Adams, Blocks, Grams
from fast._kernels.cpu import CHUNK
from fast._kernels.rounding import KEY, new_key, random_bits

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
BF16 = torch.bfloat16
ON = {"stochastic_rounding": True, "exp_avg_dtype": BF16, "compile": False}
SHAPES = [(40, 30), (33,), (2, 3, 4), ()]


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
def test_parameter_and_average_are_rounded_by_other_bits(row: Row) -> None:
    """Equal entries, each rounded up or down: whether one goes up must say nothing about the other."""
    p = torch.ones(250, 240, dtype=BF16).requires_grad_()
    optimizer = row.make([p], lr=1e-3, **ON)
    p.grad = torch.full_like(p, 1 + 2.0**-7)
    optimizer.step()
    ups = []
    for t in (p.detach().float(), optimizer.state[p]["exp_avg"].float()):
        assert len(t.unique()) == 2
        ups.append((t == t.max()).double().flatten())
    assert abs(float(torch.corrcoef(torch.stack(ups))[0, 1])) < 5 / 60_000**0.5


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
    whole = random_bits(key, 7, torch.empty(3 * CHUNK // 2))
    part = random_bits(torch.cat([key, torch.tensor([CHUNK], dtype=torch.int32)]), 7, torch.empty(CHUNK // 2))
    assert torch.equal(whole[CHUNK:], part)
    p = torch.ones(2 * CHUNK, dtype=BF16).requires_grad_()
    train_equal(Grams([p], lr=1e-3, **ON), [p])
    assert not torch.equal(p[:CHUNK], p[CHUNK:])


def test_adams_iterates_a_matrix_without_a_master_over_all_its_rows() -> None:
    """Its rows are read in float32 some at a time; 300 are two parts and a shorter one."""
    p = parameters([(300, 40)], BF16)[0]
    w = p.detach().double()
    v = w.T @ torch.ones(300, dtype=torch.float64)
    wv = w @ (v / v.norm())
    p.grad = torch.zeros_like(p)
    optimizer = Adams([p], stochastic_rounding=True, compile=False)
    optimizer.step()
    state = optimizer.state[p]
    torch.testing.assert_close(state["u"].double(), wv / wv.norm(), rtol=0, atol=1e-6)
    assert state["sigma"].item() == pytest.approx(wv.norm().item(), rel=1e-5)


def test_runs_of_blocks_are_rounded_by_other_bits() -> None:
    """Each run is a step of its own, whose entries are counted from 0: equal entries at equal places must still differ."""
    p = torch.ones(64, 96, dtype=BF16).requires_grad_()
    runs = Blocks((64, 96), "fused", 0, ((1, 16), (1, 48)))
    train_equal(AdamMini([("w", p)], lr=1e-3, partition={"w": runs}, **ON), [p])
    assert float((p[:16] != p[16:32]).float().mean()) > 0.1


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"stochastic_rounding": 1}, TypeError, "stochastic_rounding"),
    ({"stochastic_rounding": None}, TypeError, "stochastic_rounding"),
    ({"rounding_seed": 0.5}, TypeError, "rounding_seed"),
    ({"rounding_seed": True}, TypeError, "rounding_seed"),
    ({"rounding_seed": -1}, ValueError, "rounding_seed"),
    ({"exp_avg_dtype": "half"}, ValueError, "exp_avg_dtype"),
    ({"exp_avg_dtype": 16}, TypeError, "exp_avg_dtype"),
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


@walk
def test_a_pickled_group_without_the_options_gets_their_defaults(row: Row) -> None:
    """Those that the optimizer was built with, and so it goes on as the one that has them."""
    params = parameters([(20,)] * 6)
    optimizer = row.make(params, lr=1e-3, compile=False)
    train(optimizer, params, range(2))
    defaults = {key: optimizer.param_groups[0].pop(key) for key in ("stochastic_rounding", "exp_avg_dtype", "maximize")}
    params2, optimizer2 = pickle.loads(pickle.dumps((params, optimizer)))
    assert {key: optimizer2.param_groups[0][key] for key in defaults} == defaults
    optimizer.param_groups[0].update(defaults)
    for p, q in ((params, optimizer), (params2, optimizer2)):
        train(q, p, range(2, 4))
    assert same(list(params), list(params2))


@walk
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("compile", [False, True])
def test_the_random_bits_go_on_where_float32_counts_no_further(row: Row, compile: bool, capturable: bool) -> None:
    """2^24 + 1 is no float32: from there on a float32 count of steps stands still."""
    params = parameters([(4096,)], BF16)
    optimizer = row.make(params, lr=1e-3, stochastic_rounding=True, compile=compile, capturable=capturable)
    train(optimizer, params, range(1))
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = torch.tensor(2.0**24)
    start, seen, count = params[0].detach().clone(), [], torch.tensor(0.0)
    for _ in range(4):  # each time the same step, but for its bits
        optimizer.load_state_dict(saved)
        with torch.no_grad():
            params[0].copy_(start)
        train(optimizer, params, range(1))
        seen.append(params[0].detach().clone())
        count = optimizer.state[params[0]]["step"].clone()
        saved["state"][0]["step"] = count
    assert count.item() == 2**24 + 4 and count.dtype == torch.float64
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(seen))
