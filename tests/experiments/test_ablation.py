"""The rules of the ablation against the reference rules, by hand, and resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from experiments.trials.ablation import RULES, Ablation
from reference import adamw, cautious, grams

LR, BETAS, EPS, DECAY, STEPS = 0.01, (0.8, 0.95), 1e-6, 0.1, 7
SHAPES = [(5, 4), (6,), (2, 3, 2)]
RNG = np.random.default_rng(3)
STARTS = [RNG.normal(size=s) for s in SHAPES]
GRADIENTS = [[RNG.normal(size=s) * (RNG.random(s) > 0.2) for s in SHAPES] for _ in range(STEPS)]  # some entries are 0


def optimizer(rule: str, decay: float = DECAY, seed: int = 0) -> tuple[list[torch.Tensor], Ablation]:
    params = [torch.from_numpy(w.copy()).requires_grad_() for w in STARTS]
    return params, Ablation(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=decay, rule=rule, seed=seed)


def go(params: list[torch.Tensor], made: Ablation, steps: range) -> list[np.ndarray]:
    for t in steps:
        for p, g in zip(params, GRADIENTS[t], strict=True):
            p.grad = torch.from_numpy(g.copy())
        made.step()
    return [p.detach().numpy().copy() for p in params]


def by_hand(direction: str, size: str, decay: float) -> list[np.ndarray]:
    """sign(direction) |size| / (sqrt(vhat) + eps), with the decay before it."""
    ends = []
    for w, gradients in zip(STARTS, zip(*GRADIENTS, strict=True), strict=True):
        m, v = np.zeros_like(w), np.zeros_like(w)
        for t, g in enumerate(gradients, 1):
            m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
            of = {"m": m / (1 - BETAS[0] ** t), "g": g}
            u = np.sign(of[direction]) * np.abs(of[size]) / (np.sqrt(v / (1 - BETAS[1] ** t)) + EPS)
            w = w - LR * decay * w - LR * u
        ends.append(w)
    return ends


def by_reference(step: Callable[..., Any], init: Callable[..., Any], decay: float, **options: Any) -> list[np.ndarray]:
    """The rule's step with no decay of its own, behind a decay of the weights: Grams and Cautious have theirs after the step."""
    ends = []
    for w, gradients in zip(STARTS, zip(*GRADIENTS, strict=True), strict=True):
        state = init(w)
        for g in gradients:
            w, state = step(w - LR * decay * w, g, state, lr=LR, beta1=BETAS[0], beta2=BETAS[1], eps=EPS, **options)
        ends.append(w)
    return ends


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mm", lambda decay: by_reference(adamw.step, adamw.init, decay)),
        ("gm", lambda decay: by_reference(grams.step, grams.init, decay)),
        ("masked", lambda decay: by_reference(cautious.step, cautious.init, decay)),
        ("mg", lambda decay: by_hand("m", "g", decay)),
        ("gg", lambda decay: by_hand("g", "g", decay)),
    ],
    ids=["mm", "gm", "masked", "mg", "gg"],
)
def test_a_rule_is_what_its_name_says(rule: str, expected: Callable[[float], list[np.ndarray]], decay: float) -> None:
    found = go(*optimizer(rule, decay), range(STEPS))
    for one, other in zip(found, expected(decay), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_adamws_own_decay_is_the_ablations() -> None:
    """`by_reference` decays by itself; AdamW's lines have the decay where the ablation has it."""
    expected = by_reference(adamw.step, adamw.init, 0.0, weight_decay=DECAY)
    for one, other in zip(go(*optimizer("mm"), range(STEPS)), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "moved"),
    [
        # after m = (1, -1) and v = 1 from the first gradient, the second is (-2, -2): beta1 = 0.8, beta2 = 0.95
        ("mm", [(-2 * 0.2 + 0.8 * 0.2) / 0.36, (-2 * 0.2 - 0.8 * 0.2) / 0.36]),
        ("gm", [-(2 * 0.2 - 0.8 * 0.2) / 0.36, -(2 * 0.2 + 0.8 * 0.2) / 0.36]),
        ("mg", [-2.0, -2.0]),
        ("gg", [-2.0, -2.0]),
        # both momenta agree with the gradient: d / (nnz + 1) = 2 / 3
        ("masked", [(-2 * 0.2 + 0.8 * 0.2) / 0.36 * 2 / 3, (-2 * 0.2 - 0.8 * 0.2) / 0.36 * 2 / 3]),
    ],
)
def test_two_steps_by_hand(rule: str, moved: list[float]) -> None:
    p = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    made = Ablation([p], lr=1.0, betas=(0.8, 0.95), eps=0.0, rule=rule)
    p.grad = torch.tensor([1.0, -1.0], dtype=torch.float64)
    made.step()
    first = 2 / 3 if rule == "masked" else 1.0
    assert p.tolist() == pytest.approx([-first, first], abs=1e-15)  # whatever the rule, the first step is lr long
    before = p.detach().clone()
    p.grad = torch.tensor([-2.0, -2.0], dtype=torch.float64)
    made.step()
    vhat = (0.05 * 4 + 0.95 * 0.05 * 1) / (1 - 0.95**2)
    assert (before - p.detach()).tolist() == pytest.approx([x / vhat**0.5 for x in moved], abs=1e-14)


def test_direction_and_size_differ_where_momentum_and_gradient_do() -> None:
    """The gradient turns: mm and mg go on, gm and gg turn with it; mm and gm are as long as the momentum."""
    steps = {}
    for rule in ("mm", "gm", "mg", "gg"):
        p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        made = Ablation([p], lr=1.0, betas=(0.9, 0.99), eps=0.0, rule=rule)
        for g in (4.0, 4.0, -1.0):
            before = p.item()
            p.grad = torch.tensor([g], dtype=torch.float64)
            made.step()
        steps[rule] = before - p.item()
    assert steps["mm"] > 0 and steps["mg"] > 0
    assert (steps["gm"], steps["gg"]) == (
        pytest.approx(-steps["mm"], rel=1e-12),
        pytest.approx(-steps["mg"], rel=1e-12),
    )
    assert abs(steps["mm"]) != pytest.approx(abs(steps["mg"]), rel=0.1)


def test_the_random_mask_keeps_as_many_as_the_cautious_one() -> None:
    """Of each tensor: the first step after a common past moves as many entries, rescaled by the same number."""
    moved: dict[str, list[np.ndarray]] = {}
    for rule in ("masked", "random"):
        params, made = optimizer(rule, decay=0.0)
        adam = optimizer("mm", decay=0.0)
        for t in range(STEPS - 1):  # the state is the same for all rules; the weights do not enter it
            go(params, made, range(t, t + 1))
        before = [p.detach().numpy().copy() for p in params]
        go(*adam, range(STEPS - 1))
        start = [p.detach().numpy().copy() for p in adam[0]]
        unmasked = [a - b for a, b in zip(start, go(*adam, range(STEPS - 1, STEPS)), strict=True)]
        after = go(params, made, range(STEPS - 1, STEPS))
        steps = [a - b for a, b in zip(before, after, strict=True)]
        moved[rule] = [np.abs(s) > 1e-12 for s in steps]
        for step, whole, kept in zip(steps, unmasked, moved[rule], strict=True):
            np.testing.assert_allclose(step[kept], whole[kept] * kept.size / (kept.sum() + 1), rtol=1e-9)
    assert [k.sum() for k in moved["masked"]] == [k.sum() for k in moved["random"]]
    assert any((a != b).any() for a, b in zip(moved["masked"], moved["random"], strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_goes_on_as_it_was(rule: str) -> None:
    whole = go(*optimizer(rule), range(STEPS))
    params, made = optimizer(rule)
    go(params, made, range(4))
    copies = [p.detach().clone().requires_grad_() for p in params]
    other = Ablation(copies, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, rule=rule)
    other.load_state_dict(made.state_dict())
    torch.rand(7)
    for one, two in zip(go(copies, other, range(4, STEPS)), whole, strict=True):
        np.testing.assert_array_equal(one, two)


def test_random_masks_differ_by_seed_and_step() -> None:
    one, same, other = (go(*optimizer("random", seed=seed), range(STEPS)) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_gradients_stay_and_missing_ones_are_passed_over() -> None:
    for rule in RULES:
        params, made = optimizer(rule)
        params[0].grad = None
        params[1].grad = torch.from_numpy(GRADIENTS[0][1].copy())
        made.step()
        assert params[0] not in made.state and (params[0].detach().numpy() == STARTS[0]).all()
        assert params[1].grad is not None and (params[1].grad.numpy() == GRADIENTS[0][1]).all()


def test_a_closure_is_called_with_gradients() -> None:
    params, made = optimizer("gm")

    def closure() -> torch.Tensor:
        loss = sum((p.square().sum() for p in params), torch.zeros((), dtype=torch.float64))
        loss.backward()
        return loss

    assert float(made.step(closure).detach()) == pytest.approx(sum(float(np.square(w).sum()) for w in STARTS))


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="rule 'gx': expected one of mm, gm"):
        Ablation([torch.zeros(1, requires_grad=True)], rule="gx")
