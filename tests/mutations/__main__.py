"""Plants the faults of faults.py one at a time in a copy of the project, and prints those that no test finds.

    make mutate                        # all of them
    make mutate ARGS="gru_ext csrc/cpu/forward.cpp"    # those of files whose path begins so

The copy is build/mutants. What a fault touches is compiled again, of the CPU's kernels the portable ones alone, and
one test is run. A fault that does not compile, or a test that fails without it, is an error of the list.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from process import ROOT
from torch.utils import cpp_extension

from mutations.faults import FAULTS, Fault

COPY = ROOT / "build" / "mutants"
OBJECTS = COPY / "build" / "objects"
# Kernels of other instruction sets see the same headers: to compile them as well would find nothing more.
OTHER_KERNELS = ("kernels_avx", "int8_avx")
SECONDS = 600  # of a test: one that takes longer hangs


def run(*command: str | Path, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """A command in the copy, by portable kernels; what it prints is captured."""
    environment = {
        **os.environ,
        "GRU_EXT_CPU_ISA": "portable",
        "GRU_EXT_CXXFLAGS": "-O0",
        "PYTHONPATH": os.pathsep.join([str(COPY), str(COPY / "tests")]),
    }
    environment.setdefault("MAX_JOBS", str(len(os.sched_getaffinity(0))))
    return subprocess.run(
        [str(part) for part in command], cwd=COPY, env=environment, capture_output=True, text=True, timeout=timeout
    )


def copy_project() -> None:
    """What git knows of, or does not ignore; files that are the same stay as old as they are."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, COPY / name
        if not source.exists() or (target.exists() and target.read_bytes() == source.read_bytes()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def build_all() -> None:
    """The library in the copy. Kernels that are not looked at stay as this leaves them."""
    must(run(sys.executable, "setup.py", "build_ext", "--inplace", "--build-temp", OBJECTS))


def must(done: subprocess.CompletedProcess[str]) -> None:
    """End here if a command has failed."""
    if done.returncode:
        sys.exit(f"{done.args}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def rebuild(fault: Fault) -> str:
    """Compile what this fault touches, and what the one before it did; returns the words of a compiler that cannot."""
    if not OBJECTS.exists():
        return ""
    objects = [path for path in sorted(OBJECTS.rglob("*.o")) if not path.name.startswith(OTHER_KERNELS)]
    commands: list[list[str | Path]] = [["ninja", "-C", OBJECTS, *objects]]
    linked = COPY / "gru_ext" / "libgru_ext.so"
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-lc10", "-ltorch", "-ltorch_cpu"]
    compiler = os.environ.get("CXX", "c++").split()
    commands.append([*compiler, "-shared", *sorted(OBJECTS.rglob("*.o")), *libraries, "-o", linked])
    if fault.file.startswith("csrc/cuda"):
        commands.append([sys.executable, "-c", "from emulated_backend import *; emulated_operators()"])
    for command in commands:
        built = run(*command)
        if built.returncode:
            return built.stdout[-1500:] + built.stderr[-1500:]
    return ""


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
        words = rebuild(fault)
        if words:
            return f"does not compile: {words}"
        outcome = outcome_of(fault.test)
    finally:
        path.write_text(text)
    return {"passed": "SURVIVED", "failed": "found", "hung": "found, by a hang"}.get(outcome, outcome)


def main() -> None:
    """Print what became of each fault, and the counts; end in failure unless each was found."""
    chosen = [fault for fault in FAULTS if not sys.argv[1:] or fault.file.startswith(tuple(sys.argv[1:]))]
    begin = time.monotonic()
    copy_project()
    if any(fault.file.startswith("csrc") for fault in chosen):
        build_all()
    else:
        shutil.copy(ROOT / "gru_ext" / "libgru_ext.so", COPY / "gru_ext")
    tests = sorted({fault.test for fault in chosen})
    must(run(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests))
    print(f"{len(chosen)} faults, {len(tests)} tests, which pass without them", flush=True)
    outcomes: Counter[str] = Counter()
    for fault in chosen:
        outcome = plant(fault)
        outcomes[outcome.split(":")[0]] += 1
        print(f"{outcome}: {fault.file}: {fault.before!r} -> {fault.after!r}, by {fault.test}", flush=True)
    minutes = (time.monotonic() - begin) / 60
    print(f"{dict(outcomes)} of {len(chosen)}, in {minutes:.0f} minutes")
    sys.exit(any(not outcome.startswith("found") for outcome in outcomes))


if __name__ == "__main__":
    main()
