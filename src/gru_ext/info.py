"""``python -m gru_ext.info``: what was built, and what it runs on."""

from __future__ import annotations

import platform
import subprocess

import torch

from gru_ext import library


def _devices() -> str:
    devices = [f"cpu ({torch.get_num_threads()} threads of torch, {library.cpu_cores()} cores)"]
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        kernels = "" if library.has_cuda_kernels else "; no gru_ext kernels in this build"
        devices.append(f"cuda:{index} ({torch.cuda.get_device_name(index)}, {major}.{minor}{kernels})")
    return ", ".join(devices)


def _commit() -> str:
    """The commit that was installed, as pip noted it, or of the checkout; empty where neither is known."""
    commit: str = library.installed_from().get("vcs_info", {}).get("commit_id", "")
    if not commit and (library.CHECKOUT / ".git").exists():
        describe = ["git", "-C", str(library.CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            commit = subprocess.run(describe, capture_output=True, text=True, timeout=10).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            commit = ""
    return f" ({commit})" if commit else ""


def info() -> dict[str, str]:
    """Version and build facts: what ``python -m gru_ext.info`` prints.

    Returns:
        Lines of text under short names: ``gru_ext`` (with the commit, where it is known), ``python``, ``torch``,
        ``cpu kernels``, ``cuda kernels`` (why there are none, if so), ``devices`` and ``library``, the file.

    Raises:
        ValueError: the environment variable ``GRU_EXT_CPU_ISA`` names no instruction set of this machine and build, or
            ``GRU_EXT_CPU_CORES`` is no number of cores.

    Example:
        >>> from gru_ext.info import info
        >>> [*info()]
        ['gru_ext', 'python', 'torch', 'cpu kernels', 'cuda kernels', 'devices', 'library']
    """
    isas = ", ".join(library.available_cpu_isas())
    reason = library.reason_without_tiles()
    return {
        "gru_ext": library.version + _commit(),
        "python": platform.python_version(),
        "torch": f"{torch.__version__} (built against {library.built_for_torch})",
        "cpu kernels": f"{library.cpu_isa()} in use, of {isas}"
        f"{f'; no tiles: {reason}' if reason else ''}; GRU_EXT_CPU_ISA chooses",
        "cuda kernels": f"stepwise, one-step, cluster- and group-persistent, streamed; built by {library.cuda_build}"
        if library.has_cuda_kernels
        else library.cuda_build,
        "devices": _devices(),
        "library": str(library.path),
    }


if __name__ == "__main__":
    for name, value in info().items():
        print(f"{name + ':':14} {value}")
