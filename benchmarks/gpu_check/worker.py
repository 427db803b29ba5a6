"""The process of a stage: goes through the rows that are left, and ends early where it can be of no more use."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

from benchmarks.gpu_check.journal import ABSENT, FAILED, PASSED, Journal, Row
from benchmarks.gpu_check.stages import STAGES, AbsentError, Case, Stage

JOURNAL, LOG = "rows.jsonl", "log.txt"
AGAIN = 75  # exit status: rows are left, for another process
MOST_LETTERS = 400  # of an error
WAITED = "waited"  # the word in the error of a kernel that waited too long


def work(name: str, folder: str, rehearses: bool) -> None:
    """Write the rows of a stage into the journal of a folder; ends the process."""
    os.setsid()  # for the parent to end whatever this starts
    log = os.open(Path(folder) / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    print(f"---- {name}", flush=True)
    sys.exit(_work(STAGES[name], Journal(Path(folder) / JOURNAL), rehearses))


def _work(stage: Stage, journal: Journal, rehearses: bool) -> int:
    parent = os.getppid()
    module = importlib.import_module(f"benchmarks.gpu_check.{stage.module}")
    cases: list[Case] = module.cases(stage, rehearses)
    if rehearses:
        from benchmarks.gpu_check import rehearsal

        cases = rehearsal.with_faults(stage, cases[: stage.rehearsed])
    if not journal.is_planned(stage.name):
        journal.plan(stage.name, [case.key for case in cases])
    left = set(journal.left(stage.name))
    for case in cases:
        if case.key not in left:
            continue
        if os.getppid() != parent:  # the check was ended
            return 1
        journal.begin(stage.name, case.key)
        row = _run(case)
        usable = row["outcome"] != FAILED or _is_usable(row.get("error", ""))
        journal.end(stage.name, row)
        if stage.fresh or not usable:
            return AGAIN
    return 0


def _run(case: Case) -> Row:
    start = time.monotonic()
    try:
        found = case.body()
        _synchronize()
    except AbsentError as error:
        found = {"outcome": ABSENT, "error": str(error)}
    except Exception as error:
        found = {"outcome": FAILED, "error": f"{type(error).__name__}: {error}"[:MOST_LETTERS]}
    return {"key": case.key, "outcome": PASSED, **found, "seconds": round(time.monotonic() - start, 2)}


def _synchronize() -> None:
    """Have what a kernel did wrong said in its own row; where CUDA is not in use, there is nothing to wait for."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _is_usable(error: str) -> bool:
    """Whether the next row has a chance in this process, after an error.

    Most errors of CUDA stay until the process ends. And after a kernel that waited too long, the process uses no
    cluster kernel any more (csrc/cuda/choice/choice.cpp).
    """
    if WAITED in error:
        return False
    try:
        _synchronize()
    except RuntimeError:
        return False
    return True
