"""The one-step CUDA kernel and its host side, without a GPU: T = 1, forward in one launch, under emulation.

test_accuracy.py has its accuracy, with the backward of other kernels, which follows from what it leaves. What only a
GPU can show is in docs/gpu-checklist.md.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from accuracy import BOTH, check_problems
from cases import FLOATING, Options, Problem, Size, make_problem
from compare import assert_near, assert_same_bits
from emulated_backend import choice, emulate, solve_emulated
from layouts import of_a_long_sequence
from torch import Tensor

SMALL = Size(1, 3, 24, 40)


@pytest.fixture(autouse=True)
def _asked_for(emulated: None) -> None:
    emulate(0, ("one_step", "auto"))


def forward(problem: Problem, save_gates: bool = True, save_y: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n and gates, by exactly one launch."""
    ops = emulate(multiprocessors=0)
    result: tuple[Tensor, Tensor, Tensor] = ops.gru_fwd(*problem.layer, save_gates, save_y)
    assert ops.block_launches() == 1
    return result


# ---- Strides and sizes


def test_rows_that_lie_further_apart_than_32_bits_count() -> None:
    """Of 8 GB that are reserved, the rows of x and of the state alone are touched."""
    problem = make_problem(Size(1, 9, 8, 34), Options(), torch.float16)  # a tile of eight rows, and one of another
    assert problem.hx is not None

    def apart(tensor: Tensor) -> Tensor:
        memory = torch.empty(2**31 + 4096, dtype=tensor.dtype)
        return memory.as_strided(tensor.shape, (0, 2**28 + 2, 1)).copy_(tensor)

    check_problems([replace(problem, x=apart(problem.x), hx=apart(problem.hx))], solve_emulated)


def test_a_row_for_the_whole_batch() -> None:
    problem = make_problem(Size(1, 1, 8, 12), Options(), torch.float32)
    assert problem.hx is not None
    expanded = replace(problem, x=problem.x.expand(1, 6, 8), hx=problem.hx.expand(1, 6, 12))
    rows = forward(expanded)[:2]
    assert_same_bits(rows, [one.expand_as(all_) for one, all_ in zip(forward(problem), rows, strict=False)])


# ---- What it leaves


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("options", [Options(), BOTH], ids=str)
def test_the_gates_are_those_of_the_stepwise_kernels(options: Options, dtype: torch.dtype) -> None:
    problem = make_problem(SMALL, options, dtype)
    one_step = forward(problem)
    ops = emulate(0, ("stepwise", "auto"))
    stepwise = ops.gru_fwd(*problem.layer, True)
    assert ops.block_launches() == (2 if options.bidirectional else 1)
    assert_near(one_step, stepwise, tolerance=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True), BOTH], ids=str)
def test_what_is_not_saved_changes_nothing(options: Options, dtype: torch.dtype) -> None:
    problem = make_problem(SMALL, options, dtype)
    y, h_n, _ = forward(problem)
    halves = y.view(*y.shape[:-1], -1, SMALL.hidden).movedim(-2, 0).reshape(h_n.shape)
    assert_same_bits(halves, h_n, "y and h_n")
    for save_gates, save_y in ((False, True), (True, False), (False, False)):
        results = forward(problem, save_gates, save_y)
        assert_same_bits(results[1], h_n, "h_n")
        assert_same_bits(results[0], y if save_y else y.new_empty(0), "y")
        assert (results[2].shape == (0,)) is not save_gates


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("inputs", [5, 24, 600])
def test_a_row_has_the_same_bits_in_every_batch(inputs: int, dtype: torch.dtype) -> None:
    problem = make_problem(Size(1, 11, inputs, 16), Options(), dtype)
    y = forward(problem)[0]
    assert problem.hx is not None
    for rows in (slice(0, 1), slice(0, 2), slice(0, 3), slice(4, 11), slice(10, 11)):
        some = replace(problem, x=problem.x[:, rows], hx=problem.hx[:, rows])
        assert_same_bits(forward(some)[0], y[:, rows])


def test_it_takes_no_memory_but_the_results_and_calls_nothing_else() -> None:
    problem = make_problem(SMALL, Options(bidirectional=True), torch.bfloat16).map(of_a_long_sequence)
    forward(problem)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        forward(problem)
    called = {event.key: event.count for event in profile.key_averages() if event.key.startswith("aten::")}
    assert called == {"aten::empty": 3}


# ---- Choice


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("size", "serves"),
    [
        (Size(1, 1, 0, 1), True),
        (Size(1, 8, 0, 4096), True),
        (Size(1, 64, 0, 64), True),
        (Size(1, 65, 0, 64), False),
        (Size(1, 64, 0, 2048), False),  # eight times over the weights
        (Size(2, 1, 0, 64), False),
    ],
    ids=str,
)
def test_it_serves_one_step_of_few_rows(size: Size, serves: bool, packed: bool, dtype: torch.dtype) -> None:
    emulate(asked=("auto", "auto"))
    name, reason = choice(dtype, size, packed)
    assert (name == "one_step") is serves
    times = re.search(r"one launch .* by the time model, with I = H, (\S+) ms, others (\S+) ms", reason)
    assert (times is not None and float(times[1]) < float(times[2])) is serves


def test_it_serves_during_a_capture_and_without_a_test_of_itself() -> None:
    ops = emulate(asked=("auto", "auto"), capturing=True)
    ops.gru_fwd(*make_problem(SMALL, BOTH, torch.bfloat16).layer, True)
    assert (ops.block_launches(), ops.persistent_launches()) == (1, 0)


def test_variants_and_empty_batches_are_not_its() -> None:
    """A variant where it is asked for is an error; where it is not, the stepwise kernel serves."""
    ops = emulate(multiprocessors=0)
    empty = make_problem(Size(1, 0, 3, 5), Options())
    y, h_n, _ = ops.gru_fwd(*empty.layer, True)
    assert (y.shape, h_n.shape, ops.block_launches()) == ((1, 0, 5), (1, 0, 5), 0)
    p = make_problem(SMALL, Options())
    with pytest.raises(RuntimeError, match=r"asks for one_step, which serves .* with zoneout or dropouts"):
        ops.gru_fwd(*p.layer, True, zoneout=0.5)
    ops.use_cuda_kernels("auto", "auto")
    variant = ops.gru_fwd(*p.layer, True, zoneout=0.5)[0]
    assert ops.block_launches() == 1
    assert not torch.equal(variant, ops.gru_fwd(*p.layer, True)[0])


@pytest.mark.parametrize("asked", ["stepwise", "cluster"])
def test_another_kernel_can_be_asked_for(asked: str) -> None:
    emulate(asked=(asked, "auto"))
    assert choice(size=SMALL)[0].startswith(asked)


@pytest.mark.parametrize("size", [Size(2, 3, 4, 5), Size(1, 65, 4, 5)], ids=str)
def test_where_it_cannot_serve_to_ask_for_it_is_an_error(size: Size) -> None:
    words = f"asks for one_step, which serves calls with T = 1 and B up to 64, and none with T = {size.steps}"
    with pytest.raises(RuntimeError, match=words):
        choice(size=size)
    with pytest.raises(RuntimeError, match=words):
        emulate().gru_fwd(*make_problem(size).layer, True)


def test_it_has_no_backward() -> None:
    with pytest.raises(ValueError, match=r"expected backward to be one of auto, stepwise, .*, got 'one_step'"):
        emulate().use_cuda_kernels("auto", "one_step")
