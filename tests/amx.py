"""The tiles of Intel AMX: those of this machine, or of amx_emulator.cpp in a process on a machine without them."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
from pathlib import Path

import pytest
from building import compiled, cpp_extension
from process import ROOT, TESTS

from gru_ext import library

PORTABLE = "avx512_amx_portable"
FEATURES = Path("/proc/cpuinfo").read_text().split()


def _linux_allows() -> bool:
    """Ask Linux for tiles: without, each instruction is a SIGILL.

    Not the library, which asks at its first answer, before a test can put another in its place.
    """
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


OF_MACHINE = {"amx_bf16", "amx_int8", "amx_tile"} <= set(FEATURES)
HAS_TILES = OF_MACHINE and _linux_allows()
REFUSED = "Linux refuses this process the tiles of the machine" if OF_MACHINE and not HAS_TILES else ""
with_bf16 = pytest.mark.skipif(
    "avx512_bf16" not in FEATURES or bool(REFUSED), reason=REFUSED or "this machine has no AVX-512 with BF16"
)


def build() -> Path:
    """Compile the emulator, unless that was done before."""
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-psabi", "-mfma", "-fPIC", "-shared"]
    of_torch = cpp_extension().include_paths()
    return compiled(TESTS / "amx_emulator.cpp", flags=flags, directories=[ROOT / "csrc"], of_others=of_torch)


def load(path: Path, *, wrong: bool = False) -> ctypes.CDLL:
    """The emulator in this process; its instructions are emulated unless the machine has them."""
    emulator = ctypes.CDLL(str(path))
    for name in ("products_of_tiles", "threads_that_hold_tiles", "differences", "wrong_products"):
        getattr(emulator, name).restype = ctypes.c_long
    if not HAS_TILES:
        emulator.emulate_tiles()
    if wrong:
        emulator.multiply_wrongly()
    return emulator


def answer(number: int) -> None:
    """What the library in this process hears where it asks for tiles: 0 for yes, -1 for none, an errno of Linux.

    Writes ``mov eax, number; ret`` over its function.
    """
    symbols = subprocess.run(["nm", "-C", library.path], capture_output=True, text=True, check=True).stdout
    (place,) = [line.split()[0] for line in symbols.splitlines() if line.endswith("::ask_for_tiles()")]
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    base = min(int(words[0].split("-")[0], 16) for words in maps if words[-1] == str(library.path))
    address = base + int(place, 16)
    pages = address // mmap.PAGESIZE * mmap.PAGESIZE
    allowed = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(pages), ctypes.c_size_t(2 * mmap.PAGESIZE), allowed) == 0
    code = b"\xb8" + number.to_bytes(4, "little", signed=True) + b"\xc3"
    ctypes.memmove(address, code, len(code))
