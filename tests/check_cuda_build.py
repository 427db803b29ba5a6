"""Build with CUDA where there is no GPU, and hold what the kernels need against tests/cuda_resources.json.

``make cuda-check`` runs it in an environment of its own, with a CUDA torch. It compiles the whole extension for the
default architectures, imports it, checks that the CUDA operators are registered and what ``gru_ext.info`` says, and
prints registers and static shared memory of every kernel. It fails if nvcc warns, or a kernel spills, has a stack frame
or a serial load (benchmarks/machine_code; SERIAL names what stays), or needs more than the committed table says; or if
the step of a persistent kernel is predicted to take more than SLOWER times what the table says. Then it runs every
kernel of sm_90, and some of other architectures, on the CPU. ``make cuda-check ARGS=--write`` writes the table anew,
and those of docs/kernels.md. With ``--host-only``, in an environment of another torch, it compiles the host side and
the CPU kernels for any processor, links them with the CUDA kernels that the first check has compiled, and imports that:
no CUDA kernel knows of torch (take_objects.py).

What the table says belongs to a release of nvcc: under another one it is not compared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import kernel_tables
import torch
from process import ROOT

sys.path.append(str(ROOT))  # of the checkout: the benchmarks are not installed

from benchmarks.machine_code.kernels import of_instantiation
from benchmarks.machine_code.lanes import PathError
from benchmarks.machine_code.listing import MachineCode, read
from benchmarks.machine_code.prediction import predict
from benchmarks.machine_code.serial_loads import serial_loads
from benchmarks.machine_code.toolkit import ToolError, cuobjdump, find_nvcc

TABLE = ROOT / "tests" / "cuda_resources.json"
BUILD = ROOT / "build" / "cuda-check"
OTHER_BUILD = ROOT / "build" / f"cuda-check-{torch.__version__}"  # of the host side alone
# Readable PTX of every architecture in the objects, for check_compiled_kernels.py: nvcc has it in any case.
KEEP_PTX = "--no-compress -gencode=arch=compute_80,code=compute_80 -gencode=arch=compute_90,code=compute_90"


PREDICTED = "sm_90"  # which the model's latencies are of
SLOWER = 1.05


# What is said of serial loads that are no defect.
SERIAL = (
    # Masks take the registers in which their bytes would wait; all bytes of a pair are under way.
    r"gru_streamed_(fwd|bwd)_kernel<.*, true> has a serial load on sm_1\d0: LDG\.E\.U8 ",
    # The place of a packed batch's step goes into a uniform register at once; then it waits for other blocks anyway.
    r"gru_streamed_bwd_kernel<.* has a serial load on sm_1\d0: LDG\.E\.64 .* R2UR",
    # The same, before a barrier of the block.
    r"gru_cluster_bwd_kernel<.* has a serial load on sm_\d+: LDG\.E\.64 .* R2UR",
    # Their registers are all in use, so that W x is loaded in the pass that needs it; two of the three loads or all are
    # under way.
    r"gru_streamed_fwd_kernel<StreamedTraits<b?float16, 32, 96, 1, 64, .* has a serial load on sm_[89]0: LDG\.E ",
    # Doubles of a row: all three loads are under way.
    r"gru_step_norm_bwd_kernel<double> has a serial load on sm_75: LDG\.E\.64",
)

IMPORT = """
import json, torch
import gru_ext
from gru_ext.info import info
has = torch._C._dispatch_has_kernel_for_dispatch_key
print(json.dumps({
    "file": gru_ext.__file__,
    "registered": {op: has(f"gru_ext::{op}", "CUDA") for op in ("gru_fwd", "gru_bwd")},
    "cluster": torch.ops.gru_ext.use_cuda_kernels("group_H2048_C128_rows8", "streamed_U32_rows16"),
    "has_cuda_kernels": gru_ext.library.has_cuda_kernels,
    "info": info()["cuda kernels"],
}))
"""


class Resources(NamedTuple):
    """What ptxas gives a kernel."""

    registers: int  # of a thread
    shared: int  # static, bytes of a block
    spilled: int = 0  # bytes stored and loaded, of a thread
    stack: int = 0  # bytes, of a thread
    serial: tuple[str, ...] = ()  # the serial loads, each in words
    cycles: tuple[int, ...] = ()  # of a step, predicted: loads from the L2 cache, and from memory


Table = dict[str, dict[str, Resources]]  # by kernel, then architecture


def fail(sentence: str) -> NoReturn:
    """End with a sentence."""
    sys.exit(f"\ncuda-check: {sentence}")


def build(folder: Path, with_kernels: bool) -> str:
    """Build the package for all architectures and return what the compilers printed.

    Unless ``with_kernels``, with those of BUILD.
    """
    environment = {**os.environ, "GRU_EXT_CUDA": "1"}
    environment.pop("TORCH_CUDA_ARCH_LIST", None)
    if with_kernels:
        flags = f"-Werror=all-warnings -Xptxas=-v {KEEP_PTX}"
        environment |= {"NVCC_APPEND_FLAGS": flags, "GRU_EXT_LINEINFO": "1"}
    else:
        objects = next(BUILD.glob("temp*"), None)
        if objects is None:
            fail(f"no kernels in {BUILD.relative_to(ROOT)}: --host-only comes after a check that has compiled them")
        environment["GRU_EXT_BUILD_ISAS"] = "portable"  # every instruction set uses the same two types of torch
        environment["PYTORCH_NVCC"] = f"{sys.executable} {ROOT / 'tests' / 'take_objects.py'} {objects}"
    shutil.rmtree(folder, ignore_errors=True)  # the compilers say nothing of what was compiled before
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "setup.py", "build", "--build-base", str(folder), "--force"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        print(result.stdout)
        fail("the build failed")
    print(f"built in {time.monotonic() - start:.0f} s on {len(os.sched_getaffinity(0))} cores")
    return result.stdout


def check_import(folder: Path) -> None:
    """Import what was built, from where it was built."""
    (library,) = folder.glob("lib*")
    result = subprocess.run([sys.executable, "-c", IMPORT], cwd=library, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        fail("what was built cannot be imported")
    facts = json.loads(result.stdout.splitlines()[-1])
    size = (library / "gru_ext" / "libgru_ext.so").stat().st_size
    print(f"imports with torch {torch.__version__}, {size / 1e6:.1f} MB; CUDA kernels: {facts['info']}")
    if Path(facts["file"]).parent.parent != library:
        fail(f"imported {facts['file']}, expected what was built in {library}")
    for op, registered in facts["registered"].items():
        if not registered:
            fail(f"gru_ext::{op} has no kernel for CUDA")
    if not facts["has_cuda_kernels"] or "nvcc" not in facts["info"]:
        fail(f"gru_ext.info does not tell of CUDA kernels: {facts['info']}")


def check_constants() -> None:
    """Compile the measurement of the time model's constants, which needs clusters."""
    source, made = ROOT / "benchmarks" / "gpu_constants.cu", BUILD / "gpu_constants.cubin"
    flags = ["-std=c++17", "-O3", "-arch=sm_90", "-Werror=all-warnings", f"-I{ROOT / 'csrc'}"]
    if subprocess.run([str(find_nvcc()), *flags, "-cubin", source, "-o", made]).returncode != 0:
        fail(f"{source.name} does not compile")


def check_execution() -> None:
    """Run every kernel on the CPU, from the PTX in the objects, by the library that was built with them."""
    (library,) = BUILD.glob("lib*")
    objects = sorted(BUILD.glob("temp*/csrc/cuda/**/instantiations/*.o"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(library), str(ROOT / "tests")])}
    check = [sys.executable, str(ROOT / "tests" / "check_compiled_kernels.py"), *map(str, objects)]
    # All of them are in sm_90. The other PTX is of the same source, but for clusters, so that some show as much.
    for architecture, every in (("90", "1"), ("80", "8"), ("120", "8")):
        command = [*check, "--architecture", architecture, "--every", every]
        if subprocess.run(command, env=environment).returncode != 0:
            fail(f"not every compiled kernel of sm_{architecture} computes what it should")


def short_name(demangled: str) -> str:
    """``void gru_ext::kernel<float>(gru_ext::Parameters)`` to ``kernel<float>``."""
    name = demangled.removeprefix("void ")
    depth = 0
    for place, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            name = name[:place]
            break
    return re.sub(r"\b(gru_ext|device)::", "", name)


def demangled(names: list[str]) -> list[str]:
    """Short names of the kernels."""
    output = subprocess.run(["c++filt"], input="\n".join(names), stdout=subprocess.PIPE, text=True, check=True).stdout
    return [short_name(name) for name in output.splitlines()]


def parse(output: str) -> Table:
    """The tables of ``ptxas -v`` in the output of a build."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>sm_\w+)'"
        r"(?:(?!Compiling entry).)*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
        r"(?:(?!Compiling entry).)*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    found = list(pattern.finditer(output))
    if len(found) != output.count("Compiling entry function"):
        fail(f"read {len(found)} of {output.count('Compiling entry function')} kernels in the output of ptxas")
    table: Table = {}
    for match, name in zip(found, demangled([match["name"] for match in found]), strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        table.setdefault(name, {})[match["arch"]] = Resources(
            registers=int(match["registers"]),
            shared=int(shared[1]) if shared else 0,
            spilled=int(match["stores"]) + int(match["loads"]),
            stack=int(match["stack"]),
        )
    return dict(sorted(table.items()))


def show(table: Table) -> None:
    """Print registers and shared bytes of each kernel and architecture."""
    architectures = sorted({arch for by_arch in table.values() for arch in by_arch}, key=lambda arch: int(arch[3:]))
    width = max(map(len, table))
    print(f"\n{'registers/static shared bytes':{width}}", *(f"{arch:>12}" for arch in architectures))
    for name, by_arch in table.items():
        cells = ["{}/{}".format(*by_arch[arch]) if arch in by_arch else "-" for arch in architectures]
        print(f"{name:{width}}", *(f"{cell:>12}" for cell in cells))


def defects(table: Table) -> list[str]:
    """Sentences about what no kernel may have: registers of a thread in memory, and serial loads."""
    faults = []
    for name, by_arch in table.items():
        for arch, resources in by_arch.items():
            if resources.spilled:
                faults.append(f"{name} spills {resources.spilled} bytes on {arch}")
            if resources.stack:
                faults.append(f"{name} has a stack frame of {resources.stack} bytes on {arch}")
            loads = [f"{name} has a serial load on {arch}: {load}" for load in resources.serial]
            faults += [load for load in loads if not any(re.match(stays, load) for stays in SERIAL)]
    return faults


class Read(NamedTuple):
    """What the machine code of a kernel shows."""

    serial: tuple[str, ...]
    cycles: tuple[int, ...]


def read_kernel(kernel: MachineCode) -> Read:
    """Its serial loads; and the cycles of a step, of a persistent kernel whose path the model can follow."""
    serial = tuple(serial_loads(kernel.code))
    known = of_instantiation(demangled([kernel.kernel])[0]) if kernel.architecture == PREDICTED else None
    if known is None:
        return Read(serial, ())
    try:
        found = predict(known, kernel)
    except PathError as error:
        print(f"{known.name} {known.dtype} {known.direction} is not predicted: {error}", flush=True)
        return Read(serial, ())
    return Read(serial, (round(found.from_l2), round(found.from_memory)))


def read_object(program: str, path: Path) -> dict[tuple[str, str], Read]:
    """Of each kernel of an object file, by mangled name and architecture."""
    with subprocess.Popen([program, "-sass", str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = {(kernel.kernel, kernel.architecture): read_kernel(kernel) for kernel in read(process.stdout)}
    if process.returncode != 0:
        fail(f"cuobjdump cannot read {path}")
    return found


def with_machine_code(table: Table, objects: list[Path]) -> Table:
    """The table with what the machine code of each kernel shows, which is in object files."""
    found: dict[tuple[str, str], Read] = {}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for of_file in pool.map(partial(read_object, str(cuobjdump())), objects):
            found |= of_file
    names = demangled([kernel for kernel, _ in found])
    shown = {(name, arch): of_kernel for name, ((_, arch), of_kernel) in zip(names, found.items(), strict=True)}
    return {
        name: {arch: r._replace(**shown[name, arch]._asdict()) for arch, r in by_arch.items()}
        for name, by_arch in table.items()
    }


def entry(resources: Resources) -> dict[str, object]:
    """Of the committed table."""
    needed = {"registers": resources.registers, "shared": resources.shared}
    return needed | ({"cycles": resources.cycles} if resources.cycles else {})


def of_entry(registers: int, shared: int, cycles: Sequence[int] = ()) -> Resources:
    """As ``entry`` wrote it."""
    return Resources(registers, shared, cycles=tuple(cycles))


def compare(table: Table, committed: Table, same_nvcc: bool) -> list[str]:
    """Sentences about what the committed table does not allow."""
    faults = []
    for name in sorted(table.keys() | committed.keys()):
        if name not in committed:
            faults.append(f"{name} is not in the table")
        elif name not in table:
            faults.append(f"{name} is in the table but was not built")
        else:
            for arch, now in table[name].items():
                then = committed[name].get(arch)
                if then is None:
                    faults.append(f"{name} is not in the table for {arch}")
                    continue
                if same_nvcc and now.registers > then.registers:
                    faults.append(f"{name} needs {now.registers} registers on {arch}, {then.registers} in the table")
                if same_nvcc and now.shared > then.shared:
                    faults.append(f"{name} needs {now.shared} shared bytes on {arch}, {then.shared} in the table")
                if len(now.cycles) != len(then.cycles):
                    faults.append(
                        f"{name} has {len(now.cycles)} predictions on {arch}, {len(then.cycles)} in the table"
                    )
                elif same_nvcc and any(n > SLOWER * t for n, t in zip(now.cycles, then.cycles, strict=True)):
                    cycles = f"{now.cycles} cycles on {arch}, {then.cycles} in the table"
                    faults.append(f"a step of {name} is predicted to take {cycles}")
    return faults


def nvcc_release(output: str) -> str:
    """The release that setup.py says it uses."""
    found = re.search(r"gru_ext: CUDA kernels: nvcc (\S+)", output)
    if found is None:
        fail("setup.py did not say which nvcc it uses")
    return found[1]


def main() -> None:
    """Build, import, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(ROOT)}")
    parser.add_argument("--host-only", action="store_true", help="build with the kernels that are there, and import")
    arguments = parser.parse_args()
    if arguments.host_only:
        build(OTHER_BUILD, with_kernels=False)
        check_import(OTHER_BUILD)
        return
    try:
        cuobjdump()
    except ToolError as error:  # before the minutes of the build
        fail(str(error))
    output = build(BUILD, with_kernels=True)
    check_import(BUILD)
    check_constants()
    table, release = parse(output), nvcc_release(output)
    table = with_machine_code(table, sorted(BUILD.glob("temp*/csrc/cuda/**/instantiations/*.o")))
    show(table)
    faults = defects(table)
    if faults:
        fail("; ".join(faults))
    if arguments.write:
        kernels = {
            name: {arch: entry(resources) for arch, resources in by_arch.items()} for name, by_arch in table.items()
        }
        rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(by_arch)}" for name, by_arch in kernels.items())
        TABLE.write_text(f'{{"nvcc": {json.dumps(release)}, "kernels": {{\n{rows}\n}}}}\n')
        print(f"\nwrote {TABLE.relative_to(ROOT)}")
        kernel_tables.write()
        return
    stored = json.loads(TABLE.read_text())
    committed = {
        name: {arch: of_entry(**r) for arch, r in by_arch.items()} for name, by_arch in stored["kernels"].items()
    }
    if stored["nvcc"] != release:
        print(f"\nthe table is of nvcc {stored['nvcc']}, this is {release}: not compared")
    faults = compare(table, committed, stored["nvcc"] == release)
    if faults:
        fail("; ".join(faults) + "; if that is meant, run: make cuda-check ARGS=--write")
    print("\nno kernel spills, has a stack frame or a serial load, needs more or is slower than the table allows")
    check_execution()


if __name__ == "__main__":
    main()
