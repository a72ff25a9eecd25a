"""Where on the site a file of the repository is: every link of a page, and every mention of code or of a claim, goes through here.

A page is named as Sphinx does, by its path without an ending: "notebooks/01_grams". Files without a page of their own are
copied to files/, and `copied` tells which; `shown` tells whose code must have a page.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from pages import ROOT

DOCUMENTS = {
    "README.md": "index",
    "CLAIMS.md": "claims",
    "ERRATA.md": "errata",
    "CHANGELOG.md": "changelog",
    "fast/README.md": "inside_fast",
    "proofs/README.md": "proofs",
}
DOCUMENTS |= {
    f"site/text/{p.name}": p.stem
    for p in sorted((ROOT / "site" / "text").glob("*.md"), key=lambda p: (p.stem != "using", p))
}
CODE = (".py", ".v")
SHOWN = ("reference", "fast", "experiments", "tests", "proofs")  # folders whose code may have pages
ALWAYS = ("reference/", "fast/", "proofs/")  # of the others only what a page leads to

# What a mention may not be looked for in: fenced code, code, formulas, links, HTML.
_KEPT = re.compile(
    r"(^```.*?^```|`[^`]+`|\$\$.*?\$\$|\$[^$\n]+\$|!?\[[^\]]*\]\([^)]*\)|</?[a-z][^>]*>|^#+ .*?$)",
    re.MULTILINE | re.DOTALL,
)


def sources() -> list[str]:
    """The code that may have pages: "reference/grams.py"."""
    found = [p.relative_to(ROOT).as_posix() for folder in SHOWN for p in (ROOT / folder).rglob("*")]
    return sorted(f for f in found if f.endswith(CODE) and (ROOT / f).stat().st_size)


class Links:
    """Turns what a file of the repository points at into the addresses of the site, and keeps the files to be copied.

    `claims` are the ids of the ledger; `api` has the address of each documented object ("fast.Grams").
    """

    def __init__(self, claims: Iterable[str], api: Mapping[str, str]) -> None:
        self.claims = frozenset(claims)
        self.api = api
        self.sources = frozenset(sources())
        self.copied: set[str] = set()
        self.algorithm: dict[str, str] = {}  # the file whose lines a page speaks of: the one that it named last
        self.shown: set[str] = {f for f in self.sources if f.startswith(ALWAYS)}

    def page(self, file: str) -> str | None:
        """The page of a file of the repository, with its anchor where it is no page alone; None if it has none."""
        if file in DOCUMENTS:
            return f"{DOCUMENTS[file]}.html"
        if file in self.sources:
            self.shown.add(file)
            return f"source/{source_name(file)}.html"
        if file.startswith("notebooks/") and file.endswith(".ipynb"):
            return f"{file.removesuffix('.ipynb')}.html"
        living = re.fullmatch(r"site/figures/(\w+)\.html", file)
        if living:
            return f"figures/{living[1]}.html"
        if (ROOT / file).is_dir():
            return "source/index.html" if file.partition("/")[0] in SHOWN else "index.html"
        return None

    def to(self, target: str, of: str) -> str:
        """The address of a file of the repository ("reference/grams.py#l10"), from the page `of`; a ValueError if there is none."""
        file, _, anchor = target.partition("#")
        if file == "CLAIMS.md" and anchor in self.claims:
            return relative(f"claims/{anchor}.html", of)
        if not (ROOT / file).exists():
            raise ValueError(f"{of} points at {target!r}, which is not in the repository")
        page = self.page(file)
        if page is None:
            self.copied.add(file)
            page = f"files/{file}"
        return relative(page, of) + (f"#{anchor}" if anchor else "")

    def markdown(self, text: str, file: str, of: str, mentions: bool = True) -> str:
        """`text` of the repository's `file` for the page `of`: its links led on, its mentions of code and claims made links."""
        folder = PurePosixPath(file).parent

        def link(label: str, target: str) -> str:
            if re.match(r"[a-z]+:|#", target):
                return f"{label}({target})"
            path, _, anchor = target.partition("#")
            inside = os.path.normpath(folder / path)
            return f"{label}({self.to(inside + (f'#{anchor}' if anchor else ''), of)})"

        parts = _KEPT.split(text)
        for i, part in enumerate(parts):
            if found := re.fullmatch(r"(!?\[[^\]]*\])\(([^)\s]+)\)", part, re.DOTALL):
                parts[i] = link(found[1], found[2])
            elif found := re.fullmatch(r"`([^`\n]+)`", part):
                if mentions and (address := self.code(found[1])):
                    parts[i] = f"[{part}]({relative(address, of)})"
                if re.fullmatch(r"reference/\w+\.py", found[1]):
                    self.algorithm[of] = found[1]
            elif mentions and i % 2 == 0:
                parts[i] = self._plain(part, of)
        return "".join(parts)

    def _plain(self, text: str, of: str) -> str:
        def claim(found: re.Match[str]) -> str:
            known = found[0] in self.claims and of != f"claims/{found[0]}"
            return f"[{found[0]}]({relative(f'claims/{found[0]}.html', of)})" if known else found[0]

        text = re.sub(r"(?<![\w\\&#./-])[A-Z]\d{1,2}\b(?![\w/-]|\.\w)", claim, text)
        if algorithm := self.algorithm.get(of):
            tags = tagged(algorithm)

            def line(found: re.Match[str]) -> str:
                address = relative(f"source/{source_name(algorithm)}.html#l{found[1]}", of)
                return f"[{found[0]}]({address})" if found[1] in tags else found[0]

            text = re.sub(r"\b[Ll]ine (\d+)\b", line, text)
        return text

    def code(self, mention: str) -> str | None:
        """The page of what stands between backticks, if it names a file or an object of this repository."""
        if re.fullmatch(r"[\w/]+\.(py|v)", mention) and mention in self.sources:
            return self.page(mention)
        return self.api.get(mention.partition("(")[0])


def source_name(file: str) -> str:
    """The page of a file of code, below source/: "reference/grams"."""
    return str(PurePosixPath(file).with_suffix(""))


def relative(address: str, of: str) -> str:
    """`address`, from the site's root, as a link on the page `of`."""
    path, _, anchor = address.partition("#")
    here = os.path.relpath(path, PurePosixPath(of).parent)
    return here + (f"#{anchor}" if anchor else "")


def tagged(file: str) -> Mapping[str, int]:
    """The tags of a file of `reference`, "10" for `# l.10`, each with its first line."""
    found: dict[str, int] = {}
    for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1):
        if tag := re.search(r"# l\.(.*)$", line):
            for each in re.findall(r"\d+", tag[1]):
                found.setdefault(each, number)
    return found
