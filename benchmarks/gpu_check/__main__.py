"""The command line of a check on a GPU; see the package."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

import benchmarks.gpu_check as package
from benchmarks import files
from benchmarks.gpu_check import facts, results, runner, table
from benchmarks.gpu_check.journal import WRONG, Journal
from benchmarks.gpu_check.stages import CHECK, ROOT, SANITIZE, SECONDS
from benchmarks.gpu_check.worker import JOURNAL

LEAST_SECONDS = 10.0
WAIT_SECONDS = "0.2"  # of a block for others, so that kernels that hang cost little of the time


def parser() -> argparse.ArgumentParser:
    """Of the command."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [stage.name for stage in (*CHECK, *SANITIZE)]
    found.add_argument("--out", type=Path, required=True, help="folder of the results; rows that it has are kept")
    found.add_argument("--seconds", type=float, default=SECONDS, help="for all of it (default: %(default)g)")
    found.add_argument("--sanitize", action="store_true", help="memcheck and racecheck of each family of kernels")
    found.add_argument("--stages", nargs="+", choices=names, metavar="STAGE", help="some of them, and facts")
    found.add_argument(
        "--report", action="store_true", help="write the results of the rows that are known; run nothing"
    )
    found.add_argument("--commit", help="what this is, in a folder without git")
    found.add_argument("--rehearse", action="store_true", help="on a CPU: emulated kernels, tiny sizes, planted faults")
    return found


def main() -> int:
    """Run, write, print; the exit status tells whether anything went wrong."""
    arguments = parser().parse_args()
    if arguments.seconds < LEAST_SECONDS:
        parser().error(f"expected --seconds of at least {LEAST_SECONDS:g}, got {arguments.seconds:g}")
    stages = SANITIZE if arguments.sanitize else CHECK
    names = [stage.name for stage in stages]
    asked = arguments.stages or names
    if not set(asked) <= set(names):
        parser().error(f"expected --stages {'with' if arguments.sanitize else 'without'} --sanitize to be of {names}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    before = filter(None, [os.environ.get("PYTHONPATH")])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT), *before])
    if not arguments.sanitize:  # which slows kernels down
        os.environ.setdefault("GRU_EXT_CUDA_WAIT_LIMIT", WAIT_SECONDS)
    if arguments.commit:
        os.environ[facts.COMMIT] = arguments.commit
    name = "gpu_sanitize" if arguments.sanitize else "gpu_check"
    journal = Journal(arguments.out / JOURNAL)
    known = results.gather(journal, stages)
    if "gpu" in known["device"] and not arguments.report and known["rehearsal"] != arguments.rehearse:
        parser().error(f"{arguments.out} has rows of {known['device']['gpu']}: choose another folder")
    signal.signal(signal.SIGTERM, _end)
    try:
        if not arguments.report:
            to_run = [stage for stage in stages if stage.name in ("facts", *asked)]
            runner.run(to_run, arguments.out, arguments.seconds, arguments.rehearse)
    finally:  # also where the time of whoever started this is over
        found = results.gather(journal, stages)
        results.write(found, arguments.out / f"{name}.json")
        text = "\n".join(table.lines(found, stages))
        files.write(arguments.out / f"{name}.txt", text + "\n")
        print(f"\n{text}", flush=True)
    return int(any(row["outcome"] in WRONG for rows in found["rows"].values() for row in rows))


def _end(*_: Any) -> None:
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
