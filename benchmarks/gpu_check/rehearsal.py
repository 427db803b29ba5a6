"""What a rehearsal adds: rows that go wrong in each way in which a row can."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, NoReturn

from benchmarks.gpu_check.journal import CRASHED, FAILED, HUNG
from benchmarks.gpu_check.stages import Case, Stage

FAULT = "planted: "


def _raise() -> NoReturn:
    raise RuntimeError("planted")


def _crash() -> NoReturn:
    os.abort()


def _be_killed() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def _hang() -> dict[str, Any]:
    time.sleep(3600)
    return {}


def _leave_cuda_in_an_error() -> NoReturn:
    """As after an access out of bounds: every call of CUDA fails until the process ends."""
    import torch

    def fail(device: Any = None) -> NoReturn:
        raise RuntimeError("CUDA error: planted")

    torch.cuda.is_initialized, torch.cuda.synchronize = (lambda: True), fail
    fail()


# By stage: a row, and what should come of it.
FAULTS = {
    "products": (Case(f"{FAULT}raises", _raise), FAILED),
    "each": (Case(f"{FAULT}crashes", _crash), CRASHED),
    "speed": (Case(f"{FAULT}hangs", _hang), HUNG),
    "decoding": (Case(f"{FAULT}leaves CUDA in an error", _leave_cuda_in_an_error), FAILED),
    "steps": (Case(f"{FAULT}is killed", _be_killed), CRASHED),
    "racecheck": (Case(f"{FAULT}crashes", _crash), CRASHED),
}


def with_faults(stage: Stage, cases: list[Case]) -> list[Case]:
    """The rows of a stage, with that of its fault after the first."""
    fault = [FAULTS[stage.name][0]] if stage.name in FAULTS else []
    return [*cases[:1], *fault, *cases[1:]]
