"""The emulator finds what it is there to find: every planted fault, under every schedule tried, and names the place."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import torch
from building import compiler
from cases import Options, Problem, Size, make_problem
from compare import assert_same_bits
from emulation import EmulationError, Schedule, build, run
from emulator_faults import FAULTS, fault_names
from persistent_kernels import Config, HeldConfig, StreamedConfig, persistent_bwd, persistent_fwd, run_way
from process import output_of, run_python

ALONE = HeldConfig(torch.bfloat16, 64, 1, 8)  # one block
CLUSTER = HeldConfig(torch.bfloat16, 64, 4, 16)
GROUP = HeldConfig(torch.bfloat16, 64, 4, 16, group=True)
STREAMED = StreamedConfig(torch.bfloat16, 48, 16, shared_slabs=0)  # three warps to a slice
SIZE = Size(6, 9, 5, 33)  # odd H and two tiles of 8 rows
SEEDS = range(5)
PLACE = r"block \d+, warp \d+, lane \d+, step -?\d+, line \d+"


@pytest.fixture
def problem() -> Problem:
    return make_problem(SIZE, Options(), torch.bfloat16)


# H: odd, or of weights that are copied asynchronously, or of several blocks, whose slices have several slabs.
KERNELS: dict[str, tuple[Config, dict[str, int]]] = {
    "one block": (ALONE, {"fwd": 33}),
    "cluster": (CLUSTER, {"fwd": 33, "bwd": 40}),
    "group": (GROUP, {"fwd": 33, "bwd": 33}),
    "streamed": (STREAMED, {"fwd": 250, "bwd": 250}),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("kernel", "way", "fault", "report"),
    [(*place, fault, report) for place, faults in FAULTS.items() for fault, report in faults.items()],
)
def test_a_fault_is_found(kernel: str, way: str, fault: str, report: str, seed: int) -> None:
    config, hidden = KERNELS[kernel]
    problem = make_problem(SIZE._replace(hidden=hidden[way]), Options(), torch.bfloat16)
    with pytest.raises(EmulationError, match=f"gru_{config.parts[0]}_{way}: (?s:.*)({report})"):
        run_way(config, way, problem, Schedule(seed=seed, fault=fault))


def test_every_fault_has_a_test() -> None:
    assert set(fault_names()) - {"none"} == {fault for faults in FAULTS.values() for fault in faults}


# ---- What is right is not reported, and every schedule gives the same bits


@pytest.mark.parametrize("config", [ALONE, CLUSTER], ids=str)
def test_results_do_not_depend_on_the_schedule(problem: Problem, config: HeldConfig) -> None:
    first: list[Any] = []
    for seed in range(20):
        schedule = Schedule(seed=seed, races=seed % 2 == 0)
        forward = persistent_fwd(config, problem, schedule=schedule)
        results = [vars(forward), vars(persistent_bwd(config, problem, forward, schedule=schedule))]
        first = first or results
        assert_same_bits(results, first)


# ---- Waits that would never end


@pytest.mark.parametrize("lost", [0, 50, 200])
def test_a_lost_store_is_a_deadlock(problem: Problem, lost: int) -> None:
    with pytest.raises(EmulationError, match=r"deadlock: no thread can go on and no store is under way(?s:.*)lacks 0"):
        persistent_fwd(CLUSTER, problem, schedule=Schedule(lost_store=lost))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lost", [0, 50, 200])
def test_a_kernel_whose_wait_times_out_reports_it_and_ends(problem: Problem, lost: int, seed: int) -> None:
    # Whoever has waited in vain reads what may be on its way.
    schedule = Schedule(seed=seed, races=False, lost_store=lost, time_out=True)
    for way in ("fwd", "bwd"):
        assert int(run_way(CLUSTER, way, problem, schedule).error) == 1


# ---- Where


def test_a_report_names_kernel_block_warp_lane_step_and_line(problem: Problem) -> None:
    for fault in ("stores_beyond_h", "two_arrivals"):
        with pytest.raises(EmulationError, match=f"^gru_cluster_fwd: (?s:.*){PLACE}$"):
            persistent_fwd(CLUSTER, problem, schedule=Schedule(fault=fault))


def test_a_store_to_an_input_and_a_load_beyond_a_buffer_are_found() -> None:
    x, back, rounded = torch.zeros(4), torch.zeros(5), torch.zeros(5, dtype=torch.float16)
    with pytest.raises(EmulationError, match="store to the buffer rounded, which this kernel may only read"):
        run("convert_float16", {"n": 4}, {"x": x, "rounded": rounded}, {"back": back})
    beyond = r"global load of 4 bytes out of the bounds(?s:.*)16 bytes from the start of x"
    with pytest.raises(EmulationError, match=beyond):
        run("convert_float16", {"n": 5}, {"x": x}, {"rounded": rounded, "back": back})


# ---- Primitives, by the tables of the PTX manual ("Matrix fragments for mma", "ldmatrix"), not by the emulator's own


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "tf32"])
def test_mma_multiplies_by_the_fragments_of_the_manual(dtype: str) -> None:
    storage = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32}[dtype]
    depth = 8 if dtype == "tf32" else 16
    a, b = torch.randn(16, depth).to(storage), torch.randn(depth, 8).to(storage)
    start = torch.randn(16, 8)
    left, right, d = [], [], torch.empty(32, 4)
    for lane in range(32):
        group, within = lane // 4, lane % 4
        if dtype == "tf32":
            left.append([a[group + 8 * (i % 2), within + 4 * (i // 2)] for i in range(4)])
            right.append([b[within + 4 * i, group] for i in range(2)])
        else:
            rows = [group if i in (0, 1, 4, 5) else group + 8 for i in range(8)]
            columns = [within * 2 + i % 2 + (8 if i >= 4 else 0) for i in range(8)]
            left.append([a[row, column] for row, column in zip(rows, columns, strict=True)])
            right.append([b[within * 2 + i % 2 + (8 if i >= 2 else 0), group] for i in range(4)])
        for i in range(4):
            d[lane, i] = start[group + 8 * (i // 2), within * 2 + i % 2]
    fragments = [torch.tensor(rows, dtype=storage).view(torch.int32) for rows in (left, right)]
    run(f"mma_{dtype}", {}, {"a": fragments[0], "b": fragments[1]}, {"d": d})
    if dtype == "tf32":  # the lower 13 bits do not count
        a, b = ((m.view(torch.int32) & ~0x1FFF).view(torch.float32) for m in (a, b))
    expected = start.double() + a.double() @ b.double()
    for lane in range(32):
        for i in range(4):
            assert abs(d[lane, i] - expected[lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2]) < 1e-5


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_distributes_four_matrices(transposed: bool) -> None:
    matrices = torch.randint(0, 1 << 15, (4, 8, 8), dtype=torch.int16)
    words = torch.zeros(32, 4, dtype=torch.int32)
    run("ldmatrix", {"transposed": transposed}, {"rows": matrices}, {"words": words})
    received = words.view(torch.int16).view(32, 4, 2)
    for lane in range(32):
        for matrix in range(4):
            for i in range(2):
                row, column = lane // 4, lane % 4 * 2 + i
                expected = matrices[matrix, column, row] if transposed else matrices[matrix, row, column]
                assert received[lane, matrix, i] == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_conversions_round_as_torch_does(dtype: torch.dtype) -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    every = every[~every.isnan()]
    between = every.double() * (1 + torch.randn(len(every)).double() * torch.finfo(dtype).eps)
    x = torch.cat([every, between.float(), torch.randn(1000) * 1e-7, torch.tensor([65519.0, 65520.0, torch.inf])])
    rounded, back = torch.empty(len(x), dtype=dtype), torch.empty(len(x))
    run(f"convert_{str(dtype).removeprefix('torch.')}", {"n": len(x)}, {"x": x}, {"rounded": rounded, "back": back})
    assert_same_bits(rounded, x.to(dtype))
    assert_same_bits(back, x.to(dtype).float())


def test_fast_sigmoid_and_tanh_are_as_accurate_as_they_say() -> None:
    x = torch.cat([torch.linspace(-100, 100, 20001), torch.linspace(-1, 1, 20001), torch.logspace(-30, 0, 1000)])
    sigmoid, tanh = torch.empty_like(x), torch.empty_like(x)
    run("fast_math", {"n": len(x)}, {"x": x}, {"sigmoid": sigmoid, "tanh": tanh})
    exact = x.double()
    assert (sigmoid - exact.sigmoid()).abs().max() < 5e-7
    assert (tanh - exact.tanh()).abs().max() < 1e-6
    small = x.abs() < 0.5
    assert ((tanh - exact.tanh())[small].abs() <= 2e-7 * exact.tanh()[small].abs()).all()


# ---- The emulator itself


def test_under_sanitizers_and_with_the_other_fibers(monkeypatch: pytest.MonkeyPatch) -> None:
    """ASan and UBSan see no fault in what the tests above run; and ucontext, for other machines than x86-64, works."""
    flags = (
        "-O1 -g0 -fsanitize=address,undefined -fno-sanitize-recover=all -DGRU_EMULATOR_UCONTEXT -DGRU_EMULATOR_SMALL"
    )
    names = [f"-print-file-name={name}" for name in ("libasan.so", "libubsan.so")]
    runtimes = [subprocess.check_output([*compiler(), name], text=True).strip() for name in names]
    monkeypatch.setenv("GRU_EMULATOR_FLAGS", flags)
    build()  # first: the compiler itself must not run under ASan
    selected = "results_do_not_depend or times_out or too_few_bytes or one_block or mma or ldmatrix or conversions"
    selected += " or (test_emulated_kernel and (batch or dy or dh_n) and bfloat16_H64_C4)"
    output = output_of(
        run_python(
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selected),
            *("tests/test_emulator.py", "tests/test_accuracy.py"),
            environment={"LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"},
            timeout=900,
        )
    )
    assert "passed" in output
