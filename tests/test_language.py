"""In which C++ the sources are written, and what kernels may include of it."""

from __future__ import annotations

import subprocess

import pytest
from building import compiler, cpp_extension, with_included
from process import ROOT


@pytest.mark.parametrize("source", ["kernels/kernels_avx512_amx.cpp", "int8/int8_avx512_amx.cpp"])
def test_the_cpu_kernels_are_cpp17(source: str) -> None:
    """In which torch up to 2.11 builds its extensions; these two include every body of a kernel."""
    flags = ["-std=c++17", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fsyntax-only"]
    of_torch = [f"-isystem{path}" for path in cpp_extension().include_paths()]
    command = [*compiler(), *flags, f"-I{ROOT / 'csrc'}", *of_torch]
    subprocess.run([*command, str(ROOT / "csrc" / "cpu" / source)], check=True)


def test_cuda_kernels_include_primitives_parameters_and_the_cell_alone() -> None:
    """Which is what lets the emulator run them; their launches have files of their own."""
    csrc = ROOT / "csrc"
    kernels = {path for path in (csrc / "cuda").rglob("*.cuh") if path.name != "launch.cuh"}
    included = {path for kernel in kernels for path in with_included(kernel, [csrc])} - kernels
    assert {str(path.relative_to(csrc)) for path in included} == {
        *("cell/acc_type.h", "cell/cell.h", "cell/masks.h"),
        *("cuda/params.h", "cuda/wait_clock.h"),
    }
