"""Wrong arguments of modules and functions: the exception types of torch.nn, and the exact text of ours."""

from __future__ import annotations

import gc
import inspect
import re
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from cases import WEIGHT_KINDS, pair_of_grus
from compare import assert_near
from refusals import refused
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch_version import TORCH

import gru_ext
from gru_ext import convert, functional


def zeros(*shape: int, dtype: torch.dtype | None = None, device: str | None = None) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


class Bad(NamedTuple):
    """A call that must fail, of the modules of ``torch.nn`` or of ``gru_ext``, and how ours fails."""

    error: type[Exception]
    text: str
    call: Callable[[Any], object]
    torch_since: tuple[int, int] = (0, 0)  # an older torch.nn takes it, or leaves it to torch.empty

    def __str__(self) -> str:
        return self.text


def made(error: type[Exception], text: str, since: tuple[int, int] = (0, 0), **arguments: Any) -> Bad:
    """A GRU that cannot be made."""
    given = {"input_size": 3, "hidden_size": 4, **arguments}
    return Bad(error, f"GRU: expected {text}", lambda n: n.GRU(**given), since)


def cell_made(error: type[Exception], text: str, **arguments: Any) -> Bad:
    """A GRUCell that cannot be made."""
    given = {"input_size": 3, "hidden_size": 4, **arguments}
    return Bad(error, f"GRUCell: expected {text}", lambda n: n.GRUCell(**given))


def run(error: type[Exception], text: str, *inputs: Any, **arguments: Any) -> Bad:
    """A GRU with I = 3, H = 4 that cannot run."""
    return Bad(error, f"gru: expected {text}", lambda n: n.GRU(3, 4, **arguments)(*inputs))


def cell_run(error: type[Exception], text: str, *inputs: Any) -> Bad:
    """A GRUCell with I = 3, H = 4 that cannot run."""
    return Bad(error, f"gru_cell: expected {text}", lambda n: n.GRUCell(3, 4)(*inputs))


def packed(features: int, dtype: torch.dtype | None = None, sort: bool = True) -> PackedSequence:
    """Two sequences, of 4 and 2 steps."""
    sequences = [zeros(4, features, dtype=dtype), zeros(2, features, dtype=dtype)]
    return pack_sequence(sequences if sort else sequences[::-1], enforce_sorted=sort)


SIZES = [
    made(error, f"{name} {text}", (2, 11) if name == "input_size" and error is ValueError else (0, 0), **{name: value})
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
    cell_made(TypeError, f"{name} of type int, got {type(value).__name__}", **{name: value})
    for name in ("input_size", "hidden_size")
    for value in (2.0, None)
]
FLAGS = [
    made(TypeError, f"{name} of type bool, got {type(value).__name__}", (2, 11), **{name: value})
    for name in ("bias", "batch_first")
    for value in (0, 1, None, "True")
]
DROPOUTS = [
    made(error, f"dropout to be a number in [0, 1], got {value!r}", dropout=value)
    for error, values in ((ValueError, (-0.1, 1.1, "x", "0.5", True, torch.nan)), (TypeError, (None, 1j)))
    for value in values
]
TWO_BY_TWO: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
BATCH_FIRST: dict[str, Any] = {"batch_first": True}
WRONG_STATES = ((4, 2, 4), (2, 3, 4), (4, 3, 5), (3, 4, 4), (4, 4), (1, 4, 3, 4), (4,))
SHAPES = [
    *(
        run(ValueError, f"input of shape (T, B, I) or, unbatched, (T, I), got {shape}", zeros(*shape))
        for shape in ((), (3,))
    ),
    run(
        ValueError, "input of shape (B, T, I) or, unbatched, (T, I), got (2, 2, 2, 3)", zeros(2, 2, 2, 3), **BATCH_FIRST
    ),
    run(
        RuntimeError,
        "packed input of shape (N, I), got (2, 3, 3)",
        PackedSequence(zeros(2, 3, 3), torch.tensor([1, 1])),
    ),
    run(RuntimeError, "input of shape (T, B, I) with I = 3, got (5, 2, 7)", zeros(5, 2, 7)),
    run(RuntimeError, "input of shape (B, T, I) with I = 3, got (2, 5, 7)", zeros(2, 5, 7), **BATCH_FIRST),
    run(RuntimeError, "input of shape (T, I) with I = 3, got (5, 7)", zeros(5, 7)),
    run(RuntimeError, "input of shape (N, I) with I = 3, got (6, 7)", packed(7)),
    *(
        run(RuntimeError, f"input with T >= 1 steps, got {shape}", zeros(*shape), **options)
        for shape, options in (((0, 2, 3), {}), ((0, 3), {}), ((2, 0, 3), BATCH_FIRST))
    ),
    *(
        run(RuntimeError, f"hx of shape {expected}, got {shape}", given, zeros(*shape), **options)
        for expected, given, options, shapes in (
            ("(L*D, B, H) = (4, 3, 4)", zeros(5, 3, 3), TWO_BY_TWO, WRONG_STATES),
            ("(L*D, B, H) = (1, 2, 4)", zeros(2, 5, 3), BATCH_FIRST, ((2, 1, 4),)),
            ("(L*D, H) = (1, 4)", zeros(5, 3), {}, ((1, 1, 4), (1, 5), (2, 4), (4,))),
            *(
                ("(L*D, B, H) = (1, 2, 4)", packed(3, sort=sort), {}, ((1, 1, 4), (1, 4), (2, 2, 4)))
                for sort in (True, False)
            ),
        )
        for shape in shapes
    ),
]
CELL_SHAPES = [
    *(cell_run(ValueError, f"input of shape (B, I) or (I), got {shape}", zeros(*shape)) for shape in ((), (1, 2, 3))),
    *(
        cell_run(RuntimeError, f"input of shape {letters} with I = 3, got {shape}", zeros(*shape))
        for letters, shape in (("(B, I)", (2, 5)), ("(I)", (5,)))
    ),
    *(
        cell_run(error, f"hx of shape {expected}, got {shape}", given, zeros(*shape))
        for error, expected, given, shapes in (
            (RuntimeError, "(B, H) = (2, 4)", zeros(2, 3), ((3, 4), (2, 5), (4,))),
            (RuntimeError, "(H) = (4,)", zeros(3), ((5,), (1, 4))),
            (ValueError, "(B, H) or (H)", zeros(2, 3), ((), (1, 2, 4))),
        )
        for shape in shapes
    ),
]
NOT_FLOAT32 = (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64)
OF_WEIGHTS, OF_INPUT = "of dtype torch.float32, as the weights have, got", "of the dtype of input, torch.float32, got"
DTYPES = [
    *(run(ValueError, f"input {OF_WEIGHTS} {dtype}", zeros(5, 2, 3, dtype=dtype)) for dtype in NOT_FLOAT32),
    run(ValueError, f"input {OF_WEIGHTS} torch.float64", packed(3, torch.float64)),
    *(
        run(RuntimeError, f"hx {OF_INPUT} {dtype}", zeros(5, 2, 3), zeros(1, 2, 4, dtype=dtype))
        for dtype in NOT_FLOAT32
    ),
    *(cell_run(RuntimeError, f"input {OF_WEIGHTS} {dtype}", zeros(2, 3, dtype=dtype)) for dtype in NOT_FLOAT32),
    cell_run(RuntimeError, f"hx {OF_INPUT} torch.float64", zeros(2, 3), zeros(2, 4, dtype=torch.float64)),
]
ON_META: dict[str, Any] = {"device": "meta"}
DEVICES = [
    run(RuntimeError, "input on the device of the weights, cpu, got meta", zeros(5, 2, 3, **ON_META)),
    run(RuntimeError, "input on the device of the weights, meta, got cpu", zeros(5, 2, 3), **ON_META),
    run(RuntimeError, "hx on the device of input, cpu, got meta", zeros(5, 2, 3), zeros(1, 2, 4, **ON_META)),
    cell_run(RuntimeError, "input on the device of the weights, cpu, got meta", zeros(2, 3, **ON_META)),
    cell_run(RuntimeError, "hx on the device of input, cpu, got meta", zeros(2, 3), zeros(2, 4, **ON_META)),
]
# torch.nn takes these.
STRICTER = [
    made(TypeError, "bidirectional of type bool, got NoneType", bidirectional=None),
    made(TypeError, "bidirectional of type bool, got str", bidirectional="no"),
    cell_made(TypeError, "bias of type bool, got NoneType", bias=None),
    cell_made(TypeError, "bias of type bool, got str", bias="relu"),
    # nn.GRU drops the state of the third sequence.
    run(RuntimeError, "hx of shape (L*D, B, H) = (1, 2, 4), got (1, 3, 4)", packed(3, sort=False), zeros(1, 3, 4)),
]


def raised_by(call: Callable[[Any], object], namespace: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  which one it is, the caller checks
        call(namespace)
    assert isinstance(caught.value, Exception)
    return caught.value


@pytest.mark.parametrize(
    "bad", [*SIZES, *CELL_SIZES, *FLAGS, *DROPOUTS, *SHAPES, *CELL_SHAPES, *DTYPES, *DEVICES], ids=str
)
def test_the_type_of_torch_nn_and_our_text(bad: Bad) -> None:
    if bad.torch_since <= TORCH:
        assert type(raised_by(bad.call, nn)) is bad.error
    with refused(bad.error, bad.text):
        bad.call(gru_ext)


@pytest.mark.parametrize("bad", STRICTER, ids=str)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # torch's own, of size 0
def test_what_torch_nn_accepts_and_we_do_not(bad: Bad) -> None:
    bad.call(nn)
    with refused(bad.error, bad.text):
        bad.call(gru_ext)


@pytest.mark.parametrize("name", ["input_size", "hidden_size"])
def test_a_negative_size_of_a_cell_is_the_value_error_of_nn_gru(name: str) -> None:
    sizes: dict[str, Any] = {"input_size": 3, "hidden_size": 4, name: -2}
    # nn.GRUCell leaves it to torch.empty, as does an older nn.GRU.
    for module in (gru_ext.GRUCell, nn.GRU) if TORCH >= (2, 11) else (gru_ext.GRUCell,):
        with pytest.raises(ValueError, match=name):
            module(**sizes)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_a_module_of_integers_cannot_be_made(dtype: torch.dtype) -> None:
    text = "Only Tensors of floating point and complex dtype can require gradients"
    for module in (gru_ext.GRU, nn.GRU, gru_ext.GRUCell, nn.GRUCell):
        with pytest.raises(RuntimeError, match=text):
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
        if value is not None or name == "input":
            with refused(TypeError, f"{op}: expected {name} to be {text}"):
                module(*arguments)


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
    shapes = ((12, 3), (12, 4), (12,), (12,))
    return [zeros(*shape, dtype=dtypes.get(name)) for name, shape in zip(WEIGHT_KINDS, shapes, strict=True)]


def replaced(index: int, tensor: Tensor) -> list[Tensor]:
    """The weights with one of them another."""
    return [tensor if i == index else weight for i, weight in enumerate(weights())]


ONE_KIND = "expected all weights of one dtype and device, torch.float32 on cpu, got"
WRONG_WEIGHTS: list[tuple[str, list[Tensor], dict[str, Any]]] = [
    *(
        (f"expected 2 weights, or 4 with biases, for L*D = 1, got {count}", [*weights(), *weights()][:count], {})
        for count in (0, 3, 8)
    ),
    ("expected 8 weights, or 16 with biases, for L*D = 4, got 4", weights(), TWO_BY_TWO),
    ("expected weight_ih of shape (3H, I) = (12, 3), got (11, 3)", replaced(0, zeros(11, 3)), {}),
    ("expected weight_hh of shape (3H, H) = (12, 4), got (11, 4)", replaced(1, zeros(11, 4)), {}),
    ("expected bias_ih of shape (3H) = (12), got (4)", replaced(2, zeros(4)), {}),
    ("expected bias_hh of shape (3H) = (12), got (12, 1)", replaced(3, zeros(12, 1)), {}),
    *(
        (f"{ONE_KIND} torch.float64 on cpu", weights(**{name: torch.float64}), {})
        for name in ("weight_hh", "bias_ih", "bias_hh")
    ),
    (f"{ONE_KIND} torch.float32 on meta", replaced(3, zeros(12, device="meta")), {}),
]


@pytest.mark.parametrize(("text", "given", "options"), WRONG_WEIGHTS, ids=lambda v: v if isinstance(v, str) else "")
def test_functional_gru_checks_the_weights(text: str, given: list[Tensor], options: dict[str, Any]) -> None:
    with refused(RuntimeError, f"gru: {text}"):
        functional.gru(zeros(5, 2, 3), None, given, **options)


@pytest.mark.parametrize("index", [2, 3])
def test_functional_gru_cell_wants_both_biases_or_neither(index: int) -> None:
    given: list[Tensor | None] = [*weights()]
    given[index] = None
    with refused(ValueError, "gru_cell: expected both bias_ih and bias_hh or neither, got one"):
        functional.gru_cell(zeros(2, 3), None, *given)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [*SHAPES, *DTYPES], ids=str)
def test_a_good_call_after_a_bad_one_works(bad: Bad) -> None:
    raised_by(bad.call, gru_ext)
    module, peer = pair_of_grus(3, 4)
    x = torch.randn(5, 2, 3)
    assert_near(module(x)[0], peer(x)[0], "y", 1e-6)


def test_functional_gru_checks_the_number_of_layers() -> None:
    with refused(ValueError, "gru: expected num_layers of at least 1, got 0"):
        functional.gru(zeros(5, 2, 3), None, [], num_layers=0)


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
CELL_INPUTS = dict(zip(WEIGHT_KINDS, weights(), strict=True))
QUANTIZED = gru_ext.quantize_dynamic(nn.GRU(3, 4))
GOOD_CALLS: dict[str, tuple[Callable[..., object], dict[str, Any]]] = {
    "GRU": (gru_ext.GRU, {"input_size": 3, "hidden_size": 4}),
    "GRUCell": (gru_ext.GRUCell, {"input_size": 3, "hidden_size": 4}),
    "QuantizedGRU": (gru_ext.QuantizedGRU, {"input_size": 3, "hidden_size": 4}),
    "QuantizedGRUCell": (gru_ext.QuantizedGRUCell, {"input_size": 3, "hidden_size": 4}),
    "GRU.forward": (gru_ext.GRU(3, 4).forward, INPUTS),
    "GRUCell.forward": (gru_ext.GRUCell(3, 4).forward, {"input": zeros(2, 3)}),
    "QuantizedGRU.forward": (QUANTIZED.forward, INPUTS),
    "gru": (functional.gru, {**INPUTS, "hx": None, "weights": weights()}),
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


@pytest.mark.parametrize(
    "call",
    [
        lambda: gru_ext.GRU(3, 4)(zeros(5, 2, 3), zeros(1, 2, 5)),
        lambda: gru_ext.GRU(3, 4)(zeros(5, 2, 6)),
        lambda: gru_ext.GRUCell(3, 4)(zeros(2, 3), zeros(2, 5)),
        lambda: functional.gru(zeros(5, 2, 3), None, [zeros(12, 3), zeros(12, 4), zeros(12), zeros(11)]),
        lambda: functional.gru_cell(zeros(2, 3), None, zeros(12, 3), zeros(12, 4), zeros(12), zeros(11)),
    ],
)
def test_a_failed_call_holds_nothing_of_its_caller(call: Callable[[], object]) -> None:
    """Which could be most of a GPU's memory, where it was that which ran out."""
    held: list[weakref.ref[Tensor]] = []

    def caller() -> None:
        large = zeros(100)
        held.append(weakref.ref(large))
        call()

    gc.disable()
    try:
        with pytest.raises((RuntimeError, ValueError)) as caught:
            caller()
        del caught
        assert held[0]() is None
    finally:
        gc.enable()


def test_a_state_dict_with_something_else_is_refused_in_the_words_of_torch() -> None:
    state = {**gru_ext.GRU(3, 4).state_dict(), "weight_hh_l0": [1]}
    with pytest.raises(RuntimeError, match="Tensor-like object from checkpoint but received"):
        gru_ext.GRU(3, 4).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch for weight_hh_l0") as caught:
        gru_ext.GRU(3, 4).load_state_dict(gru_ext.GRU(3, 5).state_dict())
    assert "blocks" not in str(caught.value)
