"""What holds of every backend and family of kernels: edge cases, each gradient for itself, what is left as it was.

The CUDA backend is emulated, as one device whose kernels count as tested. tests/test_accuracy.py has accuracy.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from accuracy import BOTH
from cases import FLOATING, Options, Problem, Size, exact, make_problem, solve, solve_by
from compare import assert_near, assert_same_bits
from emulated_backend import SMALL as OF_CLUSTERS
from emulated_backend import emulate
from layouts import transposed
from member_cases import problems_of, solve_members_by, stacked
from torch import Tensor

from gru_ext.variant import PLAIN, Variant

pytestmark = pytest.mark.usefixtures("emulated")
BFLOAT16 = torch.bfloat16
BEFORE, NORM, JOINT = Variant(reset_after=False), Variant(layer_norm=2), Variant(layer_norm=1)
EVERY_NEED = pytest.mark.parametrize("need", list(product((False, True), repeat=3)), ids=str)


def ops_of(kernels: str) -> Any:
    """The operators of the CPU, or emulated ones of which these kernels are asked for."""
    if kernels == "cpu":
        return torch.ops.gru_ext
    return emulate(asked=(kernels, "auto" if kernels == "one_step" else kernels), tested=True)


def problem_of(size: Size, options: Options, dtype: torch.dtype, variant: Variant = PLAIN) -> Problem:
    """Random arguments, with gains where the variant has them."""
    return make_problem(size, replace(options, gains=variant.layer_norm > 0), dtype)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True), BOTH], ids=str)
@pytest.mark.parametrize(
    ("kernels", "variant"),
    [*(("cpu", variant) for variant in (PLAIN, BEFORE, NORM, JOINT)), ("stepwise", PLAIN), ("auto", PLAIN)],
    ids=lambda value: value if isinstance(value, str) else str(value[-2:]),
)
def test_an_empty_batch_has_zero_gradients_of_the_weights_and_needs_no_kernel(
    kernels: str, variant: Variant, options: Options, dtype: torch.dtype
) -> None:
    ops, problem = ops_of(kernels), problem_of(Size(4, 0, 3, 5), replace(options, packed=False), dtype, variant)
    results = solve_by(ops, problem, variant)
    directions = 2 if options.bidirectional else 1
    shapes = {name: tuple(results[name].shape) for name in ("y", "h_n", "dx", "dhx")}
    states = (directions, 0, 5)
    assert shapes == {"y": (4, 0, 5 * directions), "h_n": states, "dx": (4, 0, 3), "dhx": states}
    for name, weight in zip(problem.names, problem.weights, strict=True):
        assert_same_bits(results[f"d{name}"], torch.zeros_like(weight), name)
    assert kernels == "cpu" or ops.persistent_launches() == 0


@pytest.mark.parametrize("options", [Options(), Options(hx=False)], ids=str)
@pytest.mark.parametrize(("kernels", "steps"), [("stepwise", 3), ("one_step", 1)])
def test_no_input_features(kernels: str, steps: int, options: Options) -> None:
    """Nor a state in one step: then there is nothing to multiply."""
    problem = make_problem(Size(steps, 2, 0, 4), options)
    assert_near(solve_by(ops_of(kernels), problem), solve(exact, problem))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize(
    ("kernels", "size", "variant"),
    [
        *(("cpu", Size(6, 4, 3, 17), variant) for variant in (BEFORE, NORM, JOINT)),
        ("stepwise", Size(4, 3, 2, 5), PLAIN),
        ("one_step", Size(1, 3, 24, 40), PLAIN),
    ],
    ids=str,
)
def test_a_bad_row_touches_itself_only_from_its_step_on(
    kernels: str, size: Size, variant: Variant, dtype: torch.dtype
) -> None:
    """test_gru.py has the plain recurrence of the CPU, test_persistent_kernels.py the persistent kernels."""
    ops, problem = ops_of(kernels), problem_of(size, Options(), dtype, variant)
    bad, step = replace(problem, x=problem.x.clone()), min(2, size.steps - 1)
    bad.x[step, 1, 0] = torch.nan
    expected, y = (solve_by(ops, p, variant)["y"] for p in (problem, bad))
    assert y[step:, 1].isnan().all()
    y[step:, 1] = expected[step:, 1]
    assert_same_bits(y, expected)


SMALL = Size(4, 3, 2, 5)
# By kernels: what they compute, whether gates are saved.
ALONE: list[tuple[str, Size, Options, torch.dtype, Variant, bool]] = [
    *product(["cpu"], [SMALL], [BOTH], [torch.float64, BFLOAT16], [BEFORE, NORM, JOINT], [True]),
    ("cpu", SMALL, Options(), torch.float64, PLAIN, True),
    *product(["stepwise"], [SMALL], [Options(), BOTH], [BFLOAT16], [PLAIN, BEFORE], [True]),
    ("stepwise", SMALL, BOTH, BFLOAT16, NORM, True),
    ("cluster", OF_CLUSTERS, Options(bidirectional=True), BFLOAT16, PLAIN, True),
    ("cluster", Size(9, 3, 5, 34), Options(), BFLOAT16, PLAIN, False),  # in windows
]


def assert_alone(some: dict[str, Tensor], every: dict[str, Tensor]) -> None:
    """Some of the results have the bits that they have together with all others."""
    assert_same_bits(some, {name: every[name] for name in some})


@EVERY_NEED
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("kernels", "size", "options", "dtype", "variant", "save_gates"), ALONE, ids=str)
def test_each_gradient_is_the_same_alone(
    kernels: str,
    size: Size,
    options: Options,
    dtype: torch.dtype,
    variant: Variant,
    save_gates: bool,
    batch_first: bool,
    need: tuple[bool, bool, bool],
) -> None:
    ops, problem = ops_of(kernels), problem_of(size, options, dtype, variant)
    if batch_first:
        problem = problem.map(transposed)
    every = solve_by(ops, problem, variant, save_gates)
    assert_alone(solve_by(ops, problem, variant, save_gates, need), every)


@EVERY_NEED
def test_each_gradient_of_members_is_the_same_alone(need: tuple[bool, bool, bool]) -> None:
    whole = stacked(problems_of(OF_CLUSTERS, Options(bidirectional=True), BFLOAT16, shared=True))
    ops = ops_of("cluster")
    assert_alone(solve_members_by(ops, whole, need=need), solve_members_by(ops, whole))


@pytest.mark.parametrize("need", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_each_gradient_of_several_chunks_is_the_same_alone(need: tuple[bool, bool, bool]) -> None:
    """What none of them asks for is still passed on from chunk to chunk."""
    problem, ops = make_problem(Size(300, 5, 3, 6), Options(bidirectional=True), torch.float32), torch.ops.gru_ext
    assert_alone(solve_by(ops, problem, need=need), solve_by(ops, problem))


@pytest.mark.parametrize("options", [Options(), BOTH], ids=str)
@pytest.mark.parametrize(
    ("kernels", "dtype"),
    [*product(["cpu", "stepwise"], FLOATING), *(("cluster", dtype) for dtype in (BFLOAT16, torch.float32))],
    ids=str,
)
def test_without_gates_the_results_are_the_same(kernels: str, dtype: torch.dtype, options: Options) -> None:
    """And the gates are those of every unit and step."""
    p, ops = make_problem(OF_CLUSTERS, options, dtype), ops_of(kernels)
    y, h_n, gates = ops.gru_fwd(*p.layer, True)
    assert gates.shape == (2 if options.bidirectional else 1, p.x.shape[:-1].numel(), 4, p.weights[1].shape[1])
    assert_same_bits(ops.gru_fwd(*p.layer, False), (y, h_n, gates.new_empty(0)))


@pytest.mark.parametrize("variant", [PLAIN, BEFORE, NORM, JOINT], ids=lambda variant: str(variant[-2:]))
@pytest.mark.parametrize("kernels", ["cpu", "stepwise"])
def test_results_share_no_memory(kernels: str, variant: Variant) -> None:
    """As torch.compile takes it, which aligns them too."""
    results = solve_by(ops_of(kernels), problem_of(Size(4, 3, 2, 5), BOTH, torch.float32, variant), variant)
    assert all(tensor.storage_offset() == 0 for tensor in results.values())
    assert len({tensor.untyped_storage().data_ptr() for tensor in results.values()}) == len(results)


@pytest.mark.parametrize("options", [Options(), BOTH], ids=str)
@pytest.mark.parametrize("kernels", ["cpu", "stepwise", "one_step", "cluster", "members"])
def test_arguments_are_not_modified(kernels: str, options: Options) -> None:
    size = OF_CLUSTERS._replace(steps=1) if kernels == "one_step" else OF_CLUSTERS
    problem, ops = make_problem(size, options, torch.float32), ops_of("group" if kernels == "members" else kernels)
    if kernels == "members":
        problem = stacked(problems_of(size, options, torch.float32))
    tensors = [*problem.all_tensors, *([] if problem.batch_sizes is None else [problem.batch_sizes])]
    copies, versions = [tensor.clone() for tensor in tensors], [tensor._version for tensor in tensors]
    (solve_members_by if kernels == "members" else solve_by)(ops, problem)
    assert_same_bits(tensors, copies)
    assert [tensor._version for tensor in tensors] == versions
