"""What experiments/protocol.toml predicted, sentence by sentence, against what came out.

Each check recomputes its answer from a trial's JSON and the protocol: nothing here knows a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.trials.protocol import Protocol
from experiments.trials.run import kappa
from experiments.trials.statistics import (
    Difference,
    best_rate,
    counts,
    differences,
    gains,
    load,
    means,
    paired,
    verdict,
)

Result = Mapping[str, Any]
KIN = ("grams", "adams", "adam_mini", "cautious_adamw", "adam_atan2")


class Outcome(NamedTuple):
    """`holds`: did it come out so. `seen`: the numbers that say so."""

    trial: str
    source: str
    sentence: str
    holds: bool
    seen: str


def outcomes(trial: str, result: Result, protocol: Protocol) -> list[Outcome]:
    """All predictions of one trial, in the protocol's order."""
    return [Outcome(trial, *found) for found in CHECKS[trial](result, protocol)]


Found = Iterator[tuple[str, str, bool, str]]


def _show(found: Mapping[str, Difference], *names: str) -> str:
    return ", ".join(f"{n} {found[n].mean:+.3f}" for n in names)


def _main(result: Result, protocol: Protocol) -> Found:
    tasks = list(result["tasks"])
    by = {
        c: {t: differences(result, protocol, "main", t, c) for t in tasks if c in result["tasks"][t]["fresh"]}
        for c in ("tuned", "shared", "drift")
    }
    tuned = by["tuned"]
    for task in [t for t in ("language", "vision") if t in tasks]:
        grams, lion = tuned[task]["grams"], tuned[task]["lion"]
        yield (
            "papers",
            f"Grams is better than AdamW and Lion ({task})",
            verdict(grams) == "better" and grams.mean < lion.mean,
            _show(tuned[task], "grams", "lion"),
        )
    mini = {t: verdict(tuned[t]["adam_mini"]) for t in tasks}
    yield "papers", "Adam-mini is on par or better (every task)", "worse" not in mini.values(), str(mini)
    adams = {t: verdict(tuned[t]["adams"]) for t in tasks}
    yield "papers", "Adams is no worse, without clipping (every task)", "worse" not in adams.values(), str(adams)
    for task in [t for t in ("language", "recurrent") if t in tasks]:
        yield (
            "ours",
            f"Adam's kin differ from AdamW by less than 0.05 nats ({task})",
            all(abs(tuned[task][n].mean) < 0.05 for n in KIN),
            _show(tuned[task], *KIN),
        )
    wins = {n: sum(verdict(tuned[t][n]) == "better" for t in tasks) for n in KIN}
    yield "ours", "none is better than AdamW on more than one task", max(wins.values()) <= 1, f"tasks won: {wins}"
    shared = {t: by["shared"][t]["grams"] for t in tasks}
    yield (
        "ours",
        "at AdamW's rate Grams is worse (every task)",
        all(verdict(d) == "worse" for d in shared.values()),
        ", ".join(f"{t} {d.mean:+.3f}" for t, d in shared.items()),
    )
    drift = {t: by["drift"][t]["grams"].mean for t in tasks}
    yield (
        "ours",
        "at AdamW's rate over kappa Grams lies between that and AdamW (every task)",
        all(0 < drift[t] < shared[t].mean for t in tasks),
        ", ".join(f"{t} {x:+.3f}" for t, x in drift.items()),
    )
    for task, worst in (("language", True), ("recurrent", True), ("control", False)):
        if task in tasks:
            last = max(tuned[task], key=lambda n: tuned[task][n].mean)
            yield (
                "ours",
                f"SGD is {'' if worst else 'not '}the worst ({task})",
                (last == "sgd") == worst,
                f"worst: {last}",
            )
    best = {t: result["tasks"][t]["tuning"] for t in tasks}
    for task in [t for t in ("language", "recurrent", "control") if t in tasks]:
        ratio = best[task]["grams"]["best"] / best[task]["adamw"]["best"]
        yield "noise", f"Grams' best rate is 1.4 to 3.4 times AdamW's ({task})", 1.4 <= ratio <= 3.4, f"{ratio:.2f}"


def _ablation(result: Result, protocol: Protocol) -> Found:
    tuned = {t: differences(result, protocol, "ablation", t, "tuned") for t in result["tasks"]}

    def of(name: str) -> str:
        return ", ".join(f"{t} {found[f'ablation_{name}'].mean:+.3f}" for t, found in tuned.items())

    means = {
        t: {n.removeprefix("ablation_"): d.mean for n, d in found.items()} | {"mm": 0.0} for t, found in tuned.items()
    }
    first = {t: min(m, key=lambda n: m[n]) for t, m in means.items()}
    yield "papers", "gm (Grams) is the best (every task)", set(first.values()) == {"gm"}, f"best: {first}"
    better = [t for t, found in tuned.items() if verdict(found["ablation_gm"]) == "better"]
    yield "ours", "mm is not worse than gm (every task)", not better, f"gm {of('gm')}"
    order = all(0 < m["mg"] < m["gg"] for m in means.values())
    yield "ours", "mg is worse than mm and better than gg (every task)", order, f"mg {of('mg')}; gg {of('gg')}"
    for task in [t for t in ("recurrent", "language") if t in means]:
        gain = means[task]["random"] - means[task]["masked"]
        yield (
            "ours",
            f"Cautious' mask is no more than 0.02 nats better than a random one ({task})",
            gain <= 0.02,
            f"{gain:+.3f}",
        )


def _sensitivity(result: Result, protocol: Protocol) -> Found:
    ((task, found),) = result["tasks"].items()
    chance = protocol.chance(task, "sensitivity")

    def best(cell: str, name: str) -> float:
        return best_rate(*means(found["fresh"][cell][name], chance))

    ratios = {cell: best(cell, "grams") / best(cell, "adamw") for cell in found["fresh"]}
    ends = {b: ratios[f"batch {b}"] for b in (16, 1024)}
    yield (
        "noise",
        "the ratio of the best rates follows 1/kappa at batch 16 within sqrt(2)",
        2**-0.5 <= ends[16] * kappa(0.9) <= 2**0.5,
        f"{ends[16]:.2f}",
    )
    yield (
        "noise",
        "it is nearer to 1 at batch 1,024",
        abs(np.log(ends[1024])) < abs(np.log(ends[16])),
        f"{ends[1024]:.2f}",
    )
    by_beta = {c.split(" ")[1]: r for c, r in ratios.items() if c.startswith("beta1 ")}
    near = [2**-0.5 <= r * kappa(float(b)) <= 2**0.5 for b, r in by_beta.items()]
    shown = ", ".join(f"{b}: {r:.2f} ({1 / kappa(float(b)):.2f})" for b, r in by_beta.items())
    yield (
        "noise",
        "by beta1 it follows 1/kappa(beta1) within sqrt(2)",
        all(near),
        f"measured (predicted) {shown}",
    )
    lost = {}
    for name in ("adamw", "grams"):
        _, losses = means(found["fresh"]["batch 64"][name], chance)
        i = int(np.argmin(losses))
        lost[name] = max(losses[max(0, i - 2) : i + 3]) - losses[i]
    yield (
        "ours",
        "within a factor of 4 of the best rate Grams loses no more than AdamW",
        lost["grams"] <= lost["adamw"],
        ", ".join(f"{n} {x:.3f}" for n, x in lost.items()),
    )


def _stability(result: Result, protocol: Protocol) -> Found:
    for task in result["tasks"]:
        found = counts(result, task, protocol.chance(task, "stability"))
        bad = {name: sum(c.bad for c in by_factor.values()) for name, by_factor in found.items()}
        of = sum(c.runs for c in found["adamw"].values())
        shown = ", ".join(f"{n} {x}" for n, x in bad.items()) + f" of {of}"
        yield (
            "papers",
            f"fewer runs of Grams than of AdamW spike or diverge ({task})",
            bad["grams"] < bad["adamw"],
            shown,
        )
        yield (
            "ours",
            f"at least as many runs of Grams as of AdamW spike or diverge ({task})",
            bad["grams"] >= bad["adamw"],
            shown,
        )
        angle = min(bad["adams"], bad["adam_atan2"])
        yield "ours", f"Adams and Adam-atan2 spike no less often than AdamW ({task})", angle >= bad["adamw"], shown


def _decay(result: Result, protocol: Protocol) -> Found:
    def points(name: str, wrong: str) -> dict[str, float]:
        return {decay: 100 * d.mean for decay, d in gains(result, protocol, name, wrong).items()}

    def show(name: str, wrong: str) -> str:
        return f"{name} " + ", ".join(f"{d}: {x:+.1f}" for d, x in points(name, wrong).items())

    seen = f"points of accuracy, {show('adams', '0.3')}"
    large = points("adams", "0.3")
    yield (
        "papers",
        "a decay of 1 generalises better than smaller ones, wrong labels",
        large["1"] == max(large.values()) > 0,
        seen,
    )
    most = max(x for n in ("adams", "adamw") for x in points(n, "0").values())
    yield (
        "ours",
        "right labels: no decay gains more than half a point",
        most <= 0.5,
        f"{show('adams', '0')}; {show('adamw', '0')}",
    )
    yield "ours", "wrong labels: Adams' best decay gains two points or more", max(large.values()) >= 2, seen
    plain = max(points("adamw", "0.3").values())
    yield (
        "ours",
        "wrong labels: AdamW's best decay gains as much",
        plain >= max(large.values()),
        f"{seen}; {show('adamw', '0.3')}",
    )


def _mini(result: Result, protocol: Protocol) -> Found:
    ((task, _),) = result["tasks"].items()
    tuned, shared, long = (differences(result, protocol, "mini", task, c) for c in ("tuned", "shared", "long"))
    whole, neuron = "adam_mini_value_whole", "adam_mini"
    gain = {c: d[whole].mean - d[neuron].mean for c, d in (("200 steps", tuned), ("2,000 steps", long))}
    shown = ", ".join(f"{c} {x:+.3f}" for c, x in gain.items())
    yield "papers", "value as one block is better (both lengths)", all(x < 0 for x in gain.values()), shown
    yield (
        "ours",
        "value as one block or by neuron: within 0.02 nats (both lengths)",
        all(abs(x) < 0.02 for x in gain.values()),
        shown,
    )
    at = shared[neuron]
    yield "papers", "Adam-mini is on par or better at AdamW's own rate", verdict(at) != "worse", _show(shared, neuron)
    yield "ours", "at AdamW's rate Adam-mini is worse by 0 to 0.1 nats", 0 <= at.mean <= 0.1, _show(shared, neuron)


def _horizon(result: Result, protocol: Protocol) -> Found:
    main = load("main")
    by = {t: differences(result, protocol, "horizon", t, "tuned")["grams"] for t in result["tasks"]}
    short = {t: differences(main, protocol, "main", t, "tuned")["grams"] for t in by}
    for task in by:
        seen = f"{by[task].mean:+.3f}, in `main` {short[task].mean:+.3f}"
        yield "papers", f"Grams' lead stays or grows ({task})", by[task].mean <= short[task].mean < 0, seen
        if task == "language":
            yield "ours", "Grams is not better than AdamW (language)", verdict(by[task]) != "better", seen
        else:
            yield (
                "ours",
                f"Grams' difference is less than half of `main`'s ({task})",
                abs(by[task].mean) < abs(short[task].mean) / 2,
                seen,
            )


def _size(result: Result, protocol: Protocol) -> Found:
    small = differences(load("main"), protocol, "main", "language", "tuned")["grams"].mean
    large = differences(result, protocol, "size", "language", "tuned")["grams"].mean
    seen = f"{large:+.3f}, in `main` {small:+.3f}"
    yield (
        "ours",
        "Grams' difference to AdamW keeps its sign, and is not larger",
        large * small > 0 and abs(large) <= abs(small),
        seen,
    )


def _reliable(result: Result, protocol: Protocol) -> Found:
    main = load("main")
    short, now = (differences(r, protocol, t, "language", "tuned") for r, t in ((main, "main"), (result, "reliable")))
    before, after = (r["tasks"]["language"] for r in (main, result))
    rates = [x["tuning"]["adamw"]["best"] for x in (before, after)]
    yield "ours", "AdamW's rate is lower than in `main`", rates[1] < rates[0], f"{rates[0]:g}, {rates[1]:g}"
    spread = [np.std([r["test_loss"] for r in x["fresh"]["tuned"]["adamw"]]) for x in (before, after)]
    yield (
        "ours",
        "AdamW's fresh seeds lie closer together",
        bool(spread[1] < spread[0]),
        f"{spread[0]:.3f}, {spread[1]:.3f}",
    )
    for name in ("grams", "cautious_adamw"):
        halved = abs(now[name].mean) < abs(short[name].mean) / 2
        yield (
            "ours",
            f"{name}'s difference is less than half of `main`'s",
            halved,
            f"{now[name].mean:+.3f} ({short[name].mean:+.3f})",
        )


def _short_run(result: Result, protocol: Protocol) -> Found:
    by = differences(result, protocol, "short_run", "language", "tuned")
    yield "ours", "Grams is better than AdamW, by 0.1 to 0.5 nats", -0.5 <= by["grams"].mean <= -0.1, _show(by, "grams")


def _long_run(result: Result, protocol: Protocol) -> Found:
    by = differences(result, protocol, "long_run", "language", "tuned")
    yield "ours", "Grams' difference lies between -0.1 and 0.1 nats", abs(by["grams"].mean) <= 0.1, _show(by, "grams")
    runs, chance = result["tasks"]["language"]["fresh"]["tuned"], protocol.chance("language", "long_run")
    spread = float(np.std(paired(runs["grams"], runs["adamw"], chance), ddof=1))
    yield "ours", "the standard deviation of a pair is above 0.02", spread > 0.02, f"{spread:.3f}"


def _size_long(result: Result, protocol: Protocol) -> Found:
    short = differences(load("size"), protocol, "size", "language", "tuned")["grams"].mean
    long = differences(result, protocol, "size_long", "language", "tuned")["grams"].mean
    seen = f"{long:+.3f}, in `size` {short:+.3f}"
    yield "ours", "Grams' difference is less than half of `size`'s", abs(long) < abs(short) / 2, seen


def _blocks(result: Result, protocol: Protocol) -> Found:
    by = differences(result, protocol, "blocks", "language", "rate")
    gap = by["adamw_95"].mean
    closed = {
        n.removeprefix("adam_mini_").removesuffix("_each"): d.mean / gap for n, d in by.items() if n != "adamw_95"
    }
    seen = f"AdamW {gap:+.3f}; part of it closed: " + ", ".join(f"{n} {x:.2f}" for n, x in closed.items())
    yield (
        "ours",
        "the embedding closes more of the gap than any other layer",
        max(closed, key=closed.__getitem__) == "embedding",
        seen,
    )


def _blocks_warmup(result: Result, protocol: Protocol) -> Found:
    gaps = [
        differences(r, protocol, t, "language", "rate")["adamw_95"].mean
        for t, r in (("blocks", load("blocks")), ("blocks_warmup", result))
    ]
    yield (
        "ours",
        "a longer warm-up closes less than half of the gap",
        gaps[1] / gaps[0] > 0.5,
        f"{gaps[0]:+.3f}, then {gaps[1]:+.3f}",
    )


def _stronger(result: Result, protocol: Protocol) -> Found:
    by = differences(result, protocol, "stronger", "language", "tuned")
    mean = {name: d.mean for name, d in by.items()}
    yield "ours", "AdamW at (0.9, 0.95) is better than at (0.9, 0.999)", mean["adamw"] > 0, _show(by, "adamw")
    near = verdict(by["grams"]) == "better" and mean["grams"] > -0.2
    yield "ours", "against it Grams is better by less than 0.2 nats", near, _show(by, "grams")
    yield (
        "ours",
        "Cautious AdamW is better by more",
        mean["cautious_adamw"] < mean["grams"],
        _show(by, "cautious_adamw"),
    )
    apart = abs(mean["grams_95"] - mean["grams"])
    yield "ours", "beta2 = 0.95 changes Grams by less than 0.1", apart < 0.1, _show(by, "grams", "grams_95")


def _warmup(result: Result, protocol: Protocol) -> Found:
    by = differences(result, protocol, "warmup", "language", "tuned")
    yield "ours", "Grams is not better than AdamW", verdict(by["grams"]) != "better", _show(by, "grams")
    half = differences(load("reliable"), protocol, "reliable", "language", "tuned")["cautious_adamw"].mean / 2
    near = verdict(by["cautious_adamw"]) == "better" and by["cautious_adamw"].mean > half
    yield "ours", "Cautious AdamW is, by less than half of `reliable`'s", near, _show(by, "cautious_adamw")


CHECKS: dict[str, Callable[[Result, Protocol], Found]] = {
    "main": _main,
    "ablation": _ablation,
    "sensitivity": _sensitivity,
    "stability": _stability,
    "decay": _decay,
    "mini": _mini,
    "horizon": _horizon,
    "size": _size,
    "reliable": _reliable,
    "short_run": _short_run,
    "long_run": _long_run,
    "size_long": _size_long,
    "blocks": _blocks,
    "blocks_warmup": _blocks_warmup,
    "stronger": _stronger,
    "warmup": _warmup,
}
