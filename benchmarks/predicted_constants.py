"""The time model's constants of persistent kernels, fitted to the steps that are predicted from machine code.

    python -m benchmarks.predicted_constants
    python -m benchmarks.predicted_constants | git apply --unidiff-zero      (changes the lines)

The predictions are those of tests/cuda_resources.json, with loads from the L2 cache; what they rest on is in
benchmarks/machine_code. Nothing was measured: constants from a GPU (gpu_constants.py) replace all of it. Prints how far
model and predictions are apart, by the constants as they are and as fitted, and the lines that change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.gpu_constants import (
    Kernel,
    build,
    difference,
    fitted_steps,
    fma_rate,
    kernels_of,
    lines_of,
    literal,
    median,
    present,
)
from benchmarks.machine_code import figures
from benchmarks.machine_code.kernels import of_instantiation
from benchmarks.machine_code.toolkit import ROOT

RESOURCES = ROOT / "tests" / "cuda_resources.json"


class Key(NamedTuple):
    """A kernel, as the model tells them apart."""

    name: str
    backward: bool
    dtype: str


def predicted() -> dict[Key, float]:
    """Cycles of a step; of both halves, bfloat16 speaks."""
    found: dict[Key, float] = {}
    for name, by_arch in json.loads(RESOURCES.read_text())["kernels"].items():
        kernel = of_instantiation(name)
        cycles = by_arch.get("sm_90", {}).get("cycles")
        if kernel is not None and cycles and kernel.dtype != "fp16":
            found[Key(kernel.name, kernel.direction == "bwd", kernel.dtype)] = float(cycles[0])
    return found


def modelled(program: Path, constants: Mapping[str, float]) -> dict[Key, float]:
    """The same, by the time model of csrc/cuda/choice with these constants."""
    settings = [f"{name}={value!r}" for name, value in constants.items()]
    lines = lines_of(program, "steps", "clock_rate=1e9", *settings)
    return {Key(name, direction == "backward", dtype): float(cycles) for name, direction, dtype, cycles in lines}


def fitted(kernels: Mapping[tuple[str, bool, str], Kernel], program: Path) -> dict[str, float]:
    """The constants that the predictions say something of."""
    steps, found = predicted(), present()
    held = [(kernels[key], cycles) for key, cycles in steps.items() if key in kernels]
    found |= fitted_steps(held, found)
    found |= {"kFmaMultiplyAdds": fma_rate(held, found) or found["kFmaMultiplyAdds"]}
    found |= {"kPacketLatency": figures.L2_STORE.value + figures.FROM_L2.value + figures.LATENCIES["BAR"].value}
    fetched, left = [], []  # of groups, as fractions of a step: bytes, and what else takes the step
    for kernel, cycles in held:
        if kernel.packet_bytes:
            others = kernel.fixed(found) + kernel.longest(found) + found["kPacketLatency"]
            fetched.append(kernel.packet_bytes / 2 / cycles)
            left.append(1 - others / cycles)
    found |= {"kPacketBytes": float(np.dot(fetched, fetched) / np.dot(fetched, left))}
    model = modelled(program, found)
    beyond = median(steps[key] - model[key] for key in steps if key.name.startswith("streamed"))
    return found | {"kFlagLatency": found["kFlagLatency"] + (beyond or 0.0)}


def apart(program: Path, constants: Mapping[str, float]) -> dict[Key, float]:
    """How much longer a step is by the model than by the prediction, as a fraction of that."""
    model = modelled(program, constants)
    return {key: model[key] / cycles - 1 for key, cycles in predicted().items()}


def _words(found: Mapping[Key, float]) -> list[str]:
    lines = []
    for family in ("cluster", "group", "streamed"):
        of_family = {key: error for key, error in found.items() if key.name.startswith(family)}
        worst = max(of_family, key=lambda key: abs(of_family[key]))
        mean = sum(map(abs, of_family.values())) / len(of_family)
        which = f"{worst.name} {worst.dtype} {'backward' if worst.backward else 'forward'}"
        lines.append(
            f"  {family}: {len(of_family)} kernels, {mean:.1%} in the mean, {of_family[worst]:+.1%} at {which}"
        )
    return lines


def main() -> None:
    """Print them."""
    program, before = build(), present()
    values = fitted(kernels_of(program), program)
    changed = {name: value for name, value in values.items() if literal(value) != literal(before[name])}
    print("model against prediction, constants as they are:", *_words(apart(program, before)), sep="\n")
    print("as fitted:", *_words(apart(program, values)), "", sep="\n")
    print(*(f"{name}: {literal(before[name])} -> {literal(value)}" for name, value in changed.items()), "", sep="\n")
    print(difference(changed), end="")


if __name__ == "__main__":
    main()
