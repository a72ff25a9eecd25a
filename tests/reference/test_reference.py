"""What holds for every algorithm of the shelf: three readings of one text, nothing in place, shapes, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from shelf import CASES, IDS, ODD, RULES, VARIANTS, draws, fields, hyper, plain, run

from reference import adams, cautious, cautious_lion, lion

SHAPE = (4, 3)
each_case = pytest.mark.parametrize(("name", "variant"), CASES, ids=IDS)


def test_the_whole_shelf_was_found():
    assert set(RULES) == {
        "adam",
        "adamw",
        "adam_atan2",
        "adam_mini",
        "adams",
        "cautious",
        "cautious_lion",
        "cautious_weight_decay",
        "grams",
        "lion",
    }
    assert set(VARIANTS) <= set(RULES)


# ---------------------------------------------------------------------------------------------- three readings


@each_case
def test_numpy_and_torch_read_the_same_numbers(name, variant):
    rule = RULES[name]
    kwargs = hyper(rule, lr=0.07, beta1=0.77, beta2=0.83, **ODD, **variant)
    w, gs = draws(SHAPE, 20)
    w_np, s_np = run(rule, w, gs, **kwargs)
    w_t, s_t = run(rule, torch.tensor(w), [torch.tensor(g) for g in gs], **kwargs)
    assert w_t.dtype == torch.float64
    # 1e-13: both are float64, they differ in the order of a sum and in the last bit of sqrt and atan2
    np.testing.assert_allclose(w_t.numpy(), w_np, rtol=1e-13, atol=1e-13)
    got, want = fields(s_t), fields(s_np)
    assert got.keys() == want.keys()
    for field in want:
        np.testing.assert_allclose(got[field], want[field], rtol=1e-13, atol=1e-13, err_msg=field)


def symbols_like(x: Any, prefix: str, **assumptions: bool) -> np.ndarray:
    names = [sp.Symbol(f"{prefix}{i}", **assumptions) for i in range(np.size(x))]
    return np.array(names, dtype=object).reshape(np.shape(x))


@each_case
def test_sympy_reads_the_formula_that_numpy_computes(name, variant):
    """One symbolic step from a symbolic state, with symbolic lr, betas and decay; then the numbers are put in."""
    rule = RULES[name]
    kwargs = hyper(rule, lr=0.07, beta1=0.77, beta2=0.83, **ODD)
    w, gs = draws(SHAPE, 4)
    w, state = run(rule, w, gs[:3], **kwargs, **variant)
    w_np, s_np = rule.step(w, gs[3], state, **kwargs, **variant)

    letters = {"v": "positive", "sigma": "positive"}
    symbolic = {
        k: symbols_like(v, f"{k}_", **{letters.get(k, "real"): True})
        for k, v in state._asdict().items()
        if v is not None and k != "t"
    }
    w_s, g_s = symbols_like(w, "w_", real=True), symbols_like(gs[3], "g_", real=True)
    scalars = {k: sp.Symbol(k, positive=True) for k in kwargs}
    out, s_out = rule.step(w_s, g_s, state._replace(**symbolic), **scalars, **variant)

    arrays = [*symbolic.values(), w_s, g_s, np.array(list(scalars.values()), dtype=object)]
    numbers = [*(getattr(state, k) for k in symbolic), w, gs[3], np.array(list(kwargs.values()))]
    cached_views = [s for a in arrays for s in a.ravel()]
    values = [float(x) for n in numbers for x in np.ravel(n)]
    results = {"w": (out, w_np)} | {k: (v, getattr(s_np, k)) for k, v in s_out._asdict().items() if v is not None}
    for field, (formula, want) in results.items():
        entries = list(np.ravel(formula))
        assert field == "t" or all(isinstance(e, sp.Expr) for e in entries), field
        got = np.array(sp.lambdify(cached_views, entries, modules="numpy", cse=True)(*values), dtype=float)
        np.testing.assert_allclose(got, np.ravel(want), rtol=1e-12, atol=1e-13, err_msg=field)


@pytest.mark.parametrize(("name", "variant"), [c for c in CASES if c[1].get("blocks", "tensor") == "tensor"])
def test_a_single_symbol_is_a_parameter_too(name, variant):
    rule = RULES[name]
    kwargs = hyper(rule, lr=0.07, beta1=0.77, beta2=0.83, **ODD)
    w, g = sp.Symbol("w", real=True), sp.Symbol("g", real=True)
    out, state = run(rule, w, [g, 2 * g], **kwargs, **variant)
    want, _ = run(rule, np.array([0.4]), [np.array([-0.3]), np.array([-0.6])], **kwargs, **variant)
    assert isinstance(out, sp.Expr)
    assert float(out.subs({w: 0.4, g: -0.3}).evalf()) == pytest.approx(want.item(), rel=1e-12)
    assert all(isinstance(v, sp.Expr) for k, v in state._asdict().items() if k != "t" and v is not None)


@pytest.mark.parametrize(
    ("name", "variant", "what"),
    [
        pytest.param(name, variant, what, id=f"{case}-{what}")
        for (name, variant), case in zip(CASES, IDS, strict=True)
        for what in hyper(RULES[name], lr=0, beta1=0, beta2=0, **ODD)
    ],
)
def test_torch_differentiates_a_run_with_respect_to_its_hyper_parameters(name, variant, what):
    rule = RULES[name]
    kwargs = hyper(rule, lr=0.07, beta1=0.77, beta2=0.83, **ODD, **variant)
    w, gs = draws(SHAPE, 5, seed=3)
    weights = np.linspace(-1, 2, w.size).reshape(SHAPE)

    def final(x: Any, array: Any) -> Any:
        out, _ = run(rule, array(w), [array(g) for g in gs], **(kwargs | {what: x}))
        return (out * array(weights)).sum()

    x = torch.tensor(kwargs[what], dtype=torch.float64, requires_grad=True)
    (final(x, torch.tensor) + 0 * x).backward()  # + 0 x: a hyper-parameter that a variant ignores has the slope 0
    h = 1e-6
    slope = (final(kwargs[what] + h, np.array) - final(kwargs[what] - h, np.array)) / (2 * h)
    # central differences: h^2 from the third derivative, 1e-16 / h from rounding
    assert x.grad is not None and x.grad.item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


# ---------------------------------------------------------------------------------------------- pure functions


@each_case
@pytest.mark.parametrize("array", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_arguments_are_not_modified(name, variant, array):
    rule = RULES[name]
    w, gs = draws(SHAPE, 3)
    w, gs = array(w), [array(g) for g in gs]
    kwargs = hyper(rule, lr=0.07, **ODD, **variant)
    w, state = run(rule, w, gs[:2], **kwargs)
    before = [plain(w), plain(gs[2]), fields(state)]
    w2, _ = rule.step(w, gs[2], state, **kwargs)
    np.testing.assert_array_equal(plain(w), before[0])
    np.testing.assert_array_equal(plain(gs[2]), before[1])
    for k, v in fields(state).items():
        np.testing.assert_array_equal(v, before[2][k])
    assert not np.array_equal(plain(w2), before[0])
    again, _ = rule.step(w, gs[2], state, **kwargs)  # and there is no hidden memory
    np.testing.assert_array_equal(plain(again), plain(w2))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 2, 2), (2, 1, 3, 2, 2)], ids=str)
def test_every_shape_keeps_its_shape(name, shape):
    rule = RULES[name]
    w, gs = draws(shape, 3)
    for array in (np.array, torch.tensor):
        out, state = run(rule, array(w), [array(g) for g in gs], lr=0.01)
        assert tuple(out.shape) == shape
        assert np.isfinite(plain(out)).all()
        assert tuple(state.m.shape) == shape


@pytest.mark.parametrize(
    ("name", "variant"),
    # the others mix entries: a singular vector, a block's mean, a count over the tensor
    [c for c in CASES if c[0] not in ("adams", "adam_mini") and c[1].get("rescale", "none") == "none"],
)
def test_entries_do_not_mix(name, variant):
    rule = RULES[name]
    w, gs = draws(SHAPE, 3)
    kwargs = hyper(rule, lr=0.07, **ODD, **variant)
    whole, _ = run(rule, w, gs, **kwargs)
    for i in np.ndindex(SHAPE):
        entry, _ = run(rule, w[i], [g[i] for g in gs], **kwargs)
        assert entry == pytest.approx(whole[i], rel=1e-15)


@pytest.mark.parametrize("name", RULES)
def test_an_unknown_hyper_parameter_is_a_type_error(name):
    w = np.ones(2)
    with pytest.raises(TypeError, match="momentum"):
        RULES[name].step(w, w, RULES[name].init(w), lr=0.1, momentum=0.9)
    with pytest.raises(TypeError, match="lr"):
        RULES[name].step(w, w, RULES[name].init(w))


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_always_zero_moves_nothing(name):
    w = np.array([[1.0, -2.0], [0.5, 3.0]])
    rule = RULES[name]
    out, _ = run(rule, w, [0 * w] * 3, lr=0.1, **hyper(rule, weight_decay=0.0, scalar_vector_weight_decay=0.0))
    np.testing.assert_array_equal(out, w)


@pytest.mark.parametrize("name", RULES)
def test_a_nan_is_not_hidden(name):
    """A NaN in a gradient's entry is at once a NaN in the parameter's, where the rule takes a sign or a mask too."""
    rule = RULES[name]
    for array in (np.array, torch.tensor):
        w, g = array([1.0, 2.0]), array([np.nan, 1.0])
        out, _ = run(rule, w, [g], lr=0.1)
        assert np.isnan(plain(out)[0])


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("array", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_shapes_that_would_broadcast_are_refused(name, array):
    rule = RULES[name]
    row, column, one = array([[1.0, 2.0, 3.0]]), array([[1.0], [2.0]]), array(1.0)
    for w, g, state in ((row, column, row), (row, one, row), (one, row, one), (row, row, column)):
        with pytest.raises(ValueError, match=r"must have one shape, got w \(.*\), g \(.*\), m \(.*\); make the state"):
            rule.step(w, g, rule.init(state), lr=0.1)


@pytest.mark.parametrize("rule", [cautious, cautious_lion])
def test_an_unknown_rescaling_is_refused(rule):
    with pytest.raises(ValueError, match='"count", "mean" or "none", got \'sum\''):
        rule.step(np.ones(2), np.ones(2), rule.init(np.ones(2)), lr=0.1, rescale="sum")


def test_lion_and_adams_carry_no_epsilon():
    for rule in (lion, adams, RULES["adam_atan2"], cautious_lion):
        assert "eps" not in rule.step.__kwdefaults__
