"""The persistent CUDA kernels, emulated: exchanges, waits, repeatability; test_accuracy.py has their accuracy."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from cases import Options, Size, make_problem
from compare import assert_same_bits
from emulation import Schedule
from persistent_kernels import (
    DTYPES_OF_GROUPS,
    SMALL_CONFIGS,
    SMALL_SIZES,
    Config,
    HeldConfig,
    StreamedConfig,
    held_instantiations,
    persistent_bwd,
    persistent_fwd,
    run_way,
    solve_persistent,
    streamed_instantiations,
)


def test_every_backward_has_a_forward() -> None:
    for family in ("cluster", "group"):
        assert set(held_instantiations(family, "BWD")) <= set(held_instantiations(family, "FWD"))
    assert set(streamed_instantiations("BWD")) <= set(streamed_instantiations("FWD"))


@pytest.mark.parametrize(
    ("config", "hidden", "stores"),
    [
        (HeldConfig(torch.bfloat16, 64, 4, 16, group=True), 36, (0, 100, 1000)),
        (StreamedConfig(torch.bfloat16, 48, 16, shared_slabs=0), 200, (0, 7, 19)),
    ],
    ids=str,
)
def test_a_kernel_that_waits_too_long_says_so(config: Config, hidden: int, stores: tuple[int, ...]) -> None:
    problem = make_problem(Size(5, 11, 4, hidden), Options(), torch.bfloat16)
    for lost, way in product(stores, ("fwd", "bwd")):
        schedule = Schedule(races=False, time_out=True, lost_store=lost)
        assert run_way(config, way, problem, schedule).error.item() == 1


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_streamed_weights_are_those_that_stay(steps: int, kept: int) -> None:
    """With one streamed slab to a slice, which has no order, the same bits."""
    problem = make_problem(Size(steps, 9, 3, 128 + 64 * kept), Options(), torch.bfloat16)
    stay, stream = (
        persistent_fwd(StreamedConfig(torch.bfloat16, 16, 8, shared_slabs=shared), problem) for shared in (-1, kept)
    )
    assert_same_bits(stream.y, stay.y)


# ---- What must not matter


@pytest.mark.parametrize("config", SMALL_CONFIGS, ids=str)
def test_inference_gives_the_bits_of_training(config: Config) -> None:
    problem = make_problem(Size(5, 11, 4, 35), Options(bidirectional=True), config.dtype)
    training, inference = persistent_fwd(config, problem), persistent_fwd(config, problem, save_gates=False)
    assert_same_bits((inference.y, inference.h_n), (training.y, training.h_n))


GROUPS = [
    *(HeldConfig(dtype, 64, 4, 16, group=True) for dtype in DTYPES_OF_GROUPS),
    HeldConfig(torch.bfloat16, 64, 2, 8, group=True),
]


@pytest.mark.parametrize(
    ("config", "size"), [*product(SMALL_CONFIGS, [Size(5, 10, 4, 50)]), *product(GROUPS, SMALL_SIZES)], ids=str
)
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_every_schedule_gives_the_same_bits(options: Options, config: Config, size: Size) -> None:
    problem = make_problem(size, options, config.dtype)
    first: dict[str, torch.Tensor] = {}
    for seed in range(10):
        results = solve_persistent(config, problem, schedule=Schedule(seed=seed))
        first = first or results
        assert_same_bits(results, first)


@pytest.mark.parametrize("config", SMALL_CONFIGS, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_row_touches_itself_only_from_its_step_on(value: float, config: Config) -> None:
    problem = make_problem(Size(6, 11, 3, 40), Options(), config.dtype)
    x = problem.x.clone()
    x[2, 1, 0] = value
    good, bad = persistent_fwd(config, problem), persistent_fwd(config, replace(problem, x=x))
    touched = torch.zeros(6, 11, dtype=torch.bool)
    touched[2:, 1] = True
    assert_same_bits(bad.y[~touched], good.y[~touched])
    assert not torch.equal(bad.y[2, 1], good.y[2, 1])


@pytest.mark.parametrize("config", SMALL_CONFIGS, ids=str)
def test_dgates_h_prev_and_dbias_agree(config: Config) -> None:
    """What the backward leaves for the products over all steps."""
    problem = make_problem(Size(4, 19, 3, 21), Options(), config.dtype)
    forward = persistent_fwd(config, problem)
    assert problem.hx is not None
    backward = persistent_bwd(config, problem, forward)
    assert_same_bits(backward.h_prev[0], torch.cat([problem.hx, forward.y[:-1]]))
    sums = backward.dgates[0].double().view(4, 19, 4, 21).sum((0, 1))
    tolerance = 4 * 19 * torch.finfo(config.dtype).eps * backward.dgates[0].abs().max()
    assert (backward.dbias[0].double().sum(0) - sums).abs().max() < tolerance
