"""Run every compiled kernel on the CPU, from the objects that nvcc made of csrc/cuda, on a problem at least.

Part of ``make cuda-check``, which compiles them: ``python tests/check_compiled_kernels.py OBJECT...``.
Kernels of large layers are run without the checks of order, which the small ones of the same source have. What is
compiled for one architecture and not for another are the clusters, from sm_90 on.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from accuracy import check_problems
from cases import Options, Problem, Size, make_problem, reference_with, solve, variants_of
from compare import assert_all_accurate, assert_same_bits
from compiled_kernels import PERSISTENT_NAME, kernels_of, linked
from emulation import EmulationError, Schedule
from persistent_kernels import Config, HeldConfig, StreamedConfig, persistent_fwd, solve_persistent
from step_kernels import NAMES, normalise, one_step, solve_by_steps
from torch import Tensor

from gru_ext.variant import PLAIN, Variant

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float": torch.float32, "ieee": torch.float32}
WITH_ORDER = 256  # the largest H of those whose accesses are checked for their order


def config_of(kernel: str) -> Config:
    """Of a kernel's name."""
    found = PERSISTENT_NAME.fullmatch(kernel)
    assert found is not None, kernel
    family, _, dtype, hidden, blocks, units, rows, masked = found.groups()
    if family == "streamed":
        return StreamedConfig(DTYPES[dtype], int(units), int(rows), shared_slabs=0, masked=masked is not None)
    return HeldConfig(DTYPES[dtype], int(hidden), int(blocks), int(rows), family == "group", dtype == "ieee")


def problems_of(config: Config) -> list[Problem]:
    """An H whose rows are not aligned, and one whose are; in small layers two tiles, packed and both directions."""
    problems = []
    for ragged in (True, False):
        hidden = config.hidden if isinstance(config, HeldConfig) else 4 * config.units + 32
        if ragged:
            hidden -= 13 if hidden < WITH_ORDER else 14
        small = hidden < WITH_ORDER
        size = Size(3 if small else 2, config.rows + 1 if small and config.rows < 32 else 3, 2, hidden)
        problems.append(make_problem(size, Options(bidirectional=small, packed=small and ragged), config.dtype))
    return problems


def check_persistent(config: Config, backward: bool, library: ctypes.CDLL) -> None:
    """Results, and gradients where there is a backward; inference gives the bits of training."""
    for problem in problems_of(config):
        check_problem(config, problem, backward, library)


def check_problem(config: Config, problem: Problem, backward: bool, library: ctypes.CDLL) -> None:
    """As above, of one problem."""
    hidden = problem.weights[1].shape[1]
    schedule = Schedule(seed=hidden, races=hidden < WITH_ORDER, library=lambda: library)
    masked = isinstance(config, StreamedConfig) and config.masked
    variant = variants_of(problem)["all"] if masked else PLAIN
    if not backward:
        problem = replace(problem, dy=None, dh_n=None)
    inference = persistent_fwd(config, problem, save_gates=False, schedule=schedule, variant=variant)
    ours = {"y": inference.y, "h_n": inference.h_n}
    if backward:
        ours = solve_persistent(config, problem, schedule=schedule, variant=variant)
        assert_same_bits(inference.y, ours["y"])
        assert_same_bits(inference.h_n, ours["h_n"])
    else:
        persistent_fwd(config, problem, schedule=schedule, variant=variant)
    check_problems([problem], lambda *_: ours, variant, peer=config.peer_dtype)


def check_steps(dtype: torch.dtype, schedule: Schedule) -> None:
    """The stepwise kernels, with the reset gate after the recurrent product and before; and normalisations."""
    for reset_after in (True, False):
        problem = make_problem(Size(3, 5, 4, 33), Options(), dtype)
        layer = reference_with(Variant(reset_after=reset_after))
        ours = solve_by_steps(problem, reset_after, schedule)
        assert_all_accurate(ours, solve(layer, problem), solve(layer, problem.to(torch.float64)))
    for norms in (1, 2):
        values, d = (torch.randn(5, 99, dtype=torch.float64).to(dtype) for _ in range(2))
        gain = (1 + 0.3 * torch.randn(99, dtype=torch.float64)).to(dtype)
        theirs = normalise_by_torch(values, gain, norms, d)
        expected = normalise_by_torch(values.double(), gain.double(), norms, d.double())
        assert_all_accurate(normalise(values, gain, norms, d, schedule), theirs, expected)


def normalise_by_torch(values: Tensor, gain: Tensor, norms: int, d: Tensor) -> dict[str, Tensor]:
    """As ``step_kernels.normalise``."""
    values = values.detach().requires_grad_()
    parts = values.split([99] if norms == 1 else [66, 33], dim=1)
    normalised = gain * torch.cat([torch.nn.functional.layer_norm(part, part.shape[1:]) for part in parts], dim=1)
    return {"normalised": normalised.detach(), "dvalues": torch.autograd.grad(normalised, values, d)[0]}


def check_one_step(dtype: torch.dtype, schedule: Schedule) -> None:
    """Every tile of rows, full and not; rows that are aligned, and not."""
    for batch, inputs, hidden in ((1, 40, 8), (2, 5, 7), (3, 24, 16), (6, 1096, 3)):
        problem = replace(make_problem(Size(1, batch, inputs, hidden), Options(), dtype), dy=None, dh_n=None)
        check_problems([problem], lambda problem, *_: one_step(problem, schedule))


class Outcome(NamedTuple):
    """Of some kernels."""

    failures: list[str]
    run: set[str]  # as nvcc names them
    all: set[str]
    executed: Counter[str]  # instructions of the kernels that ran, by family
    instructions: Counter[str]
    slowest: list[tuple[float, str]]


def check_kernel(kernel: str, library: ctypes.CDLL) -> None:
    """A forward kernel, and the backward that belongs to it."""
    torch.manual_seed(0)
    dtype = {name: dtype for dtype, name in NAMES.items()}.get(kernel.rsplit("_", 1)[1])
    schedule = Schedule(library=lambda: library)
    if kernel.startswith("gru_one_step_") and dtype is not None:
        check_one_step(dtype, schedule)
    elif kernel.startswith("gru_step_") and dtype is not None:
        check_steps(dtype, schedule)
    else:
        check_persistent(config_of(kernel), kernel.replace("_fwd_", "_bwd_") in kernels_of(library), library)


def family_of(kernel: str) -> str:
    """``gru_cluster_fwd_kernel`` of a kernel as nvcc names it."""
    found = re.search(r"\d(gru_[a-z_]+_kernel)", kernel)
    return found[1] if found else kernel


def has_cluster(kernel: str) -> bool:
    """Whether a kernel is launched as clusters of several blocks."""
    return kernel.startswith("gru_cluster_") and "_C1_" not in kernel


def check_some(objects: Sequence[Path], architecture: int, kernels: Sequence[str]) -> Outcome:
    """One after the other, in a process of its own."""
    torch.set_num_threads(1)
    library = linked(tuple(objects))
    library.gru_ptx_use_architecture(architecture)
    for function in (library.gru_ptx_kernels, library.gru_ptx_coverage):
        function.argtypes, function.restype = [], ctypes.c_char_p
    failures, slowest = [], []
    for kernel in kernels:
        start = time.monotonic()
        try:
            check_kernel(kernel, library)
        except (AssertionError, EmulationError) as failure:
            failures.append(f"{kernel}: {failure}")
        slowest.append((time.monotonic() - start, kernel))
    lines = [line.split() for line in library.gru_ptx_kernels().decode().splitlines()]
    instructions: Counter[str] = Counter()
    executed: Counter[str] = Counter()
    for line in library.gru_ptx_coverage().decode().splitlines():
        count, times, _, kernel = line.split()
        instructions[family_of(kernel)] += int(count)
        executed[family_of(kernel)] += int(times)
    run = {name for was_run, name in lines if was_run == "1"}
    return Outcome(failures, run, {name for _, name in lines}, executed, instructions, sorted(slowest)[-3:])


def main() -> None:
    """Run all of them in as many processes as there are cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", nargs="+", type=Path)
    parser.add_argument("--architecture", type=int, default=90, help="90 for sm_90")
    parser.add_argument("--only", default="", help="part of the names of the kernels to run")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th of the kernels")
    arguments = parser.parse_args()
    start = time.monotonic()
    objects = sorted(path.resolve() for path in arguments.objects)
    # Of the stepwise kernels of a dtype the first stands for all.
    others = re.compile("gru_step_(reset|candidate|norm)_")
    forwards = [
        name
        for name in kernels_of(linked(tuple(objects)))
        if "_fwd_" in name
        and not others.match(name)
        and arguments.only in name
        and (arguments.architecture >= 90 or not has_cluster(name))
    ][:: arguments.every]
    cores = len(os.sched_getaffinity(0))
    parts = [forwards[i :: 4 * cores] for i in range(4 * cores)]
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        outcomes = list(pool.map(partial(check_some, objects, arguments.architecture), filter(None, parts)))
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    run = set().union(*(outcome.run for outcome in outcomes))
    left = set().union(*(outcome.all for outcome in outcomes)) - run
    if arguments.architecture < 90:
        left = {name for name in left if "gru_cluster_" not in name}
    executed, instructions = Counter[str](), Counter[str]()
    for outcome in outcomes:
        executed += outcome.executed
        instructions += outcome.instructions
    for seconds, name in sorted(slow for outcome in outcomes for slow in outcome.slowest)[-5:]:
        print(f"{seconds:6.1f} s {name}")
    share = executed.total() / max(1, instructions.total())
    seconds = time.monotonic() - start
    print(f"sm_{arguments.architecture}: {len(run)} compiled kernels ran in {seconds:.0f} s on {cores} cores;", end=" ")
    print(f"{100 * share:.1f}% of their {instructions.total()} PTX instructions were executed:")
    for family, count in sorted(instructions.items()):
        print(f"{100 * executed[family] / count:6.1f}% of {count} of {family}")
    if failures:
        sys.exit("\n".join(failures))
    if left and not arguments.only and arguments.every == 1:
        sys.exit(f"{len(left)} compiled kernels have not been run: {' '.join(sorted(left))}")


if __name__ == "__main__":
    main()
