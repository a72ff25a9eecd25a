"""Which tests are marked with which claims, read off their source, and held against the ledger's lists.

The source is parsed, not imported: that is quick, and it sees a test that this machine would skip or deselect.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reference.claims import EVIDENCE, LEDGER, OUTSIDE, Claim

# Tests with these marks do not run, or may fail, in an ordinary run: no verdict may rest on them alone.
LEFT_OUT = {"slow", "cuda", "skip", "xfail"}


@dataclass(frozen=True)
class MarkedTest:
    """A test function as its source shows it: node id, the claims it is marked with, and all its marks' names."""

    node: str
    claims: frozenset[str]
    marks: frozenset[str]
    uses: frozenset[str]  # what it imports by way of the names in it: "sympy", "reference.theory.balls.ball"


def marked_tests(folder: Path) -> tuple[list[MarkedTest], list[str]]:
    """Every test function in test_*.py under `folder`; and, as errors, the claim marks that stand elsewhere."""
    tests: list[MarkedTest] = []
    errors: list[str] = []
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        name = path.relative_to(folder.parent).as_posix()
        seen: set[ast.AST] = set()
        uses = _Uses(tree)
        module_marks = _marks(_pytestmark(tree.body), seen)
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                class_marks = module_marks + _marks(node.decorator_list + _pytestmark(node.body), seen)
                found = [(f"{name}::{node.name}", class_marks, f) for f in node.body]
            else:
                found = [(name, module_marks, node)]
            for prefix, outer, function in found:
                if isinstance(function, ast.FunctionDef) and function.name.startswith("test"):
                    marks = outer + _marks(function.decorator_list, seen)
                    claims = frozenset(a for m, args in marks if m == "claim" for a in args)
                    node_id, names = f"{prefix}::{function.name}", frozenset(m for m, _ in marks)
                    tests.append(MarkedTest(node_id, claims, names, uses.of(function)))
        errors += [
            f"{name}, line {call.lineno}: a claim mark must be a decorator of a test with its ids as plain text"
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.claim"
            if call not in seen or not _literal_args(call)
        ]
    return tests, errors


class _Uses:
    """What the functions of one module use of what it imports: through its own functions and constants, and reference.theory's."""

    def __init__(self, tree: ast.Module) -> None:
        self.imported: dict[str, set[str]] = {}
        self.own: dict[str, ast.AST] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for a in node.names:
                    self.imported.setdefault(a.asname or a.name.partition(".")[0], set()).add(a.name)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for a in node.names:
                    self.imported.setdefault(a.asname or a.name, set()).update({node.module, f"{node.module}.{a.name}"})
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [t.id for t in targets if isinstance(t, ast.Name)]
            for name in [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else names:
                self.own[name] = node

    def of(self, node: ast.AST) -> frozenset[str]:
        found: set[str] = set()
        names: set[str] = set()
        waiting = [node]
        while waiting:
            part = waiting.pop()
            inside = {n.id for n in ast.walk(part) if isinstance(n, ast.Name)} - names
            names |= inside
            waiting += [self.own[n] for n in inside if n in self.own]
            for n in ast.walk(part):
                if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name):
                    found |= {f"{x}.{n.attr}" for x in self.imported.get(n.value.id, ())}
        found |= {x for n in names for x in self.imported.get(n, ())}
        return frozenset(found.union(*map(_theory, found)))


@cache
def _theory(name: str) -> frozenset[str]:
    """What a function or constant of reference.theory uses, "reference.theory.descent.duel"; nothing for other names."""
    module, _, member = name.rpartition(".")
    if not re.fullmatch(r"reference\.theory\.\w+", module):
        return frozenset()
    uses = _module(module)
    return uses.of(uses.own[member]) if member in uses.own else frozenset()


@cache
def _module(name: str) -> _Uses:
    path = LEDGER.parents[1].joinpath(*name.split(".")).with_suffix(".py")
    return _Uses(ast.parse(path.read_text(encoding="utf-8")))


def _pytestmark(body: Iterable[ast.stmt]) -> list[ast.expr]:
    values = [s.value for s in body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == "pytestmark"]
    return [e for v in values for e in (v.elts if isinstance(v, ast.List | ast.Tuple) else [v])]


def _marks(expressions: Iterable[ast.expr], seen: set[ast.AST]) -> list[tuple[str, tuple[str, ...]]]:
    """(name, text arguments) of each `pytest.mark.name(...)`; the calls that were read are added to `seen`."""
    marks = []
    for e in expressions:
        seen.add(e)
        function = ast.unparse(e.func if isinstance(e, ast.Call) else e)
        if function.startswith("pytest.mark."):
            marks.append((function.removeprefix("pytest.mark."), _literal_args(e) if isinstance(e, ast.Call) else ()))
    return marks


def _literal_args(call: ast.Call) -> tuple[str, ...]:
    return tuple(a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def mark_errors(claims: Sequence[Claim], tests: Sequence[MarkedTest]) -> list[str]:
    """Where the ledger's lists of tests and the tests' claim marks do not say the same."""
    by_id = {c.id: c for c in claims}
    by_node = {t.node: t for t in tests}
    errors = []
    for claim in claims:
        for node in claim.tests:
            if node not in by_node:
                errors.append(f"{claim.id}: the ledger names {node}, which does not exist")
            elif claim.id not in by_node[node].claims:
                errors.append(f'{claim.id}: {node} lacks @pytest.mark.claim("{claim.id}")')
        if claim.tests and all(by_node[n].marks & LEFT_OUT for n in claim.tests if n in by_node):
            errors.append(f"{claim.id}: {claim.verdict!r} rests on tests alone that an ordinary run leaves out")
    for test in tests:
        for claim_id in sorted(test.claims):
            if claim_id not in by_id:
                errors.append(f"{test.node} is marked with {claim_id}, which the ledger does not know")
            elif test.node not in by_id[claim_id].tests:
                errors.append(f"{test.node} is marked with {claim_id}, whose entry does not list it")
    return errors


# What a test must use to give an evidence. Of `symbols` only one way is held: SymPy's numbers serve other tests too.
GIVEN_BY = {
    "symbols": {"sympy"},
    "enclosure": {"flint", "reference.theory.balls"},
    "exhaustive": {"reference.theory.half_formats"},
    "certificate": {"reference.theory.pl_certificate", "reference.theory.descent.attaining_quadratic"},
}
SOLVER = "tests/theory/test_solver.py::"
PROOFS = "tests/theory/test_proofs.py::test_the_rules_that_rocq_reads_are_the_lines_that_run"


def gives(test: MarkedTest, evidence: str) -> bool:
    """Whether this test is of the kind that gives this evidence, in an ordinary run."""
    if test.marks & LEFT_OUT:
        return False
    if evidence == "solver":
        return test.node.startswith(SOLVER)
    if evidence == "checked":
        return test.node == PROOFS
    return bool(test.uses & GIVEN_BY[evidence])


def evidence_errors(claims: Sequence[Claim], tests: Sequence[MarkedTest], theorems: str) -> list[str]:
    """Where a claim's evidence is not what its tests give. theorems: proofs/README.md, whose table says what Rocq has checked."""
    by_node = {t.node: t for t in tests}
    checked = {
        i for cell in re.findall(r"^\| `\w+\.v` \| ([^|]+) \|", theorems, re.MULTILINE) for i in cell.split(", ")
    }
    errors = []
    for claim in claims:
        listed = [by_node[n] for n in claim.tests if n in by_node]
        for word in EVIDENCE:
            if word == "runs":
                continue
            given = any(gives(t, word) for t in listed)
            if word in claim.evidence and not given:
                errors.append(f"{claim.id}: none of its tests gives the evidence {word!r}")
            elif given and word != "symbols" and word not in claim.evidence:
                errors.append(f"{claim.id}: its tests give the evidence {word!r}, which it does not name")
        if claim.verdict == "proved" and OUTSIDE not in claim.scope:
            errors += [
                f"{claim.id}: {t.node} gives no evidence but a run; say in the scope what it shows, behind {OUTSIDE!r}"
                for t in listed
                if not t.marks & LEFT_OUT and not any(gives(t, word) for word in EVIDENCE if word != "runs")
            ]
        if ("checked" in claim.evidence) != (claim.id in checked):
            errors.append(f"{claim.id}: proofs/README.md and the ledger do not agree on whether Rocq has checked it")
    return errors
