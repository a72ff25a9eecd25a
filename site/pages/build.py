"""Writes the pages' sources, has Sphinx build them, and lays the files beside them that the pages lead to."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import nbformat

from pages import ROOT, blanks, code, figures, ledger, notebooks, symbols
from pages.links import DOCUMENTS, Links, relative, source_name
from reference import claims

SITE = ROOT / "site"
PICTURES = (".svg", ".png")
NOTEBOOKS = notebooks.course()
# MathJax as a whole is 24 MB; a page needs the component that reads TeX, and its fonts.
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2")


def write(folder: Path) -> Links:
    """The sources of all pages into an empty `folder`; returns the links, which know the files to be copied."""
    held, living = claims.load(), figures.load()
    shown = figures.of_claims(living)
    links = Links((c.id for c in held), code.inventory())

    def put(page: str, text: str, ending: str = ".md") -> None:
        path = folder / f"{page}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    for file, page in DOCUMENTS.items():
        if file != "CLAIMS.md":
            text = links.markdown(document(file), file, page)
            put(page, text + (contents() if file == "README.md" else source_line(file, links, page)))
    put("claims", ledger.table_page(held, shown))
    for claim in held:
        put(f"claims/{claim.id}", ledger.claim_page(claim, shown.get(claim.id, []), links))
    put("citations", ledger.citations_page(held, links))
    put("symbols", symbols.page(notebooks.titles(ROOT / "notebooks")))
    put("figures/index", figures.index(living))
    for figure in living:
        put(f"figures/{figure.name}", figures.page(figure))
    for page in code.PAGES:
        put(page, code.api_page(page), ".rst")
    with_blanks = {b.notebook for b in blanks.load()}
    for path in NOTEBOOKS:
        page = notebooks.page(path, links, living, path.stem in with_blanks)
        put(f"notebooks/{path.stem}", nbformat.writes(page), ".ipynb")
    put("source/index", code.source_index(links.shown))
    for file in sorted(links.shown):
        put(f"source/{source_name(file)}", code.source_page(file, links))
    copy((f for f in links.copied if f.endswith(PICTURES)), folder)  # Sphinx asks for a picture where it is shown
    return links


def copy(files: Iterable[str], folder: Path) -> None:
    """Files of the repository, as files/<their path> of a folder."""
    for file in files:
        to = folder / "files" / file
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, to)


def document(file: str) -> str:
    """A document of the repository, ready for Sphinx: a diagram of Mermaid, which would need a script of its own, as a list."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.sub(r"```mermaid\n(.*?)```", lambda found: diagram(found[1]), text, flags=re.DOTALL)


def diagram(mermaid: str) -> str:
    """The boxes of a flow chart, each with where its arrows lead."""
    boxes: dict[str, tuple[str, str]] = {}
    for key, label in re.findall(r"\b(\w+)\[\"(.*?)\"\]", mermaid):
        first, *rest = re.sub(r"</?b>", "", label).split("<br/>")
        boxes[key] = (first, ": ".join(rest))
    mermaid = re.sub(r"\[\".*?\"\]", "", mermaid)
    arrows: list[tuple[str, str, str]] = []
    for line in mermaid.splitlines():
        steps = re.split(r"\s*(-- \".*?\" -->|-->|-\.->)\s*", line.strip())
        for start, arrow, end in zip(steps[::2], steps[1::2], steps[2::2], strict=False):
            why = re.search(r"\"(.*)\"", arrow)
            arrows.append((start, why[1] if why else "", end))
    lines = []
    for key, (name, about) in boxes.items():
        then = [f"{why + ': ' if why else ''}**{boxes[end][0]}**" for start, why, end in arrows if start == key]
        lines.append(f"- **{name}**, {about}" + (f"; then {'; '.join(then)}" if then else ""))
    return "\n".join(lines) + "\n"


def source_line(file: str, links: Links, page: str) -> str:
    links.copied.add(file)
    return f"\n\n[The source of this page]({relative(f'files/{file}', page)})\n"


def contents() -> str:
    """The order of the site, which its sidebar shows."""
    parts = {
        "The course": [f"notebooks/{p.stem}" for p in NOTEBOOKS],
        "Without Python": ["figures/index", "claims", "symbols"],
        "To use it": [p for f, p in DOCUMENTS.items() if f.startswith("site/text/")],
        "Code": [*(f"API: {x[4:]} <{x}>" for x in code.PAGES), "Inside fast <inside_fast>", "source/index", "proofs"],
        "Beside it": ["errata", "citations", "changelog"],
    }
    trees = [
        f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(p) + "\n```" for title, p in parts.items() if p
    ]
    return "\n\n" + "\n\n".join(trees) + "\n"


def lay(links: Links, folder: Path) -> None:
    """Beside the built pages: the figures, the notebooks with blanks, MathJax, and each file that a page leads to."""
    beside: Callable[[str, list[str]], set[str]] = shutil.ignore_patterns("*.mjs", "package.json", "__pycache__")
    shutil.copytree(figures.FOLDER, folder / "living", ignore=beside, dirs_exist_ok=True)
    copy(links.copied, folder)
    blanks.write(folder / "blanks")
    for template in (folder / "_static").glob("*.html"):  # the themes' own, not filled in
        template.unlink()
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("sphinx-mathjax-offline is missing: pip install '.[site]'")
    package = Path(found.submodule_search_locations[0]) / "static" / "mathjax"
    for part in MATHJAX:
        to = folder / "_static" / "mathjax" / part
        if (package / part).is_dir():
            shutil.copytree(package / part, to, dirs_exist_ok=True)
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / part, to)


def main(arguments: list[str]) -> int:
    """Builds the site into a folder, build/site unless another is given; 0 if Sphinx has no complaint."""
    from sphinx.cmd.build import main as sphinx

    folder = Path(arguments[0]) if arguments else ROOT / "build" / "site"
    source = folder.parent / f"{folder.name}-source"
    for made in (folder, source):
        shutil.rmtree(made, ignore_errors=True)
    links = write(source)
    done = sphinx(
        [
            "-q",
            "-n",
            "-W",
            "--keep-going",
            "-j",
            "2",
            "-c",
            str(SITE),
            "-d",
            str(source / ".doctrees"),
            str(source),
            str(folder),
        ]
    )
    lay(links, folder)
    print(f"{folder}: {sum(1 for _ in folder.rglob('*.html'))} pages")
    return done
