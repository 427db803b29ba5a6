"""save="output": training that keeps y alone, and computes the gates again in backward."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import (
    Options,
    Problem,
    Size,
    layer_with,
    make_problem,
    solve,
)
from compare import assert_all_near, assert_same_bits
from process import fork_python, output_of
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

import gru_ext
from gru_ext import functional
from gru_ext.autograd import gru_layer
from gru_ext.variant import PLAIN

LONG = Size(130, 9, 3, 5)  # more rows than a chunk of the CPU's backward has
SMALL = Size(4, 3, 2, 5)


def test_the_same_bits_forward_and_nearly_the_same_backward() -> None:
    """What is computed again is what was, but for the rounding of sums in another order."""
    problem = make_problem(LONG, Options(bidirectional=True), torch.float32)
    kept = solve(lambda *layer: gru_layer(*layer), problem)
    again = solve(layer_with(PLAIN, save_gates=False), problem)
    for name in ("y", "h_n"):
        assert_same_bits(again[name], kept[name], name)
    assert_all_near(again, kept, 1e-5)


def test_nothing_but_the_arguments_and_the_output_is_saved() -> None:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = torch.randn(6, 2, 3, requires_grad=True)
    gru = gru_ext.GRU(3, 4, save="output")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y, _ = gru(x)
    given = {tensor.data_ptr() for tensor in (x, y, *gru.parameters())}
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
    gates = gru_ext.GRU(3, 4, **arguments, dtype=torch.float64)
    gates.load_state_dict(output.state_dict())
    return output, gates


def inputs() -> dict[str, tuple[Any, dict[str, Any]]]:
    x = torch.randn(5, 5, 3, dtype=torch.float64)
    lengths = [3, 0, 5, 1, 2]
    return {
        "padded": (x, {}),
        "lengths": (x, {"lengths": lengths}),
        "resets": (x, {"resets": torch.rand(5, 5) < 0.4}),
        "packed": (pack_sequence([x[: max(1, n), b] for b, n in enumerate(lengths)], enforce_sorted=False), {}),
        "unbatched": (x[:, 0], {}),
    }


@pytest.mark.parametrize("arguments", MODULES, ids=str)
@pytest.mark.parametrize("kind", inputs())
def test_gradients_of_modules(kind: str, arguments: dict[str, Any]) -> None:
    x, keywords = inputs()[kind]
    gradients: list[dict[str, Tensor]] = []
    for module in modules(**arguments):
        torch.manual_seed(1)
        output, h_n = module(x, **keywords)
        data = output if isinstance(output, Tensor) else output.data
        loss = data.sin().sum() + h_n.cos().sum()
        names = [name for name, _ in module.named_parameters()]
        gradients.append(dict(zip(names, torch.autograd.grad(loss, list(module.parameters())), strict=True)))
    ours, expected = gradients
    assert_all_near(ours, expected)


def test_autocast() -> None:
    x = torch.randn(7, 3, 4)
    gru = gru_ext.GRU(4, 5, save="output")
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = gru(x)
    y.sum().backward()
    assert y.dtype == torch.float32
    as_bfloat16 = [p.detach().bfloat16().requires_grad_() for p in gru.parameters()]
    y, _ = functional.gru(x.bfloat16(), None, as_bfloat16, save="output")
    expected = torch.autograd.grad(y.float().sum(), as_bfloat16)
    for parameter, gradient in zip(gru.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert_same_bits(parameter.grad, gradient.float())


# ---- Every mode of differentiation


def of_tensors(problem: Problem) -> tuple[Callable[..., tuple[Tensor, Tensor]], list[Tensor]]:
    """The layer as a function of x, hx and the weights, and these."""

    def function(x: Tensor, hx: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return layer_with(PLAIN, save_gates=False)(x, hx, weights, problem.batch_sizes, problem.bidirectional)

    assert problem.hx is not None
    return function, [problem.x, problem.hx, *problem.weights]


@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_gradcheck_twice(options: Options) -> None:
    function, tensors = of_tensors(make_problem(Size(3, 2, 2, 3), options))
    leaves = tuple(tensor.requires_grad_() for tensor in tensors)
    torch.autograd.gradcheck(function, leaves)
    torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("of_weights", [False, True])
def test_vmap_of_grad(of_weights: bool) -> None:
    """Over inputs, whose samples become rows, and over weights: an ensemble."""
    problem = make_problem(SMALL, Options(bidirectional=True))
    function, tensors = of_tensors(problem)

    def loss(*tensors: Tensor) -> Tensor:
        y, h_n = function(*tensors)
        return y.sin().sum() + h_n.cos().sum()

    varies = [of_weights or i == 0 for i in range(len(tensors))]
    stacked = [torch.stack([t, 0.5 * t, -t]) if v else t for t, v in zip(tensors, varies, strict=True)]
    gradient = torch.func.grad(loss, argnums=tuple(range(len(tensors))))
    together = torch.vmap(gradient, in_dims=tuple(0 if v else None for v in varies))(*stacked)
    for i in range(3):
        alone = gradient(*(t[i] if v else t for t, v in zip(stacked, varies, strict=True)))
        for ours, expected in zip(together, alone, strict=True):
            assert_all_near({"gradient": ours[i]}, {"gradient": expected})


@pytest.mark.parametrize("save_gates", [False, True])
def test_opcheck(save_gates: bool) -> None:
    p = make_problem(SMALL, Options(bidirectional=True))
    layer = (p.x.requires_grad_(), p.hx, p.weights, None, True)
    torch.library.opcheck(torch.ops.gru_ext.gru.default, (*layer, True, save_gates))
    layer = (p.x.detach(), *layer[1:])  # torch 2.6 crashes where it traces a double backward
    y, _, gates = torch.ops.gru_ext.gru_fwd(*layer, save_gates)
    arguments = (p.dy, p.dh_n, *layer, y, gates, True, True, True)
    torch.library.opcheck(torch.ops.gru_ext.gru_bwd.default, arguments)


def test_compiled_and_exported() -> None:
    torch._dynamo.reset()
    gru, _ = modules(num_layers=2, bidirectional=True)
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    expected = gru(x)[0]
    expected.sum().backward()
    gradients = [parameter.grad for parameter in gru.parameters()]
    gru.zero_grad()
    compiled = copy.copy(gru)
    compiled.compile(fullgraph=True, backend="aot_eager")
    compiled(x)[0].sum().backward()
    for parameter, gradient in zip(gru.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert gradient is not None
        assert_same_bits(parameter.grad, gradient)
    with torch.no_grad():
        assert_same_bits(torch.export.export(gru.eval(), (x,)).module()(x)[0], expected)
    torch._dynamo.reset()


# ---- Memory


MEMORY = """
import sys
from pathlib import Path
import torch, gru_ext

torch.set_num_threads(1)
kind = {"torch": torch.nn.GRU, "gates": gru_ext.GRU, "output": gru_ext.GRU}[sys.argv[1]]
arguments = {} if sys.argv[1] == "torch" else {"save": sys.argv[1]}
gru = kind(32, 32, num_layers=2, **arguments)
gru(torch.randn(2, 2, 32))[0].sum().backward()
x = torch.zeros(1000, 64, 32, requires_grad=True)
dy = torch.zeros(1000, 64, 32)


def mebibytes(name):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
before = mebibytes("VmRSS")
gru(x)[0].backward(dy)
print(mebibytes("VmHWM") - before)
"""


def test_memory_of_training() -> None:
    """A tensor of N rows has 8 MiB here; the gates of two layers have 64."""
    peaks = (float(output_of(fork_python("-c", MEMORY, kind))) for kind in ("torch", "gates", "output"))
    of_torch, gates, output = peaks
    assert output < 0.5 * of_torch, (output, of_torch)
    assert output < gates - 48, (output, gates)


# ---- The argument


def test_the_argument_is_kept_shown_and_dropped_in_conversions() -> None:
    gru, _ = modules()
    assert str(gru) == "GRU(3, 4, save=output)"
    assert pickle.loads(pickle.dumps(gru)).save == "output"
    assert isinstance(gru.to_torch(), torch.nn.GRU)
    gru_ext.quantize_dynamic(torch.nn.Sequential(gru.float()))
    gru_ext.convert.to_keras_weights(gru)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r'^GRU: expected save to be "gates" or "output", got \'y\'$'):
        gru_ext.GRU(3, 4, save="y")  # type: ignore[arg-type]
    weights = [torch.randn(12, 3), torch.randn(12, 4)]
    with pytest.raises(ValueError, match=r'^gru: expected save to be "gates" or "output", got None$'):
        functional.gru(torch.randn(5, 2, 3), None, weights, save=None)  # type: ignore[arg-type]
