"""proofs/: that the theorems speak of the lines that run, and, where Rocq is installed, that they hold and are held up by them.

The first needs no Rocq: Rules.v is printed anew from SymPy's reading of the lines, and what it says is evaluated against
the lines by a reader of its own.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
from planted import planted

from reference import adam, adams, cautious, grams
from reference.theory import hamiltonian, rocq

PROOFS = rocq.PATH.parent
FILES = [line for line in (PROOFS / "_CoqProject").read_text().splitlines() if line.endswith(".v")]
SOURCES = {name: (PROOFS / name).read_text(encoding="utf-8") for name in FILES}
ALLOWED = set((PROOFS / "axioms.txt").read_text().split())


@pytest.mark.claim("T5")
@pytest.mark.claim("T6")
@pytest.mark.claim("G1")
@pytest.mark.claim("G3")
@pytest.mark.claim("G4")
@pytest.mark.claim("A1")
def test_the_rules_that_rocq_reads_are_the_lines_that_run():
    assert SOURCES["Rules.v"] == rocq.rules_text(), "run: python -m reference.theory.rocq, then make proofs"


# --- Rules.v, read by other eyes than its printer's ---

DECIDED = {"Rlt_dec": lambda a, b: a < b, "Rle_dec": lambda a, b: a <= b}
FUNCTIONS = {"sgn": (np.sign, 1), "Rabs": (abs, 1), "sqrt": (math.sqrt, 1), "atan2": (math.atan2, 2)}


def value(text: str, names: dict[str, float]) -> float:
    """What a Rocq term of Rules.v comes to, in float64."""
    tokens = re.findall(r"\w+|[()^*/+-]", text)

    def take() -> str:
        return tokens.pop(0)

    def fold(below: Callable[[], float], how: dict[str, Callable[[float, float], float]]) -> float:
        out = below()
        while tokens and tokens[0] in how:
            out = how[take()](out, below())
        return out

    def total() -> float:
        return fold(product, {"+": lambda a, b: a + b, "-": lambda a, b: a - b})

    def product() -> float:
        return fold(signed, {"*": lambda a, b: a * b, "/": lambda a, b: a / b})

    def signed() -> float:
        if tokens[0] in "-/":
            return -signed() if take() == "-" else 1 / signed()
        return fold(atom, {"^": lambda a, b: a**b})

    def atom() -> float:
        token = take()
        if token == "(":
            out = total()
            assert take() == ")"
            return out
        if token in FUNCTIONS:
            function, count = FUNCTIONS[token]
            return float(function(*[atom() for _ in range(count)]))
        if token == "if":
            holds = DECIDED[take()](atom(), atom())
            assert take() == "then"
            yes = total()
            assert take() == "else"
            no = total()
            return yes if holds else no
        return float(token) if token.isdigit() else names[token]

    out = total()
    assert not tokens, tokens
    return out


def definitions(text: str) -> dict[str, str]:
    return dict(re.findall(r"^Definition (\w+) .*? : R\s*:=\s*(.*?)\.$", text, flags=re.MULTILINE | re.DOTALL))


def test_what_rules_v_says_is_what_the_lines_do():
    said, rng = definitions(SOURCES["Rules.v"]), np.random.default_rng(0)
    rules = {
        "adam": (adam, {"eps": 1e-3}),
        "cautious": (cautious, {"eps": 1e-3, "rescale": "none"}),
        "grams": (grams, {"eps": 1e-3}),
        "adams": (adams, {"scalar_vector_weight_decay": 0.0}),
        "adams_released": (adams, {"scalar_vector_weight_decay": 0.0, "as_released": True}),
    }
    flows = [f"{flow}_velocity" for flow in hamiltonian.FLOWS]
    assert set(said) == {f"{name}_{x}" for name in rules for x in "mvw"} | set(flows)
    for _ in range(50):
        w, g, m, lr = rng.standard_normal(4)
        v, t = rng.exponential(), int(rng.integers(0, 20))
        g = g * rng.integers(0, 2)  # also 0, where the signs and the masks turn
        hyper = {"lr": abs(lr), "beta1": rng.uniform(), "beta2": rng.uniform()}
        names = {"w": w, "g": g, "m": m, "v": v, "t": t, "eps": 1e-3, "k": m} | hyper
        for name, (rule, extra) in rules.items():
            before = rule.State(t, *map(np.float64, (m, v)), *[None] * (len(rule.State._fields) - 3))
            moved, after = rule.step(np.float64(w), np.float64(g), before, **hyper, **extra)
            for x, expected in (("w", moved), ("m", after.m), ("v", after.v)):
                assert value(said[f"{name}_{x}"], names) == pytest.approx(float(expected), rel=1e-9, abs=1e-12), name
        for flow in hamiltonian.FLOWS:
            expected = float(hamiltonian.velocity(flow, np.float64(g), np.float64(m)))
            assert value(said[f"{flow}_velocity"], names) == pytest.approx(expected)


# error -> (what it changes: the rules' name and module, or "velocity"), old, new, the file whose proof it breaks
AVERAGE = "m = beta1 * m + (1 - beta1) * g"
PLANTED: dict[str, tuple[str, Any, str, str, str]] = {
    "Grams loses the sign": ("grams", grams, "sign(g) * absolute(u)", "absolute(u)", "Order.v"),
    "Grams has Adam's sign": ("grams", grams, "sign(g) * absolute(u)", "sign(u) * absolute(u)", "Order.v"),
    "Grams corrects with beta2": ("grams", grams, "1 - beta1**t", "1 - beta2**t", "Order.v"),
    "Cautious reverses its mask": ("cautious", cautious, "positive(u * g)", "positive(-u * g)", "Order.v"),
    "Adam climbs": ("adam", adam, "w - lr * mhat", "w + lr * mhat", "Order.v"),
    "the flow turns its sign": ("velocity", hamiltonian, "-sign(g) * absolute(k)", "sign(g) * absolute(k)", "Flow.v"),
    "the flow reverses its mask": ("velocity", hamiltonian, "g * k >= 0", "g * k <= 0", "Flow.v"),
    "Adams loses the root": ("adams", adams, "sqrt(nhat))", "nhat)", "Arctan.v"),
    "Adams swaps the arguments": ("adams", adams, "(mhat, sqrt(nhat))", "(sqrt(nhat), mhat)", "Arctan.v"),
    "Adams loses a weight": ("adams", adams, AVERAGE, "m = beta1 * m + g", "Arctan.v"),
    "Grams keeps more than v": (
        "grams",
        grams,
        "return w, State(t, m, v)",
        "return w, State(t, m, v + g**2)",
        "Convergence.v",
    ),
}
# Errors in what a proof says, not in the lines: a condition that is too weak, or a bound that is too good.
OVERSTATED = {
    "a larger eps": ("Convergence.v", "eps <= (4 * exp 1 - 1) * G -> forall", "eps <= (5 * exp 1 - 1) * G -> forall"),
    "a longer step": ("Convergence.v", "lr * L <= eps -> eps <=", "lr * L <= 3 * eps -> eps <="),
    "a better bound": ("Convergence.v", "minimum <= 4 * G / (mu * lr * INR T)", "minimum <= 3 * G / (mu * lr * INR T)"),
    "one step more": ("Convergence.v", "(1 - rate) * gap T", "(1 - 2 * rate) * gap T"),
    "a shorter arc": ("Arctan.v", "<= lr * (PI / 2)\n", "<= lr * (PI / 3)\n"),
    "the other order": (
        "Order.v",
        "grams_change <= cautious_change <= adam_change",
        "cautious_change <= grams_change <= adam_change",
    ),
    "no friction": (
        "Flow.v",
        "both_rates_fall : 0 <= dot n g phi -> 0 <= dot n k psi ->",
        "both_rates_fall : 0 <= dot n g phi ->",
    ),
}


# The same lines otherwise put: no error, and the proofs must go through.
EQUAL = {
    "grams": (grams, AVERAGE, "m = g + beta1 * (m - g)"),
    "adams": (adams, "sqrt(nhat))", "sqrt(n / (1 - beta2**t)))"),
}


def with_error(name: str) -> str:
    """Rules.v as it would be printed from lines with this error."""
    place, module, old, new, _ = PLANTED[name]
    broken = planted(module, old, new)
    if place == "velocity":
        return rocq.rules_text(velocity=broken.velocity)
    return rocq.rules_text({**rocq.RULES, place: broken})


@pytest.mark.parametrize("name", PLANTED)
def test_an_error_in_the_lines_is_an_error_in_rules_v(name):
    before, after = definitions(SOURCES["Rules.v"]), definitions(with_error(name))
    changed = {key for key in before if before[key] != after[key]}
    place = PLANTED[name][0]
    assert changed and all(key.startswith(place) or key.endswith(place) for key in changed)


def test_what_has_no_meaning_in_rocq_is_refused():
    x, t = sp.Symbol("x", real=True), rocq.T
    for expression in (sp.exp(x), x**t / 2**x, sp.sqrt(2) ** x, t * x, sp.Piecewise((x, sp.Ne(x, 0)), (0, True))):
        with pytest.raises(ValueError, match=r"proofs/Meaning.v has no meaning for"):
            rocq.rocq(expression)
    with pytest.raises(ValueError, match="more than its arguments"):
        rocq.rules_text(velocity=lambda flow, g, k: k * x)
    swapped = planted(grams, AVERAGE, AVERAGE.replace("beta1", "beta2"))
    with pytest.raises(ValueError, match=r"grams_m depends on .* more than its arguments"):
        rocq.rules_text({"grams": swapped})


def test_nothing_is_admitted_or_assumed_outside_a_section():
    for name, source in SOURCES.items():
        text = re.sub(r"\(\*.*?\*\)", "", source, flags=re.DOTALL)
        assert not re.search(r"\b(Admitted|admit|Axioms?|Parameters?|Conjecture|Abort|Unset|Bypass|Declare)\b", text), (
            name
        )
        depth = 0
        for word in re.findall(r"\b(Section|End|Variables?|Hypothes[ie]s|Context)\b", text):
            depth += {"Section": 1, "End": -1}.get(word, 0)
            assert depth > 0 or word == "End", f"{name}: {word} outside a section is an axiom"


def test_every_theorem_is_asked_what_it_rests_on():
    stated = {t for s in SOURCES.values() for t in re.findall(r"^\s*(?:Theorem|Corollary) (\w+)", s, re.MULTILINE)}
    asked = set(re.findall(r"^Print Assumptions (\w+)\.$", SOURCES["Assumptions.v"], re.MULTILINE))
    assert stated and stated <= asked
    # T6 names these systems; a Phi that cannot see s, as it once stood in Flow.v, leaves Lion-K out
    assert {"friction_takes_energy", "heavy_ball_pushes_down", "lion_k_pushes_down", "lion_k_falls"} <= stated
    assert set(SOURCES) == {p.name for p in PROOFS.glob("*.v")}
    about = (PROOFS / "README.md").read_text(encoding="utf-8")
    assert not [f for f in ("Order.v", "Flow.v", "Arctan.v", "Convergence.v", "Meaning.v", "Rules.v") if f not in about]


# --- with Rocq ---

needs_rocq = pytest.mark.skipif(shutil.which("coqc") is None, reason="coqc is not installed (Debian's package coq)")


UNNEEDED = {"Arctan.v": ("Flow.v",), "Convergence.v": ("Flow.v", "Arctan.v")}


def compiled(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = ["coqc", "-q", "-Q", ".", "AdamLab", name]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@needs_rocq
@pytest.mark.slow
def test_rocq_accepts_every_proof_and_they_rest_on_the_allowed_axioms_alone(tmp_path):
    for name, source in SOURCES.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
        result = compiled(tmp_path, name)
        assert result.returncode == 0, result.stderr
        if name == "Assumptions.v":
            asked = source.count("Print Assumptions")
            assert result.stdout.count("Axioms:") == asked, "real numbers rest on axioms, so every theorem names some"
            assert set(re.findall(r"^([A-Za-z]\S*)", result.stdout.replace("Axioms:", ""), re.MULTILINE)) <= ALLOWED


@needs_rocq
@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_rocq_rejects_the_proof_of_a_planted_error(tmp_path, name):
    breaks = PLANTED[name][-1]
    for file in FILES[: FILES.index(breaks) + 1]:
        if file in UNNEEDED.get(breaks, ()):
            continue
        (tmp_path / file).write_text(with_error(name) if file == "Rules.v" else SOURCES[file], encoding="utf-8")
        result = compiled(tmp_path, file)
        assert (result.returncode != 0) is (file == breaks), (file, result.stderr)
        assert file != breaks or "Syntax error" not in result.stderr


@needs_rocq
@pytest.mark.slow
@pytest.mark.parametrize("name", OVERSTATED)
def test_rocq_rejects_a_theorem_that_says_too_much(tmp_path, name):
    place, old, new = OVERSTATED[name]
    assert SOURCES[place].count(old) == 1
    for file in FILES[: FILES.index(place) + 1]:
        if file in UNNEEDED.get(place, ()):
            continue
        text = SOURCES[file].replace(old, new) if file == place else SOURCES[file]
        (tmp_path / file).write_text(text, encoding="utf-8")
        result = compiled(tmp_path, file)
        assert (result.returncode != 0) is (file == place), (file, result.stderr)
        assert file != place or "Syntax error" not in result.stderr


@needs_rocq
@pytest.mark.slow
def test_rocq_accepts_lines_that_say_the_same_otherwise(tmp_path):
    rules = rocq.rules_text({**rocq.RULES, **{name: planted(*change) for name, change in EQUAL.items()}})
    assert rules != SOURCES["Rules.v"]
    for file in ("Meaning.v", "Sums.v", "Rules.v", "Order.v", "Arctan.v"):
        (tmp_path / file).write_text(rules if file == "Rules.v" else SOURCES[file], encoding="utf-8")
        result = compiled(tmp_path, file)
        assert result.returncode == 0, result.stderr
