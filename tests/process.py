"""Run Python in a process of its own, or with another number of threads; values through a file."""

from __future__ import annotations

import atexit
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
TESTS = Path(__file__).parent


def _environment(path: Sequence[Path], changes: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT / "src"))), **(changes or {})}


def run_python(
    *arguments: str | Path,
    path: Sequence[Path] = (ROOT, TESTS),
    environment: Mapping[str, str] | None = None,
    directory: Path = ROOT,
    timeout: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """``python arguments...`` with ``path`` before everything else on sys.path; output captured, any exit status.

    Then comes the package beside these tests, in whatever copy of the project they are.
    """
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=_environment(path, environment),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@functools.cache
def _forks(preloaded: str) -> subprocess.Popen[str]:
    """The process that is forked, on one thread as the tests are; it loads the library ``preloaded`` before others."""
    environment = _environment((ROOT, TESTS), {"LD_PRELOAD": preloaded, "OMP_NUM_THREADS": "1"})
    command, pipe = [sys.executable, str(TESTS / "forks.py")], subprocess.PIPE
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    atexit.register(process.communicate)  # without more input it ends
    return process


def fork_python(
    *arguments: str | Path,
    path: Sequence[Path] = (ROOT, TESTS),
    environment: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """As ``run_python``, on one thread, by a fork of a process that has imported torch, which takes a second or more.

    For programs that import it anyway, and what they compute with after it.
    """
    full = _environment(path, environment)
    process = _forks(full.get("LD_PRELOAD", ""))
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as directory:
        output, errors = (Path(directory) / name for name in ("output", "errors"))
        program = {"arguments": [*map(str, arguments)], "environment": full, "seconds": int(timeout)}
        print(json.dumps({**program, "output": str(output), "errors": str(errors)}), file=process.stdin, flush=True)
        status = int(process.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


def output_of(result: subprocess.CompletedProcess[str]) -> str:
    """Standard output of a process that must have succeeded."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """So many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def through_a_file(value: Any, *, weights_only: bool = False) -> Any:
    """What ``torch.load`` makes of what ``torch.save`` wrote."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)
