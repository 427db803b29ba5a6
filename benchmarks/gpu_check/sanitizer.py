"""compute-sanitizer over each family of kernels by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.journal import FAILED
from benchmarks.gpu_check.stages import ROOT, AbsentError, Case, Stage

FAMILIES = ("cluster", "streamed", "group", "stepwise", "one_step")
FOUND = 86  # exit status of compute-sanitizer where it found something; any that Python does not use
# Without torch's cache of memory, what is out of bounds of a tensor is out of bounds of an allocation.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
MOST_LETTERS = 300


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """One for each family."""
    rehearsal = ["--rehearse"] if rehearses else []
    return [Case(family, partial(_watch, stage.name, family, rehearsal)) for family in FAMILIES]


def _watch(tool: str, family: str, rehearsal: list[str]) -> dict[str, Any]:
    beside_nvcc = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "compute-sanitizer"
    program = shutil.which("compute-sanitizer") or (str(beside_nvcc) if beside_nvcc.exists() else None)
    if program is None:
        raise AbsentError("no compute-sanitizer on PATH or in CUDA_HOME/bin")
    options = ["--tool", tool, "--kernel-regex", "kns=gru_", "--error-exitcode", str(FOUND), "--print-limit", "10"]
    small = [sys.executable, "-m", "benchmarks.gpu_check.small_shapes", family, *rehearsal]
    result = subprocess.run(
        [program, *options, *small],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(result.stdout, flush=True)
    lines = [line.removeprefix("=========").strip() for line in result.stdout.splitlines()]
    summary = next((line for line in reversed(lines) if "SUMMARY" in line), "")
    if result.returncode == 0 and summary:
        return {"summary": summary}
    found = next(
        (line for line in lines if line.startswith(("Error", "Invalid", "Warning", "Program hit"))), lines[-1:]
    )
    why = f"exit status {result.returncode}: {summary} {found}"
    return {"outcome": FAILED, "error": why[:MOST_LETTERS]}
