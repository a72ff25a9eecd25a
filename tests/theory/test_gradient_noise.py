"""Adam, Grams and Cautious in gradient noise and at long steps: derivations against runs (G9)."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch

from reference import adam, cautious, grams
from reference.theory import gradient_noise as gn
from reference.theory import noise_runs
from reference.theory.gradient_noise import ALPHA, BETA1, drift, kappa, long_run_variance
from reference.theory.step_stability import (
    adam_matrix,
    adam_threshold,
    expanding_orbit,
    growth_rate,
    relative_step,
)

NONE = {"rescale": "none"}
RULES: list[tuple[Any, dict[str, Any]]] = [(adam, {}), (grams, {}), (cautious, NONE)]


# --- derivations ---


def test_responses_are_read_off_the_steps():
    g, m = sp.symbols("g m", positive=True)
    agree = [gn.response(rule, g, m, **hyper) for rule, hyper in RULES]
    differ = [gn.response(rule, -g, m, **hyper) for rule, hyper in RULES]
    assert agree == [m, m, m] and differ == [m, -m, 0]
    for a, b, c in (agree, differ):
        assert sp.simplify(c - (a + b) / 2) == 0  # Cautious is the mean of Adam and Grams


@pytest.mark.claim("T4")
def test_kappa_is_derived():
    derived = gn.slope(grams)
    stated = kappa(BETA1).subs(BETA1, sp.sin(ALPHA))
    assert gn.slope(adam) == 1
    assert sp.simplify(gn.slope(cautious, **NONE) - (1 + derived) / 2) == 0
    assert sp.simplify(gn.agreement() - (1 - ALPHA / sp.pi)) == 0
    # alpha = 2 atan(1 / (1 + p)): every root in the statement becomes rational, and p > 0 is 0 < alpha < pi/2
    p = sp.Symbol("p", positive=True)
    tau = 1 / (1 + p)
    rational: dict[Any, Any] = {sp.sin(ALPHA): 2 * tau / (1 + tau**2), sp.cos(ALPHA): (1 - tau**2) / (1 + tau**2)}
    statement = sp.diff(kappa(BETA1), BETA1).subs(BETA1, rational[sp.sin(ALPHA)]) * rational[sp.cos(ALPHA)]
    statement = statement.replace(
        lambda e: e.is_Pow and e.exp.is_Rational and e.exp.q == 2, lambda e: sp.factor(e.base) ** e.exp
    )
    derivation = sp.diff(derived, ALPHA).subs(rational).subs(ALPHA, 2 * sp.atan(tau))
    assert sp.simplify(sp.simplify(statement) - sp.simplify(derivation)) == 0  # equal slopes everywhere ...
    assert sp.simplify((derived - stated).subs(ALPHA, sp.pi / 6)) == 0  # ... and equal at beta1 = 1/2
    assert float(kappa(0.9)) == pytest.approx(0.41858, abs=5e-6)
    assert float(kappa(0.0)) == pytest.approx(1.0)


@pytest.mark.claim("T4")
def test_kappa_is_of_a_v_that_stands_still():
    """A v that is settled is not enough: with beta2 = 0.5 it settles at once, goes on to and fro, and 0.42 becomes 0.35."""
    slow, quick = (
        [noise_runs.simulate(rule, 0.05, beta2=beta2, chains=2000, steps=400, seed=5).drift for rule in (grams, adam)]
        for beta2 in (0.999, 0.5)
    )
    assert slow[0].value / slow[1].value == pytest.approx(float(kappa(0.9)), abs=0.01)
    assert quick[0].value / quick[1].value == pytest.approx(0.353, abs=0.015)


@pytest.mark.claim("T4")
def test_kappa_is_of_an_m_that_has_settled():
    """From a fresh start the first step is Adam's own, and the ratio comes down to kappa. By the lines, v held at its mean."""
    rng, zero, snr, beta2 = np.random.default_rng(11), np.zeros(400_000), 0.05, 1 - 1e-9
    m, ratios = zero, {}
    for t in range(1, 41):
        state, g = (t - 1, m, zero + 1 - beta2**t), snr + rng.standard_normal(zero.size)
        moved = []
        for rule in (grams, adam):
            w, (_, m, _) = rule.step(zero, g, rule.State(*state), lr=1.0, beta2=beta2)
            moved.append(w.mean())
        ratios[t] = moved[0] / moved[1]
    # (2/pi) (arcsin of m's correlation with g, and m's deviation where g is 0); the ledger's "0.50 in the tenth" was this run's
    sizes = [np.sqrt((1 - 0.9) / (1 + 0.9) * (1 - 0.9 ** (2 * t))) for t in range(41)]
    exact = {t: 2 / np.pi * (np.arcsin(0.1 / sizes[t]) + 0.9 * sizes[t - 1] / (1 - 0.9**t)) for t in (10, 40)}
    assert exact[10] == pytest.approx(0.494, abs=5e-4)
    assert ratios[1] == 1 and all(ratios[t] == pytest.approx(x, abs=0.03) for t, x in exact.items())
    assert ratios[40] == pytest.approx(float(kappa(0.9)), abs=0.03)


@pytest.mark.claim("G9")
def test_the_noise_decides_who_is_quieter_at_equal_drift():
    """The ledger once said "gradient noise": 1.09 is of normal noise. By the lines, v held at its mean, to first order in lr."""
    rng, zero, late, beta2, shift = np.random.default_rng(77), np.zeros(10_000), 10**15, 1 - 1e-12, 0.05
    draws = {
        "normal": lambda: rng.standard_normal(zero.size),
        "Laplace": lambda: rng.laplace(size=zero.size) / np.sqrt(2),
        "signs": lambda: rng.choice([-1.0, 1.0], zero.size),
    }
    spread = {}
    for name, draw in draws.items():
        drifted, path, plain = 0.0, zero, zero
        averages = dict.fromkeys((-shift, 0.0, shift), zero)
        for t in range(500):
            noise, moved = draw(), {}
            for mean, m in averages.items():
                state = grams.State(late, m, zero + 1)
                moved[mean], (_, averages[mean], _) = grams.step(zero, noise + mean, state, lr=1.0, beta2=beta2)
            if t >= 100:
                drifted += float((moved[-shift] - moved[shift]).mean()) / 2
                path, plain = path + moved[0.0], plain + noise
        spread[name] = path.var() / plain.var() / (drifted / (400 * shift)) ** 2
    assert spread["normal"] == pytest.approx(1.09, abs=0.08)
    assert spread["Laplace"] < 0.8 and spread["signs"] > 1.8, spread


def test_a_coordinate_without_gradient_stays():
    assert gn.displacement_without_gradient() == 0
    rows = torch.ones(3, 2, dtype=torch.float64)  # an embedding: row 1 is used once, then never again
    moved, after_first = {}, rows
    for rule in (adam, grams):
        w, state = rows, rule.init(rows)
        for t in range(20):
            g = torch.zeros_like(rows)
            g[0] = 1.0
            g[1] = 1.0 if t == 0 else 0.0
            w, state = rule.step(w, g, state, lr=0.01)
            if t == 0:
                after_first = w
        moved[rule] = (w - after_first).abs().sum(dim=1)
    assert moved[grams][1] == 0 and moved[adam][1] > 0.01
    assert moved[grams][0] > 0.1 and moved[grams][2] == moved[adam][2] == 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="beta1"):
        kappa(1.0)
    with pytest.raises(ValueError, match="rule"):
        drift(np, 0.1, 0.9)
    with pytest.raises(ValueError, match="even"):
        noise_runs.simulate(grams, 0.1, chains=5)
    with pytest.raises(ValueError, match="batch"):
        noise_runs.noisy_bowl(grams, 0.1, batch=0)
    with pytest.raises(ValueError, match="1-D"):
        growth_rate(grams, 1.0, 0.9)


# --- against Monte Carlo ---


@pytest.mark.parametrize("snr", [0.01, 0.05, 0.3, 1.0, 3.0])
def test_drift_agrees_with_monte_carlo(snr):
    """Within four standard errors, and 0.2 % for v, which has not quite settled at beta2 = 0.999."""
    for rule, hyper in RULES:
        run = noise_runs.simulate(rule, snr, chains=2000, steps=400, seed=1, **hyper)
        expected = drift(rule, snr, 0.9)
        assert abs(run.drift.value - expected) < 4 * run.drift.error + 2e-3 * expected, (
            rule.__name__,
            run.drift,
            expected,
        )
    run = noise_runs.simulate(cautious, snr, chains=2000, steps=400, seed=1, rescale="mean")
    expected = drift(cautious, snr, 0.9) / gn.kept(snr, 0.9)
    assert abs(run.drift.value - expected) < 4 * run.drift.error + 2e-3 * expected


def test_drift_meets_the_slope_and_adam_at_the_ends():
    for beta1 in (0.0, 0.5, 0.9, 0.99):
        assert drift(grams, 1e-5, beta1) / drift(adam, 1e-5, beta1) == pytest.approx(float(kappa(beta1)), rel=1e-8)
    ratio = [drift(grams, snr, 0.9) / drift(adam, snr, 0.9) for snr in np.logspace(-2, 1, 20)]
    assert (np.diff(ratio) > 0).all() and ratio[-1] == pytest.approx(1, abs=1e-6)
    assert gn.kept(0.0, 0.9) == pytest.approx(1 - np.arcsin(0.9) / np.pi, rel=1e-12)
    rescaled = (1 + float(kappa(0.9))) / 2 / gn.kept(0.0, 0.9)
    assert rescaled == pytest.approx(1.102, abs=1e-3)  # rescaled, Cautious drifts faster than Adam


@pytest.mark.parametrize("beta1", [0.5, 0.9])
def test_long_run_variance_agrees_with_monte_carlo(beta1):
    """beta2 so near 1 that v stands still. Four standard errors, and 3 % for correlations beyond the window."""
    for snr in (0.05, 1.0):
        for rule, hyper in RULES:
            run = noise_runs.simulate(rule, snr, beta1=beta1, beta2=1 - 1e-7, chains=2000, steps=800, **hyper)
            expected = long_run_variance(rule, snr, beta1)
            assert abs(run.variance.value - expected) < 4 * run.variance.error + 0.03 * expected, (rule.__name__, snr)


def test_no_rule_spreads_less_than_adam_at_equal_drift():
    assert long_run_variance(grams, 0.0, 0.9) == pytest.approx(0.1915, abs=1e-4)
    for beta1 in (0.3, 0.5, 0.9, 0.95, 0.99):
        excess = long_run_variance(grams, 0.0, beta1) / float(kappa(beta1)) ** 2
        assert 1 < excess < 1.12
        mixed = long_run_variance(cautious, 0.0, beta1) / ((1 + float(kappa(beta1))) / 2) ** 2
        assert 1 < mixed < excess


def test_the_series_has_converged(monkeypatch):
    before = [long_run_variance(grams, snr, 0.9) for snr in (0.0, 1.0)]
    monkeypatch.setattr(gn, "ORDERS", 120)
    monkeypatch.setattr(gn, "NODES", 320)
    assert [long_run_variance(grams, snr, 0.9) for snr in (0.0, 1.0)] == pytest.approx(before, rel=1e-5)


# --- G9: "more stable than Adam, because the step always agrees with the gradient's sign" ---


@pytest.mark.claim("G9")
def test_a_grams_step_never_disagrees_with_the_gradient():
    g, m, w = sp.symbols("g m w", real=True)
    v, lr, eps = sp.symbols("v lr eps", positive=True)
    beta1, beta2 = sp.Rational(9, 10), sp.Rational(999, 1000)
    for value in (g, sp.Symbol("gp", positive=True), -sp.Symbol("gp", positive=True)):
        state = grams.init(w)._replace(t=4, m=m, v=v)
        new, _ = grams.step(w, value, state, lr=lr, beta1=beta1, beta2=beta2, eps=eps)
        if value is not g:
            assert sp.simplify((w - new) * value).is_nonnegative


@pytest.mark.claim("G9")
def test_grams_diverges_for_ever_at_a_step_that_adam_bears():
    a: Any = sp.Rational(47, 2)
    beta1: Any = sp.Rational(9, 10)
    orbit = expanding_orbit(grams, a, beta1, (True, True, False))
    assert orbit is not None
    assert sp.simplify(orbit.factor + (3447 + 9 * sp.sqrt(54529)) / 3200) == 0 and orbit.factor < -1.7
    for (w, _), (new, _) in pairwise(orbit.points):
        assert (w - new) * w > 0  # every step goes downhill
    assert all(sp.Abs(x) < 1 for x in adam_matrix(a, beta1).eigenvals())  # Adam contracts there
    assert expanding_orbit(grams, sp.Integer(10), beta1, (True, True, False)) is None
    assert expanding_orbit(cautious, a, beta1, (True, True, False)) is None


def test_adam_threshold_is_derived():
    a, beta1 = sp.symbols("a beta1", positive=True)
    (found,) = sp.solve((adam_matrix(a, beta1) + sp.eye(2)).det(), a)  # the eigenvalue -1
    assert sp.simplify(found - adam_threshold(beta1)) == 0


@pytest.mark.claim("G9")
def test_the_divergence_in_a_real_run():
    """eps = 1, far above the gradients: lr 23.5 is a relative step of 23.5. Adam comes down, Grams goes up to eps."""
    ends = {}
    for rule in (adam, grams):
        w = np.array([1e-12])
        state = rule.init(w)
        highest = 0.0
        for _ in range(600):
            w, state = rule.step(w, w, state, lr=23.5, eps=1.0)
            highest = max(highest, abs(float(w[0])))
        ends[rule] = highest, abs(float(w[0]))
    assert ends[adam][0] < 1e-5 and ends[adam][1] < 1e-15
    assert ends[grams][0] > 0.1 and ends[grams][1] > 1e-3


@pytest.mark.claim("G9")
def test_windows_of_instability():
    low = growth_rate(grams, np.linspace(0.2, 19.0, 60), 0.9, steps=800)
    assert (low < 0).all()  # up to half of Adam's threshold nothing grew
    window = np.array([20.5, 21.0, 23.5, 24.0])
    assert (growth_rate(grams, window, 0.9, steps=800) > 0.01).all()
    for rule, hyper in (RULES[0], RULES[2]):
        assert (growth_rate(rule, window, 0.9, steps=800, **hyper) < -0.01).all()
        assert (growth_rate(rule, np.array([37.0]), 0.9, steps=800, **hyper) < 0).all()
    for rule, hyper in RULES:
        assert growth_rate(rule, np.array([39.0]), 0.9, steps=800, **hyper)[0] > 0.1


@pytest.mark.claim("G9")
def test_quieter_than_adam_at_one_lr_but_not_at_equal_drift():
    lr, k, v = 0.01, float(kappa(0.9)), long_run_variance(grams, 0.0, 0.9)
    floor = {}
    for name, rule, step in (("adam", adam, lr), ("shared", grams, lr), ("matched", grams, gn.matched_lr(lr, 0.9))):
        run = noise_runs.noisy_bowl(rule, step, start=0.5, chains=1500, steps=1500, seed=2)
        floor[name] = run.loss[700:].mean()
        floor[name + " half-way"] = int(np.argmax(run.loss < run.loss[0] / 2))
    assert floor["adam"] == pytest.approx(lr / 4, rel=0.05)  # f'' = sigma = 1
    assert floor["shared"] / floor["adam"] == pytest.approx(v / k, rel=0.05)  # 0.46: quieter ...
    assert floor["shared half-way"] > 1.5 * floor["adam half-way"]  # ... and slower
    assert floor["matched"] / floor["adam"] == pytest.approx(v / k**2, abs=0.06)  # 1.09: as fast, no quieter
    assert floor["matched half-way"] < 1.1 * floor["adam half-way"]


def test_relative_step_is_one_matrix_or_the_other():
    w, m = sp.symbols("w m", positive=True)
    a, b = sp.Rational(3), sp.Rational(9, 10)
    for sign in (1, -1):
        new, momentum = relative_step(grams, sign * w, m * 10 * w, a, b)
        assert sp.simplify(momentum - (9 * m * w + sign * w / 10)) == 0
        assert sp.simplify(new - sign * (w - a * sp.Abs(momentum))) == 0


@pytest.mark.slow
@pytest.mark.parametrize("beta1", [0.5, 0.9, 0.95])
def test_drift_and_variance_on_a_fine_grid(beta1):
    for snr in np.logspace(-2, np.log10(3), 9):
        for rule, hyper in RULES:
            run = noise_runs.simulate(
                rule, snr, beta1=beta1, beta2=1 - 1e-7, chains=8000, steps=4000, window=400, seed=3, **hyper
            )
            mean, variance = drift(rule, snr, beta1), long_run_variance(rule, snr, beta1)
            assert abs(run.drift.value - mean) < 4.5 * run.drift.error + 1e-4 * mean
            assert abs(run.variance.value - variance) < 4.5 * run.variance.error + 0.01 * variance
