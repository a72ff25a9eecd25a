"""tests/common/compiler.py: on a machine without a C++ compiler nothing fails, and where there should be one nothing is skipped."""

from __future__ import annotations

import ast
from pathlib import Path

import compiler
import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]
EXCEPT = {  # they bring failures of their own
    "test_an_error_where_compilation_was_asked_for_changes_nothing",
    "test_warming_up_says_what_it_cannot_do",
}
SAMPLE = """
import pytest, warnings

@pytest.mark.compiler
def test_marked(): pass

@pytest.mark.parametrize("compile", [False, True])
def test_either(compile): pass

def test_it_is_left_to_the_optimizer(): warnings.warn("torch.compile failed (so)", RuntimeWarning)
"""


@pytest.mark.parametrize(
    ("cxx", "asked", "counts"),
    [
        ("no-such-compiler", "", {"passed": 2, "skipped": 2}),
        ("no-such-compiler", "required", {"passed": 3, "failed": 1}),
        ("true", "", {"passed": 3, "failed": 1}),
    ],
)
def test_what_is_skipped(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, cxx: str, asked: str, counts: dict[str, int]
) -> None:
    monkeypatch.setenv("CXX", cxx)  # `true` takes any code
    monkeypatch.setenv("ADAMLAB_COMPILER", asked)
    monkeypatch.setenv("PYTHONPATH", str(TESTS / "common"))
    pytester.makeconftest((TESTS / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nfilterwarnings = error\nmarkers =\n    compiler\n    claim(id)\n    cuda\n")
    pytester.makepyfile(SAMPLE)
    result = pytester.runpytest_subprocess("-rs", "-p", "no:cacheprovider")
    assert result.parseoutcomes() == counts
    if "skipped" in counts:
        result.stdout.fnmatch_lines([f"SKIPPED [[]2[]] *: {compiler.REASON}"])


def test_the_compiler_is_the_one_that_torch_finds() -> None:
    try:
        torch.compile(lambda x: x + 1)(torch.ones(3))
        works = True
    except RuntimeError:
        works = False
    assert compiler.found() == works


def unmarked(source: str) -> list[str]:
    """Test functions that set `compile` to True, in a call or a loop, and are not marked `compiler`."""
    tree = ast.parse(source)
    if any(ast.unparse(n) == "pytestmark = pytest.mark.compiler" for n in tree.body):
        return []
    tests = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]
    tests = [t for t in tests if "pytest.mark.compiler" not in map(ast.unparse, t.decorator_list)]
    return [t.name for t in tests if any(map(_compiles, ast.walk(t)))]


def _compiles(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword) and node.arg == "compile":
        return ast.unparse(node.value) == "True"
    return isinstance(node, ast.For) and ast.unparse(node.target) == "compile" and "True" in ast.unparse(node.iter)


def test_tests_that_insist_on_compiling_are_marked() -> None:
    found = {name for path in TESTS.rglob("test_*.py") for name in unmarked(path.read_text(encoding="utf-8"))}
    assert found == EXCEPT


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def test_a():\n    f(compile=True)", ["test_a"]),
        ("def test_a():\n    for compile in (False, True):\n        f(compile)", ["test_a"]),
        ("@pytest.mark.compiler\ndef test_a():\n    f(compile=True)", []),
        ("pytestmark = pytest.mark.compiler\ndef test_a():\n    f(compile=True)", []),
        ("def test_a(compile):\n    f(compile=compile)", []),
    ],
)
def test_what_insists_is_seen(source: str, found: list[str]) -> None:
    assert unmarked(source) == found
