"""What a step of a persistent kernel should take, by a model of its machine code. Needs nvcc, and no GPU.

    python -m benchmarks.machine_code cluster_H512_C8_rows8
    python -m benchmarks.machine_code cluster_H512_C8_rows8 --dtype fp16 --pass bwd --gpu H100
    python -m benchmarks.machine_code cluster_H512_C8_rows8 --members 8
    python -m benchmarks.machine_code streamed_U32_rows16 --hidden 2816
    python -m benchmarks.machine_code --table            # the tables of docs/kernels.md: of steps,
    python -m benchmarks.machine_code --table members    # and of calls with members
    python -m benchmarks.machine_code --figures          # the latencies and rates, and their sources

A step is one of many, of a full tile in training: all rows, pairs aligned, not packed, no masks, no wait that fails.
The path of each warp is found by executing its integers (path.py), its time by a simulation of a block (simulate.py)
with the latencies and rates of figures.py. With members it is a block of the last one. All of it is a prediction:
nothing was measured.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache

from benchmarks.machine_code import figures, kernels, members
from benchmarks.machine_code.figures import CLOCK_HZ, Figure
from benchmarks.machine_code.kernels import (
    DTYPES,
    FIRST_PARAMETER,
    PASSES,
    STREAMED_HIDDEN,
    Kernel,
    UnknownKernelError,
)
from benchmarks.machine_code.lanes import PathError
from benchmarks.machine_code.members import Call
from benchmarks.machine_code.prediction import Prediction, predict
from benchmarks.machine_code.simulate import Bounds, ModelError
from benchmarks.machine_code.toolkit import ToolError
from benchmarks.needed_kernels import GPUS

TABLE = tuple(
    (name, direction)
    for direction in PASSES
    for name in ("cluster_H512_C8_rows8", "cluster_H256_C4_rows16", "cluster_H64_C1_rows8")
)


def describe(kernel: Kernel, found: Prediction, gpu: str) -> str:
    """All that is known of it, in lines."""
    microseconds = [1e6 * cycles / CLOCK_HZ[gpu] for cycles in (found.from_l2, found.from_memory)]
    rows = [f"{name:10} {cycles:7.0f}" for name, cycles in found.bounds._asdict().items()]
    return "\n".join(
        [
            f"{kernel.name} {kernel.dtype} {kernel.direction}, H = {kernel.hidden}: {kernel.warps} warps, "
            f"{found.instructions} instructions a step, {found.serial_loads} serial loads",
            "",
            "cycles of a step that each part would take alone (predicted)",
            *rows,
            "",
            f"predicted  {found.from_l2:7.0f} cycles, {microseconds[0]:.2f} us on an {gpu}, loads from the L2 cache",
            f"           {found.from_memory:7.0f} cycles, {microseconds[1]:.2f} us, loads from memory",
        ]
    )


def describe_members(kernel: Kernel, found: Prediction, gpu: str) -> str:
    """What a step of all members takes, a tile of the batch each."""
    microseconds = 1e6 * found.from_l2 / CLOCK_HZ[gpu]
    call = Call(kernel.dtype, kernel.direction, 1, kernel.rows, kernel.hidden, kernel.members)
    by = members.served(call, gpu, kernel.name)
    return (
        f"{kernel.members} members, a tile each: {by.clusters} clusters or groups, {by.at_a_time} at a time on an {gpu}"
        f": {by.rounds * microseconds:.2f} us a step of all; in launches one after another "
        f"{kernel.members * microseconds:.2f} us"
    )


def table(dtype: str, architecture: str, gpu: str) -> str:
    """In Markdown."""
    lines = [
        f"| pass, H, C, rows | instructions | {' | '.join(Bounds._fields)} | L2 | memory | us on an {gpu} |",
        f"| --- |{' ---: |' * (len(Bounds._fields) + 4)}",
    ]
    for name, direction in TABLE:
        kernel = kernels.named(name, dtype, direction)
        found = predict(kernel, kernels.compiled(kernel, architecture))
        cells = [
            f"{direction} {kernel.hidden}, {kernel.blocks}, {kernel.rows}",
            str(found.instructions),
            *(f"{cycles:.0f}" for cycles in (*found.bounds, found.from_l2, found.from_memory)),
            f"{1e6 * found.from_l2 / CLOCK_HZ[gpu]:.2f} to {1e6 * found.from_memory / CLOCK_HZ[gpu]:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sources() -> str:
    """Every latency and rate."""
    single = {name: value for name, value in vars(figures).items() if isinstance(value, Figure)}
    return "\n".join(
        f"{name:18} {figure.value:5g}  {figure.source}" for name, figure in {**figures.LATENCIES, **single}.items()
    )


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.machine_code",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kernel", nargs="?", metavar="KERNEL", help="its name, as in cluster_H512_C8_rows8")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of the tensor core, or fp32; default bf16")
    parser.add_argument("--pass", dest="direction", choices=PASSES, default="fwd", help="default: fwd")
    parser.add_argument("--arch", choices=FIRST_PARAMETER, default="90", help="default: 90, which the latencies are of")
    parser.add_argument("--gpu", choices=CLOCK_HZ, default="H200", help="for the microseconds, default: H200")
    parser.add_argument("--hidden", type=int, metavar="H", help=f"of a streamed kernel, default: {STREAMED_HIDDEN}")
    parser.add_argument("--members", type=int, default=1, metavar="E", help="of the call, default: 1")
    parser.add_argument("--table", nargs="?", const="steps", choices=("steps", "members"), help="of docs/kernels.md")
    parser.add_argument("--figures", action="store_true", help="latencies and rates, and their sources")
    asked = parser.parse_args()
    try:
        if asked.figures:
            print(sources())
        elif asked.table == "steps":
            print(table(asked.dtype, asked.arch, asked.gpu))
        elif asked.table == "members":
            predicted = cache(lambda kernel: predict(kernel, kernels.compiled(kernel, asked.arch)).from_l2)
            print("\n".join(members.table(asked.gpu, predicted)))
        elif asked.members < 1:
            parser.error(f"--members: expected 1 or more, got {asked.members}")
        elif asked.kernel is None:
            parser.error("expected KERNEL, --table or --figures")
        else:
            kernel = kernels.named(asked.kernel, asked.dtype, asked.direction, asked.hidden, asked.members)
            multiprocessors = GPUS[asked.gpu][0]
            if kernel.blocks > multiprocessors:
                needs = f"H = {kernel.hidden} needs {kernel.blocks} blocks of {kernel.name}"
                parser.error(f"--hidden: {needs}, an {asked.gpu} has {multiprocessors} multiprocessors")
            found = predict(kernel, kernels.compiled(kernel, asked.arch))
            print(describe(kernel, found, asked.gpu))
            if kernel.members > 1:
                print(describe_members(kernel, found, asked.gpu))
    except UnknownKernelError as error:
        parser.error(str(error))
    except (ModelError, PathError, ToolError) as error:
        sys.exit(f"machine_code: {error}")


if __name__ == "__main__":
    main()
