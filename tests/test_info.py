"""What the package says about itself, built and not built."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from process import ROOT, output_of, run_python

import gru_ext
from gru_ext import library
from gru_ext.info import info

KEYS = ["gru_ext", "python", "torch", "cpu kernels", "cuda kernels", "devices", "library"]


def test_the_version_is_one_everywhere() -> None:
    assert gru_ext.__version__ == library.version == info()["gru_ext"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", gru_ext.__version__)


def test_info_names_what_was_built_and_what_runs() -> None:
    facts = info()
    assert list(facts) == KEYS
    assert facts["torch"] == f"{torch.__version__} (built against {library.built_for_torch})"
    assert facts["cpu kernels"].startswith(f"{library.cpu_isa()} in use")
    assert facts["devices"].startswith("cpu (")
    assert facts["library"] == str(ROOT / "gru_ext" / "libgru_ext.so")


def test_info_names_every_family_of_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "has_cuda_kernels", True)
    said = info()["cuda kernels"].replace("one-step", "one_step")
    assert all(family in said for family in ("stepwise", "one_step", "cluster", "group", "streamed"))


def test_the_command_prints_a_line_for_each_fact() -> None:
    lines = output_of(run_python("-m", "gru_ext.info")).splitlines()
    assert [line.split(":")[0] for line in lines] == KEYS
    assert lines[0].split() == ["gru_ext:", gru_ext.__version__]


def test_public_names_are_there() -> None:
    assert gru_ext.__all__ == [
        "GRU",
        "GRUCell",
        "QuantizedGRU",
        "QuantizedGRUCell",
        "__version__",
        "autotune",
        "convert",
        "empty_cache",
        "functional",
        "kernels",
        "quantize_dynamic",
        "replace_gru",
        "to_torch",
        "truncated",
        "use_cuda_kernels",
    ]
    assert all(hasattr(gru_ext, name) for name in gru_ext.__all__)
    assert all(hasattr(gru_ext.functional, name) for name in gru_ext.functional.__all__)


def test_without_the_compiled_library_the_import_error_says_how_to_build(tmp_path: Path) -> None:
    copied = tmp_path / "gru_ext"
    shutil.copytree(ROOT / "gru_ext", copied, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    script = """
try:
    import gru_ext
except ImportError as error:
    print(error)
"""
    # Without site (-S), the finder of an editable install does not find the module after all.
    path = [tmp_path, *(Path(entry) for entry in sys.path if entry)]
    text = output_of(run_python("-S", "-c", script, path=path, directory=tmp_path))
    assert text.startswith("gru_ext's compiled library could not be loaded (")
    assert "Build it against the torch that is installed" in text
    assert "pip install --no-build-isolation" in text


ANOTHER_COPY = """
import sys

import torch

if sys.argv[2] == "library":
    torch.ops.load_library(sys.argv[1])
import gru_ext

torch.ops.load_library(sys.argv[1])
print(gru_ext.GRU(3, 4)(torch.zeros(5, 2, 3))[0].shape)
"""


def test_another_copy_of_the_library_does_not_end_the_process(tmp_path: Path) -> None:
    copy = tmp_path / "libgru_ext.so"
    shutil.copy(library.path, copy)
    result = run_python("-c", ANOTHER_COPY, copy, "package")
    assert output_of(result) == "torch.Size([5, 2, 4])\n"
    assert f"another copy of the library is loaded in this process, whose operators stay in use; that of {copy}" in (
        result.stderr
    )
    result = run_python("-c", ANOTHER_COPY, copy, "library")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"ImportError: gru_ext: expected one copy of the compiled library in a process, {library.path}, got another"
        f" that is loaded already, {copy}. Remove one of the installations, or load only one of the files"
    )
    result = run_python("-c", ANOTHER_COPY, library.path, "library")
    assert output_of(result) == "torch.Size([5, 2, 4])\n"
