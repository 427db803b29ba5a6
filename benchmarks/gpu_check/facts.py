"""Import, the GPU, versions, and what serves some sizes: what everything else belongs to."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import time
from functools import partial
from typing import Any

from benchmarks.gpu_check.stages import Case, Stage

COMMIT = "GRU_EXT_COMMIT"  # the environment variable that names the commit, where there is no git to ask
OPTIONAL = ("numpy", "pytest")
PROGRAMS = ("nvcc", "compute-sanitizer")
# T, B, H and dtype of the choices.
CHOICES = [
    (512, 8, 512, "bf16"),
    (512, 64, 512, "bf16"),
    (512, 32, 1024, "bf16"),
    (512, 64, 2048, "bf16"),
    (512, 64, 4096, "bf16"),
    (512, 16, 512, "fp32"),
    (1, 1, 1024, "bf16"),
]


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """Imports torch and gru_ext only in their rows."""
    first = [
        Case("python", _python),
        Case("torch", _torch),
        Case("gru_ext", _gru_ext),
        Case("device", partial(_device, rehearses)),
    ]
    return first + [
        Case(f"choice T={T} B={B} H={H} {dtype}", partial(_choice, rehearses, T, B, H, dtype))
        for T, B, H, dtype in CHOICES
    ]


def _python() -> dict[str, Any]:
    found = {name: importlib.util.find_spec(name) is not None for name in OPTIONAL}
    versions = {name: importlib.metadata.version(name) if there else "absent" for name, there in found.items()}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        **versions,
        **{name: shutil.which(name) or "absent" for name in PROGRAMS},
    }


def _torch() -> dict[str, Any]:
    import torch

    return {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def _gru_ext() -> dict[str, Any]:
    from benchmarks.machine import commit
    from gru_ext import library

    return {
        "commit": os.environ.get(COMMIT) or commit(),
        "gru_ext": library.version,
        "built for torch": library.built_for_torch,
        "cuda kernels": library.cuda_build,
        "cpu kernels": library.cpu_isa(),
    }


def _device(rehearses: bool) -> dict[str, Any]:
    import torch

    from benchmarks.gpu_check.target import target

    device = target(rehearses).device
    if rehearses:
        return {"gpu": "none: a rehearsal on a CPU"}
    properties = torch.cuda.get_device_properties(device)
    driver, *clocks = (_of_smi("driver_version,clocks.max.sm,clocks.sm,clocks.mem,power.limit") or "unknown").split(
        ", "
    )
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_mib": round(properties.L2_cache_size / 2**20, 1),
        "driver": driver,
        "clocks (most, now, memory), power limit": ", ".join(clocks),
    }


def _of_smi(query: str) -> str:
    """What nvidia-smi says of the first GPU; nothing where there is no such program."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={query}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _choice(rehearses: bool, steps: int, batch: int, hidden: int, dtype: str) -> dict[str, Any]:
    from benchmarks.gpu_check.target import DTYPES, switch_tf32, target

    switch_tf32(dtype)
    layer = (DTYPES[dtype], steps, batch, hidden, False, False, True)
    forward, backward = (target(rehearses).ops.cuda_kernel(*layer, is_backward, False) for is_backward in (False, True))
    return {"forward": ": ".join(forward), "backward": ": ".join(backward)}
