"""Calls that must fail: with which error, and in which words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

# By error, and by what it says, the arguments that it is about.
Refusals = Mapping[type[Exception], Mapping[str, Any]]


@contextmanager
def refused(error: type[Exception], text: str) -> Iterator[None]:
    """Within it just this error is raised, with just these words."""
    with pytest.raises(error) as caught:
        yield
    assert (type(caught.value), str(caught.value)) == (error, text)


def each_refusal(*refusals: Refusals) -> pytest.MarkDecorator:
    """A test of every one, with its ``error``, ``text`` and ``given``."""
    rows = [
        pytest.param(error, text, given, id=text)
        for table in refusals
        for error, of_error in table.items()
        for text, given in of_error.items()
    ]
    return pytest.mark.parametrize(("error", "text", "given"), rows)
