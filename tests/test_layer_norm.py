"""Layer-normalised gates: what they compute, their parameters, and what does not go together with them.

test_accuracy.py compares it with ``reference.gru``, which is compared here with ``torch.nn.functional.layer_norm`` and
autograd; test_variants.py has derivatives and modules.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import Options, Size, layer_with, make_problem, reference_with, solve
from compare import assert_near, assert_same_bits
from process import output_of, run_python
from torch import Tensor, nn

import gru_ext
from gru_ext import functional
from gru_ext.variant import Variant

FLOAT64 = torch.float64
NORMS = (1, 2)  # `Variant.layer_norm`
MODES: tuple[Any, ...] = (True, "joint")  # the modules' argument
SMALL = Size(4, 3, 2, 5)


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
    h, (gain_ih, gain_hh) = p.hx[0], p.weights[4:]
    for t in range(4):
        cell = functional.gru_cell(p.x[t], h, *p.weights[:4], layer_norm=mode, gain_ih=gain_ih, gain_hh=gain_hh)
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
    assert_near(results, solve(reference_with(variant), problem))
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


# ---- What does not go together


def test_the_reset_gate_before_the_product_is_refused_when_the_module_is_made() -> None:
    for make in (gru_ext.GRU, gru_ext.GRUCell):
        with pytest.raises(ValueError, match=r"expected reset_after=True with layer_norm.*got reset_after=False$"):
            make(3, 4, layer_norm=True, reset_after=False)
    p = make_problem(SMALL, Options(gains=True))
    with pytest.raises(ValueError, match=r"^gru: expected reset_after=True with layer_norm, got reset_after=False"):
        torch.ops.gru_ext.gru_fwd(*p.layer, True, layer_norm=1, reset_after=False)
    with pytest.raises(ValueError, match=r"^gru: expected layer_norm from 0 to 2, got 3"):
        torch.ops.gru_ext.gru_fwd(*p.layer, True, layer_norm=3)


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
