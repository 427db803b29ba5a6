"""The stepwise CUDA kernels and their host side, without a GPU: every result and gradient under emulation.

The emulator fails a launch that reads or writes outside of its arguments. The build for it cuts time into chunks of a
few steps (GRU_EXT_CHUNK_BYTES in csrc/cuda/stepwise/steps.cpp). What only a GPU can show is in docs/gpu-checklist.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import cases
import pytest
import torch
from cases import (
    ALL_OPTIONS,
    FLOATING,
    Layer,
    Options,
    Problem,
    Size,
    exact,
    framework,
    make_problem,
    reference_with,
    solve_all,
    variants_of,
)
from compare import assert_all_accurate, assert_all_near, assert_near, assert_same_bits
from emulated_backend import emulated_operators
from test_reset_before import plain
from torch import Tensor

from gru_ext.variant import Variant

SIZES = [
    Size(1, 1, 1, 1),
    Size(3, 5, 4, 7),
    Size(4, 3, 6, 33),  # one unit more than a block has
]
# More rows than the emulated grid has threads for.
LARGE = [
    (Size(3, 70, 3, 5), Options()),
    (Size(3, 70, 3, 5), Options(bidirectional=True, packed=True)),
    (Size(2, 30, 3, 40), Options(bias=False)),
    (Size(60, 2, 4, 3), Options(bidirectional=True, packed=True)),
]
SMALL = Size(4, 3, 2, 5)
ALL = (True, True, True)


def solve(
    problem: Problem, need: tuple[bool, bool, bool] = ALL, save_gates: bool = True, **variant: Any
) -> dict[str, Tensor]:
    """y, h_n and the needed ones of dx, dhx and the weights' gradients, by the names of ``cases.solve``."""
    ops = emulated_operators()
    arguments = (problem.x, problem.hx, problem.weights, problem.batch_sizes, problem.bidirectional)
    y, h_n, gates = ops.gru_fwd(*arguments, save_gates, **variant)
    assert save_gates or gates.shape == (0,)
    dx, dhx, dweights = ops.gru_bwd(problem.dy, problem.dh_n, *arguments, y, gates, *need, **variant)
    need_dx, need_dhx, need_dweights = need
    assert need_dx or dx.shape == (0,)
    assert need_dhx or dhx.shape == (0,)
    assert need_dweights or not dweights
    return {
        "y": y,
        "h_n": h_n,
        **({"dx": dx} if need_dx else {}),
        **({"dhx": dhx} if need_dhx and problem.hx is not None else {}),
        **(dict(zip([f"d{name}" for name in problem.names], dweights, strict=True)) if need_dweights else {}),
    }


def check_accuracy(*problems: Problem, framework: Layer = framework, exact: Layer = exact, **arguments: Any) -> None:
    results = [solve(problem, **arguments) for problem in problems]
    in_float64 = [problem.to(torch.float64) for problem in problems]
    ours = {name: torch.stack([result[name] for result in results]) for name in results[0]}
    assert_all_accurate(ours, solve_all(framework, problems), solve_all(exact, in_float64))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_accuracy_of_results_and_gradients(size: Size, options: Options, dtype: torch.dtype) -> None:
    draws = 1 + 16 // (size.batch * size.hidden)
    check_accuracy(*(make_problem(size, options, dtype) for _ in range(draws)))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize(("size", "options"), LARGE, ids=str)
def test_accuracy_of_more_rows_and_steps(size: Size, options: Options, dtype: torch.dtype) -> None:
    check_accuracy(make_problem(size, options, dtype))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("size", [SIZES[0], Size(7, 5, 4, 7)], ids=str)
def test_accuracy_of_gates_computed_again(size: Size, options: Options, dtype: torch.dtype) -> None:
    check_accuracy(*(make_problem(size, options, dtype) for _ in range(5)), save_gates=False)


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_variants_with_gates_computed_again(options: Options, reset_after: bool) -> None:
    problem = make_problem(Size(7, 5, 4, 7), options)
    for variant in variants_of(problem, reset_after).values():
        ours = solve(problem, save_gates=False, **variant._asdict())
        assert_all_near(ours, cases.solve(reference_with(variant), problem))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("absent", ["dy", "dh_n"])
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_accuracy_with_the_gradient_of_one_result_only(options: Options, absent: str, dtype: torch.dtype) -> None:
    problem = make_problem(SMALL, options, dtype)
    check_accuracy(replace(problem, dy=None) if absent == "dy" else replace(problem, dh_n=None))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-6, 30.0, 1e4])
def test_accuracy_for_inputs_of_any_magnitude(scale: float, dtype: torch.dtype) -> None:
    problem = make_problem(SMALL, Options(), dtype)
    check_accuracy(replace(problem, x=problem.x * scale))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("options", [Options(), Options(bias=False, hx=False), LARGE[1][1]], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_accuracy_with_the_reset_gate_before_the_product(size: Size, options: Options, dtype: torch.dtype) -> None:
    draws = 1 + 16 // (size.batch * size.hidden)
    problems = [make_problem(size, options, dtype) for _ in range(draws)]
    check_accuracy(*problems, framework=plain, exact=plain, reset_after=False)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize(("size", "options"), LARGE, ids=str)
def test_accuracy_of_more_rows_with_the_reset_gate_before(size: Size, options: Options, dtype: torch.dtype) -> None:
    check_accuracy(make_problem(size, options, dtype), framework=plain, exact=plain, reset_after=False)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize(("size", "options"), [(SIZES[2], LARGE[1][1]), *LARGE[:2]], ids=str)
@pytest.mark.parametrize("reset_after", [True, False])
def test_accuracy_with_masks(reset_after: bool, size: Size, options: Options, dtype: torch.dtype) -> None:
    problem = make_problem(size, options, dtype)
    for variant in variants_of(problem, reset_after).values():
        layer = reference_with(variant)
        check_accuracy(problem, framework=layer, exact=layer, **variant._asdict())


NORMALIZED = [
    (Size(2, 3, 4, 7), Options(gains=True)),
    (SIZES[2], Options(bidirectional=True, packed=True, gains=True)),
    (Size(3, 12, 3, 90), Options(bias=False, hx=False, gains=True)),  # more units than a block has threads
]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize(("size", "options"), NORMALIZED, ids=str)
@pytest.mark.parametrize(("norms", "save_gates"), [(1, True), (2, True), (2, False)])
def test_accuracy_with_layer_normalisation(
    norms: int, save_gates: bool, size: Size, options: Options, dtype: torch.dtype
) -> None:
    problems = [make_problem(size, options, dtype) for _ in range(2)]
    layer = reference_with(Variant(layer_norm=norms))
    check_accuracy(*problems, framework=layer, exact=layer, layer_norm=norms, save_gates=save_gates)


@pytest.mark.parametrize("save_gates", [True, False])
def test_layer_normalisation_with_masks(save_gates: bool) -> None:
    problem = make_problem(SIZES[2], Options(bidirectional=True, packed=True, gains=True))
    for masked in variants_of(problem).values():
        variant = masked._replace(layer_norm=2)
        ours = solve(problem, save_gates=save_gates, **variant._asdict())
        assert_all_near(ours, cases.solve(reference_with(variant), problem))


@pytest.mark.parametrize("need", list(product((False, True), repeat=3)), ids=str)
def test_each_gradient_is_the_same_alone_with_layer_normalisation(need: tuple[bool, bool, bool]) -> None:
    problem = make_problem(SMALL, Options(bidirectional=True, packed=True, gains=True), torch.bfloat16)
    expected = solve(problem, layer_norm=2)
    for name, tensor in solve(problem, need, layer_norm=2).items():
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
    expected = solve(problem, reset_after=reset_after)
    for name, tensor in solve(problem, need, reset_after=reset_after).items():
        assert_same_bits(tensor, expected[name], name)


def transposed(tensor: Tensor) -> Tensor:
    """The same values, the first two dimensions laid out otherwise."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1) if tensor.dim() > 1 else every_other(tensor)


def every_other(tensor: Tensor) -> Tensor:
    """The same values, at every second place of a longer last dimension of NaN."""
    return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1).flatten(-2)[..., ::2]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
@pytest.mark.parametrize("restride", [transposed, every_other])
def test_strides_do_not_matter(restride: Callable[[Tensor], Tensor], options: Options, dtype: torch.dtype) -> None:
    problem = make_problem(SMALL, options, dtype)
    strided = problem.map(restride)
    assert not strided.x.is_contiguous()
    check_accuracy(strided)


def test_expanded_gradients() -> None:
    problem = make_problem(SMALL, Options(bidirectional=True), torch.float32)
    one = torch.ones(())
    check_accuracy(replace(problem, dy=one.expand(4, 3, 10), dh_n=one.expand(2, 3, 5)))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_empty_batch(dtype: torch.dtype) -> None:
    problem = make_problem(Size(4, 0, 3, 5), Options(bidirectional=True), dtype)
    results = solve(problem)
    assert results["y"].shape == (4, 0, 10)
    assert results["dx"].shape == (4, 0, 3)
    for name, weight in zip(problem.names, problem.weights, strict=True):
        assert_same_bits(results[f"d{name}"], torch.zeros_like(weight), name)


def test_no_input_features() -> None:
    problem = make_problem(Size(3, 2, 0, 4), Options(), torch.float64)
    assert_all_near(solve(problem), cases.solve(exact, problem))


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
    expected, y = solve(problem)["y"], solve(bad)["y"]
    assert y[2:, 1].isnan().all()
    y[2:, 1] = expected[2:, 1]
    assert_same_bits(y, expected)


def test_arguments_are_not_modified() -> None:
    problem = make_problem(SMALL, Options(bidirectional=True, packed=True), torch.float32)
    tensors = [problem.x, problem.hx, *problem.weights, problem.dy, problem.dh_n]
    copies = [tensor.clone() for tensor in tensors if tensor is not None]
    solve(problem)
    for tensor, copy in zip([tensor for tensor in tensors if tensor is not None], copies, strict=True):
        assert_same_bits(tensor, copy)
