"""The stepwise CUDA kernels and their host side, without a GPU, under emulation; test_accuracy.py has their accuracy.

The emulator fails a launch that reads or writes outside of its arguments. The build for it cuts time into chunks of a
few steps (GRU_EXT_CHUNK_BYTES in csrc/cuda/stepwise/steps.cpp). What only a GPU can show is in docs/gpu-checklist.md.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from accuracy import check_problems
from cases import (
    FLOATING,
    Options,
    Size,
    exact,
    make_problem,
    solve,
)
from compare import assert_all_near, assert_near, assert_same_bits
from emulated_backend import emulated_operators, solve_emulated

from gru_ext.variant import Variant

SMALL = Size(4, 3, 2, 5)


@pytest.mark.parametrize("need", list(product((False, True), repeat=3)), ids=str)
def test_each_gradient_is_the_same_alone_with_layer_normalisation(need: tuple[bool, bool, bool]) -> None:
    problem = make_problem(SMALL, Options(bidirectional=True, packed=True, gains=True), torch.bfloat16)
    expected = solve_emulated(problem, Variant(layer_norm=2))
    for name, tensor in solve_emulated(problem, Variant(layer_norm=2), need=need).items():
        assert_same_bits(tensor, expected[name], name)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_what_layer_normalisation_saves_is_what_the_cpu_s_kernels_take(dtype: torch.dtype) -> None:
    """The same layout, and the same values."""
    p = make_problem(SMALL, Options(gains=True), dtype)
    arguments = (p.x, p.hx, p.weights, p.batch_sizes, p.bidirectional)
    ours = torch.ops.gru_ext.gru_fwd(*arguments, True, layer_norm=2)
    theirs = emulated_operators().gru_fwd(*arguments, True, layer_norm=2)
    for a, b in zip(ours, theirs, strict=True):
        assert_near(a, b, "what forward leaves", tolerance=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("need", list(product((False, True), repeat=3)), ids=str)
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_each_gradient_is_the_same_alone(options: Options, need: tuple[bool, bool, bool], reset_after: bool) -> None:
    problem = make_problem(SMALL, options, torch.bfloat16)
    expected = solve_emulated(problem, Variant(reset_after=reset_after))
    for name, tensor in solve_emulated(problem, Variant(reset_after=reset_after), need=need).items():
        assert_same_bits(tensor, expected[name], name)


def test_expanded_gradients() -> None:
    problem = make_problem(SMALL, Options(bidirectional=True), torch.float32)
    one = torch.ones(())
    check_problems([replace(problem, dy=one.expand(4, 3, 10), dh_n=one.expand(2, 3, 5))], solve_emulated)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_empty_batch(dtype: torch.dtype) -> None:
    problem = make_problem(Size(4, 0, 3, 5), Options(bidirectional=True), dtype)
    results = solve_emulated(problem)
    assert results["y"].shape == (4, 0, 10)
    assert results["dx"].shape == (4, 0, 3)
    for name, weight in zip(problem.names, problem.weights, strict=True):
        assert_same_bits(results[f"d{name}"], torch.zeros_like(weight), name)


def test_no_input_features() -> None:
    problem = make_problem(Size(3, 2, 0, 4), Options(), torch.float64)
    assert_all_near(solve_emulated(problem), solve(exact, problem))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_without_gates_the_results_are_the_same(dtype: torch.dtype) -> None:
    p = make_problem(SMALL, Options(packed=True), dtype)
    arguments = (p.x, p.hx, p.weights, p.batch_sizes, p.bidirectional)
    y, h_n, gates = emulated_operators().gru_fwd(*arguments, False)
    expected = emulated_operators().gru_fwd(*arguments, True)
    assert gates.shape == (0,)
    assert_same_bits(y, expected[0])
    assert_same_bits(h_n, expected[1])


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_a_bad_row_touches_itself_only_from_its_step_on(dtype: torch.dtype) -> None:
    problem = make_problem(Size(4, 3, 2, 5), Options(), dtype)
    bad = replace(problem, x=problem.x.clone())
    bad.x[2, 1, 0] = torch.nan
    expected, y = solve_emulated(problem)["y"], solve_emulated(bad)["y"]
    assert y[2:, 1].isnan().all()
    y[2:, 1] = expected[2:, 1]
    assert_same_bits(y, expected)


def test_arguments_are_not_modified() -> None:
    problem = make_problem(SMALL, Options(bidirectional=True, packed=True), torch.float32)
    tensors = [problem.x, problem.hx, *problem.weights, problem.dy, problem.dh_n]
    copies = [tensor.clone() for tensor in tensors if tensor is not None]
    solve_emulated(problem)
    for tensor, copy in zip([tensor for tensor in tensors if tensor is not None], copies, strict=True):
        assert_same_bits(tensor, copy)
