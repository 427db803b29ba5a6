"""The sizes that are measured, as data. What each suite answers: docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Pass = Literal["forward", "train", "backward"]
PASSES: tuple[Pass, ...] = ("forward", "train", "backward")


@dataclass(frozen=True)
class Size:
    """T steps, B rows, H hidden units, I input units (0: as many as H), L layers, D directions."""

    T: int
    B: int
    H: int
    I: int = 0  # noqa: E741
    L: int = 1
    D: int = 1

    @property
    def inputs(self) -> int:
        """Input units of the first layer."""
        return self.I or self.H

    def __str__(self) -> str:
        """The size as tables name it, and as ``--filter`` finds it."""
        extra = f", I={self.I}" if self.I else ""
        extra += f", {self.L} layers" if self.L > 1 else ""
        return f"{self.T},{self.B},{self.H}{extra}" + (", both directions" if self.D > 1 else "")


@dataclass(frozen=True)
class Case:
    """A size, and what the suite varies."""

    size: Size
    threads: int = 0  # 0: that of the command line
    inference: bool = False  # whether forward only
    busy: int = 0  # processes that compute beside, each on one thread


@dataclass(frozen=True)
class Suite:
    """What is measured, and how long it may take."""

    question: str
    cases: Callable[[int], list[Case]]  # of the most threads that may be used
    passes: tuple[Pass, ...] = ("forward", "train")
    against: tuple[str, ...] | None = None  # None: every peer but those on request
    also: tuple[str, ...] = ()  # of those on request
    repeat: int = 7
    block_seconds: float = 0.2
    rotate: bool = True
    each_call: bool = False  # whether every call of a block is timed: the slow ones are what is asked for


TEN = [
    Size(1, 1, 256),
    Size(200, 1, 64),
    Size(1000, 1, 256),
    Size(50, 8, 128),
    Size(10, 4, 256, L=2),
    Size(25, 4, 2560),
    Size(100, 32, 256),
    Size(64, 16, 1024),
    Size(100, 64, 512),
    Size(100, 32, 256, L=2, D=2),
]
GRID = [Size(40, B, H) for B in (1, 4, 16, 64) for H in (64, 256, 512, 1024)]

# DeepBench (https://github.com/baidu-research/DeepBench) times the recurrence without the product of the input. No peer
# here offers that; with 8 input units that product is at most 2% of the work.
DEEPBENCH_TRAIN = [
    *(Size(T, 32, H, I=8) for H in (2816, 2048, 1536, 2560) for T in (1500, 750, 375, 187)),
    Size(1500, 32, 1024, I=8),
    Size(1500, 64, 1024, I=8),
    Size(1, 32, 512, I=8),
]
DEEPBENCH_INFERENCE = [
    *(Size(T, B, H, I=8) for H in (2816, 2048, 1536, 2560) for B in (1, 2, 4) for T in (1500, 750, 375, 187)),
    *(Size(T, B, H, I=8) for T, H in ((1, 512), (1500, 1024)) for B in (1, 2, 4)),
]


def _cases(sizes: list[Size]) -> Callable[[int], list[Case]]:
    return lambda _: [Case(size) for size in sizes]


def _scaling(most_threads: int) -> list[Case]:
    sizes = [
        *(Size(T, 8, 128) for T in (1, 4, 16, 64, 256, 1024)),
        *(Size(32, B, 256) for B in (1, 2, 4, 8, 16, 32, 64, 128)),
        *(Size(32, 8, H) for H in (32, 64, 128, 256, 512, 1024)),
    ]
    threads = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < most_threads] + [most_threads]
    return [
        *map(Case, dict.fromkeys(sizes)),
        *(Case(size, n) for size in (Size(100, 1, 256), Size(100, 32, 512)) for n in threads),
    ]


def _contended(most_threads: int) -> list[Case]:
    return [
        Case(size, threads, busy=busy)
        for size in (Size(10, 4, 256, L=2), Size(50, 8, 128), Size(50, 32, 256))
        for threads in dict.fromkeys((1, most_threads))
        for busy in (0, 1, 2)
    ]


SUITES: dict[str, Suite] = {
    "quick": Suite(
        "is it faster for me, by how much, how close to the limit?",
        _cases([Size(1, 1, 256), Size(200, 1, 64), Size(50, 8, 128), Size(10, 4, 256, L=2), Size(50, 32, 256)]),
        repeat=5,
        block_seconds=0.05,
    ),
    "sizes": Suite("how does that depend on the size?", _cases(TEN + GRID), also=("gru_ext_prepared",)),
    "deepbench": Suite(
        "the sizes of DeepBench: training (B = 32 and 64), inference (B = 1, 2, 4)",
        lambda _: [*map(Case, DEEPBENCH_TRAIN), *(Case(size, inference=True) for size in DEEPBENCH_INFERENCE)],
        passes=("forward", "backward"),
        repeat=3,
    ),
    "latency": Suite(
        "one step at a time, as a stream is served; the same input again, from cache",
        _cases([Size(1, B, H) for H in (64, 128, 256, 512, 1024) for B in (1, 4, 16)]),
        passes=("forward",),
        rotate=False,
        also=("gru_ext_prepared",),
    ),
    "scaling": Suite("how does the time grow with T, B, H and shrink with threads?", _scaling),
    "contended": Suite(
        "what remains on cores that others use too, and how long can a call take?",
        _contended,
        passes=("forward",),
        repeat=3,
        block_seconds=1.0,
        each_call=True,
    ),
    "memory": Suite(
        "how much memory does a training step take at its peak?",
        _cases(
            [
                Size(100, 32, 256),
                Size(1000, 1, 256),
                Size(100, 64, 512),
                Size(1000, 16, 512),
                Size(4096, 16, 512),
                Size(16384, 16, 512),
                Size(100, 32, 256, L=2, D=2),
            ]
        ),
        passes=("train",),
        also=("gru_ext_output",),
    ),
    "kernels": Suite(
        "where does our own time go: input product, recurrence, saved gates, weight gradients, dx?",
        _cases([size for size in TEN if size.L == 1 and size.D == 1]),
        passes=("train",),
        against=(),
    ),
    "sweep": Suite(
        "does any H or B fall off a cliff? Ours alone, T = 8",
        _cases([Size(8, B, H) for B in (1, 3, 4, 8, 17, 32, 70) for H in range(8, 1101, 21)]),
        against=(),
        repeat=3,
        block_seconds=0.005,
    ),
}
