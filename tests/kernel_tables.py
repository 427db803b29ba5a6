"""The tables of kernels in docs/kernels.md and docs/cuda.md: ``python tests/kernel_tables.py`` writes them anew.

Registers and cycles are those of tests/cuda_resources.json, which ``make cuda-check ARGS=--write`` finds and which then
calls this; the rest is what the source says, printed by programs that are compiled here, of which the one that knows
the choice needs torch. Needs a C++ compiler, ``$CXX`` or ``c++``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from building import compiled
from process import ROOT

sys.path.append(str(ROOT))  # of the checkout: the benchmarks are not installed

from benchmarks.gpu_constants import build
from benchmarks.machine_code import members
from benchmarks.machine_code.figures import CLOCK_HZ
from benchmarks.machine_code.kernels import STREAMED_HIDDEN, Kernel, of_instantiation
from benchmarks.needed_kernels import SHOWN, times
from benchmarks.needed_kernels import families_table as uses

RESOURCES = ROOT / "tests" / "cuda_resources.json"
KERNELS_PAGE, DEVICES_PAGE = ROOT / "docs" / "kernels.md", ROOT / "docs" / "cuda.md"
END = "<!-- end -->\n"
TIME_MODEL = ROOT / "csrc/cuda/choice/time_model.h"
OPERANDS = {"bfloat16": "16-bit", "float": "TF32", "ieee": "IEEE"}
FAMILIES = {
    ("fwd", "cluster"): "Forward:",
    ("fwd", "group"): "Groups, forward:",
    ("bwd", "cluster"): "Backward:",
    ("bwd", "group"): "Groups, backward:",
}


class Device(NamedTuple):
    """What decides which kernels serve on a GPU."""

    name: str
    architecture: int  # 90 for sm_90
    multiprocessors: int
    shared: int  # KB that a block may have
    cluster: int  # most blocks of a cluster; 0 where there are none


GPUS = [
    Device("T4", 75, 40, 64, 0),
    Device("A100", 80, 108, 163, 0),
    Device("A10", 86, 72, 99, 0),
    Device("RTX 3090", 86, 82, 99, 0),
    Device("L4", 89, 58, 99, 0),
    Device("RTX 4090", 89, 128, 99, 0),
    Device("H100, H200", 90, 132, 227, 16),
    Device("B200", 100, 148, 227, 16),
    Device("RTX 5090", 120, 170, 99, 8),
]

H200 = next(device for device in GPUS if "H200" in device.name)

# Of tests/cuda_resources.json: by kernel, architecture, resource.
Needed = dict[str, dict[str, dict[str, Any]]]


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


def text_of(lines: Iterable[str]) -> str:
    """Each with its end."""
    return "".join(f"{line}\n" for line in lines)


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return text_of(f"| {' | '.join(row)} |" for row in rows)


def registers(kernels: list[str], resources: Needed) -> str:
    """Of a thread, on sm_90 and, where it differs, sm_100."""
    cells = []
    for kernel in kernels:
        sm_90, sm_100 = (resources[kernel][arch]["registers"] for arch in ("sm_90", "sm_100"))
        cells.append(str(sm_90) if sm_90 == sm_100 else f"{sm_90} ({sm_100})")
    return ", ".join(cells)


def by_code(cycles: Sequence[int] | None) -> str:
    """Microseconds of a step on an H200, predicted from machine code; loads from the L2 cache."""
    return f"{cycles[0] / CLOCK_HZ['H200'] * 1e6:.2f}" if cycles else "-"


def printed(*arguments: int) -> list[str]:
    """The lines that tests/kernel_tables.cpp prints for arguments; it is compiled on first use."""
    flags, directories = ["-std=c++17"], [ROOT / path for path in ("csrc", "tests/emulator")]
    program = compiled(ROOT / "tests" / "kernel_tables.cpp", flags=flags, directories=directories)
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def instantiations(lines: list[str]) -> tuple[list[Instantiation], list[Streamed]]:
    """What the program prints without arguments."""
    found, streamed = [], []
    for line in lines:
        if line.split()[1] == "streamed":
            direction, _, operand, *fields = line.split()
            *of_instantiation, gates = map(int, fields[:8])
            by_hidden = [fields[i : i + 3] for i in range(8, len(fields), 3)]
            steps = {int(hidden): (int(nbytes), float(step)) for hidden, nbytes, step in by_hidden}
            streamed.append(Streamed(direction, operand, tuple(of_instantiation), gates, steps))
            continue
        direction, family, operand, *numbers, step = line.split()
        found.append(Instantiation._make([direction, family, operand, *map(int, numbers), float(step)]))
    return found, streamed


def streamed_table(rows: list[Streamed], resources: Needed) -> str:
    """One line for each instantiation."""
    widths = (1024, 2048, 2816, 4096)
    heads = [f"H = {hidden}" for hidden in widths]
    lines = [
        ["operand", "units", "rows", "warps", "registers", *heads, f"by its code, H = {STREAMED_HIDDEN}"],
        ["---", *["---:"] * (5 + len(widths))],
    ]
    for row in rows:
        steps = [row.steps.get(hidden) for hidden in widths]
        (kernel,) = row.kernels()
        lines.append(
            [OPERANDS[row.operand], *map(str, row.shape), registers([kernel], resources)]
            + [f"{step[1]:.2f} ({step[0] / 1e6:.0f})" if step else "-" for step in steps]
            + [by_code(resources[kernel]["sm_90"].get("cycles"))]
        )
    return markdown(lines)


def table(rows: list[Instantiation], resources: Needed) -> str:
    """One line for each shape, with a column of each kind for each operand."""
    operands = [operand for operand in OPERANDS if any(row.operand == operand for row in rows)]
    named = [OPERANDS[operand] for operand in operands]
    columns = [f"registers {', '.join(named)}", "shared (overflow) KB", "us a step"]
    cycles = {row: resources[row.kernels()[0]]["sm_90"].get("cycles") for row in rows}
    if any(cycles.values()):
        columns.append("us by its code")
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
            + ([by_code(cycles[row]) if row else "-" for row in found] if any(cycles.values()) else [])
        )
    return markdown(lines)


def largest_hidden(
    device: Device, rows: list[Instantiation], lines: list[str]
) -> dict[tuple[str, str], dict[str, int]]:
    """Of each pass and operand the largest H of each family that serves on a device; 0 where none does.

    Args:
        device: the GPU.
        rows: of clusters and groups. A block of a group has a multiprocessor for itself.
        lines: of streamed kernels, what the program prints for the device.
    """
    largest: dict[tuple[str, str], dict[str, int]] = {}

    def serves(direction: str, operand: str, family: str, hidden: int) -> None:
        of_families = largest.setdefault((direction, operand), {"cluster": 0, "group": 0, "streamed": 0})
        of_families[family] = max(of_families[family], hidden if device.architecture >= 80 else 0)

    for row in rows:
        blocks = device.multiprocessors if row.family == "group" else max(1, device.cluster)
        fits = row.blocks <= blocks and row.shared <= device.shared << 10
        serves(row.direction, row.operand, row.family, row.hidden if fits else 0)
    for line in lines:
        direction, operand, hidden = line.split()
        serves(direction, operand, "streamed", int(hidden))
    return largest


def devices_table() -> str:
    """A line for each GPU, pass and operand, with the largest H of each family."""
    rows, _ = instantiations(printed())
    families = ("cluster", "group", "streamed")
    heads = ["GPU", "sm", "shared KB", *(f"{OPERANDS[o]}, {d}" for o in OPERANDS for d in ("fwd", "bwd"))]
    lines = [heads, ["---", "---:", "---:", *["---"] * (len(heads) - 3)]]
    for device in GPUS:
        largest = largest_hidden(device, rows, printed(device.multiprocessors, device.shared << 10))
        line = [device.name, str(device.architecture), str(device.shared)]
        for operand in OPERANDS:
            for direction in ("fwd", "bwd"):
                of_families = largest[direction, operand]
                line.append(" / ".join(str(of_families[family] or "-") for family in families))
        lines.append(line)
    return markdown(lines)


def families_table() -> str:
    """A line for each family: how many shapes of it there are by operand, forward and backward, and what it can do."""
    rows, streamed = instantiations(printed())
    largest = largest_hidden(H200, rows, printed(H200.multiprocessors, H200.shared << 10))
    lines = [
        ["family", "when", *OPERANDS.values(), "float64", "masks", "`reset_after=False`, `layer_norm`", "H"],
        ["---"] * 9,
        ["`stepwise`", "always", "any", "torch's switch", "any", "any", "x", "x", "any"],
        ["`one_step`", "T = 1, B up to 64; forward", "any", "-", "any", "any", "-", "-", "any"],
    ]
    for family, when in (("cluster", "clusters, or one block"), ("group", "any GPU"), ("streamed", "any GPU")):
        found = [row[:3] for row in rows if row.family == family]
        found += [(row.direction, family, row.operand) for row in streamed if family == "streamed"]
        shapes = [" + ".join(str(found.count((way, family, name))) for way in ("fwd", "bwd")) for name in OPERANDS]
        hidden = [max(largest.get((way, name), {}).get(family, 0) for way in ("fwd", "bwd")) for name in OPERANDS]
        counts = ["-" if shape == "0 + 0" else shape for shape in shapes]
        masks, widest = "x" if family == "streamed" else "-", " / ".join(str(H or "-") for H in hidden)
        lines.append([f"`{family}`", f"sm_80 and later; {when}", *counts, "-", masks, "-", widest])
    return markdown(lines)


def instantiations_tables() -> str:
    """One for each family and pass, with its title."""
    resources: Needed = json.loads(RESOURCES.read_text())["kernels"]
    rows, streamed = instantiations(printed())
    parts = []
    for ieee in (False, True):
        parts += ["In IEEE float32:\n"] if ieee else []
        for family, title in FAMILIES.items():
            of_family = [row for row in rows if row[:2] == family and (row.operand == "ieee") == ieee]
            parts.append(f"{title}\n\n{table(of_family, resources)}")
    for direction, title in (("fwd", "Streamed, forward"), ("bwd", "Streamed, backward")):
        of_direction = [row for row in streamed if row.direction == direction]
        title += "; of a step at some H microseconds, and MB of weights that are read again:"
        parts.append(f"{title}\n\n{streamed_table(of_direction, resources)}")
    return "\n".join(parts)


def members_table() -> str:
    """What members take on an H200, by the recorded predictions."""
    resources: Needed = json.loads(RESOURCES.read_text())["kernels"]
    cycles = {of_instantiation(name): by_arch["sm_90"].get("cycles") for name, by_arch in resources.items()}

    def cycles_of(kernel: Kernel) -> float:
        """Those of a plain layer: a block of a member does the same."""
        recorded = cycles[kernel._replace(members=1)]
        if recorded is None:
            raise ValueError(f"{kernel.name} {kernel.dtype} {kernel.direction} has no prediction in {RESOURCES}")
        return float(recorded[0])

    return text_of(members.table("H200", cycles_of))


def constants_table() -> str:
    """The time model's constants of persistent kernels, with the words of the header."""
    of_persistent = TIME_MODEL.read_text().split("// ---- Stepwise")[0]
    lines = ["| constant | value | from | of |", "| --- | ---: | --- | --- |"]
    pattern = r"^constexpr double (.*?); *// (.*?); (.*)$"
    for declared, source, words in re.findall(pattern, of_persistent, re.MULTILINE):
        names, values = zip(*(constant.split(" = ") for constant in declared.split(", ")), strict=True)
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {', '.join(values)} | {source} | {words} |")
    return text_of(lines)


def pages() -> dict[Path, str]:
    """Both pages with their tables made anew."""
    made: dict[Path, str] = {}
    for page, name, text in (
        (KERNELS_PAGE, "instantiations", instantiations_tables()),
        (KERNELS_PAGE, "members", members_table()),
        (KERNELS_PAGE, "uses", text_of(uses(times(build(), SHOWN)))),
        (KERNELS_PAGE, "constants", constants_table()),
        (DEVICES_PAGE, "families", families_table()),
        (DEVICES_PAGE, "devices", devices_table()),
    ):
        begin = f"<!-- {name} -->\n"
        before, rest = made.get(page, page.read_text()).split(begin)
        _, after = rest.split(END, 1)
        made[page] = f"{before}{begin}\n{text}\n{END}{after}"
    return made


def write() -> None:
    """Write them into the pages."""
    for page, text in pages().items():
        page.write_text(text)
        print(f"wrote the tables of {page.relative_to(ROOT)}")


if __name__ == "__main__":
    write()
