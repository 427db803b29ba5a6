"""Infinities, NaN and huge numbers: each result is NaN or infinite where the reference is, in the same dtype."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from cases import (
    FLOATING,
    Options,
    Problem,
    Size,
    framework,
    layer_with,
    make_problem,
    ours,
    solve,
    variants_of,
)
from compare import assert_all_near
from test_quantize import check_every_step, run
from torch import Tensor

from gru_ext import reference
from gru_ext.variant import Variant

VALUES = (torch.inf, -torch.inf, torch.nan)
# Several tiles of rows, groups of units of which the last is not whole, and, packed, sequences that end.
SIZE = Size(4, 5, 3, 19)


def variants(problem: Problem, gates: str) -> Iterator[Variant]:
    """The recurrence without masks and with each of them."""
    reset_after, norms = gates != "reset before", {"layer_norm": 2, "joint layer_norm": 1}.get(gates, 0)
    for variant in (Variant(), *variants_of(problem).values()):
        yield variant._replace(reset_after=reset_after, layer_norm=norms)


def tensors_of(problem: Problem) -> dict[str, Tensor]:
    """All that a problem is made of."""
    given = {"x": problem.x, "hx": problem.hx, "dy": problem.dy, "dh_n": problem.dh_n}
    return {name: t for name, t in given.items() if t is not None} | dict(
        zip(problem.names, problem.weights, strict=True)
    )


def solve_by_hand(problem: Problem, variant: Variant) -> dict[str, Tensor]:
    """``solve`` with the reference's own backward: autograd's takes d * (1 - z) apart, to infinity less infinity."""
    layer = (problem.x, problem.hx, problem.weights, problem.batch_sizes, problem.bidirectional, variant)
    y, h_n = reference.gru(*layer)
    dx, dhx, dweights = reference.gru_bwd(problem.dy, problem.dh_n, *layer)
    state = {} if problem.hx is None else {"dhx": dhx}
    names = [f"d{name}" for name in problem.names]
    return {"y": y, "h_n": h_n, "dx": dx, **state, **dict(zip(names, dweights, strict=True))}


def check(problem: Problem, variant: Variant) -> None:
    """NaN and infinities of results and gradients are those of the reference; the other values are near."""
    tolerance = 1e-4 if problem.x.dtype == torch.float32 else 1e-10
    results, expected = solve(layer_with(variant), problem), solve_by_hand(problem, variant)
    assert_all_near(results, expected, tolerance)
    for name, tensor in results.items():
        assert torch.equal(tensor.isposinf(), expected[name].isposinf()), name


def with_another(problem: Problem, old: Tensor, new: Tensor) -> Problem:
    """The problem with one of its tensors replaced."""

    def swap(tensor: Tensor) -> Tensor:
        return new if tensor is old else tensor

    return problem.map(swap)


def check_every_place(gates: str, dtype: torch.dtype) -> None:
    """Each value at one element of each tensor of a problem."""
    for options in (Options(bidirectional=True), Options(packed=True, bias=False, hx=False)):
        problem = make_problem(SIZE, replace(options, gains="layer_norm" in gates), dtype)
        for variant in variants(problem, gates):
            for place, tensor in enumerate(tensors_of(problem).values()):
                bad = tensor.clone()
                bad.view(-1)[(place * 29 + 7) % bad.numel()] = VALUES[place % 3]
                check(with_another(problem, tensor, bad), variant)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gates", ["reset after", "reset before", "layer_norm", "joint layer_norm"])
def test_a_bad_value_anywhere(gates: str, dtype: torch.dtype) -> None:
    check_every_place(gates, dtype)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_an_infinite_state_makes_its_row_nan_as_in_nn_gru(value: float, dtype: torch.dtype) -> None:
    problem = make_problem(Size(3, 4, 7, 16), dtype=dtype)
    assert problem.hx is not None
    problem.hx[0, 1, 3] = value
    assert_same_nan(problem)
    assert solve(ours, problem)["y"][-1, 1].isnan().all()


# Below the logarithm of the largest number, where exp(-x) is none.
@pytest.mark.parametrize(
    ("dtype", "lowest"), [(torch.float32, -88.8), (torch.float64, -709.9), (torch.float16, -torch.inf)], ids=str
)
@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_a_closed_reset_gate_times_an_infinity_is_nan_as_in_nn_gru(
    value: float, dtype: torch.dtype, lowest: float
) -> None:
    problem = make_problem(Size(3, 2, 4, 19), dtype=dtype)
    weight_ih, weight_hh, bias_ih, bias_hh = problem.weights
    weight_ih[:19] = weight_hh[:19] = bias_hh[:19] = 0
    bias_ih[:19] = lowest  # the reset gates
    bias_hh[-1] = value
    assert_same_nan(problem)
    assert solve(ours, problem)["y"][..., -1].isnan().all()
    bias_ih[:19] = 0.99 * lowest if dtype != torch.float16 else -10  # open by very little
    assert not solve(ours, problem)["y"][0].isnan().any()


def assert_same_nan(problem: Problem) -> None:
    for result, expected in zip(solve(ours, problem).values(), solve(framework, problem).values(), strict=True):
        assert torch.equal(result.isnan(), expected.isnan())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e5, 1e20, 1e37])
def test_gradients_with_huge_recurrent_weights_stay_those_of_nn_gru(scale: float, dtype: torch.dtype) -> None:
    problem = make_problem(Size(5, 4, 7, 19), dtype=dtype)
    problem.weights[1].mul_(scale)
    check_against = solve(framework, problem)
    assert all(tensor.isfinite().all() for tensor in check_against.values())
    assert_all_near(solve(ours, problem), check_against, 1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("value", VALUES)
def test_int8_has_nan_where_its_reference_has(value: float) -> None:
    problem = make_problem(Size(3, 4, 5, 19), Options(bidirectional=True), torch.float32)
    for name, tensor in tensors_of(problem).items():
        if name in ("dy", "dh_n") or name.startswith("weight"):  # weights that are not finite are refused
            continue
        bad = tensor.clone()
        bad.view(-1)[(2 if name == "x" else 43) % bad.numel()] = value
        check_every_step(with_another(problem, tensor, bad))
    closed = make_problem(Size(3, 4, 5, 19), dtype=torch.float32)
    closed.weights[2][:19] = -torch.inf
    closed.weights[3][-1] = value
    check_every_step(closed)
    assert run(closed)[0][..., -1].isnan().all()
