"""The compiled library: importing this loads it, which registers the operators; and what it says of itself.

It needs torch and no Python, so that programs without Python load the same file (docs/deployment.md).
"""

from __future__ import annotations

import json
import struct
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

CHECKOUT = Path(__file__).parent.parent.parent  # where this file is one of a checkout


def installed_from() -> dict[str, Any]:
    """Where the package was installed from, as pip and uv note it (PEP 610); empty where neither did."""
    try:
        noted = metadata.distribution("gru_ext").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        noted = None
    found: dict[str, Any] = json.loads(noted or "{}")
    return found


def build_command() -> str:
    """The line that builds the library again from the same source: a repository, a folder, a file, or SOURCE."""
    noted = installed_from()
    source = noted.get("url", "SOURCE").removeprefix("file://" if "dir_info" in noted else "")
    if "vcs_info" in noted:
        revision = noted["vcs_info"].get("requested_revision")
        source = f"git+{source}" + (f"@{revision}" if revision else "")
    if noted.get("dir_info", {}).get("editable"):
        source = f"-e {source}"
    # pip would take the library from its cache, or leave alone what is installed in the same version.
    return f"pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps {source}"


def torch_of(library: Path) -> str | None:
    """The version of torch that a library was built for, read from the file; None where it does not tell.

    It is the section ``gru_ext_torch`` of an ELF file of 64 bits, see csrc/op/build_facts.cpp.
    """
    with library.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return None
        (offset_of_table,) = struct.unpack_from("<Q", header, 40)
        size, count, index_of_names = struct.unpack_from("<3H", header, 58)
        file.seek(offset_of_table)
        table = file.read(size * count)
        # Of each section: where its name lies among the names, type, flags, address, offset in the file, bytes.
        sections = [struct.unpack_from("<2I4Q", table, size * i) for i in range(len(table) // size if size else 0)]
        if index_of_names >= len(sections):
            return None

        def content(section: tuple[int, ...]) -> bytes:
            file.seek(section[4])
            return file.read(section[5])

        names = content(sections[index_of_names])
        for section in sections:
            if names[section[0] :].startswith(b"gru_ext_torch\0"):
                return content(section).rstrip(b"\0").decode()
    return None


def check_torch(library: Path) -> None:
    """Refuse a library of another torch, whose C++ interface changes with every minor version.

    Raises:
        ImportError: the library was built for another one than is installed.
    """
    built = torch_of(library) if library.exists() else None
    if built is not None and built.split(".")[:2] != torch.__version__.split(".")[:2]:
        raise ImportError(
            f"gru_ext was built for torch {built}, found {torch.__version__}; build it again with: {build_command()}"
        )


def refuse_another_copy(library: Path) -> None:
    """Refuse a second copy of the library: a process can have the operators once.

    Raises:
        ImportError: the operators that are loaded are those of another file.
    """
    if not hasattr(torch.ops.gru_ext, "build_facts"):
        return
    loaded = Path(torch.ops.gru_ext.build_facts().get("loaded_from", "an unknown file"))
    if not (loaded.exists() and loaded.samefile(library)):
        raise ImportError(
            f"gru_ext: expected one copy of the compiled library in a process, {library}, got another that is loaded"
            f" already, {loaded}. Remove one of the installations, or load only one of the files"
        )


path = Path(__file__).with_name("libgru_ext.so")
refuse_another_copy(path)
check_torch(path)
try:
    torch.ops.load_library(path)
except OSError as error:
    if not path.exists() and (CHECKOUT / "setup.py").exists():
        raise ImportError(
            f"gru_ext was imported from a checkout in which it is not built, {CHECKOUT}. Build it with: pip install"
            f" --no-build-isolation -e {CHECKOUT}"
        ) from error
    raise ImportError(
        f"gru_ext's compiled library could not be loaded ({error.__cause__ or error}). Build it again, against the"
        f" torch that is installed: {build_command()}"
    ) from error

_ops = torch.ops.gru_ext
_facts: dict[str, str] = _ops.build_facts()

version = _facts["version"]
built_for_torch = _facts["built_for_torch"]
cuda_build = _facts["cuda_build"]  # what compiled the CUDA kernels, for which GPUs; or why they were not built
has_cuda_kernels: bool = _ops.has_cuda_kernels()


def warn_of_missing_kernels() -> None:
    """Say at import, once, that a GPU is there which this build has no kernels for, and why."""
    if not has_cuda_kernels and torch.version.cuda is not None and torch.cuda.device_count() > 0:
        warnings.warn(
            f"gru_ext: torch sees a GPU, but this build has no CUDA kernels ({cuda_build}): layers raise"
            f" NotImplementedError for CUDA tensors. Where nvcc is found, build it again with: {build_command()}",
            stacklevel=2,
        )


warn_of_missing_kernels()


def cpu_isa() -> str:
    """The instruction set that the CPU kernels use.

    Returns:
        One of ``available_cpu_isas()``.

    Raises:
        ValueError: the environment variable ``GRU_EXT_CPU_ISA`` names none of the available ones.

    Example:
        >>> gru_ext.library.cpu_isa() in gru_ext.library.available_cpu_isas()
        True
    """
    isa: str = _ops.cpu_isa()
    return isa


def cpu_cores() -> int:
    """The cores that this process may keep busy, which the CPU kernels never have more threads than.

    They are those of the calling thread's affinity, and no more of these than the quotas of the process's control
    groups leave whole, but one at least; as found at a thread's first call. ``GRU_EXT_CPU_CORES`` takes the place of
    it.

    Returns:
        Their number, at least 1.

    Raises:
        ValueError: the environment variable ``GRU_EXT_CPU_CORES`` is no number of cores from 1 to 65536.

    Example:
        >>> gru_ext.library.cpu_cores() >= 1
        True
    """
    count: int = _ops.cpu_cores()
    return count


def empty_cache() -> int:
    """Give the memory that the CPU kernels keep for their next calls back to the system.

    They keep freed buffers of 1 MiB and more, 512 MiB at most, and give them back by themselves only where a call of
    their own finds no memory. Memory of CUDA is torch's own (``torch.cuda.empty_cache``).

    Returns:
        The bytes that were kept.

    Example:
        >>> _ = gru_ext.empty_cache()
        >>> gru_ext.empty_cache()
        0
    """
    kept: int = _ops.empty_cache()
    return kept


def philox(counter: list[int], key: list[int]) -> list[int]:
    """The four random words of a counter of four words and a key of two, see csrc/cell/philox.h."""
    words: list[int] = _ops.philox(counter, key)
    return words


def available_cpu_isas() -> list[str]:
    """The instruction sets that this build has kernels for and this machine can run, the fastest last.

    Returns:
        Names that ``GRU_EXT_CPU_ISA`` may have.

    Example:
        >>> gru_ext.library.available_cpu_isas()[0]
        'portable'
    """
    isas: list[str] = _ops.available_cpu_isas()
    return isas


def reason_without_tiles() -> str:
    """Why ``avx512_amx`` is not among ``available_cpu_isas()``; empty where tiles are not the reason."""
    reason: str = _ops.reason_without_tiles()
    return reason
