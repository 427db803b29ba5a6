"""The snippets of docs/conversion.md run as they are pasted."""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path

import pytest
from process import ROOT

SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["keras", "onnx", "truncated"])
def test_a_snippet_runs(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "onnx" in snippet and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript is not installed (the convert extra)")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)  # of torch's own
        exec(snippet, {})
