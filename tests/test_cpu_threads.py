"""How many threads a call of the CPU backend takes, and that they change no bit of what it gives."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accuracy import BOTH
from building import compiled
from cases import Options, Size, make_problem, ours, results_of, seeded, solve
from compare import assert_same_bits
from process import TESTS, fork_python, output_of, thread_count

import gru_ext

COUNTS = (2, 3, 5, 8, 12, 16)
CASES = {
    "small": (Size(40, 8, 64, 64), Options(), torch.float32),
    "wide input": (Size(5, 120, 700, 24), Options(), torch.float32),
    "wide input, both directions, packed": (Size(5, 120, 700, 24), BOTH, torch.float32),
    "bfloat16": (Size(10, 30, 40, 72), Options(), torch.bfloat16),
    "many rows, few units": (Size(4, 130, 8, 20), Options(), torch.float32),
    "enough rows for blocks of 8, though they are a multiple of 4": (Size(3, 516, 8, 20), Options(), torch.float32),
    "many units: their products are not kept for all rows": (Size(12, 100, 40, 300), Options(), torch.float32),
    "few rows: weights are not packed": (Size(4, 5, 200, 300), Options(), torch.float32),
    "few rows of bfloat16": (Size(2, 3, 200, 300), Options(), torch.bfloat16),
    "sequences that end early": (Size(9, 40, 24, 40), Options(packed=True), torch.float32),
    "sequences that end early, too few for row groups": (Size(20, 15, 24, 40), Options(packed=True), torch.float32),
}
# Of tests with `ROWS` rows: they are five groups and a rest, or eleven of half as many, and units of two groups of each
# instruction set. Sums of the gradients of the weights begin anew with each chunk of the backward: so many steps are
# four, which few threads go through one by one, and many at once.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reset gate before": {"reset_after": False},
    "masks": {"zoneout": 0.2, "candidate_dropout": 0.3, "recurrent_dropout": 0.3},
    "masks, reset gate before": {"reset_after": False, "recurrent_dropout": 0.3},
    "layer norm": {"layer_norm": True},
}
STEPS, ROWS, INPUTS, UNITS = 40, (43, 44), 24, 40


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_one_thread(case: str) -> None:
    problem = make_problem(*CASES[case])
    expected = solve(ours, problem)
    for threads in COUNTS:
        with thread_count(threads):
            results = solve(ours, problem)
        assert_same_bits(results, expected, f"on {threads} threads")


@pytest.mark.parametrize(("inputs", "units"), [(224, 32), (64, 64)])
def test_directions_side_by_side_need_not_keep_products_both(inputs: int, units: int) -> None:
    """Their stretches of chunks have other rows where sequences end early: here one direction keeps them, one does not.

    With AVX2 that is so at the first size, with AVX-512 at the second.
    """
    module = gru_ext.GRU(inputs, units, bidirectional=True)
    lengths = torch.tensor([8] * 256 + [4] * 199 + [1] * 57)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(8, len(lengths), inputs), lengths)

    def gradients() -> list[torch.Tensor]:
        return [*torch.autograd.grad(module(packed)[0].data.sum(), list(module.parameters()))]

    expected = gradients()
    with thread_count(16):
        results = gradients()
    assert_same_bits(results, expected, "on 16 threads")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", ROWS)
def test_groups_of_rows_change_no_bit(rows: int, variant: str, dtype: torch.dtype) -> None:
    """With the same masks at each call."""
    module = gru_ext.GRU(INPUTS, UNITS, **VARIANTS[variant]).to(dtype)
    x = torch.randn(STEPS, rows, INPUTS).to(dtype).requires_grad_()
    expected = seeded(results_of, module, x, None)
    for threads in COUNTS:
        with thread_count(threads):
            results = seeded(results_of, module, x, None)
        for name, tensor in results.items():
            if variant != "layer norm":
                assert_same_bits(tensor, expected[name], f"{name} on {threads} threads")
                continue
            # The members of a group of rows add up their sums: the last bits depend on how many they are.
            tolerance = 32 * torch.finfo(dtype).eps * expected[name].detach().abs().max().item()
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=tolerance)


# Of 43 or 44 sequences; rows end one by one, a block at a time, and all but a few at once.
LENGTHS: dict[str, Callable[[int], int]] = {
    "one by one": lambda row: STEPS - row * STEPS // 48,
    "by blocks": lambda row: STEPS - row // 8 * 6,
    "most at once": lambda row: STEPS if row < 3 else 7,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "layer norm"])
@pytest.mark.parametrize("rows", ROWS)
def test_groups_of_rows_that_end_early_change_no_bit(rows: int, variant: str, lengths: str, dtype: torch.dtype) -> None:
    """A group is left with fewer rows than a product of all threads has."""
    both = dtype == torch.float32  # dx of two directions in a half precision may be rounded once more
    module = gru_ext.GRU(INPUTS, UNITS, bidirectional=both, **VARIANTS[variant]).to(dtype)
    steps = torch.tensor([LENGTHS[lengths](row) for row in range(rows)])
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(STEPS, rows, INPUTS).to(dtype), steps)
    x, h_0 = packed.data.requires_grad_(), torch.randn(2 if both else 1, rows, UNITS).to(dtype).requires_grad_()

    def results() -> list[torch.Tensor]:
        torch.manual_seed(0)
        y, h_n = module(packed._replace(data=x), h_0)
        loss = (y.data * torch.linspace(-1, 1, y.data.numel()).to(dtype).view_as(y.data)).sum() + h_n.sum()
        return [y.data, h_n, *torch.autograd.grad(loss, [x, h_0, *module.parameters()])]

    expected = results()
    for threads in COUNTS:
        with thread_count(threads):
            assert_same_bits(results(), expected, f"on {threads} threads")


@pytest.mark.parametrize("backward", [False, True])
def test_a_packed_batch_is_split_by_rows(backward: bool) -> None:
    steps = torch.tensor([64 - row // 4 for row in range(256)])
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(64, 256, 64), steps)
    weights = [weight.detach() for weight in gru_ext.GRU(64, 64).parameters()]
    figures = torch.ops.gru_ext.rehearse_cpu(packed.data, weights, 4, 8, 0.75, backward, packed.batch_sizes)
    assert figures[4:6] == [4, 1]


@pytest.mark.parametrize("backward", [False, True])
def test_many_rows_of_few_units_are_split_by_rows(backward: bool) -> None:
    module, x = gru_ext.GRU(64, 64), torch.randn(20, 256, 64)
    weights = [weight.detach() for weight in module.parameters()]
    serial, longest, average, parts, row_groups, members, read = torch.ops.gru_ext.rehearse_cpu(
        x, weights, 16, 8, 0.75, backward
    )
    assert row_groups > 4
    assert row_groups * members <= 16
    assert serial > 0
    assert longest >= average > 0
    assert parts == (4 if backward else 2)  # packing and the steps; products of 256 rows, and their sums
    assert (read > 0) == backward  # of the other eight threads; the members of a row group share a cache


@pytest.mark.parametrize(("together", "expected"), [(1, 3), (2, 2), (3, 3), (4, 0), (16, 0)])
def test_members_beyond_the_cache_read_from_afar(together: int, expected: int) -> None:
    """The state of 4 rows in each of 20 steps, of members that have a quarter of 64 units, as waits cost nothing."""
    weights = [weight.detach() for weight in gru_ext.GRU(64, 64).parameters()]
    figures = torch.ops.gru_ext.rehearse_cpu(torch.randn(20, 4, 64), weights, 4, together, 1e-3, False)
    assert figures[4:6] == [1, 4]
    assert figures[6] == 20 * 4 * 16 * expected * 4


def test_a_rehearsal_of_no_threads_is_a_value_error() -> None:
    weights = [weight.detach() for weight in gru_ext.GRU(8, 8).parameters()]
    with pytest.raises(
        ValueError, match="expected threads and together from 1 to 65536 and wait above 0, got 0, 1 and 1"
    ):
        torch.ops.gru_ext.rehearse_cpu(torch.randn(2, 3, 8), weights, 0, 1, 1.0, False)


@pytest.mark.parametrize("lengths", ["none", *LENGTHS])
def test_groups_of_rows_change_no_bit_of_int8(lengths: str) -> None:
    module = gru_ext.quantize_dynamic(gru_ext.GRU(64, 64, bidirectional=True))
    x, h_0 = torch.randn(STEPS, ROWS[0], 64), torch.randn(2, ROWS[0], 64)
    of_each = None if lengths == "none" else [LENGTHS[lengths](row) for row in range(ROWS[0])]
    expected = module(x, h_0, lengths=of_each)
    for threads in COUNTS:
        with thread_count(threads):
            assert_same_bits(module(x, h_0, lengths=of_each), expected, f"{threads} threads")


# Threads of OpenMP stay once they have been started. Torch would start one to quantize.
STARTED = """
import os

import torch

import gru_ext

torch.set_num_threads(1)
layer, x = gru_ext.GRU(96, 96), torch.randn(80, 7, 96)  # too few rows for two row groups, which would not wait
if {int8}:
    layer = gru_ext.quantize_dynamic(layer)
torch.set_num_threads(2)
before = len(os.listdir("/proc/self/task"))
with torch.no_grad():
    layer(x)
print(len(os.listdir("/proc/self/task")) - before)
"""


# Where it matters how long a core takes by the model, so that this is the same on all machines.
PORTABLE = {"GRU_EXT_CPU_ISA": "portable"}


# A step of this size takes a core 31 us, with int8 8.
@pytest.mark.parametrize(("wait", "started"), [("0.1", 1), ("50", 0)])
@pytest.mark.parametrize("int8", [False, True])
def test_a_second_thread_is_taken_where_it_saves_more_than_waits_cost(int8: bool, wait: str, started: int) -> None:
    result = fork_python("-c", STARTED.format(int8=int8), environment={**PORTABLE, "GRU_EXT_CPU_WAIT": wait})
    assert output_of(result) == f"{started}\n"


# The long call takes a core 2.1 ms, with int8 0.5; the short one 71 us.
SLEEPING = """
import os, pathlib, time, torch, gru_ext
plain, long, short = gru_ext.GRU(96, 96), torch.randn(60, 8, 96), torch.randn({short}, 8, 96)
layer = gru_ext.quantize_dynamic(plain) if {int8} else plain
own, tasks = str(os.getpid()), pathlib.Path("/proc/self/task")


def sleeps():
    # How often each thread but this one has gone to sleep.
    statuses = [(task / "status").read_text() for task in sorted(tasks.iterdir()) if task.name != own]
    return [status.split("voluntary_ctxt_switches:")[1].split()[0] for status in statuses]


def woken(x, calls, pause=0):
    with torch.no_grad():
        torch.set_num_threads(2)
        layer(long)
        time.sleep(0.1)
        before = sleeps()
        for _ in range(calls):
            layer(x)
            time.sleep(pause)
        time.sleep(0.1)
    return before != sleeps()


def ended():
    # OpenMP's runtime ends threads that a smaller parallel region leaves out.
    with torch.no_grad():
        torch.set_num_threads(3)
        plain(long[:16])  # a single chunk, so that its parallel region is at its end
        before = len(os.listdir(tasks))
        torch.set_num_threads(2)
        layer(short)
    return before - len(os.listdir(tasks))


# On a busy machine the short call may come too late after the long one.
print(woken(long, 1), woken(short, 1), woken(short, 40, 0.01), woken(short, 40), any(ended() == 1 for _ in range(300)))
"""


@pytest.mark.parametrize("int8", [False, True])
def test_threads_that_sleep_are_woken_for_long_calls_or_many(int8: bool) -> None:
    """A short one runs on one thread, so does each of a slow stream; on several after many in a row, or a long one."""
    result = fork_python("-c", SLEEPING.format(int8=int8, short=8 if int8 else 2), environment=PORTABLE)
    assert output_of(result) == "True False False True True\n"


def test_what_waits_cost_is_measured_and_the_bits_stay() -> None:
    script = (
        "import torch, gru_ext; torch.set_num_threads(2); torch.manual_seed(0); layer = gru_ext.GRU(64, 64);"
        "print(layer(torch.ones(40, 8, 64))[0].double().sum().item().hex())"
    )
    measured = output_of(fork_python("-c", script, environment={"GRU_EXT_CPU_WAIT": ""}))
    assert measured == output_of(fork_python("-c", script, environment={"GRU_EXT_CPU_WAIT": "1000"}))


# Files of a machine, and the cores' worth of time that they leave.
QUOTAS: dict[str, tuple[dict[str, str], float]] = {
    "no control groups": ({}, math.inf),
    "version 2, no quota": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
    "version 2, a container's own": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, the least of those around": (
        {
            "proc/self/cgroup": "0::/pods/pod/job\n",
            "sys/fs/cgroup/pods/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/pods/pod/cpu.max": "50000 20000\n",
            "sys/fs/cgroup/pods/pod/job/cpu.max": "max 100000\n",
        },
        2.5,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "6:cpuset:/a\n5:memory:/a\n4:cpu,cpuacct:/a:b/c\n0::/a\n",
            "sys/fs/cgroup/cpu,cpuacct/a:b/c/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/a:b/c/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpuset/a/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpuset/a/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "version 1, listed in another order than the folder has": (
        {
            "proc/self/cgroup": "4:cpuacct,cpu:/a\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "version 1, no quota": (
        {
            "proc/self/cgroup": "4:cpuacct,cpu:/\n",
            "sys/fs/cgroup/cpuacct,cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpuacct,cpu/cpu.cfs_period_us": "100000\n",
        },
        math.inf,
    ),
    "version 1, in a container that sees its own group alone": (
        {
            "proc/self/cgroup": "4:cpu:/docker/0123\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "files that say nothing": ({"proc/self/cgroup": "0::/\nrest", "sys/fs/cgroup/cpu.max": "\n"}, math.inf),
}


@pytest.mark.parametrize("machine", QUOTAS)
def test_the_quota_is_the_least_of_all_control_groups(machine: str, tmp_path: Path) -> None:
    files, expected = QUOTAS[machine]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert torch.ops.gru_ext.cores_of_quota(str(tmp_path)) == expected


COUNTED = """
import math, os, torch
from gru_ext import library
quota = torch.ops.gru_ext.cores_of_quota("/")
print(library.cpu_cores() == max(1, math.floor(min(quota, len(os.sched_getaffinity(0))))))
"""


def test_the_cores_are_those_of_the_affinity_and_the_quota() -> None:
    assert output_of(fork_python("-c", COUNTED, environment={"GRU_EXT_CPU_CORES": ""})) == "True\n"


def test_a_process_that_may_use_one_core_has_one() -> None:
    script = f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n{COUNTED}print(library.cpu_cores())"
    assert output_of(fork_python("-c", script, environment={"GRU_EXT_CPU_CORES": ""})) == "True\n1\n"


def test_the_time_that_other_programs_leave_is_that_of_the_cores_without_theirs(tmp_path: Path) -> None:
    """Of the cores of the affinity; nothing where one of them is not listed, or there is no list."""
    cores = sorted(os.sched_getaffinity(0))
    assert torch.ops.gru_ext.core_time(str(tmp_path)) == []
    (tmp_path / "proc").mkdir()
    lines = [f"cpu{core} {core + 1} 2 3 77777 77 4 5 6 77 77" for core in range(cores[-1] + 2)]
    (tmp_path / "proc/stat").write_text("\n".join(["cpu  7 7 7 77777 77 7 7 7 7 7", *lines, "intr 1 2 3"]))
    busy = sum(core + 1 + 2 + 3 + 4 + 5 + 6 for core in cores) / os.sysconf("SC_CLK_TCK")
    before = time.process_time()
    seconds, left = torch.ops.gru_ext.core_time(str(tmp_path))
    own = left - (len(cores) * seconds - busy)
    assert before - 1e-6 <= own <= time.process_time() + 1e-6
    (tmp_path / "proc/stat").write_text("\n".join(line for line in lines if not line.startswith(f"cpu{cores[0]} ")))
    assert torch.ops.gru_ext.core_time(str(tmp_path)) == []


def test_another_program_leaves_less_time() -> None:
    """Unless the system lists other cores, or none, or no time. Each of six parts of a core's is in whole ticks."""
    before = torch.ops.gru_ext.core_time("/")
    if not before or "cpu  0 0 0 0" in Path("/proc/stat").read_text():
        pytest.skip("/proc/stat does not tell of the cores of this process")
    script = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    output_of(fork_python("-c", script))
    after = torch.ops.gru_ext.core_time("/")
    tick, cores = 1 / os.sysconf("SC_CLK_TCK"), len(os.sched_getaffinity(0))
    passed, left = after[0] - before[0], after[1] - before[1]
    assert -6 * cores * tick - 0.05 <= left <= cores * passed - 0.2


@pytest.mark.parametrize("int8", [False, True])
def test_no_thread_is_started_beyond_the_cores(int8: bool) -> None:
    result = fork_python("-c", STARTED.format(int8=int8), environment={"GRU_EXT_CPU_CORES": "1"})
    assert output_of(result) == "0\n"


WITH_CACHE = """
import hashlib, torch, gru_ext
torch.manual_seed(0)
torch.set_num_threads(3)
layer, x = gru_ext.GRU(40, 300), torch.randn(12, 100, 40, requires_grad=True)
results = [layer(x)[0]]
results += torch.autograd.grad(results[0].square().sum(), [x, *layer.parameters()])
bits = hashlib.sha256(b"".join(result.detach().numpy().tobytes() for result in results)).hexdigest()
print(torch.ops.gru_ext.cache_of_core() / 2**20, bits)
"""


def test_the_cache_of_a_core_is_what_the_system_says_and_changes_no_bit() -> None:
    """More of the cache is fewer and longer parts, and other panels together."""
    preloaded = str(compiled(TESTS / "cache_size.cpp", flags=["-std=c++17", "-O1", "-fPIC", "-shared", "-ldl"]))
    sizes, bits = [], set()
    for given in ("-1", "524288", "3145728", "16777216"):
        environment = {"LD_PRELOAD": preloaded, "CACHE_BYTES": given, "GRU_EXT_CPU_WAIT": "0.5"}
        size, of_results = output_of(fork_python("-c", WITH_CACHE, environment=environment)).split()
        sizes.append(float(size))
        bits.add(of_results)
    assert sizes == [1, 1, 3, 4]
    assert len(bits) == 1


NO_NUMBERS: dict[str, tuple[str, str, list[str]]] = {
    "GRU_EXT_CPU_CORES": (
        "from gru_ext import library\ntry: library.cpu_cores()\nexcept ValueError as error: print(error)",
        "a number of cores from 1 to 65536",
        ["many", "0", "-1", "1.5", "65537"],
    ),
    "GRU_EXT_CPU_WAIT": (
        STARTED.format(int8=False).replace("layer(x)", "try: layer(x)\n    except ValueError as error: print(error)"),
        "microseconds above 0",
        ["fast", "0", "-1", "nan", "1 us"],
    ),
}


@pytest.mark.parametrize(("name", "given"), [(name, given) for name in NO_NUMBERS for given in NO_NUMBERS[name][2]])
def test_a_variable_that_is_no_such_number_is_a_value_error(name: str, given: str) -> None:
    script, expected, _ = NO_NUMBERS[name]
    words = f"gru_ext: expected the environment variable {name} to be {expected}, got {given}\n"
    assert output_of(fork_python("-c", script, environment={name: given})).startswith(words)
