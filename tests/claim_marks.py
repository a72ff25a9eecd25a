"""Which tests are marked with which claims, read off their source, and held against the ledger's lists.

The source is parsed, not imported: that is quick, and it sees a test that this machine would skip or deselect.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reference.claims import Claim

# Tests with these marks do not run, or may fail, in an ordinary run: no verdict may rest on them alone.
LEFT_OUT = {"slow", "cuda", "skip", "xfail"}


@dataclass(frozen=True)
class MarkedTest:
    """A test function as its source shows it: node id, the claims it is marked with, and all its marks' names."""

    node: str
    claims: frozenset[str]
    marks: frozenset[str]


def marked_tests(folder: Path) -> tuple[list[MarkedTest], list[str]]:
    """Every test function in test_*.py under `folder`; and, as errors, the claim marks that stand elsewhere."""
    tests: list[MarkedTest] = []
    errors: list[str] = []
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        name = path.relative_to(folder.parent).as_posix()
        seen: set[ast.AST] = set()
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
                    tests.append(MarkedTest(f"{prefix}::{function.name}", claims, frozenset(m for m, _ in marks)))
        errors += [
            f"{name}, line {call.lineno}: a claim mark must be a decorator of a test with its ids as plain text"
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.claim"
            if call not in seen or not _literal_args(call)
        ]
    return tests, errors


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
