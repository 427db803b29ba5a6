"""reset_after=False, the GRU of Cho et al. 2014, beside what others compute.

test_accuracy.py compares it with the loop of ``reference.gru``; ONNX and Keras prove the loop. test_variants.py has
derivatives and modules.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from cases import LAYERS, Options, Size, make_problem, seeded
from compare import assert_near, assert_same_state
from torch import Tensor, nn

import gru_ext
from gru_ext import functional

SMALL = Size(4, 3, 2, 5)
FLOAT64 = torch.float64
WITH_ONNX = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
before = partial(functional.gru, reset_after=False)


def by_formula(x: Tensor, h: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """One step, (B, I) and (B, H) to (B, H), written as the paper and torch.nn.GRU's documentation write theirs."""
    w_r, w_z, w_n = weights[0].chunk(3)
    r_r, r_z, r_n = weights[1].chunk(3)
    b_ir, b_iz, b_in = weights[2].chunk(3)
    b_hr, b_hz, b_hn = weights[3].chunk(3)
    r = torch.sigmoid(x @ w_r.t() + b_ir + h @ r_r.t() + b_hr)
    z = torch.sigmoid(x @ w_z.t() + b_iz + h @ r_z.t() + b_hz)
    n = torch.tanh(x @ w_n.t() + b_in + (r * h) @ r_n.t() + b_hn)
    return (1 - z) * n + z * h


# ---- Edge cases


def test_no_bias_is_a_bias_of_zero() -> None:
    problem = make_problem(SMALL, Options(bias=False), FLOAT64)
    zero = torch.zeros(15, dtype=FLOAT64)
    y, _ = before(problem.x, problem.hx, problem.weights)
    assert_near(y, before(problem.x, problem.hx, [*problem.weights, zero, zero])[0], "y")


def test_three_values_a_unit_are_saved_for_the_backward_one_fewer_than_with_the_reset_gate_after() -> None:
    p = make_problem(SMALL, Options(bidirectional=True), torch.float32)
    for reset_after, values in ((True, 4), (False, 3)):
        _, _, gates = torch.ops.gru_ext.gru_fwd(*p.layer, True, reset_after=reset_after)
        assert gates.shape == (2, 12, values, 5)


# ---- What others compute


def test_a_step_is_the_formula_of_the_paper() -> None:
    problem = make_problem(SMALL, Options(), FLOAT64)
    assert problem.hx is not None
    h = problem.hx[0]
    steps = []
    for x in problem.x:
        h = by_formula(x, h, problem.weights)
        steps.append(h)
    y, h_n = before(problem.x, problem.hx, problem.weights)
    assert_near(y, torch.stack(steps), "y")
    assert_near(h_n[0], h, "h_n")
    # The two recurrences differ, and are the same where R_n and the candidate's hidden bias are zero.
    assert not torch.allclose(functional.gru(problem.x, problem.hx, problem.weights)[0], y)
    for weight in (problem.weights[1], problem.weights[3]):
        weight[10:] = 0
    without = before(problem.x, problem.hx, problem.weights)[0]
    assert_near(without, functional.gru(problem.x, problem.hx, problem.weights)[0], "y")


def run_onnxruntime(gru: gru_ext.GRU, x: Tensor, hx: Tensor) -> list[Tensor]:
    """The y (T, B, D*H) and h_n (D, B, H) of ONNX Runtime's own operator, with the weights of a layer."""
    import onnxruntime
    from onnx import TensorProto, helper

    (weights,) = gru_ext.convert.to_onnx_weights(gru)
    inputs = {"X": x, **weights, "initial_h": hx}
    node = helper.make_node(
        "GRU",
        ["X", "W", "R", "B", "", "initial_h"],
        ["Y", "Y_h"],
        hidden_size=gru.hidden_size,
        direction="bidirectional" if gru.bidirectional else "forward",
        linear_before_reset=int(gru.reset_after),
    )
    graph = helper.make_graph(
        [node],
        "gru",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(t.shape)) for name, t in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("Y", "Y_h")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, h_n = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return [torch.from_numpy(y).transpose(1, 2).flatten(2), torch.from_numpy(h_n)]


@WITH_ONNX
@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_results_equal_onnx_runtime_s(bidirectional: bool, reset_after: bool) -> None:
    problem = make_problem(Size(7, 3, 6, 20), Options(bidirectional=bidirectional), torch.float32)
    assert problem.hx is not None
    gru = gru_ext.GRU(6, 20, bidirectional=bidirectional, reset_after=reset_after)
    gru.load_state_dict(dict(zip(problem.names, problem.weights, strict=True)))
    assert_near(gru(problem.x, problem.hx), run_onnxruntime(gru, problem.x, problem.hx), tolerance=2e-6)


@WITH_ONNX
def test_onnx_s_published_cases() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cases of other operators
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases("GRU")
    assert len(cases) >= 4
    for case in cases:
        node, (inputs, outputs) = case.model.graph.node[0], case.data_sets[0]
        batch_first = [attribute for attribute in node.attribute if attribute.name == "layout" and attribute.i]
        for attribute in batch_first:  # which is no part of a GRU of ours
            node.attribute.remove(attribute)
        gru = gru_ext.convert.from_onnx_node(node, dict(zip(filter(None, node.input), inputs, strict=True)))
        x = torch.from_numpy(inputs[0].copy())
        y, h_n = gru(x.transpose(0, 1) if batch_first else x)
        y = y.unflatten(2, (h_n.shape[0], -1))  # (T, B, D, H)
        results = {"Y": y.transpose(1, 2), "Y_h": h_n}
        if batch_first:
            results = {"Y": y.transpose(0, 1), "Y_h": h_n.transpose(0, 1)}
        for name, expected in zip([name for name in node.output if name], outputs, strict=True):
            assert_near(results[name], torch.from_numpy(expected.copy()), f"{case.name}: {name}", tolerance=1e-6)


# The last outputs that Keras 3's keras/src/layers/rnn/gru_test.py publishes, for constant weights.
KERAS = [
    (True, True, [0.5217289, 0.6371659, 0.39384964]),
    (False, True, [0.51447755, 0.6426879, 0.40208298]),
    (True, False, [0.49988455, 0.64701194, 0.4103359]),
]


@pytest.mark.parametrize(("reset_after", "bias", "expected"), KERAS)
def test_results_equal_keras_published_figures(reset_after: bool, bias: bool, expected: list[float]) -> None:
    module = gru_ext.GRU(4, 3, bias=bias, batch_first=True, reset_after=reset_after)
    values = {"weight_ih": 0.01, "weight_hh": 0.02, "bias_ih": 0.03, "bias_hh": 0.03 if reset_after else 0.0}
    for name, parameter in module.named_parameters():
        nn.init.constant_(parameter, values[name.removesuffix("_l0")])
    _, h_n = module(torch.arange(72.0).reshape(3, 6, 4))
    assert_near(h_n[0], torch.tensor(expected).unsqueeze(1).expand(3, 3), "h_n", tolerance=1e-6)


# ---- Modules


@pytest.mark.parametrize("arguments", LAYERS, ids=str)
def test_parameters_are_those_of_nn_gru(arguments: dict[str, Any]) -> None:
    module = seeded(gru_ext.GRU, 4, 6, reset_after=False, **arguments)
    assert_same_state(module, seeded(nn.GRU, 4, 6, **arguments))


# ---- Errors


def test_gates_of_the_other_recurrence_are_refused() -> None:
    p = make_problem(SMALL, Options(), torch.float32)
    y, _, gates = torch.ops.gru_ext.gru_fwd(*p.layer, True)
    with pytest.raises(RuntimeError, match=r"expected gates of shape \(D, N, 3, H\) = \(1, 12, 3, 5\), got \(1, 12, 4"):
        torch.ops.gru_ext.gru_bwd(p.dy, None, *p.layer, y, gates, True, True, True, reset_after=False)
