"""Training that rounds as int8 kernels do: ``fake_quantize``, and what ``quantize_dynamic`` makes of the result."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import ALL_OPTIONS, LAYERS, Options, Size, make_problem, seeded, tensors_in
from compare import assert_near, assert_same_bits
from int8_cases import LARGE, ROUNDING, SIZES, Model, Subclass, quantized_weights
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

import gru_ext
from gru_ext import fake_quantize, functional, quantize_dynamic
from gru_ext.reference import fake_quantize_rows, quantize_rows

FLOAT32 = torch.float32
X = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(3))
RESETS = torch.tensor([[False, False, True], [True, False, False], *[[False] * 3] * 4])
ARGUMENTS = [*LAYERS[:2], LAYERS[2] | {"dropout": 0.5}]


def first(output: Any) -> Tensor:
    """The output of a layer or a cell as one tensor, packed or not."""
    return tensors_in(output)[0]


# ---- What is rounded


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-37, 1e-30, 1e-3, 1e3, 1e30])
def test_rows_are_rounded_to_the_same_integers_and_gradients_pass(scale: float) -> None:
    rows = torch.randn(40, 33) * scale
    rows[3] = 0
    rows.requires_grad_()
    rounded, scales = quantize_rows(rows.detach())
    result = fake_quantize_rows(rows)
    assert_same_bits(result.detach() + 0.0, rounded * scales.unsqueeze(1) + 0.0)  # zeros of either sign
    gradient = torch.randn(40, 33)
    result.backward(gradient)
    assert rows.grad is not None
    assert_near(rows.grad, gradient, "gradient", 1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_is_nan(value: float) -> None:
    rows = torch.randn(4, 7)
    rows[2, 1] = value
    assert torch.equal(fake_quantize_rows(rows).isnan().all(1), torch.tensor([False, False, True, False]))
    assert not fake_quantize_rows(rows)[[0, 1, 3]].isnan().any()


def test_rows_that_torch_has_not_negated_yet_are_rounded() -> None:
    """The imaginary part of a conjugate has a bit that says so."""
    negative = torch.complex(X, X).conj().imag
    assert negative.is_neg()
    assert_same_bits(fake_quantize_rows(negative), fake_quantize_rows(-X))


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("size", [*SIZES[-2:], LARGE[2]], ids=str)
def test_every_step_of_training_is_that_of_the_int8_kernels(size: Size, options: Options) -> None:
    """From the same state, so that no difference of the last bit can become one of a whole integer."""
    problem = make_problem(size, options, FLOAT32)
    if problem.batch_sizes is not None:
        check_steps_of_packed(problem)
        return
    directions = 2 if problem.bidirectional else 1
    count = len(problem.weights) // directions
    hidden = size.hidden
    state = torch.zeros(directions, size.batch, hidden) if problem.hx is None else problem.hx
    for d in range(directions):
        weights = problem.weights[d * count : (d + 1) * count]
        h = state[d : d + 1]
        for x in problem.x.split(1):
            y, h_n = functional.gru(x, h, [w.requires_grad_() for w in weights], fake_int8=True)
            with torch.no_grad():
                expected, h = functional.gru(x, h, weights, fake_int8=True)
            assert y.requires_grad
            assert_near((y, h_n), (expected, h), tolerance=ROUNDING)


def check_steps_of_packed(problem: Any) -> None:
    """A packed batch is its sequences, in training too."""
    arguments: dict[str, Any] = {"bidirectional": problem.bidirectional, "fake_int8": True}
    weights = [w.requires_grad_() for w in problem.weights]
    y, _ = functional.gru(problem.x, problem.hx, weights, batch_sizes=problem.batch_sizes, **arguments)
    xs, ys = (unpack_sequence(PackedSequence(rows, problem.batch_sizes)) for rows in (problem.x, y))
    for b, (x, of_sequence) in enumerate(zip(xs, ys, strict=True)):
        h = None if problem.hx is None else problem.hx[:, b : b + 1]
        expected, _ = functional.gru(x.unsqueeze(1), h, weights, **arguments)
        assert_near(of_sequence, expected[:, 0], f"sequence {b}", ROUNDING)


def test_the_gradient_is_that_of_the_rounded_operands() -> None:
    """One step by hand: the derivative with rounded x, h, W and R in the products, as if rounding were the identity."""
    problem = make_problem(Size(1, 3, 5, 20), Options(), FLOAT32)
    (weights,) = quantized_weights(problem)
    assert problem.hx is not None
    leaves = [t.clone().requires_grad_() for t in (problem.x, problem.hx, *problem.weights)]
    y, _ = functional.gru(leaves[0], leaves[1], leaves[2:], fake_int8=True)
    gradients = torch.autograd.grad(y.sin().sum(), leaves)

    x, h = (fake_quantize_rows(t[0]).detach().requires_grad_() for t in (problem.x, problem.hx))
    w, r = (
        (q * s.unsqueeze(1)).requires_grad_()
        for q, s in ((weights.ih, weights.scale_ih), (weights.hh, weights.scale_hh))
    )
    b_x, b_h = (b.detach().clone().requires_grad_() for b in problem.weights[2:])
    kept = problem.hx[0].clone().requires_grad_()  # what z keeps is not rounded
    (x_r, x_z, x_n), (h_r, h_z, q) = (x @ w.t() + b_x).chunk(3, 1), (h @ r.t() + b_h).chunk(3, 1)
    z, n = torch.sigmoid(x_z + h_z), torch.tanh(x_n + torch.sigmoid(x_r + h_r) * q)
    of_x, of_h, of_kept, *of_weights = torch.autograd.grad(
        (n + z * (kept - n)).sin().sum(), [x, h, kept, w, r, b_x, b_h]
    )
    expected = [of_x[None], (of_h + of_kept)[None], *of_weights]
    assert_near(gradients, expected, "gradient", 1e-5)


# ---- Modules, and what becomes of them


CALLS: list[Callable[[nn.Module, Tensor], Any]] = [
    lambda module, x: module(x),
    lambda module, x: module(x, lengths=[3, 0, 2, 1, 2, 3] if module.batch_first else [6, 0, 2]),
    lambda module, x: module(x, resets=RESETS),
    lambda module, x: module(x[:, 0]),
    lambda module, x: module(pack_sequence([x[:3, 0], x[:, 1], x[:1, 2]], enforce_sorted=False)),
]


@pytest.mark.parametrize("call", CALLS, ids=["padded", "lengths", "resets", "unbatched", "packed"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_the_quantized_module_has_the_bits_of_the_trained_one(
    arguments: dict[str, Any], call: Callable[[nn.Module, Tensor], Any]
) -> None:
    module = fake_quantize(gru_ext.GRU(5, 20, **arguments))
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    before = first(module.eval()(X)).detach()
    for _ in range(2):
        optimizer.zero_grad()
        first(call(module.train(), X)).square().mean().backward()
        optimizer.step()
    quantized = quantize_dynamic(module.eval())
    assert isinstance(quantized, gru_ext.QuantizedGRU)
    with torch.no_grad():
        assert_same_bits(first(call(module, X)), first(call(quantized, X)))
        after = first(module(X))
    assert not torch.equal(after, before), "nothing was trained"
    assert_near(first(call(module, X)), first(call(quantized, X)), "with gradients", 2e-3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.GRUCell, gru_ext.GRUCell])
def test_cells(kind: type[nn.GRUCell], bias: bool) -> None:
    cell = fake_quantize(kind(5, 20, bias=bias))
    assert isinstance(cell, gru_ext.GRUCell)
    h = cell(X[0], cell(X[1]))
    h.sum().backward()
    assert all(parameter.grad is not None for parameter in cell.parameters())
    with torch.no_grad():
        state = cell(X[1])
        expected = quantize_dynamic(cell)(X[0], state)
        assert_same_bits(cell(X[0], state), expected)
    assert_near(cell(X[0], state), expected, "h", ROUNDING)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_model_keeps_its_state_and_can_be_undone(inplace: bool) -> None:
    model = Model(5)
    peer, names, parameters = copy.deepcopy(model), [*model.state_dict()], [*model.parameters()]
    fake = fake_quantize(model, inplace=inplace)
    assert isinstance(fake, Model)
    assert (fake is model) == inplace
    assert [*fake.state_dict()] == names
    assert [a is b for a, b in zip(fake.parameters(), parameters, strict=True)] == [inplace] * len(parameters)
    assert fake.kinds() == [gru_ext.GRU, gru_ext.GRU, gru_ext.GRUCell, gru_ext.GRUCell, nn.Linear, Subclass]
    for copied in (fake, copy.deepcopy(fake), pickle.loads(pickle.dumps(fake))):
        assert "fake_int8=True" in repr(copied.theirs)
        assert_same_bits(copied(X), fake(X))
    assert not torch.equal(fake(X), peer(X))
    plain = fake_quantize(fake, inplace=inplace, enabled=False)
    assert "fake_int8" not in repr(plain)
    assert_near(plain(X), peer(X), "output", 1e-6)
    assert type(gru_ext.to_torch(copy.deepcopy(plain)).theirs) is nn.GRU
    prepared = gru_ext.prepare(fake_quantize(peer).eval())
    with torch.no_grad():
        assert_same_bits(prepared(X), quantize_dynamic(peer)(X))
        undone = fake_quantize(prepared, enabled=False)(X)
    assert_near(undone, peer(X), "prepared, undone", 1e-6)


def test_other_recurrences_and_wrong_arguments_are_refused() -> None:
    for arguments in ({"reset_after": False}, {"layer_norm": True}, {"zoneout": 0.1}):
        with pytest.raises(ValueError, match="with fake_int8, as int8 kernels have it, got"):
            gru_ext.GRU(5, 4, fake_int8=True, **arguments)
        with pytest.raises(ValueError, match="with fake_int8, as int8 kernels have it, got"):
            functional.gru_cell(X[0], None, torch.zeros(12, 5), torch.zeros(12, 4), fake_int8=True, **arguments)
    module = gru_ext.GRU(5, 4, fake_int8=True)
    pytest.importorskip("onnxscript", reason="the convert extra is not installed")
    with pytest.raises(NotImplementedError, match="to_onnx: ONNX's GRU has no fake_int8: expected False, got True"):
        gru_ext.convert.to_onnx(module, (X,))
    for index, shape in ((0, (12, 6)), (1, (12, 5)), (2, (13,))):
        weights = [*map(torch.detach, module.parameters())]
        weights[index] = torch.zeros(shape)
        with pytest.raises(RuntimeError, match=r"^gru: expected .* of shape .*, got "):
            functional.gru(X, None, weights, fake_int8=True)
    with pytest.raises(TypeError, match="fake_quantize: expected enabled of type bool, got str"):
        fake_quantize(module, enabled="no")  # type: ignore[arg-type]


def test_dropouts_of_training_apply_and_autocast_works() -> None:
    module = fake_quantize(gru_ext.GRU(5, 20, recurrent_dropout=0.5, candidate_dropout=0.2, weight_dropout=0.3))
    expected = seeded(module, X)[0].detach()
    assert_same_bits(seeded(module, X)[0], expected)
    assert not torch.equal(module(X)[0], expected)
    module.eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert_near(module(X)[0], module(X)[0].float(), "autocast", 0.1)


def test_compile_and_export_have_dynamic_shapes() -> None:
    module = fake_quantize(gru_ext.GRU(5, 8))
    compiled: Any = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    sizes = {1: torch.export.Dim("B", min=2, max=64)}
    exported = torch.export.export(module, (X[:2],), dynamic_shapes=(sizes,)).module()
    for x in (X[:2], X[2:].view(2, 6, 5)):
        expected = module(x)[0]
        assert_near(compiled(x)[0], expected, "compiled", 1e-5)
        assert_near(exported(x)[0], expected, "exported", 1e-5)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "blocks": 2}], ids=str)
def test_transforms_pass_through_the_rounding(options: dict[str, Any]) -> None:
    """``vmap`` rounds as a loop does, and the tangent of forward mode is that which the gradient says."""
    assert_same_bits(torch.vmap(fake_quantize_rows)(X), fake_quantize_rows(X))
    module = fake_quantize(gru_ext.GRU(5, 8, **options))

    def output_of(x: Tensor) -> Tensor:
        return first(module(x))

    one_step = torch.stack([X[:1], X[1:2]])
    looped = torch.stack([output_of(x) for x in one_step])
    assert_near(torch.vmap(output_of)(one_step), looped, "vmap", ROUNDING)
    direction = X.flip(1)
    tangent = torch.func.jvp(output_of, (X,), (direction,))[1]
    cotangent = torch.randn_like(tangent)
    gradient = torch.func.vjp(output_of, X)[1](cotangent)[0]
    assert_near((tangent * cotangent).sum(), (gradient * direction).sum(), "tangent", 1e-5)
