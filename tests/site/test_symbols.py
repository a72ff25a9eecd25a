"""The glossary of symbols against the formulas of the notebooks."""

from __future__ import annotations

import nbformat
import pytest
from living_figures import ROOT
from pages import symbols

NOTEBOOKS = {p.stem: p for p in sorted((ROOT / "notebooks").glob("*.ipynb"))}
TABLE = symbols.load()


def named(page: str) -> set[str]:
    return {t for symbol in TABLE for t in symbol.tex if any(page in pages for pages in symbol.meanings.values())}


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_every_greek_letter_of_a_page_has_a_meaning_there(page):
    greek = {x for x in symbols.letters(NOTEBOOKS[page]) if x.startswith("\\")}
    assert not greek - named(page), "name them in site/symbols.toml"


def test_a_letter_is_used_on_the_pages_that_the_glossary_names():
    for symbol in TABLE:
        for page in {p for pages in symbol.meanings.values() for p in pages}:
            assert set(symbol.tex) & symbols.letters(NOTEBOOKS[page]), (symbol.tex, page)


def test_no_letter_means_two_things_on_one_page():
    for symbol in TABLE:
        pages = [p for named_on in symbol.meanings.values() for p in named_on]
        assert len(pages) == len(set(pages)), symbol.tex
    spelled = [t for symbol in TABLE for t in symbol.tex]
    assert len(spelled) == len(set(spelled))


def test_letters_are_found_in_formulas_alone(tmp_path):
    cell = nbformat.v4.new_markdown_cell("a $\\hat m + \\beta_1 w$ and `$\\gamma$` $$\\mathrm{sign}(g)\\,\\pi$$")
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert symbols.letters(path) == {"m", "\\beta", "w", "g"}
