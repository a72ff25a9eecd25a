"""The steps of the living figures (site/figures/steps.js) are `reference`'s, within 1e-12 on a grid."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from living_figures import calls, close, needs_node, node, run

from reference import adam, adams, adamw, cautious, grams, lion
from reference.problems import quadratic
from reference.theory import hamiltonian, spectral_decay
from reference.theory.gradient_noise import kappa
from reference.theory.hamiltonian_flows import integrate
from reference.theory.step_stability import adam_matrix, adam_threshold, growth_rate, relative_step

pytestmark = needs_node

GRID = list(
    itertools.product(
        (0, 1, 10, 10**9), ((0.0, 0.0), (0.5, 0.9), (0.9, 0.999), (0.99, 0.95)), (1e-8, 1e-2, 1.0), (0.0, 0.1)
    )
)


def states(seed: int = 0, size: int = 6) -> list[tuple]:
    """(w, g, m, v, t, betas, eps, decay) over the grid: every sign of g against m, zeros, and sizes from 1e-6 to 1e3."""
    rng = np.random.default_rng(seed)
    found = []
    for t, betas, eps, decay in GRID:
        w, g, m = rng.standard_normal((3, size)) * 10.0 ** rng.integers(-6, 4, (3, size))
        g[0], m[1] = 0.0, 0.0
        v = rng.random(size) * 10.0 ** rng.integers(-8, 5, size)
        found.append((w, g, m, v, t, betas, eps, decay))
    return found


CASES = {
    "adam": (adam, {}),
    "adamw": (adamw, {}),
    "grams": (grams, {}),
    "cautious, count": (cautious, {"rescale": "count"}),
    "cautious, mean": (cautious, {"rescale": "mean"}),
    "cautious, none": (cautious, {"rescale": "none"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_adams_kin_is_references(case):
    rule, extra = CASES[case]
    requests, expected = [], []
    for w, g, m, v, t, (beta1, beta2), eps, decay in states():
        hyper = {"lr": 0.3, "beta1": beta1, "beta2": beta2, "eps": eps, **extra}
        state = {"t": t, "m": m.tolist(), "v": v.tolist()}
        requests.append(("steps.js", rule.__name__.rpartition(".")[2], w.tolist(), g.tolist(), state))
        requests[-1] += ({**hyper, "weightDecay": decay},)
        expected.append(rule.step(w, g, rule.State(t, m, v), weight_decay=decay, **hyper))
    for (moved, state), (w, after) in zip(calls(requests), expected, strict=True):
        assert state["t"] == after.t
        close([moved, state["m"], state["v"]], [w, after.m, after.v])


def test_the_defaults_are_references():
    w, g = [0.3, -2.0], [0.7, 1e-3]
    names = {"adam": adam, "adamw": adamw, "grams": grams, "cautious": cautious}
    found = calls([("steps.js", name, w, g, {"t": 0, "m": [0, 0], "v": [0, 0]}, {"lr": 0.1}) for name in names])
    found += calls([("steps.js", "lion", w, g, {"m": [0.5, -0.5]}, {"lr": 0.1})])
    start = np.array(w)
    expected = [rule.step(start, np.array(g), rule.init(start), lr=0.1)[0] for rule in names.values()]
    expected += [lion.step(start, np.array(g), lion.State(np.array([0.5, -0.5])), lr=0.1)[0]]
    close([moved for moved, _ in found], expected)


def test_a_step_of_lion_is_references():
    requests, expected = [], []
    for w, g, m, _, _, (beta1, beta2), _, decay in states(1):
        hyper = {"lr": 0.3, "beta1": beta1, "beta2": beta2}
        requests.append(
            ("steps.js", "lion", w.tolist(), g.tolist(), {"m": m.tolist()}, {**hyper, "weightDecay": decay})
        )
        expected.append(lion.step(w, g, lion.State(m), weight_decay=decay, **hyper))
    for (moved, state), (w, after) in zip(calls(requests), expected, strict=True):
        close([moved, state["m"]], [w, after.m])


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (6, 4)])
@pytest.mark.parametrize("spectral", [True, False])
def test_a_step_of_adams_is_references(shape, spectral):
    requests, expected = [], []
    rng = np.random.default_rng(sum(shape))
    for t, (beta1, beta2), decay in itertools.product((0, 3, 10**9), ((0.0, 0.0), (0.9, 0.95)), (0.0, 0.1, 30.0)):
        w, g, m = rng.standard_normal((3, *shape))
        v, u = rng.random(shape), rng.standard_normal(shape[0])
        hyper: dict[str, Any] = {"lr": 0.1, "beta1": beta1, "beta2": beta2}
        state = {"t": t, "m": m.tolist(), "v": v.tolist(), "u": u.tolist(), "sigma": 0.5}
        names = {"weightDecay": decay, "scalarVectorWeightDecay": decay, "useSpectralDecay": spectral}
        requests.append(("steps.js", "adams", w.tolist(), g.tolist(), state, {**hyper, **names}))
        given = {"weight_decay": decay, "scalar_vector_weight_decay": decay, "use_spectral_decay": spectral}
        expected.append(adams.step(w, g, adams.State(t, m, v, u, np.float64(0.5)), **given, **hyper))
    for (moved, state), (w, after) in zip(calls(requests), expected, strict=True):
        close([moved, state["m"], state["v"]], [w, after.m, after.v])
        close(state["u"], after.u)
        close(state["sigma"], after.sigma)


def test_a_matrix_that_is_zero_keeps_u_at_zero():
    zero = [[0, 0], [0, 0], [0, 0]]
    ((_, state),) = calls([("steps.js", "adams", zero, zero, adams_state(3, 2), {"lr": 0.1})])
    _, after = adams.step(np.zeros((3, 2)), np.zeros((3, 2)), adams.init(np.zeros((3, 2))), lr=0.1)
    close([*state["u"], state["sigma"]], [*after.u, after.sigma])


def adams_state(rows: int, columns: int) -> dict:
    zero = [[0] * columns] * rows
    return {"t": 0, "m": zero, "v": zero, "u": [1] * rows, "sigma": 0}


def test_what_the_power_iteration_can_follow_is_references():
    rhos, drifts = np.linspace(0.05, 0.95, 10), np.linspace(0.0, 1.2, 13)
    limits = calls([("steps.js", "driftLimit", rho) for rho in rhos])
    close(limits, [spectral_decay.drift_limit(rho) for rho in rhos])
    errors = calls([("steps.js", "steadyError", rho, drift) for rho in rhos for drift in drifts])
    close(errors, [spectral_decay.steady_error(rho, drift) for rho in rhos for drift in drifts])
    assert np.isnan(errors).any() and not np.isnan(errors).all()
    matrices = calls([("steps.js", "turned", rho, k * 0.3) for rho in rhos for k in range(1, 4)])
    close(matrices, [w for rho in rhos for w in spectral_decay.turning(rho, 0.3, 3)])


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (7, 3), (3, 7), (32, 32)])
def test_singular_values(shape):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(shape)
    graded = w * np.logspace(0, -6, shape[1])  # columns of very different size
    low = w[:, :1] @ w[:1]  # rank one
    for matrix in (w, graded, low):
        (found,) = calls([("steps.js", "singularValues", matrix.tolist())])
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13 * expected[0])


def test_the_relative_step_is_references():
    rng = np.random.default_rng(0)
    w, m = rng.standard_normal((2, 40))
    w[0], m[1] = 0.0, 0.0
    modules = {"Adam": (adam, {}), "Cautious": (cautious, {"rescale": "none"}), "Grams": (grams, {})}
    cases = list(itertools.product(modules, (0.3, 19.6, 23.5, 38.0), (0.0, 0.5, 0.9)))
    found = calls(
        [("steps.js", "relativeStep", name, *x, *how) for name, *how in cases for x in zip(w, m, strict=True)]
    )
    expected = [relative_step(modules[name][0], w, m, *how, **modules[name][1]) for name, *how in cases]
    close(np.array(found).reshape(len(cases), w.size, 2).swapaxes(1, 2), expected)


def test_the_growth_rates_are_references():
    a, starts = np.array([3.0, 12.0, 20.5, 23.5, 26.0, 37.0, 39.0]), np.random.default_rng(0).standard_normal((2, 4))
    found = calls([("steps.js", "adamGrowth", x, beta1) for x in a for beta1 in (0.5, 0.9)])
    symbols = sp.symbols("a beta1", positive=True)
    matrix = sp.lambdify(symbols, adam_matrix(*symbols))
    close(found, [np.log(abs(np.linalg.eigvals(matrix(x, b))).max()) for x in a for b in (0.5, 0.9)])
    ((threshold,),) = (calls([("steps.js", "adamThreshold", 0.9)]),)
    close(threshold, adam_threshold(0.9))
    how = {"steps": 400, "burn": 100, "starts": starts.T.tolist()}
    rates = calls([("steps.js", "growthRate", "Grams", x, 0.9, how) for x in a])
    expected = growth_rate(grams, a, 0.9, steps=400, burn=100, starts=4)
    assert np.sign(rates).tolist() == np.sign(expected).tolist()
    assert np.abs(np.array(rates) - expected).max() < 0.03  # where orbits are chaotic, rounding chooses among them


@pytest.mark.parametrize("name", ["Adam", "Grams"])
def test_each_step_of_a_long_run_at_rest_is_references(name):
    """Step by step, from the run's own states: a burst multiplies the last digits, so whole runs part in the end."""
    rule = {"Adam": adam, "Grams": grams}[name]
    t = np.arange(1500)
    for beta2, eps in ((0.95, 1e-8), (0.99, 1e-3), (0.99, 0.0), (0.0, 1e-8)):
        hyper = {"lr": 0.01, "beta1": 0.9, "beta2": beta2, "eps": eps}
        code = f"""
const {{ runAtRest }} = await import(`${{here}}/steps.js`);
const run = runAtRest("{name}", {json.dumps({**hyper, "steps": t.size})});
process.stdout.write(JSON.stringify(["w", "m", "v", "denominator"].map((key) => [...run[key]])));
"""
        w, m, v, denominator = (np.array(x) for x in json.loads(run(code)))
        assert [w[0], m[0], v[0]] == [1, 0, 0]
        moved, after = rule.step(w[:-1], w[:-1], rule.State(t, m[:-1], v[:-1]), **hyper)
        assert (np.abs(w[1:] - moved) <= 1e-12 * (np.abs(w[:-1]) + np.abs(moved))).all()
        assert (np.abs(m[1:] - after.m) <= 1e-12 * (np.abs(m[:-1]) + np.abs(w[:-1]))).all()
        np.testing.assert_allclose(v[1:], after.v, rtol=1e-12)
        np.testing.assert_allclose(denominator, np.sqrt(v[1:] / (1 - beta2 ** (t + 1))) + eps, rtol=1e-12)


def test_kappa_is_references():
    betas = np.linspace(0, 0.99, 12)
    close(calls([("steps.js", "kappa", b) for b in betas]), kappa(betas))


def test_the_flows_are_references():
    values = (-2.0, -0.5, 0.0, 0.3, 1.0)
    pairs = list(itertools.product(values, values))
    for flow in hamiltonian.FLOWS:
        found = calls([("steps.js", "velocity", flow, g, k) for g, k in pairs])
        g, k = np.array(pairs).T
        close(found, hamiltonian.velocity(flow, g, k))
    ball = hamiltonian.SYSTEMS["heavy ball"]
    force = sp.lambdify((hamiltonian.G, hamiltonian.S, hamiltonian.GAMMA), ball.equations[hamiltonian.S])
    found = calls([("steps.js", "force", g, s, 0.3) for g, s in pairs])
    close(found, [force(g, s, 0.3) for g, s in pairs])


A_TURNED = quadratic([1.0, 4.0], seed=3)


def rolled(name: str, friction: float, h: float, time: float) -> tuple[np.ndarray, np.ndarray]:
    """w and s along a run of the figure's solver; a quadratic of two eigenvalues, from (1, -0.7) at rest."""
    a = np.stack([A_TURNED.grad(e) for e in np.eye(2)]).tolist()
    script = f"""
const {{ {name} }} = await import(`${{here}}/steps.js`);
let [w, s] = [[1, -0.7], [0, 0]];
const rows = [[w, s]];
for (let t = 0; t < {round(time / h)}; t++) {{ [w, s] = {name}({a}, w, s, {h}, {friction}); rows.push([w, s]); }}
process.stdout.write(JSON.stringify(rows));
"""
    rows = np.array(json.loads(run(script)))
    return rows[:, 0], rows[:, 1]


@pytest.mark.parametrize("friction", [0.0, 0.5])
def test_the_balls_follow_references_flows(friction):
    constants = {hamiltonian.C: 0.0, hamiltonian.GAMMA: friction}
    how = {"w0": [1.0, -0.7], "time": 5.0, "constants": constants, "points": 251}
    plain = integrate(A_TURNED, "heavy ball", "plain", tolerance=1e-10, **how)
    w, s = rolled("rollPlain", friction, 0.005, 5.0)
    close(w[::4], plain.w, 1e-7)
    close(s[::4], plain.momentum, 1e-7)
    soft = integrate(A_TURNED, "heavy ball", "grams", width=1e-4, method="Radau", tolerance=1e-7, **how)
    errors = []
    for h in (0.01, 0.005):
        w, s = rolled("rollGrams", friction, h, 5.0)
        errors.append(np.abs(w[:: round(0.02 / h)] - soft.w).max())
        loss = np.array([A_TURNED.f(x) for x in w])
        energy = loss + (s**2).sum(axis=1) / 2
        assert np.diff(loss).max() <= 1e-15
        assert np.diff(energy).max() <= 1e-14
    assert errors[1] < 0.01 and errors[1] < 0.7 * errors[0]


def test_bfloat16_is_torchs():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(200) * 10.0 ** rng.integers(-20, 20, 200), [0.0, -0.0, 1.0, 1 + 2**-8]])
    x = np.concatenate([x, 1 + np.arange(64) * 2.0**-9])  # ties between two neighbours, and what lies by them
    expected = torch.tensor(x, dtype=torch.float64).float().bfloat16().double().numpy()
    found = np.array(calls([("steps.js", "bfloat16", y) for y in x]), dtype=np.float64)
    assert (found == expected).all()
    up = calls([("steps.js", "neighbour", y, 1) for y in (1.0, 0.99609375, 3.0)])
    assert up == [1.0078125, 1.0, 3.015625]


def test_the_second_moment_in_bfloat16_is_references_in_torch():
    rng = np.random.default_rng(0)
    v = np.concatenate([rng.random(300) * 10.0 ** rng.integers(-6, 3, 300), 1 + np.arange(128) / 128])
    g = rng.standard_normal(v.size) * 10.0 ** rng.integers(-3, 2, v.size)
    g[-128:] = 0.0
    low = torch.tensor(np.stack([v, g])).bfloat16()
    for beta2 in (0.9, 0.95, 0.99, 0.995, 0.996, 0.9962, 0.998, 0.999, 0.9999):
        state = adam.State(10, torch.zeros_like(low[0]), low[0])
        _, after = adam.step(torch.zeros_like(low[0]), low[1], state, lr=0.1, beta2=beta2)
        found = calls([("steps.js", "secondMoment16", *x, beta2) for x in low.double().T.tolist()])
        assert found == after.v.double().tolist(), beta2


def test_arrays_of_different_lengths_are_refused():
    for name, state in (("adam", {"t": 0, "m": [0], "v": [0]}), ("lion", {"m": [0]})):
        done = node(
            ["-e", f'import("./steps.js").then((m) => m.{name}([1, 2], [1, 2], {json.dumps(state)}, {{ lr: 1 }}))']
        )
        assert done.returncode != 0 and "must have one length, got 2, 2, 1" in done.stderr


def test_an_unknown_name_is_refused():
    for call in (
        'cautious([1], [1], m.init([1]), { lr: 1, rescale: "sum" })',
        'relativeStep("Lion", 1, 1, 1, 0.9)',
        'velocity("lion", 1, 1)',
    ):
        done = node(["-e", f'import("./steps.js").then((m) => m.{call})'])
        assert done.returncode != 0 and "RangeError" in done.stderr
