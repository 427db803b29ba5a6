"""The tolerance policy itself: what it lets through, what it stops, and what it prints."""

from __future__ import annotations

import re

import pytest
import torch
from compare import FLOOR_ULPS, assert_accurate, assert_all_accurate, assert_near, assert_same_bits
from torch import Tensor

EXACT = torch.tensor([[1.0, -2.0], [0.5, 0.25]], dtype=torch.float64)
HALVES = (torch.bfloat16, torch.float16)


def off_by(error: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """EXACT, one element wrong by ``error``."""
    tensor = EXACT.clone()
    tensor[1, 0] += error
    return tensor.to(dtype)


@pytest.mark.parametrize("times", [0.0, 1.0, 1.9])
def test_an_error_below_twice_the_framework_s_passes(times: float) -> None:
    assert_accurate(off_by(times * 0.01), off_by(0.01), EXACT, "y")


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_an_error_two_and_a_half_times_the_framework_s_fails(dtype: torch.dtype) -> None:
    with pytest.raises(AssertionError, match="largest absolute error"):
        assert_accurate(off_by(1.25, dtype), off_by(0.5, dtype), EXACT, "y")


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_the_floor_is_a_few_units_in_the_last_place_of_the_largest_magnitude(dtype: torch.dtype) -> None:
    floor = FLOOR_ULPS * torch.finfo(dtype).eps * 2.0
    perfect = EXACT.to(dtype)
    assert_accurate(off_by(0.9 * floor, dtype), perfect, EXACT, "y")
    with pytest.raises(AssertionError, match="largest absolute error"):
        assert_accurate(off_by(1.2 * floor, dtype), perfect, EXACT, "y")


def test_float64_ignores_the_framework_s_error() -> None:
    assert_accurate(off_by(1e-11, torch.float64), off_by(0.1, torch.float64), EXACT, "y")
    with pytest.raises(AssertionError, match="largest absolute error"):
        assert_accurate(off_by(1e-9, torch.float64), off_by(0.1, torch.float64), EXACT, "y")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_fails(value: float) -> None:
    with pytest.raises(AssertionError, match=r"at 1 of 4 elements, expected 0; first difference at \(1, 0\)"):
        assert_accurate(off_by(value), off_by(value), EXACT, "y")
    with pytest.raises(AssertionError, match=r"at 1 of 4 elements, expected 0; first difference at \(1, 0\)"):
        assert_near(off_by(value), off_by(0), "y")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_should_not_be_finite_passes_and_its_absence_fails(value: float) -> None:
    assert_accurate(off_by(value), off_by(value), off_by(value, torch.float64), "y")
    with pytest.raises(AssertionError, match=r"at 0 of 4 elements, expected 1; first difference at \(1, 0\)"):
        assert_accurate(off_by(0.0), off_by(value), off_by(value, torch.float64), "y")


def test_infinity_of_the_wrong_sign_fails() -> None:
    with pytest.raises(AssertionError, match="largest absolute error inf"):
        assert_accurate(off_by(-torch.inf), off_by(torch.inf), off_by(torch.inf, torch.float64), "y")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (EXACT.float()[:1], r"y: shape \(1, 2\), expected \(2, 2\)"),
        (EXACT.float().t()[..., None], r"y: shape \(2, 2, 1\), expected \(2, 2\)"),
        (EXACT, "y: dtype torch.float64, expected torch.float32"),
    ],
)
def test_another_shape_or_dtype_fails(wrong: Tensor, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_accurate(wrong, EXACT.float(), EXACT, "y")
    with pytest.raises(AssertionError, match=message):
        assert_near(wrong, EXACT.float(), "y")
    with pytest.raises(AssertionError, match=message):
        assert_same_bits(wrong, EXACT.float(), "y")


def test_a_failure_prints_the_errors_and_the_worst_element() -> None:
    wrong = off_by(0.5)
    wrong[0, 1] += 0.25
    message = (
        "y: largest absolute error 5.000e-01, allowed 9.537e-07; relative to the largest magnitude 2.000e+00:"
        " 2.500e-01; 2 of 4 elements beyond; worst at (1, 0): 1.0, expected 0.5"
    )
    with pytest.raises(AssertionError, match=re.escape(message)):
        assert_accurate(wrong, EXACT.float(), EXACT, "y")


def test_missing_results_fail() -> None:
    with pytest.raises(AssertionError):
        assert_all_accurate({}, {"y": EXACT}, {"y": EXACT})
    for compare in (assert_near, assert_same_bits):
        with pytest.raises(AssertionError, match=r"result: \['y'\], expected \[\]"):
            compare({"y": EXACT}, {})
        with pytest.raises(AssertionError, match=r"result, y: NoneType, expected a tensor"):
            compare({"y": None}, {"y": EXACT})
        with pytest.raises(AssertionError, match=r"result, 1: NoneType, expected tensors"):
            compare([EXACT, None], (EXACT, None))


def test_every_result_of_several_is_compared() -> None:
    results = {"y": off_by(0.0), "h_n": off_by(0.0)}
    expected = dict.fromkeys(results, EXACT)
    assert_all_accurate(results, results, expected)
    wrong = {**results, "h_n": off_by(0.1)}
    with pytest.raises(AssertionError, match="h_n: largest"):
        assert_all_accurate(wrong, results, expected)
    with pytest.raises(AssertionError, match="h_n: largest"):
        assert_near(wrong, results)
    with pytest.raises(AssertionError, match="result, 1, h_n: 1 of 4 elements differ"):
        assert_same_bits((EXACT, wrong), [EXACT, results])


def test_empty_tensors_pass() -> None:
    empty = torch.empty(0, 3)
    assert_accurate(empty, empty, empty.double(), "y")
    assert_near(empty, empty, "y")
    assert_same_bits(empty, empty)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
def test_same_bits_tells_the_nearest_neighbour_the_sign_of_zero_and_nan(dtype: torch.dtype) -> None:
    tensor = torch.tensor([1.0, 0.0, torch.nan], dtype=dtype)
    assert_same_bits(tensor, tensor.clone())
    neighbour = tensor.clone()
    neighbour[0] += torch.finfo(dtype).eps
    with pytest.raises(AssertionError, match=r"1 of 3 elements differ in their bits, first at \(0,\)"):
        assert_same_bits(neighbour, tensor)
    negative_zero = torch.tensor([1.0, -0.0, torch.nan], dtype=dtype)
    with pytest.raises(AssertionError, match=r"first at \(1,\): -0.0, expected 0.0"):
        assert_same_bits(negative_zero, tensor)
    with pytest.raises(AssertionError, match=r"first at \(2,\): 0.0, expected nan"):
        assert_same_bits(tensor.nan_to_num(), tensor)


def test_same_bits_of_a_scalar() -> None:
    assert_same_bits(torch.tensor(1.0), torch.tensor(1.0))
    with pytest.raises(AssertionError, match=r"first at \(\)"):
        assert_same_bits(torch.tensor(1.0), torch.tensor(2.0))
