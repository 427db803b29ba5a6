"""Run Python in a process of its own, or with another number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
TESTS = Path(__file__).parent


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
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT / "src"))), **(environment or {})},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


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
