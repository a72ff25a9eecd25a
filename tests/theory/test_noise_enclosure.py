"""kappa and Grams' long-run variance between bounds, against quadrature, the float formulas and one another (G9)."""

from __future__ import annotations

import numpy as np
import pytest
from flint import acb, arb

from reference import grams
from reference.theory import gradient_noise, noise_enclosure
from reference.theory.balls import precision

TEN = arb("5e-11")  # half of the tenth digit after the point


@pytest.mark.claim("T4")
@pytest.mark.claim("G9")
@pytest.mark.parametrize(
    ("beta1", "value"),
    [("0.5", "0.8504429651"), ("0.9", "0.4185781193"), ("0.99", "0.1347843186"), ("0.3", "0.9461719913")],
)
def test_kappa_to_ten_digits_by_formula_and_by_quadrature(beta1, value):
    formula, integral = noise_enclosure.kappa(beta1), noise_enclosure.kappa_integral(beta1)
    for found in (formula, integral):
        assert found.rad() < arb("1e-30") and abs(found - arb(value)) < TEN
    assert formula.overlaps(integral)
    assert float(formula) == pytest.approx(float(gradient_noise.kappa(float(beta1))), rel=1e-14)


@pytest.mark.claim("G9")
@pytest.mark.parametrize(("beta1", "value"), [("0.5", "0.7484958207"), ("0.9", "0.1915022648")])
def test_the_long_run_variance_to_ten_digits(beta1, value):
    found = noise_enclosure.long_run_variance(beta1)
    assert found.rad() < arb("1e-15") and abs(found - arb(value)) < TEN
    series = gradient_noise.long_run_variance(grams, 0.0, float(beta1))
    assert abs(float(found) - series) < 1e-5 * series  # 60 orders of the plain series: five digits
    fewer = noise_enclosure.long_run_variance(beta1, orders=41, bits=300)
    assert fewer.overlaps(found) and fewer.rad() > found.rad()  # what is left out is bounded, not forgotten


@pytest.mark.claim("G9")
def test_floor_and_spread_at_equal_drift_to_ten_digits():
    """On a noisy bowl Grams' floor over Adam's is V / kappa at one lr, and V / kappa^2 at equal drift: above 1 (not quieter)."""
    variance, drift = noise_enclosure.long_run_variance("0.9"), noise_enclosure.kappa("0.9")
    assert abs(variance / drift - arb("0.4575066300")) < TEN
    assert abs(variance / drift**2 - arb("1.0930017813")) < TEN
    for beta1 in ("0.3", "0.7", "0.95"):
        assert noise_enclosure.long_run_variance(beta1, orders=801, bits=1600) > noise_enclosure.kappa(beta1) ** 2


@pytest.mark.parametrize("beta1", ["0.4", "0.9"])
def test_the_coefficients_are_those_of_the_conditional_means(beta1):
    with precision(300):
        rows = noise_enclosure.coefficients(beta1, 31)
        norms = noise_enclosure._Coefficients(31).norms
        for n in (1, 3, 8 + 1, 31):
            for row, which in zip(rows, (0, 1), strict=True):

                def product(z, _, n=n, which=which):
                    hermite, before = z, acb(1)
                    for j in range(1, n):
                        hermite, before = z * hermite - j * before, hermite
                    density = (-(z**2) / 2).exp() / acb((2 * arb.pi()).sqrt())
                    return noise_enclosure.conditional_means(beta1, z)[which] * hermite * density

                integral = 2 * acb.integral(product, acb(0), acb(40)).real / norms[n]
                assert abs(row[n] - integral) < arb("1e-30"), (n, which)


def test_the_conditional_means_are_those_of_the_float_formulas():
    """c and d against `gradient_noise`, whose drift and variance are held against the rules' own steps."""
    b = 0.9
    for z in (0.1, 0.7, 2.5):
        y = np.array([z * np.sqrt((1 - b) / (1 + b))])
        c, d = noise_enclosure.conditional_means("0.9", acb(z))
        assert float(c.real) == pytest.approx(float(gradient_noise._given_momentum(y, 0.0, b)[0]), rel=1e-12)
        assert float(d.real) == pytest.approx(float(gradient_noise._given_previous(y, 0.0, b)[0]), rel=1e-12)


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="decimal as text"):
        noise_enclosure.kappa(0.9)  # pyright: ignore[reportArgumentType]
    for beta1 in ("0", "1", "1.5"):
        with pytest.raises(ValueError, match="beta1"):
            noise_enclosure.kappa(beta1)
    with pytest.raises(ValueError, match="odd"):
        noise_enclosure.long_run_variance("0.9", orders=40)
