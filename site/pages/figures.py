"""The living figures on the site: which claims and notebooks each belongs to, and the HTML that puts one into a page.

The figures themselves are site/figures, copied to living/ as they stand; each is also a page of its own for an iframe elsewhere.
"""

from __future__ import annotations

import html
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pages import ROOT
from pages.links import relative

FOLDER = ROOT / "site" / "figures"


@dataclass(frozen=True)
class Figure:
    """A figure, the sentence with which each claim's page introduces it, and the notebooks that it illustrates.

    Each notebook comes with the cell behind which the figure stands, or "": then it stands where sliders need a kernel.
    """

    name: str
    title: str
    caption: str
    alt: str
    claims: Mapping[str, str]
    notebooks: Mapping[str, str]

    def said(self, claim: str) -> str:
        return self.claims[claim]


def load() -> list[Figure]:
    """The figures in the order of site/figures.toml, with title, caption and alternative text from their pages."""
    table = tomllib.loads((ROOT / "site" / "figures.toml").read_text(encoding="utf-8"))
    found = []
    for name, entry in table.items():
        text = (FOLDER / f"{name}.html").read_text(encoding="utf-8")
        caption = re.search(r"<p><strong>(.*?)</strong> (.*?)</p>", text, re.DOTALL)
        alt = re.search(r'alt="(.*?)"', text, re.DOTALL)
        assert caption and alt, f"{name}.html is not what pages.mjs writes"
        words = [html.unescape(x) for x in (caption[1], caption[2], alt[1])]
        places = {notebook: cell for notebook, _, cell in (x.partition("#") for x in entry["notebooks"])}
        found.append(Figure(name, words[0], words[1], words[2], entry["claims"], places))
    return found


def of_claims(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    return {c: [f for f in figures if c in f.claims] for c in dict.fromkeys(c for f in figures for c in f.claims)}


def living(figure: Figure, of: str) -> str:
    """MyST that puts a figure into the page `of`: its still, which a script replaces by what can be dragged."""
    at = relative(f"living/{figure.name}", of)
    still = f'<img src="{at}.svg" alt="{html.escape(figure.alt)}">'
    words = f"<p><strong>{html.escape(figure.title)}</strong> {html.escape(figure.caption)}</p>"
    shown = f'<div class="living" id="{figure.name}">{still}{words}</div>'
    script = f'import {{ mount }} from "{at}.js"; mount(document.getElementById("{figure.name}"));'
    return f'```{{raw}} html\n{shown}\n<script type="module">{script}</script>\n```'


def page(figure: Figure) -> str:
    """The figure's own page, with what to put into another page to have it there."""
    of = f"figures/{figure.name}"
    claims = ", ".join(f"[{c}](../claims/{c}.html)" for c in figure.claims)
    notebooks = ", ".join(f"[{n}](../notebooks/{n}.html)" for n in figure.notebooks)
    frame = f'<iframe src="ADDRESS OF THIS SITE/living/{figure.name}.html" width="100%" height="640" style="border:0"></iframe>'
    return "\n".join(
        [
            *(f"# {figure.title}", "", living(figure, of), ""),
            *([f"Claims: {claims}. Notebooks: {notebooks}.", ""] if claims else [f"Notebooks: {notebooks}.", ""]),
            "Drag with the mouse or a finger, or use the arrow keys (with Shift, ten times as far).",
            f"[The figure alone]({relative(f'living/{figure.name}.html', of)}), for a lecture or a page of your own:",
            *("", "```html", frame, "```", ""),
        ]
    )


def index(figures: Sequence[Figure]) -> str:
    """All figures, each with its still."""
    cards = [
        f'<a class="card" href="{f.name}.html"><img src="../living/{f.name}.svg" alt="{html.escape(f.alt)}">'
        f"<span>{html.escape(f.title)}</span></a>"
        for f in figures
    ]
    names = "\n".join(f.name for f in figures)
    return "\n".join(
        [
            *(
                "# Ten living figures",
                "",
                "Each has one idea, something to drag, and a surprise. They run in the browser, without Python.",
                "",
            ),
            *("```{raw} html", f'<div class="cards">{"".join(cards)}</div>', "```", ""),
            *("```{toctree}", ":hidden:", "", names, "```", ""),
        ]
    )
