"""Docstrings of public names: what they have to say, and that their examples give what they show."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
from typing import Any

import pytest
import torch
from public_names import public_names

import gru_ext

PUBLIC = public_names()
NEEDS = {  # from the convert extra
    "gru_ext.convert.from_keras": "keras",
    "gru_ext.convert.to_keras": "keras",
    "gru_ext.convert.from_onnx": "onnxscript",
    "gru_ext.convert.to_onnx": "onnxscript",
    "gru_ext.convert.from_onnx_node": "onnx",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_names_every_argument_and_what_comes_back(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    called = PUBLIC[name].fget if isinstance(PUBLIC[name], property) else PUBLIC[name]
    signature = inspect.signature(called)
    for parameter in signature.parameters.values():
        if parameter.name != "self":
            assert f"\n    {parameter.name}: " in text, f"no word on {parameter.name}"
            first = text.partition(f"\n    {parameter.name}: ")[2].partition("\n")[0]
            assert len(first) > 2, f"{parameter.name}: a letter alone, which Sphinx takes for a list's number"
    returns = signature.return_annotation
    if not inspect.isclass(called) and not isinstance(PUBLIC[name], property) and returns not in (None, "None"):
        assert "\nReturns:\n" in text or "\nYields:\n" in text


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated")  # of what torch uses
@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_docstring_gives_what_it_shows(name: str) -> None:
    if importlib.util.find_spec(NEEDS.get(name, "torch")) is None:
        pytest.skip(f"{NEEDS[name]} is not installed (the convert extra)")
    names: dict[str, Any] = {"torch": torch, "gru_ext": gru_ext}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(PUBLIC[name]) or "", names, name, None, None)
    assert example.examples, "no example"
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert not report, "".join(report)
