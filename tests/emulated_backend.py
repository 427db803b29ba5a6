"""The CUDA backend on CPU tensors: its host side as it is, its kernels in the emulator. Built on first use."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from building import load_operators, united
from process import ROOT

EMULATOR = ROOT / "tests" / "emulator"
CSRC = ROOT / "csrc"


@cache
def emulated_operators() -> Any:
    """``gru_fwd`` and ``gru_bwd``, as in ``torch.ops.gru_ext``; see emulator/backend/operators.cpp."""
    directory = ROOT / "build" / f"emulated_cuda_{torch.__version__}"
    emulator = [EMULATOR / f"{name}.cpp" for name in ("emulator", "fiber", "arithmetic", "race")]
    backend = sorted((EMULATOR / "backend").glob("*.cpp"))
    host = [
        *(CSRC / "op" / f"{name}.cpp" for name in ("check", "recompute")),
        *(path for path in sorted((CSRC / "cuda").rglob("*.cpp")) if path.stem != "op_cuda"),
    ]
    # Before torch's own: backend/ has stand-ins for two headers of c10/cuda.
    includes = [EMULATOR / "backend", EMULATOR, CSRC]
    load_operators(
        "gru_ext_emulated",
        directory,
        [*backend, *emulator, united(directory / "host_side.cpp", host, CSRC)],
        extra_include_paths=[str(path) for path in includes],
        extra_cflags=[
            "-O2",
            "-DGRU_EXT_CHUNK_BYTES=1024",
            "-DGRU_EXT_WINDOW_BYTES=8192",
            "-DGRU_EXT_SELF_TEST_UNITS=160",
            "-DGRU_EXT_CUDA_BUILD='\"emulator\"'",
            "-DGRU_EXT_VERSION='\"0\"'",
            "-DGRU_EXT_TORCH_VERSION='\"any\"'",
        ],
    )
    return torch.ops.gru_ext_emulated
