"""The contract that anyone's optimizer can be asked: ours keeps it, each of its terms can break, and the command says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from planted_optimizers import Planted
from torch import Tensor

from experiments.audit import __main__ as command
from experiments.audit.contestants import CONTESTANTS
from experiments.audit.contract import BREAKS, HOLDS, NOT_ASKED, TERMS, Subject, check
from experiments.audit.rules import available

OURS = [c for c in CONTESTANTS if c.library == "adamlab" and not c.options["compile"] and c.rule in available()]
NAMES = [term.name for term in TERMS]


class Careless(Planted):
    """AdamW with `maximize`; `fault` is the name of the term that it breaks."""

    def __init__(
        self, params: Any, lr: Any = 1e-3, betas: Any = (0.9, 0.999), maximize: bool = False, weight_decay: float = 0.0
    ) -> None:
        self.said = print("made") if self.fault == "silent" else None
        if self.fault == "lr as a tensor" and isinstance(lr, Tensor):
            lr = 0.2
        super().__init__(params, lr, betas, maximize=maximize, weight_decay=weight_decay)
        self.count, self.first = 0, lr
        self.step_of = torch.compile(_scaled, backend="eager", dynamic=False)

    def __getstate__(self) -> dict[str, Any]:
        lost = {"pickle": {"step_of": lambda: None}}.get(self.fault)
        return {**super().__getstate__(), "count": self.count, "first": self.first, "step_of": _scaled, **(lost or {})}

    def fresh(self, p: Tensor) -> dict[str, Any]:
        dtype = p.dtype if self.fault == "float32 state" or p.is_complex() else torch.float32
        return {"t": 0, "m": torch.zeros_like(p, dtype=dtype), "v": torch.zeros_like(p, dtype=dtype)}

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        if self.fault != "state_dict of bfloat16":  # torch's own rounds it
            for p, saved in zip(self.param_groups[0]["params"], state_dict["state"].values(), strict=True):
                self.state[p].update({k: v.clone() for k, v in saved.items() if isinstance(v, Tensor)})
        if self.fault == "state_dict":
            self.state.clear()

    def add_param_group(self, param_group: Any) -> None:
        if self.fault == "add_param_group" and self.param_groups:
            param_group["lr"] = 0.5
        super().add_param_group(param_group)

    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.set_grad_enabled(self.fault != "closure"):
                loss = closure()
        self.count += 1
        if self.fault == "the caller's torch":
            torch.rand(1)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.one(p, group)
                    elif self.fault == "missing gradient":
                        p.mul_(0.99)
        return loss

    def one(self, p: Tensor, group: dict[str, Any]) -> None:
        g, fault = p.grad, self.fault
        assert g is not None
        if g.is_sparse:
            if fault == "sparse gradient":
                p.mul_(0.5)
            raise RuntimeError("sparse gradients are not supported")
        if p.is_complex():
            if fault == "complex":
                p.copy_(p.real)
            raise TypeError("complex parameters are not supported")
        given = group
        if group["maximize"]:
            g = g.neg_() if fault == "gradient unchanged by maximize" else g if fault == "maximize" else -g
        if fault == "gradient unchanged":
            g.mul_(2)
        if fault == "scheduler":
            given = {**group, "lr": self.first}
        if fault == "OneCycleLR" and group["betas"][0] != 0.9:
            raise ValueError("betas must stay as they were")
        if fault == "strides":
            g = g.as_strided(p.size(), p.stride())
        if fault == "scalars and empty tensors" and not p.ndim:
            return
        w = p.data if fault == "version counter" else p
        if fault == "no decay is none":
            w.add_(1e-6)
        if fault == "late gradient" and p not in self.state:
            self.state[p].update({**self.fresh(p), "t": self.count - 1})
        state = self.state[p]
        if not state:
            state.update(self.fresh(p))
        if fault == "no recompilation":
            self.step_of(torch.ones(2), float(group["lr"]))
        wide = p.detach().clone().to(state["m"].dtype)
        self.state[wide] = state
        self.update(wide, g.to(wide.dtype), given)
        del self.state[wide]
        w.copy_(wide)


def _scaled(x: Tensor, lr: float) -> Tensor:
    return x * lr


def _refuse(self: Any, memo: Any) -> None:
    raise TypeError("cannot be copied")


def careless(fault: str) -> str:
    """The target of a class with this fault, in this module, where pickle finds it."""
    name = "Careless" + "".join(c for c in fault.title() if c.isalpha())
    more = {"__deepcopy__": _refuse} if fault == "deepcopy" else {}
    made = type(name, (Careless,), {"fault": fault, "__module__": __name__, **more})
    globals()[name] = made
    return f"{__name__}:{name}"


@pytest.mark.parametrize("contestant", OURS, ids=lambda c: c.target)
def test_our_own_optimizers_keep_it(contestant: Any) -> None:
    outcomes = check(command.subject(contestant))
    assert [o.term for o in outcomes] == NAMES
    assert not [(o.term, o.said) for o in outcomes if o.status != HOLDS]


def test_torch_s_own_fused_step_is_told_from_its_loop() -> None:
    """What breaks in one breaks in it alone: neither a term that nobody keeps, nor one that nobody breaks."""
    broken = {}
    for fused in (False, True):
        outcomes = check(Subject("torch.optim:AdamW", {"fused": fused}))
        broken[fused] = {o.term for o in outcomes if o.status == BREAKS}
    assert broken[False] == {"float32 state"}
    assert broken[True] - broken[False] <= {"strides", "version counter"}  # later torches may mend them


def test_terms_are_asked_only_where_there_is_something_to_ask() -> None:
    outcomes = {o.term: o.status for o in check(Subject(f"{__name__}:NoMaximize"))}
    assert {t for t, status in outcomes.items() if status == NOT_ASKED} == {
        "maximize",
        "gradient unchanged by maximize",
    }


class NoMaximize(Planted):
    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, weight_decay=weight_decay)


def test_a_careful_one_keeps_it() -> None:
    outcomes = check(Subject(careless("")))
    assert not [(o.term, o.said) for o in outcomes if o.status != HOLDS]


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("term", TERMS, ids=NAMES)
def test_each_term_can_break(term: Any) -> None:
    (outcome,) = check(Subject(careless(term.name)), [term])
    assert outcome.status == BREAKS and outcome.said
    lines = outcome.reproducer.splitlines()
    assert len(lines) == 5 and lines[0].startswith("import ") and lines[1].startswith("make = ")


def test_what_a_step_leaves_changed_is_put_back() -> None:
    before = torch.get_rng_state()
    check(
        Subject(careless("the caller's torch")),
        [t for t in TERMS if t.name in ("gradient unchanged", "the caller's torch")],
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_the_reproducer_runs_by_itself() -> None:
    """With nothing of the audit: python, torch and the class."""
    (outcome,) = check(Subject("torch.optim:AdamW"), [t for t in TERMS if t.name == "float32 state"])
    ran = subprocess.run([sys.executable, "-c", outcome.reproducer], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "AssertionError: in bfloat16: ['exp_avg', 'exp_avg_sq']" in ran.stderr


def test_the_command_prints_writes_and_returns_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "a.json"), "--junit", str(tmp_path / "a.xml")]
    names = ["--map", "eps=", "--map", "betas=beta", "--map", "weight_decay=wd"]
    assert command.main(["planted_optimizers:LionBeta1Twice", "--rule", "lion", *names, *files]) == 1
    said = capsys.readouterr().out
    assert "differs: another rule" in said and "l.6: beta1 for beta2" in said and "holds     gradient unchanged" in said
    kept = json.loads((tmp_path / "a.json").read_text())
    assert kept["cell"]["line"] == "l.6" and len(kept["contract"]) == len(TERMS)
    suite = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert int(suite.get("tests", 0)) == len(TERMS) + 1 and len(suite.findall("testcase")) == len(TERMS) + 1
    failed = {case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None}
    assert "rule lion" in failed and int(suite.get("failures", 0)) == len(failed)


def test_the_exit_status_is_0_where_all_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.xml"
    assert (
        command.main(
            ["fast:Lion", "--option", "compile=False", "--map", "eps=", "--rule", "lion", "--junit", str(path)]
        )
        == 0
    )
    assert ElementTree.parse(path).getroot().get("failures") == "0"
    assert "breaks" not in capsys.readouterr().out


@pytest.mark.parametrize("target", ["no_such_module:Lion", "torch.optim:NoSuch", "torch.optim"])
def test_a_class_that_is_not_there_is_no_crash(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([target]) == 2
    assert "package.module:Class" in capsys.readouterr().err
