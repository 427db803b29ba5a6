"""gru_ext.reference, the executable specification, against torch.nn.GRU and against its own derivative."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from cases import ALL_OPTIONS, Options, Size, exact, framework, function_of, make_problem, solve, solve_by_hand
from compare import assert_near
from torch import Tensor
from torch.autograd import gradcheck

from gru_ext import reference

SIZES = [Size(1, 1, 1, 1), Size(2, 3, 5, 7), Size(5, 4, 3, 6), Size(20, 5, 9, 8)]


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gru_and_both_of_its_derivatives_equal_nn_gru(size: Size, options: Options) -> None:
    """That by autograd, and ``gru_bwd``."""
    problem = make_problem(size, options)
    expected = solve(framework, problem)
    assert_near(solve(exact, problem), expected)
    assert_near(solve_by_hand(problem), expected)


@pytest.mark.parametrize("absent", ["dy", "dh_n"])
@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_gru_bwd_takes_an_absent_gradient_as_zero(options: Options, absent: str) -> None:
    problem = make_problem(Size(4, 3, 2, 5), options)
    without = replace(problem, dy=None) if absent == "dy" else replace(problem, dh_n=None)
    assert_near(solve_by_hand(without), solve(framework, without))


def test_gru_bwd_returns_the_gradient_of_an_absent_initial_state() -> None:
    p = make_problem(Size(4, 3, 2, 5), Options(hx=False))
    zero = torch.zeros(1, 3, 5, dtype=torch.float64)
    given = solve_by_hand(replace(p, hx=zero))
    dhx = reference.gru_bwd(p.dy, p.dh_n, *p.layer)[1]
    assert_near(dhx, given["dhx"], "dhx")


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_gru_passes_gradcheck(options: Options) -> None:
    p = make_problem(Size(3, 2, 2, 2), options).trainable()
    assert gradcheck(function_of(exact, p), p.tensors, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_gru_bwd_passes_gradcheck(options: Options) -> None:
    p = make_problem(Size(3, 2, 2, 2), options).trainable()

    def backward(*tensors: Tensor) -> Any:
        *of_layer, dy, dh_n = tensors
        by_hand: Any = partial(reference.gru_bwd, dy, dh_n)
        gradients: Any = function_of(by_hand, p)(*of_layer)
        return (*gradients[:2], *gradients[2])

    assert gradcheck(backward, p.all_tensors, fast_mode=True)


def test_an_empty_batch_has_zero_gradients_of_the_weights() -> None:
    problem = make_problem(Size(3, 0, 2, 4))
    results = solve_by_hand(problem)
    assert results["y"].shape == (3, 0, 4)
    assert results["dhx"].shape == (1, 0, 4)
    assert not any(results[f"d{name}"].any() for name in problem.names)
