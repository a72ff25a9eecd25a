"""A notebook as a page: not executed, its code folded, its mentions linked, with how to run it; what needs a kernel replaced."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from pages import ROOT
from pages.figures import Figure, living
from pages.links import Links, relative, source_name, tagged

WIDGET = "interactive(children="


def course() -> list[Path]:
    """The notebooks in the order in which the first one's table says to read them. ValueError if it leaves one out."""
    every = sorted((ROOT / "notebooks").glob("*.ipynb"))
    cells = nbformat.read(every[0], as_version=4).cells
    table = "".join(
        c.source.partition("## The course\n")[2].partition("\n## ")[0] for c in cells if c.cell_type == "markdown"
    )
    order = [every[0], *(every[0].with_name(name) for name in re.findall(r"\]\((\w+\.ipynb)\)", table))]
    if sorted(order) != every:
        raise ValueError(
            f"{every[0].name} names {[p.name for p in order]} as the course; there are {[p.name for p in every]}"
        )
    return order


def page(path: Path, links: Links, figures: Sequence[Figure], blanks: bool) -> NotebookNode:
    """The notebook as Sphinx shall read it; `blanks` says whether it has versions with blanks to be offered."""
    notebook = nbformat.read(path, as_version=4)
    file, of = path.relative_to(ROOT).as_posix(), f"notebooks/{path.stem}"
    places = {f.notebooks[path.stem]: f for f in figures if f.notebooks.get(path.stem)}
    if absent := set(places) - {cell.id for cell in notebook.cells}:
        raise ValueError(f"{path.name} has no cells {sorted(absent)}, behind which figures.toml puts figures")
    waiting = [f for f in figures if f.notebooks.get(path.stem) == ""]
    cells: list[NotebookNode] = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = links.markdown(cell.source, file, of)
            cells.append(cell)
        else:
            cells += _code(cell, links, file, of, waiting)
        if cell.id in places:
            cells.append(_markdown(living(places[cell.id], of)))
        if index == 0:
            cells.append(_markdown(run_it(path.stem, links, of, blanks)))
    if waiting:
        cells.append(_markdown("## Drag it\n\n" + "\n\n".join(living(f, of) for f in waiting)))
    if lines := code_lines(path, links, of):
        cells.append(_markdown(lines))
    notebook.cells = cells
    return notebook


def _markdown(text: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(text)


def run_it(name: str, links: Links, of: str, blanks: bool) -> str:
    """How to have the notebook itself, and how to run it."""
    notebook = f"notebooks/{name}.ipynb"
    links.copied.add(notebook)
    parts = [f'<a href="{relative(f"files/{notebook}", of)}" download>the notebook</a>']
    if blanks:
        parts.append(f'<a href="{relative(f"blanks/{name}.ipynb", of)}" download>with blanks to fill in</a>')
        parts.append(f'<a href="{relative(f"blanks/lecturer/{name}.ipynb", of)}" download>for nbgrader</a>')
    commands = f"pip install -e '.[notebooks,experiments]' &amp;&amp; jupyter lab {notebook}"
    return (
        '```{raw} html\n<div class="run-it"><p><strong>Run it</strong>, in a clone of the repository: '
        f"<code>{commands}</code></p>"
        f"<p>Download {', '.join(parts)}. What you see here is what was committed; the code is folded.</p></div>\n```"
    )


def _code(cell: NotebookNode, links: Links, file: str, of: str, waiting: list[Figure]) -> list[NotebookNode]:
    """A code cell, folded; if it shows sliders, without them, and with a living figure where one waits for its place."""
    sliders = [o for o in cell.outputs if WIDGET in o.get("data", {}).get("text/plain", "")]
    cell.outputs = [o for o in cell.outputs if o not in sliders]
    tags = {*cell.metadata.get("tags", []), "hide-input"}
    if are_sentences("".join(o.get("text", "") for o in cell.outputs)):
        tags.add("sentences")
    cell.metadata["tags"] = sorted(tags)
    for output in cell.outputs:
        data = output.get("data", {})
        if "text/markdown" in data:
            data["text/markdown"] = links.markdown(data["text/markdown"], file, of, mentions=False)
        elif "text/html" in data:
            data["text/html"] = f'<div class="table-wrapper">{data["text/html"]}</div>'
    if not sliders:
        return [cell]
    words = "The sliders of this cell run in Jupyter; the picture above stands for them."
    if not waiting:
        return [cell, _markdown(f'<p class="needs-kernel">{words}</p>')]
    words += " Here is a figure that runs in the browser."
    return [cell, _markdown(f'<p class="needs-kernel">{words}</p>\n\n{living(waiting.pop(0), of)}')]


def are_sentences(text: str) -> bool:
    """Whether printed text may be broken where a page ends. A table may not: two gaps in a line are its columns."""
    return all(len(re.findall(r"\S {2,}(?=\S)", line)) < 2 for line in text.splitlines())


def algorithms(path: Path) -> list[str]:
    """The files of `reference` with tagged lines that a notebook imports."""
    notebook = nbformat.read(path, as_version=4)
    names: dict[str, None] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE))):
                if isinstance(node, ast.ImportFrom) and node.module == "reference":
                    names |= {alias.name: None for alias in node.names}
    files = [f"reference/{name}.py" for name in names]
    return [f for f in files if (ROOT / f).exists() and tagged(f)]


def code_lines(path: Path, links: Links, of: str) -> str:
    """The algorithms that a page runs, each with its lines by the numbers of the pseudocode."""
    rows = []
    for file in algorithms(path):
        at = relative(f"source/{source_name(file)}.html", of)
        marks = " ".join(f"[l.{tag}]({at}#l{tag})" for tag in sorted(tagged(file), key=int))
        rows.append(f"- [{file}]({at}): {marks}")
    return (
        "## The lines that run here\n\nBy the numbers of each file's pseudocode:\n\n" + "\n".join(rows) if rows else ""
    )


def titles(folder: Path) -> Mapping[str, str]:
    """The title of each notebook, by its name."""
    found = {}
    for path in sorted(folder.glob("*.ipynb")):
        first = nbformat.read(path, as_version=4).cells[0].source
        found[path.stem] = html.unescape(first.partition("\n")[0].removeprefix("# "))
    return found
