"""What a layer should take on a machine with more cores than this one: ``python -m benchmarks scaling --cores 64``.

A team of P threads is planned as on P cores. The parts of the work are run in their order, and of each part each
thread's share by itself, and timed; a part takes as long as its longest share. So a share reads what others wrote from
the last cache, as it does where cores share that. To the times is added what one core cannot show: waits, what threads
read from beyond the cache that their cores share, the parallel region and the handing out of its parts, by the
constants below. ``nn.GRU`` beside it by the same method: on one thread, with a share of the rows, and a region for each
of its operations; of it, what threads read from afar is left out.

With 2 threads the sum is compared with the clock: how far it can be trusted.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from benchmarks.suites import Size

# As csrc/cpu/threads.cpp has them. Microseconds: of a wait of two threads for each other, as measured between two cores
# that share a cache, and of a parallel region.
WAIT, REGION = 0.75, 5.0
FURTHER = 1 / 8  # of a wait, for each member beyond the second: assumed
TOGETHER = 8  # neighbouring threads that say together when they have done a part: csrc/cpu/crew.h
# Neighbouring threads whose cores share the last cache, as those of an EPYC since Zen 3 do.
CACHE_CORES = 8
# Bytes a microsecond that a thread reads from another such cache while its neighbours do so too, which is assumed;
# and of packed weights, which all threads read.
AFAR, SHARED = 10e3, 30e3
OPERATIONS = 2  # of nn.GRU in a step, that run on all threads: the product and the gates
ROUNDS = 5
WARM_UP = 0.01  # seconds


@dataclass(frozen=True)
class UnequalLengths(Size):
    """Of a packed batch: the lengths are T to 1, evenly."""

    def __str__(self) -> str:
        """As that of ``Size``."""
        return f"{super().__str__()}, unequal lengths"


SIZES = [
    Size(40, 256, 64),
    Size(40, 64, 256),
    Size(20, 128, 256),
    Size(20, 64, 512),
    Size(40, 8, 64),
    Size(20, 8, 32, I=3000),
    UnequalLengths(40, 256, 64),
    UnequalLengths(40, 64, 256),
]


@dataclass(frozen=True)
class Predicted:
    """Seconds of its parts, and how the team is split."""

    serial: float  # what one thread does for all
    longest: float  # of the parts that all threads have: of their longest threads
    average: float  # likewise, of all threads by their number
    regions: float  # what the parallel region of the call costs, and to hand out its parts
    waits: float
    reading: float
    row_groups: int
    members: int

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return self.serial + self.longest + self.regions + self.waits + self.reading


def _wait_of(threads: int) -> float:
    """Microseconds that so many threads wait for each other at a step."""
    return WAIT * (1 + FURTHER * (threads - 2))


def _hand_out(threads: int) -> float:
    """Microseconds of a part that all threads have: they wait for the first, and it for them."""
    if threads <= TOGETHER:
        return WAIT + _wait_of(threads)
    return WAIT + _wait_of(TOGETHER) + _wait_of(TOGETHER - 1 + -(-threads // TOGETHER))


def _median(step: Callable[[], object]) -> float:
    """Seconds a call, after as many in a row as wake the threads."""
    end = time.perf_counter() + WARM_UP
    while time.perf_counter() < end:
        step()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _inputs(size: Size, rows: int) -> tuple[nn.GRU, Tensor, Tensor | None]:
    """The module, x and, of a packed batch, its batch_sizes."""
    torch.manual_seed(0)
    module, x = nn.GRU(size.inputs, size.H), torch.randn(size.T, rows, size.inputs)
    if not isinstance(size, UnequalLengths):
        return module, x, None
    lengths = torch.tensor([size.T - row * size.T // rows for row in range(rows)])
    packed = pack_padded_sequence(x, lengths)
    return module, packed.data, packed.batch_sizes


def predict(size: Size, backward: bool, threads: int) -> Predicted:
    """Ours, of one pass."""
    module, x, batch_sizes = _inputs(size, size.B)
    weights = [weight.detach() for weight in module.parameters()]
    wait = _wait_of(threads) if threads > 1 else WAIT
    rehearse, of_team = torch.ops.gru_ext.rehearse_cpu, (threads, CACHE_CORES, wait, backward)
    runs = [rehearse(x, weights, *of_team, batch_sizes) for _ in range(ROUNDS)]
    serial, longest, average, parts = (statistics.median(run[i] for run in runs) for i in range(4))
    row_groups, members, from_afar = int(runs[0][4]), int(runs[0][5]), runs[0][6]
    # Of the packed weights a member reads its own part of R, and forward of W; backward a thread needs all of W for dx.
    weight_bytes = 4 * 3 * size.H * (size.H / members + size.inputs / (1 if backward else members))
    return Predicted(
        serial=serial,
        longest=longest,
        average=average,
        regions=1e-6 * (REGION + parts * _hand_out(threads)) if threads > 1 else 0,
        waits=1e-6 * size.T * _wait_of(members) if members > 1 else 0,
        reading=1e-6 * (from_afar / AFAR + weight_bytes / SHARED) if threads > 1 else 0,
        row_groups=row_groups,
        members=members,
    )


def predict_torch(size: Size, backward: bool, threads: int) -> float:
    """``nn.GRU``: seconds of one pass."""
    module, x, batch_sizes = _inputs(size, -(-size.B // threads))
    x.requires_grad_(backward)
    given = x if batch_sizes is None else PackedSequence(x, batch_sizes)
    output = module(given)[0]
    y = output if batch_sizes is None else output.data
    dy = torch.ones_like(y)

    def forward() -> None:
        with torch.no_grad():
            module(given)

    alone = _median((lambda: y.backward(dy, retain_graph=True)) if backward else forward)
    passes = 2 if backward else 1
    return alone + (1e-6 * REGION * OPERATIONS * passes * size.T if threads > 1 else 0)


def clock(size: Size, backward: bool, threads: int) -> float:
    """Seconds that ours takes on so many real threads."""
    module, x, sizes = _inputs(size, size.B)
    weights = [weight.detach() for weight in module.parameters()]
    ops = torch.ops.gru_ext
    y, _, gates = ops.gru_fwd(x, None, weights, sizes, False, True)
    dy = torch.ones_like(y)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if backward:
            return _median(lambda: ops.gru_bwd(dy, None, x, None, weights, sizes, False, y, gates, True, False, True))
        return _median(lambda: ops.gru_fwd(x, None, weights, sizes, False, False))
    finally:
        torch.set_num_threads(before)


def main(cores: int, pattern: str) -> int:
    """Print the table; exit status 2 where no size has the pattern in its name."""
    sizes = [size for size in SIZES if re.search(pattern, str(size))]
    if not sizes:
        print(f"no size has {pattern} in its name (T,B,H): {'; '.join(map(str, SIZES))}")
        return 2
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64, 128) if count < cores] + [cores]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    print(f"predicted; a wait {WAIT} us, {FURTHER} of it for each member beyond 2, a region {REGION} us")
    print(
        f"{CACHE_CORES} cores share a cache; others are read at {AFAR / 1e3:g} GB/s, weights at {SHARED / 1e3:g} GB/s"
    )
    print("row groups x members; efficiency against one core; the longest part over the average one; microseconds of")
    print("what one thread does for all, longest parts, region and handing out, waits, reading")
    try:
        for size in sizes:
            for backward in (False, True):
                _print_size(size, backward, counts)
    finally:
        torch.set_num_threads(before)
    return 0


def _print_size(size: Size, backward: bool, counts: list[int]) -> None:
    """One size and pass on each number of cores."""
    print(f"\n{size} {'backward' if backward else 'forward'}")
    alone = min(predict(size, backward, 1).seconds for _ in range(3))  # the first finds a cold machine
    for count in counts:
        ours = predict(size, backward, count)
        theirs = predict_torch(size, backward, count)
        longest = f"{ours.longest / ours.average:.2f}" if ours.average else "   -"
        line = (
            f"{count:4} cores  {ours.row_groups:2} x {ours.members:<2}  {1e3 * ours.seconds:9.3f} ms"
            f"  efficiency {alone / ours.seconds / count:4.2f}  longest {longest}  nn.GRU {1e3 * theirs:9.3f} ms  parts"
        )
        for part in (ours.serial, ours.longest, ours.regions, ours.waits, ours.reading):
            line += f" {1e6 * part:7.1f}"
        if count == 2:
            line += f"  clock {1e3 * clock(size, backward, 2):9.3f} ms"
        print(line)
