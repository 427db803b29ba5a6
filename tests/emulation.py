"""Runs CUDA kernels on the CPU: builds tests/emulator, and calls it with tensors.

Needs a C++17 compiler, ``$CXX`` or ``c++``. The library is built once for its sources and flags.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from building import BUILD, compiled, make_all, shared_library
from process import ROOT
from torch import Tensor

SOURCES = ROOT / "tests" / "emulator"
INCLUDES = [ROOT / "csrc", SOURCES]
# GRU_EMULATOR_FLAGS adds to these: sanitizers, or the other way to switch fibers.
FLAGS = ["-std=c++17", "-O1", "-g1", "-fPIC", "-Wall", "-Wextra", "-Werror"]


class EmulationError(Exception):
    """What a kernel did that the machine does not allow, with kernel, block, warp, lane, step and source line."""


Library = Callable[[], ctypes.CDLL]


def emulator() -> ctypes.CDLL:
    """The emulator, built on first use."""
    library = _library_or_failure()
    if isinstance(library, subprocess.CalledProcessError):
        raise library
    return library


@dataclass(frozen=True)
class Schedule:
    """How a launch runs, and what runs it."""

    seed: int = 1  # of the order in which warps run and asynchronous stores arrive
    races: bool = True  # whether accesses to shared memory are checked for races, and for reads of what was not written
    time_out: bool = False  # whether waits that would last forever end in vain, instead of failing the launch
    lost_store: int = -1  # number of the asynchronous store that never arrives
    # The planted fault: of the emulator a name in faults.h; of tests/ptx an edit of the PTX, "EXPRESSION -> TEXT".
    fault: str = "none"
    library: Library = emulator


SOME_SCHEDULE = Schedule()


def build() -> Path:
    """Compile tests/emulator, unless that was done before; returns the library."""
    flags = [*FLAGS, *os.environ.get("GRU_EMULATOR_FLAGS", "").split()]
    units = sorted(SOURCES.glob("*.cpp"))
    compile_unit = functools.partial(compiled, flags=[*flags, "-c"], directories=INCLUDES)
    objects = make_all(functools.partial(compile_unit, unit) for unit in units)
    return shared_library(BUILD / "emulator", objects, flags)


@functools.cache
def _library_or_failure() -> ctypes.CDLL | subprocess.CalledProcessError:
    """The failure is kept too: to compile again would take as long, and fail again."""
    try:
        return open_library(build())
    except subprocess.CalledProcessError as failure:
        return failure


def open_library(path: Path) -> ctypes.CDLL:
    """A library with the interface of tests/emulator/runner.cpp."""
    library = ctypes.CDLL(str(path))
    library.gru_emulator_kernels.argtypes = []
    library.gru_emulator_kernels.restype = ctypes.c_char_p
    library.gru_emulator_number.argtypes = [ctypes.c_char_p, ctypes.c_int64]
    library.gru_emulator_number.restype = None
    library.gru_emulator_buffer.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    library.gru_emulator_buffer.restype = None
    library.gru_emulator_run.argtypes = [ctypes.c_char_p, ctypes.c_uint64, *[ctypes.c_int] * 3, ctypes.c_char_p]
    library.gru_emulator_run.restype = ctypes.c_char_p
    return library


def run(
    kernel: str,
    numbers: Mapping[str, int],
    inputs: Mapping[str, Tensor | None],
    outputs: Mapping[str, Tensor | None],
    schedule: Schedule = SOME_SCHEDULE,
) -> None:
    """Launch a kernel that the library of the schedule has.

    Args:
        kernel: its name, as in tests/emulator/run_*.cpp.
        numbers: its sizes, by the names that it asks for.
        inputs: its tensors, likewise; None for null. A kernel that writes to one of them, or touches anything else,
            fails. From the first element to the last must be one piece of memory that the tensor's storage holds.
        outputs: tensors that it may read and write.
        schedule: how it runs.

    Raises:
        EmulationError: if the kernel breaks a rule of the machine.
    """
    library = schedule.library()
    for name, value in numbers.items():
        library.gru_emulator_number(name.encode(), value)
    for tensors, writable in ((inputs, 0), (outputs, 1)):
        for name, tensor in tensors.items():
            if tensor is not None:
                extent = (
                    sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
                )
                nbytes = extent * tensor.element_size() if tensor.numel() else 0
                library.gru_emulator_buffer(name.encode(), tensor.data_ptr(), nbytes, writable)
    how = schedule.seed, schedule.races, schedule.time_out, schedule.lost_store, schedule.fault.encode()
    message = library.gru_emulator_run(kernel.encode(), *how)
    if message is not None:
        raise EmulationError(message.decode())
