"""The built site: Sphinx does not complain, every link and anchor leads somewhere, no network is asked; driven in Chromium."""

from __future__ import annotations

import dataclasses
import html.parser
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from living_figures import ROOT, node
from pages import notebooks
from pages.links import Links

from experiments.notebooks import alternative
from reference.claims import load

NEEDED = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx-mathjax-offline")
LACKING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"the extra `site` is not installed: {', '.join(LACKING)}")

NOTEBOOKS = sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb"))
FIGURES = sorted(p.stem for p in (ROOT / "site" / "figures").glob("*.html"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built anew. A warning of Sphinx, a reference to nothing included, is an error."""
    folder = tmp_path_factory.mktemp("built") / "site"
    path = os.pathsep.join([str(ROOT), str(ROOT / "site")])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "no_proxy": "*",
        "http_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pages", str(folder)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@dataclass
class Page(html.parser.HTMLParser):
    """What a page has: its ids, what it leads to, what it loads."""

    ids: list[str] = field(default_factory=list)
    leads: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)
    tags: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag, attrs):
        given: dict[str, str] = {key: value for key, value in attrs if value is not None}
        self.tags[tag] += 1
        self.ids += [given[k] for k in ("id", "name") if k in given and (k == "id" or tag == "a")]
        if tag in ("a", "area"):
            self.leads += [given["href"]] if "href" in given else []
        elif "href" in given and given.get("rel") not in ("search", "next", "prev", "canonical"):
            self.loads.append(given["href"])
        self.loads += [given[k] for k in ("src", "data", "poster", "srcset") if k in given]
        if tag == "img":
            self.images.append(given)


@cache
def read(path: Path) -> tuple[Page, str]:
    text, page = path.read_text(encoding="utf-8"), Page()
    page.feed(text)
    return page, text


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def broken(site: Path, path: Path, target: str) -> bool:
    """Whether a link within the site leads nowhere, or to an anchor that its page has not."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return False
    file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if file.is_dir() or not file.is_relative_to(site) or not file.is_file():
        return True
    anchor = unquote(parts.fragment)
    return bool(anchor) and file.suffix == ".html" and anchor not in read(file)[0].ids


def test_every_link_and_every_anchor_leads_somewhere(site):
    found = [
        f"{path.relative_to(site)}: {target}"
        for path in pages(site)
        for target in (*read(path)[0].leads, *read(path)[0].loads)
        if not re.match(r"data:|mailto:|javascript:", target) and broken(site, path, target)
    ]
    assert len(pages(site)) > 150
    assert not found, "\n".join(found[:40])


def test_a_link_to_nothing_is_seen(site):
    path = site / "index.html"
    for wrong in ("absent.html", "claims.html#G99", "#absent", "../outside.html", "claims"):
        assert broken(site, path, wrong), wrong
    for right in ("claims.html#G1", "https://arxiv.org", "notebooks/01_grams.html", "#"):
        assert not broken(site, path, right), right


ELSEWHERE = r"(?:https?:)?//[\w-]+(?:\.[\w-]+)+"


def from_a_network(text: str) -> list[str]:
    """What a style or a script fetches from another host."""
    styles = r"""@import\s+(?:url\()?["']?|url\(\s*["']?"""
    scripts = r"""\b(?:fetch|importScripts)\(\s*["'`]|\bfrom\s*["']|\bimport\s*\(?\s*["']"""
    return re.findall(rf"(?:{styles}|{scripts}){ELSEWHERE}[^\s\"'`)]*", text)


def test_no_page_asks_a_network(site):
    found = [f"{p.relative_to(site)}: {t}" for p in pages(site) for t in read(p)[0].loads if re.match(ELSEWHERE, t)]
    for path in pages(site):
        text = re.sub(r"<pre.*?</pre>", "", read(path)[1], flags=re.DOTALL)  # code that is shown is not run
        found += [f"{path.relative_to(site)}: {x}" for x in from_a_network(text)]
    for path in (p for kind in ("css", "js") for p in site.rglob(f"*.{kind}")):
        found += [f"{path.relative_to(site)}: {x}" for x in from_a_network(path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize(
    "text",
    [
        '@import "https://fonts.example.org/a.css";',
        "src: url(//fonts.example.org/a.woff2)",
        'fetch("https://example.org/x.json")',
        'import { a } from "https://cdn.example.org/a.js"',
        'await import("https://cdn.example.org/a.js")',
    ],
)
def test_what_comes_from_a_network_is_seen(text):
    assert from_a_network(text)
    assert not from_a_network(text.replace("https://", "./").replace("//", "./").replace("example.org/", ""))


def test_every_notebook_has_a_page_with_its_source_its_outputs_and_its_code_folded(site):
    for name in NOTEBOOKS:
        page, text = read(site / "notebooks" / f"{name}.html")
        code = [c for c in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells if c.cell_type == "code"]
        assert len(re.findall(r'<details class="[^"]*hide above-input"', text)) == len(code), name
        assert text.count("interactive(children=") == 0, name
        pictures = [i for i in page.images if "_images/" in i.get("src", "")]
        words = [alternative(c) for c in code for o in c.outputs if "image/png" in o.get("data", {})]
        assert [i["alt"] for i in pictures] == words, name
        shipped = site / "files" / "notebooks" / f"{name}.ipynb"
        assert shipped.read_bytes() == (ROOT / "notebooks" / f"{name}.ipynb").read_bytes()
        assert f"../files/notebooks/{name}.ipynb" in page.leads and f"jupyter lab notebooks/{name}.ipynb" in text


def test_sliders_are_replaced_by_what_moves_or_by_a_still(site):
    for name in NOTEBOOKS:
        notebook = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        _, text = read(site / "notebooks" / f"{name}.html")
        assert text.count('class="needs-kernel"') == notebook.count('"interactive(children='), name


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("lr 0.5: first broken at 2600, by Adam at 3400  (0: never)\n  indented\n", True),
        ("Adam      goes on by 9.1 lr\n", True),
        ("AdamW     2   0.13  (0.09 to 0.15)\n", False),
        ("a sentence\n           step  Algorithm 3  columns\n", False),
        ("", True),
    ],
)
def test_a_table_is_not_broken_at_the_end_of_a_line(text, may):
    assert notebooks.are_sentences(text) == may


def test_every_claim_has_a_row_and_a_page_and_says_what_the_ledger_says(site):
    rows = re.findall(r'<tr id="(\w+)" data-verdict="([\w ]+)"', read(site / "claims.html")[1])
    assert rows == [(c.id, c.verdict) for c in load()]
    for claim in load():
        text = html.unescape(re.sub(r"<[^>]+>", "", read(site / "claims" / f"{claim.id}.html")[1]))
        plain = " ".join(text.split())
        for word in claim.scope.split()[:6]:
            assert word.strip("`") in plain, (claim.id, word)
        assert all(test.rpartition("::")[2] in text for test in claim.tests), claim.id


def test_a_claim_with_a_figure_begins_with_it(site):
    import tomllib

    table = tomllib.loads((ROOT / "site" / "figures.toml").read_text(encoding="utf-8"))
    assert sorted(table) == FIGURES
    for name, entry in table.items():
        for claim in entry["claims"]:
            text = read(site / "claims" / f"{claim}.html")[1]
            assert 0 < text.index(f'class="living" id="{name}"') < text.index("<blockquote>"), claim
        text = read(site / "figures" / f"{name}.html")[1]
        assert f'src="../living/{name}.svg"' in text and "iframe" in text
        for kind in ("html", "js", "svg"):
            kept = ROOT / "site" / "figures" / f"{name}.{kind}"
            assert (site / "living" / kept.name).read_bytes() == kept.read_bytes()


def test_a_figure_stands_behind_the_cell_that_it_belongs_to(site):
    _, text = read(site / "notebooks" / "06_adams.html")
    spike, decay, chase = (text.index(f'class="living" id="{x}"') for x in ("thermostat", "shaving", "chase"))
    assert text.index("Look at the moment when") < spike < text.index("Look at the distance between")
    assert text.index("Look at the small singular values") < decay < text.index("Look at how far the dots")
    assert text.index("Look at the white dashed line") < chase < text.index("And the start?")


def test_a_place_behind_no_cell_is_refused():
    from pages import figures

    (first, *_) = figures.load()
    path = ROOT / "notebooks" / "01_grams.ipynb"
    astray = dataclasses.replace(first, notebooks={"01_grams": "absent"})
    with pytest.raises(ValueError, match=re.escape("no cells ['absent'], behind which figures.toml")):
        notebooks.page(path, Links((), {}), figures=[astray], blanks=False)


def test_sidebar_and_readme_have_the_order_of_the_course(site):
    order = [p.stem for p in notebooks.course()]
    assert order != NOTEBOOKS and sorted(order) == NOTEBOOKS
    sidebar = (site / "search.html").read_text(encoding="utf-8")  # of this page nothing else leads to a notebook
    assert [*dict.fromkeys(re.findall(r'href="notebooks/(\w+)\.html"', sidebar))] == order
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]\(notebooks/", readme, re.MULTILINE) == order


def test_a_mention_of_a_line_leads_to_the_line_with_its_tag(site):
    grams = read(site / "source" / "reference" / "grams.html")[1]
    (line,) = [x for x in grams.splitlines() if 'id="l10"' in x]
    assert "uhat" in line and "absolute" in line
    assert (
        '<a class="reference external" href="../source/reference/grams.html#l10">Line 10</a>'
        in read(site / "notebooks" / "01_grams.html")[1]
    )


def test_the_api_has_every_export_and_shows_docstrings_as_they_are_written(site):
    import fast

    page, text = read(site / "api" / "fast.html")
    assert {f"fast.{name}" for name in fast.__all__} <= set(page.ids)
    page, text = read(site / "api" / "reference.html")
    assert "reference.grams.step" in page.ids and "uhat_t = sign(g_t) |u_t|" in html.unescape(text)


def test_the_search_index_knows_the_pages(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for name in ("notebooks/01_grams", "claims/G9", "figures/thermostat", "symbols", "api/fast"):
        assert f'"{name}"' in index


SEEN = (
    *("index.html", "claims.html", "claims/A4.html", "figures/index.html", "figures/chase.html", "symbols.html"),
    *("citations.html", "api/fast.html", "api/reference.html", "source/reference/grams.html", "errata.html"),
    *(f"notebooks/{name}.html" for name in NOTEBOOKS),
)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_in_chromium_nothing_sticks_out_nothing_is_missing_and_the_filter_works(site):
    if node(["-p", "typeof WebSocket"]).stdout.strip() != "function":
        pytest.skip("this Node has no WebSocket to speak with Chromium: 22 and newer have")
    done = node(["../drive.mjs", str(CHROMIUM), str(site), *SEEN], timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["pages"]) == 2 * len(SEEN)
    for page, x in found["pages"].items():
        assert x["wide"] <= int(page.split()[1]) and not x["sticks"], (page, x["wide"], x["sticks"])
        assert not x["outside"] and not x["missing"] and not x["errors"], (page, x)
        assert not x["broken"] and not x["silent"] and not x["unset"] and not x["unfolded"], (page, x)
        assert x["living"] == x["still"], page
        if page.startswith(("notebooks/01", "notebooks/04", "symbols")):
            assert x["formulas"] > 5, page
    ledger = load()
    refuted = [c.id for c in ledger if c.verdict == "refuted"]
    assert found["filter"]["refuted"]["rows"] == refuted and found["filter"]["refuted"]["address"] == "?verdict=refuted"
    assert found["filter"]["refuted"]["says"] == f"{len(refuted)} of {len(ledger)} claims"
    assert set(found["filter"]["adams"]["rows"]) == {
        c.id for c in ledger if c.verdict == "refuted" and c.system == "Adams"
    }
    assert found["filter"]["all"]["rows"] == [c.id for c in ledger]
    assert found["filter"]["linked"]["rows"] == [c.id for c in ledger if "exhaustive" in c.evidence]
    assert any("thermostat" in href for href in found["search"])
    theme, paper = found["dark"]
    assert theme == "dark" and sum(map(int, re.findall(r"\d+", paper)[:3])) < 150
