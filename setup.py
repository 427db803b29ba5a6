"""Builds gru_ext._C against the torch that is installed. See README.md for the commands."""

from __future__ import annotations

import os
import platform
import runpy
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

from setuptools import Extension, setup

ROOT = Path(__file__).parent
OLDEST_TORCH = (2, 6)


def give_up(sentence: str) -> NoReturn:
    """End the build with one sentence."""
    sys.exit(f"\ngru_ext: {sentence}\n")


try:
    import torch
    from torch.utils import cpp_extension
except ImportError:
    give_up(
        "no torch to build against is visible here (pip hides it unless told otherwise);"
        " with torch installed, run: pip install --no-build-isolation ."
    )

if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
    give_up(f"torch 2.6 or later is needed, found {torch.__version__}; run: pip install 'torch>=2.6'")


class BuildExtension(cpp_extension.BuildExtension):
    """Compiles with ninja; says in one sentence what is missing before anything is compiled."""

    def build_extensions(self) -> None:
        """Check for a compiler and Python's headers, then build."""
        compiler = os.environ.get("CXX", "c++")
        if shutil.which(compiler.split()[0]) is None:
            give_up(f"no C++ compiler '{compiler}' was found; on Debian or Ubuntu, run: apt-get install g++")
        if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
            give_up("Python's headers were not found; on Debian or Ubuntu, run: apt-get install python3-dev")
        super().build_extensions()


def extension(version: str) -> Extension:
    """Describe gru_ext._C: every .cpp under csrc/."""
    # Compiled for OpenMP but not linked with a runtime: torch has loaded one, and two pools of threads would compete.
    flags = ["-O3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-g0", "-fvisibility=hidden", "-fopenmp"]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-Wno-psabi")  # vectors wider than the baseline never cross a function that is not inlined
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / "csrc").rglob("*.cpp"))
    headers = sorted(path.relative_to(ROOT) for path in (ROOT / "csrc").rglob("*.h"))
    built: Extension = cpp_extension.CppExtension(
        name="gru_ext._C",
        sources=[str(path) for path in sources],
        depends=[str(path) for path in headers],
        define_macros=[("GRU_EXT_VERSION", f'"{version}"'), ("GRU_EXT_TORCH_VERSION", f'"{torch.__version__}"')],
        extra_compile_args=flags,
    )
    return built


VERSION: str = runpy.run_path(str(ROOT / "gru_ext" / "version.py"))["__version__"]

setup(version=VERSION, ext_modules=[extension(VERSION)], cmdclass={"build_ext": BuildExtension})
