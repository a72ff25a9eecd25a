"""G10: one training script, run with AdamW, with our Grams and with the released one, two lines apart.

The script is text, so that "two lines" can be counted. It uses what scripts use: parameter groups, a one-cycle schedule
(which moves lr and beta1), loss scaling, clipping, a look at the gradients after the step, a checkpoint from which it
goes on. What it did is held against the reference rule, so an optimizer that only pretends would be seen.
"""

from __future__ import annotations

import difflib
import inspect
from types import ModuleType
from typing import Any

import grams as released
import pytest
import torch
from torch import nn

import fast
from reference import adamw
from reference import grams as grams_rule
from reference.ops import Array

SCRIPT = """
import io
import torch
from torch import nn
from torch.optim import AdamW


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 1))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = AdamW(groups, lr=1e-2, betas=(0.9, 0.99), eps=1e-8)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[1e-2, 5e-3], total_steps=61)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=20)
    return model, optimizer, schedule, scaler


def batch(step):
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(step))
    return x, (x[:, :1] * x[:, 1:2]).sin()


def train(parts, start, stop, record):
    model, optimizer, schedule, scaler = parts
    for step in range(start, stop):
        x, y = batch(step)
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        given = model[0].weight.grad.clone()
        group = optimizer.param_groups[0]
        numbers = {"lr": group["lr"], "beta1": group["betas"][0], "beta2": group["betas"][1]}
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        after = model[0].weight.grad
        record.append({"loss": loss.item(), "grad": given, "after": after.clone(), **numbers})
    return record


parts = build()
first_weight = parts[0][0].weight.detach().clone()
record = train(parts, 0, 30, [])
file = io.BytesIO()
torch.save([part.state_dict() for part in parts], file)
train(parts, 30, 60, record)

file.seek(0)
resumed = build()
for part, saved in zip(resumed, torch.load(file, weights_only=True)):
    part.load_state_dict(saved)
again = train(resumed, 30, 60, [])
"""
IMPORT = "from torch.optim import AdamW"
CALL = "optimizer = AdamW(groups, lr=1e-2, betas=(0.9, 0.99), eps=1e-8)"
OTHERS = {"fast.Grams": "from fast import Grams", "released Grams": "from grams import Grams"}


def script(name: str) -> str:
    if name == "AdamW":
        return SCRIPT
    return SCRIPT.replace(IMPORT, OTHERS[name]).replace(CALL, CALL.replace("AdamW", "Grams"))


def run(name: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(script(name), f"<script with {name}>", "exec"), names)
    return names


def follow(rule: ModuleType, names: dict[str, Any]) -> Array:
    """The first layer's weight by the reference, from the gradients, rates and betas that the script recorded."""
    w = names["first_weight"].double().numpy()
    state = rule.init(w)
    for r in names["record"]:
        numbers = {k: r[k] for k in ("lr", "beta1", "beta2")}
        w, state = rule.step(w, r["grad"].double().numpy(), state, **numbers, eps=1e-8, weight_decay=0.1)
    return w


@pytest.mark.parametrize("name", OTHERS)
def test_the_scripts_differ_in_two_lines(name: str) -> None:
    """As they are made; what they do is the evidence."""
    changes = list(difflib.unified_diff(SCRIPT.split("\n"), script(name).split("\n"), n=0, lineterm=""))[2:]
    assert [c for c in changes if c[0] == "-"] == [f"-{IMPORT}", f"-    {CALL}"]
    assert [c for c in changes if c[0] == "+"] == [f"+{OTHERS[name]}", f"+    {CALL.replace('AdamW', 'Grams')}"]


@pytest.mark.claim("G10")
@pytest.mark.parametrize(("name", "rule"), [("AdamW", adamw), ("fast.Grams", grams_rule)])
def test_the_script_runs_and_is_the_named_algorithm(name: str, rule: ModuleType) -> None:
    """It learns, is resumed bit for bit, leaves the gradients alone, and its weight is the reference's."""
    names = run(name)
    record, resumed = names["record"], names["resumed"]
    assert sum(r["loss"] for r in record[-10:]) < 0.8 * sum(r["loss"] for r in record[:10])
    assert all(torch.equal(r["after"], r["grad"]) for r in record)
    assert len({r["lr"] for r in record}) > 50 and len({r["beta1"] for r in record}) > 50
    assert [r["loss"] for r in names["again"]] == [r["loss"] for r in record[30:]]
    for p, q in zip(names["parts"][0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(p, q)
    weight = names["parts"][0][0].weight.detach().double()
    assert float((weight - torch.from_numpy(follow(rule, names))).abs().max()) < 2e-6  # 60 roundings of numbers below 1


@pytest.mark.claim("G10")
def test_the_released_package_runs_it_with_wrong_gradients_in_the_log() -> None:
    """It trains and resumes, but what stands in .grad after its step is sign(g) |m|, not the gradient."""
    names = run("released Grams")
    record = names["record"]
    assert [r["loss"] for r in names["again"]] == [r["loss"] for r in record[30:]]
    assert not any(torch.equal(r["after"], r["grad"]) for r in record)
    m = torch.zeros_like(record[0]["grad"])
    for r in record:
        m = r["beta1"] * m + (1 - r["beta1"]) * r["grad"]
        torch.testing.assert_close(r["after"], r["grad"].sign() * m.abs(), rtol=1e-4, atol=1e-7)


def closure_for(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        return loss

    return closure


@pytest.mark.claim("G10")
def test_a_closure_runs_with_ours_and_crashes_with_the_released_package() -> None:
    for make in (torch.optim.AdamW, fast.Grams):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer: Any = make(model.parameters(), lr=0.01)
        losses = [optimizer.step(closure_for(model, optimizer)).item() for _ in range(3)]
        assert losses[0] > losses[1] > losses[2]
    model = nn.Linear(3, 1)
    theirs = released.Grams(model.parameters(), lr=0.01)
    with pytest.raises(RuntimeError, match="does not require grad"):
        theirs.step(closure_for(model, theirs))


def adamw_checkpoint(weight: torch.Tensor) -> dict[str, Any]:
    optimizer = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.1)
    for g in (1.0, -0.5, 2.0):
        weight.grad = torch.full_like(weight, g)
        optimizer.step()
    return optimizer.state_dict()


@pytest.mark.claim("G10")
def test_an_adamw_checkpoint_goes_on_with_ours_and_not_with_the_released_package() -> None:
    """Ours takes over AdamW's moments and its hyper-parameters; the released one misses a key that AdamW has not."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    saved = adamw_checkpoint(weight)
    before = weight.detach().clone()
    ours = fast.Grams([weight], compile=False)
    ours.load_state_dict(saved)
    weight.grad = torch.tensor([-1.0, 1.0])  # the first against the momentum
    ours.step()
    m, v = (saved["state"][0][k].double().numpy() for k in ("exp_avg", "exp_avg_sq"))
    start = grams_rule.State(3, m, v)
    grad = weight.grad.double().numpy()
    expected, _ = grams_rule.step(before.double().numpy(), grad, start, lr=0.01, weight_decay=0.1)
    torch.testing.assert_close(weight.detach().double(), torch.from_numpy(expected), rtol=1e-6, atol=0)
    theirs = released.Grams([weight])
    theirs.load_state_dict(saved)
    with pytest.raises(KeyError, match="correct_bias"):
        theirs.step()


@pytest.mark.claim("G10")
def test_from_adam_the_decay_is_another_one() -> None:
    """The claim says Adam, too. Adam adds its decay to the gradient; ours shrinks the weight, as AdamW's does."""
    ends = {}
    for make in (torch.optim.Adam, torch.optim.AdamW, fast.Grams):
        weight = nn.Parameter(torch.tensor([1.0]))
        optimizer: Any = make([weight], lr=0.01, weight_decay=0.5)
        for g in (1e-3, 1e-3):
            weight.grad = torch.full_like(weight, g)
            optimizer.step()
        ends[make] = float(weight.detach())
    assert ends[fast.Grams] == pytest.approx(ends[torch.optim.AdamW], abs=2e-4)
    assert ends[torch.optim.Adam] > ends[fast.Grams] + 5e-3
    switch = set(inspect.signature(torch.optim.Adam).parameters) - set(inspect.signature(torch.optim.AdamW).parameters)
    assert switch <= {"decoupled_weight_decay"}  # newer torch alone has it
    makers: list[Any] = [fast.Grams, released.Grams]
    for name in switch:
        for make in makers:
            with pytest.raises(TypeError, match=name):
                make([nn.Parameter(torch.ones(1))], **{name: False})


@pytest.mark.claim("G10")
def test_complex_parameters_and_a_switch_by_position() -> None:
    """AdamW takes complex numbers as two real ones, and so do we; the released package crashes. Given by position, amsgrad is
    its correct_bias, without a word; ours refuses it."""
    for make, works in ((torch.optim.AdamW, True), (fast.Grams, True), (released.Grams, False)):
        weight = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        optimizer: Any = make([weight], lr=0.1, weight_decay=0.0)
        weight.grad = torch.full_like(weight, 1 + 1j)
        if works:
            optimizer.step()
            torch.testing.assert_close(weight.detach(), torch.full_like(weight, 0.9 - 0.1j))
        else:
            with pytest.raises(NotImplementedError, match="complex"):
                optimizer.step()
    plain: Any = [nn.Parameter(torch.ones(1))]
    assert released.Grams(plain, 0.1, (0.9, 0.99), 1e-8, 0.1, False).defaults["correct_bias"] is False
    with pytest.raises(TypeError, match="positional"):
        fast.Grams(plain, 0.1, (0.9, 0.99), 1e-8, 0.1, False)  # pyright: ignore[reportCallIssue]


@pytest.mark.claim("G10")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_of_16_bit_parameters_ours_keeps_twice_the_state(dtype: torch.dtype) -> None:
    """The ledger once left out what "all else stays the same" says of memory: ours keeps its averages in float32."""
    sizes = {}
    for make in (torch.optim.AdamW, fast.Grams, released.Grams):
        weight = nn.Parameter(torch.ones(5, dtype=dtype))
        how: dict[str, Any] = {"compile": False} if make is fast.Grams else {}
        optimizer: Any = make([weight], **how)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        held = [x for x in optimizer.state[weight].values() if torch.is_tensor(x) and x.numel() == 5]
        sizes[make] = sum(x.element_size() for x in held)
    assert sizes == {torch.optim.AdamW: 4, fast.Grams: 8, released.Grams: 4}


@pytest.mark.claim("G10")
def test_what_the_constructor_line_must_say() -> None:
    """AdamW decays by 0.01 unless told otherwise, both Grams by 0; and they do not know AdamW's switches."""
    weight = [nn.Parameter(torch.ones(1))]
    makers: list[Any] = [torch.optim.AdamW, fast.Grams, released.Grams]
    defaults = [make(weight).defaults for make in makers]
    assert [d["weight_decay"] for d in defaults] == [0.01, 0.0, 0.0]
    assert [d["eps"] for d in defaults] == [1e-8, 1e-8, 1e-6]
    assert [d["lr"] for d in defaults] == [1e-3] * 3 and [d["betas"] for d in defaults] == [(0.9, 0.999)] * 3
    switches = set(inspect.signature(torch.optim.AdamW).parameters) - {"params", "lr", "betas", "eps", "weight_decay"}
    known = {make: set(inspect.signature(make).parameters) & switches for make in makers[1:]}
    assert known == {fast.Grams: {"maximize", "capturable"}, released.Grams: set()}
    for make, names in known.items():
        for switch in switches - names:
            with pytest.raises(TypeError, match=switch):
                make(weight, **{switch: True})
        for switch in names:
            make(weight, **{switch: True})
