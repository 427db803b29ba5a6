"""Wrong arguments of modules and functions: the exception types of torch.nn, and the exact text of ours."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from compare import assert_near
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch_version import TORCH

import gru_ext
from gru_ext import convert, functional


def zeros(*shape: int, dtype: torch.dtype | None = None, device: str | None = None) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


class Bad(NamedTuple):
    """A call that must fail, of the modules of ``torch.nn`` or of ``gru_ext``, and how ours fails."""

    name: str
    call: Callable[[Any], object]
    error: type[Exception]
    text: str


def made(name: str, error: type[Exception], text: str, **arguments: Any) -> Bad:
    """A GRU that cannot be made."""
    return Bad(name, lambda n: n.GRU(**{"input_size": 3, "hidden_size": 4, **arguments}), error, f"GRU: {text}")


def cell_made(name: str, error: type[Exception], text: str, **arguments: Any) -> Bad:
    """A GRUCell that cannot be made."""
    return Bad(name, lambda n: n.GRUCell(**{"input_size": 3, "hidden_size": 4, **arguments}), error, f"GRUCell: {text}")


def run(name: str, error: type[Exception], text: str, *inputs: Any, **arguments: Any) -> Bad:
    """A GRU with I = 3, H = 4 that cannot run."""
    return Bad(name, lambda n: n.GRU(3, 4, **arguments)(*inputs), error, text)


def cell_run(name: str, error: type[Exception], text: str, *inputs: Any) -> Bad:
    """A GRUCell with I = 3, H = 4 that cannot run."""
    return Bad(name, lambda n: n.GRUCell(3, 4)(*inputs), error, text)


def packed(features: int, dtype: torch.dtype | None = None, sort: bool = True) -> PackedSequence:
    """Two sequences, of 4 and 2 steps."""
    sequences = [zeros(4, features, dtype=dtype), zeros(2, features, dtype=dtype)]
    return pack_sequence(sequences if sort else sequences[::-1], enforce_sorted=sort)


SIZES = [
    made(f"{name}={value!r}", error, f"expected {name} {text}", **{name: value})
    for name in ("input_size", "hidden_size", "num_layers")
    for value, error, text in (
        (0, ValueError, "of at least 1, got 0"),
        (-2, ValueError, "of at least 1, got -2"),
        (2.0, TypeError, "of type int, got float"),
        (None, TypeError, "of type int, got NoneType"),
        ("2", TypeError, "of type int, got str"),
    )
]
CELL_SIZES = [
    cell_made(f"cell {name}={value!r}", error, f"expected {name} {text}", **{name: value})
    for name in ("input_size", "hidden_size")
    for value, error, text in (
        (2.0, TypeError, "of type int, got float"),
        (None, TypeError, "of type int, got NoneType"),
    )
]
FLAGS = [
    made(f"{name}={value!r}", TypeError, f"expected {name} of type bool, got {type(value).__name__}", **{name: value})
    for name in ("bias", "batch_first")
    for value in (0, 1, None, "True")
]
DROPOUTS = [
    made(f"dropout={value!r}", error, f"expected dropout to be a number in [0, 1], got {value!r}", dropout=value)
    for value, error in (
        (-0.1, ValueError),
        (1.1, ValueError),
        ("x", ValueError),
        ("0.5", ValueError),
        (True, ValueError),
        (torch.nan, ValueError),
        (None, TypeError),
        (1j, TypeError),
    )
]
TWO_BY_TWO: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
SHAPES = [
    run("input of rank 0", ValueError, "gru: expected input of shape (T, B, I) or, unbatched, (T, I), got ()", zeros()),
    run(
        "input of rank 1",
        ValueError,
        "gru: expected input of shape (T, B, I) or, unbatched, (T, I), got (3,)",
        zeros(3),
    ),
    run(
        "input of rank 4, batch_first",
        ValueError,
        "gru: expected input of shape (B, T, I) or, unbatched, (T, I), got (2, 2, 2, 3)",
        zeros(2, 2, 2, 3),
        batch_first=True,
    ),
    run(
        "packed data of rank 3",
        RuntimeError,
        "gru: expected packed input of shape (N, I), got (2, 3, 3)",
        PackedSequence(zeros(2, 3, 3), torch.tensor([1, 1])),
    ),
    run("features", RuntimeError, "gru: expected input of shape (T, B, I) with I = 3, got (5, 2, 7)", zeros(5, 2, 7)),
    run(
        "features, batch_first",
        RuntimeError,
        "gru: expected input of shape (B, T, I) with I = 3, got (2, 5, 7)",
        zeros(2, 5, 7),
        batch_first=True,
    ),
    run("features, unbatched", RuntimeError, "gru: expected input of shape (T, I) with I = 3, got (5, 7)", zeros(5, 7)),
    run("features, packed", RuntimeError, "gru: expected input of shape (N, I) with I = 3, got (6, 7)", packed(7)),
    run("T = 0", RuntimeError, "gru: expected input with T >= 1 steps, got (0, 2, 3)", zeros(0, 2, 3)),
    run("T = 0, unbatched", RuntimeError, "gru: expected input with T >= 1 steps, got (0, 3)", zeros(0, 3)),
    run(
        "T = 0, batch_first",
        RuntimeError,
        "gru: expected input with T >= 1 steps, got (2, 0, 3)",
        zeros(2, 0, 3),
        batch_first=True,
    ),
    *(
        run(
            f"hx {shape}",
            RuntimeError,
            f"gru: expected hx of shape (L*D, B, H) = (4, 3, 4), got {shape}",
            zeros(5, 3, 3),
            zeros(*shape),
            **TWO_BY_TWO,
        )
        for shape in ((4, 2, 4), (2, 3, 4), (4, 3, 5), (3, 4, 4), (4, 4), (1, 4, 3, 4), (4,))
    ),
    run(
        "hx, batch_first",
        RuntimeError,
        "gru: expected hx of shape (L*D, B, H) = (1, 2, 4), got (2, 1, 4)",
        zeros(2, 5, 3),
        zeros(2, 1, 4),
        batch_first=True,
    ),
    *(
        run(
            f"hx {shape}, unbatched",
            RuntimeError,
            f"gru: expected hx of shape (L*D, H) = (1, 4), got {shape}",
            zeros(5, 3),
            zeros(*shape),
        )
        for shape in ((1, 1, 4), (1, 5), (2, 4), (4,))
    ),
    *(
        run(
            f"hx {shape}, packed, {'sorted' if sort else 'unsorted'}",
            RuntimeError,
            f"gru: expected hx of shape (L*D, B, H) = (1, 2, 4), got {shape}",
            packed(3, sort=sort),
            zeros(*shape),
        )
        for shape in ((1, 1, 4), (1, 4), (2, 2, 4))
        for sort in (True, False)
    ),
]
CELL_SHAPES = [
    cell_run("cell input of rank 0", ValueError, "gru_cell: expected input of shape (B, I) or (I), got ()", zeros()),
    cell_run(
        "cell input of rank 3",
        ValueError,
        "gru_cell: expected input of shape (B, I) or (I), got (1, 2, 3)",
        zeros(1, 2, 3),
    ),
    *(
        cell_run(
            f"cell features {shape}",
            RuntimeError,
            f"gru_cell: expected input of shape {letters} with I = 3, got {shape}",
            zeros(*shape),
        )
        for letters, shape in (("(B, I)", (2, 5)), ("(I)", (5,)))
    ),
    *(
        cell_run(
            f"cell hx {shape}",
            RuntimeError,
            f"gru_cell: expected hx of shape (B, H) = (2, 4), got {shape}",
            zeros(2, 3),
            zeros(*shape),
        )
        for shape in ((3, 4), (2, 5), (4,))
    ),
    *(
        cell_run(
            f"cell hx {shape}, unbatched",
            RuntimeError,
            f"gru_cell: expected hx of shape (H) = (4,), got {shape}",
            zeros(3),
            zeros(*shape),
        )
        for shape in ((5,), (1, 4))
    ),
    *(
        cell_run(
            f"cell hx {shape}",
            ValueError,
            f"gru_cell: expected hx of shape (B, H) or (H), got {shape}",
            zeros(2, 3),
            zeros(*shape),
        )
        for shape in ((), (1, 2, 4))
    ),
]
NOT_FLOAT32 = (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64)
DTYPES = [
    *(
        run(
            f"input of {dtype}",
            ValueError,
            f"gru: expected input of dtype torch.float32, as the weights have, got {dtype}",
            zeros(5, 2, 3, dtype=dtype),
        )
        for dtype in NOT_FLOAT32
    ),
    run(
        "packed input of float64",
        ValueError,
        "gru: expected input of dtype torch.float32, as the weights have, got torch.float64",
        packed(3, torch.float64),
    ),
    *(
        run(
            f"hx of {dtype}",
            RuntimeError,
            f"gru: expected hx of the dtype of input, torch.float32, got {dtype}",
            zeros(5, 2, 3),
            zeros(1, 2, 4, dtype=dtype),
        )
        for dtype in NOT_FLOAT32
    ),
    *(
        cell_run(
            f"cell input of {dtype}",
            RuntimeError,
            f"gru_cell: expected input of dtype torch.float32, as the weights have, got {dtype}",
            zeros(2, 3, dtype=dtype),
        )
        for dtype in NOT_FLOAT32
    ),
    cell_run(
        "cell hx of float64",
        RuntimeError,
        "gru_cell: expected hx of the dtype of input, torch.float32, got torch.float64",
        zeros(2, 3),
        zeros(2, 4, dtype=torch.float64),
    ),
]
DEVICES = [
    run(
        "input on meta",
        RuntimeError,
        "gru: expected input on the device of the weights, cpu, got meta",
        zeros(5, 2, 3, device="meta"),
    ),
    run(
        "weights on meta",
        RuntimeError,
        "gru: expected input on the device of the weights, meta, got cpu",
        zeros(5, 2, 3),
        device="meta",
    ),
    run(
        "hx on meta",
        RuntimeError,
        "gru: expected hx on the device of input, cpu, got meta",
        zeros(5, 2, 3),
        zeros(1, 2, 4, device="meta"),
    ),
    cell_run(
        "cell input on meta",
        RuntimeError,
        "gru_cell: expected input on the device of the weights, cpu, got meta",
        zeros(2, 3, device="meta"),
    ),
    cell_run(
        "cell hx on meta",
        RuntimeError,
        "gru_cell: expected hx on the device of input, cpu, got meta",
        zeros(2, 3),
        zeros(2, 4, device="meta"),
    ),
]
# An older nn.GRU takes these, or leaves them to torch.empty.
REFUSED_SINCE_2_11 = {"input_size=0", "input_size=-2", *(bad.name for bad in FLAGS)}
# torch.nn takes these.
STRICTER = [
    *(
        made(
            f"bidirectional={value!r}",
            TypeError,
            f"expected bidirectional of type bool, got {type(value).__name__}",
            bidirectional=value,
        )
        for value in (None, "no")
    ),
    *(
        cell_made(
            f"cell bias={value!r}", TypeError, f"expected bias of type bool, got {type(value).__name__}", bias=value
        )
        for value in (None, "relu")
    ),
    # nn.GRU drops the state of the third sequence.
    run(
        "hx for a larger batch, packed, unsorted",
        RuntimeError,
        "gru: expected hx of shape (L*D, B, H) = (1, 2, 4), got (1, 3, 4)",
        packed(3, sort=False),
        zeros(1, 3, 4),
    ),
]


def raised_by(call: Callable[[Any], object], namespace: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  which one it is, the caller checks
        call(namespace)
    assert isinstance(caught.value, Exception)
    return caught.value


@pytest.mark.parametrize(
    "bad",
    [*SIZES, *CELL_SIZES, *FLAGS, *DROPOUTS, *SHAPES, *CELL_SHAPES, *DTYPES, *DEVICES],
    ids=lambda bad: bad.name,
)
def test_the_type_of_torch_nn_and_our_text(bad: Bad) -> None:
    if TORCH >= (2, 11) or bad.name not in REFUSED_SINCE_2_11:
        assert type(raised_by(bad.call, nn)) is bad.error
    error = raised_by(bad.call, gru_ext)
    assert (type(error), str(error)) == (bad.error, bad.text)


@pytest.mark.parametrize("bad", STRICTER, ids=lambda bad: bad.name)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # torch's own, of size 0
def test_what_torch_nn_accepts_and_we_do_not(bad: Bad) -> None:
    bad.call(nn)
    error = raised_by(bad.call, gru_ext)
    assert (type(error), str(error)) == (bad.error, bad.text)


@pytest.mark.parametrize("name", ["input_size", "hidden_size"])
def test_a_negative_size_of_a_cell_is_the_value_error_of_nn_gru(name: str) -> None:
    sizes: dict[str, Any] = {"input_size": 3, "hidden_size": 4, name: -2}
    # nn.GRUCell leaves it to torch.empty, as does an older nn.GRU.
    for module in (gru_ext.GRUCell, nn.GRU) if TORCH >= (2, 11) else (gru_ext.GRUCell,):
        with pytest.raises(ValueError, match=name):
            module(**sizes)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_a_module_of_integers_cannot_be_made(dtype: torch.dtype) -> None:
    for module in (gru_ext.GRU, nn.GRU, gru_ext.GRUCell, nn.GRUCell):
        with pytest.raises(
            RuntimeError, match="Only Tensors of floating point and complex dtype can require gradients"
        ):
            module(3, 4, dtype=dtype)


def test_complex_modules_are_refused_when_they_run() -> None:
    module = gru_ext.GRU(3, 4, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"gru: expected weights of dtype .*, got torch\.complex64"):
        module(zeros(5, 2, 3, dtype=torch.complex64))


DENSE = "a dense tensor, of layout torch.strided, got"


@pytest.mark.parametrize("module", [gru_ext.GRU(3, 4), gru_ext.GRUCell(3, 4)], ids=["GRU", "GRUCell"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "a tensor, got NoneType"),
        ([[[1.0, 2.0, 3.0]]], "a tensor, got list"),
        (1.0, "a tensor, got float"),
        (zeros(5, 3).to_sparse(), f"{DENSE} torch.sparse_coo"),
        (zeros(5, 3).to_mkldnn(), f"{DENSE} torch._mkldnn"),
        (torch.nested.nested_tensor([zeros(5, 3)], layout=torch.jagged), f"{DENSE} a nested tensor"),
    ],
    ids=str,
)
def test_what_is_no_dense_tensor_is_named(module: nn.Module, value: object, text: str) -> None:
    op = "gru_cell" if "Cell" in type(module).__name__ else "gru"
    for name, arguments in (("input", (value, None)), ("hx", (zeros(5, 3), value))):
        if value is None and name == "hx":
            continue
        error = raised_by(lambda m, arguments=arguments: m(*arguments), module)  # type: ignore[misc]
        assert (type(error), str(error)) == (TypeError, f"{op}: expected {name} to be {text}")


def test_dropout_with_one_layer_warns_where_the_module_is_made() -> None:
    text = r"GRU: dropout = 0\.5 has no effect with num_layers = 1: it applies between layers"
    with pytest.warns(UserWarning, match=text) as ours:
        gru_ext.GRU(3, 4, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last") as theirs:
        nn.GRU(3, 4, dropout=0.5)
    assert [warning.category for warning in ours] == [warning.category for warning in theirs]
    assert ours[0].filename == __file__


def test_dropout_of_zero_or_with_two_layers_does_not_warn() -> None:
    gru_ext.GRU(3, 4, dropout=0)
    gru_ext.GRU(3, 4, num_layers=2, dropout=1)


# ---- The functions, which torch.nn has not


def weights(**dtypes: torch.dtype) -> list[Tensor]:
    """For I = 3, H = 4; dtypes by name, float32 by default."""
    shapes = {"weight_ih": (12, 3), "weight_hh": (12, 4), "bias_ih": (12,), "bias_hh": (12,)}
    return [zeros(*shape, dtype=dtypes.get(name)) for name, shape in shapes.items()]


@pytest.mark.parametrize(
    ("count", "options", "text"),
    [
        (0, {}, "expected 2 weights, or 4 with biases, for L*D = 1, got 0"),
        (3, {}, "expected 2 weights, or 4 with biases, for L*D = 1, got 3"),
        (8, {}, "expected 2 weights, or 4 with biases, for L*D = 1, got 8"),
        (4, {"num_layers": 2, "bidirectional": True}, "expected 8 weights, or 16 with biases, for L*D = 4, got 4"),
    ],
)
def test_functional_gru_counts_the_weights(count: int, options: dict[str, Any], text: str) -> None:
    error = raised_by(lambda f: f.gru(zeros(5, 2, 3), None, [*weights(), *weights()][:count], **options), functional)
    assert (type(error), str(error)) == (RuntimeError, f"gru: {text}")


def replaced(index: int, tensor: Tensor) -> list[Tensor]:
    """The weights with one of them another."""
    return [tensor if i == index else weight for i, weight in enumerate(weights())]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (replaced(0, zeros(11, 3)), RuntimeError, "expected weight_ih of shape (3H, I) = (12, 3), got (11, 3)"),
        (replaced(1, zeros(11, 4)), RuntimeError, "expected weight_hh of shape (3H, H) = (12, 4), got (11, 4)"),
        (replaced(2, zeros(4)), RuntimeError, "expected bias_ih of shape (3H) = (12), got (4)"),
        (replaced(3, zeros(12, 1)), RuntimeError, "expected bias_hh of shape (3H) = (12), got (12, 1)"),
        *(
            (
                weights(**{name: torch.float64}),
                RuntimeError,
                "expected all weights of one dtype and device, torch.float32 on cpu, got torch.float64 on cpu",
            )
            for name in ("weight_hh", "bias_ih", "bias_hh")
        ),
        (
            replaced(3, zeros(12, device="meta")),
            RuntimeError,
            "expected all weights of one dtype and device, torch.float32 on cpu, got torch.float32 on meta",
        ),
    ],
)
def test_functional_gru_checks_the_weights(given: Sequence[Tensor], error: type[Exception], text: str) -> None:
    caught = raised_by(lambda f: f.gru(zeros(5, 2, 3), None, given), functional)
    assert (type(caught), str(caught)) == (error, f"gru: {text}")


@pytest.mark.parametrize("index", [2, 3])
def test_functional_gru_cell_wants_both_biases_or_neither(index: int) -> None:
    given: list[Tensor | None] = [*weights()]
    given[index] = None
    caught = raised_by(lambda f: f.gru_cell(zeros(2, 3), None, *given), functional)
    assert type(caught) is ValueError
    assert str(caught) == "gru_cell: expected both bias_ih and bias_hh or neither, got one"


@pytest.mark.parametrize("bad", [*SHAPES, *DTYPES], ids=lambda bad: bad.name)
def test_a_good_call_after_a_bad_one_works(bad: Bad) -> None:
    raised_by(bad.call, gru_ext)
    module, peer = gru_ext.GRU(3, 4), nn.GRU(3, 4)
    peer.load_state_dict(module.state_dict())
    x = torch.randn(5, 2, 3)
    assert_near(module(x)[0].detach(), peer(x)[0].detach(), "y", 1e-6)


def test_functional_gru_checks_the_number_of_layers() -> None:
    error = raised_by(lambda f: f.gru(zeros(5, 2, 3), None, [], num_layers=0), functional)
    assert (type(error), str(error)) == (ValueError, "gru: expected num_layers of at least 1, got 0")


# ---- Every argument, given what it cannot be

NOWHERE: list[Any] = [
    object(),
    {},
    nn.Linear(3, 3),
    nn.GRU,
    zeros(5, 2, 3).to_sparse(),
    zeros(5, 2, 3).to_mkldnn(),
    torch.nested.nested_tensor([zeros(2, 3)], layout=torch.jagged),
    zeros(5, 2, 3, dtype=torch.complex64),
    zeros(5, 2, 7, 3),
    numpy.zeros((5, 2, 7, 3)),
]
INPUTS: dict[str, Any] = {"input": zeros(5, 2, 3), "resets": zeros(5, 2, dtype=torch.bool)}
WEIGHTS = [zeros(12, 3), zeros(12, 4), zeros(12), zeros(12)]
CELL_INPUTS = dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), WEIGHTS, strict=True))
QUANTIZED = gru_ext.quantize_dynamic(nn.GRU(3, 4))
GOOD_CALLS: dict[str, tuple[Callable[..., object], dict[str, Any]]] = {
    "GRU": (gru_ext.GRU, {"input_size": 3, "hidden_size": 4}),
    "GRUCell": (gru_ext.GRUCell, {"input_size": 3, "hidden_size": 4}),
    "QuantizedGRU": (gru_ext.QuantizedGRU, {"input_size": 3, "hidden_size": 4}),
    "QuantizedGRUCell": (gru_ext.QuantizedGRUCell, {"input_size": 3, "hidden_size": 4}),
    "GRU.forward": (gru_ext.GRU(3, 4).forward, INPUTS),
    "GRUCell.forward": (gru_ext.GRUCell(3, 4).forward, {"input": zeros(2, 3)}),
    "QuantizedGRU.forward": (QUANTIZED.forward, INPUTS),
    "gru": (functional.gru, {**INPUTS, "hx": None, "weights": WEIGHTS}),
    "gru_cell": (functional.gru_cell, {"input": zeros(2, 3), "hx": None, **CELL_INPUTS}),
    "kernels": (gru_ext.kernels, {"steps": 1, "batch": 1, "hidden_size": 1, "dtype": torch.float32, "device": "cpu"}),
    "replace_gru": (gru_ext.replace_gru, {"model": nn.GRU(3, 4)}),
    "to_torch": (gru_ext.to_torch, {"model": gru_ext.GRU(3, 4)}),
    "quantize_dynamic": (gru_ext.quantize_dynamic, {"module": nn.GRU(3, 4)}),
    "from_torch": (gru_ext.GRU.from_torch, {"module": nn.GRU(3, 4)}),
    "from_float": (gru_ext.QuantizedGRU.from_float, {"module": nn.GRU(3, 4)}),
    "to_haste": (convert.to_haste, {"gru": nn.GRU(3, 4)}),
    "from_haste": (convert.from_haste, {"weights": convert.to_haste(nn.GRU(3, 4))}),
    "to_keras_weights": (convert.to_keras_weights, {"gru": nn.GRU(3, 4)}),
    "from_keras_weights": (convert.from_keras_weights, {"weights": convert.to_keras_weights(nn.GRU(3, 4))}),
    "to_onnx_weights": (convert.to_onnx_weights, {"gru": nn.GRU(3, 4)}),
    "Reversed": (convert.Reversed, {"gru": gru_ext.GRU(3, 4), "restore_order": True}),
}


@pytest.mark.parametrize("name", GOOD_CALLS)
def test_what_an_argument_cannot_be_is_named(name: str) -> None:
    call, good = GOOD_CALLS[name]
    call(**good)
    for argument in inspect.signature(call).parameters:
        if argument in ("device", "dtype"):  # torch's own
            continue
        for value in NOWHERE:
            if isinstance(value, nn.Linear) and argument in ("model", "module") and name in ALL_MODELS:
                continue
            with pytest.raises((TypeError, ValueError, RuntimeError), match=r"expected (?s:.)*, got") as caught:
                call(**{**good, argument: value})
            named = argument.removesuffix("s")  # of weights, one by its own name
            assert re.search(rf"{named}|weight|gain|bias", str(caught.value)), (argument, value, str(caught.value))


ALL_MODELS = ("replace_gru", "to_torch", "quantize_dynamic")
