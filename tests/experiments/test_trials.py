"""experiments.trials: the protocol is read as it stands, rates are tuned as it says, and the statistics are the textbook's."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from experiments import tasks
from experiments.trials import __main__ as command
from experiments.trials import loop, optimizers
from experiments.trials.predictions import CHECKS, outcomes
from experiments.trials.protocol import PATH, Job, Protocol
from experiments.trials.run import OutOfTimeError, Place, Runner, end_loss, kappa, spikes, summary, tune
from experiments.trials.statistics import (
    RESULTS,
    best_rate,
    differences,
    holm,
    interval,
    load,
    p_value,
    smallest,
    verdict,
    wilson,
)
from reference.theory import gradient_noise

PROTOCOL = Protocol.read()
SMALL = """
version = 7
changes = []
[rules]
extensions = 2
level = 0.05
power = 0.8
baseline = "adamw"
tuning_seeds = [1, 2]
fresh_from = 11
warmup = 0.1
schedule = "cosine"
floor = 0.0
weight_decay = 0.1
[optimizers]
adamw = { start = 3e-2, own = 0.01 }
grams = { start = 6e-2, own = 0.0 }
[tasks.digits]
steps = 10
batch = 32
tuning = 1
fresh = 2
chance = 2.302585
[trials.main]
tasks = ["digits"]
optimizers = ["adamw", "grams"]
comparisons = ["tuned", "shared", "drift", "own"]
[trials.stability]
tasks = ["digits"]
optimizers = ["adamw", "grams"]
factors = [1, 1024]
spike = 1.5
seeds = 2
[trials.fixed]
tasks = ["digits"]
optimizers = ["adamw", "grams"]
rate = 2e-3
run = { steps = 4, batch = 16, floor = 0.1 }
chance = 1.5
comparisons = ["rate"]
"""


def test_the_protocol_names_what_there_is() -> None:
    data = tomllib.loads(PATH.read_text(encoding="utf-8"))
    assert set(data["tasks"]) <= set(tasks.TASKS)
    for name, trial in data["trials"].items():
        for optimizer in trial["optimizers"]:
            optimizers.entry(optimizer)
        assert trial["predictions"] and trial["claims"], name
    assert data["trials"]["stability"]["spike"] == 1.5  # the default of `spikes`
    assert (
        PROTOCOL.tuning_seeds("language", "main") == [1, 2] and len(PROTOCOL.tuning_seeds("language", "reliable")) == 8
    )
    seeds = set(data["rules"]["tuning_seeds"])
    assert not seeds & set(PROTOCOL.fresh_seeds(max(t["fresh"] for t in data["tasks"].values())))


def test_every_result_is_younger_than_its_version_of_the_protocol() -> None:
    """Its stamp is one that the protocol owns up to; and where there is a history, that version was committed before the result.

    By the order of the commits, not by their times, which a rebase makes alike.
    """
    results = sorted(RESULTS.glob("*.json"))
    stamps = {path: json.loads(path.read_text())["protocol"]["sha256"] for path in results}
    assert results and set(stamps.values()) <= {s["sha256"] for s in PROTOCOL.stamps}

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", str(PATH.parent), *words], capture_output=True, check=True).stdout

    try:
        if git("rev-parse", "--is-shallow-repository").strip() != b"false":
            pytest.skip("the history is cut here")
        commits = git("log", "--reverse", "--format=%H", "--", str(PATH)).decode().split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no history here")
    places = {
        commit: place
        for place, commit in enumerate(git("rev-list", "--reverse", "--topo-order", "HEAD").decode().split())
    }
    first: dict[str, int] = {}
    for commit in commits:
        text = git("show", f"{commit}:./{PATH.name}")
        first.setdefault(hashlib.sha256(text).hexdigest(), places[commit])
    for path, stamp in stamps.items():
        name = path.relative_to(PATH.parents[1]).as_posix()
        for commit in (
            git("log", "--reverse", "--format=%H", "--", str(path)).decode().split()
        ):  # none: not committed yet
            if json.loads(git("show", f"{commit}:{name}"))["protocol"]["sha256"] == stamp:
                assert first[stamp] < places[commit], path.name


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ('tasks = ["digit"]', "unknown tasks"),
        ('optimizers = ["adamw", "gram"]', "unknown optimizer 'gram'"),
        ('optimizers = ["adamw", "lion"]', "no rate to tune lion from"),
    ],
)
def test_what_a_protocol_lacks_is_said_before_the_first_run(wrong: str, says: str) -> None:
    key = wrong.partition(" ")[0]
    line = next(line for line in SMALL.splitlines() if line.startswith(f"{key} = ["))
    with pytest.raises(ValueError, match=says):
        Protocol(SMALL.replace(line, wrong, 1))


def test_chance_is_what_guessing_has() -> None:
    for name, uniform in (("digits", 10), ("vision", 10), ("recurrent", 128)):
        assert PROTOCOL.tasks[name]["chance"] == pytest.approx(math.log(uniform), abs=1e-5)
    language = PROTOCOL.tasks["language"]
    assert language["chance"] == pytest.approx(math.log(language["options"]["vocab"]), abs=1e-5)


def test_a_job_is_what_the_rules_say() -> None:
    job = PROTOCOL.job("language", "grams", lr=0.5, seed=3)
    config = job.config
    assert (config.steps, config.warmup, config.batch, config.weight_decay, config.floor) == (200, 20, 8, 0.1, 0.0)
    assert job.size["hidden"] == 64 and (config.lr, config.seed) == (0.5, 3)
    assert PROTOCOL.job("digits", "sgd").config.weight_decay == 0.0  # its own: `common`
    assert PROTOCOL.job("digits", "adamw", steps=50).config.warmup == 5
    assert PROTOCOL.own_decay("adamw") == 0.01


@pytest.mark.parametrize("least", [2**-6, 2**-3.5, 1.0, 2**0.5, 2**5, 2**40])
def test_tuning_finds_a_valley_wherever_it_is(least: float) -> None:
    """A loss of log(rate / least)^2: the rate found is the nearest of the grid that was walked to, never at its edge."""
    asked: list[float] = []

    def perform(job: Job) -> dict[str, Any]:
        asked.append(job.config.lr)
        return {"lr": job.config.lr, "val_loss": math.log2(job.config.lr / least) ** 2 / 4}

    found = tune(perform, PROTOCOL.job("digits", "adamw"), 1.0, [1, 2], 1e9, 8)
    if least < 2**11:
        assert not found["at_edge"] and abs(math.log2(found["best"] / least)) <= 0.25 + 1e-6
    else:
        assert found["at_edge"] and found["best"] == pytest.approx(2.0**10 * math.sqrt(2), rel=1e-5)
    assert len(asked) == len(set(asked)) * 2 == len(found["runs"])


def test_tuning_passes_over_what_diverges() -> None:
    def perform(job: Job) -> dict[str, Any]:
        lost = job.config.lr > 0.6 and job.config.seed == 2
        return {"diverged_at": 3} if lost else {"val_loss": 1 / job.config.lr}

    found = tune(perform, PROTOCOL.job("digits", "adamw"), 1.0, [1, 2], 100.0, 8)
    assert found["best"] == 0.5
    nothing = tune(lambda job: {"diverged_at": 1}, PROTOCOL.job("digits", "adamw"), 1.0, [1], 100.0, 3)
    assert nothing["best"] is None and nothing["at_edge"]


def test_the_end_and_the_spikes() -> None:
    assert end_loss({"test_loss": 2.0}, 2.5, "test") == 2.0
    assert math.isinf(end_loss({"test_loss": 2.6}, 2.5, "test")) and math.isinf(
        end_loss({"diverged_at": 1}, 2.5, "val")
    )
    flat = [1.0] * 30
    assert spikes([*flat, 1.6], least=1.7) == 0 == spikes([0.0] * 25)
    assert spikes(flat) == 0 and spikes([*flat, 1.6, 1.0, 1.4]) == 1 and spikes([2.0] * 5 + [1.0]) == 0


def test_kappa_is_the_theorys() -> None:
    for beta1 in (0.0, 0.5, 0.9, 0.98):
        assert kappa(beta1) == pytest.approx(float(gradient_noise.kappa(beta1)), rel=1e-12)
    assert f"{kappa(0.9):.10f}" in PATH.read_text(encoding="utf-8")


def test_every_trial_has_its_predictions_checked() -> None:
    """And what has run is read by its own check, each sentence of which says what was seen."""
    assert set(CHECKS) == set(PROTOCOL.trials)
    for path in RESULTS.glob("*.json"):
        found = outcomes(path.stem, load(path.stem), PROTOCOL)
        assert found and all(o.seen and o.source in ("papers", "ours", "noise") for o in found)


def test_holm_is_the_textbooks() -> None:
    """Against the step-down procedure itself, over many p-values and levels."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        ps = {str(i): float(p) for i, p in enumerate(rng.random(5) ** 3)}
        for level in (0.01, 0.05, 0.3):
            rejected = set()
            for rank, name in enumerate(sorted(ps, key=lambda n: ps[n])):
                if ps[name] > level / (len(ps) - rank):
                    break
                rejected.add(name)
            assert {n for n, p in holm(ps).items() if p <= level} == rejected


def test_intervals_and_p_values_are_scipys() -> None:
    x = np.random.default_rng(1).normal(0.3, 1.0, 12)
    known: Any = stats.ttest_1samp(x, 0.0)
    assert p_value(x) == pytest.approx(known.pvalue)
    assert interval(x) == pytest.approx(tuple(known.confidence_interval()))
    assert interval([1.0]) == (-math.inf, math.inf) and p_value(np.array([1.0])) == 1.0
    assert p_value(np.zeros(5)) == 1.0 and p_value(np.ones(5)) == 0.0
    low, high = wilson(3, 10)
    known = stats.binomtest(3, 10).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((known.low, known.high))


def test_what_is_called_visible_is_seen_four_times_in_five() -> None:
    """Simulated: at a true difference of `smallest` for the true spread, the test at its level rejects in about 80 %."""
    rng = np.random.default_rng(2)
    n, level = 12, 0.05 / 7
    unit = np.array([1.0, -1.0] * (n // 2))
    size = smallest(unit / unit.std(ddof=1), level, 0.8)
    found = [p_value(rng.normal(size, 1.0, n)) < level for _ in range(2000)]
    assert 0.74 < np.mean(found) < 0.88  # three standard errors about 0.80; the t approximation is a little generous


def test_the_best_rate_is_a_parabolas() -> None:
    rates = [2.0**k for k in range(6)]
    losses = [(math.log2(r) - 2.3) ** 2 for r in rates]
    assert math.log2(best_rate(rates, losses)) == pytest.approx(2.3)
    assert best_rate(rates, [1, 2, 3, 4, 5, 6]) == 1.0 and best_rate(rates, [math.inf, 1, 2, 3, 4, 5]) == 2.0


def result(base: list[float], other: list[float]) -> dict[str, Any]:
    runs = {
        name: [
            {"seed": s, "test_loss": x} if x is not None else {"seed": s, "diverged_at": 2}
            for s, x in enumerate(values)
        ]
        for name, values in (("adamw", base), ("grams", other))
    }
    return {"tasks": {"digits": {"fresh": {"tuned": runs}}}}


def test_differences_are_paired_by_seed_and_divergence_counts() -> None:
    base, other = [1.0, 1.2, 1.4, 0.8], [0.9, 1.11, 1.3, 0.69]
    found = differences(result(base, other), PROTOCOL, "main", "digits", "tuned")["grams"]
    assert found.mean == pytest.approx(-0.1) and found.high < 0 and verdict(found) == "better" and found.n == 4
    assert found.base == pytest.approx(1.1)
    lost = differences(result(base, [0.9, 1.11, 1.3, None]), PROTOCOL, "main", "digits", "tuned")["grams"]  # pyright: ignore[reportArgumentType]
    assert lost.diverged == (1, 0) and lost.mean == pytest.approx((-0.1 - 0.09 - 0.1 + 2.302585 - 0.8) / 4)
    swapped = result(base, other)
    swapped["tasks"]["digits"]["fresh"]["tuned"]["grams"].reverse()
    assert differences(swapped, PROTOCOL, "main", "digits", "tuned")["grams"] == found


def test_a_whole_trial_runs_stops_and_goes_on(tmp_path: Path) -> None:
    """Stopped before its first run, then run to the end; then once more, from the logs alone, to the same bytes."""
    protocol = Protocol(SMALL)
    place = Place(tmp_path / "logs")
    runner = Runner(protocol, dataclasses.replace(place, until=0.0), tmp_path / "results", 1)
    try:
        with pytest.raises(OutOfTimeError):
            runner.all()
        assert not (tmp_path / "results").exists()
    finally:
        runner.close()
    texts = []
    for until in (math.inf, 0.0):  # the second may begin no run
        runner = Runner(protocol, dataclasses.replace(place, until=until), tmp_path / "results", 1)
        try:
            runner.all()
        finally:
            runner.close()
        texts.append([(tmp_path / "results" / f"{n}.json").read_bytes() for n in ("main", "stability", "fixed")])
    assert texts[0] == texts[1]
    main, stability, fixed = (json.loads(t) for t in texts[0])
    assert main["protocol"] == protocol.stamp and protocol.stamp["version"] == 7
    fresh = main["tasks"]["digits"]["fresh"]
    assert set(fresh) == {"tuned", "shared", "drift", "own"} and all(
        set(o) == {"adamw", "grams"} for o in fresh.values()
    )
    assert [r["seed"] for r in fresh["tuned"]["grams"]] == [11, 12]
    best = {o: t["best"] for o, t in main["tasks"]["digits"]["tuning"].items()}
    assert fresh["drift"]["grams"][0]["lr"] == pytest.approx(best["adamw"] / 0.4185781193, rel=1e-5)
    assert [r["weight_decay"] for r in (fresh["own"]["adamw"][0], fresh["own"]["grams"][0])] == [0.01, 0.0]
    assert "curve" in fresh["tuned"]["adamw"][0] and "curve" not in fresh["shared"]["adamw"][0]
    large = stability["tasks"]["digits"]["fresh"]["1024"]
    assert all(not r.get("test_loss", math.inf) <= 2.302585 or r["spikes"] for runs in large.values() for r in runs)
    assert fixed["tasks"]["digits"]["tuning"] == {}
    for run in itertools.chain(*fixed["tasks"]["digits"]["fresh"]["rate"].values()):
        assert (run["lr"], run["steps"], run["batch"]) == (2e-3, 4, 16) and "curve" in run
    lost = differences(fixed, protocol, "fixed", "digits", "rate")["grams"]
    assert lost.diverged == (2, 2) and lost.base == 1.5  # after four steps all are above this trial's own chance


def test_one_kind_of_layer_of_adam_mini_is_made_one_block_or_has_a_block_for_each_element() -> None:
    """With a second moment for each element its steps are AdamW's, and only there."""
    task = tasks.load("language", **PROTOCOL.tasks["language"]["options"])
    ours, theirs = models = [task.model(seed=0) for _ in range(2)]
    for model, optimizer in zip(models, ("adam_mini_value_each", "adamw_95"), strict=True):
        rule = optimizers.make(optimizer, model, lr=0.01)
        for step, (i, p) in itertools.product(range(2), enumerate(model.parameters())):
            p.grad = torch.sin(torch.arange(p.numel()) * 0.7 + i + step).reshape(p.shape)
            if i + 1 == len(list(model.parameters())):
                rule.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6) == ("v_proj" in name), name
    whole = optimizers.make("adam_mini_value_whole", task.model(seed=0), lr=0.01)
    kinds = {
        b[0] for g in whole.param_groups for b, n in zip(g["blocks"], g["param_names"], strict=True) if "v_proj" in n
    }
    assert kinds == {"tensor"}


def test_a_run_does_not_depend_on_being_watched(tmp_path: Path) -> None:
    task, config = tasks.load("digits"), PROTOCOL.job("digits", "grams", steps=12, lr=0.01, seed=5).config
    plain, seen = (loop.run(config, task, tmp_path / str(n), checkpoint_every=0, monitor_every=n) for n in (0, 4))
    assert [r for r in seen if r["event"] not in ("monitor", "timing")] == [r for r in plain if r["event"] != "timing"]
    found = summary(seen)["monitor"]
    assert found["step"] == [1, 5, 9] and "monitor" not in summary(plain)
    first = next(r["loss"] for r in seen if r["event"] == "step")
    assert found["pl_ratio"][0] == pytest.approx(found["grad_norm"][0] ** 2 / (2 * first))


def test_a_finished_run_counts_whatever_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, config = tasks.load("digits"), PROTOCOL.job("digits", "adamw", steps=3, seed=5).config
    first = loop.run(config, task, tmp_path, checkpoint_every=0, whatever_code=True)
    monkeypatch.setattr(loop, "versions", lambda: {"torch": "another"})
    assert loop.run(config, task, tmp_path, checkpoint_every=0, whatever_code=True) == first
    assert loop.run(config, task, tmp_path, checkpoint_every=0)[0]["versions"] == {"torch": "another"}


def test_schedules() -> None:
    factor = {
        s: [loop.lr_factor(i, warmup=2, steps=12, schedule=s, floor=0.0) for i in range(13)] for s in loop.SCHEDULES
    }
    assert all(f[:2] == [0.5, 1.0] for f in factor.values())
    assert factor["constant"][2:] == [1.0] * 11
    assert factor["linear"][2:] == pytest.approx([1 - i / 10 for i in range(11)])
    assert factor["cosine"][7] == pytest.approx(0.5) and factor["cosine"][12] == pytest.approx(0.0)
    assert all(a >= b for f in factor.values() for a, b in itertools.pairwise(f[1:]))


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["run", "--only", "everything"])
    assert stop.value.code == 2 and "expected trials of main, " in capsys.readouterr().err
