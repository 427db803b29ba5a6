"""Fuzzes for as long as asked, with other cases every round, and prints what it found.

    make fuzz SECONDS=3600              # a share of the time for each kind of case and instruction set
    make fuzz SECONDS=60 ARGS="cpu portable"    # one kind, one instruction set

Each share is a process of its own: one that dies, or is silent for minutes, is told with the case that it was at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from process import TESTS

from fuzz import int8, layers, modules, prepared, threads, wrong_calls
from gru_ext import library

KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "cpu": (lambda: layers.cases("cpu"), layers.check),
    "int8": (int8.cases, int8.check),
    "prepared": (prepared.cases, prepared.check),
    "threads": (threads.cases, threads.check),
    "modules": (modules.calls, modules.check),
    "wrong": (wrong_calls.wrong_calls, wrong_calls.check),
    "cuda": (lambda: layers.cases("cuda"), layers.check),
}
EXAMPLES = 25  # of a round: with a seed of its own, so that each can be run again
SILENCE = 300  # seconds after which a process hangs


def shares(chosen: list[str]) -> Iterator[tuple[str, str]]:
    """Each kind of case, with each instruction set that matters to it."""
    for kind in KINDS:
        for isa in library.available_cpu_isas()[0 if kind in ("cpu", "int8", "prepared", "threads") else -1 :]:
            if all(word in (kind, isa) for word in chosen):
                yield kind, isa


def work(kind: str, seconds: float, first_seed: int, log: Path) -> None:
    """One share, in this process; to ``log`` goes the case that it is at, to standard output what was found."""
    strategy, check = KINDS[kind]
    end = time.monotonic() + seconds
    tried, faults = 0, []
    seed = first_seed

    def one_round() -> None:
        @hypothesis.seed(seed)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # to make cases smaller would take minutes of each
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy())
        def run(case: Any) -> None:
            nonlocal tried
            tried += 1
            log.write_text(f"seed {seed}: {case}")
            check(case)

        try:
            run()
        except Exception as error:
            faults.append(f"seed {seed}: {error}\n{''.join(getattr(error, '__notes__', []))}")

    while time.monotonic() < end:
        one_round()
        seed += 1
    print(json.dumps({"tried": tried, "faults": faults}))


def run_share(kind: str, isa: str, seconds: float, seed: int) -> dict[str, int]:
    """One share in a process of its own; prints each fault."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "case"
        log.write_text("before the first case")
        command = [sys.executable, "-m", "fuzz", "--work", kind, str(seconds), str(seed), str(log)]
        # Several threads wherever a case asks for them, whatever waits cost and however few cores there are.
        for_threads = {"GRU_EXT_CPU_WAIT": "0.1", "GRU_EXT_CPU_CORES": "64"}
        environment = {**os.environ, "GRU_EXT_CPU_ISA": isa, **for_threads}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=TESTS)
        while True:
            try:
                said, _ = process.communicate(timeout=SILENCE)
                break
            except subprocess.TimeoutExpired:
                if time.time() - log.stat().st_mtime > SILENCE:
                    process.kill()
                    print(f"HUNG, {kind} by {isa}: {log.read_text()}")
                    return {"tried": 1, "hung": 1}
        if process.returncode:
            print(f"CRASHED ({process.returncode}), {kind} by {isa}: {log.read_text()}")
            return {"tried": 1, "crashed": 1}
    found = json.loads(said.splitlines()[-1])
    for fault in found["faults"]:
        print(f"WRONG, {kind} by {isa}: {fault}")
    return {"tried": found["tried"], "unclear" if kind == "wrong" else "wrong": len(found["faults"])}


def main(seconds: float, seed: int, chosen: list[str]) -> None:
    """Every share, and a line of figures for each; ends in failure if there is a fault."""
    of_all = list(shares(chosen))
    if not of_all:
        sys.exit(f"expected a kind of case, {', '.join(KINDS)}, or an instruction set of here, got {' '.join(chosen)}")
    any_fault = False
    for kind, isa in of_all:
        figures = dict.fromkeys(("tried", "wrong", "crashed", "hung", "unclear"), 0)
        figures |= run_share(kind, isa, seconds / len(of_all), seed)
        any_fault |= any(count for name, count in figures.items() if name != "tried")
        print(f"{kind}, {isa}: " + ", ".join(f"{name} {count}" for name, count in figures.items()), flush=True)
    sys.exit(any_fault)


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        work(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        main(float(sys.argv[1]), int(os.environ.get("SEED", "0")), sys.argv[2:])
