"""README.md and docs/: Python runs as it is pasted, commands exist, links lead somewhere, pictures are well formed."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from process import ROOT
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = (*(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "examples/README")), *DOCS)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
NEEDS = {"conversion.md": "onnxscript"}  # from the convert extra
LANGUAGES = {"python", "bash", "text", "toml", "dockerfile", "cpp"}
OF_THE_SYSTEM = {"apt-get", "cd", "cmake", "git", "nvcc", "taskset", "uv"}  # not on every machine that runs this


def parsed(page: Path) -> Document:
    """A page's blocks of Python, in order."""
    return Document.parse(str(page), PythonCodeBlockParser())


@pytest.mark.parametrize("page", [page for page in PAGES if [*parsed(page).examples()]], ids=lambda page: page.name)
# torch's, of what it uses itself.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated")
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, with the names of those before."""
    if importlib.util.find_spec(NEEDS.get(page.name, "torch")) is None:
        pytest.skip(f"{NEEDS[page.name]} is not installed (the convert extra)")
    monkeypatch.chdir(tmp_path)
    document = parsed(page)
    document.namespace["__name__"] = page.stem
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_of_prose_is_over_120_columns(page: Path) -> None:
    """But tables, code, and what a program has written."""
    text = re.sub(r"(?s)<!-- (?!end).*?<!-- end -->|```.*?```", "", page.read_text())
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def targets() -> set[str]:
    """Of the Makefile."""
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def sources_of(words: list[str]) -> list[Path]:
    """The files of the project that ``python words...`` runs; none where it runs another's."""
    if words[0] == "-m":
        package, *_ = parts = words[1].split(".")
        for folder in (ROOT, ROOT / "src", ROOT / "tests"):
            if (folder / package).exists():
                place = folder.joinpath(*parts)
                files = [*place.glob("*.py")] if place.is_dir() else [place.with_suffix(".py")]
                assert all(file.exists() for file in files), f"no module {words[1]}"
                return files
        # Looking for pip has setuptools take distutils out of this process, which other tests then miss.
        assert package == "pip" or importlib.util.find_spec(package) is not None, f"no module {words[1]}"
        return []
    if words[0].startswith("-") or words[0] == "setup.py":  # whose options are those of setuptools
        return []
    assert (ROOT / words[0]).exists(), f"no file {words[0]}"
    return [ROOT / words[0]]


def check_python(words: list[str]) -> None:
    """What is run exists, and knows the options."""
    sources = sources_of(words)
    known = "".join(path.read_text() for path in sources)
    for word in words:
        option = word.partition("=")[0]
        if sources and option.startswith("--"):
            assert f'"{option}"' in known, f"{sources[0]} has no option {option}"


def check_pip(words: list[str]) -> None:
    """The extras that it asks for are ours."""
    section = (ROOT / "pyproject.toml").read_text().partition("\n[project.optional-dependencies]\n")[2]
    known = set(re.findall(r"^([\w-]+) = \[", section.partition("\n[")[0], re.MULTILINE))
    for word in words:
        for extras in re.findall(r"^(?:\.|gru_ext)\[([\w,-]+)\]", word):
            assert set(extras.split(",")) <= known, f"no extra {extras}"


def check_command(words: list[str]) -> None:
    """A command, after ``NAME=value`` words."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words:
        return
    name, rest = words[0], words[1:]
    if name == "make":
        named = [word for word in rest if "=" not in word]
        assert set(named) <= targets(), f"no make target {named}"
    elif Path(name).name in ("python", "python3") and rest:
        check_python(rest)
        if rest[:2] == ["-m", "pip"]:
            check_pip(rest)
    elif name == "pip":
        check_pip(rest)
    elif name == "torchrun":
        check_python([word for word in rest if not word.startswith("--nproc")])
    elif name not in OF_THE_SYSTEM and "/" not in name:
        assert shutil.which(name), f"no command {name}"


def check_commands(example: Example) -> None:
    """Each line of a block."""
    text = str(example.parsed).replace("\\\n", " ")
    inner = re.compile(r"\$\(([^()]*\([^()]*\)[^()]*|[^()]*)\)")  # $(command), which may have brackets of its own
    for line in [*inner.sub("x", text).splitlines(), *inner.findall(text)]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
        lexer.whitespace_split = True
        for between, words in groupby(lexer, lambda word: set(word) <= set("|&;()<>")):
            if not between:
                check_command([*words])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    """Make targets, files, modules, their options, extras of pip; what else a shell block starts is installed."""
    for example in Document.parse(str(page), CodeBlockParser("bash", check_commands)).examples():
        example.evaluate()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("make tset", "no make target"),
        ("python -m benchmarks quick --repotr out.html", "no option --repotr"),
        ("cd tests && python -m gru_ext.inof", "no module gru_ext.inof"),
        ("python examples/train.py", "no file examples/train.py"),
        ("X=1 pip install -e '.[devel]'", "no extra devel"),
        ("cat x | gru-ext", "no command gru-ext"),
    ],
)
def test_a_command_that_is_not_there_is_found(command: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"```bash\n{command}\n```\n")
    (example,) = Document.parse(str(tmp_path / "page.md"), CodeBlockParser("bash", check_commands)).examples()
    with pytest.raises(AssertionError, match=text):
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_in_fences_that_name_its_language(page: Path) -> None:
    for token in MarkdownIt().parse(page.read_text()):
        line = token.map[0] + 1 if token.map else 0
        assert token.type != "code_block", f"{page.name}:{line} is indented code: no test runs it"
        if token.type == "fence" and not token.info.startswith("{"):  # Sphinx's directives
            assert token.info in LANGUAGES, f"{page.name}:{line}"


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


def sources() -> list[Path]:
    """Of the library and its build."""
    of_build = [ROOT / "setup.py", ROOT / "build_backend.py"]
    return [*of_build, *(ROOT / "src" / "gru_ext").rglob("*.py"), *(ROOT / "csrc").rglob("*.[ch]*")]


READ = re.compile(r'(?:getenv\(|os\.environ(?:\.\w+\(|\[))\s*"(\w+)"')  # getenv("X"), os.environ["X"], .get("X")


def test_the_table_of_the_environment_has_every_variable_that_is_read() -> None:
    read = {name for path in sources() for name in READ.findall(path.read_text())}
    described = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/environment.md").read_text(), re.MULTILINE))
    assert read - described == set()
    assert {name for name in described - read if name.startswith("GRU_EXT")} == set()


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_is_well_formed_and_inside_of_its_frame(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert root.find(f"{space}title") is not None
    left, top, width, height = map(float, root.get("viewBox", "").split())
    for shape in root.iter():
        for across, down in (("x", "y"), ("x1", "y1"), ("x2", "y2"), ("cx", "cy")):
            if across in shape.attrib and not shape.tag.endswith("marker"):
                assert left <= float(shape.attrib[across]) <= left + width, ElementTree.tostring(shape)
                assert top <= float(shape.attrib.get(down, top)) <= top + height, ElementTree.tostring(shape)


def strings_of(path: Path) -> str:
    """A source, its string literals joined where they go on in the next line."""
    return re.sub(r'["\']\s*\n\s*f?["\']', "", path.read_text().replace('\\"', '"'))


def test_the_messages_of_troubleshooting_are_those_of_the_sources() -> None:
    text = "".join(map(strings_of, sources()))
    rows = re.findall(r"^\| (`[^|]+`) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for row in rows for message in re.findall("`([^`]+)`", row)]
    assert len(messages) > 30
    for message in messages:
        for part in message.split("…"):
            words = part.strip(" :,")
            assert len(words) < 8 or words in text, f"no message has {words!r}"
