"""gru_ext.reference, the executable specification, against torch.nn.GRU and against its own derivative."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import ALL_OPTIONS, Options, Problem, Size, exact, framework, make_problem, solve
from compare import assert_all_near, assert_near
from torch import Tensor

from gru_ext import reference

SIZES = [Size(1, 1, 1, 1), Size(2, 3, 5, 7), Size(5, 4, 3, 6), Size(20, 5, 9, 8)]


def tensors_of(problem: Problem) -> list[Tensor]:
    """x, the weights and, where given, hx, as leaves."""
    given = [problem.x, *([] if problem.hx is None else [problem.hx]), *problem.weights]
    return [tensor.detach().requires_grad_() for tensor in given]


def with_tensors(problem: Problem, tensors: tuple[Tensor, ...]) -> Problem:
    """The problem with the tensors of ``tensors_of`` replaced."""
    x, *rest = tensors
    hx = None if problem.hx is None else rest.pop(0)
    return replace(problem, x=x, hx=hx, weights=rest)


def solve_by_hand(problem: Problem) -> dict[str, Tensor]:
    """As ``solve``, with the gradients of ``reference.gru_bwd``."""
    p = problem
    y, h_n = reference.gru(p.x, p.hx, p.weights, p.batch_sizes, p.bidirectional)
    dx, dhx, dweights = reference.gru_bwd(p.dy, p.dh_n, p.x, p.hx, p.weights, p.batch_sizes, p.bidirectional)
    state = {} if p.hx is None else {"dhx": dhx}
    names = [f"d{name}" for name in p.names]
    return {"y": y, "h_n": h_n, "dx": dx, **state, **dict(zip(names, dweights, strict=True))}


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gru_and_its_derivative_equal_nn_gru(size: Size, options: Options) -> None:
    problem = make_problem(size, options)
    assert_all_near(solve(exact, problem), solve(framework, problem))


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gru_bwd_equals_nn_gru(size: Size, options: Options) -> None:
    problem = make_problem(size, options)
    assert_all_near(solve_by_hand(problem), solve(framework, problem))


@pytest.mark.parametrize("absent", ["dy", "dh_n"])
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_gru_bwd_takes_an_absent_gradient_as_zero(options: Options, absent: str) -> None:
    problem = make_problem(Size(4, 3, 2, 5), options)
    without = replace(problem, dy=None) if absent == "dy" else replace(problem, dh_n=None)
    assert_all_near(solve_by_hand(without), solve(framework, without))


def test_gru_bwd_returns_the_gradient_of_an_absent_initial_state() -> None:
    p = make_problem(Size(4, 3, 2, 5), Options(hx=False))
    zero = torch.zeros(1, 3, 5, dtype=torch.float64)
    given = solve_by_hand(replace(p, hx=zero))
    dhx = reference.gru_bwd(p.dy, p.dh_n, p.x, None, p.weights, p.batch_sizes, p.bidirectional)[1]
    assert_near(dhx, given["dhx"], "dhx")


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_gru_passes_gradcheck(options: Options) -> None:
    problem = make_problem(Size(3, 2, 2, 2), options)

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        p = with_tensors(problem, tensors)
        return reference.gru(p.x, p.hx, p.weights, p.batch_sizes, p.bidirectional)

    assert torch.autograd.gradcheck(function, tensors_of(problem), check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_gru_bwd_passes_gradcheck(options: Options) -> None:
    problem = make_problem(Size(3, 2, 2, 2), options)
    assert problem.dy is not None
    assert problem.dh_n is not None

    def function(dy: Tensor, dh_n: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        p = with_tensors(problem, tensors)
        dx, dhx, dweights = reference.gru_bwd(dy, dh_n, p.x, p.hx, p.weights, p.batch_sizes, p.bidirectional)
        return (dx, dhx, *dweights)

    gradients = [problem.dy.requires_grad_(), problem.dh_n.requires_grad_()]
    assert torch.autograd.gradcheck(function, [*gradients, *tensors_of(problem)], fast_mode=True)


def test_an_empty_batch_has_zero_gradients_of_the_weights() -> None:
    results = solve_by_hand(make_problem(Size(3, 0, 2, 4)))
    assert results["y"].shape == (3, 0, 4)
    assert results["dhx"].shape == (1, 0, 4)
    assert not any(results[f"d{name}"].any() for name in make_problem(Size(3, 0, 2, 4)).names)
