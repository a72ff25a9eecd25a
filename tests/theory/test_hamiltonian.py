"""Claim G3, Theorem 4.6: H and L along the flows of Adam, Cautious and Grams, and what a step size > 0 loses of it."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from reference import adam, cautious, grams
from reference.problems import quadratic
from reference.theory.hamiltonian import (
    ALPHA,
    BETA,
    DELTA,
    EPS,
    FLOWS,
    GAMMA,
    PHI,
    PSI,
    SYSTEMS,
    C,
    G,
    K,
    M,
    S,
    V,
    adam_condition,
    optimizer_flow,
    rate_cases,
    rates,
    sliding_rates,
    system_conditions,
    velocity,
)
from reference.theory.hamiltonian_flows import Discrete, discretise, integrate, order

CONSTANTS = {
    "heavy ball": {C: 0.1, GAMMA: 0.5},
    "Lion-K": {C: 0.1, GAMMA: 0.5, DELTA: 0.1},
    "Adam": {ALPHA: 1.0, BETA: 0.1, EPS: 1e-3},
}


@pytest.mark.claim("G3")
def test_the_flow_is_the_limit_of_the_lines():
    u = M / (sp.sqrt(V) + EPS)
    expected = {adam: -u, grams: -sp.sign(G) * sp.Abs(M) / (sp.sqrt(V) + EPS), cautious: None}
    for rule, w in expected.items():
        flow = optimizer_flow(rule)
        assert sp.simplify(flow["m"] - ALPHA * (G - M)) == 0 and sp.simplify(flow["v"] - BETA * (G**2 - V)) == 0
        if w is not None:
            assert sp.simplify(flow["w"] - w) == 0
        else:
            for g, m in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                at = {G: g, M: m}
                assert sp.simplify(flow["w"].subs(at) - velocity("cautious", G, u).subs(at)) == 0
    assert sp.simplify(SYSTEMS["Adam"].k - u) == 0, "grad K, scaled by alpha, is Adam's step"
    assert SYSTEMS["Adam"].equations == {M: ALPHA * (G - M), V: BETA * (G**2 - V)}


@pytest.mark.claim("G3")
@pytest.mark.parametrize("flow", ["cautious", "grams"])
def test_both_inequalities_in_every_sign_case(flow):
    cases = rate_cases(flow)
    assert len({(c.sign_g, c.sign_k) for c in cases}) == 9
    for c in cases:
        for part in (c.loss, c.energy, c.loss_over_plain, c.energy_over_plain):
            assert part.is_nonpositive is True, c
    assert all(c.loss_plus_plain.is_nonpositive for c in cases) is (flow == "grams")


@pytest.mark.claim("G3")
def test_plain_flow_loses_energy_exactly_and_lets_the_loss_rise():
    energy = rates("plain")[1]
    assert sp.expand(energy + G * PHI + K * PSI) == 0
    assert sorted((c.sign_g, c.sign_k) for c in rate_cases("plain") if c.loss.is_positive) == [(-1, 1), (1, -1)]


@pytest.mark.claim("G3")
def test_grams_falls_at_least_as_fast_as_cautious():
    for c, d in zip(rate_cases("grams"), rate_cases("cautious"), strict=True):
        assert (c.loss - d.loss).is_nonpositive and (c.energy - d.energy).is_nonpositive


@pytest.mark.claim("G3")
def test_without_its_conditions_the_theorem_fails():
    at_rest = {G: 1, K: 0, PSI: 0}
    assert rates("grams")[0].subs(at_rest | {PHI: -1}) == 1, "Phi(g) = -g pushes uphill: L rises"
    assert rates("grams")[1].subs({G: 0, K: 1, PHI: 0, PSI: -1}) == 1, "Psi(s) = -s feeds the momentum: H rises"


@pytest.mark.claim("G3")
def test_the_named_systems_meet_the_conditions():
    for name, (push, friction) in system_conditions().items():
        assert push.is_nonnegative is True and friction.is_nonnegative is True, name
    lion = SYSTEMS["Lion-K"]
    assert sp.simplify((G * lion.phi).subs(C, 0)) == 0, "g Phi starts at 0 and grows with c"
    for name in ("heavy ball", "Lion-K"):
        chosen = SYSTEMS[name]
        general = rates("plain")[1].subs({PHI: chosen.phi, PSI: G - chosen.equations[S]}).subs(K, chosen.k)
        assert sp.simplify(chosen.rates("plain")[1] - general) == 0, "the template's rate is the system's"


@pytest.mark.claim("T7")
@pytest.mark.claim("G3")
def test_adams_own_energy_needs_beta_at_most_four_alpha():
    rate, below = adam_condition()
    assert below.is_nonpositive is True
    flat = sp.limit(rate.subs(G, 0), EPS, 0)
    assert sp.simplify(flat + M**2 / sp.sqrt(V) * (1 - BETA / (4 * ALPHA))) == 0
    for flow in FLOWS:  # beta = 5 alpha on a flat stretch: H rises, whatever the flow
        rising = SYSTEMS["Adam"].rates(flow)[1].subs({G: 0, ALPHA: 1, BETA: 5, M: 1, V: 1, EPS: sp.Rational(1, 100)})
        assert sp.simplify(rising).is_positive is True
    extra = SYSTEMS["Adam"].rates("grams")[1] - SYSTEMS["Adam"].rates("plain")[1]
    for g, m in ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (1, 0)):
        assert sp.simplify(extra.subs({G: g, M: m})).is_nonpositive is True


@pytest.mark.claim("G3")
def test_on_the_surface_nothing_depends_on_the_choice():
    loss, energy = sliding_rates()
    assert loss == 0 and sp.expand(energy + K * PSI) == 0


@pytest.mark.claim("G3")
@pytest.mark.parametrize("system", SYSTEMS)
def test_integrated_flows(system):
    problem, how = quadratic([1.0, 4.0], seed=3), {"w0": [1.0, -0.7], "time": 12.0, "constants": CONSTANTS[system]}
    plain = integrate(problem, system, "plain", **how)
    smooth = integrate(problem, system, "grams", width=1e-3, method="Radau", tolerance=1e-6, **how)
    assert np.diff(plain.loss).max() > 1e-3, "the plain flow's loss rises"
    assert np.diff(plain.energy).max() < 1e-6 and np.diff(smooth.energy).max() < 1e-6
    assert np.diff(smooth.loss).max() < 1e-9 and smooth.loss[-1] < 1e-6
    assert plain.energy[-1] < plain.energy[0] and smooth.energy[-1] < smooth.energy[0]


@pytest.mark.claim("G3")
def test_sign_makes_an_explicit_solver_chatter():
    problem, constants = quadratic([1.0]), {C: 0.0, GAMMA: 0.5}

    def run(time, **how):
        return integrate(
            problem, "heavy ball", "grams", w0=[1.0], time=time, constants=constants, tolerance=1e-5, **how
        )

    before, after = run(1.5), run(3.0)
    assert before.w[-1, 0] > 0.01, "not there yet"
    assert np.abs(after.w[-50:, 0]).max() < 2e-3, "it stays on g = 0"
    assert np.ptp(after.momentum[-50:, 0]) > 0.05, "while the momentum still decays"
    assert after.evaluations > 20 * before.evaluations, "the explicit solver pays for the discontinuity"
    assert run(3.0, width=1e-3, method="Radau").evaluations < after.evaluations / 5


@pytest.mark.claim("G3")
def test_what_a_step_size_loses_and_its_order():
    problem, starts = quadratic([1.0, 4.0], seed=3), np.random.default_rng(0).standard_normal((64, 2))
    hs, rows = np.geomspace(0.1, 0.005, 5), {}
    for flow in FLOWS:
        rows[flow] = [discretise(problem, flow, w0=starts, time=10, h=h, alpha=1.0, beta=0.1) for h in hs]
    worst = {f: order(hs, [r.worst("loss") for r in rows[f]]) for f in FLOWS}
    total = {f: order(hs, [r.total("loss") for r in rows[f]]) for f in FLOWS}
    assert worst["grams"] == pytest.approx(2, abs=0.25) and worst["cautious"] == pytest.approx(2, abs=0.25)
    assert total["grams"] == pytest.approx(1, abs=0.25) and total["cautious"] == pytest.approx(2, abs=0.25)
    assert worst["plain"] == pytest.approx(1, abs=0.15) and total["plain"] == pytest.approx(0, abs=0.15)
    assert all(r.worst("energy") == 0 for f in FLOWS for r in rows[f][1:]), "H falls at every step from h = 0.05 down"
    less_friction = [
        discretise(problem, "grams", w0=starts, time=40, h=h, alpha=1.0, beta=1.0) for h in (0.1, 0.05, 0.025)
    ]
    assert order((0.1, 0.05, 0.025), [r.worst("energy") for r in less_friction]) == pytest.approx(3, abs=0.5)


@pytest.mark.claim("G3")
@pytest.mark.parametrize("seed", range(20, 24))
def test_the_orders_are_of_a_little_beta(seed):
    """The ledger once gave h^2 and h without alpha and beta: at beta = 4 alpha, up to which H falls, they are others."""
    problem, starts = quadratic([1.0, 4.0], seed=seed), np.random.default_rng(seed).standard_normal((64, 2))
    hs, orders = np.geomspace(0.1, 0.005, 5), {}
    for beta in (0.1, 4.0):
        runs = [discretise(problem, "grams", w0=starts, time=10, h=h, alpha=1.0, beta=beta) for h in hs]
        orders[beta] = [order(hs, [getattr(r, kind)("loss") for r in runs]) for kind in ("worst", "total")]
    assert orders[0.1] == pytest.approx([2, 1], abs=0.25) and orders[4.0] == pytest.approx([1.4, 0.35], abs=0.15)


@pytest.mark.claim("T6")
@pytest.mark.claim("G3")
def test_over_whole_paths_the_plain_flow_can_come_lower():
    """Rates are compared in one state. Two valleys: the plain heavy ball rolls over the hill, Grams stays before it."""
    slope = quadratic([1.0]).__class__(
        **{
            **vars(quadratic([1.0])),
            "f": lambda w: ((w**2 - 1) ** 2 / 4 - w / 4).sum(),
            "grad": lambda w: w**3 - w - 0.25,
        }
    )

    def end(flow, **how):
        return integrate(slope, "heavy ball", flow, w0=[-1.6], time=40, constants={C: 0.0, GAMMA: 0.25}, **how)

    plain, smooth, careful = end("plain"), end("grams", width=1e-3, method="Radau", tolerance=1e-6), end("cautious")
    assert plain.w[-1, 0] > 1 and plain.loss[-1] < -0.26
    for other in (smooth, careful):
        assert other.w.max() < -0.8 and other.loss.min() > 0.23


@pytest.mark.claim("G3")
def test_the_optimizer_approaches_the_flow():
    problem, constants = quadratic([1.0, 4.0], seed=3), {ALPHA: 1.0, BETA: 0.1, EPS: 1e-8}
    flow = integrate(
        problem, "Adam", "grams", w0=[1.0, -0.7], time=4, constants=constants, width=1e-4, method="Radau", points=9
    )
    gaps = []
    for h in (0.02, 0.005):
        run = discretise(problem, "grams", w0=[1.0, -0.7], time=4, h=h, alpha=1.0, beta=0.1)
        gaps.append(np.abs(run.w[:: round(0.5 / h), 0] - flow.w).max())
    assert gaps[1] < gaps[0] / 2.5 and gaps[1] < 0.02


def test_bad_input_is_named():
    problem = quadratic([1.0])
    with pytest.raises(ValueError, match="flow must be one of"):
        velocity("lion", 1.0, 1.0)
    with pytest.raises(ValueError, match="constants must give"):
        integrate(problem, "Adam", "plain", w0=[1.0], time=1, constants={ALPHA: 1.0})
    with pytest.raises(ValueError, match="h must keep"):
        discretise(problem, "plain", w0=[1.0], time=1, h=2.0, alpha=1.0, beta=0.1)
    with pytest.raises(ValueError, match="values > 0"):
        order([0.1, 0.2], [0.0, 1.0])


def test_at_a_tie_cautious_moves_by_momentum_and_grams_does_not():
    g, k = np.array([0.0, 1.0, 1.0, -1.0]), np.array([2.0, 0.0, 2.0, 2.0])
    assert velocity("cautious", g, k).tolist() == [-2, 0, -2, 0]
    assert velocity("grams", g, k).tolist() == [0, 0, -2, 2]


def test_increases_are_summed_for_each_run_and_averaged_over_the_runs():
    loss = np.array([[0.0, 5.0], [1.0, 4.0], [0.5, 7.0], [1.0, 7.0]])
    runs = Discrete(0.1, np.zeros((4, 2, 1)), loss, -loss)
    assert (runs.worst("loss"), runs.total("loss")) == ((1 + 3) / 2, (1.5 + 3) / 2)
    assert (runs.worst("energy"), runs.total("energy")) == ((0.5 + 1) / 2, (0.5 + 1) / 2)
