"""What the time model is made of, by benchmarks/gpu_constants.cu: a process for each measurement."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.stages import ROOT, AbsentError, Case, Stage

SOURCE = ROOT / "benchmarks" / "gpu_constants.cu"
PROGRAM = ROOT / "build" / "gpu_constants"
SECONDS = 30.0  # of one measurement
# What the program knows to measure, as it prints without arguments.
MEASUREMENTS = (
    "clock",
    "block_barrier",
    *(f"cluster_{blocks}" for blocks in (8, 16, 4, 2, 12)),
    "tagged",
    "flags",
    "copies",
    "multiply_adds",
    "launches",
)


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """The program, built here unless it was carried, then its measurements."""
    if rehearses:  # the rows alone: there is nothing that could be measured
        program = [sys.executable, "-c", "import json, sys; print(json.dumps({sys.argv[1]: 1}))"]
        return [Case(name, partial(_measure, program, name)) for name in MEASUREMENTS]
    return [
        Case("build", _build),
        *(Case(name, partial(_measure, [str(PROGRAM)], name)) for name in MEASUREMENTS),
    ]


def _build() -> dict[str, Any]:
    """Unless it is there, and knows the same measurements."""
    if PROGRAM.exists() and sorted(_output_of([str(PROGRAM)]).split()) == sorted(MEASUREMENTS):
        return {"program": "carried"}
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.cuda.get_device_capability() < (9, 0):
        raise AbsentError("the program measures clusters, which GPUs have from compute capability 9.0 on")
    nvcc = shutil.which("nvcc") or str(Path(CUDA_HOME or "/usr/local/cuda") / "bin" / "nvcc")
    if not Path(nvcc).exists():
        raise AbsentError(f"neither {PROGRAM.relative_to(ROOT)} nor nvcc is on this machine")
    PROGRAM.parent.mkdir(exist_ok=True)
    command = [nvcc, "-std=c++17", "-O3", "-arch=native", f"-I{ROOT / 'csrc'}", str(SOURCE), "-o", str(PROGRAM)]
    subprocess.run(command, check=True, timeout=SECONDS)
    return {"program": "built"}


def _measure(program: list[str], name: str) -> dict[str, Any]:
    """What one measurement found."""
    if not Path(program[0]).exists():
        raise AbsentError(f"there is no {PROGRAM.relative_to(ROOT)}")
    return {"found": json.loads(_output_of([*program, name]))}


def _output_of(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr.strip() or f"exit status {result.returncode}")
    return result.stdout
