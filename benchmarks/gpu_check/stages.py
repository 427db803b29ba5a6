"""The stages as data: what is checked, in order of value, and with which part of the time. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 480.0  # for which the patience of a stage is meant; it shrinks with the time, to no less than:
LEAST_PATIENCE = 5.0


class AbsentError(Exception):
    """What a row needs is not on this machine."""


@dataclass(frozen=True)
class Case:
    """A row to come: its name, and what finds it out. ``outcome`` among what is found says that it is wrong."""

    key: str
    body: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """A part of the check. ``cases(stage, target)`` of its module lists its rows."""

    name: str
    shows: str
    module: str
    share: float  # of the time that is left, in parts of all shares that are left
    patience: float = 20.0  # seconds that a row may take, of SECONDS
    fresh: bool = False  # whether each row has a process of its own
    required: tuple[str, ...] = ()  # rows without which nothing else can run
    rehearsed: int = 8  # rows of a rehearsal


CHECK = (
    Stage("facts", "import, GPU, versions, choices", "facts", 60, patience=90, required=("torch", "gru_ext", "device")),
    Stage("products", "halves into float, TF32, stepwise", "products", 25),
    Stage("each", "every kernel against stepwise", "each", 90, rehearsed=9),
    Stage("speed", "against nn.GRU", "speed", 130),
    Stage("algorithms", "against each algorithm of cuDNN", "algorithms", 60, patience=60, rehearsed=4),
    Stage("decoding", "one time step, alone and in a graph", "decoding", 25),
    Stage("members", "one launch against a loop", "members", 15, rehearsed=2),
    Stage("steps", "us a step of every kernel", "steps", 60, rehearsed=6),
    Stage("constants", "of the time model", "constants", 35, patience=40),
    Stage("tests", "tests on a GPU", "cuda_tests", 70, patience=60, fresh=True, rehearsed=1),
)
SANITIZE = (
    Stage("facts", "import, GPU, versions, choices", "facts", 40, patience=90, required=("torch", "gru_ext", "device")),
    Stage("memcheck", "accesses, as the hardware sees them", "sanitizer", 80, patience=160, rehearsed=1),
    Stage("racecheck", "races on shared memory", "sanitizer", 80, patience=160, rehearsed=1),
)
STAGES = {stage.name: stage for stage in (*CHECK, *SANITIZE)}


def budget(stages: Sequence[Stage], seconds: float) -> float:
    """Seconds of the first of the stages that are left, where so many seconds are left for all."""
    return seconds * stages[0].share / sum(stage.share for stage in stages)


def patience(stage: Stage, seconds: float) -> float:
    """Seconds without a sign of life after which a row counts as hung, in a check of so many seconds."""
    return max(LEAST_PATIENCE, stage.patience * min(1.0, seconds / SECONDS))
