"""Timing several things alternately, and what is read from the times.

A round gives every contender one block of calls, in an order that is drawn anew for each round (seeded), so that
whatever else the machine does, and whatever one leaves behind for the next, falls on all of them. A first round warms
up and is not counted, unless a call takes half a second. On a CPU a block begins when the threads of the one before
sleep; ``torch.utils.benchmark`` times it, after two calls of warm-up. On a GPU two CUDA events do, with no
synchronisation between them. Where slow calls are asked for, every call of a block is timed by itself.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

from benchmarks.contenders import Step

Clock = Callable[[Step, int], float]  # a step and a number of calls, to seconds a call

MOST_CALLS = 100_000
MOST_COPIES = 1024
SLOW = 0.5  # seconds a call, from which on fewer rounds are run
LOOK = 0.005  # seconds, in which threads that sleep use less than ASLEEP seconds of a processor
ASLEEP = 0.0005
MOST_LOOKS = 50


@dataclass(frozen=True)
class Spread:
    """Median, and the smallest and largest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def let_threads_sleep() -> None:
    """Return when no thread of this process computes, as those of some libraries do while they wait for work.

    Or after a quarter of a second.
    """
    before = time.process_time()
    for _ in range(MOST_LOOKS):
        time.sleep(LOOK)
        now = time.process_time()
        if now - before < ASLEEP:
            return
        before = now


def cpu_clock(threads: int) -> Clock:
    """Wall time on so many torch threads."""

    def seconds(step: Step, calls: int) -> float:
        let_threads_sleep()
        timer = Timer(stmt="step()", globals={"step": step}, num_threads=threads)
        return float(timer.timeit(calls).median)

    return seconds


def cuda_clock(device: torch.device) -> Clock:
    """Time on a GPU, between two events on its default stream.

    That stream, unlike others, waits for what a library does on streams of its own, if it made them with the defaults.
    """

    def seconds(step: Step, calls: int) -> float:
        with torch.cuda.device(device):
            for _ in range(2):
                step()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            stream = torch.cuda.default_stream(device)
            start.record(stream)
            for _ in range(calls):
                step()
            end.record(stream)
            end.synchronize()
            return 1e-3 * float(start.elapsed_time(end)) / calls

    return seconds


def clock_for(device: torch.device, threads: int) -> Clock:
    """The clock of a device."""
    return cuda_clock(device) if device.type == "cuda" else cpu_clock(threads)


class Rotation:
    """A step that takes the next of several inputs each time it is called."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.next = itertools.cycle(steps).__next__

    def __call__(self) -> object:
        """Take it."""
        return self.next()()


def copies(bytes_of_one: int, cache_bytes: int, most: int = MOST_COPIES) -> int:
    """Inputs to rotate over: together twice the last cache, but at least two, and at most ``most`` or MOST_COPIES."""
    return max(2, min(most, MOST_COPIES, math.ceil(2 * cache_bytes / max(1, bytes_of_one))))


def rounds_of(repeat: int, slowest: float) -> int:
    """Rounds to run where the slowest contender takes so many seconds a call."""
    return repeat if slowest < SLOW else max(3, repeat // 2)


def alternate(
    steps: Mapping[str, Step], clock: Clock, repeat: int, block_seconds: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds a call, one value a round, and the calls of a block, for each name."""
    first = {name: clock(step, 1) for name, step in steps.items()}
    calls = {name: min(MOST_CALLS, max(1, round(block_seconds / seconds))) for name, seconds in first.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    names, order = list(steps), random.Random(0)
    slowest = max(first.values())
    for turn in range(-1 if slowest < SLOW else 0, rounds_of(repeat, slowest)):
        for name in order.sample(names, len(names)):
            seconds = clock(steps[name], calls[name])
            if turn >= 0:
                times[name].append(seconds)
    return times, calls


def each_call(
    steps: Mapping[str, Step], device: torch.device, repeat: int, block_seconds: float
) -> dict[str, list[list[float]]]:
    """Seconds of every call, a list a round, for each name. A block is calls in a row, when other threads sleep."""
    times: dict[str, list[list[float]]] = {name: [] for name in steps}
    names, order = list(steps), random.Random(0)
    for turn in range(-1, repeat):
        for name in order.sample(names, len(names)):
            let_threads_sleep()
            seconds = _calls_in_a_row(steps[name], device, block_seconds)
            if turn >= 0:
                times[name].append(seconds)
    return times


def _calls_in_a_row(step: Step, device: torch.device, block_seconds: float) -> list[float]:
    seconds = []
    first = before = time.perf_counter()
    while before < first + block_seconds:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        after = time.perf_counter()
        seconds.append(after - before)
        before = after
    return seconds


def slowest_hundredth(seconds: Sequence[float]) -> float:
    """Seconds at which it begins, of at least one call."""
    return sorted(seconds)[-max(1, len(seconds) // 100)]


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """Their time over ours, round by round."""
    return Spread.of([their / our for their, our in zip(theirs, ours, strict=True)])


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values."""
    return statistics.geometric_mean(values)
