"""Measure a suite: build, check, time, row after row."""

from __future__ import annotations

import dataclasses
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import check, kernels, machine, measure, memory, roofline
from benchmarks.contenders import ON_REQUEST, OURS, PEERS, Contender, GruExt, Problem, Step
from benchmarks.contenders.base import ModuleContender
from benchmarks.results import Row, Run, Timing
from benchmarks.suites import SUITES, Case, Pass, Suite

MOST_ROTATED_BYTES = 1 << 30


@dataclass(frozen=True)
class Settings:
    """The command line, with every default filled in."""

    suite: str
    device: torch.device
    dtype: torch.dtype
    passes: tuple[Pass, ...]
    against: tuple[str, ...]
    threads: int
    filter: str
    repeat: int
    block_seconds: float
    longest: float  # seconds

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**dataclasses.asdict(self), "device": str(self.device), "dtype": str(self.dtype).removeprefix("torch.")}


class Watcher:
    """Is told how a run goes; does nothing by itself."""

    def start(self, run: Run, rows: int) -> None:
        """Called once, before anything is measured."""

    def doing(self, what: str) -> None:
        """Called often."""

    def done(self, row: Row) -> None:
        """Called after each row."""


def rows_of(settings: Settings) -> list[tuple[Case, Pass]]:
    """What will be measured, in order."""
    suite = SUITES[settings.suite]
    return [
        (case, kind)
        for case in suite.cases(settings.threads)
        if re.search(settings.filter, str(case.size))
        for kind in settings.passes
        if kind == "forward" or not case.inference
    ]


def new_run(settings: Settings) -> Run:
    """A run without rows: who takes part, who does not and why."""
    absent = {name: reason for name in settings.against if (reason := PEERS[name].absent())}
    if {*settings.against, *ON_REQUEST} == set(PEERS):  # nobody was left out by choice
        absent |= {name: reason for name, reason in ON_REQUEST.items() if name not in settings.against}
    present: list[type[Contender]] = [GruExt, *(PEERS[name] for name in settings.against if name not in absent)]
    return Run(
        settings.suite,
        settings.as_json(),
        machine.facts(settings.device, settings.dtype, settings.threads),
        {c.name: {"version": c.version(), "configuration": c.configuration} for c in present},
        absent,
    )


def measure_suite(settings: Settings, watcher: Watcher) -> Run:
    """Measure every row. Ctrl-C ends it early; the run then has the rows that were done."""
    run = new_run(settings)
    rows = rows_of(settings)
    watcher.start(run, len(rows))
    suite = SUITES[settings.suite]
    used, start = machine.processor_seconds(), time.perf_counter()
    try:
        for case, kind in rows:
            threads = case.threads or settings.threads
            torch.set_num_threads(threads)
            peaks = _peaks(run, settings, threads, watcher.doing)
            bound = roofline.bound(case.size, kind, settings.dtype, peaks)
            row = Row(case.size, "kernels" if settings.suite == "kernels" else kind, threads, bound, busy=case.busy)
            watcher.doing(f"{row.size} {kind}: weights and inputs")
            if bound.seconds > settings.longest:
                row.left_out["all"] = f"one call takes at least {bound.seconds:.1f} s here; --longest allows it"
            elif settings.suite == "memory":
                _weigh(row, kind, run, settings, watcher.doing)
            elif settings.suite == "kernels":
                _time_kernels(row, settings, watcher.doing)
            else:
                _time(row, kind, run, suite, settings, watcher.doing)
            run.rows.append(row)
            watcher.done(row)
        _measure_peaks_again(run, settings, [kind for _, kind in rows], watcher.doing)
    except KeyboardInterrupt:
        run.interrupted = True
    finally:
        torch.set_num_threads(settings.threads)
        run.environment["used by others"] = machine.used_by_others(used, time.perf_counter() - start)
    return run


def _peaks(run: Run, settings: Settings, threads: int, doing: Callable[[str], None]) -> roofline.Peaks:
    """Of this machine for this number of threads, measured before the first row that needs them."""
    if str(threads) not in run.peaks:
        doing(f"peaks of this machine, {threads} threads")
        run.peaks[str(threads)] = dataclasses.asdict(roofline.measure(settings.dtype, settings.device, threads))
    return roofline.Peaks(**run.peaks[str(threads)])


def _measure_peaks_again(run: Run, settings: Settings, kinds: list[Pass], doing: Callable[[str], None]) -> None:
    """After the last row: the better of both measurements is what every row is held to."""
    for threads, first in run.peaks.items():
        doing(f"peaks of this machine again, {threads} threads")
        torch.set_num_threads(int(threads))
        again = roofline.measure(settings.dtype, settings.device, int(threads))
        run.peaks[threads] = dataclasses.asdict(roofline.Peaks(**first).best_of(again))
    for row, kind in zip(run.rows, kinds, strict=True):
        peaks = roofline.Peaks(**run.peaks[str(row.threads)])
        row.bound = roofline.bound(row.size, kind, settings.dtype, peaks)


def problem_of(case: Case, kind: Pass, settings: Settings) -> Problem:
    """Seeded weights."""
    size = case.size
    torch.manual_seed(0)
    module = nn.GRU(
        size.inputs, size.H, size.L, bidirectional=size.D == 2, dtype=settings.dtype, device=settings.device
    )
    return Problem(size, kind, module, case.threads or settings.threads)


def inputs_of(problem: Problem, count: int) -> list[tuple[Tensor, Tensor]]:
    """Several x (T, B, I) and dy (T, B, D*H)."""
    size, like = problem.size, problem.like
    return [
        (
            torch.randn(size.T, size.B, size.inputs).to(like),
            torch.randn(size.T, size.B, size.D * size.H).to(like),
        )
        for _ in range(count)
    ]


def _copies(problem: Problem, rotate: bool) -> int:
    """Inputs to rotate over; fewer where what backward keeps for each (four gates) would fill the memory."""
    size, item = problem.size, problem.dtype.itemsize
    one = size.T * size.B * (size.inputs + size.D * size.H) * item
    kept = one + (4 * size.T * size.B * size.D * size.L * size.H * item if problem.kind == "backward" else 0)
    most = MOST_ROTATED_BYTES // kept
    return measure.copies(one, machine.last_cache(problem.device), most) if rotate else 1


def _time(row: Row, kind: Pass, run: Run, suite: Suite, settings: Settings, doing: Callable[[str], None]) -> None:
    problem = problem_of(Case(row.size, row.threads), kind, settings)
    inputs = inputs_of(problem, _copies(problem, suite.rotate))
    doing(f"{row.size} {kind}: float64 reference")
    truth = check.answer(problem, *inputs[0])
    steps: dict[str, Step] = {}
    verdicts: dict[str, check.Verdict] = {}
    for name in run.contenders:
        doing(f"{row.size} {kind}: {name}, check")
        contender: type[Contender] = GruExt if name == OURS else PEERS[name]
        outcome = _prepare(contender, problem, inputs, truth)
        if isinstance(outcome, str):
            row.left_out[name] = outcome
        else:
            steps[name], verdicts[name] = outcome
    if not steps:
        return
    doing(f"{row.size} {kind}: timing {', '.join(steps)}")
    # Entered once, as around a loop that serves: in each call it would count against torch's modules alone.
    with machine.busy(row.busy), torch.set_grad_enabled(kind != "forward"):
        if suite.each_call:
            row.times = _each_call(steps, verdicts, settings)
        else:
            again = {"again": steps[OURS]} if OURS in steps else {}
            clock = measure.clock_for(settings.device, row.threads)
            times, calls = measure.alternate({**steps, **again}, clock, settings.repeat, settings.block_seconds)
            row.again = times.pop("again", [])
            row.times = {name: Timing(times[name], calls[name], verdicts[name].times_framework) for name in steps}


def _each_call(steps: dict[str, Step], verdicts: dict[str, check.Verdict], settings: Settings) -> dict[str, Timing]:
    rounds = measure.each_call(steps, settings.device, settings.repeat, settings.block_seconds)
    return {
        name: Timing(
            [statistics.fmean(calls) for calls in times],
            sum(map(len, times)) // len(times),
            verdicts[name].times_framework,
            measure.slowest_hundredth([seconds for calls in times for seconds in calls]),
        )
        for name, times in rounds.items()
    }


def _prepare(
    contender: type[Contender], problem: Problem, inputs: Sequence[tuple[Tensor, Tensor]], truth: check.Answer
) -> tuple[Step, check.Verdict] | str:
    """A checked step that rotates over the inputs, or why there is none."""
    if reason := contender.refuses(problem):
        return reason
    try:
        made = contender(problem)
        steps = [made.step(x, dy) for x, dy in inputs]
        verdict = check.judge(contender.name, made.results(steps[0]()), truth)
    except Exception as error:  # a peer's failure is a result too; ours is an error
        if contender is GruExt:
            raise
        return f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return (measure.Rotation(steps), verdict) if verdict.right else str(verdict)


def _time_kernels(row: Row, settings: Settings, doing: Callable[[str], None]) -> None:
    problem = problem_of(Case(row.size, row.threads), "train", settings)
    doing(f"{row.size}: timing the kernels")
    if reason := GruExt.refuses(problem):
        row.left_out[OURS] = reason
        return
    steps = kernels.steps(problem.module, *inputs_of(problem, 1)[0])
    clock = measure.clock_for(settings.device, row.threads)
    times, calls = measure.alternate(steps, clock, settings.repeat, settings.block_seconds)
    row.times = {name: Timing(times[name], calls[name], 0.0) for name in steps}


def _weigh(row: Row, kind: Pass, run: Run, settings: Settings, doing: Callable[[str], None]) -> None:
    problem = problem_of(Case(row.size, row.threads), kind, settings)
    for name in run.contenders:
        doing(f"{row.size} {kind}: memory of {name}")
        contender = GruExt if name == OURS else PEERS[name]
        reason = contender.refuses(problem)
        if settings.device.type == "cuda" and not issubclass(contender, ModuleContender):
            reason = "its memory on a GPU is not torch's, which alone is counted"
        if reason:
            row.left_out[name] = reason
            continue
        try:
            row.peak_bytes[name] = memory.weigh(name, row.size, kind, settings.dtype, settings.device, row.threads)
        except memory.WeighError as error:
            row.left_out[name] = f"failed: {error}"
