"""The persistent CUDA kernels, emulated: accuracy of every instantiation, shapes, strides, repeatability."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest
import torch
from cases import ALL_OPTIONS, Options, Problem, Size, exact, framework, make_problem, solve
from cluster_kernels import ClusterConfig, Config, StreamedConfig, cluster_bwd, cluster_fwd, solve_cluster
from compare import assert_all_accurate, assert_same_bits
from emulation import SOME_SCHEDULE, Schedule
from process import ROOT

DTYPES = {"16BIT": torch.bfloat16, "TF32": torch.float32, "IEEE": torch.float32}


def instantiations() -> list[ClusterConfig]:
    """The table of csrc/cuda/persistent/cluster/configs.h, as far as forward and backward share it."""
    text = (ROOT / "csrc" / "cuda" / "persistent" / "cluster" / "configs.h").read_text()
    configs: dict[str, list[ClusterConfig]] = {"FWD": [], "BWD": []}
    for direction, kind, rows in re.findall(r"#define GRU_CLUSTER_(FWD|BWD)_(\w+)\(X\)((?:.*\\\n)*.*)", text):
        for hidden, blocks, tile in re.findall(r"X\( *(\d+), *(\d+), *(\d+), *\d+, *\d+\)", rows):
            configs[direction].append(
                ClusterConfig(DTYPES[kind], int(hidden), int(blocks), int(tile), ieee=kind == "IEEE")
            )
    assert set(configs["BWD"]) <= set(configs["FWD"])
    return configs["BWD"]


DTYPES_OF_GROUPS = (torch.bfloat16, torch.float16, torch.float32)
BFLOAT16 = [ClusterConfig(torch.bfloat16, 64, blocks, rows) for blocks, rows in ((1, 8), (2, 8), (4, 16))]
SMALL: list[Config] = [
    *BFLOAT16,
    *(
        ClusterConfig(dtype, 64, blocks, rows)
        for dtype in (torch.float16, torch.float32)
        for blocks, rows in ((1, 8), (4, 16))
    ),
    *(ClusterConfig(dtype, 64, 4, 16, group=True) for dtype in DTYPES_OF_GROUPS),
    StreamedConfig(torch.bfloat16, 16, 8),
    StreamedConfig(torch.bfloat16, 48, 16, shared_slabs=0),
    StreamedConfig(torch.float16, 32, 16, shared_slabs=1),
    StreamedConfig(torch.float32, 48, 8, shared_slabs=0),
    ClusterConfig(torch.float32, 64, 1, 8, ieee=True),
    *(ClusterConfig(torch.float32, 64, 4, 16, group=group, ieee=True) for group in (False, True)),
]
SIZES = [
    Size(1, 1, 1, 1),
    Size(2, 3, 5, 7),
    Size(5, 9, 3, 34),
    Size(4, 17, 6, 64),
    Size(9, 2, 2, 63),
]


def group_instantiations(direction: str) -> list[ClusterConfig]:
    """Those with the exchange by packets, FWD or BWD."""
    text = (ROOT / "csrc" / "cuda" / "persistent" / "cluster" / "configs.h").read_text()
    return [
        ClusterConfig(DTYPES[kind], int(hidden), int(blocks), int(tile), group=True, ieee=kind == "IEEE")
        for kind, rows in re.findall(rf"#define GRU_GROUP_{direction}_(\w+)\(X\)((?:.*\\\n)*.*)", text)
        for hidden, blocks, tile in re.findall(r"X\( *(\d+), *(\d+), *(\d+), *\d+, *\d+\)", rows)
    ]


def streamed_instantiations(direction: str) -> dict[StreamedConfig, int]:
    """The table of streamed/configs.h, FWD or BWD; of each an H of which registers do not hold all."""
    text = (ROOT / "csrc" / "cuda" / "persistent" / "streamed" / "configs.h").read_text()
    found = {}
    for kind, lists in re.findall(rf"#define GRU_STREAMED_{direction}_(\w+)\(X\)((?:.*\\\n)*.*)", text):
        for numbers in re.findall(r"X\(([\d, ]+)\)", lists):
            units, rows, slices, _, in_registers, *_ = map(int, numbers.split(","))
            of_slab = 64 // DTYPES[kind].itemsize // (1 if direction == "FWD" else 3)
            config = StreamedConfig(DTYPES[kind], units, rows, shared_slabs=0)
            found[config] = slices * in_registers * of_slab + 2
    return found


def check_accuracy(
    config: Config, problem: Problem, batch_first: bool = False, schedule: Schedule = SOME_SCHEDULE
) -> None:
    """Every result and gradient within the policy."""
    ours = solve_cluster(config, problem, batch_first, schedule)
    peer = solve(framework, problem.to(config.peer_dtype))
    theirs = {name: result.to(config.dtype) for name, result in peer.items()}
    assert_all_accurate(ours, theirs, solve(exact, problem.to(torch.float64)))


def check_forward_accuracy(config: Config, problem: Problem, schedule: Schedule) -> None:
    """Every result within the policy."""
    problem = replace(problem, dy=None, dh_n=None)
    forward = cluster_fwd(config, problem, save_gates=False, schedule=schedule)
    assert not forward.error.any()
    peer = solve(framework, problem.to(config.peer_dtype))
    theirs = {name: result.to(config.dtype) for name, result in peer.items()}
    assert_all_accurate({"y": forward.y, "h_n": forward.h_n}, theirs, solve(exact, problem.to(torch.float64)))


# ---- Accuracy


@pytest.mark.parametrize("config", instantiations(), ids=str)
def test_accuracy_of_every_instantiation(config: ClusterConfig) -> None:
    """An H whose rows are not aligned; in small layers two tiles, the last not full, and all of H.

    Large layers of all of H are run from what nvcc makes of them, by check_compiled_kernels.py.
    """
    schedule = Schedule(races=config.hidden < 256)
    small = config.hidden <= 256
    cases = [(config.hidden - 14, config.rows + 3 if small else 3), (config.hidden, config.rows - 3)]
    for hidden, batch in cases[: 2 if small else 1]:
        check_accuracy(config, make_problem(Size(3, batch, 2, hidden), Options(), config.dtype), schedule=schedule)


@pytest.mark.parametrize(
    ("size", "options", "config"),
    [
        (size, options, config)
        for i, (size, config) in enumerate(product(SIZES, SMALL))
        for options in ALL_OPTIONS[i % 3 :: 3]  # every config meets all of them, and so does every size
    ],
    ids=str,
)
def test_accuracy_of_results_and_gradients(size: Size, options: Options, config: Config) -> None:
    check_accuracy(config, make_problem(size, options, config.dtype))


@pytest.mark.parametrize("config", SMALL, ids=str)
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True)], ids=str)
@pytest.mark.parametrize("size", SIZES[1:], ids=str)
def test_accuracy_with_the_batch_first_in_memory(size: Size, options: Options, config: Config) -> None:
    check_accuracy(config, make_problem(size, options, config.dtype), batch_first=True)


@pytest.mark.parametrize("config", SMALL, ids=str)
@pytest.mark.parametrize("absent", ["dy", "dh_n"])
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_accuracy_with_the_gradient_of_one_result_only(options: Options, absent: str, config: Config) -> None:
    problem = make_problem(Size(5, 11, 4, 36), options, config.dtype)
    check_accuracy(config, replace(problem, dy=None) if absent == "dy" else replace(problem, dh_n=None))


@pytest.mark.parametrize("config", SMALL, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 30.0])
def test_accuracy_for_inputs_of_any_magnitude(scale: float, config: Config) -> None:
    problem = make_problem(Size(5, 11, 4, 36), Options(), config.dtype)
    check_accuracy(config, replace(problem, x=problem.x * scale))


@pytest.mark.parametrize("config", [BFLOAT16[1], BFLOAT16[2]], ids=str)
def test_accuracy_over_many_steps(config: Config) -> None:
    check_accuracy(config, make_problem(Size(100, 9, 4, 48), Options(bidirectional=True, packed=True), config.dtype))


# ---- Groups


@pytest.mark.parametrize("config", group_instantiations("FWD"), ids=str)
def test_accuracy_of_every_group(config: ClusterConfig) -> None:
    """Backwards too, where there is one: an H whose rows are not aligned; where that is soon done, all of H too.

    Large layers of all of H are run from what nvcc makes of them, by check_compiled_kernels.py.
    """
    schedule = Schedule(races=False)
    cases = [(config.hidden - 14, config.rows - 3), (config.hidden, 3)]
    for hidden, batch in cases[: 1 if config.hidden > 512 else 2]:
        problem = make_problem(Size(3, batch, 2, hidden), Options(), config.dtype)
        if config in group_instantiations("BWD"):
            check_accuracy(config, problem, schedule=schedule)
            continue
        check_forward_accuracy(config, problem, schedule)


def test_every_group_of_the_backward_has_a_forward() -> None:
    assert set(group_instantiations("BWD")) <= set(group_instantiations("FWD"))


@pytest.mark.parametrize(
    ("dtype", "blocks", "rows"), [(torch.bfloat16, 2, 8), *((dtype, 4, 16) for dtype in DTYPES_OF_GROUPS)], ids=str
)
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_group_gives_the_bits_of_a_cluster(
    size: Size, options: Options, dtype: torch.dtype, blocks: int, rows: int
) -> None:
    """Under ten schedules: the same sums in the same order."""
    problem = make_problem(size, options, dtype)
    expected = cluster_fwd(ClusterConfig(dtype, 64, blocks, rows), problem)
    for seed in range(10):
        forward = cluster_fwd(ClusterConfig(dtype, 64, blocks, rows, group=True), problem, schedule=Schedule(seed=seed))
        for name in ("y", "h_n", "gates", "error"):
            assert_same_bits(getattr(forward, name), getattr(expected, name), name)


def test_a_group_that_waits_too_long_says_so() -> None:
    config = ClusterConfig(torch.bfloat16, 64, 4, 16, group=True)
    problem = make_problem(Size(5, 11, 4, 36), Options(), torch.bfloat16)
    whole = cluster_fwd(config, problem)
    assert whole.gates is not None
    for lost in (0, 100, 1000):
        schedule = Schedule(races=False, time_out=True, lost_store=lost)
        assert cluster_fwd(config, problem, schedule=schedule).error.item() == 1
        assert cluster_bwd(config, problem, whole.y, whole.gates, schedule=schedule).error.item() == 1


# ---- Streamed kernels


@pytest.mark.parametrize(("config", "hidden"), streamed_instantiations("FWD").items(), ids=str)
def test_accuracy_of_every_streamed_kernel(config: StreamedConfig, hidden: int) -> None:
    """Backwards too, where there is one; so wide that some weights are in registers and others streamed."""
    schedule = Schedule(races=False)
    if config in streamed_instantiations("BWD"):
        hidden = max(hidden, streamed_instantiations("BWD")[config])
        check_accuracy(config, make_problem(Size(3, 5, 2, hidden), Options(), config.dtype), schedule=schedule)
        return
    check_forward_accuracy(config, make_problem(Size(4, 9, 2, max(hidden, 65)), Options(), config.dtype), schedule)


def test_every_streamed_backward_has_a_forward() -> None:
    assert set(streamed_instantiations("BWD")) <= set(streamed_instantiations("FWD"))


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_streamed_weights_are_those_that_stay(steps: int, kept: int) -> None:
    """With one streamed slab to a slice, which has no order, the same bits."""
    problem = make_problem(Size(steps, 9, 3, 128 + 64 * kept), Options(), torch.bfloat16)
    stay, stream = (
        cluster_fwd(StreamedConfig(torch.bfloat16, 16, 8, shared_slabs=shared), problem) for shared in (-1, kept)
    )
    assert_same_bits(stream.y, stay.y)


def test_a_streamed_kernel_that_waits_too_long_says_so() -> None:
    config = StreamedConfig(torch.bfloat16, 48, 16, shared_slabs=0)
    problem = make_problem(Size(5, 11, 4, 200), Options(), torch.bfloat16)
    whole = cluster_fwd(config, problem)
    assert whole.gates is not None
    for lost in (0, 7, 19):
        schedule = Schedule(races=False, time_out=True, lost_store=lost)
        assert cluster_fwd(config, problem, schedule=schedule).error.item() == 1
        assert cluster_bwd(config, problem, whole.y, whole.gates, schedule=schedule).error.item() == 1


# ---- What must not matter


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_inference_gives_the_bits_of_training(config: Config) -> None:
    problem = make_problem(Size(5, 11, 4, 35), Options(bidirectional=True), config.dtype)
    training, inference = cluster_fwd(config, problem), cluster_fwd(config, problem, save_gates=False)
    assert_same_bits(inference.y, training.y)
    assert_same_bits(inference.h_n, training.h_n)


@pytest.mark.parametrize("config", SMALL, ids=str)
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_every_schedule_gives_the_same_bits(options: Options, config: Config) -> None:
    problem = make_problem(Size(7, 10, 4, 50), options, config.dtype)
    first: dict[str, torch.Tensor] = {}
    for seed in range(10):
        results = solve_cluster(config, problem, schedule=Schedule(seed=seed))
        first = first or results
        for name, result in results.items():
            assert_same_bits(result, first[name], name)


@pytest.mark.parametrize("config", SMALL, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_row_touches_itself_only_from_its_step_on(value: float, config: Config) -> None:
    problem = make_problem(Size(6, 11, 3, 40), Options(), config.dtype)
    x = problem.x.clone()
    x[2, 1, 0] = value
    good, bad = cluster_fwd(config, problem), cluster_fwd(config, replace(problem, x=x))
    touched = torch.zeros(6, 11, dtype=torch.bool)
    touched[2:, 1] = True
    assert_same_bits(bad.y[~touched], good.y[~touched])
    assert not torch.equal(bad.y[2, 1], good.y[2, 1])


@pytest.mark.parametrize("config", SMALL, ids=str)
def test_dgates_h_prev_and_dbias_agree(config: Config) -> None:
    """What the backward leaves for the products over all steps."""
    problem = make_problem(Size(4, 19, 3, 21), Options(), config.dtype)
    forward = cluster_fwd(config, problem)
    assert forward.gates is not None
    assert problem.hx is not None
    backward = cluster_bwd(config, problem, forward.y, forward.gates)
    assert_same_bits(backward.h_prev[0], torch.cat([problem.hx, forward.y[:-1]]))
    sums = backward.dgates[0].double().view(4, 19, 4, 21).sum((0, 1))
    tolerance = 4 * 19 * torch.finfo(config.dtype).eps * backward.dgates[0].abs().max()
    assert (backward.dbias[0].double().sum(0) - sums).abs().max() < tolerance
