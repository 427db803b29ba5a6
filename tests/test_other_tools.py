"""What other code does with modules and results: tracers, FLOP counters, hooks on saved tensors, changes in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import seeded
from compare import assert_near, assert_same_bits
from recorded import saved_by
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.flop_counter import FlopCounterMode

import gru_ext
from gru_ext import functional

FLOAT64 = torch.float64
X = torch.linspace(-2, 2, 30, dtype=FLOAT64).view(5, 2, 3)


class Model(nn.Module):
    """A layer and a cell of either library after a Linear."""

    def __init__(self, library: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3, dtype=FLOAT64)
        self.layer = library.GRU(3, 4, batch_first=True, dtype=FLOAT64)
        self.cell = library.GRUCell(4, 4, dtype=FLOAT64)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, 3) to the cell's state (B, 4)."""
        y, h_n = self.layer(self.linear(x))
        state: Tensor = self.cell(y[:, 0], h_n[0])
        return state


# ---- Tracers


def test_fx_records_one_call_of_each_module() -> None:
    quantized = gru_ext.quantize_dynamic(Model(nn).float())
    for model in (Model(gru_ext), quantized, gru_ext.prepare(Model(nn).eval())):
        traced = torch.fx.symbolic_trace(model)
        called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
        assert called == ["linear", "layer", "cell"]
        x = X.to(next(model.parameters()).dtype)
        assert torch.equal(traced(x), model(x))


def test_fx_names_a_subclass_that_it_cannot_record() -> None:
    class Twice(gru_ext.GRU):
        def forward(self, input: Any, hx: Any = None) -> Any:  # type: ignore[override]
            return super().forward(super().forward(input, hx)[0], hx)

    with pytest.raises(TypeError, match=r"^Twice: expected tensors in GRU\.forward, got those of torch\.fx.*is_leaf"):
        torch.fx.symbolic_trace(nn.Sequential(Twice(3, 3)))


@pytest.mark.parametrize("name", ["lengths", "resets"])
@pytest.mark.parametrize("kind", ["GRU", "QuantizedGRU"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_jit_trace_follows_lengths_and_resets(name: str, kind: str) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            gru = gru_ext.GRU(3, 4, 2, bidirectional=True)
            self.gru: nn.Module = gru if kind == "GRU" else gru_ext.quantize_dynamic(gru)

        def forward(self, x: Tensor, given: Tensor) -> Any:
            return self.gru(x, **{name: given})

    x, model = X.float(), Padded()
    given = {"lengths": torch.tensor([[5, 2], [0, 4]]), "resets": torch.rand(2, 5, 2) < 0.5}[name]
    traced = torch.jit.trace(model, (x, given[0]), check_trace=False)
    assert_same_bits(traced(x, given[1]), model(x, given[1]))


# ---- FLOPs


def flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    total: int = counter.get_total_flops()
    return total


@pytest.mark.parametrize("arguments", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("hx", [False, True])
def test_flops_are_those_of_nn_gru(arguments: dict[str, Any], hx: bool) -> None:
    counted = []
    directions = arguments.get("num_layers", 1) * (2 if arguments.get("bidirectional") else 1)
    for library in (nn, gru_ext):
        gru, cell = library.GRU(3, 4, dtype=FLOAT64, **arguments), library.GRUCell(3, 4, dtype=FLOAT64)
        state = torch.zeros(directions, 2, 4, dtype=FLOAT64, requires_grad=True) if hx else None
        leaf = X.clone().requires_grad_()

        def train(gru: Any = gru, leaf: Tensor = leaf, state: Tensor | None = state) -> None:
            gru(leaf, state)[0].sum().backward()

        counted.append([flops(lambda: gru(X)), flops(lambda: cell(X[0])), flops(train)])  # noqa: B023
    assert counted[1] == counted[0]


def test_flops_of_what_nn_gru_has_not() -> None:
    forward = 2 * 10 * 12 * (3 + 4)
    module = gru_ext.GRU(3, 4, save="output", dtype=FLOAT64)
    backward = 2 * 12 * (10 * (3 + 4) + (10 - 2) * 4)  # of the weights and the states
    assert flops(lambda: module(X)[0].sum().backward()) == 2 * forward + backward
    assert flops(lambda: gru_ext.quantize_dynamic(nn.GRU(3, 4))(X.float())) == forward
    assert flops(lambda: module(X, lengths=[5, 1])) == 2 * 6 * 12 * (3 + 4)
    blocks, of_one = gru_ext.GRU(3, 4, blocks=2, dtype=FLOAT64), gru_ext.GRU(3, 2, dtype=FLOAT64)
    assert flops(lambda: blocks(X)[0].sum().backward()) == 2 * flops(lambda: of_one(X)[0].sum().backward())
    assert flops(lambda: gru_ext.quantize_dynamic(blocks.float())(X.float())) == 2 * flops(lambda: of_one(X))
    prepared: Any = gru_ext.prepare(nn.GRU(3, 4, 2, bidirectional=True, dtype=FLOAT64).eval())
    assert flops(lambda: prepared(X)) == flops(lambda: prepared.to_torch()(X))


# ---- Results are tensors of their own


def results(x: Tensor = X, **options: Any) -> Callable[[], tuple[Tensor, ...]]:
    padded = {name: options.pop(name) for name in ("lengths", "resets") if name in options}
    layer = gru_ext.GRU(3, 4, dtype=FLOAT64, **options)
    return lambda: layer(x, **padded)


CELL, QUANTIZED = gru_ext.GRUCell(3, 4, dtype=FLOAT64), gru_ext.quantize_dynamic(nn.GRU(3, 4, batch_first=True))
RESULTS: dict[str, Callable[[], tuple[Tensor, ...]]] = {
    "cell": lambda: (CELL(X[0]), CELL(X[0, 0])),
    "int8": lambda: (*QUANTIZED(X.float()), *QUANTIZED(X[0].float())),
    "time first": results(),
    "batch first": results(batch_first=True),
    "layers": results(num_layers=2, bidirectional=True, batch_first=True),
    "unbatched": results(X[:, 0]),
    "last": results(outputs="last"),
    "last of two": results(outputs="last", bidirectional=True),
    "lengths": results(lengths=[5, 2], bidirectional=True),
    "lengths, batch first": results(lengths=[1, 2, 2, 1, 0], batch_first=True),
    "resets": results(resets=torch.eye(5, 2) > 0),
    "unbatched lengths": results(X[:, 0], lengths=3),
    "save": results(save="output", batch_first=True),
}


@pytest.mark.parametrize("call", RESULTS.values(), ids=RESULTS)
@pytest.mark.parametrize("grad", [True, False])
def test_results_can_be_detached_and_changed(call: Callable[[], tuple[Tensor, ...]], grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        found = call()
    if found[0].requires_grad:
        torch.stack([result.sum() for result in found]).sum().backward()
    assert len({result.untyped_storage().data_ptr() for result in found}) == len(found)
    for result in found:
        assert not result._is_view()
        result.detach_()
        result.add_(torch.ones((), dtype=result.dtype, requires_grad=True))
        assert result.requires_grad


def test_a_change_before_the_backward_is_an_error_and_no_wrong_gradient() -> None:
    layer = gru_ext.GRU(3, 4, batch_first=True, dtype=FLOAT64)
    y, _ = layer(X)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.add_(1).sum().backward()
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], X.clone().requires_grad_())
    with torch.inference_mode():
        assert layer(X)[0].shape == (5, 2, 4)


# ---- Saved tensors


@pytest.mark.parametrize("options", [{}, {"save": "output"}, {"layer_norm": True}, {"zoneout": 0.3}], ids=str)
def test_saved_tensors_may_come_back_with_other_strides(options: dict[str, Any]) -> None:
    layer = gru_ext.GRU(3, 4, bidirectional=True, dtype=FLOAT64, **options)

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(seeded(layer, X)[0].sin().sum(), list(layer.parameters()))

    def reversed_strides(tensor: Tensor) -> Tensor:
        order = range(tensor.dim())[::-1]
        return tensor.permute(*order).contiguous().permute(*order)

    expected = gradients()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, reversed_strides):
        assert_near(gradients(), expected)


# ---- The meta device


def test_packed_input_and_lengths_on_meta() -> None:
    packed = pack_sequence([torch.ones(4, 3), torch.ones(2, 3)])
    packed = PackedSequence(packed.data.to("meta"), packed.batch_sizes)
    x = torch.ones(5, 2, 3, device="meta")
    modules: list[Any] = [gru_ext.GRU(3, 4, 2, bidirectional=True, device="meta")]
    modules.append(gru_ext.quantize_dynamic(nn.GRU(3, 4, 2, bidirectional=True)).to("meta"))
    for module in modules:
        y, h_n = module(packed)
        assert (y.data.shape, h_n.shape, y.data.device.type) == ((6, 8), (4, 2, 4), "meta")
        for lengths in ([5, 2], torch.ones(2, dtype=torch.int64, device="meta")):
            y, h_n = module(x, lengths=lengths)
            assert (y.shape, h_n.shape, y.device.type) == ((5, 2, 8), (4, 2, 4), "meta")
    for name, value in (("lengths", torch.ones(2).long()), ("resets", torch.ones(5, 2).bool())):
        with pytest.raises(RuntimeError, match=f"^gru: expected {name} with values, for input on cpu, got {name} on"):
            gru_ext.GRU(3, 4)(torch.ones(5, 2, 3), **{name: value.to("meta")})


# ---- Other forms of arguments


def test_weights_from_a_generator_and_biases_of_none() -> None:
    gru = gru_ext.GRU(3, 4, bias=False, bidirectional=True, dtype=FLOAT64)
    expected = gru(X)[0].detach()
    weights = [weight.detach() for weight in gru.parameters()]
    with_none = [*weights[:2], None, None, *weights[2:], None, None]
    for given in (iter(weights), with_none, tuple(with_none)):
        assert_near(functional.gru(X, None, given, bidirectional=True)[0], expected, "y")
    for wrong, text in (
        ([*weights[:2], None, weights[0][:, 0], *weights[2:], None, None], "all biases of all directions"),
        (None, "weights to be a sequence of tensors, got NoneType"),
        (weights[0], "weights to be a sequence of tensors, got Tensor"),
        (["x", *weights[1:]], r"weights\[0\] to be a tensor, got str"),
    ):
        with pytest.raises(TypeError, match=f"^gru: expected {text}"):
            functional.gru(X, None, wrong, bidirectional=True)  # type: ignore[arg-type]


def test_an_int8_model_may_be_moved_to_another_dtype() -> None:
    model: Any = gru_ext.quantize_dynamic(nn.Sequential(nn.GRU(3, 4, bidirectional=True)))
    expected = model(X.float())[0]
    scale = model[0].scale_ih_l0
    for dtype in (torch.bfloat16, torch.float16, FLOAT64):
        y, h_n = model.to(dtype)(X.to(dtype))
        assert (y.dtype, h_n.dtype, model[0].scale_ih_l0) == (dtype, dtype, scale)
        assert (y.float() - expected).abs().max() < 0.05
    assert torch.equal(model[0].scale_ih_l0, scale)
    model[0].flatten_parameters()


# ---- Autocast


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_autocast_casts_a_weight_once(kind: str) -> None:
    module: Any = getattr(gru_ext, kind)(3, 4)
    x = X.float() if kind == "GRU" else X[0].float()
    calls: list[Tensor] = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            module(x)  # what is cast here has no gradient
        saved = saved_by(lambda: calls.extend(module(x)[0].float().sum() for _ in range(5)))
    assert len({tensor.data_ptr() for tensor in saved if tensor.shape[:1] == (12,)}) == 4
    torch.stack(calls).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x)[0].abs().max() == 0
