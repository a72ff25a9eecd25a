"""The ledger's verdicts about training, recomputed from the protocol and the committed numbers of the trials alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from experiments.trials.protocol import Protocol
from experiments.trials.statistics import (
    Difference,
    counts,
    differences,
    gains,
    holm,
    interval,
    load,
    measured,
    optima,
    p_value,
    paired,
    verdict,
    wilson,
)
from reference import claims

PROTOCOL, LEDGER = Protocol.read(), {c.id: c for c in claims.load()}
Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def span(mean: float, low: float, high: float, places: int = 3) -> str:
    """As the ledger writes a difference: -0.110 (-0.120 to -0.099)."""
    return f"{mean:+.{places}f} ({low:+.{places}f} to {high:+.{places}f})"


def said(found: Difference, places: int = 3) -> str:
    return span(found.mean, found.low, found.high, places)


def of(task: str, optimizer: str, comparison: str = "tuned", key: str = "test_loss", trial: str = "main") -> Difference:
    return differences(load(trial), PROTOCOL, trial, task, comparison, key)[optimizer]


def tuned(trial: str, task: str, comparison: str = "tuned") -> Runs:
    return load(trial)["tasks"][task]["fresh"][comparison]


def less(runs: Runs, ours: str, theirs: str, chance: float) -> np.ndarray:
    return paired(runs[ours], runs[theirs], chance)


def holds(scope: str, task: str, found: Difference, places: int = 3) -> bool:
    """Whether the sentence on that task has the difference and the verdict."""
    sentence = next(s for s in re.split(r"[;:.] ", scope) if s.startswith(task))
    return said(found, places) in sentence and verdict(found) in sentence


@pytest.mark.claim("Q2")
def test_grams_on_a_recurrent_and_a_convolutional_network() -> None:
    """Ahead after a short schedule on both; after four times the steps behind on one and less ahead on the other."""
    scope = LEDGER["Q2"].scope
    for task, later in (("recurrent", "worse"), ("vision", "better")):
        short, long = of(task, "grams"), of(task, "grams", trial="horizon")
        assert verdict(short) == "better" and verdict(long) == later and long.mean > short.mean
        assert all(said(d) in scope and f"{d.n} seeds" in scope for d in (short, long))
    points = [100 * x for x in of("vision", "grams", key="test_accuracy")[1:4]]
    assert span(*points, places=1) in scope


@pytest.mark.claim("N3")
def test_grams_in_language_vision_and_control() -> None:
    scope = LEDGER["N3"].scope
    assert holds(scope, "vision", of("vision", "grams"))
    control = of("control", "grams")
    assert holds(scope, "control", control, 1) and f"{control.smallest:.0f}" in scope
    for trial in ("main", "reliable", "stronger", "warmup", "horizon", "short_run", "long_run"):
        assert said(of("language", "grams", trial=trial)) in scope, trial
    assert {verdict(of("language", "grams", trial=t)) for t in ("main", "reliable", "stronger")} == {"better"}
    assert {verdict(of("language", "grams", trial=t)) for t in ("warmup", "horizon")} == {"worse"}


@pytest.mark.claim("Q1")
def test_grams_in_a_model_of_five_times_the_parameters() -> None:
    scope = LEDGER["Q1"].scope
    for trial, then in (("size", "better"), ("size_long", "worse")):
        found = of("language", "grams", trial=trial)
        assert verdict(found) == then and said(found) in scope, trial
    parameters = [tuned(t, "language")["grams"][0]["parameters"] for t in ("main", "size")]
    assert all(f"{n:,}" in scope for n in parameters)
    # the larger model's AdamW after 200 steps is worse than the smaller one's, seed by seed: it has not begun
    small, large = tuned("reliable", "language")["adamw"], tuned("size", "language")["adamw"]
    assert (paired(large, small, math.inf) > 0.5).all()


@pytest.mark.claim("N2")
def test_of_the_four_crossings_direction_from_the_gradient_and_size_from_momentum_is_best() -> None:
    scope, crossings = LEDGER["N2"].scope, ("mm", "mg", "gg")
    for task in ("digits", "recurrent", "language"):
        runs, chance = tuned("ablation", task), PROTOCOL.chance(task, "ablation")
        found = {o: less(runs, "ablation_gm", f"ablation_{o}", chance) for o in crossings}
        assert max(holm({o: p_value(v) for o, v in found.items()}).values()) < 0.05
        for values in found.values():
            assert values.mean() < 0 and span(values.mean(), *interval(values)) in scope, task
    masked = less(
        tuned("ablation", "language"), "ablation_masked", "ablation_gm", PROTOCOL.chance("language", "ablation")
    )
    assert interval(masked)[1] < 0 and span(masked.mean(), *interval(masked)) in scope


@pytest.mark.claim("Q3")
def test_the_best_rates_ratio_by_momentum_and_batch_and_the_breadth_of_the_valley() -> None:
    scope, result, chance = LEDGER["Q3"].scope, load("sensitivity"), PROTOCOL.chance("digits", "sensitivity")
    for axis in ("beta1", "batch", "schedule"):
        for value, found in optima(result, axis, chance).items():
            ratio, low, high = found["ratio"]
            assert f"{value}: {ratio:.1f} ({low:.1f} to {high:.1f})" in scope, (axis, value)
    for optimizer, words in (("adamw", "AdamW's"), ("grams", "Grams'")):
        runs = result["tasks"]["digits"]["fresh"]["batch 64"][optimizer]
        mean = {lr: np.mean([measured(r, chance) for r in runs if r["lr"] == lr]) for lr in {r["lr"] for r in runs}}
        near = [lr for lr, loss in mean.items() if loss <= 1.25 * min(mean.values())]
        assert f"{words} from {min(near):g} to {max(near):g}" in scope


@pytest.mark.claim("M2")
def test_adam_mini_at_adamws_own_rate_is_behind_early_and_level_later() -> None:
    scope, long = LEDGER["M2"].scope, of("language", "adam_mini", "long", trial="mini")
    early = of("language", "adam_mini", "shared", trial="mini")
    assert verdict(early) == "worse" and said(early) in scope and long.high < 0.05 and said(long) in scope
    head = of("language", "adam_mini_head_whole", "shared", trial="mini")
    assert head.high < 0.1 and said(head) in scope
    for task in ("digits", "recurrent", "control", "vision"):
        assert holds(scope, task, of(task, "adam_mini", "shared"), 1 if task == "control" else 3)


@pytest.mark.claim("M2")
def test_no_one_layers_blocks_are_told_apart_from_the_others() -> None:
    scope = LEDGER["M2"].scope
    for trial in ("blocks", "blocks_warmup"):
        assert said(of("language", "adamw_95", "rate", trial=trial)) in scope
    by = differences(load("blocks"), PROTOCOL, "blocks", "language", "rate")
    assert len(by) == 6 and {verdict(d) for d in by.values()} == {"not told apart"}


@pytest.mark.claim("M7")
def test_one_block_for_the_whole_of_value_is_not_better() -> None:
    scope, chance = LEDGER["M7"].scope, PROTOCOL.chance("language", "mini")
    for comparison in ("tuned", "long"):
        values = less(tuned("mini", "language", comparison), "adam_mini_value_whole", "adam_mini", chance)
        assert values.mean() > 0 and span(values.mean(), *interval(values)) in scope
        assert comparison == "long" or interval(values)[0] > 0


@pytest.mark.claim("A6")
def test_tuned_decays_on_another_split_gain_half_a_point() -> None:
    scope, result = LEDGER["A6"].scope, load("decay")
    for optimizer, decay in (("adams", "1"), ("adamw", "0.3")):
        found = gains(result, PROTOCOL, optimizer, "0.3")[decay]
        assert found.p < 0.05 and span(*(100 * x for x in found[1:4]), places=1) in scope
    assert gains(result, PROTOCOL, "adams", "0.3", "test_loss")["1"].low > 0 and "its loss is higher" in scope


def above(optimizer: str) -> list[str]:
    """How many of 60 runs (six rates from the tuned one up, ten seeds) diverge on digits, and diverge or spike on recurrent."""
    found = []
    for task, place in (("digits", 1), ("recurrent", 2)):
        by_factor = counts(load("stability"), task, PROTOCOL.chance(task, "stability"))[optimizer].values()
        runs, bad = (sum(c[i] for c in by_factor) for i in (0, place))
        low, high = wilson(bad, runs)
        assert runs == 60
        found.append(f"{bad} ({100 * low:.0f} to {100 * high:.0f} %)")
    return found


@pytest.mark.claim("G9")
def test_above_the_tuned_rate_grams_diverges_more_often_than_adamw() -> None:
    scope, (grams, adamw) = LEDGER["G9"].scope, (above(o) for o in ("grams", "adamw"))
    assert all(f"{ours} for {theirs}" in scope for ours, theirs in zip(grams, adamw, strict=True))
    assert all(int(ours.split()[0]) > int(theirs.split()[0]) for ours, theirs in zip(grams, adamw, strict=True))
    for task, times, place in (("digits", 4, 1), ("recurrent", 2, 2)):  # Grams' tuned rate is so many times AdamW's
        result = load("stability")["tasks"][task]["fresh"]
        found = {o: counts(load("stability"), task, PROTOCOL.chance(task, "stability"))[o] for o in ("grams", "adamw")}
        same = [f for f in PROTOCOL.trials["stability"]["factors"] if str(f * times) in result]
        for f in same:
            rates = [result[str(f)]["grams"][0]["lr"], result[str(f * times)]["adamw"][0]["lr"]]
            assert rates[0] == pytest.approx(rates[1], rel=0.01)
        ours, theirs = (sum(found[o][str(f * k)][place] for f in same) for o, k in (("grams", 1), ("adamw", times)))
        assert f"{ours} for {theirs} of {10 * len(same)} on" in scope


@pytest.mark.claim("A4")
def test_above_the_tuned_rate_adams_diverges_too_and_where_its_decay_does() -> None:
    scope, (adams, adamw) = LEDGER["A4"].scope, (above(o) for o in ("adams", "adamw"))
    assert all(f"{ours} for {theirs}" in scope for ours, theirs in zip(adams, adamw, strict=True))
    by_factor = counts(load("stability"), "recurrent", PROTOCOL.chance("recurrent", "stability"))["adams"]
    runs = load("stability")["tasks"]["recurrent"]["fresh"]
    for factor, (_, diverged, bad, _) in by_factor.items():
        past = runs[factor]["adams"][0]["lr"] * 0.1 * math.sqrt(384) > 2  # rows of the LSTM's matrices
        assert (diverged >= 9) == past and (bad > 0) == past
