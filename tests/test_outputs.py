"""outputs="last": the last states alone, their gradients, and the memory of the others."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from cases import FLOATING, gru_like, inputs_of_each_kind
from compare import assert_same_bits
from process import fork_python, output_of
from torch import Tensor

import gru_ext

ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "layer_norm": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False, "reset_after": False},
]


def pair(**arguments: Any) -> tuple[gru_ext.GRU, gru_ext.GRU]:
    """A module with outputs="last", and one with the same parameters and all outputs."""
    last = gru_ext.GRU(3, 4, **arguments, outputs="last")
    return last, gru_like(last, **arguments)


def last_layer(h_n: Tensor, directions: int) -> Tensor:
    """(L*D, B, H) to (B, D*H)."""
    return torch.cat(list(h_n[-directions:]), dim=-1)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("kind", inputs_of_each_kind(False))
def test_the_output_is_the_last_layer_s_last_state(kind: str, arguments: dict[str, Any]) -> None:
    last, every = pair(**arguments)
    x, keywords = inputs_of_each_kind(last.batch_first, torch.float32)[kind]
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            output, h_n = last(x, **keywords)
            _, expected = every(x, **keywords)
        assert_same_bits(h_n, expected)
        assert_same_bits(output, last_layer(expected, 2 if last.bidirectional else 1))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("kind", inputs_of_each_kind(False))
def test_gradients(kind: str, dtype: torch.dtype) -> None:
    last, every = (module.to(dtype) for module in pair(num_layers=2, bidirectional=True))
    x, keywords = inputs_of_each_kind(False, dtype)[kind]
    weight = torch.randn(last(x, **keywords)[0].shape, dtype=dtype)
    gradients = []
    for module in (last, every):
        output, h_n = module(x, **keywords)
        output = output if module is last else last_layer(h_n, 2)
        gradients.append(torch.autograd.grad((output * weight).sum(), list(module.parameters())))
    assert_same_bits(gradients[0], gradients[1])


def test_nothing_but_h_n_is_returned_by_the_operator_in_inference() -> None:
    p = gru_ext.GRU(3, 4)
    with torch.no_grad():
        y, h_n = torch.ops.gru_ext.gru(torch.randn(5, 2, 3), None, list(p._flat_weights), None, False, save_y=False)
    assert y.shape == (0,)
    assert h_n.shape == (1, 2, 4)


MEMORY = """
import sys
import torch, gru_ext
from recorded import peak_of

outputs, training = sys.argv[1], sys.argv[2] == "training"
torch.set_num_threads(1)
gru = gru_ext.GRU(1, 8, outputs=outputs)
gru(torch.randn(2, 2, 1))[0].sum().backward()
x = torch.zeros(200, 4000, 1)


def call():
    with torch.set_grad_enabled(training):
        output, _ = gru(x)
        if training:
            output[..., -1, :].sum().backward()


print(peak_of(call))
"""


def test_memory() -> None:
    """The outputs have 24 MiB here: inference does without them, training without their gradient."""
    for use in ("inference", "training"):
        every, last = (float(output_of(fork_python("-c", MEMORY, outputs, use))) for outputs in ("all", "last"))
        assert every - last > 18, f"{use}: {every} MiB with all outputs, {last} MiB with the last"


def test_a_file_of_a_module_that_had_no_options() -> None:
    old, x = gru_ext.GRU(3, 4), torch.randn(5, 2, 3)
    expected = old(x)[0]
    for name in ("_gru_ext_options", "_gru_ext_given"):
        del old.__dict__[name]
    assert_same_bits(pickle.loads(pickle.dumps(old))(x)[0], expected)
