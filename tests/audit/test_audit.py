"""The audit: a right copy has its digits, a planted error its line, and what is no error is not called one."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import planted_optimizers
import pytest
import torch

from experiments.audit import __main__ as command
from experiments.audit import report
from experiments.audit.adapters import OURS, Contestant
from experiments.audit.cells import STATUS, audit, claimed
from experiments.audit.contestants import CONTESTANTS
from experiments.audit.faults import FAULTS, edits_of
from experiments.audit.mutations import mutations
from experiments.audit.rules import (
    CORRECTED,
    DOCUMENTED,
    LAST,
    NAMES,
    RESEED,
    EditError,
    available,
    load,
    replaced,
    source_of,
    tagged,
)
from experiments.audit.trials import ENOUGH, TRIALS, follow

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
RECORD = json.loads((ROOT / "figures" / "data" / "audit.json").read_text(encoding="utf-8"))
LION = {"eps": None, "betas": "beta", "weight_decay": "wd"}


def planted(name: str, rule: str, **rest: Any) -> Contestant:
    return Contestant("torch", f"planted_optimizers:{name}", rule, **rest)


@pytest.mark.parametrize(
    ("name", "rule", "names"),
    [("AdamW", "adamw", {}), ("Grams", "grams", {}), ("Cautious", "cautious", {}), ("Lion", "lion", LION)],
)
def test_a_right_copy_under_another_name_has_12_digits_everywhere(name: str, rule: str, names: dict[str, Any]) -> None:
    cell = audit(planted(name, rule, names=names))
    assert cell.status == "agrees" and not cell.error
    assert set(cell.digits) == {t for t in TRIALS if t != "large eps" or rule != "lion"}
    assert min(cell.digits.values()) >= ENOUGH
    assert all(cell.digits32[t] > cell.float32[t] - 1 for t in cell.digits)


@pytest.mark.parametrize(
    ("name", "rule", "line", "what"),
    [
        ("EpsUnderTheRoot", "adamw", "l.10", "eps under the root"),
        ("BetaOfM", "adamw", "l.7", "beta1 for beta2"),
        ("NoBiasCorrection", "adamw", "l.8", "no bias correction"),
        ("CoupledDecay", "adamw", "l.5", "decay coupled: part of the gradient"),
        ("SignOfM", "grams", "l.10", "sign of the momentum"),
        ("DecayWithoutLr", "grams", "l.12", "decay without lr"),
        ("OverTheMean", "cautious", "l.11", "rescaling 1 / max(mean, 1/1000)"),
        ("LionBeta1Twice", "lion", "l.6", "beta1 for beta2"),
    ],
)
def test_a_planted_error_is_named_with_its_line(name: str, rule: str, line: str, what: str) -> None:
    cell = audit(planted(name, rule, names=LION if rule == "lion" else {}))
    assert (cell.line, cell.what) == (line, what)
    assert cell.status == ("released" if name == "OverTheMean" else "differs")
    assert cell.explained and cell.explained >= ENOUGH > min(cell.digits.values())


@pytest.mark.parametrize(
    ("name", "status"), [("Noisy", "random"), ("FewBits", "low-bit"), ("Crude", "float32"), ("Unlike", "unexplained")]
)
def test_what_is_no_error_is_not_called_one(name: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "Unlike":  # the whole search would take a minute: its last stage asks for pairs
        monkeypatch.setattr("experiments.audit.explain.combinations", lambda x, n: [])
    cell = audit(planted(name, "adamw"))
    assert cell.status == status and cell.line == "" and cell.explained is None
    assert (status in report.RIGHT) == (name != "Unlike") and bool(cell.nearest) == (name == "Unlike")


def test_a_documented_deviation_is_documented_and_says_where() -> None:
    cell = audit(planted("DecayAfter", "adamw", claims=(LAST,), cites="its docstring"))
    assert cell.status == "documented" and "its docstring" in report.finding(report.plain(cell))
    assert audit(planted("DecayAfter", "adamw")).status == "differs"
    with pytest.raises(ValueError, match="no documented variants of lion"):
        claimed(planted("Lion", "lion", claims=(LAST,)))


def test_every_claim_of_a_contestant_has_a_source() -> None:
    assert CONTESTANTS and all(bool(c.claims) == bool(c.cites) for c in CONTESTANTS)
    for contestant in CONTESTANTS:
        if contestant.rule in available():
            claimed(contestant)
    for fault in FAULTS:
        assert edits_of(fault) and fault.contestant.library in {c.library for c in CONTESTANTS}


def test_what_is_not_installed_or_breaks_is_said_so() -> None:
    absent = audit(Contestant("no-such-distribution", "no_such_module:Lion", "lion"))
    assert absent.status == "absent" and "no-such-distribution" in absent.error
    assert audit(Contestant("torch", "torch.optim:NoSuch", "lion")).status == "absent"
    cell = audit(planted("AdamW", "adamw", names={"betas": "beta"}, options={"fault": 1, "betas": 3}))
    assert cell.status == "fails" and "TypeError" in cell.error and report.verdict(cell, []) == 1


@pytest.mark.parametrize("name", available())
def test_a_rule_without_edits_is_references_own(name: str) -> None:
    assert load(name).module is sys.modules[f"reference.{name}"]
    assert {edit.line for edit in mutations(name)} <= set(tagged(source_of(name)))
    assert len(mutations(name)) > 100


@pytest.mark.parametrize("name", available())
def test_a_documented_variant_moves_the_path(name: str) -> None:
    """By another rule than its own in one trial at least: an edit that changes nothing would explain anything."""
    base = {t: follow(load(name), trial) for t, trial in TRIALS.items()}
    for edit in DOCUMENTED[name]:
        if edit.what in (CORRECTED, RESEED):
            continue  # the same in exact arithmetic, as long as every gradient is there and no matrix is zero
        rule = load(name, [edit])
        moved = [t for t, trial in TRIALS.items() if str(follow(rule, trial)) != str(base[t])]
        assert moved or edit.line == "lr", edit


def test_an_edit_that_does_not_fit_is_refused() -> None:
    with pytest.raises(EditError, match="has not 'beta3' once"):
        load("adam", [replaced("l.5", "no such beta", "beta3", "beta1")])
    with pytest.raises(ValueError, match="the rules are adam, "):
        load("sgd")


def test_the_record_fills_the_table() -> None:
    cells = [cell for cell in RECORD["cells"] if cell["status"] != "absent"]
    assert len(cells) >= 60 and len({cell["library"] for cell in cells}) >= 8
    assert {cell["rule"] for cell in cells} <= set(NAMES)
    assert RECORD["cells"][0]["library"] == OURS
    for cell in cells:
        assert cell["status"] in STATUS and cell["version"]
        if cell["status"] in ("agrees", "documented"):
            assert cell["least"] >= ENOUGH
        elif cell["status"] in ("differs", "released"):
            assert re.match(r"(l\.\d+|t|lr)", cell["line"]) and cell["what"] and cell["explained"] >= ENOUGH
        elif cell["status"] == "unexplained":
            assert cell["nearest"] and cell["explained"] is None
        else:
            assert cell["what"] or cell["error"] or cell["status"] == "random"


def test_our_own_rows_agree_and_keep_the_contract() -> None:
    ours = [cell for cell in RECORD["cells"] if cell["library"] == OURS]
    assert len(ours) >= 12 and {cell["status"] for cell in ours} <= {"agrees", "documented"}
    contracts = [entry for entry in RECORD["contract"] if entry["library"] == OURS]
    assert len(contracts) == len(ours)
    assert {found["status"] for entry in contracts for found in entry["terms"].values()} <= {"holds", "not asked"}


@pytest.mark.parametrize(
    "contestant",
    [c for c in CONTESTANTS if c.library == OURS and not c.options["compile"] and c.rule in available()],
    ids=lambda c: c.rule,
)
def test_our_own_optimizers_are_audited_now(contestant: Contestant) -> None:
    assert audit(contestant).status in ("agrees", "documented")


def test_the_faults_are_explained_by_their_edits() -> None:
    assert len(RECORD["faults"]) == 5
    for fault in RECORD["faults"]:
        port, mended, rule = (fault[k] for k in ("by the class", "explained", "by the rule"))
        assert max(abs(a - b) for p, q in zip(port, mended, strict=True) for a, b in zip(p, q, strict=True)) < 1e-9
        assert max(abs(a - b) for p, q in zip(port, rule, strict=True) for a, b in zip(p, q, strict=True)) > 1e-2


def test_the_text_of_the_audit_has_the_table_of_the_record() -> None:
    text = (ROOT / "site" / "text" / "audit.md").read_text(encoding="utf-8")
    assert report.by_library(RECORD) in text, "put report.by_library(RECORD) there"


def test_findings_are_short_and_need_nothing_of_ours() -> None:
    paths = sorted((ROOT / "experiments" / "audit" / "findings").glob("*.py"))
    assert len(paths) >= 5
    for path in paths:
        text = path.read_text(encoding="utf-8")
        body = text.split('"""')[2]
        code = [line for line in body.splitlines() if line.strip()]
        assert 3 <= len(code) <= 10, path.name
        assert not re.search(r"\b(fast|reference|experiments)\b", body), path.name
        compile(text, path.name, "exec")


def test_nothing_of_the_audit_is_in_the_wheel_and_its_packages_are_in_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert not [p for p in project["tool"]["setuptools"]["packages"] if "audit" in p]
    extra = {re.split(r"[<>=\[;]", name)[0] for name in project["project"]["optional-dependencies"]["audit"]}
    others = {"grams-pytorch", "adams-torch", "adam-mini"} | {"zij"}  # of the extra `released`; and by hand
    assert {c.library for c in CONTESTANTS} - {OURS, "torch"} - others <= {x.replace("_", "-") for x in extra} | extra


def test_a_setting_may_be_a_call_and_torchaos_compiles_nothing_without_failing() -> None:
    """With Dynamo switched off in its config, torch 2.13 raises where fullgraph=True is asked for."""
    (setting,) = {tuple(c.settings.items()) for c in CONTESTANTS if c.library == "torchao"}
    contestant = Contestant("torch", "torch.optim:AdamW", "adamw", settings=dict(setting))
    try:
        assert contestant.make() is torch.optim.AdamW
        compiled = torch.compile(lambda x: x + (0 if torch.compiler.is_compiling() else 1), fullgraph=True)
        assert compiled(torch.zeros(1)) == 1
    finally:
        torch.compiler.set_stance("default")


def test_one_library_s_trouble_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = planted("AdamW", "adamw")
    gone = Contestant("no-such-distribution", "no_such_module:Lion", "lion")
    monkeypatch.setattr(command, "CONTESTANTS", [gone, right])
    found = {name: command.of_part(f"{name}:0") for name in ("no-such-distribution", "torch")}
    assert [cell["status"] for cell in found["no-such-distribution"]["cells"]] == ["absent"]
    assert [cell["status"] for cell in found["torch"]["cells"]] == ["agrees"]
    assert found["torch"]["contract"][0]["terms"]["gradient unchanged"]["status"] == "holds"
    assert planted_optimizers and capsys.readouterr().out == ""
