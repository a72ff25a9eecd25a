"""The rooms of `fast`: which may import which, how many there are, and that each says at its door what lives there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FAST = Path(__file__).resolve().parents[2] / "fast"
ROOMS = sorted(p.parent.relative_to(FAST).as_posix() for p in FAST.glob("*/**/__init__.py"))
# From the ground up: a room may import those before it, and optimizers (files of their own) everything but the monitor.
FLOORS = ["_kernels", "_kernels.gpu", "_engine", "partition", "optimizers", "monitor", "fast"]
MAY = {
    "_kernels": set[str](),
    "_kernels.gpu": {"_kernels"},
    "_engine": {"_kernels", "_kernels.gpu"},
    "partition": set[str](),
    "optimizers": {"_kernels", "_engine", "partition"},
    "monitor": {"_kernels", "_engine", "partition", "optimizers"},
    "fast": {"_engine", "partition", "optimizers", "monitor"},  # its __init__
}


def room_of(module: str) -> str:
    """The room of "fast.partition.blocks", say."""
    if module == "fast":
        return module
    name = module.removeprefix("fast.")
    return next((room for room in reversed(FLOORS) if f"{name}.".startswith(f"{room}.")), "optimizers")


def imported(source: str, module: str) -> set[str]:
    """The modules of `fast` that a module imports, wherever in it: by statement, relative or by their names as text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("fast."):
            found.add(node.value)
    return {name for name in found if name.partition(".")[0] == "fast"}


def modules() -> dict[str, str]:
    """The text of each module of `fast`, by its dotted name; a package has that of its __init__."""
    found = {}
    for path in sorted(FAST.rglob("*.py")):
        parts = path.relative_to(FAST.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[f"{name}.__init__" if parts[-1] == "__init__" else name] = path.read_text(encoding="utf-8")
    return found


def forbidden(texts: dict[str, str]) -> list[str]:
    """Each import that a room may not make."""
    wrong = []
    for module, text in texts.items():
        room = room_of(module.removesuffix(".__init__"))
        for name in sorted(imported(text, module)):
            if room_of(name) != room and room_of(name) not in MAY[room]:
                wrong.append(f"{module} imports {name}")
    return wrong


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Who imports itself by way of others."""

    def reached(start: str) -> set[str]:
        found, waiting = set[str](), [start]
        while waiting:
            for other in arrows.get(waiting.pop(), set()) - found:
                found.add(other)
                waiting.append(other)
        return found

    return sorted(name for name in arrows if name in reached(name))


def test_no_room_imports_one_above_it() -> None:
    assert not forbidden(modules())


def test_the_floors_have_no_circle() -> None:
    assert not circles(MAY)
    assert all(FLOORS.index(below) < FLOORS.index(room) for room, others in MAY.items() for below in others)


def test_no_circle_of_modules() -> None:
    """Without what is imported for its types alone."""
    texts = modules()
    known = {name.removesuffix(".__init__"): name for name in texts}
    arrows = {}
    for module, text in texts.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
        found = imported(ast.unparse(tree), module)
        # of "fast.partition.blocks.Blocks" the module: the name itself, or what it is in
        found = {name if name in known else name.rpartition(".")[0] for name in found}
        arrows[module] = {known[name] for name in found if name in known} - {module, "fast.__init__"}
    assert arrows["fast.grams"] >= {"fast._engine.optimizer", "fast._kernels.update"}  # they are seen
    assert not circles(arrows)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fast._kernels.cpu", "from fast._engine.checks import number"),
        ("fast._kernels.cpu", "def f():\n    import fast._engine.step"),
        ("fast._kernels.cpu", "from .._engine import step"),
        ("fast.partition.blocks", "from fast._kernels.update import users_line"),
        ("fast._engine.step", "import importlib\nimportlib.import_module('fast.adams')"),
        ("fast._engine.step", "if TYPE_CHECKING:\n    from fast import grams"),
        ("fast.grams", "from fast.monitor import Monitor"),
        ("fast._engine.step", "from fast import Grams"),
        ("fast._kernels.cpu", "from fast._kernels.gpu import launch"),
    ],
)
def test_a_wrong_arrow_is_seen(module: str, source: str) -> None:
    assert forbidden({module: source})


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_a_dozen_entries_at_most() -> None:
    """py.typed, an empty file, is a mark for type checkers and no entry to be read."""
    entries = {p.name for p in FAST.iterdir()} - {"py.typed", "__pycache__"}
    assert len(entries) <= 12, sorted(entries)
    for room in ROOMS:
        assert len([p for p in (FAST / room).iterdir() if p.name != "__pycache__"]) <= 12, room


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_says_what_lives_there_what_it_may_import_and_where_to_begin(room: str) -> None:
    said = ast.get_docstring(ast.parse((FAST / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len([line for line in said.splitlines() if line]) <= 3
    assert "import" in said
    begin = said.partition("Begin with `")[2].partition("`")[0]
    assert (FAST / room / f"{begin}.py").exists(), f"begin with {begin!r}?"
