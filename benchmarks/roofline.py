"""The least time that a row could take on this machine, from measured peaks.

Three limits, of which the largest holds:

- arithmetic: 2 (I + H) 3H floating-point operations a row and step forward, twice that again backward, at the rate of
  the best large matrix product measured;
- memory: R read once a step from whichever level of memory holds it (not counted where it fits in the first-level
  caches), and W, x, y and their gradients once;
- steps: T steps follow one another, and none is quicker than the step of the smallest GRU measured here.

The peaks are measured with library routines, not read from a data sheet: a row may do better than one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

import gru_ext
from benchmarks import machine
from benchmarks.measure import Clock, clock_for
from benchmarks.suites import Pass, Size

GEMM = 1024
CHAIN = 2000
READS = (1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28)  # bytes
TRIES = 5


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


def traffic(size: Size, kind: Pass, item: int) -> list[tuple[float, float]]:
    """(bytes moved, size of the set they are read from) of weights and of inputs and outputs; ``item`` bytes a number.

    R once for each step; W once; x and y once forward; backward x, y, dy, dx and the gradients of the weights.
    """
    parts = []
    for inputs, hidden in _layers(size):
        recurrent, weight = 3.0 * hidden * hidden * item, 3.0 * hidden * inputs * item
        parts.append((sweeps(kind) * size.T * recurrent, recurrent))
        streams = 1.0 * size.T * size.B * (inputs + hidden) * item
        if kind != "forward":
            streams = streams * (2 if kind == "backward" else 3) + recurrent + weight
        parts += [(sweeps(kind) * weight, recurrent + weight), (streams, math.inf)]
    return parts


def bound(size: Size, kind: Pass, dtype: torch.dtype, peaks: Peaks) -> Bound:
    """The least time of a row, and what sets it."""
    work, moved = flops(size, kind), traffic(size, kind, dtype.itemsize)
    limits = {
        "arithmetic": work / peaks.flops,
        "memory": sum(amount / peaks.bandwidth(held) for amount, held in moved),
        "steps": sweeps(kind) * size.T * size.L * peaks.step_seconds,
    }
    by = max(limits, key=lambda name: limits[name])
    return Bound(limits[by], by, work, sum(amount for amount, _ in moved))


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
    """Operations a second of torch.mm and, on a CPU in float32, of oneDNN, which knows AVX-512 where MKL may not."""
    n = GEMM if device.type == "cpu" else 8 * GEMM
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    products = [lambda: torch.mm(a, b, out=out)]
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        c, d, zero = a.to_mkldnn(), b.to_mkldnn(), torch.zeros(n).to_mkldnn()
        products.append(lambda: nn.functional.linear(c, d, zero))
    return 2.0 * n**3 / min(clock(product, 3) for product in products for _ in range(TRIES))


def _reads(device: torch.device, clock: Clock) -> dict[int, float]:
    """Bytes a second of summing, the fastest of torch's reductions, for several sizes."""
    rates = {}
    for size in READS:
        values = torch.ones(size // 4, device=device)
        calls = max(1, min(1000, (1 << 26) // size))
        rates[size] = size / min(clock(values.sum, calls) for _ in range(TRIES))
    return rates


def _step(dtype: torch.dtype, device: torch.device, clock: Clock) -> float:
    """Seconds a step of a GRU of 8 units and one row: ours or, on a device that has no kernels of ours, torch's."""
    x = torch.zeros(CHAIN, 1, 8, device=device, dtype=dtype)

    def seconds(module: nn.Module) -> float:
        with torch.no_grad():
            return min(clock(lambda: module(x), 3) for _ in range(TRIES)) / CHAIN

    try:
        return seconds(gru_ext.GRU(8, 8, device=device, dtype=dtype))
    except NotImplementedError:
        return seconds(nn.GRU(8, 8, device=device, dtype=dtype))
