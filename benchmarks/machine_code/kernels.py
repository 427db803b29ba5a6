"""Persistent kernels by the names that gru_ext gives them, compiled one at a time, and what a block of one sees."""

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

PARAMETERS = Path(__file__).with_name("parameters.cpp")
FAMILIES = ("cluster", "group", "streamed")
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
STREAMED_HIDDEN = 1024  # of a kernel that serves any H, unless another one is asked for


class UnknownKernelError(ValueError):
    """No kernel has that name."""


class Kernel(NamedTuple):
    """An instantiation, of a call of H units and so many members."""

    family: str
    dtype: str
    direction: str  # fwd, bwd
    numbers: tuple[int, ...]  # of the instantiation, as configs.h of its family has them
    hidden: int
    members: int = 1

    @property
    def name(self) -> str:
        """As gru_ext.explain prints it."""
        units, rows, *_ = self.numbers
        if self.family == "streamed":
            return f"streamed_U{units}_rows{rows}"
        ending = "_ieee" if self.dtype == "fp32" else ""
        return f"{self.family}_H{self.numbers[0]}_C{self.blocks}_rows{self.rows}{ending}"

    @property
    def rows(self) -> int:
        """Of a tile of the batch."""
        return self.numbers[1] if self.family == "streamed" else self.numbers[2]

    @property
    def blocks(self) -> int:
        """Of a cluster or group."""
        return -(-self.hidden // self.numbers[0]) if self.family == "streamed" else self.numbers[1]

    @property
    def warps(self) -> int:
        """Of a block."""
        return self.numbers[2] * self.numbers[3] if self.family == "streamed" else self.numbers[3]

    def declaration(self) -> str:
        """Of the instantiation, in C++: forward that of training; without masks."""
        types, tensor, _ = DTYPES[self.dtype]
        way, numbers = PASSES[self.direction], ", ".join(map(str, self.numbers))
        forward, ending = self.direction == "fwd", ""
        if self.family == "streamed":
            traits, ending = f"GruStreamed{way}Traits<{types}, {numbers}>", ", false"
        elif self.family == "group":
            traits = f"GruGroupBwdTraits<{types}, {numbers}>"
            if forward:
                traits, ending = f"GruClusterFwdTraits<{types}, {numbers}, Exchange::packets>", ", true"
        else:
            traits, ending = f"GruCluster{way}Traits<{types}, {numbers}>", ", true" if forward else ""
        name = f"gru_{self.family}_{self.direction}_kernel<{traits}{ending}>"
        return f"template __global__ void {name}(const Persistent{way}Params<{tensor}>);"


def _kernel(family: str, dtype: str, direction: str, numbers: tuple[int, ...]) -> Kernel:
    return Kernel(family, dtype, direction, numbers, STREAMED_HIDDEN if family == "streamed" else numbers[0])


def kernels(dtype: str, direction: str, families: tuple[str, ...] = FAMILIES) -> Iterator[Kernel]:
    """All that are compiled of a dtype and pass, but for those for layers with masks."""
    for family in families:
        if family == "streamed" and dtype == "fp32":
            continue
        configs = ROOT / "csrc/cuda/persistent" / family / "configs.h"
        name = f"GRU_{family.upper()}_{direction.upper()}_{DTYPES[dtype][2]}"
        found = re.search(rf"#define {name}\(X\)((?:.*\\\n)*.*)", configs.read_text())
        if found is None:
            raise ToolError(f"expected {name} in {configs}")
        for numbers in re.findall(r"X\(([\d, ]+)\)", found[1]):
            yield _kernel(family, dtype, direction, tuple(map(int, numbers.split(","))))


# As c++filt prints it, without namespaces. The last argument: forward whether it is that of training; of streamed
# kernels, whether it is for layers with masks.
INSTANTIATION = re.compile(
    r"gru_(cluster|group|streamed)_(fwd|bwd)_kernel<"
    r"\w+Traits<(\w+)((?:, \d+)+)(?:, \(Exchange\)\d)?>(?:, (true|false))? ?>"
)


def of_instantiation(name: str) -> Kernel | None:
    """The kernel of training, and of layers without masks, that ``name`` instantiates."""
    found = INSTANTIATION.fullmatch(name)
    if found is None:
        return None
    family, direction, types, words, last = found.groups()
    numbers = tuple(map(int, words.removeprefix(", ").split(", ")))
    if family == "streamed":
        units, _, _, *others = numbers  # rows of weights and gates follow from the pass
        numbers = (units, *others)
    if last == ("true" if family == "streamed" else "false"):
        return None
    (dtype,) = (dtype for dtype, (of_dtype, _, _) in DTYPES.items() if of_dtype == types)
    return _kernel(family, dtype, direction, numbers)


def named(name: str, dtype: str, direction: str, hidden: int | None = None, members: int = 1) -> Kernel:
    """The instantiation of that name; ``hidden``: of the call, where it is a streamed kernel's."""
    every = {kernel.name: kernel for kernel in kernels(dtype, direction)}
    if name not in every:
        raise UnknownKernelError(f"KERNEL: expected one of {', '.join(every)}, got {name}")
    kernel = every[name]
    if hidden is not None:
        if kernel.family != "streamed":
            raise UnknownKernelError(f"--hidden: expected it with a streamed kernel, got it with {name}")
        kernel = kernel._replace(hidden=hidden)
    return kernel._replace(members=members)


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
            f'#include "cuda/persistent/{kernel.family}/{kernel.family}_{kernel.direction}.cuh"\n'
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
    includes = [f"-I{ROOT / place}" for place in ("csrc", "tests/emulator")]
    _run([*compiler, "-std=c++17", *includes, PARAMETERS, "-o", Path(folder.name, "parameters")])
    return folder


def parameters(kernel: Kernel) -> bytes:
    """What a launch of a full tile of STEPS steps and some passes, as constant memory has it."""
    numbers = (STEPS + 4, kernel.rows, kernel.hidden, kernel.members)
    streamed = (DTYPES[kernel.dtype][2], *kernel.numbers) if kernel.family == "streamed" else ()
    program = Path(_parameters_program().name, "parameters")
    return _run([program, kernel.direction, *map(str, (*numbers, *streamed))])


def launch_of(kernel: Kernel, code: MachineCode, member: int) -> Launch:
    """That of the first block that works on a member; a full tile of one direction."""
    # A member is the second dimension of the grid, or a further tile in the first.
    is_second = any("SR_CTAID.Y" in instruction.operands for instruction in code.code)
    return Launch(
        threads=kernel.warps * LANES,
        blocks=kernel.blocks if kernel.family == "cluster" else 1,
        block=0 if is_second else member * kernel.blocks,
        block_y=member if is_second else 0,
        first_parameter=FIRST_PARAMETER[code.architecture.removeprefix("sm_")],
        parameters=parameters(kernel),
        # A flag is raised to one more than the step whose operand it tells of.
        polled=1 if kernel.family == "streamed" else 0,
    )


def steps_of(kernel: Kernel, code: MachineCode, member: int | None = None) -> list[list[list[Issued]]]:
    """What each warp of a block issues in each of STEPS interior steps; the block is the last member's by default."""
    launch = launch_of(kernel, code, kernel.members - 1 if member is None else member)
    return path.steps_of(code.code, launch, STEPS)
