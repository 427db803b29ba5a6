"""setup.py says in one sentence what it lacks, before it compiles anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from process import ROOT, run_python


def link_sources(path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "csrc", "gru_ext"):
        (path / name).symlink_to(ROOT / name)


def run_setup(path: Path, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and last words of ``python setup.py arguments...`` in a directory with nothing but links."""
    link_sources(path)
    result = run_python("setup.py", *arguments, path=[path], directory=path, environment=environment)
    return result.returncode, result.stderr.strip().splitlines()[-1]


def test_without_torch_it_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')\n")
    assert run_setup(tmp_path, "--version") == (
        1,
        "gru_ext: no torch to build against is visible here (pip hides it unless told otherwise);"
        " with torch installed, run: pip install --no-build-isolation .",
    )


def test_with_an_old_torch_it_names_the_oldest(tmp_path: Path) -> None:
    (tmp_path / "torch" / "utils").mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").write_text("__version__ = '2.5.1'\n")
    (tmp_path / "torch" / "utils" / "__init__.py").write_text("cpp_extension = None\n")
    assert run_setup(tmp_path, "--version") == (
        1,
        "gru_ext: torch 2.6 or later is needed, found 2.5.1; run: pip install 'torch>=2.6'",
    )


def test_without_a_compiler_it_says_so(tmp_path: Path) -> None:
    compiler = "/nonexistent/c++ -m64"
    arguments = ("build_ext", "--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp"))
    status, words = run_setup(tmp_path, *arguments, environment={"CXX": compiler})
    assert (status, words) == (
        1,
        f"gru_ext: no C++ compiler '{compiler}' was found; on Debian or Ubuntu, run: apt-get install g++",
    )
    assert not (tmp_path / "temp").exists()


# ---- GRU_EXT_CUDA

ONLY_CPU_TORCH = pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
# A torch that says it has CUDA 13.0 and no GPU, which is all that is asked of it before anything is compiled.
CUDA_TORCH = """
import torch
torch.version.cuda = "13.0"
torch.cuda._is_compiled = lambda: True
torch.cuda.is_available = lambda: False
"""


def toolkit(path: Path, release: str) -> dict[str, str]:
    """The environment of a CUDA toolkit with an nvcc that tells its release, and no more."""
    (path / "toolkit" / "bin").mkdir(parents=True)
    (path / "toolkit" / "include").mkdir()
    (path / "toolkit" / "include" / "cuda_runtime.h").touch()
    nvcc = path / "toolkit" / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.0\n")
    nvcc.chmod(0o755)
    return {"CUDA_HOME": str(path / "toolkit")}


@ONLY_CPU_TORCH
def test_cuda_forced_with_a_torch_without_cuda(tmp_path: Path) -> None:
    assert run_setup(tmp_path, "--version", environment={"GRU_EXT_CUDA": "1", **toolkit(tmp_path, "13.0")}) == (
        1,
        f"gru_ext: GRU_EXT_CUDA=1 asks for the CUDA kernels, but torch {torch.__version__} is built without CUDA",
    )


def test_cuda_forced_without_nvcc(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CUDA_TORCH)
    assert run_setup(tmp_path, "--version", environment={"GRU_EXT_CUDA": "1", "CUDA_HOME": "/nonexistent"}) == (
        1,
        "gru_ext: GRU_EXT_CUDA=1 asks for the CUDA kernels, but /nonexistent has no nvcc and CUDA headers",
    )


@pytest.mark.parametrize(
    ("release", "cuda", "sentence"),
    [
        ("12.9", "13.0", "nvcc 12.9 cannot build for torch's CUDA 13.0"),
        ("12.3", "12.1", "nvcc 12.4 or later is needed, found 12.3"),
    ],
)
def test_cuda_forced_with_an_nvcc_that_does_not_serve(tmp_path: Path, release: str, cuda: str, sentence: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(CUDA_TORCH.replace("13.0", cuda))
    environment = {"GRU_EXT_CUDA": "1", **toolkit(tmp_path, release)}
    assert run_setup(tmp_path, "--version", environment=environment) == (
        1,
        f"gru_ext: GRU_EXT_CUDA=1 asks for the CUDA kernels, but {sentence}",
    )


def test_cuda_is_0_or_1(tmp_path: Path) -> None:
    assert run_setup(tmp_path, "--version", environment={"GRU_EXT_CUDA": "yes"}) == (
        1,
        "gru_ext: expected GRU_EXT_CUDA to be 0 or 1, got 'yes'",
    )


@pytest.mark.parametrize(
    ("forced", "release", "words"),
    [
        ("0", "13.0", "not built: GRU_EXT_CUDA=0"),
        ("", "12.9", "not built: nvcc 12.9 cannot build for torch's CUDA 13.0"),
        ("", "13.1", "nvcc 13.1 for 8.0;9.0"),
    ],
)
def test_the_choice_is_printed(tmp_path: Path, forced: str, release: str, words: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(CUDA_TORCH)
    environment = toolkit(tmp_path, release)
    environment |= {"GRU_EXT_CUDA": forced, "TORCH_CUDA_ARCH_LIST": "8.0;9.0", "CXX": "/nonexistent/c++"}
    link_sources(tmp_path)
    result = run_python("setup.py", "build_ext", path=[tmp_path], directory=tmp_path, environment=environment)
    assert f"gru_ext: CUDA kernels: {words}" in result.stdout.splitlines()
    assert "no C++ compiler '/nonexistent/c++' was found" in result.stderr
