"""Bad input is refused with a message that says what was given and what to do, and leaves everything as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from twin import parameters, same, train

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -1e-3}, ValueError, "lr"),
    ({"lr": float("nan")}, ValueError, "lr"),
    ({"lr": float("inf")}, ValueError, "lr"),
    ({"lr": "1e-3"}, TypeError, "lr"),
    ({"lr": None}, TypeError, "lr"),
    ({"lr": True}, TypeError, "lr"),
    ({"lr": torch.tensor([0.1, 0.2])}, ValueError, "lr"),
    ({"lr": torch.tensor(-0.1)}, ValueError, "lr"),
    ({"lr": torch.tensor(0.1j)}, ValueError, "lr"),
    ({"betas": (1.0, 0.9)}, ValueError, r"betas\[0\]"),
    ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\]"),
    ({"betas": (-0.1, 0.9)}, ValueError, r"betas\[0\]"),
    ({"betas": (0.9, float("nan"))}, ValueError, r"betas\[1\]"),
    ({"betas": (0.9, "0.99")}, TypeError, r"betas\[1\]"),
    ({"betas": (0.9,)}, ValueError, "betas"),
    ({"betas": (0.9, 0.99, 0.999)}, ValueError, "betas"),
    ({"betas": 0.9}, ValueError, "betas"),
    ({"betas": None}, ValueError, "betas"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay"),
    ({"weight_decay": float("inf")}, ValueError, "weight_decay"),
    ({"weight_decay": "0.1"}, TypeError, "weight_decay"),
    ({"weight_decay": torch.tensor([0.1, 0.2])}, ValueError, "weight_decay"),
    ({"maximize": "yes"}, TypeError, "maximize"),
    ({"maximize": None}, TypeError, "maximize"),
    ({"compile": "max-autotune"}, TypeError, "compile"),
    ({"capturable": None}, TypeError, "capturable"),
    ({"weight_decy": 0.1}, TypeError, "weight_decy"),
    ({"momentum": 0.1}, TypeError, "momentum"),
]
OWN = [(row, dict(options), word) for row in OPTIMIZERS for options, word in row.bad]


@pytest.mark.parametrize(("options", "error", "word"), BAD, ids=str)
@walk
def test_bad_hyper_parameters_are_refused(row: Row, options: dict, error: type[Exception], word: str) -> None:
    params = parameters([(3,)])
    with pytest.raises(error, match=word) as caught:
        row.make(params, **options)
    (name, value), said = *options.items(), str(caught.value)
    if index := re.match(r"betas\[(\d)\]", said):
        value = value[int(index[1])]
    shown = repr(value)
    if isinstance(value, torch.Tensor):
        shown = f"shape {tuple(value.shape)}" if value.numel() > 1 else repr(value.item())
    assert f"got {shown}" in said or f"unexpected keyword argument {name!r}" in said


UNREADABLE: dict[str, tuple[Callable[[], torch.Tensor], type[Exception], str]] = {
    "meta": (
        lambda: torch.tensor(0.1, device="meta"),
        ValueError,
        "can be read, got tensor(..., device='meta', size=())",
    ),
    "complex, meta": (
        lambda: torch.tensor(0.1j, device="meta"),
        ValueError,
        "can be read, got tensor(..., device='meta'",
    ),
    "bool": (lambda: torch.tensor(True), TypeError, "a number, got tensor(True)"),
    "float8": (
        lambda: torch.tensor(0.5).to(torch.float8_e5m2),
        ValueError,
        "got tensor(0.5000, dtype=torch.float8_e5m2)",
    ),
    "sparse": (lambda: torch.tensor([0.5]).to_sparse(), ValueError, "got tensor(indices=tensor([[0]])"),
}


@pytest.mark.parametrize("tensor, error, said", UNREADABLE.values(), ids=UNREADABLE)
@walk
def test_tensors_that_are_no_number_to_calculate_with_are_refused(
    row: Row, tensor: Callable[[], torch.Tensor], error: type[Exception], said: str
) -> None:
    """By the constructor, for a later group and in a state_dict: not by torch, in the middle of a step."""
    params = parameters([(3,)])
    optimizer = row.make(params, compile=False)
    names = {"lr", "weight_decay", "eps", "scalar_vector_weight_decay"} & optimizer.defaults.keys()
    for name in sorted(names):
        with pytest.raises(error, match=f"^{name} .*{re.escape(said)}"):
            row.make(params, **{name: tensor()})
        with pytest.raises(error, match=f"^{name} .*{re.escape(said)}"):
            optimizer.add_param_group({"params": parameters([(4,)]), name: tensor()})
        saved = optimizer.state_dict()
        saved["param_groups"][0][name] = tensor()
        with pytest.raises(error, match=f"^{name} .*{re.escape(said)}"):
            optimizer.load_state_dict(saved)
    train(optimizer, params, range(1))


@walk
@pytest.mark.parametrize("pair", [False, True])
def test_betas_on_the_meta_device_are_refused(row: Row, pair: bool) -> None:
    betas = [torch.tensor(0.9, device="meta"), 0.99] if pair else torch.tensor([0.9, 0.99], device="meta")
    with pytest.raises(ValueError, match=r"betas\[0\] as a tensor must hold a number that can be read"):
        row.make(parameters([(3,)]), betas=betas)


@pytest.mark.parametrize("make", [torch.Tensor.requires_grad_, lambda t: t.requires_grad_() * 1, lambda t: t.view(1)])
@walk
def test_tensors_of_one_number_are_that_number(row: Row, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Also where they want a gradient, which no step gives them."""
    ours, other = parameters([(3,), (2, 2)]), parameters([(3,), (2, 2)])
    options = {name: make(torch.tensor(0.125)) for name in ("lr", "weight_decay")}
    for params, given in ((ours, options), (other, {"lr": 0.125, "weight_decay": 0.125})):
        train(row.make(params, compile=False, **given), params, range(2))
    for p, q in zip(ours, other, strict=True):
        torch.testing.assert_close(p, q, rtol=row.fp32, atol=row.fp32)
    assert all(t.grad is None for t in options.values() if t.is_leaf)


@pytest.mark.parametrize(("row", "options", "word"), OWN, ids=str)
def test_bad_hyper_parameters_of_its_own_are_refused(row: Row, options: dict, word: str) -> None:
    with pytest.raises((ValueError, TypeError), match=word):
        row.make(parameters([(3,)]), **options)


@pytest.mark.parametrize(("options", "error", "word"), [b for b in BAD if "moment" not in str(b)], ids=str)
@walk
def test_a_refused_group_leaves_the_optimizer_usable(
    row: Row, options: dict, error: type[Exception], word: str
) -> None:
    params, more = parameters([(3,), (2, 2)]), parameters([(4,)])
    optimizer = row.make(params, lr=0.1, compile=False)
    train(optimizer, params, range(1))
    before = optimizer.state_dict()
    with pytest.raises((ValueError, TypeError), match=word):
        optimizer.add_param_group({"params": more, **options})
    assert same(optimizer.state_dict(), before)
    train(optimizer, params, range(1, 2))
    optimizer.add_param_group({"params": more, "lr": 0.2})
    train(optimizer, [*params, *more], range(2, 3))
    assert len(optimizer.param_groups) == 2


@walk
def test_a_misspelt_key_of_a_group_is_refused_and_a_users_own_is_kept(row: Row) -> None:
    params = parameters([(3,)])
    with pytest.raises(ValueError, match=r"weight_decy.*weight_decay"):
        row.make([{"params": params, "weight_decy": 0.1}])
    optimizer = row.make([{"params": params, "name": "head", "initial_lr": 0.3}], compile=False)
    train(optimizer, params, range(1))
    assert optimizer.param_groups[0]["name"] == "head" and optimizer.param_groups[0]["initial_lr"] == 0.3


# what users' groups have for their own schedules, tables and other optimizers
OWN_KEYS = {
    "torch": "initial_lr min_lr max_lr base_lr max_momentum base_momentum swa_lr",
    "timm, BEiT, MAE": "lr_scale group_name apply_weight_decay weight_decay_mult",
    "fairseq, MMEngine, TSN": "param_name lr_mult decay_mult bias_lr_mult norm_decay_mult layer_id",
    "Megatron, OLMo": "wd_mult pre_wd_mult is_expert_parallel is_decoupled_lr default_config start_wd end_wd sharded max_grad_norm",
    "DINO, LARS": "lr_multiplier wd_multiplier is_last_layer weight_decay_filter lars_adaptation_filter",
    "Muon, GaLore, schedule-free": "use_muon momentum nesterov ns_steps rank update_proj_gap scale proj_type k r weight_sum lr_max",
    "Gaussian splatting, Lightning, DeepSpeed": "name names moe tag layer layers id key",
    "others": "no_weight_decay use_weight_decay weight_decay_rate lr_ratio lr_factor lr_decay warmup decay regularization step"
    " correct_bias bias_correction lr_ betas_ weight_decay_ reps rl type dtype minimize precompiled block_size",
}


@pytest.mark.parametrize("source", OWN_KEYS)
@walk
def test_a_users_own_keys_stay_in_the_group(row: Row, source: str) -> None:
    """In the constructor's groups, in later ones and in a state_dict, without a word."""
    own = dict.fromkeys(OWN_KEYS[source].split(), 0.5)
    params = parameters([(3,), (2, 2)])
    optimizer = row.make([{"params": params[:1], **own}], lr=0.1, compile=False)
    optimizer.add_param_group({"params": params[1:], **own})
    train(optimizer, params, range(1))
    for group in optimizer.param_groups:
        assert {key: group[key] for key in own} == own
    saved = optimizer.state_dict()
    assert all(saved["param_groups"][i][key] == 0.5 for i in (0, 1) for key in own)


ERRORS = {
    "weight_decay": "weight_deacy weight_decy weightdecay weight-decay weights_decay weigth_decay weight_decays Weight_Decay wd",
    "betas": "beta bets betsa Betas beta1 beta2",
    "lr": "LR learning_rate",
    "maximize": "maximise maximze maximzie",
    "capturable": "captureable capturabel caputrable",
    "compile": "complie compil",
    "stochastic_rounding": "stochastic_roundng stocastic_rounding",
    "exp_avg_dtype": "exp_avg_type exp_avg_dytpe",
    "eps": "esp EPS epsilon",
    "rescale": "rescael resclae recale",
    "scalar_vector_weight_decay": "scaler_vector_weight_decay scalar_vector_weight_deacy",
}


@pytest.mark.parametrize("meant", ERRORS)
@walk
def test_a_typing_error_is_refused_and_corrected(row: Row, meant: str) -> None:
    known = meant in row.make(parameters([(3,)]), compile=False).defaults
    for key in ERRORS[meant].split() if known else ():
        with pytest.raises(ValueError, match=f"unknown key '{key}' in a parameter group: did you mean '{meant}'"):
            row.make([{"params": parameters([(3,)]), key: 0.5}])


@walk
def test_bad_parameters_are_refused(row: Row) -> None:
    leaf = parameters([(3,)])[0]
    with pytest.raises(TypeError, match=r"(single Tensor|one tensor)"):
        row.make(leaf)
    with pytest.raises(ValueError, match=r"empty|no parameters"):
        row.make([])
    with pytest.raises(TypeError):
        row.make([1.0])
    with pytest.raises(TypeError):
        row.make(["weight"])
    with pytest.raises(ValueError, match="non-leaf"):
        row.make([leaf * 2])
    with pytest.raises(ValueError, match="more than one parameter group"):
        row.make([{"params": [leaf]}, {"params": [leaf]}])
    with pytest.raises(ValueError, match="names"):
        row.make([("a", leaf), parameters([(3,)])[0]])
    optimizer = row.make([leaf])
    with pytest.raises(TypeError):
        optimizer.add_param_group([leaf])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [leaf]})
    assert len(optimizer.param_groups) == 1


def _inference(t: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return t.clone()


UNTRAINABLE = {
    "8 bits": (lambda t: t.to(torch.float8_e4m3fn), TypeError, "16 bits and more, got one of torch.float8_e4m3fn"),
    "expanded": (lambda t: t[:1].expand(4, 4), ValueError, "entries that share memory"),
    "inference": (_inference, ValueError, "inference_mode"),
}


@pytest.mark.parametrize("kind", UNTRAINABLE)
@walk
def test_a_parameter_that_no_step_can_write_is_refused_before_any_is_written(row: Row, kind: str) -> None:
    make, error, words = UNTRAINABLE[kind]
    good, bad = torch.nn.Parameter(torch.ones(3, 3)), torch.nn.Parameter(make(torch.ones(4, 4)), requires_grad=False)
    optimizer = row.make([good], compile=False)
    optimizer.add_param_group({"params": [bad]})
    good.grad = torch.ones(3, 3)
    optimizer.step()
    before, state = good.detach().clone(), {k: v.clone() for k, v in optimizer.state[good].items()}
    bad.grad = torch.ones(4, 4).to(bad.dtype)
    with pytest.raises(error, match=words):
        optimizer.step()
    assert torch.equal(good, before) and all(torch.equal(optimizer.state[good][k], v) for k, v in state.items())


@walk
def test_messages_say_what_was_expected(row: Row) -> None:
    with pytest.raises(ValueError, match=r"lr must be .* >= 0.*-1"):
        row.make(parameters([(3,)]), lr=-1)
    with pytest.raises(ValueError, match=r"betas\[1\] must be .*< 1.*1\.5"):
        row.make(parameters([(3,)]), betas=(0.9, 1.5))


@walk
def test_zero_is_a_learning_rate_and_a_decay(row: Row) -> None:
    """torch.optim allows both; distributed checkpointing needs lr = 0 to move nothing."""
    params = parameters([(3,), (4, 4)])
    before = [p.detach().clone() for p in params]
    optimizer = row.make(params, lr=0.0, betas=(0, 0), weight_decay=0, compile=False)
    train(optimizer, params, range(2))
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
