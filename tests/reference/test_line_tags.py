"""One statement for one line of pseudocode: the tags in reference/*.py against the numbered lines of each head.

A head numbers its lines 1, 2, 3 ...; a second procedure has a prefix: P1.1, P1.2 ... The code's tags are `# l.3` and
`# P1.1`. Within a series the tags must be the head's lines in the head's order, each on one statement, save those that
the head gives to the caller in a line `Caller's lines: 2, 4`.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parents[2] / "reference"
LABEL = r"(?:[A-Z]\d*\.)?\d+"
TAG = r"(?:l\.|[A-Z]\d*\.)\d+"


def head_labels(head: str) -> list[str]:
    """The labels of a head's numbered lines, in order: lines indented by four or more that begin with a label."""
    return re.findall(rf"^ {{4,}}({LABEL}) +\S", head, flags=re.MULTILINE)


def callers_labels(head: str) -> list[str]:
    found = re.search(rf"^Caller's lines: ({LABEL}(?:, {LABEL})*)", head, flags=re.MULTILINE)
    return found.group(1).split(", ") if found else []


def series(label: str) -> str:
    """'' for 7, 'P1' for P1.4."""
    return label.rpartition(".")[0]


def tags(source: str) -> list[tuple[str, int]]:
    """(label, line number) of each comment that begins with a tag; 'l.7' is the label '7'."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        match = re.match(rf"# ({TAG})(?![\w.])", token.string) if token.type == tokenize.COMMENT else None
        if match:
            found.append((match.group(1).removeprefix("l."), token.start[0]))
    return found


def statement_lines(tree: ast.Module) -> dict[int, int]:
    """The line numbers of statements inside functions -> the line on which their statement begins.

    An `if` or `for` is its header alone: what it holds are statements of their own.
    """
    lines: dict[int, int] = {}
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        for s in ast.walk(function):
            if isinstance(s, ast.stmt) and not isinstance(s, ast.FunctionDef):
                body = getattr(s, "body", None)
                end = body[0].lineno - 1 if body else s.end_lineno or s.lineno
                lines |= dict.fromkeys(range(s.lineno, max(end, s.lineno) + 1), s.lineno)
    return lines


def tag_errors(source: str) -> list[str]:
    """What is wrong with the tags of one module; nothing where it has neither pseudocode nor tags."""
    tree = ast.parse(source)
    head = ast.get_docstring(tree, clean=False) or ""
    labels, callers, found = head_labels(head), callers_labels(head), tags(source)
    errors = [f"line {x} is numbered twice in the head" for x in dict.fromkeys(labels) if labels.count(x) > 1]
    errors += [f"Caller's lines names {x}, which the head does not have" for x in callers if x not in labels]
    expected = [x for x in labels if x not in callers]
    where = statement_lines(tree)
    statements = [where.get(line) for _, line in found]
    for (label, line), statement in zip(found, statements, strict=True):
        if statement is None:
            errors.append(f"{line}: the tag of line {label} is not on a statement of a function")
        elif statements.count(statement) > 1:
            errors.append(f"{line}: two tags on one statement")
        if label in callers:
            errors.append(f"{line}: line {label} is tagged, yet the head leaves it to the caller")
        elif label not in labels:
            errors.append(f"{line}: the tag of line {label}, which the head does not have")
    tagged = [label for label, _ in found]
    errors += [f"line {x} has no tag" for x in expected if x not in tagged]
    errors += [f"line {x} has {tagged.count(x)} tags" for x in expected if tagged.count(x) > 1]
    for name in dict.fromkeys(map(series, expected)):
        wanted = [x for x in expected if series(x) == name]
        got = [x for x in tagged if series(x) == name and x in wanted]
        if sorted(got) == sorted(wanted) and got != wanted:
            errors.append(f"tags out of order: {', '.join(got)}; the head has {', '.join(wanted)}")
    return errors


MODULES = sorted(REFERENCE.glob("*.py"))
ALGORITHMS = [p for p in MODULES if re.search(r"^def step\(", p.read_text(encoding="utf-8"), re.MULTILINE)]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_each_line_of_pseudocode_is_one_tagged_statement(path):
    assert not tag_errors(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", ALGORITHMS, ids=lambda p: p.stem)
def test_every_algorithm_has_numbered_pseudocode(path):
    head = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""
    assert len(set(head_labels(head)) - set(callers_labels(head))) >= 4


GOOD = '''"""A rule.

    1  t = 0
    2  while not converged:
    3    t = t + 1
    10   w = Half(w)
    Half(x):
    P1.1  h = x / 2
    P1.2  return h

Caller's lines: 2 (the loop).
"""


def init(w):
    return 0  # l.1


def half(x):
    h = x / 2  # P1.1: exact in binary
    return h  # P1.2


def step(w, t):
    t = t + 1  # l.3
    if t:
        w = half(
            w
        )  # l.10
    return w, t
'''


def test_the_checker_accepts_a_good_module():
    assert tag_errors(GOOD) == []
    assert tag_errors('"""No pseudocode."""\n\n\ndef f(x):\n    return x\n') == []


PLANTED = {
    "missing": ("t = t + 1  # l.3", "t = t + 1", "line 3 has no tag"),
    "doubled": ("return w, t", "return w, t  # l.10", "line 10 has 2 tags"),
    "two on one statement": ("w = half(\n", "w = half(  # l.3\n", "two tags on one statement"),
    "unknown": ("return w, t", "return w, t  # l.11", "line 11, which the head does not have"),
    "unknown procedure": ("return h  # P1.2", "return h  # P2.2", "line P2.2, which the head does not have"),
    "the caller's": ("return w, t", "return w, t  # l.2", "leaves it to the caller"),
    "on no statement": ("h = x / 2  # P1.1: exact in binary", "# P1.1\n    h = x / 2", "not on a statement"),
    "outside a function": ("def init", "zero = 0  # l.1\n\n\ndef init", "not on a statement of a function"),
    "numbered twice": ("    2  while", "    3  while", "line 3 is numbered twice"),
    "caller's line unknown": ("lines: 2", "lines: 2, 4", "names 4"),
    "a line without code": ("    10   w", "    4    w = w\n    10   w", "line 4 has no tag"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_finds_a_planted_error(name):
    old, new, message = PLANTED[name]
    assert old in GOOD
    assert any(message in e for e in tag_errors(GOOD.replace(old, new)))


def test_the_checker_finds_swapped_tags():
    swapped = GOOD.replace("# P1.1: exact in binary", "# P1.x").replace("# P1.2", "# P1.1").replace("# P1.x", "# P1.2")
    assert tag_errors(swapped) == ["tags out of order: P1.2, P1.1; the head has P1.1, P1.2"]


def test_a_swap_in_a_real_module_is_found():
    source = (REFERENCE / "grams.py").read_text(encoding="utf-8")
    five, six = (re.search(rf"^    .*# l\.{n}\n", source, re.M) for n in (5, 6))
    assert five and six
    swapped = source.replace(five.group(), "@").replace(six.group(), five.group()).replace("@", six.group())
    assert any("out of order" in e for e in tag_errors(swapped))
