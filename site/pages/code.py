"""Pages of code: the API from the docstrings, and each file's source with a place to point at for every line and every tag.

A docstring here is plain text with shapes, formulas and tables, so it is made RST with care: text stays text, what is indented or
aligned stays as it stands, and "Args:" becomes a list.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from pages import ROOT
from pages.links import Links, relative, source_name, tagged

PAGES = {
    "api/fast": (
        "fast",
        "The optimizers to train with, and what watches them. Everything is imported from `fast` itself.",
    ),
    "api/reference": (
        "reference",
        "The algorithms as their papers write them, toy problems to run them on, and the ledger.",
    ),
    "api/theory": (
        "reference.theory",
        "What the claims rest on: identities, bounds, searches and runs. A test or a notebook calls each.",
    ),
}


@dataclass(frozen=True)
class Entry:
    """A module and its documented names, which are its own and public."""

    module: str
    names: tuple[str, ...]


def _own(module: ModuleType) -> tuple[str, ...]:
    def listed(name: str, value: object) -> bool:
        mine = getattr(value, "__module__", None) == module.__name__
        return not name.startswith("_") and mine and (inspect.isclass(value) or inspect.isfunction(value))

    return tuple(name for name, value in vars(module).items() if listed(name, value) and inspect.getdoc(value))


@cache
def entries(package: str) -> tuple[Entry, ...]:
    """The modules of a package of `reference`, with what each documents; of `fast`, which is one page, what it exports."""
    top = importlib.import_module(package)
    if package == "fast":
        return (Entry(package, tuple(top.__all__)),)
    names = [m.name for m in pkgutil.iter_modules(top.__path__) if not m.ispkg and not m.name.startswith("_")]
    return tuple(Entry(f"{package}.{n}", _own(importlib.import_module(f"{package}.{n}"))) for n in names)


def inventory() -> Mapping[str, str]:
    """Where on the site each documented object is: {"reference.grams.step": "api/reference.html#reference.grams.step"}."""
    found = {}
    for page, (package, _) in PAGES.items():
        for entry in entries(package):
            if package != "fast":
                found[entry.module] = f"{page}.html#module-{entry.module}"
            found |= {f"{entry.module}.{n}": f"{page}.html#{entry.module}.{n}" for n in entry.names}
    return found


def api_page(page: str) -> str:
    """The RST of a page of the API."""
    package, about = PAGES[page]
    lines = [package, "=" * len(package), "", *rst(about, {}), ""]
    if package == "fast":
        lines += [".. py:module:: fast", ""]
    for entry in entries(package):
        if package != "fast":
            title = entry.module.removeprefix(f"{package}.")
            lines += [title, "-" * len(title), "", f".. automodule:: {entry.module}", ""]
        for name in entry.names:
            value = getattr(importlib.import_module(entry.module), name)
            title = [name, "-" * len(name), ""] if package == "fast" else []
            lines += [*title, f".. auto{'class' if inspect.isclass(value) else 'function'}:: {entry.module}.{name}"]
            if package == "fast" and inspect.isclass(value) and not _is_optimizer(value):
                lines.append("   :members:")
            lines.append("")
    return "\n".join(lines)


def _is_optimizer(value: type) -> bool:
    from torch.optim import Optimizer

    return issubclass(value, Optimizer)


def rst(docstring: str, api: Mapping[str, str]) -> list[str]:
    """A docstring in plain text as RST that shows the same; a name of `api` between backticks becomes a link."""
    lines: list[str] = []
    for kind, block in _blocks(docstring.expandtabs().splitlines()):
        if kind == "literal":
            lines += ["::", "", *(f"    {line}" for line in block), ""]
        elif kind == "items":
            lines += [f":{_escape(block[0].rstrip(':'), api)}:", *_items(block[1:], api), ""]
        elif kind == "list":
            lines += [f"- {_escape(' '.join(item.split()), api)}" for item in _bullets(block)] + [""]
        else:
            lines += [_escape(" ".join(block), api), ""]
    return lines


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Paragraphs ("text"), bulleted lists ("list"), sections such as "Args:" ("items"), and what stays as it is ("literal")."""
    i = 0
    while i < len(lines):
        if not lines[i].strip():
            i += 1
            continue
        start = i
        indented = lines[i].startswith(" ")
        if not indented and re.fullmatch(r"(Args|Returns|Raises|Yields|Attributes):", lines[i].strip()):
            i += 1
            while i < len(lines) and lines[i].startswith(" "):
                i += 1
            yield "items", lines[start:i]
            continue
        if lines[i].startswith("- "):
            while i < len(lines) and lines[i].startswith(("- ", "  ")):
                i += 1
            yield "list", lines[start:i]
            continue
        while (i < len(lines) and (not lines[i].strip() if indented else False)) or (
            i < len(lines) and lines[i].strip() and lines[i].startswith(" ") == indented
        ):
            i += 1
        block = lines[start:i]
        while block and not block[-1].strip():
            block.pop()
        aligned = not indented and any(re.search(r"\S {2,}\S", line) for line in block)
        least = min(len(line) - len(line.lstrip()) for line in block if line.strip())
        yield ("literal" if indented or aligned else "text"), [line[least:] for line in block]


def _items(lines: list[str], api: Mapping[str, str]) -> Iterator[str]:
    """ "name: text", each with its continuation lines, as a list."""
    least = min(len(line) - len(line.lstrip()) for line in lines)
    items: list[str] = []
    for line in lines:
        if len(line) - len(line.lstrip()) == least:
            items.append(line.strip())
        else:
            items[-1] += " " + line.strip()
    for item in items:
        name, colon, text = item.partition(": ")
        yield f"    - **{_escape(name, {})}**: {_escape(text, api)}" if colon else f"    - {_escape(item, api)}"


def _bullets(lines: list[str]) -> list[str]:
    return [item.removeprefix("- ") for item in re.split(r"\n(?=- )", "\n".join(lines))]


def _escape(text: str, api: Mapping[str, str]) -> str:
    parts = re.split(r"`([^`]+)`", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = rf"\ :py:obj:`{part}`\ " if part in api else rf"\ ``{part}``\ "  # "\ ": text may touch it
        else:
            parts[i] = re.sub(r"([\\*_|`<>])", r"\\\1", part)
    return "".join(parts)


def _numbered(text: str, language: str, tags: Mapping[str, int]) -> str:
    """Highlighted code: line 70 in an element "line-70", the first with a tag `# l.10` in "l10" too."""
    marks: dict[int, str] = {}
    for tag, number in tags.items():
        marks[number] = marks.get(number, "") + f'<span id="l{tag}"></span>'
    code = highlight(text, get_lexer_by_name(language, stripnl=False), HtmlFormatter(nowrap=True))
    lines = []
    for number, line in enumerate(code.rstrip("\n").split("\n"), 1):
        link = f'<a class="number" href="#line-{number}">{number}</a>'
        lines.append(f'{marks.get(number, "")}<span class="line" id="line-{number}">{link}{line}</span>')
    return "\n".join(lines)


def source_page(file: str, links: Links) -> str:
    """The MyST page of a file of code."""
    of = f"source/{source_name(file)}"
    text = (ROOT / file).read_text(encoding="utf-8")
    tags = tagged(file) if file.startswith("reference/") else {}
    code = _numbered(text, "python" if file.endswith(".py") else "coq", tags)
    marks = " ".join(f'<a href="#l{tag}">l.{tag}</a>' for tag in sorted(tags, key=int))
    head = f'<p class="tags">Lines of the pseudocode: {marks}</p>\n' if tags else ""
    module = file.removesuffix(".py").replace("/", ".")
    named = f" Its documentation: [{module}]({relative(links.api[module], of)})." if module in links.api else ""
    up = f"[AdamLab]({relative('index.html', of)}) / [source]({relative('source/index.html', of)})"
    title = f"# {file.rpartition('/')[2]}\n\n{up} / `{file}`.{named}\n\n"
    body = f'{head}<div class="highlight source"><pre>{code}</pre></div>'
    return f"---\nhtml_theme.sidebar_secondary.remove: true\n---\n{title}```{{raw}} html\n{body}\n```\n"


def source_index(files: Iterable[str]) -> str:
    """The page that lists the code that is shown, a heading for each folder."""
    lines, folder = ["# Source", "", "The code of the repository, line by line.", ""], ""
    listed: list[str] = []
    for file in sorted(files, key=lambda f: (str(Path(f).parent), f)):
        if (here := str(Path(file).parent)) != folder:
            folder = here
            lines += ["", f"## {folder}", ""]
        lines.append(f"- [{file.rpartition('/')[2]}]({relative(f'source/{source_name(file)}.html', 'source/index')})")
        listed.append(source_name(file))
    toc = "\n".join(listed)
    return "\n".join(lines) + f"\n\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n"


def source_link(module: str, name: str, of: str) -> str | None:
    """The line of the source page where an object of the API begins, for Sphinx's linkcode."""
    value: object = importlib.import_module(module)
    for part in filter(None, name.split(".")):
        value = getattr(value, part, None)
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, property):
        value = value.fget
    try:
        file = Path(inspect.getsourcefile(value) or "").relative_to(ROOT)  # pyright: ignore[reportArgumentType]
        _, line = inspect.getsourcelines(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OSError):  # made by a decorator, or not ours
        return None
    return relative(f"source/{source_name(file.as_posix())}.html#line-{max(line, 1)}", of)
