"""What holds of every variant of the recurrence: derivatives, edge cases, the operators' properties.

tests/test_accuracy.py has their accuracy; test_regularizers.py, test_layer_norm.py and test_reset_before.py what each
has for itself.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from accuracy import BOTH, SOME_OPTIONS
from cases import FLOATING, Options, Problem, Size, layer_with, make_problem, reference_with, solve, variants_of
from compare import assert_all_near, assert_same_bits
from torch import Tensor

from gru_ext import reference
from gru_ext.variant import Variant

ops = torch.ops.gru_ext
SMALL = Size(4, 3, 2, 5)
VARIANTS = {
    "reset before": Variant(reset_after=False),
    "layer norm": Variant(layer_norm=2),
    "joint norm": Variant(layer_norm=1),
}


def problem_of(name: str, size: Size, options: Options, dtype: torch.dtype = torch.float64) -> Problem:
    """Random arguments, with gains where the variant has them."""
    return make_problem(size, replace(options, gains="norm" in name), dtype)


def with_masks(name: str, problem: Problem) -> dict[str, Variant]:
    """The variant alone, with masks of each kind, and with all of them; or masks alone."""
    variant = VARIANTS.get(name, Variant())
    masked = {
        kind: masks._replace(reset_after=variant.reset_after, layer_norm=variant.layer_norm)
        for kind, masks in variants_of(problem).items()
    }
    return ({"alone": variant} if name in VARIANTS else {}) | masked


def arguments_of(problem: Problem) -> tuple[Tensor, Tensor | None, list[Tensor], Tensor | None, bool]:
    return (problem.x, problem.hx, problem.weights, problem.batch_sizes, problem.bidirectional)


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["masks", *VARIANTS])
def test_the_reference_s_gradients_by_hand_equal_autograd_s(name: str, options: Options) -> None:
    problem = problem_of(name, SMALL, options)
    for variant in with_masks(name, problem).values():
        dx, dhx, dweights = reference.gru_bwd(problem.dy, problem.dh_n, *arguments_of(problem), variant)
        state = {} if problem.hx is None else {"dhx": dhx}
        by_hand = {"dx": dx, **state, **dict(zip([f"d{name}" for name in problem.names], dweights, strict=True))}
        expected = solve(reference_with(variant), problem)
        assert_all_near(by_hand, {name: expected[name] for name in by_hand})


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_empty_batch(name: str, dtype: torch.dtype) -> None:
    problem = problem_of(name, Size(4, 0, 3, 5), Options(bidirectional=True), dtype)
    results = solve(layer_with(VARIANTS[name]), problem)
    assert results["y"].shape == (4, 0, 10)
    assert results["dx"].shape == (4, 0, 3)
    for kind, weight in zip(problem.names, problem.weights, strict=True):
        assert_same_bits(results[f"d{kind}"], torch.zeros_like(weight), kind)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_bad_row_touches_itself_only_from_its_step_on(name: str, dtype: torch.dtype) -> None:
    layer, problem = layer_with(VARIANTS[name]), problem_of(name, Size(6, 4, 3, 17), Options(), dtype)
    bad = replace(problem, x=problem.x.clone())
    bad.x[2, 1, 0] = torch.nan
    expected, y = solve(layer, problem)["y"], solve(layer, bad)["y"]
    assert y[2:, 1].isnan().all()
    y[2:, 1] = expected[2:, 1]
    assert_same_bits(y, expected)


@pytest.mark.parametrize("need", list(product((False, True), repeat=3)), ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_each_gradient_is_the_same_alone(name: str, dtype: torch.dtype, need: tuple[bool, bool, bool]) -> None:
    p, variant = problem_of(name, SMALL, BOTH, dtype), VARIANTS[name]
    y, _, gates = ops.gru_fwd(*arguments_of(p), True, True, *variant)
    every = ops.gru_bwd(p.dy, p.dh_n, *arguments_of(p), y, gates, True, True, True, *variant)
    some = ops.gru_bwd(p.dy, p.dh_n, *arguments_of(p), y, gates, *need, *variant)
    for needed, tensor, expected in zip(need[:2], some, every, strict=False):
        assert_same_bits(tensor, expected if needed else torch.empty(0, dtype=dtype))
    for tensor, expected in zip(some[2], every[2] if need[2] else [], strict=True):
        assert_same_bits(tensor, expected)


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        *(("reset before", options, torch.float32) for options in SOME_OPTIONS),
        *((name, Options(bidirectional=True), torch.float64) for name in ("layer norm", "joint norm", "masks")),
    ],
    ids=str,
)
def test_opcheck(name: str, options: Options, dtype: torch.dtype) -> None:
    p = problem_of(name, Size(3, 2, 2, 3), options, dtype)
    variant = with_masks(name, p)["alone" if name in VARIANTS else "all"]
    torch.library.opcheck(ops.gru_fwd.default, (*arguments_of(p), True, True, *variant))
    y, _, gates = ops.gru_fwd(*arguments_of(p), True, True, *variant)
    backward = (p.dy, p.dh_n, *arguments_of(p), y, gates, True, True, True, *variant)
    torch.library.opcheck(ops.gru_bwd.default, backward)
