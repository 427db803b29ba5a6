"""How Sphinx builds the site: ``make docs``.

The source directory is the repository: a link between two Markdown files is the same on the site and on a forge.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gru_ext.version import __version__

ROOT = Path(__file__).parent.parent
PAGES = {"docs", "examples", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"}
LINK = re.compile(r"\[([^\]]+)\]\(([^)#:]+)\)")

project = "gru_ext"
version = release = __version__
copyright = author = "the authors of gru_ext"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
exclude_patterns = [path.name for path in ROOT.iterdir() if path.name not in PAGES]  # which are not searched then
smartquotes_action = "D"  # dashes alone: a quotation mark in a docstring is Python's
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"gru_ext {version}"
html_copy_source = False
html_show_sphinx = False
html_additional_pages = {"index": "to_front_page.html"}
templates_path = ["templates"]


def without_links_to_folders(app: Any, page: str, source: list[str]) -> None:
    """A forge shows a folder; the site has files alone."""
    folder = (ROOT / page).parent

    def text_of(link: re.Match[str]) -> str:
        return link[1] if (folder / link[2]).is_dir() else link[0]

    source[0] = LINK.sub(text_of, source[0])


def with_links_to_pages(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """In a docstring, docs/x.md is the page."""
    lines[:] = [re.sub(r"\bdocs/(\w+)\.md", r":doc:`\1.md </docs/\1>`", line) for line in lines]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", without_links_to_folders)
    app.connect("autodoc-process-docstring", with_links_to_pages)
