"""int8 weights: the kernels against their specification, the error against float64, and the quantised modules."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from cases import ALL_OPTIONS, LAYERS, Options, Problem, Size, exact, make_problem
from compare import assert_near, assert_same_bits
from int8_cases import LARGE, ROUNDING, SIZES, Model, Subclass, arguments_of, check_every_step, quantized_weights, run
from layouts import every_other, inner_transposed, sliced, transposed
from process import thread_count, through_a_file
from refusals import Refusals, each_refusal, refused
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence
from torch_version import TORCH

import gru_ext
from gru_ext import QuantizedGRU, QuantizedGRUCell, fake_quantize, quantize_dynamic
from gru_ext.quantize import pack, unpack
from gru_ext.reference import quantize_rows

FLOAT32 = torch.float32
ops = torch.ops.gru_ext


# ---- The operator


@pytest.mark.parametrize(
    ("size", "options"),
    [*product(SIZES, ALL_OPTIONS), *product(LARGE, [Options(), Options(bidirectional=True, packed=True)])],
    ids=str,
)
def test_every_step_is_as_specified(size: Size, options: Options) -> None:
    check_every_step(make_problem(size, options, FLOAT32))


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-37, 1e-30, 1e-3, 1e3, 1e30])
def test_inputs_of_any_magnitude(scale: float) -> None:
    problem = make_problem(Size(4, 3, 21, 33), Options(), FLOAT32)
    problem = replace(problem, x=problem.x * scale)
    assert run(problem)[0].isfinite().all()
    check_every_step(problem)


@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True, packed=True)], ids=str)
def test_the_number_of_threads_does_not_change_a_bit(options: Options) -> None:
    problem = make_problem(Size(30, 20, 40, 130), options, FLOAT32)
    expected = run(problem)
    for count in (2, 3, 5):
        with thread_count(count):
            assert_same_bits(run(problem), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_bad_input_makes_its_row_nan_from_its_step_on_and_no_other(value: float, reverse: bool) -> None:
    problem = make_problem(Size(6, 5, 19, 33), Options(bidirectional=True), FLOAT32)
    expected, _ = run(problem)
    problem.x[3, 2, 7] = value
    y, h_n = run(problem)
    bad = torch.zeros(6, 5, 66, dtype=torch.bool)
    bad[3:, 2, :33] = True
    bad[:4, 2, 33:] = True
    assert torch.equal(y.isnan(), bad)
    assert_same_bits(y[~bad], expected[~bad])
    assert torch.equal(h_n.isnan().all(-1), torch.tensor([[False, False, True, False, False]] * 2))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_initial_state_makes_its_row_nan(value: float) -> None:
    problem = make_problem(Size(3, 4, 5, 20), Options(), FLOAT32)
    assert problem.hx is not None
    problem.hx[0, 1, 3] = value
    y, _ = run(problem)
    assert torch.equal(y.isnan().all(-1), torch.tensor([[False, True, False, False]] * 3))
    assert not y[:, [0, 2, 3]].isnan().any()


@pytest.mark.parametrize("restride", [transposed, inner_transposed, sliced, every_other])
def test_strides_do_not_matter(restride: Callable[[Tensor], Tensor]) -> None:
    arguments = arguments_of(make_problem(Size(4, 3, 7, 20), Options(), FLOAT32))
    expected = ops.gru_int8(**arguments)
    for name in ("x", "hx"):
        arguments[name] = restride(arguments[name])
        assert not arguments[name].is_contiguous() or arguments[name].shape[0] == 1
    assert_same_bits(ops.gru_int8(**arguments), expected)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_empty_batch(bidirectional: bool) -> None:
    problem = make_problem(Size(4, 0, 3, 5), Options(bidirectional=bidirectional), FLOAT32)
    y, h_n = run(problem)
    assert (y.shape, h_n.shape) == ((4, 0, 5 * (1 + bidirectional)), (1 + bidirectional, 0, 5))


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_opcheck(options: Options) -> None:
    torch.library.opcheck(ops.gru_int8.default, (), arguments_of(make_problem(Size(4, 3, 2, 5), options, FLOAT32)))


def test_the_meta_device_gives_the_shapes_of_the_cpu() -> None:
    arguments = arguments_of(make_problem(Size(4, 3, 2, 5), Options(bidirectional=True), FLOAT32))
    on_meta = torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), arguments)
    for here, there in zip(ops.gru_int8(**arguments), ops.gru_int8(**on_meta), strict=True):
        assert (here.shape, here.dtype, here.stride()) == (there.shape, there.dtype, there.stride())


def weights_with(index: int, tensor: Tensor) -> list[Tensor]:
    """Weights for I = 2, H = 5, one of them another."""
    weights: list[Tensor] = arguments_of(make_problem(Size(4, 3, 2, 5), Options(), FLOAT32))["weights"]
    weights[index] = tensor
    return weights


WRONG: Refusals = {
    ValueError: {
        "expected x of shape (T, B, I), got 2 dimensions": {"x": torch.zeros(4, 2)},
        "expected x of dtype float32, for weights of int8, got Double": {"x": torch.zeros(4, 3, 2).double()},
        "expected weight_hh as gru_ext.quantize.pack returns it, contiguous and int32, got Float": {
            "weights": weights_with(1, torch.zeros(1, 3, 3, 16))
        },
        "expected scale_ih of the dtype of x, Float, got Double": {
            "weights": weights_with(2, torch.zeros(15).double())
        },
    },
    RuntimeError: {
        "expected x with T >= 1 steps, got T = 0": {"x": torch.zeros(0, 3, 2)},
        "expected weight_ih of shape (ceil(H / 16), 1 + ceil(I / 4), 3, 16) = (1, 3, 3, 16), got (1, 2, 3, 16)": {
            "x": torch.zeros(4, 3, 7)
        },
        "expected 4 weights, or 6 with biases, for D = 1, got 0": {"weights": []},
        "expected scale_hh of shape (3H) with H >= 1, got [14]": {"weights": weights_with(3, torch.zeros(14))},
        "expected bias_hh of shape (3H) = (15), got (16)": {"weights": weights_with(5, torch.zeros(16))},
        "expected hx of shape (D, B, H) = (1, 3, 5), got (1, 2, 5)": {"hx": torch.zeros(1, 2, 5)},
    },
}


@each_refusal(WRONG)
def test_wrong_arguments_of_the_operator(given: Mapping[str, Any], error: type[Exception], text: str) -> None:
    arguments = arguments_of(make_problem(Size(4, 3, 2, 5), Options(), FLOAT32))
    with refused(error, f"gru: {text}"):
        ops.gru_int8(**{**arguments, **given})


def test_cuda_tensors_are_refused() -> None:
    arguments = arguments_of(make_problem(Size(4, 3, 2, 5), Options(), FLOAT32))
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(NotImplementedError, match="expected tensors on the CPU, got CUDA tensors"):
        ops.gru_int8.default.redispatch(keys, *arguments.values())


# ---- Rounding and packing


def test_rows_are_rounded_to_the_nearest() -> None:
    matrix = torch.randn(7, 40) * torch.logspace(-30, 30, 7).unsqueeze(1)
    rounded, scale = quantize_rows(matrix)
    assert rounded.dtype == torch.int8
    assert torch.equal(rounded.abs().amax(1), torch.full((7,), 127, dtype=torch.int8))
    half = scale.double().unsqueeze(1) * 0.5
    assert ((rounded.double() * scale.double().unsqueeze(1) - matrix.double()).abs() <= half * (1 + 1e-4)).all()


def test_rows_of_zeros_and_rows_that_are_not_finite() -> None:
    rounded, scale = quantize_rows(torch.tensor([[0.0, 0.0], [1e-40, -1e-40], [torch.nan, 1.0], [2.0, -torch.inf]]))
    assert not rounded.any()
    assert_same_bits(scale.nan_to_num(-1.0), torch.tensor([0.0, 0.0, -1.0, -1.0]))


@pytest.mark.parametrize("hidden", [1, 16, 21])
@pytest.mark.parametrize("columns", [1, 4, 13])
def test_packed_weights_are_where_the_kernels_look(hidden: int, columns: int) -> None:
    weight = torch.randint(-127, 128, (3 * hidden, columns), dtype=torch.int8)
    packed = pack(weight)
    assert packed.shape == (-(-hidden // 16), 1 + -(-columns // 4), 3, 16)
    assert_same_bits(unpack(packed, hidden, columns), weight)
    for gate, unit, column in [(0, 0, 0), (1, hidden - 1, columns // 2), (2, hidden // 2, columns - 1)]:
        row = gate * hidden + unit
        word = packed[unit // 16, 1 + column // 4, gate, unit % 16 : unit % 16 + 1]
        assert word.view(torch.int8)[column % 4] == weight[row, column]
        assert packed[unit // 16, 0, gate, unit % 16] == weight[row].sum()
    total = sum(int(word.long().sum()) for word in packed[:, 1:].contiguous().view(torch.int8))
    assert total == weight.long().sum(), "something besides the weights is not zero"


# ---- Error


def test_one_step_is_within_its_bound() -> None:
    """The bound of docs/int8.md: half a unit of each operand, carried through the gates."""
    problem = make_problem(Size(1, 300, 3, 4), Options(), FLOAT32)
    (weights,) = quantized_weights(problem)
    x, h = problem.x[0].double(), problem.hx[0].double()  # type: ignore[index]
    w, r, b_ih, b_hh = (tensor.double() for tensor in problem.weights)

    def bound(rows: Tensor, rounded: Tensor, scale: Tensor) -> Tensor:
        row_scale = quantize_rows(rows.float())[1].double().unsqueeze(1)
        magnitude_of_weights = (rounded.double() * scale.double().unsqueeze(1)).abs().sum(1)
        return row_scale / 2 * magnitude_of_weights + scale.double() / 2 * rows.abs().sum(1, keepdim=True)

    e_x, e_h = bound(x, weights.ih, weights.scale_ih), bound(h, weights.hh, weights.scale_hh)
    a_x, a_h = x @ w.t() + b_ih, h @ r.t() + b_hh
    (xr, xz, xn), (hr, hz, q) = a_x.chunk(3, 1), a_h.chunk(3, 1)
    (e_xr, e_xz, e_xn), (e_hr, e_hz, e_q) = e_x.chunk(3, 1), e_h.chunk(3, 1)
    n = torch.tanh(xn + torch.sigmoid(xr + hr) * q)
    e_n = e_xn + q.abs() * (e_xr + e_hr) / 4 + e_q
    allowed = e_n + (h - n).abs() * (e_xz + e_hz) / 4
    expected = n + torch.sigmoid(xz + hz) * (h - n)
    error = (run(problem)[0][0].double() - expected).abs()
    assert (error <= allowed + ROUNDING).all()
    assert (error / allowed).max() > 0.2, "the bound says little"


def torch_quantized(module: nn.GRU) -> nn.Module:
    quantize: Any = torch.ao.quantization.quantize_dynamic
    result: nn.Module = quantize(nn.Sequential(module), {nn.GRU}, dtype=torch.qint8)[0]
    return result


@pytest.mark.filterwarnings("ignore")  # torch.ao.quantization is deprecated
@pytest.mark.parametrize("arguments", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("size", [Size(100, 8, 128, 128), Size(50, 1, 64, 64), Size(25, 4, 32, 300)], ids=str)
def test_the_error_is_below_that_of_torch(size: Size, arguments: dict[str, Any]) -> None:
    module = nn.GRU(size.input, size.hidden, **arguments)
    x = torch.randn(size.steps, size.batch, size.input)
    reference = nn.GRU(size.input, size.hidden, **arguments).double()
    reference.load_state_dict(module.state_dict())
    with torch.no_grad():
        expected = reference(x.double())[0]
        ours, theirs = (m(x)[0].double() - expected for m in (quantize_dynamic(module), torch_quantized(module)))
    assert ours.abs().max() <= 2 * theirs.abs().max()
    assert ours.square().mean() <= theirs.square().mean()
    assert ours.abs().max() < 0.02  # as the docstring says
    assert ours.square().mean().sqrt() < 0.003


# ---- Modules
X = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))


def quantized(*sizes: Any, **arguments: Any) -> QuantizedGRU:
    module = quantize_dynamic(gru_ext.GRU(*sizes, **arguments))
    assert isinstance(module, QuantizedGRU)
    return module


@pytest.mark.parametrize("arguments", LAYERS, ids=str)
def test_layers_and_directions_are_calls_of_the_operator(arguments: dict[str, Any]) -> None:
    module = gru_ext.GRU(3, 20, **arguments)
    layers, directions = module.num_layers, 2 if module.bidirectional else 1
    hx = torch.randn(layers * directions, 2, 20)
    x = X.transpose(0, 1) if module.batch_first else X
    y, h_n = quantize_dynamic(module)(x, hx)
    flat = list(module.parameters())
    count = len(flat) // layers
    expected, states = X, []
    for k in range(layers):
        weights = [w.detach() for w in flat[k * count : (k + 1) * count]]
        state = hx[k * directions : (k + 1) * directions]
        expected, last = run(Problem(expected, state, weights, None, module.bidirectional))
        states.append(last)
    assert_same_bits(y.transpose(0, 1) if module.batch_first else y, expected)
    assert_same_bits(h_n, torch.cat(states))


def test_unbatched_input_is_a_batch_of_one() -> None:
    module, hx = quantized(3, 20, 2), torch.randn(2, 20)
    expected = module(X[:, :1], hx.unsqueeze(1))
    assert_same_bits(module(X[:, 0], hx), [result.squeeze(1) for result in expected])


@pytest.mark.parametrize("unsorted", [False, True])
def test_a_packed_sequence_equals_its_sequences_one_by_one(unsorted: bool) -> None:
    module = quantized(3, 20, 2, bidirectional=True)
    sequences = [torch.randn(length, 3) for length in ((2, 5, 1, 4) if unsorted else (5, 4, 2, 1))]
    hx = torch.randn(4, 4, 20)
    output, h_n = module(pack_sequence(sequences, enforce_sorted=not unsorted), hx)
    assert isinstance(output, PackedSequence)
    for b, (sequence, result) in enumerate(zip(sequences, unpack_sequence(output), strict=True)):
        assert_same_bits((result, h_n[:, b]), module(sequence, hx[:, b]))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(2, 3), (3,)])
def test_a_cell_is_one_step_of_the_layer(shape: tuple[int, ...], bias: bool) -> None:
    cell = nn.GRUCell(3, 20, bias=bias)
    module = nn.GRU(3, 20, bias=bias)
    module.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x, hx = torch.randn(shape), torch.randn(*shape[:-1], 20)
    step = quantize_dynamic(cell)
    assert isinstance(step, QuantizedGRUCell)
    for state in (hx, None):
        expected = quantize_dynamic(module)(x.unsqueeze(0), None if state is None else state.unsqueeze(0))[0][0]
        assert_same_bits(step(x, state), expected)


@pytest.mark.parametrize("inplace", [False, True])
def test_every_gru_of_a_model_is_replaced(inplace: bool) -> None:
    model = Model(3)
    before = copy.deepcopy(model)
    result = quantize_dynamic(model, inplace=inplace)
    assert (result is model) == inplace
    assert isinstance(result, Model)
    assert result.kinds() == [QuantizedGRU, QuantizedGRU, QuantizedGRUCell, QuantizedGRUCell, nn.Linear, Subclass]
    assert result.again is result.theirs
    assert_near(result(X), before(X), "output", tolerance=0.02)
    assert not torch.equal(result(X), before(X))
    if not inplace:
        assert repr(model) == repr(before)
        assert_same_bits(model(X), before(X))


def test_mode_and_hooks_are_kept() -> None:
    module, calls = nn.GRU(3, 4).eval(), []
    module.register_forward_hook(lambda *_: calls.append("after"))
    result: nn.Module = quantize_dynamic(module, inplace=True)
    assert not result.training
    result(X)
    assert calls == ["after"]


def set_nan(module: nn.GRU) -> nn.GRU:
    with torch.no_grad():
        module.all_weights[0][1][2, 1] = torch.nan
    return module


FIRST = "remove parametrizations, pruning and weight norm first, and convert before sharding"
NOT_QUANTIZED: Refusals = {
    ValueError: {
        "weight_ih_l0 of GRU in float32 on the CPU, got torch.float64 on cpu": nn.GRU(3, 4).double(),
        "weight_ih of GRUCell in float32 on the CPU, got torch.float32 on meta": nn.GRUCell(3, 4, device="meta"),
        "weight_hh_l0 of GRU to be finite, got NaN or infinity": set_nan(nn.GRU(3, 4)),
        "GRU with zoneout=0, as torch.nn has it, got zoneout=0.5": gru_ext.GRU(3, 4, zoneout=0.5),
        "GRU with outputs='all', as torch.nn has it, got outputs='last'": gru_ext.GRU(3, 4, outputs="last"),
    },
    TypeError: {
        f"module of type torch.nn.GRU, got ParametrizedGRU; {FIRST}": parametrizations.weight_norm(
            nn.GRU(3, 4), "weight_hh_l0"
        ),
        "module with the parameters weight_ih, weight_hh, bias_ih, bias_hh,"
        f" got weight_ih, bias_ih, bias_hh, weight_hh_orig; {FIRST}": prune.l1_unstructured(
            nn.GRUCell(3, 4), "weight_hh", amount=2
        ),
    },
}


@each_refusal(NOT_QUANTIZED)
@pytest.mark.parametrize("function", [quantize_dynamic, fake_quantize])
def test_what_cannot_be_quantized_is_named_and_nothing_is_replaced(
    function: Any, given: nn.Module, error: type[Exception], text: str
) -> None:
    model = nn.ModuleList([nn.GRU(3, 4), given])
    with refused(error, f"{function.__name__} of '1': expected {text}"):
        function(model, inplace=True)
    assert type(model[0]) is nn.GRU
    assert model[1] is given


def test_too_many_columns_for_32_bits_are_refused() -> None:
    text = "QuantizedGRU: expected input_size and hidden_size of at most 66311, for sums of 32 bits, got 66312"
    model = nn.ModuleList([nn.GRU(3, 4), nn.GRU(66_312, 1)])
    with refused(ValueError, text):
        QuantizedGRU(66_312, 1, device="meta")
    with refused(ValueError, text):
        fake_quantize(model, inplace=True)
    assert type(model[0]) is nn.GRU
    assert 66_311 * 255 * 127 < 2**31 <= 66_312 * 255 * 127


@pytest.mark.parametrize("arguments", LAYERS, ids=str)
def test_the_state_is_plain_and_loads_into_a_fresh_module(arguments: dict[str, Any]) -> None:
    module = gru_ext.GRU(3, 20, **arguments)
    result = QuantizedGRU.from_float(module)
    state = result.state_dict()
    for name, parameter in module.named_parameters():
        if name.startswith("weight"):
            rounded, scale = quantize_rows(parameter.detach())
            assert_same_bits(state.pop(name), rounded, name)
            assert_same_bits(state.pop(name.replace("weight", "scale")), scale, name)
        else:
            assert_same_bits(state.pop(name), parameter, name)
    assert not state
    for assign in (False, True):
        fresh = QuantizedGRU(3, 20, **arguments, device="meta" if assign else None)
        fresh.load_state_dict(through_a_file(result.state_dict(), weights_only=True), assign=assign)
        assert repr(fresh) == repr(result)
        assert_same_bits(results_of(fresh), results_of(result))


def results_of(module: QuantizedGRU) -> Tensor:
    y: Tensor = module(X.transpose(0, 1) if module.batch_first else X)[0]
    return y


def test_a_wrong_state_is_refused() -> None:
    module = QuantizedGRU(3, 4)
    with pytest.raises(RuntimeError, match=r"weight_ih_l0 of shape \(3H, K\) = \(12, 3\), int8, .* torch.float32"):
        module.load_state_dict(nn.GRU(3, 4).state_dict())
    with pytest.raises(RuntimeError, match=r"= \(12, 3\), int8, .* got \(12, 5\), torch.int8"):
        module.load_state_dict(quantized(5, 4).state_dict())
    state = quantized(3, 4).state_dict()
    with pytest.raises(RuntimeError, match=r'Unexpected key.*: "weight_ih_l9"'):
        module.load_state_dict({**state, "weight_ih_l9": state["weight_ih_l0"]})
    del state["weight_hh_l0"]
    with pytest.raises(RuntimeError, match=r'Missing key.*: "weight_hh_l0"'):
        module.load_state_dict(state)
    assert module.load_state_dict(state, strict=False).missing_keys == ["weight_hh_l0"]


def test_copies_and_pickles_give_the_same_bits() -> None:
    module = quantized(3, 20, 2, bidirectional=True)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_same_bits(copied(X)[0], module(X)[0])


def test_weights_take_a_quarter_of_the_memory() -> None:
    module = gru_ext.GRU(256, 256)
    bytes_of_floats = sum(p.numel() * p.element_size() for p in module.parameters())
    bytes_of_int8 = sum(b.numel() * b.element_size() for b in quantize_dynamic(module).buffers())
    assert bytes_of_int8 < 0.28 * bytes_of_floats


def test_there_is_no_dropout_and_no_gradient() -> None:
    module = gru_ext.GRU(3, 4, 2, dropout=0.5).train()
    result = quantize_dynamic(module)
    assert result.training
    y, h_n = result(X.clone().requires_grad_())
    assert not y.requires_grad
    assert not h_n.requires_grad
    assert_same_bits(y, result.eval()(X)[0])


ERRORS: dict[type[Exception], dict[str, Callable[[Any, Any], object]]] = {
    ValueError: {
        "gru: expected input of dtype float32, float64, bfloat16 or float16, got torch.int64": lambda m, _: m(X.long()),
        "gru: expected reset_state together with resets, got it without": (
            lambda m, _: m(X, reset_state=torch.zeros(1, 4))
        ),
        "gru: expected input of shape (T, B, I) or, unbatched, (T, I), got (3,)": lambda m, _: m(X[0, 0]),
        "gru_cell: expected input of shape (B, I) or (I), got (5, 2, 3)": lambda _, c: c(X),
        "QuantizedGRU: expected input_size of at least 1, got 0": lambda *_: QuantizedGRU(0, 4),
    },
    RuntimeError: {
        "gru: expected hx of the dtype of input, torch.float32, got torch.float64": (
            lambda m, _: m(X, torch.zeros(1, 2, 4).double())
        ),
        "gru: expected input of shape (T, B, I) with I = 3, got (5, 2, 2)": lambda m, _: m(X[..., :2]),
        "gru: expected input with T >= 1 steps, got (0, 2, 3)": lambda m, _: m(X[:0]),
        "gru: expected hx of shape (L*D, B, H) = (1, 2, 4), got (2, 4)": lambda m, _: m(X, torch.zeros(2, 4)),
        "gru: expected input on the device of the weights, cpu, got meta": lambda m, _: m(X.to("meta")),
        "gru_cell: expected hx of shape (B, H) = (2, 4), got (2, 5)": lambda _, c: c(X[0], torch.zeros(2, 5)),
    },
    TypeError: {
        "gru: expected input to be a tensor, got ndarray": lambda m, _: m(X.numpy()),
        "quantize_dynamic: expected inplace of type bool, got set; it quantizes GRUs alone, for which there is nothing"
        " to specify": lambda m, _: quantize_dynamic(nn.Sequential(m), {nn.GRU, nn.Linear}),  # type: ignore[arg-type]
        "QuantizedGRU: expected bias of type bool, got int": lambda *_: QuantizedGRU(3, 4, bias=1),  # type: ignore[arg-type]
    },
}


@each_refusal(ERRORS)
def test_errors(given: Callable[[Any, Any], object], error: type[Exception], text: str) -> None:
    with refused(error, text):
        given(quantized(3, 4), quantize_dynamic(nn.GRUCell(3, 4)))


@pytest.mark.parametrize("arguments", LAYERS, ids=str)
def test_a_compiled_module_is_one_graph_and_gives_the_same_bits(arguments: dict[str, Any]) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    module = quantized(3, 20, **arguments)
    compiled = torch.compile(module, fullgraph=True, backend=counter, dynamic=True)
    for steps, batch in ((5, 2), (7, 4)):
        x = torch.randn(batch, steps, 3) if module.batch_first else torch.randn(steps, batch, 3)
        torch._dynamo.mark_dynamic(x, (0, 1))
        assert_same_bits(compiled(x)[0], module(x)[0])
    assert counter.frame_count == 1


def test_packed_sequences_and_cells_compile() -> None:
    torch._dynamo.reset()
    module = quantized(3, 20)
    packed, hx = pack_sequence([torch.randn(length, 3) for length in (4, 2, 1)]), torch.randn(1, 3, 20)
    # An older torch has no PackedSequence in a graph, and runs what surrounds the operator eagerly.
    compiled: Any = torch.compile(module, fullgraph=TORCH >= (2, 8), backend="aot_eager")
    assert_same_bits(compiled(packed, hx)[0].data, module(packed, hx)[0].data)
    cell = quantize_dynamic(nn.GRUCell(3, 20))
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(X[0]), cell(X[0]))


def test_a_model_can_be_exported() -> None:
    module = nn.Sequential(quantized(3, 20))
    program = torch.export.export(module, (X,))
    assert_same_bits(program.module()(X)[0], module(X)[0])


def test_the_specification_is_near_the_float_gru() -> None:
    """What the kernels are held to is itself a GRU: with the rounding undone, they agree."""
    problem = make_problem(Size(6, 4, 40, 30), Options(bidirectional=True), FLOAT32)
    y, _ = run(problem)
    doubles = problem.to(torch.float64)
    count = len(doubles.weights) // 2
    for d, w in enumerate(quantized_weights(problem)):
        doubles.weights[d * count] = w.ih.double() * w.scale_ih.double().unsqueeze(1)
        doubles.weights[d * count + 1] = w.hh.double() * w.scale_hh.double().unsqueeze(1)
    assert_near(y.double(), exact(*doubles.layer)[0], "y", tolerance=0.03)
