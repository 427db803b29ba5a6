"""docs/coverage.md is about the sources as they are; ``make coverage`` writes it."""

from __future__ import annotations

import re

from backend_coverage import NO_REASON, PAGE
from process import ROOT

QUOTE = re.compile(r"^- `([^`]+):\d+`: `([^`]*)`(?:.*in `(\w+)`)?", re.MULTILINE)


def test_the_code_that_it_quotes_is_there() -> None:
    page = PAGE.read_text()
    quotes = QUOTE.findall(page)
    assert len(quotes) == page.count("\n- `") > 0
    for file, code, function in quotes:
        text = (ROOT / "csrc" / file).read_text()
        assert code in text, f"{file} has no such line: run make coverage"
        assert function in text, f"{file} has no {function}: run make coverage"


def test_it_says_why_no_test_reaches_them() -> None:
    assert NO_REASON not in PAGE.read_text()


def test_every_file_of_the_host_side_is_in_its_table() -> None:
    page = PAGE.read_text()
    cuda = ROOT / "csrc" / "cuda"
    host = [cuda / "device.cu", *(path for path in cuda.rglob("*.cpp") if path.stem != "op_cuda")]
    missing = [path.name for path in host if f"| `{path.relative_to(ROOT)}` |" not in page]
    assert not missing, f"{missing} are not in docs/coverage.md: run make coverage"
