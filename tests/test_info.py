"""What the package says about itself, built and not built."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from process import ROOT, fork_python, output_of, run_python

import gru_ext
from gru_ext import library
from gru_ext.info import info

KEYS = ["gru_ext", "python", "torch", "cpu kernels", "cuda kernels", "devices", "library"]


def test_the_version_is_one_everywhere() -> None:
    assert gru_ext.__version__ == library.version == info()["gru_ext"].split()[0]
    assert re.fullmatch(r"\d+\.\d+\.\d+", gru_ext.__version__)
    assert f'\nversion = "{gru_ext.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def test_info_names_what_was_built_and_what_runs() -> None:
    facts = info()
    assert list(facts) == KEYS
    assert facts["torch"] == f"{torch.__version__} (built against {library.built_for_torch})"
    assert facts["cpu kernels"].startswith(f"{library.cpu_isa()} in use")
    assert facts["devices"].startswith(f"cpu ({torch.get_num_threads()} threads of torch, {library.cpu_cores()} cores)")
    assert facts["library"] == str(ROOT / "src" / "gru_ext" / "libgru_ext.so")


def test_info_names_every_family_of_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "has_cuda_kernels", True)
    said = info()["cuda kernels"].replace("one-step", "one_step")
    assert all(family in said for family in ("stepwise", "one_step", "cluster", "group", "streamed"))


def test_the_command_prints_a_line_for_each_fact() -> None:
    lines = output_of(fork_python("-m", "gru_ext.info")).splitlines()
    assert [line.split(":")[0] for line in lines] == KEYS
    assert lines[0].split()[:2] == ["gru_ext:", gru_ext.__version__]


def noted_by_pip(commit: str) -> SimpleNamespace:
    """A distribution that pip installed from a commit, of which it writes what PEP 610 says."""
    noted = json.dumps({"url": "https://example.org", "vcs_info": {"vcs": "git", "commit_id": commit}})
    return SimpleNamespace(read_text={"direct_url.json": noted}.__getitem__)


def test_info_names_the_commit_that_was_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda _: noted_by_pip("0123456789abcdef"))
    assert info()["gru_ext"] == f"{gru_ext.__version__} (0123456789abcdef)"


def test_info_names_the_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda _: noted_by_pip(""))
    if not (ROOT / ".git").exists():
        assert info()["gru_ext"] == gru_ext.__version__
        return
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    named = re.fullmatch(rf"{gru_ext.__version__} \((\w+)(-dirty)?\)", info()["gru_ext"])
    assert named is not None
    assert head.startswith(named[1])


@pytest.mark.parametrize(("gpus", "has_kernels"), [(0, False), (1, True), (1, False)])
def test_a_gpu_without_kernels_for_it_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, gpus: int, has_kernels: bool, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(library, "has_cuda_kernels", has_kernels)
    monkeypatch.setattr(library, "cuda_build", "not built: no nvcc was found")
    library.warn_of_missing_kernels()
    said = [str(warning.message) for warning in recwarn]
    assert len(said) == (gpus > 0 and not has_kernels)
    assert all("this build has no CUDA kernels (not built: no nvcc was found)" in words for words in said)


def test_public_names_are_there() -> None:
    assert gru_ext.__all__ == [
        "GRU",
        "GRUCell",
        "PreparedGRU",
        "PreparedGRUCell",
        "QuantizedGRU",
        "QuantizedGRUCell",
        "__version__",
        "autotune",
        "convert",
        "empty_cache",
        "fake_quantize",
        "functional",
        "kernels",
        "prepare",
        "quantize_dynamic",
        "replace_gru",
        "to_torch",
        "truncated",
        "use_cuda_kernels",
    ]
    assert all(hasattr(gru_ext, name) for name in gru_ext.__all__)
    assert all(hasattr(gru_ext.functional, name) for name in gru_ext.functional.__all__)


@pytest.mark.parametrize("checkout", [False, True])
def test_without_the_compiled_library_the_import_error_says_how_to_build(tmp_path: Path, checkout: bool) -> None:
    copied = tmp_path / "src" / "gru_ext"
    shutil.copytree(ROOT / "src" / "gru_ext", copied, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    script = """
try:
    import gru_ext
except ImportError as error:
    print(error)
"""
    # Without site (-S), the finder of an editable install does not find the module after all.
    path = [tmp_path / "src", *(Path(entry) for entry in sys.path if entry)]
    if checkout:
        (tmp_path / "setup.py").touch()
    text = output_of(run_python("-S", "-c", script, path=path, directory=tmp_path))
    if checkout:
        assert text == (
            f"gru_ext was imported from a checkout in which it is not built, {tmp_path}. Build it with:"
            f" pip install --no-build-isolation -e {tmp_path}\n"
        )
    else:
        assert text.startswith("gru_ext's compiled library could not be loaded (")
        assert "Build it again, against the torch that is installed: pip install --no-build-isolation " in text


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
    result = fork_python("-c", ANOTHER_COPY, copy, "package")
    assert output_of(result) == "torch.Size([5, 2, 4])\n"
    assert f"another copy of the library is loaded in this process, whose operators stay in use; that of {copy}" in (
        result.stderr
    )
    result = fork_python("-c", ANOTHER_COPY, copy, "library")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"ImportError: gru_ext: expected one copy of the compiled library in a process, {library.path}, got another"
        f" that is loaded already, {copy}. Remove one of the installations, or load only one of the files"
    )
    result = fork_python("-c", ANOTHER_COPY, library.path, "library")
    assert output_of(result) == "torch.Size([5, 2, 4])\n"
