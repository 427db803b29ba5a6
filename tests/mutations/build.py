"""The library and the emulated CUDA backend, compiled so that it takes little to do so again after a fault.

Source by source and without optimisation; torch's headers, which take longer than all of ours, once.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from building import compiler, cpp_extension, make_all, with_included
from emulated_sources import HOST_SIDE, INCLUDES, MACROS, OWN
from process import ROOT

COPY = ROOT / "build" / "mutants"
OBJECTS = COPY / "build" / f"objects_{torch.__version__}"
TORCH_HEADERS = OBJECTS / "torch.h"
# Kernels for GPUs in the emulator, which run too long without optimisation, and have few of torch's headers.
OPTIMISED = ("persistent_kernels", "emulator", "fiber", "arithmetic", "race")


@dataclass(frozen=True)
class Library:
    """What is made of some sources of the copy."""

    path: Path
    sources: list[Path]
    flags: list[str]
    includes: list[Path]

    def objects_of(self, changed: Path | None = None) -> dict[Path, Path]:
        """The object file of each source, or of each that a changed file of the copy is part of."""
        return {
            source: OBJECTS / self.path.stem / source.relative_to(COPY).with_suffix(".o")
            for source in self.sources
            if changed is None or changed in with_included(source, self.includes)
        }

    def compile_all(self, targets: Mapping[Path, Path]) -> None:
        """Some objects, by their sources. Raises subprocess.CalledProcessError."""
        make_all(functools.partial(self._compile, *pair) for pair in targets.items())

    def _compile(self, source: Path, target: Path) -> Path:
        optimised = source.stem in OPTIMISED
        target.parent.mkdir(parents=True, exist_ok=True)
        _run(
            [
                *_flags(optimised),
                *([] if optimised else ["-include", str(TORCH_HEADERS)]),
                *self.flags,
                *(f"-I{path}" for path in self.includes),
                *("-c", str(source), "-o", str(target)),
            ]
        )
        return target

    def link(self) -> None:
        """All objects."""
        objects = [str(target) for target in self.objects_of().values()]
        directory = Path(torch.__file__).parent / "lib"
        libraries = [f"-L{directory}", "-ltorch", "-ltorch_cpu", "-lc10"]
        _run(["-shared", f"-Wl,-soname,{self.path.name}", *objects, *libraries, "-o", str(self.path)])

    def build(self) -> None:
        """What is missing, or older than a file that it is made of."""
        headers = TORCH_HEADERS.with_suffix(".h.gch")
        if not headers.exists():
            _precompile(headers)

        def is_old(source: Path, target: Path) -> bool:
            parts = with_included(source, self.includes)
            return not target.exists() or any(part.stat().st_mtime > target.stat().st_mtime for part in parts)

        old = {source: target for source, target in self.objects_of().items() if is_old(source, target)}
        self.compile_all(old)
        if old or not self.path.exists():
            self.link()


def _flags(optimised: bool) -> list[str]:
    torch_includes = [f"-isystem{path}" for path in cpp_extension().include_paths()]
    level = "-O2" if optimised else "-O0"
    return [level, "-std=c++20", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-w", *torch_includes]


def _precompile(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    names = ("ATen/ATen.h", "ATen/Parallel.h", "torch/csrc/autograd/custom_function.h", "torch/library.h")
    TORCH_HEADERS.write_text("".join(f"#include <{name}>\n" for name in names))
    _run([*_flags(optimised=False), "-x", "c++-header", str(TORCH_HEADERS), "-o", str(target)])


def _run(arguments: list[str]) -> None:
    # ccache would keep objects that nobody asks for again.
    environment = {**os.environ, "CCACHE_DISABLE": "1"}
    subprocess.run([*compiler(), *arguments], check=True, capture_output=True, text=True, env=environment)


def _sources_of_library() -> list[Path]:
    csrc = ROOT / "csrc"
    folders = ("op", "cpu", "cpu/*", "no_cuda")
    return sorted(path for folder in folders for path in csrc.glob(f"{folder}/*.cpp") if "_avx" not in path.stem)


def _of_copy(paths: Sequence[Path]) -> list[Path]:
    return [COPY / path.relative_to(ROOT) for path in paths]


def _defined(macros: Mapping[str, str]) -> list[str]:
    return [f"-D{name}={value}" for name, value in macros.items()]


LIBRARY = Library(
    COPY / "src" / "gru_ext" / "libgru_ext.so",
    _of_copy(_sources_of_library()),
    _defined(
        {
            "GRU_EXT_VERSION": '"0"',
            "GRU_EXT_TORCH_VERSION": f'"{torch.__version__}"',
            "GRU_EXT_CUDA_BUILD": '"not built: a copy to plant faults in"',
        }
    ),
    [COPY / "csrc"],
)
EMULATED = Library(
    COPY / "build" / "gru_ext_emulated.so", _of_copy([*OWN, *HOST_SIDE]), _defined(MACROS), _of_copy(INCLUDES)
)
