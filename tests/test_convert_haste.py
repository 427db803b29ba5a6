"""Conversion from and to haste, against its equations in NumPy: haste itself needs a GPU to run."""

from __future__ import annotations

import re
from typing import Any

import numpy
import pytest
import torch
from compare import assert_near, assert_same_bits, assert_same_state
from torch import nn

import gru_ext
from gru_ext import convert

STEPS, BATCH, INPUT, HIDDEN = 5, 2, 3, 4


@pytest.fixture
def weights() -> dict[str, Any]:
    """Random weights in the shapes of ``haste_pytorch.GRU``."""
    rng = numpy.random.default_rng(0)
    shapes = {
        "kernel": (INPUT, 3 * HIDDEN),
        "recurrent_kernel": (HIDDEN, 3 * HIDDEN),
        "bias": (3 * HIDDEN,),
        "recurrent_bias": (3 * HIDDEN,),
    }
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.fixture
def norm_weights(weights: dict[str, Any]) -> dict[str, Any]:
    """Those of a ``haste_pytorch.LayerNormGRU``."""
    return weights | {"gamma": numpy.random.default_rng(1).standard_normal((2, 3 * HIDDEN))}


def normalized(product: Any, weights: dict[str, Any], of: int) -> Any:
    """What haste's LayerNormGRU makes of a product, eps 1e-5; its GRU leaves it."""
    if "gamma" not in weights:
        return product
    deviation = product - product.mean(1, keepdims=True)
    return weights["gamma"][of] * deviation / numpy.sqrt(product.var(1, keepdims=True) + 1e-5)


def haste_gru(x: Any, weights: dict[str, Any]) -> Any:
    """What haste's kernels compute, gates z, r, g: x (T, B, I) to every state (T, B, H)."""

    def sigmoid(a: Any) -> Any:
        return 1 / (1 + numpy.exp(-a))

    h = numpy.zeros((x.shape[1], HIDDEN))
    outputs = []
    for x_t in x:
        x_z, x_r, x_g = numpy.split(normalized(x_t @ weights["kernel"], weights, 0) + weights["bias"], 3, axis=1)
        product = normalized(h @ weights["recurrent_kernel"], weights, 1)
        h_z, h_r, h_g = numpy.split(product + weights["recurrent_bias"], 3, axis=1)
        z = sigmoid(x_z + h_z)
        g = numpy.tanh(x_g + sigmoid(x_r + h_r) * h_g)
        h = z * h + (1 - z) * g
        outputs.append(h)
    return numpy.stack(outputs)


@pytest.mark.parametrize("batch_first", [False, True])
def test_weights_give_what_the_equations_give(weights: dict[str, Any], batch_first: bool) -> None:
    x = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    y, _ = convert.from_haste(weights, batch_first=batch_first)(x.transpose(0, 1) if batch_first else x)
    expected = torch.from_numpy(haste_gru(x.numpy(), weights))
    assert_near(y, expected.transpose(0, 1) if batch_first else expected, "y")


def test_weights_of_a_layer_norm_gru(norm_weights: dict[str, Any]) -> None:
    gru = convert.from_haste(norm_weights)
    assert gru.layer_norm == "joint"
    x = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    assert_near(gru(x)[0], torch.from_numpy(haste_gru(x.numpy(), norm_weights)), "y")
    back = convert.to_haste(gru)
    assert list(back) == list(norm_weights)
    assert_same_bits(back, {name: torch.from_numpy(array) for name, array in norm_weights.items()})


def test_a_layer_norm_gru_without_biases() -> None:
    without_bias = convert.to_haste(gru_ext.GRU(3, 4, bias=False, layer_norm="joint"))
    assert_same_bits(without_bias["gamma"], torch.ones(2, 12))
    assert_same_bits(without_bias["bias"], torch.zeros(12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_weights_come_back_bit_for_bit(weights: dict[str, Any], dtype: torch.dtype) -> None:
    expected = {name: torch.from_numpy(array).to(dtype) for name, array in weights.items()}
    back = convert.to_haste(convert.from_haste(expected))
    assert list(back) == list(expected)
    assert_same_bits(back, expected)
    assert all(tensor.is_contiguous() for tensor in back.values())


def test_a_module_comes_back_bit_for_bit() -> None:
    gru = nn.GRU(INPUT, HIDDEN)
    assert_same_state(convert.from_haste(convert.to_haste(gru)), gru)


def test_no_biases_become_zero() -> None:
    gru = gru_ext.GRU(INPUT, HIDDEN, bias=False, dtype=torch.float64)
    x = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    weights = {name: tensor.numpy() for name, tensor in convert.to_haste(gru).items()}
    assert_near(torch.from_numpy(haste_gru(x.numpy(), weights)), gru(x)[0], "y")


WRONG: dict[str, dict[str, Any]] = {
    "weights with the names kernel, recurrent_kernel, bias, recurrent_bias and, of a LayerNormGRU,": {
        "beta": numpy.ones(2)
    },
    "kernel of shape (I, 3H) = (3, 12), got (3, 11)": {"kernel": numpy.ones((3, 11))},
    "recurrent_kernel of shape (H, 3H) = (4, 12), got (4, 9)": {"recurrent_kernel": numpy.ones((4, 9))},
    "bias of shape (3H) = (12,), got (2, 12)": {"bias": numpy.ones((2, 12))},
    "recurrent_bias of shape (3H) = (12,), got (4,)": {"recurrent_bias": numpy.ones(4)},
    "weights of one dtype, got torch.float32 and torch.float64": {"bias": numpy.ones(12, dtype="float32")},
    "bias of dtype float32, float64, bfloat16 or float16, got": {"bias": torch.ones(12, dtype=torch.int32)},
    "gamma of shape (2, 3H) = (2, 12), got (2, 16)": {"gamma": numpy.ones((2, 16))},
}


@pytest.mark.parametrize("text", WRONG)
def test_weights_that_do_not_fit(weights: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^from_haste: expected {re.escape(text)}"):
        convert.from_haste(weights | WRONG[text])


def test_modules_that_do_not_convert() -> None:
    with pytest.raises(ValueError, match="expected gru of one layer and one direction, got L = 2, D = 1"):
        convert.to_haste(gru_ext.GRU(3, 4, 2))
    with pytest.raises(ValueError, match="expected gru of one layer and one direction, got L = 1, D = 2"):
        convert.to_haste(gru_ext.GRU(3, 4, bidirectional=True))
    with pytest.raises(ValueError, match="expected gru with reset_after=True, as haste's is"):
        convert.to_haste(gru_ext.GRU(3, 4, reset_after=False))
    with pytest.raises(ValueError, match=r'^to_haste: expected gru with layer_norm="joint"'):
        convert.to_haste(gru_ext.GRU(3, 4, layer_norm=True))
