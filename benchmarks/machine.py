"""The machine as found: what the figures of a run belong to."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import gru_ext
from benchmarks import switches
from gru_ext import library

DEFAULT_CACHE, DEFAULT_NEAREST = 32 << 20, 32 << 10
GPU_REGISTERS = 256 << 10  # bytes of a multiprocessor, of every compute capability from 5.0 on


def threads_available() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_cache(device: torch.device) -> int:
    """Bytes of the last level of cache; a guess of 32 MiB where the machine does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    return _cache(3) or _cache(2) or DEFAULT_CACHE


def nearest_cache(device: torch.device, threads: int) -> int:
    """Bytes nearest to the arithmetic: first-level data caches of the threads, shared memory and registers of a GPU."""
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        each = int(gpu.shared_memory_per_multiprocessor) + GPU_REGISTERS
        return each * int(gpu.multi_processor_count)
    return threads * (_cache(0) or DEFAULT_NEAREST)


def _cache(index: int) -> int | None:
    """Bytes of a cache as Linux numbers them: 0 first-level data, 2 and 3 by level."""
    path = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size")
    if not path.exists():
        return None
    text = path.read_text().strip()
    return int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes beside that compute without pause, each on one thread, until this ends or this process does."""
    # Its input ends with this process.
    endless = "import select, sys\nwhile not select.select([sys.stdin], [], [], 0)[0]: sum(range(100_000))"
    processes = [subprocess.Popen([sys.executable, "-c", endless], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def processor_seconds() -> tuple[float, float] | None:
    """Seconds of processor that all programs, and that this one and its children, have used so far; Linux only."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, path.read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def used_by_others(before: tuple[float, float] | None, seconds: float) -> float | None:
    """The fraction of all processors that other programs used in so many seconds, since ``before``."""
    after = processor_seconds()
    if before is None or after is None:
        return None
    others = (after[0] - before[0]) - (after[1] - before[1])
    return round(max(0.0, others) / (seconds * (os.cpu_count() or 1)), 2)


def commit() -> str:
    """The commit of this checkout, marked where anything but results and pages differs; 'unknown' outside of one."""
    found = _output_of("git", "describe", "--always") or "unknown"
    measured = (":/", ":(top,exclude)docs", ":(top,exclude)benchmarks/results")
    return found + ("-dirty" if _output_of("git", "status", "--porcelain", "--", *measured) else "")


def facts(device: torch.device, dtype: torch.dtype, threads: int) -> dict[str, Any]:
    """Hardware, clocks as found, switches, versions, commit."""
    described: dict[str, Any] = {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "processor": _processor(),
        "processors available": threads_available(),
        "cores by affinity and quota": library.cpu_cores(),
        "threads": threads,
        "cpu_isa": library.cpu_isa(),
        "clock_mhz": _clocks(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gru_ext": gru_ext.__version__,
        "commit": commit(),
        "float32 products": switches.stated(device),
    }
    if device.type == "cuda":
        described |= {
            "gpu": torch.cuda.get_device_name(device),
            "gpu_clocks": _gpu_clocks(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return described


def title(environment: dict[str, Any]) -> str:
    """One line on a run, for plots."""
    where = environment.get("gpu") or f"{environment['processor']}, {environment['threads']} threads"
    return f"{environment['dtype']}, {where}, torch {environment['torch']}, gru_ext {environment['commit']}"


def _cpuinfo() -> list[tuple[str, str]]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines) if value]


def _processor() -> str:
    known = dict(_cpuinfo())
    if "model name" not in known:
        return platform.processor() or platform.machine()
    words = f"{known['model name']}, family {known.get('cpu family')} model {known.get('model')}"
    try:
        from archspec import cpu
    except ImportError:
        return words
    # By the instructions that are there: a virtual machine may hide some of the processor's.
    return f"{words} (instructions of {cpu.host().name})"


def _clocks() -> list[float]:
    return [float(value) for key, value in _cpuinfo() if key == "cpu MHz"]


def _gpu_clocks(device: torch.device) -> str:
    fields = "clocks.sm,clocks.mem,clocks.max.sm,power.limit,driver_version"
    index = torch.cuda.current_device() if device.index is None else device.index
    return _output_of("nvidia-smi", f"--id={index}", f"--query-gpu={fields}", "--format=csv,noheader") or "unknown"


def _output_of(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip()
