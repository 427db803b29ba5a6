"""The least time that a row could take on this machine, from measured peaks.

Three limits, of which the largest holds:

- arithmetic: 2 (I + H) 3H floating-point operations a row and step forward, twice that again backward, at the rate of
  the best large matrix product measured, ours among them;
- memory: R read once a step, each part of it from the nearest level of memory that has room for it (nothing for what
  fits in the first-level caches), and W, x, y and their gradients once;
- steps: T steps follow one another, and none is quicker than the step of the smallest GRU measured here. A layer can
  be one step behind the layer below it; above both directions it has to wait for all of them.

The peaks are measured with routines, not read from a data sheet: a row may do better than one of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

import gru_ext
from benchmarks import machine
from benchmarks.contenders import Step
from benchmarks.measure import Clock, clock_for
from benchmarks.suites import Pass, Size

GEMM = 1024
LEAST_PRODUCT = 2e-3  # seconds; a shorter one is mostly its beginning and its end
CHAIN = 2000
READS = (1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28)  # bytes
# At least so many tries, for at least so long, as another program may hold a core; but none after MOST_SECONDS.
TRIES, SECONDS, MOST_SECONDS = 5, 0.15, 1.0


@dataclass(frozen=True)
class Peaks:
    """What this machine reached, for one dtype and number of threads."""

    flops: float  # a second
    bytes: dict[int, float]  # size of what is read again and again, to bytes a second
    step_seconds: float
    nearest_bytes: int  # first-level caches of all threads together: what fits there limits nothing

    def bandwidth(self, size: float) -> float:
        """Bytes a second for reading so many bytes again and again: the best measured for as many or more."""
        if size <= self.nearest_bytes:
            return math.inf
        return max(rate for measured, rate in self.bytes.items() if measured >= min(size, max(self.bytes)))

    def sweep_seconds(self, size: float) -> float:
        """Reading so many bytes once, again and again, with each part kept as near as there is room."""
        seconds, read = 0.0, float(self.nearest_bytes)
        for level in (*sorted(self.bytes), math.inf):
            part = min(size, level) - read
            if part > 0:
                seconds += part / self.bandwidth(level)
                read += part
        return seconds

    def best_of(self, other: Peaks) -> Peaks:
        """The better of two measurements, each peak by itself: another program may have held a core in one of them."""
        return Peaks(
            max(self.flops, other.flops),
            {size: max(rate, other.bytes[size]) for size, rate in self.bytes.items()},
            min(self.step_seconds, other.step_seconds),
            self.nearest_bytes,
        )


@dataclass(frozen=True)
class Bound:
    """The least time of a row."""

    seconds: float
    by: str
    flops: float
    bytes: float


def _layers(size: Size) -> Iterator[tuple[int, int]]:
    """Input units and hidden units of each layer and direction."""
    for layer in range(size.L):
        for _ in range(size.D):
            yield (size.inputs if layer == 0 else size.D * size.H), size.H


def flops(size: Size, kind: Pass) -> float:
    """Multiplications and additions of the matrix products; of the gates' element-wise operations, none."""
    forward = sum(2.0 * 3 * hidden * (inputs + hidden) for inputs, hidden in _layers(size)) * size.T * size.B
    return forward * {"forward": 1, "backward": 2, "train": 3}[kind]


def sweeps(kind: Pass) -> int:
    """How often a pass goes through the T steps."""
    return 2 if kind == "train" else 1


def recurrent_bytes(size: Size, item: int) -> list[float]:
    """R of each layer and direction, read once for each step; ``item`` bytes a number."""
    return [3.0 * hidden * hidden * item for _, hidden in _layers(size)]


def traffic_once(size: Size, kind: Pass, item: int) -> list[tuple[float, float]]:
    """(bytes moved, size of the set they are read from) of all but R; ``item`` bytes a number.

    W once for each pass through the steps; x and y once forward; backward x, y, dy, dx and the weights' gradients.
    """
    parts = []
    for inputs, hidden in _layers(size):
        recurrent, weight = 3.0 * hidden * hidden * item, 3.0 * hidden * inputs * item
        streams = 1.0 * size.T * size.B * (inputs + hidden) * item
        if kind != "forward":
            streams = streams * (2 if kind == "backward" else 3) + recurrent + weight
        parts += [(sweeps(kind) * weight, recurrent + weight), (streams, math.inf)]
    return parts


def chain(size: Size, kind: Pass) -> int:
    """Steps that must follow one another."""
    return sweeps(kind) * (size.T * size.L if size.D == 2 else size.T + size.L - 1)


def bound(size: Size, kind: Pass, dtype: torch.dtype, peaks: Peaks) -> Bound:
    """The least time of a row, and what sets it."""
    work, once = flops(size, kind), traffic_once(size, kind, dtype.itemsize)
    recurrent, reads = recurrent_bytes(size, dtype.itemsize), sweeps(kind) * size.T
    limits = {
        "arithmetic": work / peaks.flops,
        "memory": reads * sum(map(peaks.sweep_seconds, recurrent)) + sum(n / peaks.bandwidth(held) for n, held in once),
        "steps": chain(size, kind) * peaks.step_seconds,
    }
    by = max(limits, key=lambda name: limits[name])
    return Bound(limits[by], by, work, reads * sum(recurrent) + sum(amount for amount, _ in once))


def measure(dtype: torch.dtype, device: torch.device, threads: int) -> Peaks:
    """Measure the peaks; some seconds."""
    clock = clock_for(device, threads)
    return Peaks(
        _gemm(dtype, device, clock),
        _reads(device, clock),
        _step(dtype, device, clock),
        machine.nearest_cache(device, threads),
    )


def _gemm(dtype: torch.dtype, device: torch.device, clock: Clock) -> float:
    """Operations a second of torch.mm and, on a CPU, of two that may know more of the processor's instructions.

    Those are oneDNN in float32, and one step of our own GRU with many rows, which is almost nothing but products.
    """
    n = GEMM if device.type == "cpu" else 8 * GEMM
    while True:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        seconds = _best(partial(torch.mm, a, b, out=out), 1, clock)
        if device.type != "cpu" or seconds >= LEAST_PRODUCT:
            break
        n *= 2
    rates = [2.0 * n**3 / seconds]
    if device.type == "cpu":
        half = Size(1, n // 2, n // 2)
        ours, rows = gru_ext.GRU(half.inputs, half.H, dtype=dtype), a[: half.B, : half.inputs].unsqueeze(0).contiguous()
        with torch.no_grad():
            rates.append(_rate(lambda: ours(rows), flops(half, "forward"), clock))
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        c, d, zero = a.to_mkldnn(), b.to_mkldnn(), torch.zeros(n).to_mkldnn()
        rates.append(_rate(lambda: nn.functional.linear(c, d, zero), 2.0 * n**3, clock))
    return max(rates)


def _rate(product: Step, operations: float, clock: Clock) -> float:
    return operations / _best(product, 1, clock)


def _best(step: Step, calls: int, clock: Clock) -> float:
    """The fewest seconds a call."""
    start = time.perf_counter()
    best, tries, passed = math.inf, 0, 0.0
    while passed < SECONDS or (tries < TRIES and passed < MOST_SECONDS):
        best, tries = min(best, clock(step, calls)), tries + 1
        passed = time.perf_counter() - start
    return best


def _reads(device: torch.device, clock: Clock) -> dict[int, float]:
    """Bytes a second of summing, the fastest of torch's reductions, for several sizes."""
    rates = {}
    of_memory = 4 * machine.last_cache(device)  # of a server, more than READS has
    for size in (*READS, *([of_memory] if of_memory > READS[-1] else [])):
        values = torch.ones(size // 4, device=device)
        calls = max(1, min(1000, (1 << 26) // size))
        rates[size] = size / _best(values.sum, calls, clock)
    return rates


def _step(dtype: torch.dtype, device: torch.device, clock: Clock) -> float:
    """Seconds a step of a GRU of 8 units and one row: ours or, on a device that has no kernels of ours, torch's."""
    x = torch.zeros(CHAIN, 1, 8, device=device, dtype=dtype)

    def seconds(module: nn.Module) -> float:
        with torch.no_grad():
            return _best(lambda: module(x), 3, clock) / CHAIN

    try:
        return seconds(gru_ext.GRU(8, 8, device=device, dtype=dtype))
    except NotImplementedError:
        return seconds(nn.GRU(8, 8, device=device, dtype=dtype))
