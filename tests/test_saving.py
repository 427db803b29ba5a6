"""save="output": training that keeps y alone, and computes the gates again in backward."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from cases import Options, Size, gru_like, inputs_of_each_kind, layer_with, make_problem, results_and_gradients, solve
from compare import assert_near, assert_same_bits
from process import fork_python, output_of
from recorded import saved_by
from torch import Tensor

import gru_ext
from gru_ext.variant import PLAIN

LONG = Size(130, 9, 3, 5)  # more rows than a chunk of the CPU's backward has
SMALL = Size(4, 3, 2, 5)


def test_the_same_bits_forward_and_nearly_the_same_backward() -> None:
    """What is computed again is what was, but for the rounding of sums in another order."""
    problem = make_problem(LONG, Options(bidirectional=True), torch.float32)
    kept = solve(layer_with(PLAIN), problem)
    again = solve(layer_with(PLAIN, save_gates=False), problem)
    assert_same_bits((again["y"], again["h_n"]), (kept["y"], kept["h_n"]))
    assert_near(again, kept, tolerance=1e-5)


def test_nothing_but_the_arguments_and_the_output_is_saved() -> None:
    x = torch.randn(6, 2, 3, requires_grad=True)
    gru = gru_ext.GRU(3, 4, save="output")
    results: list[Tensor] = []
    saved = saved_by(lambda: results.extend(gru(x)))
    given = {tensor.data_ptr() for tensor in (x, results[0], *gru.parameters())}
    assert {tensor.data_ptr() for tensor in saved if tensor.numel()} == given


MODULES: list[dict[str, Any]] = [
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
    {"zoneout": 0.3, "recurrent_dropout": 0.2, "candidate_dropout": 0.1, "weight_dropout": 0.2},
    {"reset_after": False, "outputs": "last"},
    {"layer_norm": True},
]


def modules(**arguments: Any) -> tuple[gru_ext.GRU, gru_ext.GRU]:
    """A module that keeps its output, and one with the same parameters that keeps its gates."""
    output = gru_ext.GRU(3, 4, **arguments, save="output", dtype=torch.float64)
    return output, gru_like(output, **arguments)


@pytest.mark.parametrize("arguments", MODULES, ids=str)
@pytest.mark.parametrize("kind", inputs_of_each_kind(False))
def test_gradients_of_modules(kind: str, arguments: dict[str, Any]) -> None:
    x, keywords = inputs_of_each_kind(bool(arguments.get("batch_first")))[kind]
    found = []
    for module in modules(**arguments):
        torch.manual_seed(1)
        found.append(results_and_gradients(partial(module, **keywords), (x,), module.parameters()))
    assert_near(found[0], found[1])


@pytest.mark.parametrize("save_gates", [False, True])
def test_opcheck(save_gates: bool) -> None:
    p = make_problem(SMALL, Options(bidirectional=True))
    layer = (p.x.requires_grad_(), p.hx, p.weights, None, True)
    torch.library.opcheck(torch.ops.gru_ext.gru.default, (*layer, True, save_gates))
    layer = (p.x.detach(), *layer[1:])  # torch 2.6 crashes where it traces a double backward
    y, _, gates = torch.ops.gru_ext.gru_fwd(*layer, save_gates)
    arguments = (p.dy, p.dh_n, *layer, y, gates, True, True, True)
    torch.library.opcheck(torch.ops.gru_ext.gru_bwd.default, arguments)


MEMORY = """
import sys
import torch, gru_ext
from recorded import peak_of

torch.set_num_threads(1)
kind = {"torch": torch.nn.GRU, "gates": gru_ext.GRU, "output": gru_ext.GRU}[sys.argv[1]]
arguments = {} if sys.argv[1] == "torch" else {"save": sys.argv[1]}
gru = kind(32, 32, num_layers=2, **arguments)
gru(torch.randn(2, 2, 32))[0].sum().backward()
x = torch.zeros(1000, 64, 32, requires_grad=True)
dy = torch.zeros(1000, 64, 32)
print(peak_of(lambda: gru(x)[0].backward(dy)))
"""


def test_memory_of_training() -> None:
    """A tensor of N rows has 8 MiB here; the gates of two layers have 64."""
    peaks = (float(output_of(fork_python("-c", MEMORY, kind))) for kind in ("torch", "gates", "output"))
    of_torch, gates, output = peaks
    assert output < 0.5 * of_torch, (output, of_torch)
    assert output < gates - 48, (output, gates)
