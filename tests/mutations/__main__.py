"""Plants the faults of faults.py one at a time in a copy of the project, and prints those that no test finds.

    make mutate                        # all of them
    make mutate ARGS="gru_ext csrc/cpu/forward.cpp"    # those of files whose path begins so
    make mutate ARGS=--again           # those too whose outcome is known

The copy is build/mutants. What a fault touches is compiled again, of the CPU's kernels the portable ones alone, and
one test is run. A fault that does not compile, or a test that fails without it, is an error of the list. What became
of a fault is kept for as long as the sources stay what they are, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from process import ROOT

from mutations.faults import FAULTS, Fault

COPY = ROOT / "build" / "mutants"
OUTCOMES = ROOT / "build" / "mutants.json"
COPIED = ("csrc", "gru_ext", "tests", "benchmarks", "examples")  # folders whose files come and go with the project's
THE_LIST = "tests/mutations"  # changes nothing that a test sees
SECONDS = 600  # of a test: one that takes longer hangs


def run(*command: str | Path, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """A command in the copy, by portable kernels; what it prints is captured."""
    environment = {
        **os.environ,
        "GRU_EXT_CPU_ISA": "portable",
        "GRU_EXT_BUILD_ISAS": "portable",
        "GRU_EXT_CXXFLAGS": "-O0",
        "PYTHONPATH": os.pathsep.join([str(COPY), str(COPY / "tests")]),
    }
    environment.setdefault("MAX_JOBS", str(len(os.sched_getaffinity(0))))
    return subprocess.run(
        [str(part) for part in command], cwd=COPY, env=environment, capture_output=True, text=True, timeout=timeout
    )


def must(done: subprocess.CompletedProcess[str]) -> None:
    """End here if a command has failed."""
    if done.returncode:
        sys.exit(f"{done.args}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def copy_project() -> str:
    """What git knows of, or does not ignore; files that are the same stay as old as they are. Returns its digest."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    answer = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    names = sorted(name for name in filter(None, answer) if (ROOT / name).is_file())
    digest = hashlib.sha256()
    for name in names:
        content, target = (ROOT / name).read_bytes(), COPY / name
        if name.startswith((*COPIED, "setup.py", "pyproject.toml")) and not name.startswith(THE_LIST):
            digest.update(f"{name} {len(content)} ".encode() + content)
        if target.exists() and target.read_bytes() == content:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    for folder in COPIED:
        for path in (COPY / folder).rglob("*.[chp]*"):
            if "__pycache__" not in path.parts and str(path.relative_to(COPY)) not in names:
                path.unlink()
    return digest.hexdigest()


class Outcomes:
    """What became of each fault, and which tests pass without any, in sources of one digest; kept in a file."""

    def __init__(self, digest: str, *, again: bool) -> None:
        kept = json.loads(OUTCOMES.read_text()) if OUTCOMES.exists() and not again else {}
        self._kept: dict[str, str] = kept.get("outcomes", {}) if kept.get("digest") == digest else {}
        self._digest = digest

    def get(self, what: Fault | str) -> str | None:
        """None where it is not known."""
        return self._kept.get(self._name(what))

    def keep(self, what: Fault | str, outcome: str) -> None:
        """Written at once, so that a run may be stopped at any time."""
        self._kept[self._name(what)] = outcome
        written = OUTCOMES.with_suffix(".new")
        written.write_text(json.dumps({"digest": self._digest, "outcomes": self._kept}, indent=1))
        written.replace(OUTCOMES)

    @staticmethod
    def _name(what: Fault | str) -> str:
        return what if isinstance(what, str) else " | ".join(dataclasses.astuple(what))


def is_in_library(fault: Fault) -> bool:
    """Whether the library has to be compiled; the emulated CUDA backend is one of its own."""
    return fault.file.startswith("csrc") and not fault.file.startswith("csrc/cuda")


def build(fault: Fault) -> subprocess.CompletedProcess[str]:
    """Compile what this fault touches, and what the one before it did."""
    if is_in_library(fault):
        return run(
            sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--build-temp", COPY / "build" / "objects"
        )
    if fault.file.startswith("csrc"):
        return run(sys.executable, "-c", "from emulated_backend import *; emulated_operators()")
    return subprocess.CompletedProcess([], 0)


def outcome_of(test: str) -> str:
    """That it passed, failed or hung; where pytest ran nothing, what it said."""
    try:
        tested = run(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "hung"
    if tested.returncode < 0 or tested.returncode > 128:
        return "failed"  # it crashed
    return {0: "passed", 1: "failed"}.get(tested.returncode, tested.stdout[-500:] + tested.stderr[-500:])


def plant(fault: Fault) -> str:
    """What became of one fault."""
    path = COPY / fault.file
    text = path.read_text()
    assert text.count(fault.before) == 1, f"{fault.file}: not once: {fault.before}"
    path.write_text(text.replace(fault.before, fault.after))
    try:
        built = build(fault)
        if built.returncode:
            return f"does not compile: {built.stdout[-1500:]}{built.stderr[-1500:]}"
        outcome = outcome_of(fault.test)
    finally:
        path.write_text(text)
    return {"passed": "SURVIVED", "failed": "found", "hung": "found, by a hang"}.get(outcome, outcome)


def plant_all(faults: list[Fault], outcomes: Outcomes) -> Iterator[tuple[Fault, str]]:
    """Each fault with what became of it; all of them are in the library, or none is."""
    if not faults:
        return
    if is_in_library(faults[0]):
        must(build(faults[0]))
    else:
        shutil.copy(ROOT / "gru_ext" / "libgru_ext.so", COPY / "gru_ext")
    tests = sorted({fault.test for fault in faults if outcomes.get(fault.test) is None})
    if tests:
        must(run(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests))
    for test in tests:
        outcomes.keep(test, "passes")
    for fault in faults:
        outcome = plant(fault)
        if outcome.startswith(("found", "SURVIVED")):
            outcomes.keep(fault, outcome)
        yield fault, outcome


def main() -> None:
    """Print what became of each fault, and the counts; end in failure unless each was found."""
    parser = argparse.ArgumentParser(prog="make mutate", description="Plant faults, and print those no test finds.")
    parser.add_argument("files", nargs="*", help="how the paths of files begin; without, all")
    parser.add_argument("--again", action="store_true", help="forget what is known of earlier runs")
    arguments = parser.parse_args()
    chosen = [fault for fault in FAULTS if fault.file.startswith(tuple(arguments.files) or "")]
    begin = time.monotonic()
    outcomes = Outcomes(copy_project(), again=arguments.again)
    known = [(fault, outcome) for fault in chosen if (outcome := outcomes.get(fault)) is not None]
    ahead = [fault for fault in chosen if outcomes.get(fault) is None]
    print(f"{len(chosen)} faults, {len(known)} known from earlier runs", flush=True)
    counts: Counter[str] = Counter()

    def note(fault: Fault, outcome: str) -> None:
        counts[outcome.split(":")[0]] += 1
        print(f"{outcome}: {fault.file}: {fault.before!r} -> {fault.after!r}, by {fault.test}", flush=True)

    for fault, outcome in known:
        note(fault, outcome)
    for in_library in (False, True):
        for fault, outcome in plant_all([fault for fault in ahead if is_in_library(fault) == in_library], outcomes):
            note(fault, outcome)
    minutes = (time.monotonic() - begin) / 60
    print(f"{dict(counts)} of {len(chosen)}, in {minutes:.0f} minutes")
    sys.exit(any(not outcome.startswith("found") for outcome in counts))


if __name__ == "__main__":
    main()
