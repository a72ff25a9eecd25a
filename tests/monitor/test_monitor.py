"""What fast.Monitor records, against the reference and by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from optimizers import IDS, OPTIMIZERS, Row
from torch import Tensor, nn
from torch.optim import Optimizer
from twin import Twin, array, give, gradients, parameters, train

import fast
from fast import Monitor
from fast.monitor.sample import CHUNK

walk = pytest.mark.parametrize("row", OPTIMIZERS, ids=IDS)
SHAPES = [(4, 3), (5,), (), (2, 3, 4), (0,), (7,), (3, 2)]
WITHOUT_DECAY = {"weight_decay": 0.0, "scalar_vector_weight_decay": 0.0}


def copied(twin: Twin) -> Twin:
    """A twin of its own; the reference changes no array in place."""
    other = copy.copy(twin)
    other.w, other.states = [*twin.w], [*twin.states]
    return other


def by_hand(row: Row, group: dict[str, Any], twin: Twin, after: Sequence[np.ndarray], grads: list[Tensor]) -> Any:
    """A record from the reference's own numbers: `twin` stands before the step, `after` are its weights after it."""
    lr, decay = float(group["lr"]), float(group["weight_decay"])
    still = copied(twin)
    still.step({**group, **({} if row.name != "Adams" else WITHOUT_DECAY)}, grads)
    flat: dict[str, Any] = {name: [] for name in ("w", "change", "g", "u", "m")}
    for w, new, other, grad, state in zip(twin.w, after, still.w, grads, still.states, strict=True):
        if state is not None:
            flat["w"].append(w)
            flat["change"].append(new - w)
            flat["g"].append(array(grad) * (-1 if group["maximize"] else 1))
            flat["u"].append(((w if row.name == "Adams" else (1 - lr * decay) * w) - other) / lr)
            flat["m"].append(state.m)
    w, change, g, u, m = (np.concatenate([np.ravel(x) for x in part]) for part in flat.values())
    return {
        "alignment": u @ g,
        "disagreement": np.mean(m * g < 0),
        "decrease": -g @ change,
        "update_ratio": math.sqrt(np.mean(change**2) / np.mean(w**2)),
        "grad_norm": math.sqrt(g @ g),
    }


@pytest.mark.parametrize("sample", [256, None])
@pytest.mark.parametrize("maximize", [False, True])
@walk
def test_records_are_the_reference_s_numbers(row: Row, maximize: bool, sample: int | None) -> None:
    params = parameters(SHAPES, torch.float64)
    optimizer = row.make(params, lr=0.02, weight_decay=0.3, maximize=maximize, compile=False)
    monitor, twin = Monitor(optimizer, sample=sample), Twin(row, params)
    for i in range(6):
        grads = gradients(params, i)
        grads[1][2] = 0.0  # which agrees with any momentum
        give(params, grads)
        optimizer.step()
        before = copied(twin)
        twin.step(optimizer.param_groups[0], grads)
        expected = by_hand(row, optimizer.param_groups[0], before, twin.w, grads)
        if row.name == "Adams":
            expected["sigma"] = max(
                float(np.max(s.sigma)) for s in twin.states if s is not None and s.sigma is not None
            )
        record = dict(monitor.records[-1])
        assert record.pop("step") == i + 1
        assert record == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert 0 < monitor.records[-1]["disagreement"] < 1


def test_released_adams_too() -> None:
    params = parameters([(4, 3), (5,)], torch.float64)
    optimizer = fast.Adams(
        params, lr=0.02, weight_decay=0.0, as_released=True, compile=False
    )  # which decays nothing then
    with Monitor(optimizer) as monitor:
        train(optimizer, params, range(3))
    for record in monitor.records:
        assert record["decrease"] == pytest.approx(0.02 * record["alignment"], rel=1e-9)


def test_what_is_not_defined_is_nan() -> None:
    params = [torch.zeros(3, requires_grad=True)]
    optimizer = fast.Grams(params, lr=0.0, compile=False)
    with Monitor(optimizer) as monitor:
        train(optimizer, params, range(1))
    assert {k for k, v in monitor.records[0].items() if math.isnan(v)} == {"alignment", "update_ratio"}


def test_the_order_of_alignments_from_one_state() -> None:
    """G1: from one state and gradient, Grams' direction is at least as aligned as the cautious one, and that as Adam's."""
    found = []
    start = parameters([(30, 20)], torch.float64)
    saved = torch.optim.Adam(start, lr=0.01)
    train(saved, start, range(5))
    makers: list[Any] = [
        lambda p: fast.Grams(p, lr=0.01, compile=False),
        lambda p: fast.CautiousAdamW(p, lr=0.01, rescale="none", compile=False),
        lambda p: torch.optim.Adam(p, lr=0.01),
    ]
    for make in makers:
        params = [p.detach().clone().requires_grad_() for p in start]
        optimizer = make(params)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": copy.deepcopy(saved.state_dict()["state"]), "param_groups": groups})
        with Monitor(optimizer, sample=None) as monitor:
            train(optimizer, params, [99])
        found.append(monitor.records[0])
    grams, cautious, adam = (record["alignment"] for record in found)
    assert grams > cautious > adam
    assert len({record["disagreement"] for record in found}) == 1 and found[0]["disagreement"] > 0.1


def test_large_tensors_part_by_part() -> None:
    params = parameters([(CHUNK // 100, 250), (7,)], torch.float64)
    optimizer = fast.Grams(params, lr=0.1, weight_decay=0.5, compile=False)
    before = [p.detach().clone() for p in params]
    with Monitor(optimizer, sample=None) as monitor:
        train(optimizer, params, range(1))
    pairs = list(zip(params, before, gradients(params, 0), strict=True))
    assert monitor.records[0]["decrease"] == pytest.approx(-sum((g * (p - b)).sum().item() for p, b, g in pairs))
    u = [((1 - 0.05) * b - p) / 0.1 for p, b, _ in pairs]
    expected = sum((x * g).sum().item() for x, (_, _, g) in zip(u, pairs, strict=True))
    assert monitor.records[0]["alignment"] == pytest.approx(expected)


def quadratic(params: list[Tensor]) -> Tensor:
    return 0.5 * torch.stack([p.square().sum() for p in params]).sum()


@pytest.mark.parametrize("keyword", [False, True])
def test_a_closure_tells_the_loss_of_the_weights_before(keyword: bool) -> None:
    params = parameters([(4, 3), (5,)], torch.float64)
    optimizer: Any = fast.Grams(params, lr=0.1, compile=False)
    monitor = Monitor(optimizer, loss_star=0.0)
    for _ in range(3):
        value = quadratic(params).item()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = quadratic(params)
            loss.backward()
            return loss

        returned: Any = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        assert returned.requires_grad and returned.item() == value
        record = monitor.records[-1]
        assert record["loss"] == value
        assert record["grad_norm"] ** 2 == pytest.approx(2 * value)
        assert record["pl_ratio"] == pytest.approx(1.0)  # of a quadratic with all curvatures 1, everywhere


def test_of_a_closure_that_is_called_again_and_again_the_first_loss_counts() -> None:
    params = parameters([(4,)], torch.float64)
    optimizer = torch.optim.LBFGS(params, max_iter=4, lr=0.1)
    first = quadratic(params).item()

    def closure() -> float:
        optimizer.zero_grad()
        quadratic(params).backward()
        return quadratic(params).item()

    with Monitor(optimizer) as monitor:
        optimizer.step(closure)
    assert monitor.records[0]["loss"] == first > closure()


def test_a_loss_counts_for_one_step_and_the_last_one_counts() -> None:
    params = parameters([(4,)], torch.float64)
    optimizer = fast.Lion(params, compile=False, maximize=True)
    monitor = Monitor(optimizer, loss_star=10.0)
    give(params, [torch.full((4,), 2.0)])
    loss = torch.tensor(4.0, requires_grad=True)
    assert monitor.loss(3.0) == 3.0 and monitor.loss(loss) is loss
    loss.data.zero_()  # for the losses to come: this step's is noted
    optimizer.step()
    optimizer.step()
    assert monitor.records[0]["loss"] == 4.0
    assert monitor.records[0]["pl_ratio"] == pytest.approx(16 / (2 * 6))  # 10 is the largest value
    assert "loss" not in monitor.records[1] and "pl_ratio" not in monitor.records[1]
    monitor.loss(np.float32(11.0))
    optimizer.step()
    assert math.isnan(monitor.records[2]["pl_ratio"])


def test_gradients_are_taken_as_the_scaler_leaves_them() -> None:
    params = parameters([(4, 3)])
    optimizer = fast.Grams(params, lr=0.1, compile=False)
    monitor, scaler = Monitor(optimizer), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(quadratic(params)).backward()
    norm = params[0].detach().norm().item()
    scaler.step(optimizer)
    scaler.update()
    assert monitor.records[0]["grad_norm"] == pytest.approx(norm, rel=1e-6)
    params[0].grad = torch.full((4, 3), math.inf)
    scaler.scale(torch.tensor(1.0))
    scaler.step(optimizer)
    assert len(monitor.records) == 1  # a step that the scaler skipped


@pytest.mark.parametrize(
    ("make", "decoupled"),
    [(torch.optim.Adam, False), (torch.optim.AdamW, True), (torch.optim.SGD, False)],
    ids=["Adam", "AdamW", "SGD"],
)
def test_torch_s_optimizers(make: Any, decoupled: bool) -> None:
    params = parameters([(4, 3)], torch.float64)
    optimizer: Optimizer = make(params, lr=0.01, weight_decay=0.5)
    with Monitor(optimizer) as monitor:
        before = params[0].detach().clone()
        train(optimizer, params, range(1))
    kept = 1 - 0.01 * 0.5 * decoupled
    u, grad = (kept * before - params[0].detach()) / 0.01, gradients(params, 0)[0]
    assert monitor.records[0]["alignment"] == pytest.approx((u * grad).sum().item())
    assert ("disagreement" in monitor.records[0]) == (make is not torch.optim.SGD)


def test_a_group_s_own_decay_is_told_apart() -> None:
    params, decays = parameters([(5,), (7,)], torch.float64), (0.0, 0.5)
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(params, decays, strict=True)]
    optimizer = fast.Grams(groups, lr=0.1, weight_decay=0.1, compile=False)
    before = [p.detach().clone() for p in params]
    with Monitor(optimizer) as monitor:
        train(optimizer, params, range(1))
    for i, (p, w, g) in enumerate(zip(params, before, gradients(params, 0), strict=True)):
        u = ((1 - 0.1 * decays[i]) * w - p) / 0.1
        assert monitor.records[0][f"group{i}/alignment"] == pytest.approx((u * g).sum().item())


def test_modules_of_adam_mini() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    optimizer = fast.AdamMini(model, lr=0.01, compile=False)
    with Monitor(optimizer, names=["linear1.weight"]) as monitor:
        model(torch.randn(2, 3, 8)).square().mean().backward()
        optimizer.step()
    record, weight = monitor.records[0], model.linear1.weight
    assert weight.grad is not None
    assert record["param/linear1.weight/grad_norm"] == pytest.approx(weight.grad.norm().item(), rel=1e-6)
