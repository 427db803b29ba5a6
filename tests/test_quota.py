"""A quota of the processors' time, as containers have it: found in every form, and kept by the CPU backend."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from process import output_of, run_python

GROUPS = Path("/sys/fs/cgroup")
NONE = {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}
HALF = {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"}

# What /proc/self/cgroup says, files of control groups by their folders, and the quota.
FORMS: dict[str, tuple[str, dict[str, dict[str, str]], float]] = {
    "no control groups": ("", {}, math.inf),
    "version 2": ("0::/pod/box", {"pod/box": {"cpu.max": "150000 100000"}}, 1.5),
    "version 2, no limit": ("0::/pod", {"pod": {"cpu.max": "max 100000"}}, math.inf),
    "version 2, of a group around it": (
        "0::/pod/box",
        {"pod": {"cpu.max": "200000 100000"}, "pod/box": {"cpu.max": "max 100000"}},
        2.0,
    ),
    "version 2, the least of several": (
        "0::/pod/box",
        {"": {"cpu.max": "300000 100000"}, "pod": {"cpu.max": "100000 50000"}, "pod/box": {"cpu.max": "400000 100000"}},
        2.0,
    ),
    "version 2, a path of the host": ("0::/host/pod", {"": {"cpu.max": "250000 100000"}}, 2.5),
    "version 1": ("4:memory:/pod\n3:cpu,cpuacct:/pod", {"cpu,cpuacct/pod": HALF}, 0.5),
    "version 1, no limit": ("3:cpu:/", {"cpu": NONE}, math.inf),
    "version 1, of a group around it": ("3:cpu:/pod/box", {"cpu/pod": HALF, "cpu/pod/box": NONE}, 0.5),
    "version 1, not of processors": ("3:cpuset:/pod", {"cpuset/pod": HALF}, math.inf),
    "both versions": ("3:cpu:/pod\n0::/pod", {"cpu/pod": HALF, "pod": {"cpu.max": "max 100000"}}, 0.5),
    "damaged": (":\n3\nx:cpu:pod", {"cpu": {"cpu.cfs_quota_us": "many", "cpu.max": ""}}, math.inf),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_quota_is_found(form: str, tmp_path: Path) -> None:
    groups, folders, expected = FORMS[form]
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"{groups}\n")
    for folder, files in folders.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / folder
        path.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (path / name).write_text(f"{text}\n")
    assert torch.ops.gru_ext.cpu_quota(str(tmp_path)) == expected


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of this machine that may have a quota."""
    version_2 = (GROUPS / "cgroup.controllers").exists()
    path = (GROUPS if version_2 else GROUPS / "cpu") / f"gru_ext_{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if not (path / ("cpu.max" if version_2 else "cpu.cfs_quota_us")).exists():
            pytest.skip("the control groups of this machine know no quota")
        yield path
    finally:
        path.rmdir()


def limit(group: Path, cores: float) -> None:
    period = 100000
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{int(cores * period)} {period}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(period))
        (group / "cpu.cfs_quota_us").write_text(str(int(cores * period)))


# Threads of OpenMP stay once they have been started.
STARTED = """
import os
from pathlib import Path

Path("{group}/cgroup.procs").write_text(str(os.getpid()))
import torch

import gru_ext

torch.set_num_threads(1)
layer, x = gru_ext.GRU(96, 96), torch.randn(40, 8, 96)
torch.set_num_threads(2)
before = len(os.listdir("/proc/self/task"))
with torch.no_grad():
    layer(x)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.parametrize(("cores", "started"), [(1.5, 0), (2, 1)])
def test_a_call_takes_as_many_threads_as_the_quota_lets_run(group: Path, cores: float, started: int) -> None:
    limit(group, cores)
    result = run_python("-c", STARTED.format(group=group), environment={"GRU_EXT_CPU_WAIT": "0.1"})
    assert output_of(result) == f"{started}\n"
