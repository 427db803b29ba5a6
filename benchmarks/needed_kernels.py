"""Which compiled kernels the time model could do without, and what that would cost.

    python -m benchmarks.needed_kernels                # within 10% of the fastest, on six GPUs
    python -m benchmarks.needed_kernels --within 1.02
    python -m benchmarks.needed_kernels --families     # what each family is the fastest for, and what it is worth

A kernel is not needed if, for every call of a grid on every GPU, some other one takes at most so many times the time
that the fastest takes. Kernels are taken away one after another, always the one that is missed least. Of kernels for
both halves, bfloat16 speaks. Nothing here was measured: it is the model of docs/kernels.md, with its assumed constants.
"""

from __future__ import annotations

import argparse
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_constants import build

# Multiprocessors, bytes of shared memory of a block, blocks of the largest cluster (0: none), cycles a second.
GPUS = {
    "A100": (108, 163 << 10, 0, 1.41e9),
    "H100": (132, 227 << 10, 16, 1.755e9),
    "H200": (132, 227 << 10, 16, 1.98e9),
    "B200": (148, 227 << 10, 16, 1.965e9),
    "RTX 4090": (128, 99 << 10, 0, 2.52e9),
    "L4": (58, 99 << 10, 0, 2.04e9),
}
SHOWN = ("A100", "H200", "RTX 4090")  # in docs/kernels.md
PRECISIONS = {"bf16": "16-bit", "tf32": "TF32", "fp32": "IEEE"}
ALWAYS = ("stepwise", "one_step")  # families that no figure may take away
Key = tuple[str, str, str]  # bf16, tf32 or fp32; pass; kernel
Call = tuple[str, ...]  # GPU, dtype, pass, T, B, H, D


class Times(NamedTuple):
    """Of each call (row) and kernel (column) the seconds; infinite where it cannot serve."""

    calls: list[Call]
    kernels: list[Key]
    seconds: NDArray[np.float64]


def key_of(dtype: str, direction: str, kernel: str) -> Key:
    """The compiled kernel: those in IEEE float32 serve where TF32 is allowed too."""
    return "fp32" if kernel.endswith("_ieee") else dtype, direction, kernel


def times(program: Path, gpus: Iterable[str] = GPUS) -> Times:
    """What the model says of every call of the grid on these GPUs."""
    found: dict[Call, dict[Key, float]] = {}
    for gpu in gpus:
        multiprocessors, shared, cluster, rate = GPUS[gpu]
        values = {
            "multiprocessors": multiprocessors,
            "shared_bytes": shared,
            "most_cluster": cluster,
            "clock_rate": rate,
        }
        settings = [f"{name}={value}" for name, value in values.items()]
        command = [str(program), "candidates", *settings]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        for line in output.splitlines():
            words = line.split()
            call = (gpu, *words[:6])
            kernels = (word.split("=") for word in words[6:])
            found[call] = {key_of(words[0], words[1], name): float(seconds) for name, seconds in kernels}
    names = sorted({key for of_call in found.values() for key in of_call})
    seconds = np.full((len(found), len(names)), np.inf)
    column = {key: i for i, key in enumerate(names)}
    for row, of_call in enumerate(found.values()):
        for key, value in of_call.items():
            seconds[row, column[key]] = value
    return Times([*found], names, seconds)


def not_needed(found: Times, within: float) -> list[tuple[Key, float, Call]]:
    """The kernels in the order in which they are taken away, each with how much the call that misses it most loses."""
    seconds, best = found.seconds.copy(), found.seconds.min(axis=1)
    optional = [i for i, key in enumerate(found.kernels) if key[2] not in ALWAYS]
    removed: list[tuple[Key, float, Call]] = []
    while True:
        first = seconds.argmin(axis=1)
        second = np.partition(seconds, 1, axis=1)[:, 1] / best
        losses = {i: float(second[first == i].max(initial=1.0)) for i in optional}
        least = min(optional, key=lambda i: (losses[i], found.kernels[i]))
        if losses[least] > within:
            return removed
        misses = np.where(first == least, second, 0)
        call = found.calls[int(misses.argmax())] if losses[least] > 1 else ()
        removed.append((found.kernels[least], losses[least], call))
        seconds[:, least] = np.inf
        optional.remove(least)


def families_table(found: Times) -> Iterator[str]:
    """In Markdown, of each family: for how many calls it is the fastest, and the most that a call loses without it."""
    gpus = list(dict.fromkeys(call[0] for call in found.calls))
    yield f"| family | precision | {' | '.join(gpus)} | most that a call would lose |"
    yield f"| --- | --- |{' ---: |' * len(gpus)} --- |"
    of_kernel = np.array([key[2] if key[2] in ALWAYS else key[2].split("_")[0] for key in found.kernels])
    best = found.seconds.min(axis=1)
    fastest = of_kernel[found.seconds.argmin(axis=1)]
    groups = [call[:3] for call in found.calls]
    served = Counter(zip(groups, fastest, strict=True))
    for family in ("cluster", "group", "streamed"):
        losses = found.seconds[:, of_kernel != family].min(axis=1) / best
        for dtype, precision in PRECISIONS.items():
            counts = [[served[(gpu, dtype, way), family] for way in ("forward", "backward")] for gpu in gpus]
            if not np.any(counts):
                continue
            worst = int(np.where([call[1] == dtype for call in found.calls], losses, 0).argmax())
            gpu, _, way, _, batch, hidden, _ = found.calls[worst]
            loss = f"{losses[worst]:.3g} times, {way} at B = {batch}, H = {hidden}, {gpu}"
            cells = [" + ".join(map(str, of_gpu)) for of_gpu in counts]
            yield f"| {family} | {precision} | {' | '.join(cells)} | {loss} |"


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--within", type=float, default=1.1, help="times the fastest that a call may take (1.1)")
    parser.add_argument(
        "--families", action="store_true", help="instead: what each family is the fastest for, in Markdown"
    )
    arguments = parser.parse_args()
    within: float = arguments.within
    if arguments.families:
        print("\n".join(families_table(times(build(), SHOWN))))
        return
    found = times(build())
    removed = not_needed(found, within)
    for (dtype, direction, name), loss, call in removed:
        lost = f"{loss:.3f} times the fastest, at {' '.join(call)}" if call else "never the fastest"
        print(f"{dtype} {direction} {name}: {lost}")
    every = sum(key[2] not in ALWAYS for key in found.kernels)
    print(f"{len(removed)} of {every} kernels are not needed, within {within:g} times the fastest")


if __name__ == "__main__":
    main()
