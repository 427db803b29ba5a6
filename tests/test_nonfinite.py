"""Infinities, NaN and huge numbers: each result is NaN or infinite where the reference is, in the same dtype."""

from __future__ import annotations

import pytest
import torch
from cases import FLOATING, Options, Problem, Size, framework, make_problem, ours, solve
from compare import assert_near
from int8_cases import check_every_step, run
from nonfinite import VALUES, check_every_place, tensors_of, with_another


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
    assert_near(solve(ours, problem), check_against, tolerance=1e-5 if dtype == torch.float32 else 1e-10)


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
