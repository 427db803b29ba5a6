"""What nvcc makes of the CUDA kernels, run on the CPU: tests/ptx, linked with instantiations of csrc/cuda.

Needs an nvcc, of ``$CUDA_HOME`` where that is set, of the path, or of /usr/local/cuda; it compiles to PTX alone.
Objects and libraries are kept under build/ptx, by what they are made of. Where ``$GRU_COVERAGE`` is set, host code
counts for gcov what is executed: backend_coverage.py.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from building import compiled as compiled_from
from building import digest_of, make_all, make_once, shared_library, with_included
from emulation import open_library
from emulator_faults import fault_names
from persistent_kernels import Config, HeldConfig, StreamedConfig
from process import ROOT

sys.path.append(str(ROOT))  # of the checkout: the benchmarks are not installed

from benchmarks.machine_code.toolkit import find_nvcc

BUILD = ROOT / "build" / "ptx"
MACHINE = ROOT / "tests" / "ptx"
RUNNER = ROOT / "tests" / "emulator"
CSRC = ROOT / "csrc"
CXX_FLAGS = ["-std=c++17", "-O2", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
NVCC_FLAGS = ["-std=c++17", "-O3", "-lineinfo", "--no-compress", "-Xcompiler=-fPIC"]
ARCHITECTURE = 90
COVERAGE_FLAGS = ["--coverage"] if os.environ.get("GRU_COVERAGE") else []

Edit = Callable[[str, str], str]  # of a file of csrc, by its name, and its text
Maker = Callable[[], Path]  # of a file


def unchanged(name: str, text: str) -> str:
    """Every file as it is."""
    return text


FAULT_NUMBERS = 1000000  # from here on, in the PTX


def with_faults(name: str, text: str) -> str:
    """Every GRU_FAULT as a branch on a number of its own, by which an edit of the PTX finds it: ``plant``."""
    if name != "cuda/primitives.cuh":
        return text
    as_it_is = "#define GRU_FAULT(name, right, faulty) right\n"
    assert as_it_is in text
    branch = f"""
#define GRU_FAULT(name, right, faulty) (gru_ext::device::planted<gru_ext::device::Fault::name>() ? (faulty) : (right))
namespace gru_ext {{
namespace device {{
enum class Fault {{ {", ".join(fault_names())} }};
template <Fault kFault>
GRU_DEVICE bool planted() {{
  uint32_t number;
  asm volatile("mov.u32 %0, %1;" : "=r"(number) : "n"({FAULT_NUMBERS} + static_cast<int>(kFault)));
  return number == 1;
}}
}}  // namespace device
}}  // namespace gru_ext
"""
    return text.replace(as_it_is, branch)


def plant(fault: str) -> str:
    """The edit of PTX compiled ``with_faults`` that plants one of them."""
    return rf"mov\.u32 (%r\d+), {FAULT_NUMBERS + fault_names().index(fault)}; -> mov.u32 $1, 1;"


def missing() -> str:
    """Why nothing can be compiled here; empty where it can."""
    return "" if find_nvcc() else "no nvcc: not in $CUDA_HOME, nor on the path, nor in /usr/local/cuda"


@functools.cache
def include_directory() -> Path:
    """The CUDA headers that belong to nvcc, which may be a script that starts another."""
    nvcc = find_nvcc()
    assert nvcc is not None
    printed = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.*)$", printed, re.MULTILINE)
    home = Path(top[1]) if top else nvcc.resolve().parent.parent
    return next(path.parent for path in home.glob("**/cuda_runtime_api.h"))


# ---- Which instantiations a unit has

UNITS = {"bfloat16": "bf16", "float16": "fp16", "float": "tf32", "ieee": "fp32"}
UNITS_OF_STEPS = UNITS | {"float": "fp32", "double": "fp64"}
TABLES = {"bfloat16": "16BIT", "float16": "16BIT", "float": "TF32", "ieee": "IEEE"}
PERSISTENT_NAME = re.compile(
    r"gru_(cluster|group|streamed)_(fwd|bwd)_(bfloat16|float16|float|ieee)_(?:H(\d+)_C(\d+)|U(\d+))_rows(\d+)(_masked)?"
)


def unit_of(kernel: str) -> tuple[str, str, str]:
    """The file of instantiations that has a kernel; and its table, and the begin of its row there."""
    stepwise = re.fullmatch(r"gru_(step|one_step)_\w+_([a-z0-9]+)", kernel)
    if stepwise is not None:
        return f"{stepwise[1]}_{UNITS_OF_STEPS[stepwise[2]]}", "", ""
    found = PERSISTENT_NAME.fullmatch(kernel)
    assert found is not None, kernel
    family, way, dtype, *numbers, masked = found.groups()
    unit = "streamed" if family == "streamed" else f"{family}_{way}"
    table = f"GRU_{family}_{'masked_' if masked else ''}{way}_{TABLES[dtype]}".upper()
    return f"{unit}_{UNITS[dtype]}", table, ",".join(number for number in numbers if number)


def dtype_of(unit: str) -> str:
    """The last part of the name of a file of instantiations."""
    return unit.rpartition("_")[2]


def rows_of(kernels: Iterable[str]) -> Mapping[str, set[tuple[str, str]]]:
    """By unit, the rows that have the kernels, each with its table."""
    rows: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for kernel in kernels:
        unit, table, row = unit_of(kernel)
        rows[unit].add((table, row))
    return rows


def keep_rows(text: str, rows: set[tuple[str, str]]) -> str:
    """The tables of a configs.h with these rows alone."""

    def kept(table: re.Match[str]) -> str:
        entries = [
            f"X({entry})"
            for entry in re.findall(r"X\(([\d, ]+)\)", table[2])
            if any(table[1] == name and f"{re.sub(' ', '', entry)},".startswith(f"{row},") for name, row in rows)
        ]
        return f"#define {table[1]}(X) {' '.join(entries)}"

    return re.sub(r"#define (GRU_\w+)\(X\)((?:.*\\\n)*.*)", kept, text)


# ---- Building


def notes_of(made: Path) -> list[str]:
    """The flag that has gcov's notes on an object kept, which would otherwise be lost with the folder it is made in."""
    return [f"-fprofile-note={BUILD / made.with_suffix('.gcno').name}"] if COVERAGE_FLAGS else []


@functools.cache
def version_of(nvcc: Path) -> str:
    """What it says of itself."""
    return subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout


def one_source(sources: Iterable[Path]) -> str:
    """A source that includes those; each has macros of its own, which end with it."""
    lines = []
    for source in sources:
        macros = re.findall(r"^#define (\w+)", source.read_text(), re.MULTILINE)
        lines += [f'#include "{source.relative_to(CSRC)}"', *(f"#undef {macro}" for macro in macros)]
    return "".join(f"{line}\n" for line in lines)


def compile_units(units: Sequence[str], edit: Edit) -> Path:
    """The object of files of instantiations, compiled as one, from sources that were edited; PTX and host code."""
    nvcc = find_nvcc()
    assert nvcc is not None
    sources = [path for unit in units for path in (CSRC / "cuda").glob(f"**/instantiations/{unit}.cu")]
    assert len(sources) == len(units), units
    paths = {path for source in sources for path in with_included(source, [CSRC])}
    names = sorted(str(path.relative_to(CSRC)) for path in paths)
    texts = {name: edit(name, (CSRC / name).read_text()) for name in names}
    dtype = dtype_of(units[0])
    texts[f"{dtype}.cu"] = one_source(sources)
    flags = [*NVCC_FLAGS, *(f"-Xcompiler={flag}" for flag in COVERAGE_FLAGS)]
    flags += [f"-gencode=arch=compute_{ARCHITECTURE},code=compute_{ARCHITECTURE}"]
    command = os.environ.get("PYTORCH_NVCC", str(nvcc)).split()

    def make(path: Path) -> None:
        for name, text in texts.items():
            place = path.parent / "csrc" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        directory = path.parent / "csrc"
        notes = [f"-Xcompiler={flag}" for flag in notes_of(path)]
        subprocess.run(
            [*command, *flags, *notes, f"-I{directory}", "-c", directory / f"{dtype}.cu", "-o", path], check=True
        )

    return make_once(BUILD / f"{dtype}-{digest_of(version_of(nvcc), *flags, *texts.values())}.o", make)


def kernel_objects(units: Iterable[str], rows: Mapping[str, set[tuple[str, str]]], edit: Edit) -> list[Maker]:
    """What makes the objects of some files of instantiations, of each the rows of its tables that are named.

    Those of a dtype are compiled as one, so that headers are read once: they have no table in common.
    """
    of_dtypes: dict[str, list[str]] = defaultdict(list)
    for unit in sorted(units):
        of_dtypes[dtype_of(unit)].append(unit)

    def edited(units: Sequence[str], name: str, text: str) -> str:
        kept = set().union(*(rows.get(unit, ()) for unit in units))
        text = edit(name, text)
        return keep_rows(text, kept) if name.endswith("configs.h") else text

    return [functools.partial(compile_units, units, functools.partial(edited, units)) for units in of_dtypes.values()]


def compile_machine(source: Path) -> Path:
    """An object of the interpreter or the runner."""
    return compiled_from(source, flags=[*CXX_FLAGS, "-c"], directories=[RUNNER, CSRC], of_others=[include_directory()])


def link(objects: Iterable[Maker]) -> Path:
    """A library of the interpreter, the runner and objects that are still to be made."""
    sources = [*sorted(MACHINE.glob("*.cpp")), RUNNER / "runner.cpp"]
    paths = make_all([*objects, *(functools.partial(compile_machine, source) for source in sources)])
    # Its own stand-in for CUDA's runtime, also where torch has loaded that.
    return shared_library(BUILD / "kernels", paths, [*COVERAGE_FLAGS, "-Wl,-Bsymbolic"])


@functools.cache
def compiled(kernels: tuple[str, ...], edit: Edit = unchanged) -> ctypes.CDLL:
    """The library of some kernels, by the names of ``Config.kernel``."""
    rows = rows_of(kernels)
    return open_library(link(kernel_objects(rows, rows, edit)))


def linked(objects: Sequence[Path]) -> ctypes.CDLL:
    """The library of the kernels of objects that were compiled elsewhere."""
    return open_library(link(functools.partial(Path, path) for path in objects))


def kernels_of(library: ctypes.CDLL) -> list[str]:
    """The names of all kernels that a library runs."""
    names: bytes = library.gru_emulator_kernels()
    return names.decode().splitlines()


# ---- A few kernels, chosen by what they branch on

ALONE = HeldConfig(torch.bfloat16, 64, 1, 8)  # one block
CLUSTER = HeldConfig(torch.bfloat16, 128, 2, 32)  # several passes, two warps to a group
GROUP = HeldConfig(torch.bfloat16, 512, 8, 8, group=True)  # packets, and weights in shared memory
STREAMED = StreamedConfig(torch.float32, 32, 32, shared_slabs=0)  # flags, several passes, weights that are streamed
PARTS = StreamedConfig(torch.bfloat16, 16, 16)  # three warps to a slice
MASKED = StreamedConfig(torch.bfloat16, 32, 16, masked=True)
TF32 = HeldConfig(torch.float32, 128, 2, 8)
IEEE = HeldConfig(torch.float32, 64, 1, 8, ieee=True)  # one warp to a group
FLOAT16 = HeldConfig(torch.float16, 256, 4, 16)
SAMPLE: list[Config] = [ALONE, CLUSTER, FLOAT16, GROUP, STREAMED, MASKED, PARTS, TF32, IEEE]
STEPWISE = ("gru_step_fwd_float16", "gru_one_step_fwd_bfloat16")


def both_ways(configs: Iterable[Config]) -> tuple[str, ...]:
    """The names of the forward and the backward kernel of each."""
    return tuple(config.kernel(way) for config in configs for way in ("fwd", "bwd"))


SAMPLE_LIBRARY = functools.partial(compiled, (*both_ways(SAMPLE), *STEPWISE))
STREAMING = 390  # an H of which STREAMED has neither registers nor shared memory for all weights
