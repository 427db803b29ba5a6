"""reset_after=False, the GRU of Cho et al. 2014: derivatives, transforms, modules, and what others compute.

test_accuracy.py compares it with the loop of ``reference.gru``; ONNX and Keras prove the loop.
"""

from __future__ import annotations

import copy
import importlib.util
import pickle
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from accuracy import SOME_OPTIONS
from cases import (
    Layer,
    Options,
    Problem,
    Size,
    layer_with,
    make_problem,
    variants_of,
)
from compare import assert_near, assert_same_bits
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import gru_ext
from gru_ext import functional, reference
from gru_ext.variant import Variant

SMALL = Size(4, 3, 2, 5)
FLOAT64 = torch.float64
WITH_ONNX = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")


def ours(
    x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], batch_sizes: Tensor | None, bidirectional: bool
) -> tuple[Tensor, Tensor]:
    """``functional.gru`` as a Layer."""
    return functional.gru(x, hx, weights, bidirectional=bidirectional, batch_sizes=batch_sizes, reset_after=False)


def plain(
    x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], batch_sizes: Tensor | None, bidirectional: bool
) -> tuple[Tensor, Tensor]:
    """The reference as a Layer."""
    return reference.gru(x, hx, weights, batch_sizes, bidirectional, Variant(reset_after=False))


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
    y, _ = ours(problem.x, problem.hx, problem.weights, None, False)
    assert_near(y, ours(problem.x, problem.hx, [*problem.weights, zero, zero], None, False)[0], "y")


def test_three_values_a_unit_are_saved_for_the_backward_one_fewer_than_with_the_reset_gate_after() -> None:
    p = make_problem(SMALL, Options(bidirectional=True), torch.float32)
    arguments = (p.x, p.hx, p.weights, p.batch_sizes, p.bidirectional)
    for reset_after, values in ((True, 4), (False, 3)):
        _, _, gates = torch.ops.gru_ext.gru_fwd(*arguments, True, reset_after=reset_after)
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
    y, h_n = ours(problem.x, problem.hx, problem.weights, None, False)
    assert_near(y, torch.stack(steps), "y")
    assert_near(h_n[0], h, "h_n")
    # The two recurrences differ, and are the same where R_n and the candidate's hidden bias are zero.
    assert not torch.allclose(functional.gru(problem.x, problem.hx, problem.weights)[0], y)
    for weight in (problem.weights[1], problem.weights[3]):
        weight[10:] = 0
    without = ours(problem.x, problem.hx, problem.weights, None, False)[0]
    assert_near(without, functional.gru(problem.x, problem.hx, problem.weights)[0], "y")


def swap_r_and_z(weight: Tensor) -> Tensor:
    """(3H, ...) in ONNX's gate order z, r, n to r, z, n, and back."""
    z, r, n = weight.chunk(3)
    return torch.cat([r, z, n])


def run_onnxruntime(problem: Problem, reset_after: bool) -> list[Tensor]:
    """The y (T, B, D*H) and h_n (D, B, H) of ONNX Runtime's own operator."""
    import onnxruntime
    from onnx import TensorProto, helper

    directions = [problem.weights[i : i + 4] for i in range(0, len(problem.weights), 4)]
    assert problem.hx is not None
    inputs = {
        "X": problem.x,
        "W": torch.stack([swap_r_and_z(w[0]) for w in directions]),
        "R": torch.stack([swap_r_and_z(w[1]) for w in directions]),
        "B": torch.stack([torch.cat([swap_r_and_z(w[2]), swap_r_and_z(w[3])]) for w in directions]),
        "initial_h": problem.hx,
    }
    node = helper.make_node(
        "GRU",
        ["X", "W", "R", "B", "", "initial_h"],
        ["Y", "Y_h"],
        hidden_size=problem.hx.shape[2],
        direction="bidirectional" if problem.bidirectional else "forward",
        linear_before_reset=int(reset_after),
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
    y, h_n = functional.gru(
        problem.x, problem.hx, problem.weights, bidirectional=bidirectional, reset_after=reset_after
    )
    expected_y, expected_h_n = run_onnxruntime(problem, reset_after)
    assert_near(y, expected_y, "y", tolerance=2e-6)
    assert_near(h_n, expected_h_n, "h_n", tolerance=2e-6)


@WITH_ONNX
def test_onnx_s_published_cases() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cases of other operators
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases("GRU")
    assert len(cases) >= 4
    for case in cases:
        node = case.model.graph.node[0]
        attributes = {a.name: a.s.decode() or a.i for a in node.attribute}
        inputs, outputs = case.data_sets[0]
        x, w, r, *bias = (torch.from_numpy(array.copy()) for array in inputs)
        weights = []
        for d in range(w.shape[0]):
            weights += [swap_r_and_z(w[d]), swap_r_and_z(r[d])]
            weights += [swap_r_and_z(b) for b in bias[0][d].chunk(2)] if bias else []
        reverse = attributes.get("direction") == "reverse"
        y, h_n = functional.gru(
            x.flip(0) if reverse else x,
            None,
            weights,
            batch_first=bool(attributes.get("layout", 0)),
            bidirectional=w.shape[0] == 2,
            reset_after=bool(attributes.get("linear_before_reset", 0)),
        )
        if attributes.get("layout", 0):
            results = {"Y": y.unsqueeze(2), "Y_h": h_n.transpose(0, 1)}
        else:
            y = y.flip(0) if reverse else y
            results = {"Y": y.unflatten(2, (w.shape[0], -1)).transpose(1, 2), "Y_h": h_n}
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


# ---- Derivatives


def function_of(layer: Layer, problem: Problem) -> tuple[Callable[..., tuple[Tensor, Tensor]], list[Tensor]]:
    """The layer as a function of tensors that require gradients, and these: x, hx where given, the weights."""
    leaves = problem.map(lambda tensor: tensor.detach().clone().requires_grad_())

    def function(x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        hx, weights = (None, others) if problem.hx is None else (others[0], others[1:])
        return layer(x, hx, weights, problem.batch_sizes, problem.bidirectional)

    return function, [leaves.x, *([] if leaves.hx is None else [leaves.hx]), *leaves.weights]


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_gradcheck_backward_and_forward(options: Options) -> None:
    function, leaves = function_of(ours, make_problem(Size(3, 2, 2, 3), options))
    assert gradcheck(function, leaves, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert gradcheck(function, leaves)


@pytest.mark.parametrize("options", SOME_OPTIONS, ids=str)
def test_gradgradcheck(options: Options) -> None:
    function, leaves = function_of(ours, make_problem(Size(2, 2, 2, 2), options))
    assert gradgradcheck(function, leaves, check_fwd_over_rev=True, fast_mode=True)


# ---- With masks


@pytest.mark.parametrize("options", [SOME_OPTIONS[0], SOME_OPTIONS[4]], ids=str)
def test_gradcheck_with_masks(options: Options) -> None:
    problem = make_problem(Size(3, 2, 2, 3), options)
    for variant in variants_of(problem, reset_after=False).values():
        function, leaves = function_of(layer_with(variant), problem)
        assert gradcheck(function, leaves)
        assert gradgradcheck(function, leaves, fast_mode=True)


# ---- Transforms


def test_torch_func_equals_that_of_the_reference() -> None:
    problem = make_problem(Size(3, 2, 2, 3), Options(bidirectional=True))
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        results = []
        for layer in (ours, plain):
            function, leaves = function_of(layer, problem)

            def loss(x: Tensor, function: Any = function, leaves: Any = leaves) -> Tensor:
                y, h_n = function(x, *(leaf.detach() for leaf in leaves[1:]))
                return torch.as_tensor(y.sin().sum() + h_n.square().sum())

            results.append(transform(loss)(problem.x))
        assert_near(results[0], results[1], transform.__name__)


@pytest.mark.parametrize("over_weights", [False, True])
def test_vmap_is_a_loop(over_weights: bool) -> None:
    problems = [make_problem(SMALL, Options(), FLOAT64) for _ in range(3)]
    x = torch.stack([problem.x for problem in problems])
    weights = [torch.stack(tensors) for tensors in zip(*(p.weights for p in problems), strict=True)]
    if over_weights:
        y, _ = torch.vmap(lambda x, *w: ours(x, None, w, None, False))(x, *weights)
        expected = [ours(p.x, None, p.weights, None, False)[0] for p in problems]
    else:
        y, _ = torch.vmap(lambda x: ours(x, None, problems[0].weights, None, False))(x)
        expected = [ours(p.x, None, problems[0].weights, None, False)[0] for p in problems]
    assert_near(y, torch.stack(expected), "y")


def test_dual_numbers_carry_tangents() -> None:
    problem = make_problem(SMALL, Options(), FLOAT64)
    tangent = torch.randn_like(problem.x)

    def through(layer: Layer) -> Tensor:
        with forward_ad.dual_level():
            y, _ = layer(forward_ad.make_dual(problem.x, tangent), problem.hx, problem.weights, None, False)
            return torch.as_tensor(forward_ad.unpack_dual(y).tangent)

    assert_near(through(ours), through(plain), "tangent")


# ---- Modules


def module_of(**arguments: Any) -> gru_ext.GRU:
    return gru_ext.GRU(4, 6, reset_after=False, dtype=FLOAT64, **arguments)


def results_and_gradients(module: nn.Module, call: Any, *inputs: Any) -> list[Tensor]:
    results = call(*inputs)
    results = [results] if isinstance(results, Tensor) else [r for r in results if isinstance(r, Tensor)]
    total = torch.stack([result.double().sin().sum() for result in results]).sum()
    return [*results, *torch.autograd.grad(total, list(module.parameters()))]


def assert_lists_near(results: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-10) -> None:
    for i, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        assert_near(result, wanted, f"result or gradient {i}", tolerance)


ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_parameters_are_those_of_nn_gru(arguments: dict[str, Any]) -> None:
    torch.manual_seed(1)
    peer = nn.GRU(4, 6, dtype=FLOAT64, **arguments)
    torch.manual_seed(1)
    module = module_of(**arguments)
    for (name, parameter), (expected_name, expected) in zip(
        module.named_parameters(), peer.named_parameters(), strict=True
    ):
        assert name == expected_name
        assert_same_bits(parameter, expected, name)


def test_layers_and_directions_are_single_layers_one_after_another() -> None:
    module = module_of(num_layers=2, bidirectional=True)
    x, hx = torch.randn(5, 3, 4, dtype=FLOAT64), torch.randn(4, 3, 6, dtype=FLOAT64)
    weights = list(module.parameters())
    first, first_state = ours(x, hx[:2], weights[:8], None, True)
    second, second_state = ours(first, hx[2:], weights[8:], None, True)
    y, h_n = module(x, hx)
    assert_near(y, second, "y")
    assert_near(h_n, torch.cat([first_state, second_state]), "h_n")


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_packed_sequences_and_lengths_equal_sequences_one_by_one(arguments: dict[str, Any]) -> None:
    module = module_of(**arguments)
    lengths = [3, 5, 1]
    sequences = [torch.randn(length, 4, dtype=FLOAT64) for length in lengths]
    time = 1 if module.batch_first else 0
    packed, packed_state = module(pack_sequence(sequences, enforce_sorted=False))
    padded = nn.utils.rnn.pad_sequence(sequences, batch_first=module.batch_first)
    y, h_n = module(padded, lengths=lengths)
    again = pack_padded_sequence(y, torch.tensor(lengths), module.batch_first, enforce_sorted=False)
    assert_near(again.data, packed.data, "y")
    assert_near(h_n, packed_state, "h_n")
    for row, sequence in enumerate(sequences):
        alone, state = module(sequence)
        assert_near(y.select(1 - time, row)[: lengths[row]], alone, "y")
        assert_near(h_n[:, row], state, "h_n")


def test_resets_cut_the_sequence() -> None:
    module = module_of()
    x = torch.randn(7, 2, 4, dtype=FLOAT64)
    resets = torch.zeros(7, 2, dtype=torch.bool)
    resets[3, 1] = True
    y, _ = module(x, resets=resets)
    assert_near(y[3:, 1], module(x[3:, 1])[0], "y")
    assert_near(y[:, 0], module(x[:, 0])[0], "y")


def test_outputs_last_is_the_last_state() -> None:
    module = module_of(bidirectional=True)
    x = torch.randn(5, 2, 4, dtype=FLOAT64)
    expected = module(x)[1].transpose(0, 1).flatten(1)
    module.outputs = "last"
    with torch.no_grad():
        assert_near(module(x)[0], expected, "output")


@pytest.mark.parametrize("shape", [(4,), (3, 4)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_a_cell_stepped_by_hand_equals_the_layer(shape: tuple[int, ...], bias: bool) -> None:
    cell = gru_ext.GRUCell(4, 6, bias=bias, dtype=FLOAT64, reset_after=False)
    module = module_of(bias=bias)
    for source, target in zip(cell.parameters(), module.parameters(), strict=True):
        target.data = source.data
    x = torch.randn(5, *shape, dtype=FLOAT64)
    h = None
    steps = []
    for row in x:
        h = cell(row, h)
        steps.append(h)
    assert_near(torch.stack(steps), module(x)[0], "y")
    weights = [p.detach() for p in cell.parameters()]
    assert_near(functional.gru_cell(x[0], None, *weights, reset_after=False), steps[0].detach(), "h")


def test_copies_and_pickles_keep_it_and_the_printed_form_names_it() -> None:
    module = module_of()
    assert repr(module) == "GRU(4, 6, reset_after=False)"
    assert repr(gru_ext.GRUCell(4, 6, reset_after=False)) == "GRUCell(4, 6, reset_after=False)"
    x = torch.randn(5, 3, 4, dtype=FLOAT64)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.reset_after is False
        assert_same_bits(other(x)[0], module(x)[0])


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_a_compiled_module_gives_the_results_and_gradients_of_eager_mode(arguments: dict[str, Any]) -> None:
    torch._dynamo.reset()
    module = module_of(**arguments)
    x = torch.randn(5, 3, 4, dtype=FLOAT64)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert_lists_near(results_and_gradients(module, compiled, x), results_and_gradients(module, module, x))
    cell = gru_ext.GRUCell(4, 6, dtype=FLOAT64, reset_after=False)
    compiled_cell = torch.compile(cell, fullgraph=True, backend="aot_eager")
    assert_lists_near(results_and_gradients(cell, compiled_cell, x[0]), results_and_gradients(cell, cell, x[0]))
    torch._dynamo.reset()


def test_an_exported_module_runs_at_other_sizes() -> None:
    module = module_of(bidirectional=True)
    steps, batch = torch.export.Dim("steps", min=2, max=64), torch.export.Dim("batch", min=2, max=64)
    x = torch.randn(5, 3, 4, dtype=FLOAT64)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: steps, 1: batch},))
    other = torch.randn(9, 2, 4, dtype=FLOAT64)
    assert_lists_near(program.module()(other), module(other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_half_and_differentiates_in_float32(dtype: torch.dtype) -> None:
    module = gru_ext.GRU(4, 6, reset_after=False)
    x = torch.randn(5, 3, 4)
    with torch.autocast("cpu", dtype):
        y, _ = module(x)
    half = copy.deepcopy(module).to(dtype)
    assert_same_bits(y, half(x.to(dtype))[0].float())
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())


# ---- Errors


@pytest.mark.parametrize("make", [gru_ext.GRU, gru_ext.GRUCell])
def test_a_wrong_argument_is_an_error(make: Any) -> None:
    with pytest.raises(TypeError, match="expected reset_after of type bool, got str"):
        make(4, 6, reset_after="before")


def test_gates_of_the_other_recurrence_are_refused() -> None:
    p = make_problem(SMALL, Options(), torch.float32)
    arguments = (p.x, p.hx, p.weights, p.batch_sizes, p.bidirectional)
    y, _, gates = torch.ops.gru_ext.gru_fwd(*arguments, True)
    with pytest.raises(RuntimeError, match=r"expected gates of shape \(D, N, 3, H\) = \(1, 12, 3, 5\), got \(1, 12, 4"):
        torch.ops.gru_ext.gru_bwd(p.dy, None, *arguments, y, gates, True, True, True, reset_after=False)


@pytest.mark.parametrize("make", [gru_ext.GRU, gru_ext.GRUCell])
def test_what_torch_and_int8_kernels_do_not_have_is_not_silently_something_else(make: Any) -> None:
    module = make(4, 6, reset_after=False)
    with pytest.raises(
        ValueError, match=f"to_torch: expected {make.__name__} with reset_after=True, as torch.nn has it"
    ):
        module.to_torch()
    with pytest.raises(ValueError, match=f"quantize_dynamic of '0': expected {make.__name__} with reset_after=True"):
        gru_ext.quantize_dynamic(nn.Sequential(module))
