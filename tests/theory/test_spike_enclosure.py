"""A4 between bounds: heights of the spikes, the loss that they reach, and the outlier's way."""

from __future__ import annotations

from typing import Any

import pytest
from flint import arb

from reference import adam, adam_atan2, adams
from reference.theory import adaptive_spikes
from reference.theory.balls import Undecided, precision
from reference.theory.spike_enclosure import outlier_way, spike

RULES: dict[str, Any] = {"adam": (adam, "1e-8"), "adam_atan2": (adam_atan2, None), "adams": (adams, None)}


@pytest.mark.claim("A4")
@pytest.mark.parametrize(
    ("name", "beta2", "steps", "crossing", "height"),
    [
        ("adam", "0.95", 1400, 378, "0.120395"),
        ("adams", "0.95", 1400, 397, "0.128228"),
        ("adam_atan2", "0.95", 1400, 397, "0.128228"),
        ("adam", "0.99", 2300, 1579, "0.329501"),
        ("adams", "0.99", 2300, 1608, "0.325260"),
    ],
)
def test_the_height_of_the_first_spikes_is_certain(name, beta2, steps, crossing, height):
    rule, eps = RULES[name]
    found = spike(rule, beta2=beta2, steps=steps, bits=3000, eps=eps)
    assert found.crossing == crossing
    assert abs(found.height - arb(height)) < arb("1e-6") and found.height.rad() < arb("1e-6")
    assert found.height > 300 * found.quiet  # on a noiseless bowl
    loss = (found.height * arb("0.01")) ** 2 / 2
    assert (
        loss < arb("1e-6") if beta2 == "0.95" else loss < arb("6e-6")
    )  # and yet of no size: 8e-7 of a first loss of 1/2
    floats = adaptive_spikes.run_quadratic(
        rule, beta2=float(beta2), steps=steps, eps=None if eps is None else float(eps)
    )
    assert floats.crossing == crossing - 1 and floats.height == pytest.approx(float(found.height), rel=1e-6)


@pytest.mark.claim("A4")
@pytest.mark.parametrize(
    ("name", "start", "eps", "height"),
    [
        ("adam", "2", "1e-8", "0.119312"),
        ("adams", "2", None, "0.117548"),
        ("adam", "0.3", "1e-8", "0.133836"),
        ("adams", "0.3", None, "0.115902"),
        ("adam", "1", "1e-6", "0.116115"),
    ],
)
def test_the_heights_are_of_a_start_and_of_adams_eps(name, start, eps, height):
    """The ledger once named neither. From 1 Adams' first spike is the higher one at beta2 = 0.95; from 2 and 0.3 Adam's is."""
    found = spike(RULES[name][0], beta2="0.95", steps=800, bits=2000, eps=eps, start=start)
    assert abs(found.height - arb(height)) < arb("1e-6") and found.height.rad() < arb("1e-6")


@pytest.mark.claim("A4")
@pytest.mark.parametrize(
    ("beta2", "plain", "angle"), [("0.95", "5.8368130046", "5.7064649367"), ("0.999", "31.7658301364", "20.8643657392")]
)
def test_an_outlier_carries_adams_several_learning_rates_for_certain(beta2, plain, angle):
    with precision(128):
        for text, which in ((plain, False), (angle, True)):
            found = outlier_way("0.9", beta2, angle=which)
            assert found.rad() < arb("1e-20")
            assert float(found) == pytest.approx(
                adaptive_spikes.outlier_limit(0.9, float(beta2), angle=which), rel=1e-12
            )
            assert abs(found - arb(text)) < arb("5e-11")
        assert outlier_way("0.9", beta2, angle=True) > 5  # clipped at most 1.92: the evidence that refutes


@pytest.mark.slow
@pytest.mark.claim("A4")
@pytest.mark.parametrize(
    ("name", "beta2", "steps", "bits", "height"),
    [
        ("adam", "0.95", 4000, 9000, "0.120395"),
        ("adams", "0.95", 4000, 9000, "0.128228"),
        ("adam", "0.999", 14_500, 20_000, "1.078775"),
        ("adams", "0.999", 14_500, 20_000, "0.527875"),
    ],
)
def test_the_heights_of_longer_runs_are_certain(name, beta2, steps, bits, height):
    rule, eps = RULES[name]
    found = spike(rule, beta2=beta2, steps=steps, bits=bits, eps=eps)
    assert abs(found.height - arb(height)) < arb("1e-6")


def test_too_few_bits_are_said_and_not_guessed():
    with pytest.raises(Undecided, match="too wide"):
        spike(adam, beta2="0.95", steps=1400, bits=128, eps="1e-8")


def test_what_never_crosses_is_said():
    with pytest.raises(ValueError, match="take more"):
        spike(adam, beta2="0.95", steps=50, bits=300, eps="1e-8")
    with pytest.raises(ValueError, match="less than sqrt"):
        outlier_way("0.95", "0.9", angle=True)
