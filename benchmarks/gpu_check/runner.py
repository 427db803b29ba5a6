"""The parent: gives each stage its time, ends what hangs, and starts again what crashed. Imports no torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.context import BaseContext, ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.gpu_check.journal import CRASHED, HUNG, PASSED, START, Journal
from benchmarks.gpu_check.stages import Stage, budget, patience
from benchmarks.gpu_check.worker import JOURNAL, work

MOST_FAILED_STARTS = 2
TICK = 0.05  # seconds between two looks at a process
REHEARSED_SECONDS = 240.0  # the patience of a rehearsal is that of a check of so many seconds
LAST_SECONDS = 4.0  # of the time, for the results; no stage begins in them


def run(stages: Sequence[Stage], folder: Path, seconds: float, rehearses: bool) -> None:
    """Run the stages into the journal of the folder, within so many seconds."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([f"benchmarks.gpu_check.{'emulated' if rehearses else 'target'}"])
    if rehearses:
        print("building the emulated device, some minutes the first time", flush=True)
        _start(server)
    end = time.monotonic() + seconds - min(LAST_SECONDS, seconds / 10)
    for i, stage in enumerate(stages):
        left = end - time.monotonic()
        if left <= 0:
            print(f"{stage.name}: not begun, no time is left", flush=True)
            continue
        # The first stage shows that the imports work. Processes from there on are forked from a server that has them
        # done, and that never touches the GPU.
        context: BaseContext = server if i > 0 else multiprocessing.get_context("spawn")
        waits = patience(stage, REHEARSED_SECONDS if rehearses else seconds)
        Run(stage, folder, rehearses, context).until(time.monotonic() + budget(stages[i:], left), waits)
        rows = Journal(folder / JOURNAL).rows(stage.name)
        if not set(stage.required) <= {row["key"] for row in rows if row["outcome"] == PASSED}:
            return
        if i == 0 and not rehearses:
            _start(server)


def _start(server: ForkServerContext) -> None:
    """Have the server done with its imports."""
    first = server.Process()
    first.start()
    first.join()


class Run:
    """One stage."""

    def __init__(self, stage: Stage, folder: Path, rehearses: bool, context: BaseContext) -> None:
        self.stage, self.folder, self.rehearses, self.context = stage, folder, rehearses, context
        self.journal = Journal(folder / JOURNAL)

    def until(self, end: float, patience: float) -> None:
        """Process after process, until there is no row left or the time is over."""
        start = time.monotonic()
        name, failed_starts = self.stage.name, 0
        while failed_starts < MOST_FAILED_STARTS and time.monotonic() < end:
            if self.journal.is_planned(name) and not self.journal.left(name):
                break
            size = self.journal.size()
            fate, why = self.process(end, patience)
            key = self.journal.under_way(name)
            if fate and key is not None:
                self.journal.end(name, {"key": key, "outcome": fate, "error": why})
            elif self.journal.size() == size:
                failed_starts += 1
                if failed_starts == MOST_FAILED_STARTS and time.monotonic() < end:
                    self.journal.end(name, {"key": START, "outcome": fate or CRASHED, "error": why})
        rows = self.journal.rows(name)
        passed = sum(row["outcome"] == PASSED for row in rows)
        print(f"{name}: {passed} of {len(rows)} rows passed, {time.monotonic() - start:.0f} s", flush=True)

    def process(self, end: float, patience: float) -> tuple[str, str]:
        """What befell one process, and in words; nothing where it ended by itself, or with the time."""
        process = self.context.Process(target=work, args=(self.stage.name, str(self.folder), self.rehearses))  # type: ignore[attr-defined]
        process.start()
        sign_of_life, size = time.monotonic(), self.journal.size()
        try:
            while process.exitcode is None:
                process.join(TICK)
                now = time.monotonic()
                if self.journal.size() != size:
                    sign_of_life, size = now, self.journal.size()
                if now > end:
                    return "", "the time is over"
                if now - sign_of_life > patience:
                    return HUNG, f"nothing came in {patience:.0f} s"
        finally:
            _kill(process)
        if process.exitcode < 0:
            return CRASHED, f"the process ended by {signal.Signals(-process.exitcode).name}"
        return CRASHED, f"the process ended with exit status {process.exitcode}; see the end of log.txt"


def _kill(process: BaseProcess) -> None:
    """End a process and all that it started, which is its process group."""
    assert process.pid is not None
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.exitcode is None:
        process.kill()
        process.join(10)
