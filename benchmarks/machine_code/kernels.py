"""Cluster-persistent kernels by the names that gru_ext gives them, compiled one at a time."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine_code import path
from benchmarks.machine_code.lanes import LANES, Launch
from benchmarks.machine_code.listing import MachineCode, read
from benchmarks.machine_code.path import Issued
from benchmarks.machine_code.toolkit import ROOT, ToolError, cuobjdump, find_nvcc, missing

CONFIGS = ROOT / "csrc/cuda/persistent/cluster/configs.h"
PARAMETERS = Path(__file__).with_name("parameters.cpp")
# By what a user calls it: the name of the types in C++, that of tensors, and the lists of instantiations.
DTYPES = {
    "bf16": ("bfloat16", "bfloat16", "16BIT"),
    "fp16": ("float16", "float16", "16BIT"),
    "tf32": ("float", "float", "TF32"),
    "fp32": ("ieee", "float", "IEEE"),
}
PASSES = {"fwd": "Fwd", "bwd": "Bwd"}
# Where the parameters of a kernel begin in constant bank 0, by architecture.
FIRST_PARAMETER = {"90": 0x210}
STEPS = 4  # that are looked at; their parity changes the buffers


class UnknownKernelError(ValueError):
    """No kernel has that name."""


class Kernel(NamedTuple):
    """An instantiation."""

    dtype: str
    direction: str  # fwd, bwd
    hidden: int  # the largest H
    blocks: int  # of a cluster
    rows: int  # of a tile of the batch
    warps: int
    tiles: int  # of R, of a warp in registers

    @property
    def name(self) -> str:
        """As gru_ext.explain prints it."""
        return f"cluster_H{self.hidden}_C{self.blocks}_rows{self.rows}"

    def declaration(self) -> str:
        """Of the instantiation, in C++; forward that of training."""
        types, tensor, _ = DTYPES[self.dtype]
        way, numbers = PASSES[self.direction], ", ".join(map(str, self[2:]))
        traits = f"GruCluster{way}Traits<{types}, {numbers}>"
        arguments = f"{traits}, true" if self.direction == "fwd" else traits
        name = f"gru_cluster_{self.direction}_kernel<{arguments}>"
        return f"template __global__ void {name}(const Persistent{way}Params<{tensor}>);"


def kernels(dtype: str, direction: str) -> Iterator[Kernel]:
    """All that are compiled of a dtype and pass."""
    text = CONFIGS.read_text()
    name = f"GRU_CLUSTER_{direction.upper()}_{DTYPES[dtype][2]}"
    found = re.search(rf"#define {name}\(X\)((?:.*\\\n)*.*)", text)
    if found is None:
        raise ToolError(f"expected {name} in {CONFIGS}")
    for numbers in re.findall(r"X\(([\d, ]+)\)", found[1]):
        yield Kernel(dtype, direction, *map(int, numbers.split(",")))


# As c++filt prints it, without namespaces; forward that of training.
INSTANTIATION = re.compile(r"gru_cluster_(fwd|bwd)_kernel<GruCluster\wwdTraits<(\w+)((?:, \d+){5})[^>]*>(, true)? ?>")


def of_instantiation(name: str) -> Kernel | None:
    """The cluster kernel of training that ``name`` instantiates."""
    found = INSTANTIATION.fullmatch(name)
    if found is None or (found[1] == "fwd") != bool(found[4]):
        return None
    (dtype,) = (dtype for dtype, (types, _, _) in DTYPES.items() if types == found[2])
    return Kernel(dtype, found[1], *map(int, found[3].removeprefix(", ").split(", ")))


def named(name: str, dtype: str, direction: str) -> Kernel:
    """The instantiation of that name."""
    every = {kernel.name: kernel for kernel in kernels(dtype, direction)}
    if name not in every:
        raise UnknownKernelError(f"KERNEL: expected one of {', '.join(every)}, got {name}")
    return every[name]


def _run(command: list[str | Path]) -> bytes:
    done = subprocess.run(command, capture_output=True)
    if done.returncode != 0:
        raise ToolError(f"{command[0]} failed:\n{done.stderr.decode()}")
    return done.stdout


def compiled(kernel: Kernel, architecture: str) -> MachineCode:
    """Its machine code for an architecture, as in 90."""
    if why := missing():
        raise ToolError(why)
    nvcc = os.environ.get("PYTORCH_NVCC", str(find_nvcc())).split()  # with ccache, where torch's builds have it
    with tempfile.TemporaryDirectory() as name:
        source, made = Path(name, "kernel.cu"), Path(name, "kernel.cubin")
        source.write_text(
            f'#include "cuda/persistent/cluster/cluster_{kernel.direction}.cuh"\n'
            f"namespace gru_ext {{\nnamespace device {{\n{kernel.declaration()}\n}}\n}}\n"
        )
        options = ["-std=c++17", "-O3", f"-arch=sm_{architecture}", f"-I{ROOT / 'csrc'}", "-cubin"]
        _run([*nvcc, *options, source, "-o", made])
        (code,) = read(_run([cuobjdump(), "-sass", made]).decode().splitlines())
    return code


@cache
def _parameters_program() -> tempfile.TemporaryDirectory[str]:
    """The folder of the program, as long as this process lives."""
    folder = tempfile.TemporaryDirectory()
    compiler = os.environ.get("CXX", "c++").split()
    _run([*compiler, "-std=c++17", f"-I{ROOT / 'csrc'}", PARAMETERS, "-o", Path(folder.name, "parameters")])
    return folder


def parameters(kernel: Kernel) -> bytes:
    """What a launch of a full tile of STEPS steps and some passes, as constant memory has it."""
    numbers = (STEPS + 4, kernel.rows, kernel.hidden)
    return _run([Path(_parameters_program().name, "parameters"), kernel.direction, *map(str, numbers)])


def steps_of(kernel: Kernel, code: MachineCode) -> list[list[list[Issued]]]:
    """What each warp of a block issues in each of STEPS interior steps."""
    architecture = code.architecture.removeprefix("sm_")
    launch = Launch(
        threads=kernel.warps * LANES,
        blocks=kernel.blocks,
        block=0,
        block_y=0,
        first_parameter=FIRST_PARAMETER[architecture],
        parameters=parameters(kernel),
    )
    return path.steps_of(code.code, launch, STEPS)
