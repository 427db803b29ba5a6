"""What the CUDA backend is compiled from for a CPU.

emulated_backend.py has it whole, with its kernels in the emulator; mutations/ likewise, with a fault.
compiled_backend.py has what nvcc makes of the kernels.
"""

from __future__ import annotations

from process import ROOT, TESTS

_CSRC, _EMULATOR = ROOT / "csrc", TESTS / "emulator"

# Its kernels, in the emulator.
OWN = [
    *sorted((_EMULATOR / "backend").glob("*.cpp")),
    *(_EMULATOR / f"{name}.cpp" for name in ("emulator", "fiber", "arithmetic", "race")),
]
# The backend's host side as it is.
HOST_SIDE = [
    *(_CSRC / "op" / f"{name}.cpp" for name in ("check", "recompute")),
    *(path for path in sorted((_CSRC / "cuda").rglob("*.cpp")) if path.stem != "op_cuda"),
]
# Before others: backend/ has stand-ins for headers of c10/cuda, and for the launches of the persistent kernels.
INCLUDES = [_EMULATOR / "backend", _EMULATOR, _CSRC]
# Sizes so small that small problems have several chunks, windows and blocks.
MACROS = {
    "GRU_EXT_CHUNK_BYTES": "1024",
    "GRU_EXT_WINDOW_BYTES": "8192",
    "GRU_EXT_SELF_TEST_UNITS": "160",
    "GRU_EXT_CUDA_BUILD": '"emulator"',
    "GRU_EXT_VERSION": '"0"',
    "GRU_EXT_TORCH_VERSION": '"any"',
}
