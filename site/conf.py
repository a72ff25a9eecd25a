"""Sphinx's settings for the site; `make site` writes its pages with `pages.build` and runs it."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "site")]

from pages import code  # noqa: E402

project = "AdamLab"
author = "The maintainers of AdamLab"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "sphinx.ext.mathjax"]
exclude_patterns = [".doctrees"]
nb_execution_mode = "off"  # a page shows what is committed
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
myst_all_links_external = True  # `pages.links` has made them addresses of the built site; a test follows each
suppress_warnings = ["myst.header"]  # notebooks and ERRATA.md may skip a level

mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}  # its menu would load more from where MathJax lives

# The theme of Jupyter Book, in which many courses are written: chapters at the left, one column of text, dark and light.
html_theme = "sphinx_book_theme"
html_title = "AdamLab"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_context = {"default_mode": "auto"}
html_copy_source = False  # each page leads to its source in the repository's form
html_show_sphinx = False
html_show_copyright = False
html_sidebars = {"**": ["navbar-logo.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search stands in the sidebar
}
highlight_language = "text"  # of what says no language, such as the formulas of a docstring

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# Types of other packages have no page here; neither have type variables and aliases.
nitpick_ignore_regex = [("py:.*", r".*")]


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The line of this site's own page of the source, as seen from a page of the API."""
    return code.source_link(info["module"], info["fullname"], "api/fast") if domain == "py" else None


def setup(app):
    inventory = code.inventory()

    def plain(app, what, name, value, options, lines):
        lines[:] = code.rst("\n".join(lines), inventory)

    def bare(app, page, template, context, tree):
        if page.startswith("source/"):  # a contents list on each would be most of the site
            context["sidebars"] = []

    app.connect("autodoc-process-docstring", plain)
    app.connect("html-page-context", bare)
