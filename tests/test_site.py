"""The site of ``make docs``: it builds without a warning, every link leads somewhere, every public name is there."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from building import digest_of, make_once
from process import ROOT, fork_python, output_of
from public_names import public_names

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "furo", "myst_parser")),
    reason="Sphinx is not installed (the docs extra)",
)
HOST = "http://site/"  # of the pages, for a browser that is given files in its place
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@cache
def site() -> Path:
    """Built once for what it is made of, in the environment of the tests."""
    read = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")]
    read += sorted(path for folder in ("docs", "src") for path in (ROOT / folder).rglob("*") if path.is_file())
    parts = [part for path in read if path.suffix not in (".so", ".pyc") for part in (str(path), path.read_bytes())]
    built = ROOT / "build" / f"site_{digest_of(*parts)}"

    def build(folder: Path) -> None:
        options = ("--quiet", "--fail-on-warning", "--keep-going", "-c", "docs")
        arguments: list[str | Path] = [*options, "-d", folder.with_name("doctrees"), ".", folder]
        output_of(fork_python("-m", "sphinx", *arguments, timeout=600))
        for other in built.parent.glob("site_*"):
            if other.is_dir():  # of what it was made of before
                shutil.rmtree(other, ignore_errors=True)
            elif other.stem != built.name:  # its lock
                other.unlink(missing_ok=True)

    return make_once(built, build)


@dataclass
class Page(HTMLParser):
    """What a page has: places that a link may lead to, links, and pictures."""

    path: Path
    places: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        given = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and (link := given.get("href")):
            self.links.append(link)
        if tag == "img" and (picture := given.get("src")):
            self.pictures.append(picture)


@cache
def pages() -> dict[str, Page]:
    """Each page by its address."""
    return {HOST + str(path.relative_to(site())): Page(path) for path in sorted(site().rglob("*.html"))}


def dead_links(page: str, links: list[str], places: dict[str, set[str]]) -> list[str]:
    """Those to a file that is not there, or to no place of a page; ``places`` are those of all pages."""
    dead = []
    for link in links:
        target, place = urldefrag(urljoin(page, link))
        if target.startswith(HOST):
            is_there = (site() / unquote(target.removeprefix(HOST))).is_file()
            if not is_there or (place and unquote(place) not in places.get(target, {unquote(place)})):
                dead.append(f"{page}: {link}")
    return dead


def test_every_link_and_picture_of_the_files_is_there() -> None:
    places = {address: page.places for address, page in pages().items()}
    assert len(places) > 25
    assert sum(len(page.links) for page in pages().values()) > 1000
    for address, page in pages().items():
        assert dead_links(address, page.links + page.pictures, places) == []


def test_every_public_name_has_its_entry() -> None:
    (api,) = (page for page in pages().values() if page.path.name == "api.html")
    assert set(public_names()) - api.places == set()


def test_no_paragraph_of_the_api_is_lost() -> None:
    """Sphinx takes "I." for the number of a list; and a role that it does not know stays as it is written."""
    (api,) = (page for page in pages().values() if page.path.name == "api.html")
    text = api.path.read_text()
    assert "number of input features (I)" in text
    assert re.search(r"<ol class=\"(upper|lower)", text) is None
    assert ":doc:" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_finds_the_same() -> None:
    """With what scripts add: no error in the console, every picture drawn, every link followed, the search finds."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the docs-browser extra)")
    errors: list[str] = []
    links: dict[str, list[str]] = {}
    places: dict[str, set[str]] = {}
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.set_default_timeout(120_000)  # ms, on a busy machine
        tab.on("pageerror", lambda error: errors.append(f"{tab.url}: {error}"))
        tab.route(f"{HOST}**", lambda route: route.fulfill(path=site() / urlsplit(route.request.url).path[1:]))
        for address in pages():
            tab.goto(address)
            if address == f"{HOST}index.html":
                tab.wait_for_url("**/docs/index.html")
            links[address], found, undrawn = tab.evaluate(
                """() => [
                    [...document.querySelectorAll("a[href]")].map(a => a.href),
                    [...document.querySelectorAll("[id], [name]")].flatMap(e => [e.id, e.getAttribute("name")]),
                    [...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.src),
                ]"""
            )
            places[address] = set(found)
            errors += [f"{address}: {picture} is not drawn" for picture in undrawn]
        tab.goto(f"{HOST}search.html?q=quantize_dynamic")
        tab.wait_for_selector("#search-results li")
        browser.close()
    for address in links:
        errors += dead_links(address, links[address], places)
    assert errors == []
    assert set(public_names()) - places[f"{HOST}docs/api.html"] == set()
