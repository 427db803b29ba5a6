"""The compiled library: importing this loads it, which registers the operators; and what it says of itself.

It needs torch and no Python, so that programs without Python load the same file (docs/deployment.md).
"""

from __future__ import annotations

from pathlib import Path

import torch

path = Path(__file__).with_name("libgru_ext.so")


def _refuse_another_copy() -> None:
    """Raise an ImportError where the operators are those of another file: a process can have them once."""
    if not hasattr(torch.ops.gru_ext, "build_facts"):
        return
    loaded = Path(torch.ops.gru_ext.build_facts().get("loaded_from", "an unknown file"))
    if not (loaded.exists() and loaded.samefile(path)):
        raise ImportError(
            f"gru_ext: expected one copy of the compiled library in a process, {path}, got another that is loaded"
            f" already, {loaded}. Remove one of the installations, or load only one of the files"
        )


_refuse_another_copy()
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


def empty_cache() -> int:
    """Give the memory that the CPU kernels keep for their next calls back to the system.

    They keep freed buffers of 1 MiB and more, 512 MiB at most, and give them back by themselves only where a call of
    their own finds no memory. Memory of CUDA is torch's own (``torch.cuda.empty_cache``).

    Returns:
        The bytes that were kept.
    """
    kept: int = _ops.empty_cache()
    return kept


def philox(counter: list[int], key: list[int]) -> list[int]:
    """The four random words of a counter of four words and a key of two, see csrc/philox.h."""
    words: list[int] = _ops.philox(counter, key)
    return words


def available_cpu_isas() -> list[str]:
    """The instruction sets that this build has kernels for and this machine can run, narrowest first."""
    isas: list[str] = _ops.available_cpu_isas()
    return isas
