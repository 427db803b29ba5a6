"""The tables of docs/kernels.md say what the source and the committed resources say."""

from __future__ import annotations

import kernel_tables


def test_the_page_has_the_tables_of_the_source() -> None:
    page = kernel_tables.PAGE.read_text()
    assert page == kernel_tables.with_tables(page), "run: python tests/kernel_tables.py"
