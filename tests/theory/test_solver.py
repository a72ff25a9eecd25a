"""Claims G1, G3, F3, A1, A8 by z3: no real numbers break them on the lines that run, and some do once an error is planted.

An error is planted in the source text of a rule, so that what z3 then reads is still one text with what NumPy runs; where
z3 names numbers, the planted lines are run on them and must break the claim too. Past 250 lines because each claim's
planted errors stand beside its proof.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from operations import ELEMENTWISE, X
from planted import planted

from reference import adam, adam_atan2, adams, adamw, cautious, grams, ops
from reference.theory import adaptive_spikes, hamiltonian


@pytest.fixture
def z3() -> Any:
    """Imported here, not above: a claim's test that is skipped for want of z3 is a failure (tests/conftest.py)."""
    return pytest.importorskip("z3", reason="the package z3-solver is not installed")


@pytest.fixture
def solver(z3: Any) -> Any:
    from reference.theory import solver

    return solver


@pytest.fixture
def claims(solver: Any) -> Any:
    from reference.theory import solver_claims

    return solver_claims


def broken(solver: Any, statements: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The statements for which z3 has numbers, and these."""
    found = {name: solver.counterexample(statement) for name, statement in statements.items()}
    return {name: numbers for name, numbers in found.items() if numbers is not None}


# G1


@pytest.mark.claim("G1")
@pytest.mark.parametrize("t", [None, 0, 5])
def test_no_numbers_break_the_order_of_first_order_decreases(solver, claims, t):
    statements = claims.decrease_order(t=t)
    assert len(statements) == 4 and not broken(solver, statements)


@pytest.mark.claim("G1")
def test_one_coordinate_speaks_for_all_because_the_rules_are_separable(solver, claims):
    for rule, options in ((adam, {}), (grams, {}), (cautious, {"rescale": "none"})):
        assert solver.counterexample(claims.separable(rule, 3, **options)) is None
    assert solver.counterexample(claims.separable(cautious, 3)), "the rescaling counts over all entries"
    assert not broken(solver, claims.decrease_order_in(2, "none"))


@pytest.mark.claim("G1")
def test_z3_finds_that_either_rescaling_breaks_the_order(solver, claims):
    assert not broken(solver, claims.decrease_order_in(1, "mean"))
    assert set(broken(solver, claims.decrease_order_in(2, "mean"))) == {"Grams <= Cautious"}
    for n in (1, 2):  # one coordinate alone goes half of Adam's way: dim / (kept + 1) = 1/2
        assert set(broken(solver, claims.decrease_order_in(n, "count"))) == {"Cautious <= Adam"}
    assert set(broken(solver, claims.decrease_order_in(3, "count"))) == {"Grams <= Cautious", "Cautious <= Adam"}


AVERAGE, SQUARES = "m = beta1 * m + (1 - beta1) * g", "v = beta2 * v + (1 - beta2) * g**2"
PLANTED_IN_G1 = {
    "Grams loses the sign": ("Grams", grams, "sign(g) * absolute(u)", "absolute(u)", "Grams <= Cautious"),
    "Grams turns the sign": ("Grams", grams, "sign(g) * absolute(u)", "-sign(g) * absolute(u)", "Grams <= Cautious"),
    "Grams has Adam's sign": ("Grams", grams, "sign(g) * absolute(u)", "sign(u) * absolute(u)", "Grams <= Cautious"),
    "Grams loses the absolute value": ("Grams", grams, "* absolute(u)", "* u", "Grams <= Cautious"),
    "Grams swaps the betas": ("Grams", grams, AVERAGE, AVERAGE.replace("beta1", "beta2"), "Grams <= Cautious"),
    "Grams corrects with beta2": ("Grams", grams, "1 - beta1**t", "1 - beta2**t", "Grams <= Cautious"),
    "Grams leaves out eps": ("Grams", grams, "(sqrt(vhat) + eps)", "(sqrt(vhat) + 2 * eps)", "Grams <= Cautious"),
    "Cautious reverses its mask": ("Cautious", cautious, "positive(u * g)", "positive(-u * g)", "Cautious <= Adam"),
    "Cautious masks nothing": ("Cautious", cautious, "alpha * phi * u", "alpha * u", "strict where they do not"),
    "Cautious climbs": ("Cautious", cautious, "w - lr * alpha", "w + lr * alpha", "Cautious <= Adam"),
    "Adam climbs": ("Adam", adam, "w - lr * mhat", "w + lr * mhat", "Cautious <= Adam"),
}


@pytest.mark.claim("G1")
@pytest.mark.parametrize("name", PLANTED_IN_G1)
def test_an_error_in_the_lines_breaks_the_order(solver, claims, name):
    rule, module, old, new, statement = PLANTED_IN_G1[name]
    rules = {**claims.RULES, rule: planted(module, old, new)}
    found = broken(solver, claims.decrease_order(rules, t=0))
    assert statement in found
    x = found[statement]
    change = {}
    for key, lines in rules.items():
        state = lines.State(0, x.get("m", 0.0), x.get("v", 0.0))
        hyper = {k: x.get(k, 0.5) for k in ("lr", "beta1", "beta2", "eps")} | claims.OPTIONS[key]
        w, g = np.float64(x.get("w", 0.0)), np.float64(x.get("g", 0.0))
        change[key] = float(g * (lines.step(w, g, state, **hyper)[0] - w))
    lower, _, upper = statement.partition(" <= ")
    strict = change["Grams"] < change["Cautious"] < change["Adam"]
    assert change[lower] > change[upper] if upper else change["Adam"] > 0 and not strict, (x, change)


# G3


@pytest.mark.claim("T6")
@pytest.mark.claim("G3")
def test_the_flows_are_the_lines_and_no_numbers_break_theorem_4_6(solver, claims):
    assert not broken(solver, claims.flow_of_lines())
    rises = broken(solver, claims.flow_rates())
    assert set(rises) == {"plain: L falls"}, "the plain flow's loss may rise; all else holds"
    assert rises["plain: L falls"]["g"] * rises["plain: L falls"]["k"] < 0


@pytest.mark.claim("T6")
@pytest.mark.claim("G3")
def test_without_either_condition_z3_has_a_counterexample(solver, claims):
    no_push, no_friction = (claims.flow_rates(push=False), claims.flow_rates(friction=False))
    for flow in ("cautious", "grams"):
        assert {f"{flow}: L falls", f"{flow}: H falls"} <= set(broken(solver, no_push))
        assert f"{flow}: H falls" in broken(solver, no_friction)
        assert f"{flow}: L falls" not in broken(solver, no_friction)


@pytest.mark.claim("T6")
@pytest.mark.claim("G3")
def test_no_choice_of_filippovs_on_a_surface_breaks_it(solver, claims):
    assert not broken(solver, claims.surface_rates())


@pytest.mark.claim("T7")
@pytest.mark.claim("G3")
def test_adams_energy_falls_up_to_four_alpha_and_rises_for_every_beta_beyond(solver, claims):
    assert not broken(solver, claims.adam_energy())
    unbounded = broken(solver, claims.adam_energy(bounded=False))
    assert set(unbounded) == {f"{flow}: H falls" for flow in hamiltonian.FLOWS}
    assert all(x["beta"] > 4 * x["alpha"] for x in unbounded.values())


PLANTED_IN_G3 = {
    "Grams turns the sign": ("-sign(g) * absolute(k)", "sign(g) * absolute(k)", "grams: L falls"),
    "Grams has the momentum's sign": ("-sign(g) * absolute(k)", "-sign(k) * absolute(k)", "grams: L falls"),
    "Grams loses the sign": ("-sign(g) * absolute(k)", "-absolute(k)", "grams: L falls"),
    "Cautious reverses its mask": ("g * k >= 0", "g * k <= 0", "cautious: L falls"),
    "Cautious goes half way": ("-where(g * k >= 0, k, 0 * k)", "-where(g * k >= 0, k / 2, 0 * k)", "cautious: H falls"),
}


@pytest.mark.claim("T6")
@pytest.mark.claim("G3")
@pytest.mark.parametrize("name", PLANTED_IN_G3)
def test_an_error_in_the_flow_breaks_the_theorem(solver, claims, name):
    old, new, statement = PLANTED_IN_G3[name]
    velocity = planted(hamiltonian, old, new).velocity
    assert statement in broken(solver, claims.flow_rates(velocity))
    flow = statement.partition(":")[0]
    assert f"{flow}: w" in broken(solver, claims.flow_of_lines(velocity=velocity)), "and it is not the lines' flow"
    energy = broken(solver, claims.adam_energy(velocity))
    assert f"{flow}: H falls" in energy or name == "Grams has the momentum's sign", "that is the plain flow"


@pytest.mark.claim("G3")
def test_a_velocity_that_sees_more_than_the_sign_is_not_what_the_surface_was_checked_for(solver, claims):
    velocity = planted(hamiltonian, "-sign(g) * absolute(k)", "-g * absolute(k)").velocity
    assert set(broken(solver, claims.surface_rates(velocity))) == {"grams: a side has one velocity"}


@pytest.mark.claim("T7")
@pytest.mark.claim("G3")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (AVERAGE, AVERAGE.replace("beta1", "beta2")),
        (SQUARES, SQUARES.replace("beta2", "beta1")),
        ("- lr * uhat", "+ lr * uhat"),
    ],
)
def test_an_error_in_the_lines_makes_them_another_flow(solver, claims, old, new):
    rules = {**hamiltonian.RULES, "grams": planted(grams, old, new)}
    assert any(name.startswith("grams") for name in broken(solver, claims.flow_of_lines(rules)))


# F3


@pytest.mark.claim("T8")
@pytest.mark.claim("F3")
@pytest.mark.parametrize("rule", [adam, adamw, adam_atan2, cautious, grams], ids=lambda rule: rule.__name__)
def test_no_gradient_takes_the_state_out_of_its_bounds(solver, claims, rule):
    assert not broken(solver, claims.state_bounds(rule))


@pytest.mark.claim("T8")
@pytest.mark.claim("F3")
def test_the_constant_of_m_squared_is_the_least_and_needs_its_condition(z3, solver, claims):
    assert solver.counterexample(claims.ratio_constant_is_least()) is None
    at = {"beta1": 0.9, "beta2": 0.95}
    constant = z3.substitute(claims.ratio_constant(), *((z3.Real(k), z3.RealVal(x)) for k, x in at.items()))
    exact = z3.simplify(constant).as_fraction()
    assert math.sqrt(exact) == pytest.approx(adaptive_spikes.ratio_bound(0.9, 0.95), rel=1e-14)
    # where beta1^2 >= beta2 no constant is kept: of m^2 <= c v a step leaves nothing for any c
    bound = claims.ratio_constant_is_least()
    elsewhere = (*bound.given[:5], claims.BETA1**2 >= claims.BETA2, *bound.given[6:7], claims.C > 0, bound.given[-1])
    assert solver.counterexample(solver.Statement(elsewhere, bound.claimed)) is None


PLANTED_IN_F3 = {
    "m forgets 1 - beta1": (AVERAGE, "m = beta1 * m + g", {"m", "m^2 <= C v"}),
    "m takes beta2": (AVERAGE, AVERAGE.replace("beta1", "beta2"), {"m"}),
    "v grows": (SQUARES, "v = beta2 * v + (1 + beta2) * g**2", {"v"}),
    "v loses the square": (SQUARES, "v = beta2 * v + (1 - beta2) * g", {"v", "m^2 <= C v"}),
    "v takes beta1": (SQUARES, SQUARES.replace("beta2", "beta1"), {"v"}),
}


@pytest.mark.claim("T8")
@pytest.mark.claim("F3")
@pytest.mark.parametrize("name", PLANTED_IN_F3)
def test_an_error_in_the_lines_breaks_the_states_bounds(solver, claims, name):
    old, new, statements = PLANTED_IN_F3[name]
    rule = planted(grams, old, new)
    found = broken(solver, {k: v for k, v in claims.state_bounds(rule).items() if k in statements})
    assert set(found) == statements
    if "m^2 <= C v" in statements:
        x = {k: found["m^2 <= C v"].get(k, 0.0) for k in ("beta1", "beta2", "lr", "m", "v", "g")}
        state, hyper = rule.State(0, x["m"], x["v"]), {k: x[k] for k in ("beta1", "beta2", "lr")}
        with np.errstate(invalid="ignore"):  # the planted v may be negative, and the step takes its root
            _, after = rule.step(np.float64(0), np.float64(x["g"]), state, **hyper)
        c = adaptive_spikes.ratio_bound(x["beta1"], x["beta2"]) ** 2
        assert x["m"] ** 2 <= c * x["v"] * (1 + 1e-9) and after.m**2 > c * after.v, x


# A1


@pytest.mark.claim("A1")
@pytest.mark.parametrize("as_released", [False, True], ids=["picture", "package"])
def test_no_numbers_break_the_steps_bound_or_its_scale_invariance(solver, claims, as_released):
    statements = claims.arctan_step(as_released=as_released)
    assert len(statements) == 5 and not broken(solver, statements)
    assert solver.counterexample(claims.separable(adams, 3, use_spectral_decay=False)) is None


@pytest.mark.claim("A1")
def test_the_bound_is_met_by_a_state_that_no_run_reaches(z3, solver, claims):
    statement = claims.arctan_step()["at most"]
    moved = statement.claimed.arg(0).arg(0)
    found = solver.counterexample(solver.Statement(statement.given, moved < claims.RIGHT))
    assert found and found["v"] == 0 and found["m"] > 0 and found.get("g", 0.0) == 0
    assert z3.is_const(claims.RIGHT)


PLANTED_IN_A1 = {
    "the root is lost": ("sqrt(nhat))", "nhat)", False, {"c > 0 changes nothing", "c < 0 turns it round"}),
    "the arguments are swapped": ("atan2(mhat, sqrt(nhat))", "atan2(sqrt(nhat), mhat)", False, {"at most"}),
    "an epsilon": ("sqrt(nhat))", "sqrt(nhat) + lr)", False, {"c > 0 changes nothing", "c < 0 turns it round"}),
    "the square is lost": ("g**2", "g", False, {"c > 0 changes nothing"}),
    "the sign is lost": ("atan2(mhat,", "atan2((mhat**2) / 2,", False, {"c < 0 turns it round"}),
    "a step twice as long": ("w - lr * atan2", "w - 2 * lr * atan2", False, {"at most", "less than"}),
    "the package's factor twice": ("lr / (1 - beta1**t)", "2 * lr / (1 - beta1**t)", True, {"at most", "less than"}),
    "n may fall below 0": ("(1 - beta2) * g**2", "(beta2 - 1) * g**2", False, {"less than"}),
}


@pytest.mark.claim("A1")
@pytest.mark.parametrize("name", PLANTED_IN_A1)
def test_an_error_in_the_lines_breaks_the_arctangents_claims(solver, claims, name):
    old, new, as_released, statements = PLANTED_IN_A1[name]
    found = broken(solver, claims.arctan_step(planted(adams, old, new), as_released=as_released, t=0))
    assert statements <= set(found)


# A8


@pytest.mark.claim("A8")
@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 2, 3)])
def test_no_numbers_part_a_stack_from_its_matrices(solver, claims, shape):
    assert solver.counterexample(claims.stack_of_matrices(shape)) is None


PLANTED_IN_A8 = {
    "the decay of the whole stack": ("u[..., :, None] * sigma", "u[..., :, None] / total(u * u) * sigma"),
    "squares over the stack": ("g**2", "total(g**2, axis=0)"),
    "gradients over the stack, later": (AVERAGE, f"{AVERAGE} + total(g, axis=0) * number(t - 1, g)"),  # not at step 1
    "the norm of the whole stack": ("u = normalize(wv)", "u = wv / sqrt(total(wv * wv))"),
}


@pytest.mark.claim("A8")
@pytest.mark.parametrize("name", PLANTED_IN_A8)
def test_an_error_in_the_lines_parts_a_stack_from_its_matrices(z3, solver, claims, name):
    """At two matrices and vectors u whose norms are rational; the rest of the state and the gradients are z3's choice."""
    statement = claims.stack_of_matrices(rule=planted(adams, *PLANTED_IN_A8[name]), t=3 if "later" in name else 0)
    chosen = {"w": (3, 4, -4, 3, 5, 12, -12, 5), "u": (1, 0, 1, 0)}
    pins = [z3.Real(f"{k}{i}") == x for k, values in chosen.items() for i, x in enumerate(values)]
    assert solver.counterexample(solver.Statement((*statement.given, *pins), statement.claimed)) is not None


# The reading and the solver themselves


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if n not in ("exp", "log", "sin", "number")])
def test_the_fourth_reading_of_an_operation(z3, solver, name):
    operation, expected = ELEMENTWISE[name]
    exact = np.vectorize(lambda e: z3.RealVal(str(e)), otypes=[object])(X)
    out = np.asarray(operation(exact), dtype=object)
    assert out.shape == np.shape(expected)
    near = [z3.And(a - b < 1e-12, b - a < 1e-12) for a, b in zip(out.flat, np.ravel(expected).tolist(), strict=True)]
    assert solver.counterexample(solver.Statement((), z3.And(*near))) is None
    off = z3.And(*(a - b > 1e-12 for a, b in zip(out.flat, np.ravel(expected).tolist(), strict=True)))
    assert solver.counterexample(solver.Statement((), off)) is not None


def test_a_single_number_of_z3_is_read_too(z3, solver):
    x = z3.Real("x")
    assert str(ops.exp(x)) == "exp(x)" and str(ops.atan2(x, 2 * x)) == "atan2(x, 2*x)"
    assert ops.mean(x) is x and ops.total(x) is x and ops.shape_of(x) == ()
    twice = ops.where(ops.positive(x), ops.ones_like(x) + ops.number(1, x), ops.zeros_like(x))
    assert solver.counterexample(solver.Statement((x > 0,), z3.And(twice == 2, ops.maximum(-x, 3) == 3))) is None
    assert solver.counterexample(solver.Statement((x == 0,), z3.And(twice == 0, ops.sign(x) == 0))) is None


def test_what_z3_is_told_of_the_arctangent_is_true(z3, solver):
    """Facts are checked on points of all quadrants: with the angles' true values none may be violated."""
    points = [(y, x) for y in (-2.0, -1.0, 0.0, 1.0, 2.0) for x in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    triples = [tuple(map(z3.RealVal, (y, x, math.atan2(y, x) if (y, x) != (0, 0) else 0))) for y, x in points]
    facts = [f for a in triples for f in solver._one_angle(*a)]
    pairs = [f for a in triples for b in triples for f in solver._two_angles(a, b)]
    right = (solver.RIGHT, z3.RealVal(math.pi / 2))
    held = [z3.simplify(z3.substitute(f, right)) for f in facts + pairs]
    assert len(held) == 25 * 7 + 625 * 2 and all(z3.is_true(f) for f in held)


def test_assumptions_that_nothing_meets_and_a_solver_that_gives_up_are_named(z3, solver, claims, monkeypatch):
    x = z3.Real("x")
    with pytest.raises(ValueError, match="no numbers meet the assumptions"):
        solver.counterexample(solver.Statement((x > 0, ops.sqrt(x) < 0), x == 1))
    monkeypatch.setattr(solver, "_EFFORT", 1)
    with pytest.raises(RuntimeError, match="neither a proof nor a counterexample"):
        solver.counterexample(claims.stack_of_matrices())
