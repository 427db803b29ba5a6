"""In which C++ the sources are written."""

from __future__ import annotations

import subprocess

import pytest
from building import compiler, cpp_extension
from process import ROOT


@pytest.mark.parametrize("source", ["kernels/kernels_avx512_amx.cpp", "int8/int8_avx512_amx.cpp"])
def test_the_cpu_kernels_are_cpp17(source: str) -> None:
    """In which torch up to 2.11 builds its extensions; these two include every body of a kernel."""
    flags = ["-std=c++17", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fsyntax-only"]
    of_torch = [f"-isystem{path}" for path in cpp_extension().include_paths()]
    command = [*compiler(), *flags, f"-I{ROOT / 'csrc'}", *of_torch]
    subprocess.run([*command, str(ROOT / "csrc" / "cpu" / source)], check=True)
