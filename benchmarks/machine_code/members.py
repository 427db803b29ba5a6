"""What the members of a call take: in one launch, and in a launch of each, one after another.

Which kernel serves a call on a GPU, how many of its clusters or groups that runs at a time and so in how many rounds,
and what a launch takes beside its steps, says csrc/cuda/choice (benchmarks/kernel_choices.cpp); how long a step is, the
machine code.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.gpu_constants import build
from benchmarks.machine_code import kernels
from benchmarks.machine_code.figures import CLOCK_HZ
from benchmarks.machine_code.kernels import Kernel
from benchmarks.machine_code.toolkit import ToolError
from benchmarks.needed_kernels import GPUS

WORDS = {"fwd": "forward", "bwd": "backward"}


class Call(NamedTuple):
    """Of layers of one direction."""

    dtype: str
    direction: str
    steps: int
    batch: int
    hidden: int
    members: int


class Served(NamedTuple):
    """How a kernel serves a call on a GPU."""

    kernel: str
    clusters: int  # or groups
    at_a_time: int
    rounds: int
    seconds: float  # by the time model
    seconds_besides: float  # of them those that no step takes


def served(call: Call, gpu: str, kernel: str = "auto") -> Served:
    """By the kernel, or by the fastest of those that ``kernel`` allows, as the choice has it."""
    multiprocessors, shared, cluster, rate = GPUS[gpu]
    device = {"multiprocessors": multiprocessors, "shared_bytes": shared, "most_cluster": cluster, "clock_rate": rate}
    dtype = "bf16" if call.dtype == "fp16" else call.dtype  # both halves have the same kernels
    sizes = map(str, (call.steps, call.batch, call.hidden, call.members))
    command = [str(build()), "call", dtype, WORDS[call.direction], *sizes, kernel]
    command += [f"{name}={value}" for name, value in device.items()]
    words = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    if not words:
        raise ToolError(f"no persistent kernel serves {call} on an {gpu}")
    name, clusters, at_a_time, rounds, seconds, besides = words
    return Served(name, int(clusters), int(at_a_time), int(rounds), float(seconds), float(besides))


CyclesOf = Callable[[Kernel], float]  # of a step


class Launches(NamedTuple):
    """Of a call with members, and of a call of each."""

    one: Served
    of_member: Served
    seconds: float  # of the one, by the machine code
    seconds_of_loop: float


def launches(call: Call, gpu: str, cycles_of: CyclesOf) -> Launches:
    """By the kernels that the choice takes."""

    def seconds(of: Call, by: Served) -> float:
        hidden = of.hidden if by.kernel.startswith("streamed") else None
        kernel = kernels.named(by.kernel, of.dtype, of.direction, hidden, of.members)
        return by.seconds_besides + by.rounds * of.steps * cycles_of(kernel) / CLOCK_HZ[gpu]

    alone = call._replace(members=1)
    one, of_member = served(call, gpu), served(alone, gpu)
    return Launches(one, of_member, seconds(call, one), call.members * seconds(alone, of_member))


# Those of docs/kernels.md.
CALLS = [
    Call(dtype, direction, 512, 16, 256, members)
    for members, dtype in ((8, "bf16"), (8, "tf32"), (64, "bf16"))
    for direction in WORDS
]


def table(gpu: str, cycles_of: CyclesOf) -> Iterator[str]:
    """Its lines, in Markdown."""
    yield "| E | dtype | pass | kernel | clusters | at a time | one launch, ms | loop, ms | times | by the time model |"
    yield f"| ---: | --- | --- | --- |{' ---: |' * 6}"
    for call in CALLS:
        found = launches(call, gpu, cycles_of)
        one, of_member = found.one, found.of_member
        cells = [
            *(str(call.members), call.dtype, WORDS[call.direction], f"`{one.kernel}`"),
            *(str(one.clusters), str(one.at_a_time)),
            *(f"{1e3 * found.seconds:.3g}", f"{1e3 * found.seconds_of_loop:.3g}"),
            f"{found.seconds_of_loop / found.seconds:.1f}",
            f"{1e3 * one.seconds:.3g}, {1e3 * call.members * of_member.seconds:.3g}",
        ]
        yield f"| {' | '.join(cells)} |"
