"""The compiled library: importing this loads it, which registers the operators; and what it says of itself.

It needs torch and no Python, so that programs without Python load the same file (docs/deployment.md).
"""

from __future__ import annotations

from pathlib import Path

import torch

path = Path(__file__).with_name("libgru_ext.so")
try:
    torch.ops.load_library(path)
except OSError as error:
    raise ImportError(
        f"gru_ext's compiled library could not be loaded ({error.__cause__ or error}). Build it against the torch that"
        " is installed, in a checkout of the source: pip install --no-build-isolation -e . (installed without -e,"
        " gru_ext is found only from outside of the checkout)"
    ) from error

_ops = torch.ops.gru_ext
_facts: dict[str, str] = _ops.build_facts()

version = _facts["version"]
built_for_torch = _facts["built_for_torch"]
cuda_build = _facts["cuda_build"]  # what compiled the CUDA kernels, for which GPUs; or why they were not built
has_cuda_kernels: bool = _ops.has_cuda_kernels()


def cpu_isa() -> str:
    """The instruction set that the CPU kernels use.

    Raises:
        ValueError: the environment variable GRU_EXT_CPU_ISA names none of the available ones.
    """
    isa: str = _ops.cpu_isa()
    return isa


def philox(counter: list[int], key: list[int]) -> list[int]:
    """The four random words of a counter of four words and a key of two, see csrc/philox.h."""
    words: list[int] = _ops.philox(counter, key)
    return words


def available_cpu_isas() -> list[str]:
    """The instruction sets that this build has kernels for and this machine can run, narrowest first."""
    isas: list[str] = _ops.available_cpu_isas()
    return isas
