"""Layer-normalised gates: what they compute, every gradient, and what goes together with them.

test_accuracy.py compares it with ``reference.gru``, which is compared here with ``torch.nn.functional.layer_norm`` and
autograd.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import (
    Options,
    Problem,
    Size,
    layer_with,
    make_problem,
    reference_with,
    solve,
    variants_of,
)
from compare import assert_all_near, assert_near, assert_same_bits
from process import output_of, run_python
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gru_ext
from gru_ext import convert, functional
from gru_ext.variant import Variant

FLOAT64 = torch.float64
NORMS = (1, 2)  # `Variant.layer_norm`
MODES: tuple[Any, ...] = (True, "joint")  # the modules' argument
RATES: dict[str, Any] = {"zoneout": 0.3, "recurrent_dropout": 0.2, "candidate_dropout": 0.25, "weight_dropout": 0.1}
SMALL = Size(4, 3, 2, 5)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def variants(norms: int, problem: Problem) -> dict[str, Variant]:
    """The normalisation alone, and with masks of each kind and all of them."""
    masked = {name: variant._replace(layer_norm=norms) for name, variant in variants_of(problem).items()}
    return {"alone": Variant(layer_norm=norms), **masked}


# ---- What is computed


def by_formula(x: Tensor, h: Tensor, weights: list[Tensor], joint: bool) -> Tensor:
    """One step, (B, I) and (B, H) to (B, H), by torch's own layer_norm; weights as of one direction."""
    weight_ih, weight_hh, bias_ih, bias_hh, gain_ih, gain_hh = weights
    hidden = h.shape[1]

    def norm(product: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        parts, first = [], 0
        for size in (3 * hidden,) if joint else (2 * hidden, hidden):
            part = slice(first, first + size)
            parts.append(nn.functional.layer_norm(product[:, part], (size,), gain[part], bias[part]))
            first += size
        return torch.cat(parts, 1)

    x_r, x_z, x_n = norm(x @ weight_ih.t(), gain_ih, bias_ih).chunk(3, 1)
    h_r, h_z, h_n = norm(h @ weight_hh.t(), gain_hh, bias_hh).chunk(3, 1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    return (1 - z) * torch.tanh(x_n + r * h_n) + z * h


@pytest.mark.parametrize("mode", MODES)
def test_steps_are_those_of_the_formula(mode: Any) -> None:
    p = make_problem(Size(4, 3, 5, 6), Options(gains=True))
    y, _ = functional.gru(p.x, p.hx, p.weights, layer_norm=mode)
    assert p.hx is not None
    h = p.hx[0]
    for t in range(4):
        cell = functional.gru_cell(
            p.x[t], h, *p.weights[:4], layer_norm=mode, gain_ih=p.weights[4], gain_hh=p.weights[5]
        )
        h = by_formula(p.x[t], h, p.weights, joint=mode == "joint")
        assert_near(y[t], h, "y")
        assert_near(cell, h, "cell")


def test_the_input_s_and_the_state_s_scale_do_not_matter() -> None:
    """But for what eps adds: the statistics take them away."""
    p = make_problem(Size(5, 2, 3, 8), Options(gains=True))
    scaled = [1000 * p.weights[0], 1000 * p.weights[1], *p.weights[2:]]
    y, _ = functional.gru(p.x, p.hx, p.weights, layer_norm=True)
    assert_near(functional.gru(p.x, p.hx, scaled, layer_norm=True)[0], y, "y", tolerance=1e-3)


# ---- The kernels


@pytest.mark.parametrize("norms", NORMS)
def test_one_unit(norms: int) -> None:
    """The variance of one candidate alone is zero: no gradient passes it."""
    problem = make_problem(Size(4, 3, 2, 1), Options(gains=True))
    variant = Variant(layer_norm=norms)
    results = solve(layer_with(variant), problem)
    assert_all_near(results, solve(reference_with(variant), problem))
    assert (float(results["dweight_ih_l0"][2].abs().max()) < 1e-10) == (norms == 2)


ON_ONE_CORE = """
import os

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch

import gru_ext

torch.set_num_threads(2)
module, x = gru_ext.GRU(16, 200, layer_norm=True), torch.randn(30, 30, 16)
results = []
for _ in range(6):
    y = module(x)[0]
    results.append([y, *torch.autograd.grad(y.sum(), [*module.parameters()])])
assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))
print("the same")
"""


def test_the_same_bits_where_threads_have_to_share_a_core() -> None:
    """The sums over units are split among the threads, so that their number must not depend on who else computes."""
    assert output_of(run_python("-c", ON_ONE_CORE)) == "the same\n"


# ---- The modules


@pytest.mark.parametrize("rates", [{}, RATES], ids=["alone", "with regularisers"])
@pytest.mark.parametrize("rows", ["padded", "resets"])
@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode: Any, rows: str, rates: dict[str, Any]) -> None:
    keywords: dict[str, Any] = {}
    if rows == "resets":
        keywords = {"resets": torch.tensor([[True, False], [False, True], [True, False]]), "lengths": [3, 2]}
    problem = make_problem(Size(3, 2, 2, 3), Options(bidirectional=True, gains=True))
    assert problem.hx is not None

    def call(x: Tensor, hx: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(7)
        return functional.gru(x, hx, weights, bidirectional=True, training=True, layer_norm=mode, **rates, **keywords)

    leaves = [t.requires_grad_() for t in (problem.x, problem.hx, *problem.weights)]
    assert gradcheck(call, leaves, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_cell_is_a_step_of_the_layer(mode: Any) -> None:
    layer = gru_ext.GRU(3, 4, layer_norm=mode, dtype=FLOAT64)
    cell = gru_ext.GRUCell(3, 4, layer_norm=mode, dtype=FLOAT64)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items()})
    x, h = torch.randn(1, 2, 3, dtype=FLOAT64), torch.randn(1, 2, 4, dtype=FLOAT64, requires_grad=True)
    assert_same_bits(cell(x[0], h[0]), layer(x, h)[0][0])
    cell(x[0], h[0]).sum().backward()
    assert cell.gain_ih.grad is not None


def test_parameters_and_their_initial_values() -> None:
    module = gru_ext.GRU(3, 4, 2, bidirectional=True, layer_norm=True)
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "gain_ih", "gain_hh")
    expected = [f"{kind}_l{layer}{suffix}" for layer in (0, 1) for suffix in ("", "_reverse") for kind in kinds]
    assert [name for name, _ in module.named_parameters()] == expected
    assert [len(weights) for weights in module.all_weights] == [6] * 4
    for name, parameter in module.named_parameters():
        if name.startswith("weight"):
            assert 0 < float(parameter.detach().abs().max()) <= 0.5
        else:
            assert_same_bits(parameter, torch.full((12,), 1.0 if name.startswith("gain") else 0.0), name)
    assert [name for name, _ in gru_ext.GRU(3, 4, bias=False, layer_norm="joint").named_parameters()] == [
        f"{kind}_l0" for kind in kinds if not kind.startswith("bias")
    ]


def test_state_dict_pickle_and_text() -> None:
    module = gru_ext.GRU(3, 4, layer_norm="joint")
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(5, 2, 3)
    loaded = gru_ext.GRU(3, 4, layer_norm="joint")
    loaded.load_state_dict(module.state_dict())
    for other in (loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_same_bits(other(x)[0], module(x)[0])
    assert str(module) == "GRU(3, 4, layer_norm=joint)"
    assert str(gru_ext.GRUCell(3, 4, layer_norm=True)) == "GRUCell(3, 4, layer_norm=True)"


def test_lengths_packed_sequences_and_layouts_agree() -> None:
    module = gru_ext.GRU(3, 4, 2, bidirectional=True, layer_norm=True, dtype=FLOAT64)
    x, lengths = torch.randn(6, 4, 3, dtype=FLOAT64), [6, 4, 4, 1]
    y, h_n = module(x, lengths=lengths)
    packed, packed_h_n = module(pack_padded_sequence(x, torch.tensor(lengths)))
    assert_same_bits(y, pad_packed_sequence(packed)[0])
    assert_same_bits(h_n, packed_h_n)
    for b, length in enumerate(lengths):
        assert_near(y[:length, b], module(x[:length, b])[0], "y")
    last = gru_ext.GRU(3, 4, 2, bidirectional=True, layer_norm=True, dtype=FLOAT64, outputs="last")
    last.load_state_dict(module.state_dict())
    assert_same_bits(last(x, lengths=lengths)[1], h_n)


def test_autocast() -> None:
    module = gru_ext.GRU(3, 4, 2, layer_norm=True)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = module(x)
    assert_same_bits(y, copy.deepcopy(module).to(torch.bfloat16)(x.to(torch.bfloat16))[0].float())
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())


def gradients_of(module: nn.Module, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y.sin().sum(), list(module.parameters())))


@pytest.mark.parametrize("mode", MODES)
def test_compiled_as_one_graph_and_exported(mode: Any) -> None:
    module = gru_ext.GRU(3, 4, 2, bidirectional=True, dtype=FLOAT64, layer_norm=mode)
    compiled = copy.copy(module)
    compiled.compile(fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 4, 3, dtype=FLOAT64)
    y, expected = compiled(x)[0], module(x)[0]
    assert_near(y.detach(), expected.detach(), "y")
    for ours, wanted in zip(gradients_of(module, y), gradients_of(module, expected), strict=True):
        assert_near(ours, wanted, "gradient")
    assert_same_bits(torch.export.export(module, (x,)).module()(x)[0], expected)


@pytest.mark.parametrize("over", ["x", "weights"])
def test_vmap_and_its_gradients(over: str) -> None:
    p = make_problem(Size(4, 2, 3, 5), Options(bidirectional=True, gains=True))
    x = torch.stack([p.x, p.x.flip(0), -p.x])
    weights = [torch.stack([w, 0.5 * w, -w]) for w in p.weights]

    def loss(x: Tensor, weights: list[Tensor]) -> Tensor:
        return functional.gru(x, p.hx, weights, bidirectional=True, layer_norm=True)[0].sin().sum()

    gradient = torch.func.grad(loss, argnums=(0, 1))
    if over == "x":
        results = torch.vmap(gradient, in_dims=(0, None))(x, p.weights)
        expected = [gradient(x[i], p.weights) for i in range(3)]
    else:
        results = torch.vmap(gradient, in_dims=(None, 0))(p.x, weights)
        expected = [gradient(p.x, [w[i] for w in weights]) for i in range(3)]
    for i in range(3):
        assert_near(results[0][i], expected[i][0], "dx")
        for ours, wanted in zip(results[1], expected[i][1], strict=True):
            assert_near(ours[i], wanted, "dweight")


# ---- What does not go together


@pytest.mark.parametrize("value", [None, 1, 0, "split", "Joint", 1.0])
def test_wrong_values(value: Any) -> None:
    p = make_problem(SMALL, Options(gains=True))
    calls: dict[str, Callable[[], object]] = {
        "GRU": lambda: gru_ext.GRU(3, 4, layer_norm=value),
        "GRUCell": lambda: gru_ext.GRUCell(3, 4, layer_norm=value),
        "gru": lambda: functional.gru(p.x, p.hx, p.weights, layer_norm=value),
        "gru_cell": lambda: functional.gru_cell(p.x[0], None, *p.weights[:4], layer_norm=value),
    }
    for op, call in calls.items():
        text = f'{op}: expected layer_norm to be False, True or "joint", got {value!r}'
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            call()


def test_the_reset_gate_before_the_product_is_refused_when_the_module_is_made() -> None:
    for make in (gru_ext.GRU, gru_ext.GRUCell):
        with pytest.raises(ValueError, match=r"expected reset_after=True with layer_norm.*got reset_after=False$"):
            make(3, 4, layer_norm=True, reset_after=False)
    p = make_problem(SMALL, Options(gains=True))
    with pytest.raises(ValueError, match=r"^gru: expected reset_after=True with layer_norm, got reset_after=False"):
        torch.ops.gru_ext.gru_fwd(p.x, p.hx, p.weights, None, False, True, layer_norm=1, reset_after=False)
    with pytest.raises(ValueError, match=r"^gru: expected layer_norm from 0 to 2, got 3"):
        torch.ops.gru_ext.gru_fwd(p.x, p.hx, p.weights, None, False, True, layer_norm=3)


def test_wrong_gains() -> None:
    p = make_problem(SMALL, Options(gains=True))
    # Four are the weights of a layer without normalisation, and no gains.
    text = r"^gru: expected 6 weights, with gains and with biases that may be None, for L\*D = 1 with layer_norm, got 4"
    with pytest.raises(RuntimeError, match=text):
        functional.gru(p.x, p.hx, p.weights[:4], layer_norm=True)
    with pytest.raises(RuntimeError, match=r"^gru: expected 2 weights, or 4 with biases, for L\*D = 1, got 6"):
        functional.gru(p.x, p.hx, p.weights)
    with pytest.raises(RuntimeError, match=r"^gru: expected gain_hh of shape \(3H\) = \(15\), got \(14\)"):
        functional.gru(p.x, p.hx, [*p.weights[:5], p.weights[5][:14]], layer_norm=True)
    with pytest.raises(RuntimeError, match=r"^gru: expected gain_ih of shape \(3H\) = \(15\), got \(3, 5\)"):
        functional.gru(p.x, p.hx, [*p.weights[:2], None, None, p.weights[4].view(3, 5), p.weights[5]], layer_norm=True)
    for gains in ({"layer_norm": True}, {"gain_ih": p.weights[4]}):
        keywords: dict[str, Any] = gains
        with pytest.raises(ValueError, match=r"^gru_cell: expected gain_ih and gain_hh with layer_norm and only then"):
            functional.gru_cell(p.x[0], None, *p.weights[:4], **keywords)


def test_what_has_no_normalisation_refuses_it() -> None:
    module = gru_ext.GRU(3, 4, layer_norm=True)
    calls: dict[str, Callable[[], object]] = {
        "to_torch": module.to_torch,
        "quantize_dynamic": lambda: gru_ext.quantize_dynamic(module),
        "to_keras_weights": lambda: convert.to_keras_weights(module),
        "to_onnx_weights": lambda: convert.to_onnx_weights(module),
        "to_haste": lambda: convert.to_haste(module),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"^{name}: expected .*layer_norm="):
            call()
