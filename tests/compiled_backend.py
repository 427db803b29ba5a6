"""The CUDA backend on CPU tensors: its host side as it is, the kernels and launchers of nvcc in the interpreter.

Built on first use, of the objects that compiled_kernels.py makes and a few rows of each table of instantiations.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from building import compiler, cpp_extension, digest_of, make_all, make_once, shared_library, united, with_included
from compiled_kernels import (
    BUILD,
    COVERAGE_FLAGS,
    CSRC,
    MACHINE,
    RUNNER,
    UNITS,
    Maker,
    both_ways,
    compile_machine,
    include_directory,
    kernel_objects,
    notes_of,
    rows_of,
    unchanged,
)
from emulated_sources import HOST_SIDE, MACROS
from persistent_kernels import Config, HeldConfig, StreamedConfig
from process import ROOT

BACKEND = MACHINE / "backend"
MULTIPROCESSORS = 132
# The kernels that the host side finds: of every family, as small as they come.
CONFIGS: list[Config] = [
    *(HeldConfig(dtype, 64, 1, 8) for dtype in (torch.bfloat16, torch.float16, torch.float32)),
    HeldConfig(torch.bfloat16, 256, 4, 8),
    HeldConfig(torch.bfloat16, 512, 8, 8, group=True),
    *(StreamedConfig(torch.bfloat16, 32, 8, masked=masked) for masked in (False, True)),
]
PERSISTENT = [
    *(f"{family}_{way}_{name}" for family in ("cluster", "group") for way in ("fwd", "bwd") for name in UNITS.values()),
    *(f"streamed_{name}" for name in ("bf16", "fp16", "tf32")),
]
STEPWISE = [f"{family}_{name}" for family in ("step", "one_step") for name in ("bf16", "fp16", "fp32", "fp64")]
# The functions of CUDA's runtime that backend/driver.cpp counts and can have fail.
WRAPPED = (
    "cudaDeviceGetAttribute",
    "cudaEventCreate",
    "cudaEventElapsedTime",
    "cudaEventRecord",
    "cudaEventSynchronize",
    "cudaFuncGetAttributes",
    "cudaFuncSetAttribute",
    "cudaGetDevice",
    "cudaGetDeviceProperties",
    "cudaGetLastError",
    "cudaHostAlloc",
    "cudaHostGetDevicePointer",
    "cudaLaunchKernel",
    "__cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cudaOccupancyMaxActiveBlocksPerMultiprocessor",
    "cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
    "cudaOccupancyMaxActiveClusters",
    "cudaStreamIsCapturing",
)


def host_sources() -> list[Path]:
    """The host side of the backend and its operators, as one; and what includes CUDA's runtime."""
    # Its own products last: they have another name for a name of torch's.
    own = [BACKEND / "operators.cpp", BACKEND / "products.cpp"]
    sources = [path for path in HOST_SIDE if path.stem != "products"] + own
    return [united(BUILD / "host_side.cpp", sources, ROOT), CSRC / "cuda" / "device.cu", BACKEND / "driver.cpp"]


def compile_host(source: Path) -> Path:
    """The object of a source that includes torch or, device.cu, CUDA's runtime."""
    flags = ["-std=c++20", "-O0", "-fPIC", "-w", "-x", "c++", *COVERAGE_FLAGS]
    flags += [f"-D{name}={value}" for name, value in MACROS.items()]
    # Before torch's own: the emulated backend has stand-ins for three headers of c10/cuda.
    directories = [RUNNER / "backend", MACHINE, CSRC, ROOT]
    torchs = [*cpp_extension().include_paths(), str(include_directory())]
    includes = [*(f"-I{path}" for path in directories), *(f"-isystem{path}" for path in torchs)]
    texts = (path.read_bytes() for path in with_included(source, directories))
    digest = digest_of(torch.__version__, *compiler(), *flags, *texts)

    def make(path: Path) -> None:
        command = [*compiler(), *flags, *notes_of(path), *includes]
        subprocess.run([*command, "-c", source, "-o", path], check=True)

    return make_once(BUILD / f"host-{source.parent.name}-{source.stem}-{digest}.o", make)


def build() -> Path:
    """The library."""
    makers: list[Maker] = [
        *kernel_objects([*PERSISTENT, *STEPWISE], rows_of(both_ways(CONFIGS)), unchanged),
        *(partial(compile_host, path) for path in host_sources()),
        *(partial(compile_machine, path) for path in sorted(MACHINE.glob("*.cpp")) if not path.stem.startswith("run_")),
    ]
    objects = make_all(makers)
    libraries = Path(torch.__file__).parent / "lib"
    flags = [*COVERAGE_FLAGS, "-Wl,-Bsymbolic", *(f"-Wl,--wrap={name}" for name in WRAPPED)]
    of_torch = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lc10", "-ltorch_cpu", "-ltorch"]
    return shared_library(BUILD / "backend", objects, flags, of_torch)


@cache
def compiled_operators() -> Any:
    """``gru_fwd`` and ``gru_bwd``, as in ``torch.ops.gru_ext``, and what ptx/backend/operators.cpp adds."""
    torch.ops.load_library(str(build()))
    return torch.ops.gru_ext_compiled


@contextmanager
def new_device() -> Iterator[Any]:
    """The operators, with a device that nothing is known of, and the choice of kernels left to them."""
    operators = compiled_operators()
    operators.new_device(MULTIPROCESSORS)
    operators.use_cuda_kernels("auto", "auto")
    try:
        yield operators
    finally:
        operators.use_cuda_kernels("auto", "auto")
        operators.autotune(False, "")
        operators.fail_call(0)
        operators.capture(False)
        operators.forget_attributes(False)
        operators.plant("", "")
    assert operators.errors_left() == 0, "a call has left an error behind for the next one to find"
    assert not operators.capture_was_invalidated()
