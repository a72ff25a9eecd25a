"""What careless users do: a step that fails half-way, entries of their own in the state, a default device, a parameter twice."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor, nn
from torch.optim import lr_scheduler
from twin import gradients, parameters, same, train

import fast

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
LARGE, SMALL = (96, 130), (5, 4)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [LARGE, SMALL], ids=["large", "small"])
@walk
def test_a_step_that_fails_changes_nothing(row: Row, shape: tuple[int, ...], groups: int, compile: bool) -> None:
    """The last of many parameters has shrunk: the others take no step either, in whichever group they are."""
    params = parameters([shape] * 6)
    parts = [params] if groups == 1 else [params[:4], params[4:]]
    optimizer = row.make([{"params": part} for part in parts], lr=0.1, compile=compile)
    train(optimizer, params, range(2))
    params[-1].data = params[-1].data[:3]
    before = copy.deepcopy([optimizer.state_dict(), [p.detach() for p in params]])
    for _ in range(2):
        for param, grad in zip(params, gradients(params, 2), strict=True):
            param.grad = grad
        with pytest.raises(ValueError, match=r"shape \(.*\), its parameter"):
            optimizer.step()
        assert same([optimizer.state_dict(), [p.detach() for p in params]], before)


@pytest.mark.parametrize("shapes", [[LARGE], [SMALL] * 6], ids=["large", "small"])
@walk
def test_entries_of_the_users_own_stay_in_the_state(row: Row, shapes: list[tuple[int, ...]]) -> None:
    """torch.optim leaves them alone, and saves and loads them."""
    params, plain = parameters(shapes), parameters(shapes)
    optimizer, other = (row.make(p, lr=0.1, compile=False) for p in (params, plain))
    train(optimizer, params, range(2))
    train(other, plain, range(2))
    for param in params:
        optimizer.state[param].update({"tag": "mine", "count": 3, "ema": torch.full_like(param.detach(), 0.5)})
    train(optimizer, params, range(2, 4))
    train(other, plain, range(2, 4))
    for param, expected in zip(params, plain, strict=True):
        assert torch.equal(param, expected)
        own = optimizer.state[param]
        assert own["tag"] == "mine" and own["count"] == 3 and torch.equal(own["ema"], torch.full_like(param, 0.5))
    saved = optimizer.state_dict()
    loaded = row.make(parameters(shapes), lr=0.1, compile=False)
    loaded.load_state_dict(saved)
    assert same(loaded.state_dict()["state"], saved["state"])


@walk
def test_a_loaded_state_shares_nothing_of_the_users_own(row: Row) -> None:
    params, others = parameters([SMALL]), parameters([SMALL])
    optimizer, other = row.make(params, compile=False), row.make(others, compile=False)
    train(optimizer, params, range(1))
    mine = optimizer.state[params[0]]
    mine.update({"mine": {"a": 1}, "ema": torch.ones(2)})
    other.load_state_dict(optimizer.state_dict())
    loaded = other.state[others[0]]
    assert same(loaded, mine)
    mine["mine"]["a"] = 2
    mine["ema"].zero_()
    assert loaded["mine"] == {"a": 1} and bool((loaded["ema"] == 1).all())


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("shapes", [[LARGE], [SMALL] * 6], ids=["large", "small"])
@walk
def test_a_default_device_is_for_new_tensors_only(row: Row, shapes: list[tuple[int, ...]], compile: bool) -> None:
    params, plain = parameters(shapes), parameters(shapes)
    optimizer, other = (row.make(p, lr=0.1, weight_decay=0.1, compile=compile) for p in (params, plain))
    for i in range(3):
        for p, q, grad in zip(params, plain, gradients(params, i), strict=True):
            p.grad, q.grad = grad, grad.clone()
        with torch.device("meta"):
            optimizer.step()
        other.step()
    saved = optimizer.state_dict()
    with torch.device("meta"):
        optimizer.load_state_dict(saved)
    # torch 2.6 compiles once for each default device, and not to the same last bits
    torch.testing.assert_close([p.detach() for p in params], [p.detach() for p in plain], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(optimizer.state_dict()["state"], other.state_dict()["state"], rtol=1e-6, atol=1e-6)


@walk
def test_a_parameter_given_twice_takes_one_step(row: Row) -> None:
    params, plain = parameters([SMALL, (3,)]), parameters([SMALL, (3,)])
    with pytest.warns(UserWarning, match=r"same parameters twice, of shape \(5, 4\)") as seen:
        optimizer = row.make([params[0], params[0], params[1]], lr=0.1, compile=False)
    assert seen[0].filename == __file__
    other = row.make(plain, lr=0.1, compile=False)
    train(optimizer, params, range(3))
    train(other, plain, range(3))
    assert same([p.detach() for p in params], [p.detach() for p in plain])
    assert same(optimizer.state_dict(), other.state_dict())


@walk
def test_numpy_numbers_are_numbers(row: Row) -> None:
    params, plain = parameters([SMALL]), parameters([SMALL])
    lr, beta, decay = np.float32(0.1), np.float64(0.9), np.float32(0.25)
    optimizer = row.make(params, lr=lr, betas=(beta, np.float32(0.5)), weight_decay=decay, compile=False)
    other = row.make(plain, lr=float(lr), betas=(0.9, 0.5), weight_decay=0.25, compile=False)
    train(optimizer, params, range(3))
    train(other, plain, range(3))
    assert torch.equal(params[0], plain[0])


class Configured(Sequence[Any]):
    """A list of a configuration (OmegaConf's ListConfig): a Sequence, and neither a tuple nor a list."""

    def __init__(self, *items: Any) -> None:
        self._items = items

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)


PAIRS = {
    "sequence": Configured(0.5, 0.75),
    "array": np.array([0.5, 0.75]),
    "array32": np.array([0.5, 0.75], dtype=np.float32),
    "tensor": torch.tensor([0.5, 0.75]),
    "tensors": (torch.tensor(0.5), torch.tensor([0.75])),
    "list": [np.float64(0.5), Fraction(3, 4)],
    "arrays": (np.array(0.5), np.float32(0.75)),
    "deque": deque([0.5, 0.75]),
}


@pytest.mark.parametrize("kind", PAIRS)
@walk
def test_any_ordered_pair_of_numbers_is_one(row: Row, kind: str) -> None:
    """In the constructor, in a group, and in a state_dict that is loaded; kept as what a state_dict can hold."""
    params, plain, more = parameters([SMALL]), parameters([SMALL]), parameters([(3,)])
    optimizer = row.make(params, lr=0.1, betas=PAIRS[kind], compile=False)
    other = row.make(plain, lr=0.1, betas=(0.5, 0.75), compile=False)
    optimizer.add_param_group({"params": more, "betas": PAIRS[kind]})
    train(optimizer, params, range(3))
    train(other, plain, range(3))
    assert torch.equal(params[0], plain[0])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["betas"] = PAIRS[kind]
    optimizer.load_state_dict(saved)
    for group in optimizer.param_groups:
        assert tuple(group["betas"]) == (0.5, 0.75) and type(group["betas"]) in (tuple, list)
        assert [type(beta) for beta in group["betas"]] == [float, float]


@pytest.mark.parametrize(
    "wrong",
    [
        {0.5, 0.75},
        {0.5: 0, 0.75: 1},
        "ab",
        b"ab",
        np.array(0.5),
        np.ones((2, 2)) / 2,
        torch.tensor(0.5),
        iter([0.5, 0.75]),
    ],
    ids=lambda wrong: f"{type(wrong).__name__} {getattr(wrong, 'shape', '')}",
)
@walk
def test_what_is_no_ordered_pair_of_numbers_is_refused(row: Row, wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="betas"):
        row.make(parameters([SMALL]), betas=wrong)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.array, Fraction], ids=lambda n: n.__name__)
@walk
def test_numbers_are_kept_as_python_s(row: Row, number: Any) -> None:
    """And the user's own entries as they are."""
    own = np.array([1.0, 2.0])
    name = "eps" if "eps" in row.hyper else "weight_decay"
    optimizer = row.make(
        [{"params": parameters([SMALL]), name: number(0.25), "own": own}], lr=number(0.5), compile=False
    )
    group = optimizer.param_groups[0]
    assert (type(group["lr"]), group["lr"]) == (type(group[name]), 2 * group[name]) == (float, 0.5)
    assert group["own"] is own
    seeded = row.make(parameters([SMALL]), rounding_seed=np.int64(3)).param_groups[0]["rounding_seed"]
    assert (type(seeded), seeded) == (int, 3)


@walk
def test_groups_that_share_an_lr_have_their_own_schedules(row: Row) -> None:
    """torch's schedulers write a tensor in place. The first group keeps the user's, and whoever writes that writes the group's."""
    lr = torch.tensor(0.5, dtype=torch.float64)
    groups = [parameters([(3,)], seed=i) for i in range(4)]
    optimizer = row.make(
        [{"params": p} for p in groups[:2]] + [{"params": groups[2], "lr": lr.detach()}], lr=lr, compile=False
    )
    assert optimizer.param_groups[0]["lr"] is lr
    for loaded in (False, True):
        if loaded:
            optimizer.load_state_dict(optimizer.state_dict())
        schedule = lr_scheduler.LambdaLR(
            optimizer, [lambda _, i=i: 2.0**-i for i in range(len(optimizer.param_groups))]
        )
        train(optimizer, [p for group in groups for p in group], range(1))
        schedule.step()
        assert [float(group["lr"]) for group in optimizer.param_groups] == [0.5 / 2**i for i in range(3 + loaded)]
        for i, group in enumerate(optimizer.param_groups):
            group["lr"].fill_(0.5)
            group.pop("initial_lr")
            assert [float(g["lr"]) for g in optimizer.param_groups[i + 1 :]] == [
                0.5 / 2**j for j in range(i + 1, 3 + loaded)
            ]
        if not loaded:  # a later group has what the optimizer was built with
            lr.fill_(0.125)
            optimizer.add_param_group({"params": groups[3]})
            assert [float(g["lr"]) for g in optimizer.param_groups] == [0.125, 0.5, 0.5, 0.5]
            lr.fill_(0.5)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@walk
def test_an_lr_of_one_element_may_have_any_shape(row: Row, shape: tuple[int, ...]) -> None:
    found = []
    for lr, capturable in ((torch.full(shape, 0.1), False), (torch.full(shape, 0.1), True), (0.1, False)):
        params = parameters([SMALL])
        optimizer = row.make(params, lr=lr, capturable=capturable, compile=False)
        train(optimizer, params, range(2))
        found.append(params[0].detach())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"fused": True}, "fused"),
        ({"amsgrad": True}, "amsgrad"),
        ({"wd": 0.1}, "weight_decay"),
        ({"epsilon": 1}, "eps"),
    ],
    ids=str,
)
@walk
def test_a_key_without_effect_is_refused(row: Row, wrong: dict[str, Any], word: str) -> None:
    if word == "eps" and "eps" not in row.hyper:
        word = "epsilon"
    with pytest.raises(ValueError, match=word):
        row.make([{"params": parameters([SMALL]), **wrong}])


@walk
def test_a_checkpoint_with_impossible_hyper_parameters_is_refused(row: Row) -> None:
    params = parameters([SMALL])
    optimizer = row.make(params, lr=0.1, compile=False)
    train(optimizer, params, range(2))
    for wrong in ({"lr": -1.0}, {"betas": (2.0, 3.0)}, {"weight_decay": float("nan")}):
        saved = copy.deepcopy(optimizer.state_dict())
        before = copy.deepcopy(saved)
        saved["param_groups"][0].update(wrong)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            optimizer.load_state_dict(saved)
        assert same(optimizer.state_dict(), before)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW], ids=["Adam", "AdamW"])
@pytest.mark.parametrize("row", [r for r in OPTIMIZERS if r.like_adamw], ids=str)
def test_a_checkpoint_of_another_meaning_is_taken_with_a_warning(row: Row, make: Any) -> None:
    params = parameters([SMALL])
    adam = make(params, weight_decay=0.1, amsgrad=make is torch.optim.AdamW)
    if make is torch.optim.Adam and "decoupled_weight_decay" not in adam.defaults:
        pytest.skip("this torch's Adam writes the checkpoints of AdamW (2.6)")
    train(adam, params, range(2))
    with pytest.warns(UserWarning, match="amsgrad" if make is torch.optim.AdamW else "L2"):
        row.make(params, compile=False).load_state_dict(adam.state_dict())
    harmless = torch.optim.AdamW(params)
    train(harmless, params, range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row.make(params, compile=False).load_state_dict(harmless.state_dict())


def test_a_hook_after_loading_finds_what_was_loaded() -> None:
    """In its own dtype, not as torch.optim would leave it, and what the hook changes stays changed."""
    params = parameters([SMALL], torch.bfloat16)
    optimizer = fast.Lion(params, compile=False)
    train(optimizer, params, range(2))
    found: list[Tensor] = []

    def hook(loaded: Any) -> None:
        found.append(loaded.state[params[0]]["exp_avg"].clone())
        loaded.state[params[0]]["exp_avg"].zero_()
        loaded.param_groups[0]["compile"] = None

    other = fast.Lion(params, compile=False)
    other.register_load_state_dict_post_hook(hook)
    other.load_state_dict(optimizer.state_dict())
    assert same(found, [optimizer.state[params[0]]["exp_avg"]]) and found[0].dtype == torch.float32
    assert not other.state[params[0]]["exp_avg"].any() and other.param_groups[0]["compile"] is None


@pytest.mark.parametrize("capturable", [False, True])
def test_a_loaded_count_of_steps_lies_where_the_step_asks_for_it(capturable: bool) -> None:
    params = parameters([SMALL])
    saved = fast.Lion(params, compile=False)
    train(saved, params, range(1))
    elsewhere = [torch.empty(SMALL, device="meta", requires_grad=True)]
    optimizer = fast.Lion(elsewhere, compile=False, capturable=capturable)
    optimizer.load_state_dict(saved.state_dict())
    assert optimizer.state[elsewhere[0]]["step"].device.type == ("meta" if capturable else "cpu")


def test_a_group_keeps_what_a_checkpoint_says_nothing_of() -> None:
    """AdamW's knows no rescaling: a group's own stays, where the optimizer's default is another."""
    params = parameters([SMALL] * 2)
    groups: list[dict[str, Any]] = [{"params": params[:1]}, {"params": params[1:]}]
    adam = torch.optim.AdamW([dict(group) for group in groups], lr=0.5)
    train(adam, params, range(2))
    optimizer = fast.CautiousAdamW([groups[0], {**groups[1], "rescale": "mean"}], compile=False)
    optimizer.load_state_dict(adam.state_dict())
    assert [(group["rescale"], group["lr"]) for group in optimizer.param_groups] == [("count", 0.5), ("mean", 0.5)]


@walk
def test_integers_are_refused(row: Row) -> None:
    param: Tensor = nn.Parameter(torch.arange(4), requires_grad=False)
    param.grad = torch.ones_like(param)
    optimizer = row.make([param], lr=0.5, compile=False)
    with pytest.raises(TypeError, match=r"int64"):
        optimizer.step()
    assert param.tolist() == [0, 1, 2, 3]
