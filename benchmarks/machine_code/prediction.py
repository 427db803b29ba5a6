"""What a step of a kernel should take, from its machine code."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.machine_code import figures, kernels, simulate
from benchmarks.machine_code.kernels import Kernel
from benchmarks.machine_code.listing import MachineCode
from benchmarks.machine_code.serial_loads import serial_loads
from benchmarks.machine_code.simulate import Bounds


class Prediction(NamedTuple):
    """Of a step of a kernel."""

    instructions: int  # that the warp with the most issues
    bounds: Bounds
    from_l2: float  # cycles, where loads come from the L2 cache
    from_memory: float
    serial_loads: int


def predict(kernel: Kernel, code: MachineCode) -> Prediction:
    """Of a kernel with this code."""
    steps = kernels.steps_of(kernel, code)
    return Prediction(
        max(len(of_warp[-1]) for of_warp in steps),
        simulate.bounds(steps),
        simulate.cycles(steps, figures.FROM_L2.value),
        simulate.cycles(steps, figures.FROM_MEMORY.value),
        len(serial_loads(code.code)),
    )
