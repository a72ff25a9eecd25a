"""One cell of the audit: a contestant beside its rule, digits in every trial, and what explains those that are missing.

    cell = audit(contestant)        a Cell; whatever the package raises is in the cell, not raised

A cell's `status` is one of STATUS. Only "differs" and "unexplained" say that a class computes something else than the rule
that its documentation names; float32 arithmetic, few bits and random rounding are said to be what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from experiments.audit.adapters import Contestant, Run
from experiments.audit.explain import explain
from experiments.audit.rules import DOCUMENTED, Edit, EditError, Rule, load
from experiments.audit.trials import ENOUGH, PARTS, SLACK, TRIALS, Part, Path, Trial, agreement, digits, follow

STATUS = {
    "agrees": "the rule as the paper writes it, to 12 digits and more in every trial",
    "documented": "a variant that its own documentation names, to 12 digits and more",
    "released": "a variant that the code released with the paper computes, to 12 digits and more",
    "differs": "another rule, which the line explains to 12 digits and more",
    "unexplained": "another rule; neither a documented variant nor an error of one line explains it",
    "float32": "computes or keeps float32 where it is given float64; as exact as float32 can be",
    "low-bit": "keeps its state in few bits, as it says",
    "random": "rounds at random: two runs differ",
    "fails": "raises an error in a trial",
    "absent": "is not installed here, or does not import",
}
FEW_BITS = ("int8", "uint8", "int4", "uint4", "float8", "bfloat16", "float16")


@dataclass
class Cell:
    """What was found of one contestant. `digits`, `digits32`, `float32`: by trial; the last is what float32 allows the rule."""

    library: str
    version: str
    label: str
    target: str
    rule: str
    status: str = "absent"
    digits: dict[str, float] = field(default_factory=dict)
    digits32: dict[str, float] = field(default_factory=dict)
    float32: dict[str, float] = field(default_factory=dict)
    line: str = ""
    what: str = ""
    alike: list[str] = field(default_factory=list)
    explained: float | None = None  # digits with the line changed so
    nearest: str = ""  # the closest documented variant of an unexplained one
    claims: list[str] = field(default_factory=list)
    cites: str = ""
    state: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def least(self) -> float | None:
        """The digits of its worst trial."""
        return min(self.digits.values()) if self.digits else None


def claimed(contestant: Contestant) -> list[Edit]:
    """The documented variants of its rule that its documentation says it is. ValueError for one that the rule does not have."""
    known = {edit.what: edit for edit in DOCUMENTED[contestant.rule]}
    if unknown := set(contestant.claims) - set(known):
        raise ValueError(
            f"{contestant.label}: {unknown} are no documented variants of {contestant.rule}: {list(known)}"
        )
    return [known[what] for what in contestant.claims]


def trials_of(contestant: Contestant, rule: Rule) -> list[Trial]:
    """The trials that rule and contestant have the hyper-parameters for."""
    return [t for t in TRIALS.values() if set(t.numbers) <= rule.arguments and contestant.takes(t)]


def audit(contestant: Contestant) -> Cell:
    cell = Cell(contestant.library, "", contestant.label, contestant.target, contestant.rule, cites=contestant.cites)
    cell.claims = list(contestant.claims)
    try:
        cell.version = contestant.version()
        contestant.make()
    except Exception as error:  # whatever an import may raise
        cell.error = _said(error)
        return cell
    rule = load(contestant.rule, claimed(contestant))
    trials = trials_of(contestant, rule)
    trials, runs = trials_of(contestant, rule), {}
    for trial in trials:
        try:
            runs[trial.name] = contestant.run(trial, "float64"), contestant.run(trial, "float32")
        except Exception as error:  # of the package, whatever it is
            cell.error = cell.error or f"{trial.name}: {_said(error)}"
    if not runs:
        cell.status = "fails"
        return cell
    paths = {name: run.path for name, (run, _) in runs.items()}
    for name, (_, run32) in runs.items():
        trial = TRIALS[name]
        right = follow(rule, trial)
        cell.digits[name] = digits(paths[name], right, trial)
        cell.digits32[name] = digits(run32.path, right, trial)
        cell.float32[name] = digits(follow(rule, trial, np.float32), right, trial)
    again = contestant.run(TRIALS[next(iter(runs))], "float64")
    cell.state = sorted(_kept(contestant, again))
    _judge(cell, contestant, paths, not _same(again.path, paths[next(iter(runs))]))
    if cell.error:
        cell.status = "fails"
    return cell


def _judge(cell: Cell, contestant: Contestant, paths: dict[str, Path], random: bool) -> None:
    if random:
        cell.status = "random"
    elif few := [dtype for dtype in cell.state if dtype.startswith(FEW_BITS)]:
        cell.status, cell.what = "low-bit", f"state in {', '.join(few)}"
    elif min(cell.digits.values()) >= ENOUGH:
        cell.status = "documented" if contestant.claims else "agrees"
    elif (
        all(cell.digits[name] >= cell.float32[name] - SLACK for name in cell.digits)
        and max(cell.digits.values()) < ENOUGH
    ):
        cell.status, cell.what = "float32", "float32 arithmetic"
    elif "float32" not in cell.state and (found := explain(paths, contestant.rule, claimed(contestant))):
        cell.status = "released" if all(edit.released for edit in found.edits) else "differs"
        cell.explained, cell.alike = found.digits, list(found.alike)
        cell.line = ", ".join(dict.fromkeys(edit.line for edit in found.edits))
        cell.what = "; ".join(edit.what for edit in found.edits)
    else:
        cell.status, cell.nearest = "unexplained", _nearest(cell, contestant, paths)


def _nearest(cell: Cell, contestant: Contestant, paths: dict[str, Path]) -> str:
    """What comes nearest, with its digits; of float32, which lets nobody prove a line to 12 digits, as many as it allows."""
    allowed = min(cell.float32.values())
    if "float32" in cell.state or max(cell.digits.values()) < ENOUGH:
        found = explain(paths, contestant.rule, claimed(contestant), allowed - 1)
        if found:
            return f"{found} ({found.digits:.1f} digits, where float32 allows {allowed:.1f})"
    return _nearest_documented(contestant, paths)


def _nearest_documented(contestant: Contestant, paths: dict[str, Path]) -> str:
    """The documented variants with the most digits in their worst trial."""
    found: list[tuple[float, str]] = []
    documented = DOCUMENTED[contestant.rule]
    for edits in [(), *combinations(documented, 1), *combinations(documented, 2), *combinations(documented, 3)]:
        try:
            rule = load(contestant.rule, [*claimed(contestant), *edits])
        except EditError:
            continue
        least = max(found)[0] if found else 0.0
        worst = min((agreement(path, rule, TRIALS[name], least) for name, path in paths.items()), default=0.0)
        if not found or worst > least + 0.1:
            found.append((worst, "; ".join(map(str, edits)) or "the rule itself"))
    most = max(found)
    return f"{most[1]} ({most[0]:.1f} digits)"


def _kept(contestant: Contestant, run: Run) -> frozenset[str]:
    """The dtypes of the state; also of a tensor of 4096 entries, from which on some packages keep fewer bits."""
    if not contestant.of_torch:
        return run.kept
    large = Trial("large", steps=1)
    name = PARTS[0].name
    vars(large)["start"] = [np.ones((64, 64))]
    vars(large)["gradients"] = [[np.ones((64, 64))]]
    return run.kept | _with_parts(contestant, large, (Part(name, (64, 64)),))


def _with_parts(contestant: Contestant, trial: Trial, parts: tuple[Part, ...]) -> frozenset[str]:
    try:
        return contestant.run(_Given(trial, parts), "float64").kept  # pyright: ignore[reportArgumentType]
    except Exception:  # of a package that knows no such tensor
        return frozenset()


class _Given:
    """A trial with other tensors."""

    def __init__(self, trial: Trial, parts: tuple[Part, ...]) -> None:
        self._trial, self._parts = trial, parts

    def parts(self, rule: str) -> tuple[Part, ...]:
        return self._parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


def _same(a: Path, b: Path) -> bool:
    return all(
        np.array_equal(x, y, equal_nan=True)
        for one, two in zip(a, b, strict=True)
        for x, y in zip(one, two, strict=True)
    )


def _said(error: BaseException) -> str:
    """The first line of an error."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
