"""README.md and docs/: snippets run as they are pasted, those of a page one after the other; links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from process import ROOT

FENCED = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
PAGES = (
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")),
    *sorted((ROOT / "docs").glob("*.md")),
)
NEEDS = {"conversion.md": ["onnxscript"]}  # from the convert extra


@pytest.mark.parametrize(
    "page", [page for page in PAGES if FENCED.search(page.read_text())], ids=lambda page: page.name
)
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDS.get(page.name, []):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (the convert extra)")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    text = page.read_text()
    for snippet in FENCED.finditer(text):
        lines_before = text.count("\n", 0, snippet.start(1))
        with warnings.catch_warnings():
            for own in (".*LeafSpec.* is deprecated", "`torch.jit.script"):  # torch's, of what it uses itself
                warnings.filterwarnings("ignore", own)
            exec(compile("\n" * lines_before + snippet[1], str(page), "exec"), names)


def headings(page: Path) -> set[str]:
    """As the links to them are spelled."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for path, heading in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {path}, which is not there"
        if heading:
            assert heading in headings(target), f"{page.name} links to #{heading}, which {target.name} does not have"
