"""outputs="last": the last states alone, their gradients, and the memory of the others."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from cases import FLOATING
from compare import assert_same_bits
from process import fork_python, output_of
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import gru_ext
from gru_ext import functional

ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False, "reset_after": False},
]


def pair(**arguments: Any) -> tuple[gru_ext.GRU, gru_ext.GRU]:
    """A module with outputs="last", and one with the same parameters and all outputs."""
    last = gru_ext.GRU(3, 4, **arguments, outputs="last")
    every = gru_ext.GRU(3, 4, **arguments)
    every.load_state_dict(last.state_dict())
    return last, every


def last_layer(h_n: Tensor, directions: int) -> Tensor:
    """(L*D, B, H) to (B, D*H)."""
    return torch.cat(list(h_n[-directions:]), dim=-1)


def inputs(batch_first: bool, dtype: torch.dtype = torch.float32) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Input of each kind, for 5 steps of 4 sequences."""
    lengths = [3, 0, 5, 1]
    x = torch.randn(5, 4, 3, dtype=dtype)
    padded = x.transpose(0, 1) if batch_first else x
    resets = torch.rand(padded.shape[:2]) < 0.4
    sequences = [x[: max(1, length), b] for b, length in enumerate(lengths)]
    return {
        "padded": (padded, {}),
        "lengths": (padded, {"lengths": lengths}),
        "resets": (padded, {"resets": resets}),
        "packed": (pack_sequence(sequences, enforce_sorted=False), {}),
        "unbatched": (x[:, 0], {}),
        "unbatched lengths": (x[:, 0], {"lengths": 2}),
    }


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("kind", inputs(False))
def test_the_output_is_the_last_layer_s_last_state(kind: str, arguments: dict[str, Any]) -> None:
    last, every = pair(**arguments)
    x, keywords = inputs(last.batch_first)[kind]
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            output, h_n = last(x, **keywords)
            _, expected = every(x, **keywords)
        assert_same_bits(h_n, expected)
        assert_same_bits(output, last_layer(expected, 2 if last.bidirectional else 1))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("kind", inputs(False))
def test_gradients(kind: str, dtype: torch.dtype) -> None:
    last, every = (module.to(dtype) for module in pair(num_layers=2, bidirectional=True))
    x, keywords = inputs(False, dtype)[kind]
    weight = torch.randn(last(x, **keywords)[0].shape, dtype=dtype)
    gradients = []
    for module in (last, every):
        output, h_n = module(x, **keywords)
        output = output if module is last else last_layer(h_n, 2)
        gradients.append(torch.autograd.grad((output * weight).sum(), list(module.parameters())))
    for ours, expected in zip(*gradients, strict=True):
        assert_same_bits(ours, expected)


def test_nothing_but_h_n_is_returned_by_the_operator_in_inference() -> None:
    p = gru_ext.GRU(3, 4)
    with torch.no_grad():
        y, h_n = torch.ops.gru_ext.gru(torch.randn(5, 2, 3), None, list(p._flat_weights), None, False, save_y=False)
    assert y.shape == (0,)
    assert h_n.shape == (1, 2, 4)


MEMORY = """
import sys
from pathlib import Path
import torch, gru_ext

outputs, training = sys.argv[1], sys.argv[2] == "training"
torch.set_num_threads(1)
gru = gru_ext.GRU(1, 8, outputs=outputs)
gru(torch.randn(2, 2, 1))[0].sum().backward()
x = torch.zeros(200, 4000, 1)


def mebibytes(name):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
before = mebibytes("VmRSS")
with torch.set_grad_enabled(training):
    output, _ = gru(x)
    if training:
        output[..., -1, :].sum().backward()
print(mebibytes("VmHWM") - before)
"""


def test_memory() -> None:
    """The outputs have 24 MiB here: inference does without them, training without their gradient."""
    for use in ("inference", "training"):
        every, last = (float(output_of(fork_python("-c", MEMORY, outputs, use))) for outputs in ("all", "last"))
        assert every - last > 18, f"{use}: {every} MiB with all outputs, {last} MiB with the last"


def test_compiled_and_exported() -> None:
    torch._dynamo.reset()
    last, _ = pair(num_layers=2, bidirectional=True)
    x = torch.randn(5, 4, 3)
    expected = last(x)
    compiled = copy.copy(last)
    compiled.compile(fullgraph=True, backend="aot_eager")
    for ours, wanted in zip(compiled(x), expected, strict=True):
        assert_same_bits(ours, wanted)
    with torch.no_grad():
        exported = torch.export.export(last.eval(), (x,)).module()
        for program in (compiled, exported):
            assert_same_bits(program(x)[0], expected[0])
    torch._dynamo.reset()


def test_vmap_and_grad() -> None:
    last, every = pair(bidirectional=True)
    samples = torch.randn(3, 5, 2, 3)
    y = torch.vmap(lambda x: last(x)[0])(samples)
    gradients = torch.vmap(torch.func.grad(lambda x: last(x)[0].sin().sum()))(samples)
    for i, x in enumerate(samples):
        leaf = x.clone().requires_grad_()
        expected = last_layer(every(leaf)[1], 2)
        assert torch.allclose(y[i], expected, atol=1e-6)
        (gradient,) = torch.autograd.grad(expected.sin().sum(), leaf)
        assert torch.allclose(gradients[i], gradient, atol=1e-6)


def test_the_argument_is_kept_and_shown() -> None:
    last, _ = pair()
    assert str(last) == "GRU(3, 4, outputs=last)"
    assert pickle.loads(pickle.dumps(last)).outputs == "last"
    old, x = gru_ext.GRU(3, 4), torch.randn(5, 2, 3)
    expected = old(x)[0]
    for name in ("_gru_ext_options", "_gru_ext_given"):
        del old.__dict__[name]  # as in a file of a module that had no options
    assert_same_bits(pickle.loads(pickle.dumps(old))(x)[0], expected)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r'^GRU: expected outputs to be "all" or "last", got \'first\'$'):
        gru_ext.GRU(3, 4, outputs="first")  # type: ignore[arg-type]
    weights = [torch.randn(12, 3), torch.randn(12, 4)]
    with pytest.raises(ValueError, match=r'^gru: expected outputs to be "all" or "last", got None$'):
        functional.gru(torch.randn(5, 2, 3), None, weights, outputs=None)  # type: ignore[arg-type]
    last, _ = pair()
    for convert in (last.to_torch, lambda: gru_ext.quantize_dynamic(nn.Sequential(last))):
        with pytest.raises(ValueError, match="expected GRU with outputs='all'"):
            convert()
