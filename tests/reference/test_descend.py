"""reference.descend: the loop that every pseudocode leaves to its caller."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shelf import RULES

from reference import adam, adam_mini, adams, grams, lion
from reference.descend import descend
from reference.problems import quadratic, rosenbrock, sine_bowl


@pytest.mark.parametrize("name", RULES)
def test_shapes_types_and_the_first_row(name):
    problem = quadratic([1.0, 5.0, 9.0], seed=0)
    path = descend(RULES[name], problem, [1, 2, 3], steps=7, lr=0.01)
    assert path.w.shape == (8, 3) and path.loss.shape == (8,) and path.g.shape == (7, 3) and len(path.states) == 8
    assert path.w.dtype == path.loss.dtype == path.g.dtype == np.float64
    assert path.w[0].tolist() == [1, 2, 3]
    np.testing.assert_allclose(path.loss, [problem.f(w) for w in path.w])
    np.testing.assert_allclose(path.g, [problem.grad(w) for w in path.w[:-1]])


def test_row_t_plus_1_is_the_step_from_row_t():
    path = descend(grams, rosenbrock(), [-1.2, 1.0], steps=5, lr=0.02, beta1=0.7, weight_decay=0.1)
    for t in range(5):
        w, state = grams.step(path.w[t], path.g[t], path.states[t], lr=0.02, beta1=0.7, weight_decay=0.1)
        np.testing.assert_array_equal(w, path.w[t + 1])
        assert state.t == path.states[t + 1].t == t + 1
        np.testing.assert_array_equal(state.m, path.states[t + 1].m)


def test_no_steps():
    path = descend(adam, sine_bowl(), [3.0], steps=0, lr=0.1)
    assert path.w.shape == (1, 1) and path.g.shape == (0, 1) and path.loss.tolist() == [9 + 3 * np.sin(3) ** 2]


def test_a_schedule_is_asked_for_steps_1_to_T():
    """Lion's step is exactly lr: the schedule can be read off the path."""
    asked = []

    def lr(t: int) -> float:
        asked.append(t)
        return 0.5**t

    path = descend(lion, quadratic([1.0]), [100.0], steps=4, lr=lr)
    assert asked == [1, 2, 3, 4]
    np.testing.assert_allclose(-np.diff(path.w[:, 0]), [0.5, 0.25, 0.125, 0.0625])


def test_noise_is_seeded_gaussian_and_only_on_the_gradient():
    problem = quadratic([1.0, 2.0])
    args: dict[str, Any] = {"steps": 400, "lr": 0.0, "noise": 0.5}
    a, b, c = (descend(adam, problem, [1, 1], **args, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.g, b.g)
    assert not np.array_equal(a.g, c.g)
    noise = a.g - [1.0, 2.0]
    # 800 draws: the mean's standard error is 0.018, the deviation's 0.0125; four of them
    assert abs(noise.mean()) < 0.07 and abs(noise.std() - 0.5) < 0.05
    assert np.ptp(a.loss) == 0  # lr = 0: the loss is the problem's own, without noise
    silent = descend(adam, problem, [1, 1], steps=3, lr=0.0, seed=1)
    np.testing.assert_array_equal(silent.g, [[1.0, 2.0]] * 3)


def test_the_start_is_copied():
    w0 = np.array([1.0, 2.0])
    path = descend(adam, quadratic([1.0, 2.0]), w0, steps=2, lr=0.1)
    assert w0.tolist() == [1, 2] and not np.shares_memory(path.w, w0)


def test_further_names_reach_the_rule():
    a, b = (descend(adam_mini, quadratic([1.0, 9.0]), [1, 1], steps=3, lr=0.1, blocks=x) for x in ("tensor", "rows"))
    assert a.states[-1].v.shape == (1,) and b.states[-1].v.shape == (2,)
    decayed = descend(adams, quadratic([1.0]), [1.0], steps=1, lr=0.1, scalar_vector_weight_decay=0.5)
    assert decayed.w[1, 0] == pytest.approx(0.95 - 0.1 * np.pi / 4)


@pytest.mark.parametrize("name", RULES)
def test_an_unknown_hyper_parameter_is_a_type_error(name):
    with pytest.raises(TypeError, match="momentum"):
        descend(RULES[name], quadratic([1.0]), [1.0], steps=1, lr=0.1, momentum=0.9)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match=r"steps .* got -1"):
        descend(adam, quadratic([1.0]), [1.0], steps=-1, lr=0.1)


@pytest.mark.parametrize("name", RULES)
def test_smoke_every_rule_comes_down_a_quadratic(name):
    """No evidence of anything but that the loop is wired up."""
    path = descend(RULES[name], quadratic([1.0, 4.0]), [1, 1], steps=400, lr=lambda t: 0.1 / t**0.5)
    assert path.loss[-1] < 0.02 * path.loss[0]
