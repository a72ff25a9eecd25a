"""What each living figure's caption says is so, by its own model and by `reference`."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import sympy as sp
from living_figures import ROOT, RULES, calls, close, needs_node, numbers, run, words

from reference import adam, cautious, grams
from reference.theory import adaptive_spikes, spectral_decay
from reference.theory.descent import counterexample
from reference.theory.gradient_noise import kappa, long_run_variance
from reference.theory.step_stability import expanding_orbit

pytestmark = needs_node


def test_grams_rule_a_hair_across_an_axis():
    late = grams.State(10**9, np.array([0.85, 0.5]), np.ones(2))
    for gx, gy in ((0.7, 0.12), (0.7, -0.05), (-0.03, 0.9), (1.0, 0.9), (-0.4, -0.6)):
        (found,) = numbers("grams_rule", {"gx": gx, "gy": gy})
        g = np.array([gx, gy])
        for name, rule in (("Adam", adam), ("Cautious", cautious), ("Grams", grams)):
            extra = {"rescale": "none"} if rule is cautious else {}
            d = -rule.step(np.zeros(2), g, rule.State(*late), lr=1.0, **extra)[0]
            close(found["d"][name], d)
            close(found["slope"][name], d @ g)
        assert found["slope"]["Grams"] >= found["slope"]["Cautious"] >= found["slope"]["Adam"]
        nearer = int(abs(gy) < abs(gx))
        assert found["leap"]["Adam"] < 1e-9
        height = 0.9 * late.m[nearer] / math.sqrt(0.999)  # that of u at g = 0
        close(found["leap"]["Grams"], 2 * height, 1e-8)
        close(found["leap"]["Cautious"], height, 1e-8)


def test_long_step_best_at_first_then_35_times_worse():
    exact = counterexample()
    short, at, long = numbers("long_step", {"eta": 0.01}, {"eta": 0.55}, {"eta": 0.8})
    assert short["loss"]["Grams"] < short["loss"]["Cautious"] < short["loss"]["Adam"]
    for name in RULES:
        close(at["loss"][name], float(exact[f"loss {name}"]), 1e-7)  # there eps is 0
    assert f"{at['worse']:.0f}" == "35" and words("long_step").count("35 times") == 2
    assert long["worse"] > at["worse"]
    below, above = numbers("long_step", {"eta": 0.99 * at["star"]}, {"eta": 1.01 * at["star"]})
    assert below["worse"] < 1 < above["worse"]
    (one,) = numbers("long_step", {"before": 1})
    assert one["agree"] and one["loss"]["Grams"] == one["loss"]["Cautious"] == one["loss"]["Adam"]


def test_rotated_bowl_a_lead_of_four_melts_away():
    code = """
const { start, advance } = await import(`${here}/rotated_bowl.js`);
const rows = [[0, 2], [45, 2], [45, 2.5]].map(([degrees, logKappa]) =>
  Array.from({ length: 9 }, (_, seed) => {
    const sim = start({ degrees, logKappa }, null, seed);
    while (advance(sim));
    return ["Adam", "Cautious", "Grams"].map((name) => sim.best[name].steps);
  }),
);
process.stdout.write(JSON.stringify(rows));
"""
    rows = np.array(json.loads(run(code)))  # (bowl, starts, rule)
    along, at_100, at_300 = (rows[:, :, 0] / rows[:, :, 2]).tolist()
    assert min(along) > 3.5 and max(along) < 5.5  # "a lead of four"
    assert 0.7 < np.median(at_100) < 1.1  # "the lead is gone"
    assert max(at_300) < 0.9  # "at 316 Adam is faster"
    middle = np.median(rows[1:], axis=1)
    assert (middle[:, 1] < 0.95 * middle[:, [0, 2]].min(axis=1)).all()  # "Cautious is the fastest of the three"
    flat, turned = numbers("rotated_bowl", {}, {"degrees": 45})
    assert 3.5 < flat["lead"] < 4.5 and 0.8 < turned["lead"] < 1.05
    assert turned["best"]["Cautious"]["steps"] < 0.9 * turned["best"]["Adam"]["steps"]


@pytest.mark.parametrize("name", RULES)
def test_rotated_bowl_counts_the_steps_that_references_rules_take(name):
    rule, extra = {"Adam": (adam, {}), "Cautious": (cautious, {"rescale": "none"}), "Grams": (grams, {})}[name]
    script = f"""
const {{ hessian, race, starts }} = await import(`${{here}}/rotated_bowl.js`);
const [a, from] = [hessian(30, 20), starts(3)];
const one = (lr) => {{
  const run = race("{name}", a, from, lr, 700);
  for (;;) {{ const found = run.next(); if (found.done) return found.value; }}
}};
process.stdout.write(JSON.stringify([a, from, [0.03, 0.1, 0.3].map(one)]));
"""
    a, start, found = json.loads(run(script))
    a, start = np.array(a), np.array(start).reshape(-1, 2)
    close(np.linalg.eigvalsh(a), [1 / 20, 1])
    for lr, steps in zip((0.03, 0.1, 0.3), found, strict=True):
        w, state, reached, held = start, rule.init(start), np.full(len(start), np.inf), np.zeros(len(start))
        goal = 1e-6 * ((start @ a) * start).sum(axis=1) / 2
        for t in range(1, 751):
            w, state = rule.step(w, w @ a, state, lr=lr, **extra)
            held = np.where(((w @ a) * w).sum(axis=1) / 2 <= goal, held + 1, 0)
            reached = np.where((held == 50) & np.isinf(reached), t - 49, reached)
        assert abs(np.median(reached) - steps) <= 1  # a loss that meets the goal to the last bit may do so a step later


def test_noise_walk_grams_crawls_and_matched_its_calm_is_gone():
    """Means over seeds, with their own standard errors: nothing here hangs on one draw."""
    code = """
const { model, start, step, STEPS } = await import(`${here}/noise_walk.js`);
const rows = [];
for (const [matched, seeds] of [[false, 24], [true, 2]]) {
  for (let seed = 1; seed <= seeds; seed++) {
    const state = { logBatch: 0, beta1: 0.9, matched };
    const sim = start(state, null, seed);
    while (sim.t < STEPS) step(sim);
    const { speed, calm } = model(state, sim);
    rows.push([speed, calm]);
  }
}
process.stdout.write(JSON.stringify(rows));
"""
    rows = np.array(json.loads(run(code)))
    same, matched = rows[:24], rows[24:]
    mean, error = same.mean(axis=0), same.std(axis=0, ddof=1) / math.sqrt(24)
    k, v = float(kappa(0.9)), long_run_variance(grams, 0.0, 0.9)
    assert abs(mean[0] - k) < 4 * error[0] + 0.005
    assert abs(mean[1] - math.sqrt(v)) < 4 * error[1] + 0.02  # theory is of a v that stands still, and of long walks
    np.testing.assert_allclose(matched, same[:2] / k, rtol=1e-9)  # Grams' steps are longer by 1 / kappa, no more
    assert (mean[1] - 4 * error[1]) / k > 1  # "it spreads a little more than Adam"
    assert f"at {100 * k:.0f}\u00a0% of Adam's speed" in words("noise_walk")


def test_noise_walk_a_large_batch_takes_the_difference_away():
    same, matched = numbers("noise_walk", {"logBatch": 12}, {"logBatch": 12, "matched": True})
    assert abs(same["speed"] - 1) < 0.01  # 3.2 deviations of signal: hardly a gradient disagrees
    assert matched["speed"] == pytest.approx(1 / float(kappa(0.9)), rel=0.01)  # and lr / kappa is too long a step


def test_noise_walk_walks_as_reference_does():
    script = """
const { signal, start, step } = await import(`${here}/noise_walk.js`);
const sim = start({ logBatch: 4, beta1: 0.8, matched: true }, null, 7);
const [noise, draw] = [[], sim.noise];
sim.noise = () => { const x = draw(); noise.push(x); return x; };
for (let t = 0; t < 50; t++) step(sim);
process.stdout.write(JSON.stringify([signal(4), noise, sim.walks.Adam.w, sim.walks.Grams.w]));
"""
    snr, noise, *walks = json.loads(run(script))
    half = np.array(noise).reshape(50, -1)
    assert snr == pytest.approx(0.05 * 4) and abs(half.mean()) < 0.05 and abs(half.std() - 1) < 0.05
    for rule, lr, found in ((adam, 1.0, walks[0]), (grams, 1 / float(kappa(0.8)), walks[1])):
        w = np.zeros(2 * half.shape[1])
        state = rule.init(w)._replace(t=10**9, m=w + snr, v=w + 1 + snr**2)
        for x in half:
            w, state = rule.step(w, np.concatenate([snr + x, snr - x]), state, lr=-lr, beta1=0.8, eps=0.0)
        close(found, w, 1e-11)  # fifty steps of 1e-12 and less


def test_windows_explodes_at_23_5_calm_at_26():
    at, beside, last, beyond = numbers("windows", {"a": 23.5}, {"a": 26}, {"a": 37.95}, {"a": 38.05})
    a: Any = sp.Rational(47, 2)
    beta1: Any = sp.Rational(9, 10)
    orbit = expanding_orbit(grams, a, beta1, (True, True, False))
    assert orbit is not None
    factor = abs(float(orbit.factor))
    close(at["rates"]["Grams"], math.log(factor) / 3, 1e-3)  # a run comes to this orbit
    assert f"by a factor of {factor:.2f} every three steps" in words("windows")
    assert beside["rates"]["Grams"] < -0.05
    for found in (at, beside, last):
        assert found["rates"]["Adam"] < 0 and found["rates"]["Cautious"] < 0
    assert beyond["rates"]["Adam"] > 0 and at["threshold"] == pytest.approx(38)
    size = np.abs(at["orbits"]["Grams"])
    assert size[-1] > 1e3 and abs(at["orbits"]["Adam"][-1]) < 0.5 and abs(beside["orbits"]["Grams"][-1]) < 0.1
    for a in (2.0, 10.0, 19.0):  # proved calm up to 19.6
        assert numbers("windows", {"a": a})[0]["rates"]["Grams"] < 0


def test_thermostat_is_calm_for_long_and_then_thrown_out():
    heights = {0.95: "0.1204", 0.99: "0.3295", 0.999: "1.0788"}  # Adam's in the ledger, A4, enclosed
    ledger = (ROOT / "reference" / "claims.toml").read_text(encoding="utf-8")
    memories = [math.log10(1 / (1 - b)) for b in heights]
    found = numbers("thermostat", *({"memory": x} for x in memories))
    for (beta2, height), x in zip(heights.items(), found, strict=True):
        spike = adaptive_spikes.run_quadratic(adam, eps=1e-8, beta2=beta2, steps=x["steps"])
        assert x["beta2"] == beta2 and x["crossing"] == spike.crossing
        assert (
            x["height"] == pytest.approx(spike.height, rel=1e-6) and f"{x['height']:.4f}" == height and height in ledger
        )
        assert x["quiet"] < 1e-3 * x["height"]
    assert found[0]["crossing"] < found[1]["crossing"] < found[2]["crossing"]  # "sooner"
    limit = 1e-2 / 38
    assert f"lr/38 = {limit:.5f}" in words("thermostat")
    eps = [{"logEps": math.log10(limit * x)} for x in (1.001, 2.0, 0.9)]
    above, far, below = numbers("thermostat", *eps)
    assert above["crossing"] is None and far["crossing"] is None and below["crossing"] is not None
    assert above["quiet"] < 1e-6


def test_energy_ball_grams_never_climbs():
    found = numbers(
        "energy_ball", {"friction": 0.5}, {"friction": 0}, {"x": -1.0, "y": 0.2, "friction": 0.2}, {"friction": 2}
    )
    for x in found:
        assert x["balls"]["Grams"]["climbed"] == 0.0 and x["balls"]["Adam"]["climbed"] > 0.01
        assert x["time"] == pytest.approx(10)
        path = np.array(x["balls"]["Grams"]["path"]).reshape(-1, 2)
        c, s = math.cos(0.6), math.sin(0.6)
        a = np.array([[c, -s], [s, c]]) @ np.diag([1, 4]) @ np.array([[c, s], [-s, c]])
        g = np.abs(path @ a)
        sliding = (g.min(axis=1) < 1e-9) & (g.max(axis=1) > 0.05)  # on one surface, not yet at the bottom
        assert sliding.sum() >= 5
    usual, free = found[0]["balls"], found[1]
    assert usual["Grams"]["kinetic"] < 1e-3 and usual["Adam"]["climbed"] > 1
    plain = free["balls"]["Adam"]
    assert plain["loss"] + plain["kinetic"] == pytest.approx(
        free["first"], rel=1e-6
    )  # without friction nothing is burnt


def test_shaving_the_small_ones_never_move():
    spectral, l2, past = numbers("shaving", {}, {"decay": "L2"}, {"share": 2.1})
    spectra = np.array(spectral["spectra"])
    ((matrix,),) = (calls([("shaving.js", "gaussian")]),)
    expected, estimates = spectral_decay.decay_alone(np.array(matrix), share=0.1, steps=150)
    np.testing.assert_allclose(spectra, expected, rtol=1e-9)  # 150 steps of 1e-12 and less
    np.testing.assert_allclose(
        spectral["estimates"], estimates, rtol=1e-6
    )  # the direction is less certain than the values
    left = spectra[-1] / spectra[0]
    assert left[0] < 0.5 and (np.abs(left[-7:] - 1) < 1e-3).all()
    shrunk = np.array(l2["spectra"])
    np.testing.assert_allclose(shrunk[-1] / shrunk[0], (1 - 0.1 / math.sqrt(32)) ** 150, rtol=1e-9)
    assert past["top"] > 1e3
    (kept,) = numbers("shaving", {"share": 1.9})
    assert kept["top"] < 1


def test_chase_past_10_2_degrees_the_follower_is_lapped():
    limit = math.degrees(spectral_decay.drift_limit(0.7))
    assert f"Past {limit:.1f}° a step" in words("chase")
    followed, lapped = numbers("chase", {"degrees": 10}, {"degrees": 11})
    assert followed["laps"] == 0 and lapped["laps"] >= 2 and followed["kept"] and not lapped["kept"]
    for degrees, found in ((10, followed), (11, lapped)):
        track = spectral_decay.track(spectral_decay.turning(0.7, math.radians(degrees), 120), np.ones(2))
        close(np.radians(found["errors"]), track.angle, 1e-7)  # acos of a cosine near 1 has half the digits
    assert followed["errors"][-1] == pytest.approx(followed["balance"], abs=0.5)
    script = """
const { start, step } = await import(`${here}/chase.js`);
const laps = [10.1, 10.2].map((degrees) => {
  const sim = start();
  for (let t = 0; t < 3000; t++) step(sim, { rho: 0.7, degrees });
  return [sim.laps, Math.max(...sim.errors.slice(100))];
});
process.stdout.write(JSON.stringify(laps));
"""
    (before, worst), (after, _) = json.loads(run(script))
    assert before == 0 and worst < 40 and after > 5  # "40° behind at the most"


def test_stuck_v_rises_and_never_falls():
    free, stuck, *_ = numbers("stuck_v", {"memory": 2}, {}, {"memory": 2.4})
    assert stuck["v"] == 0.5 and stuck["stuck"] and stuck["over"] > 30
    assert free["v"] < 3 * free["g"] ** 2
    assert free["below"] < free["v"] < free["above"]
    (up,) = numbers("stuck_v", {"logG": 0})
    assert up["stuck"] and up["v"] == 0.5 and up["exact"] > 0.98  # "stops early"
    assert max(v / exact for _, v, exact in up["trace"]) > 1.2  # "too fast"
    mantissas = [1 + k / 128 for k in range(128)]
    gap = [2**-9 if m == 1 else 2**-8 for m in mantissas]  # half the way to the next number below; a tie stays, on even
    falls = {}
    for beta2 in (0.999, 0.998, 0.9965, 0.9961, 0.996, 0.99):
        moved = calls([("steps.js", "secondMoment16", m, 0, beta2) for m in mantissas])
        falls[beta2] = [after < m for after, m in zip(moved, mantissas, strict=True)]
        assert falls[beta2] == [(1 - beta2) * m > half * (1 + 1e-6) for m, half in zip(mantissas, gap, strict=True)], (
            beta2
        )
    assert not any(falls[0.999]) and not all(falls[0.9965]) and all(falls[0.996]) and all(falls[0.99])
    assert free["over"] > 1.05  # "if not all the way"
    assert "Below β₂ = 0.996 it is free to fall" in words("stuck_v")
