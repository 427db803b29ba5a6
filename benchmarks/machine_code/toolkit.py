"""NVIDIA's programs: the compiler, and what prints machine code."""

from __future__ import annotations

import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


class ToolError(Exception):
    """A program that is needed was not found."""


@cache
def find_nvcc() -> Path | None:
    """The compiler, of ``$CUDA_HOME`` where that is set, of the path, or of /usr/local/cuda; or None."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = shutil.which("nvcc", path=f"{home}/bin" if home else None) or shutil.which(
        "nvcc", path="/usr/local/cuda/bin"
    )
    return Path(found) if found else None


@cache
def cuobjdump() -> Path:
    """Of this environment, else of .venv-cuda or the toolkit; with nvdisasm beside it, which it starts."""
    nvcc = find_nvcc()
    places = [
        *Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin"),
        *(ROOT / ".venv-cuda").glob("lib/*/site-packages/nvidia/*/bin"),
        *([nvcc.parent] if nvcc else []),
    ]
    for place in places:
        if all((place / name).exists() for name in ("cuobjdump", "nvdisasm")):
            return place / "cuobjdump"
    packages = "nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    raise ToolError(f"no cuobjdump with nvdisasm was found; install {packages} with pip")


def missing() -> str:
    """Why no kernel can be compiled and read here; empty where it can."""
    try:
        cuobjdump()
    except ToolError as error:
        return str(error)
    return "" if find_nvcc() else "no nvcc: not in $CUDA_HOME, nor on the path, nor in /usr/local/cuda"
