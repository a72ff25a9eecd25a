"""The order of the house: who imports whom, what a notebook must be, and that the README tells the truth."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("reference", "fast", "experiments")
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = {p.stem: p.read_text(encoding="utf-8") for p in sorted((ROOT / "site" / "text").glob("*.md"))}

# Arrows point one way: notebooks -> experiments -> fast, notebooks -> reference, tests -> all. That `fast` and
# `reference` never meet is what makes their agreement evidence.
FORBIDDEN = {
    "reference": {"fast", "experiments", "notebooks", "tests"},
    "fast": {"reference", "experiments", "notebooks", "tests"},
    "experiments": {"reference", "notebooks", "tests"},
    "audit": {"notebooks", "tests"},  # experiments/audit compares what it is given with the rules themselves
}
WIDGET = "application/vnd.jupyter.widget-view+json"


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules(source: str) -> set[str]:
    """What a module imports by statement, and what these are in: "experiments.bench.sets", "experiments.bench" ..."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {".".join(name.split(".")[:n]) for name in found for n in range(1, name.count(".") + 2)}


def imports(source: str) -> set[str]:
    """The top-level names that a module imports, by statement or by `import_module("...")`; relative ones left out."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            given = [a.value for a in node.args if isinstance(a, ast.Constant)]
            found |= {value.partition(".")[0] for value in given if isinstance(value, str) and value[:1] != "."}
    return found


def prints(source: str) -> bool:
    """Whether a module prints although it is no command (a command ends in `if __name__ == "__main__"`)."""
    tree = ast.parse(source)
    command = any(isinstance(n, ast.If) and ast.unparse(n.test) == "__name__ == '__main__'" for n in tree.body)
    called = any(isinstance(n, ast.Call) and ast.unparse(n.func) == "print" for n in ast.walk(tree))
    return called and not command


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_arrows_point_one_way(path):
    assert (
        not imports(path.read_text(encoding="utf-8"))
        & FORBIDDEN["audit" if "audit" in path.parts else path.relative_to(ROOT).parts[0]]
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fast.grams as g", {"fast"}),
        ("def f():\n    from reference.grams import step", {"reference"}),
        ("from . import grams", set()),
        ("import importlib\nimportlib.import_module('fast.grams')", {"importlib", "fast"}),
    ],
)
def test_imports_are_seen(source, found):
    assert imports(source) == found


@pytest.mark.parametrize("path", [p for p in SOURCES if name(p).split("/")[0] in ("reference", "fast")], ids=name)
def test_a_library_does_not_print(path):
    assert path.name == "__main__.py" or not prints(path.read_text(encoding="utf-8"))


def test_prints_are_seen():
    assert prints("def f():\n    print(1)")
    assert not prints("def f():\n    print(1)\n\n\nif __name__ == '__main__':\n    f()")


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name)
def test_files_say_what_they_are_and_why_they_are_long(path):
    source = path.read_text(encoding="utf-8")
    assert path.name != "utils.py", "name the module after what it does"
    head = ast.get_docstring(ast.parse(source)) or ""
    assert head or not source.strip(), "the head must say what the file is"
    if source.count("\n") > 400:
        assert "400 lines" in head, 'split the file, or say in its head: "Past 400 lines because ..."'


@pytest.mark.parametrize("path", [p for p in SOURCES if re.search(r"^def step\(", p.read_text(), re.M)], ids=name)
def test_every_name_of_an_update_rule_is_explained(path):
    """`State` and `init` too, whose shapes nothing else says."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    named = [n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert {"State", "init", "step"} <= {n.name for n in named}
    assert not [n.name for n in named if not ast.get_docstring(n)]


def test_what_is_not_python_is_installed():
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = [p for package in PACKAGES for p in (ROOT / package).rglob("*") if p.is_file()]
    others = {p.relative_to(ROOT).as_posix() for p in files if p.suffix not in (".py", ".pyc")}
    assert others == {f"{package}/{file}" for package, files in packaged.items() for file in files}


@pytest.fixture(params=NOTEBOOKS, ids=name)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook) -> list:
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_notebooks_are_executed_from_top_to_bottom(notebook):
    cells = code_cells(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert any(c.outputs for c in cells), "a stripped notebook compares nothing"


def test_notebooks_show_no_errors_and_no_warnings(notebook):
    outputs = [o for c in code_cells(notebook) for o in c.outputs]
    assert not [o.evalue for o in outputs if o.output_type == "error"]
    assert not [o.text for o in outputs if o.get("name") == "stderr"]


def test_notebooks_carry_no_metadata_of_one_machine(notebook):
    assert notebook.metadata.kernelspec == {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    assert "widgets" not in notebook.metadata
    assert not [c.metadata for c in notebook.cells if "execution" in c.metadata]
    shown = [o for c in code_cells(notebook) for o in c.outputs]
    assert not [o for o in shown if WIDGET in o.get("data", {})], "run: python -m experiments.notebooks"


def test_notebooks_open_with_a_title_and_close_with_their_limits(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    closing = [c.source for c in notebook.cells[-3:] if c.cell_type == "markdown"]
    assert any("What this does not show" in text for text in closing)


def test_notebooks_can_be_compared(notebook):
    """nbval runs cells without history, where IPython shows a value in spite of its semicolon; and it takes what a
    widget's callback shows for the cell's own output."""
    compared = [c.source for c in code_cells(notebook) if "# NBVAL_IGNORE_OUTPUT" not in c.source.splitlines()[:1]]
    assert not [s for s in compared if s.rstrip().endswith(";")], "write `_ = ...` for a value not to be shown"
    assert not [s for s in compared if re.search(r"\binteract\(|\binteractive\(", s)], (
        "begin with # NBVAL_IGNORE_OUTPUT"
    )


def test_notebooks_redefine_no_algorithm(notebook):
    defined = {
        node.name
        for c in code_cells(notebook)
        for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", c.source, flags=re.MULTILINE)))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert not defined & {"step", "init", "Grams", "Adams", "AdamMini", "Lion", "CautiousAdamW", "CautiousLion"}


def test_the_usage_in_the_readme_runs():
    (usage,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert len([line for line in usage.splitlines() if line.strip()]) == 5
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    before = model.weight.detach().clone()
    given = {
        "model": model,
        "x": torch.randn(8, 4),
        "y": torch.randn(8, 2),
        "loss_function": torch.nn.functional.mse_loss,
    }
    exec(compile(usage, "README.md", "exec"), given)
    moved = (model.weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=1e-2, atol=0.0)  # one Grams step is lr long


def test_the_links_of_the_readme_lead_somewhere():
    for folder, text in ((ROOT, README), *((ROOT / "site" / "text", text) for text in TEXTS.values())):
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
        assert not [link for link in links if not link.startswith("https://") and not (folder / link).exists()]
    assert len(re.findall(r"\]\(([^)#]+)[^)]*\)", README)) > 10


def test_the_readme_is_short_and_leads_to_every_text():
    before_the_folded_ledger, _, after = README.partition("<details>")
    after = after.partition("</details>")[2]
    assert len((before_the_folded_ledger + after).splitlines()) <= 90
    assert not [
        name for name in (*(f"site/text/{n}.md" for n in TEXTS), "CLAIMS.md", "ERRATA.md") if f"({name})" not in README
    ]
    assert len(re.findall(r"^!\[[^\]]{40,}\]\(figures/\w+\.svg\)$", README, re.MULTILINE)) == 3


def test_every_notebook_is_in_the_readme_and_every_optimizer_in_its_text():
    import fast

    assert not [
        n for n in fast.__all__ if isinstance(getattr(fast, n), type) and f"`{n}`" not in "".join(TEXTS.values())
    ]
    assert not [n.name for n in NOTEBOOKS if n.name not in README]


def test_every_make_target_is_named():
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets and not [t for line in targets for t in line.split() if f"make {t}" not in TEXTS["commands"]]
    assert "make test" in README


CHECKOUT = {"experiments.bench", "experiments.gpu", "experiments.gpu_codegen"}  # which measure the package


def test_every_package_is_installed_that_is_not_run_in_a_checkout() -> None:
    """An editable install finds them all the same, a wheel does not. What is installed does without what is not."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for name in ("reference", "fast", "experiments")
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert set(listed) == found - CHECKOUT
    sources = [p for name in listed for p in (ROOT / name.replace(".", "/")).glob("*.py")]
    wrong = {name(p): sorted(CHECKOUT & modules(p.read_text(encoding="utf-8"))) for p in sources}
    assert not {path: found for path, found in wrong.items() if found}
