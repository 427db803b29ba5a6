"""The tables of instantiations in docs/kernels.md: ``python tests/kernel_tables.py`` writes them anew.

Registers are those of tests/cuda_resources.json, which ``make cuda-check ARGS=--write`` measures and which then calls
this; the rest is what the source says, printed by a program that is compiled here. Needs a C++17 compiler, ``$CXX`` or
``c++``.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
RESOURCES = ROOT / "tests" / "cuda_resources.json"
PAGE = ROOT / "docs" / "kernels.md"
BEGIN, END = "<!-- instantiations -->\n", "<!-- end -->\n"
OPERANDS = {"bfloat16": "16-bit", "float": "TF32", "ieee": "IEEE"}
FAMILIES = {
    ("fwd", "cluster"): "Forward:",
    ("fwd", "group"): "Groups, forward:",
    ("bwd", "cluster"): "Backward:",
    ("bwd", "group"): "Groups, backward:",
}

Registers = dict[str, dict[str, dict[str, int]]]  # of tests/cuda_resources.json: by kernel, architecture, resource


class Instantiation(NamedTuple):
    """A line of tests/kernel_tables.cpp."""

    direction: str  # fwd, bwd
    family: str  # cluster, group
    operand: str
    hidden: int  # the largest H
    blocks: int  # of a cluster
    rows: int  # of a tile of the batch
    warps: int
    tiles: int  # of R, of a warp in registers
    shared: int  # bytes
    overflow: int  # of them weights
    step: float  # us, by the time model

    def kernels(self) -> list[str]:
        """Their names: forward of training and of inference."""
        numbers = ", ".join(map(str, (self.operand, *self[3:8])))
        if self.direction == "bwd":
            traits = "GruClusterBwdTraits" if self.family == "cluster" else "GruGroupBwdTraits"
            return [f"gru_{self.family}_bwd_kernel<{traits}<{numbers}> >"]
        exchange = 2 if self.family == "group" else int(self.blocks > 1)
        traits = f"GruClusterFwdTraits<{numbers}, (Exchange){exchange}>"
        return [f"gru_{self.family}_fwd_kernel<{traits}, {saves}>" for saves in ("true", "false")]


class Streamed(NamedTuple):
    """Likewise, of a streamed kernel."""

    direction: str
    operand: str
    numbers: tuple[int, ...]  # of the instantiation
    gates: int  # values of the operand for a unit
    steps: dict[int, tuple[int, float]]  # by H: bytes of streamed weights, us by the time model

    @property
    def shape(self) -> tuple[int, int, int]:
        """Units of a block, rows of a tile of the batch, warps."""
        units, rows, slices, parts, *_ = self.numbers
        return units, rows, slices * parts

    def kernels(self) -> list[str]:
        """Its name."""
        units, rows, *others = self.numbers
        numbers = (self.operand, units, units * 3 // self.gates, self.gates, rows, *others)
        return [f"gru_streamed_{self.direction}_kernel<StreamedTraits<{', '.join(map(str, numbers))}>, false>"]


def registers(kernels: list[str], resources: Registers) -> str:
    """Of a thread, on sm_90 and, where it differs, sm_100."""
    cells = []
    for kernel in kernels:
        sm_90, sm_100 = (resources[kernel][arch]["registers"] for arch in ("sm_90", "sm_100"))
        cells.append(str(sm_90) if sm_90 == sm_100 else f"{sm_90} ({sm_100})")
    return ", ".join(cells)


def instantiations() -> tuple[list[Instantiation], list[Streamed]]:
    """Compile and run tests/kernel_tables.cpp."""
    compiler = os.environ.get("CXX", "c++").split()
    includes = [f"-I{ROOT / path}" for path in ("csrc/cuda", "tests/emulator")]
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "kernel_tables"
        source = ROOT / "tests" / "kernel_tables.cpp"
        subprocess.run([*compiler, "-std=c++17", *includes, str(source), "-o", str(program)], check=True)
        output = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout
    found, streamed = [], []
    for line in output.splitlines():
        if line.split()[1] == "streamed":
            direction, _, operand, *fields = line.split()
            *of_instantiation, gates = map(int, fields[:8])
            by_hidden = [fields[i : i + 3] for i in range(8, len(fields), 3)]
            steps = {int(hidden): (int(nbytes), float(step)) for hidden, nbytes, step in by_hidden}
            streamed.append(Streamed(direction, operand, tuple(of_instantiation), gates, steps))
            continue
        direction, family, operand, *numbers, step = line.split()
        hidden, blocks, rows, warps, tiles, shared, overflow = map(int, numbers)
        found.append(
            Instantiation(direction, family, operand, hidden, blocks, rows, warps, tiles, shared, overflow, float(step))
        )
    return found, streamed


def streamed_table(rows: list[Streamed], resources: Registers) -> str:
    """One line for each instantiation."""
    widths = (1024, 2048, 2816, 4096)
    lines = [
        ["operand", "units", "rows", "warps", "registers", *(f"H = {hidden}" for hidden in widths)],
        ["---", *["---:"] * (4 + len(widths))],
    ]
    for row in rows:
        steps = [row.steps.get(hidden) for hidden in widths]
        lines.append(
            [OPERANDS[row.operand], *map(str, row.shape), registers(row.kernels(), resources)]
            + [f"{step[1]:.2f} ({step[0] / 1e6:.0f})" if step else "-" for step in steps]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table(rows: list[Instantiation], resources: Registers) -> str:
    """One line for each shape, with a column of each kind for each operand."""
    operands = [operand for operand in OPERANDS if any(row.operand == operand for row in rows)]
    named = [OPERANDS[operand] for operand in operands]
    columns = [f"registers {', '.join(named)}", "shared (overflow) KB", "us a step"]
    heads = ["H up to", "C", "rows", "warps"]
    for column in columns:
        heads += [f"{column.split(' 16-bit')[0]} {named[0]}", *named[1:]] if len(named) > 1 else [column]
    lines = [heads, ["---:"] * len(heads)]
    for shape in sorted({row[3:7] for row in rows}):
        same = {row.operand: row for row in rows if row[3:7] == shape}
        found = [same.get(operand) for operand in operands]
        lines.append(
            [str(number) for number in shape]
            + [registers(row.kernels(), resources) if row else "-" for row in found]
            + [f"{row.shared / 1024:.0f} ({row.overflow / 1024:.0f})" if row else "-" for row in found]
            + [f"{row.step:.2f}" if row else "-" for row in found]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables() -> str:
    """What belongs between the marks of the page."""
    resources: Registers = json.loads(RESOURCES.read_text())["kernels"]
    rows, streamed = instantiations()
    text = ""
    for ieee in (False, True):
        text += "\nIn IEEE float32:\n" if ieee else ""
        for family, title in FAMILIES.items():
            of_family = [row for row in rows if row[:2] == family and (row.operand == "ieee") == ieee]
            text += f"\n{title}\n\n{table(of_family, resources)}"
    for direction, title in (("fwd", "Streamed, forward"), ("bwd", "Streamed, backward")):
        of_direction = [row for row in streamed if row.direction == direction]
        text += f"\n{title}; of a step at some H microseconds, and MB of weights that are read again:\n\n"
        text += streamed_table(of_direction, resources)
    return text + "\n"


def with_tables(page: str) -> str:
    """The page with its tables made anew."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + tables() + END + after


def write() -> None:
    """Write them into docs/kernels.md."""
    PAGE.write_text(with_tables(PAGE.read_text()))
    print(f"wrote the tables of {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    write()
