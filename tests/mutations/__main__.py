"""Plants the faults of faults.py one at a time in a copy of the project, and prints those that no test finds.

    make mutate                        # all of them
    make mutate ARGS="gru_ext csrc/cpu/forward.cpp"    # those of files whose path begins so
    make mutate ARGS=--again           # those too whose outcome is known

The copy is build/mutants. What a fault touches is compiled again, of the CPU's kernels the portable ones alone, and
the few cases are run that have to find it. A fault that does not compile, or a test that fails without it, is an error
of the list. What became of a fault is kept for as long as the sources and its test stay what they are, so that a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from process import ROOT, TESTS

from mutations.build import COPY, EMULATED, LIBRARY, Library
from mutations.faults import FAULTS, OWN_SOURCES, Fault

OUTCOMES = ROOT / "build" / "mutants.json"
COPIED = ("csrc", "src", "tests", "benchmarks", "examples")  # folders whose files come and go with the project's
OF_ONE_FAULT = ("tests/mutations", "tests/test_")  # a change of them leaves the outcomes of other faults as they are
SECONDS = 600  # of a test: one that takes longer hangs


def copy_project() -> str:
    """What git knows of, or does not ignore; files that are the same stay as old as they are.

    Returns a digest of what every outcome depends on.
    """
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    answer = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    names = sorted(name for name in filter(None, answer) if (ROOT / name).is_file())
    digest = hashlib.sha256()
    for name in names:
        content, target = (ROOT / name).read_bytes(), COPY / name
        if name.startswith((*COPIED, "pyproject.toml")) and not name.startswith(OF_ONE_FAULT):
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
    """What became of each fault, and which tests pass without any; kept in a file, with the digest of the sources."""

    def __init__(self, digest: str, *, again: bool) -> None:
        kept = json.loads(OUTCOMES.read_text()) if OUTCOMES.exists() and not again else {}
        self._kept: dict[str, str] = kept.get("outcomes", {}) if kept.get("digest") == digest else {}
        self._digest = digest

    def get(self, fault: Fault, *, planted: bool = True) -> str | None:
        """None where it is not known; without ``planted``, what becomes of its test alone."""
        return self._kept.get(self._name(fault, planted))

    def keep(self, fault: Fault, outcome: str, *, planted: bool = True) -> None:
        """Written at once, so that a run may be stopped at any time."""
        self._kept[self._name(fault, planted)] = outcome
        written = OUTCOMES.with_suffix(".new")
        written.write_text(json.dumps({"digest": self._digest, "outcomes": self._kept}, indent=1))
        written.replace(OUTCOMES)

    @staticmethod
    def _name(fault: Fault, planted: bool) -> str:
        path, _, test = fault.test.partition("::")
        digest = hashlib.sha256((ROOT / path).read_bytes()).hexdigest()[:16]
        what = dataclasses.astuple(fault)[:3] if planted else ("nothing planted",)
        return " | ".join([*what, f"{path} {digest}", test, fault.cases])


def library_of(fault: Fault) -> Library | None:
    """What a fault's file is compiled into; the emulated CUDA backend is a library of its own.

    None for Python, and for what the test compiles itself.
    """
    if not fault.file.startswith("csrc") or fault.test.startswith(OWN_SOURCES):
        return None
    return EMULATED if fault.file.startswith("csrc/cuda") else LIBRARY


def _test_in_this_process(test: str, cases: str, output: Path) -> None:
    """Run pytest in the copy, as if nothing of the project had been imported; ends the process."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.setpgid(0, 0)
    os.chdir(COPY)
    folders = [str(COPY / "src"), str(COPY), str(COPY / "tests")]
    os.environ |= {
        "GRU_EXT_CPU_ISA": "portable",
        "GRU_EXT_EMULATED_LIBRARY": str(EMULATED.path),
        "PYTHONPATH": os.pathsep.join(folders),
    }
    sys.path[:] = folders + [path for path in sys.path if Path(path).resolve() not in (ROOT / "src", ROOT, TESTS)]
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(TESTS)):
            del sys.modules[name]
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(["-k", cases] if cases else []), test]))


def outcome_of(test: str, cases: str) -> str:
    """That it passed, failed or hung, or that pytest ran nothing.

    In a fork of this process, which has imported torch, and nothing of the copy.
    """
    output = OUTCOMES.with_suffix(".log")
    process = multiprocessing.get_context("fork").Process(target=_test_in_this_process, args=(test, cases, output))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.ident or 0, signal.SIGKILL)
        return "hung"
    if process.exitcode < 0 or process.exitcode > 128:
        return "failed"  # it crashed
    return {0: "passed", 1: "failed"}.get(process.exitcode, "nothing was run")


def plant(fault: Fault) -> str:
    """What became of one fault."""
    path = COPY / fault.file
    text, status = path.read_text(), path.stat()
    assert text.count(fault.before) == 1, f"{fault.file}: not once: {fault.before}"
    library = library_of(fault)
    touched = library.objects_of(path) if library is not None else {}
    as_they_are = [*touched.values(), library.path] if library is not None else []
    for target in as_they_are:
        target.rename(target.with_suffix(".kept"))
    path.write_text(text.replace(fault.before, fault.after))
    try:
        if library is not None:
            library.compile_all(touched)
            library.link()
        outcome = outcome_of(fault.test, fault.cases)
    except subprocess.CalledProcessError as failed:
        return f"does not compile: {failed.stderr[-1500:]}"
    finally:
        path.write_text(text)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # older than what is made of it, as before
        for target in as_they_are:
            target.with_suffix(".kept").replace(target)
    return {"passed": "SURVIVED", "failed": "found", "hung": "found, by a hang"}.get(outcome, outcome)


def plant_all(faults: list[Fault], outcomes: Outcomes) -> Iterator[tuple[Fault, str]]:
    """Each fault with what became of it."""
    for fault in faults:
        if outcomes.get(fault, planted=False) is None:
            outcome = outcome_of(fault.test, fault.cases)
            if outcome != "passed":
                yield fault, f"its test without it: {outcome}: {OUTCOMES.with_suffix('.log').read_text()[-1000:]}"
                continue
            outcomes.keep(fault, outcome, planted=False)
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
    if ahead:
        LIBRARY.build()
    if any(library_of(fault) is EMULATED for fault in ahead):
        EMULATED.build()
    for fault, outcome in plant_all(ahead, outcomes):
        note(fault, outcome)
    minutes = (time.monotonic() - begin) / 60
    print(f"{dict(counts)} of {len(chosen)}, in {minutes:.0f} minutes")
    sys.exit(any(not outcome.startswith("found") for outcome in counts))


if __name__ == "__main__":
    main()
