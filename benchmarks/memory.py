"""The peak of memory of two training steps, in a process of its own for each contender.

Counted from before the contender exists, but with its library loaded: weights, inputs, everything saved, and whatever
the library keeps. On a CPU it is the highest resident set (VmHWM of Linux, reset beforehand), on a GPU the highest
sum of torch's allocations, which other libraries' own allocations do not enter.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.contenders import OURS, PEERS, Contender, GruExt, Problem
from benchmarks.suites import Pass, Size

STEPS = 2
PAGES = Path("/proc/self/status")


class WeighError(RuntimeError):
    """The process ended without a figure; the message is its last words."""


def weigh(name: str, size: Size, kind: Pass, dtype: torch.dtype, device: torch.device, threads: int) -> int:
    """Peak bytes of one contender, measured in a new process.

    Raises:
        WeighError: it ended with an error.
    """
    request: dict[str, object] = {
        "name": name,
        "size": vars(size),
        "kind": kind,
        "dtype": str(dtype).removeprefix("torch."),
    }
    request |= {"device": str(device), "threads": threads}
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", json.dumps(request)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise WeighError((result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1])
    return int(result.stdout.split()[-1])


def _resident(field: str) -> int:
    """Bytes in a line of /proc/self/status; elsewhere than on Linux, the highest resident set since the start."""
    if not PAGES.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in PAGES.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _run(contender: type[Contender], problem: Problem, steps: int) -> None:
    size, like = problem.size, problem.like
    made = contender(problem)
    step = made.step(
        torch.randn(size.T, size.B, size.inputs).to(like), torch.randn(size.T, size.B, size.D * size.H).to(like)
    )
    for _ in range(steps):
        step()


def peak(name: str, size: Size, kind: Pass, dtype: torch.dtype, device: torch.device, threads: int) -> int:
    """Peak bytes of one contender in this process."""
    torch.set_num_threads(threads)
    contender: type[Contender] = GruExt if name == OURS else PEERS[name]

    def problem(of: Size) -> Problem:
        module = nn.GRU(of.inputs, of.H, of.L, bidirectional=of.D == 2, device=device, dtype=dtype)
        return Problem(of, kind, module, threads)

    _run(contender, problem(Size(2, 1, 8)), 1)  # loads the library, starts its threads
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _run(contender, problem(size), STEPS)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    if PAGES.exists():
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from the present resident set
    before = _resident("VmRSS")
    _run(contender, problem(size), STEPS)
    return _resident("VmHWM") - before


def main() -> None:
    """Answer one request of ``weigh``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("request", type=json.loads, help="JSON of the arguments of weigh()")
    request = parser.parse_args().request
    print(
        peak(
            request["name"],
            Size(**request["size"]),
            request["kind"],
            getattr(torch, request["dtype"]),
            torch.device(request["device"]),
            request["threads"],
        )
    )


if __name__ == "__main__":
    main()
