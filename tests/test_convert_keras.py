"""Conversion from and to Keras: its published equations in NumPy always, the package itself where it is installed."""

from __future__ import annotations

import copy
import re
import sys
from typing import Any

import numpy
import pytest
import torch
from compare import assert_accurate, assert_near, assert_same_bits, assert_same_state
from refusals import refused
from torch import Tensor, nn

import gru_ext
from gru_ext import convert

FLOAT64 = torch.float64
STEPS, BATCH, INPUT, HIDDEN = 5, 2, 3, 4


def keras_arrays(
    inputs: int = INPUT, hidden: int = HIDDEN, use_bias: bool = True, reset_after: bool = True
) -> list[Any]:
    """Random weights of one direction in the shapes that Keras documents."""
    kernel, recurrent = numpy.random.randn(inputs, 3 * hidden), numpy.random.randn(hidden, 3 * hidden)
    bias = numpy.random.randn(*((2, 3 * hidden) if reset_after else (3 * hidden,)))
    return [kernel, recurrent, bias] if use_bias else [kernel, recurrent]


def keras_gru(x: Any, arrays: list[Any], reset_after: bool = True, go_backwards: bool = False) -> Any:
    """What Keras documents of its GRU: x (B, T, I) to every state (B, T, H), in the order of processing."""
    kernel, recurrent, *rest = arrays
    hidden = recurrent.shape[0]
    bias = rest[0] if rest else numpy.zeros((2, 3 * hidden) if reset_after else 3 * hidden)
    input_bias, recurrent_bias = bias if reset_after else (bias, numpy.zeros(3 * hidden))

    def sigmoid(a: Any) -> Any:
        return 1 / (1 + numpy.exp(-a))

    h = numpy.zeros((x.shape[0], hidden))
    outputs = []
    for t in reversed(range(x.shape[1])) if go_backwards else range(x.shape[1]):
        x_z, x_r, x_h = numpy.split(x[:, t] @ kernel + input_bias, 3, axis=1)
        h_z, h_r, h_h = numpy.split(h @ recurrent + recurrent_bias, 3, axis=1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        inner = r * h_h if reset_after else (r * h) @ recurrent[:, 2 * hidden :]
        h = z * h + (1 - z) * numpy.tanh(x_h + inner)
        outputs.append(h)
    return numpy.stack(outputs, axis=1)


@pytest.fixture(autouse=True)
def _numpy_seed() -> None:
    numpy.random.seed(0)


@pytest.fixture
def keras() -> Any:
    return pytest.importorskip("keras", reason="Keras is not installed (the convert extra)")


# ---- Arrays alone


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("reset_after", [False, True])
def test_weights_give_what_the_equations_give(reset_after: bool, use_bias: bool, go_backwards: bool) -> None:
    arrays = keras_arrays(use_bias=use_bias, reset_after=reset_after)
    gru = convert.from_keras_weights(arrays, use_bias=use_bias, reset_after=reset_after, go_backwards=go_backwards)
    x = torch.randn(BATCH, STEPS, INPUT, dtype=FLOAT64)
    expected = torch.from_numpy(keras_gru(x.numpy(), arrays, reset_after, go_backwards))
    assert_near(gru(x), (expected, expected[None, :, -1]))


@pytest.mark.parametrize("reset_after", [False, True])
def test_a_stack_in_both_directions_gives_what_the_equations_give(reset_after: bool) -> None:
    layers = [keras_arrays(inputs, reset_after=reset_after) for inputs in (INPUT, INPUT, 2 * HIDDEN, 2 * HIDDEN)]
    x = torch.randn(BATCH, STEPS, INPUT, dtype=FLOAT64)
    expected = x.numpy()
    for forward, backward in (layers[:2], layers[2:]):
        turned = keras_gru(expected, backward, reset_after, go_backwards=True)[:, ::-1]
        expected = numpy.concatenate([keras_gru(expected, forward, reset_after), turned], axis=2)
    arrays = [array for direction in layers for array in direction]
    gru = convert.from_keras_weights(arrays, bidirectional=True, reset_after=reset_after)
    assert_near(gru(x)[0], torch.from_numpy(expected), "y")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("reset_after", [False, True])
def test_arrays_come_back_bit_for_bit(reset_after: bool, use_bias: bool, dtype: str) -> None:
    arrays = [a.astype(dtype) for inputs in (3, 3, 10, 10) for a in keras_arrays(inputs, 5, use_bias, reset_after)]
    arrays[-1].flat[0] = -0.0
    gru = convert.from_keras_weights(arrays, use_bias=use_bias, reset_after=reset_after, bidirectional=True)
    back = convert.to_keras_weights(gru)
    assert_same_bits([*map(torch.from_numpy, back)], [*map(torch.from_numpy, arrays)])


@pytest.mark.parametrize("kind", [gru_ext.GRU, nn.GRU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arguments", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}], ids=str)
def test_a_module_comes_back_bit_for_bit(arguments: dict[str, Any], dtype: torch.dtype, kind: Any) -> None:
    if dtype == torch.bfloat16:
        pytest.importorskip("ml_dtypes", reason="NumPy has bfloat16 by this package only")
    gru = kind(INPUT, HIDDEN, **arguments, dtype=dtype)
    back = convert.from_keras_weights(convert.to_keras_weights(gru), use_bias=gru.bias, bidirectional=gru.bidirectional)
    assert_same_state(back, gru)


def test_both_biases_become_their_sum_where_keras_has_one() -> None:
    gru = gru_ext.GRU(INPUT, HIDDEN, reset_after=False, dtype=FLOAT64)
    kernel, recurrent, bias = convert.to_keras_weights(gru)
    assert bias.shape == (3 * HIDDEN,)
    x = torch.randn(BATCH, STEPS, INPUT, dtype=FLOAT64)
    expected = torch.from_numpy(keras_gru(x.numpy(), [kernel, recurrent, bias], reset_after=False))
    assert_near(gru(x.transpose(0, 1))[0].transpose(0, 1), expected, "y")


def test_weights_are_copied() -> None:
    arrays = keras_arrays()
    gru = convert.from_keras_weights(arrays)
    before = copy.deepcopy(gru)
    for array in (*arrays, *convert.to_keras_weights(gru)):
        array[:] = 0
    assert_same_state(gru, before)


KERNEL, RECURRENT, BIAS = keras_arrays()
WHOLE = [KERNEL, RECURRENT, BIAS]
THREE = "weights of 3 arrays for each of"
ONE_LAYER: dict[str, list[Any]] = {
    f"{THREE} D = 1 directions of each layer (use_bias = True), got 0": [],
    f"{THREE} D = 1 directions of each layer (use_bias = True), got 2": [KERNEL, RECURRENT],
    "kernel of layer 0 of shape (I, 3H) = (3, 12), got (3, 11)": [KERNEL[:, 1:], RECURRENT, BIAS],
    "recurrent_kernel of layer 0 of shape (H, 3H) = (3, 9), got": [KERNEL, RECURRENT[1:], BIAS],
    "kernel of layer 0 of shape (I, 3H) = (1, 12), got (12,)": [KERNEL[0], RECURRENT, BIAS],
    "recurrent_kernel of layer 0 of shape (H, 3H) = (4, 12), got": [KERNEL, RECURRENT[0], BIAS],
    "bias of layer 0 (reset_after = True) of shape (2, 3H) = (2, 12), got (12,)": [KERNEL, RECURRENT, BIAS[0]],
    "layer 1 with (I, H) = (4, 4), got (3, 4)": WHOLE * 2,
    "kernel of layer 0 of a floating dtype, got int64": [KERNEL.astype(int), RECURRENT, BIAS],
    "weights of one dtype, got torch.float32 and torch.float64": [KERNEL.astype("float32"), RECURRENT, BIAS],
}
WITH_ARGUMENTS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    f"{THREE} D = 2 directions of each": (WHOLE, {"bidirectional": True}),
    "bias of layer 0 (reset_after = False) of shape (3H) = (12,), got (2, 12)": (WHOLE, {"reset_after": False}),
    "go_backwards of a single layer in one direction only": (WHOLE * 2, {"bidirectional": True, "go_backwards": True}),
}
WRONG: dict[str, Any] = {text: (arrays, {}) for text, arrays in ONE_LAYER.items()} | WITH_ARGUMENTS


@pytest.mark.parametrize("text", WRONG)
def test_arrays_that_do_not_fit(text: str) -> None:
    arrays, arguments = WRONG[text]
    with pytest.raises(ValueError, match=f"^from_keras_weights: expected {re.escape(text)}"):
        convert.from_keras_weights(arrays, **arguments)


@pytest.mark.parametrize(
    ("module", "got"),
    [
        (nn.LSTM(3, 4), "LSTM"),
        (
            nn.utils.parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0"),
            "ParametrizedGRU; remove parametrizations, pruning and weight norm first, and convert before sharding",
        ),
    ],
)
def test_modules_that_do_not_convert(module: Any, got: str) -> None:
    with refused(TypeError, f"to_keras_weights: expected gru of type gru_ext.GRU or torch.nn.GRU, got {got}"):
        convert.to_keras_weights(module)


def test_without_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ImportError, match=r"^to_keras needs the package keras: pip install keras"):
        convert.to_keras(gru_ext.GRU(3, 4))
    with pytest.raises(ImportError, match=r"^from_keras needs the package keras: pip install keras"):
        convert.from_keras(None)


# ---- Reversed


@pytest.mark.parametrize("batch_first", [False, True])
def test_reversed_runs_from_the_last_step(batch_first: bool) -> None:
    gru = gru_ext.GRU(INPUT, HIDDEN, batch_first=batch_first, dtype=FLOAT64)
    both = gru_ext.GRU(INPUT, HIDDEN, batch_first=batch_first, bidirectional=True, dtype=FLOAT64)
    both.load_state_dict(
        {name + suffix: value for name, value in gru.state_dict().items() for suffix in ("", "_reverse")}
    )
    x, hx = torch.randn(BATCH, STEPS, INPUT, dtype=FLOAT64), torch.randn(1, BATCH, HIDDEN, dtype=FLOAT64)
    if not batch_first:
        x = x.transpose(0, 1)
    expected, h_n = both(x, hx.expand(2, -1, -1))
    for restore_order in (False, True):
        y, last = convert.Reversed(gru, restore_order)(x, hx)
        backward = expected[..., HIDDEN:]
        assert_near(y if restore_order else y.flip(1 if batch_first else 0), backward, "y")
        assert_near(last, h_n[1:], "h_n")
    unbatched = convert.Reversed(gru, True)(x[0], hx[:, 0])[0]
    assert unbatched.shape == (*x[0].shape[:-1], HIDDEN)


def test_reversed_refuses() -> None:
    with pytest.raises(ValueError, match="expected gru of one direction, got a bidirectional one"):
        convert.Reversed(gru_ext.GRU(3, 4, bidirectional=True), True)
    packed = nn.utils.rnn.pack_sequence([torch.randn(2, 3)])
    with pytest.raises(TypeError, match="expected input of type Tensor, got PackedSequence"):
        convert.Reversed(gru_ext.GRU(3, 4), True)(packed)


# ---- The package


def result(output: Any) -> Tensor:
    """What a Keras layer returned, as a tensor."""
    return output.detach() if isinstance(output, Tensor) else torch.from_numpy(numpy.array(output))


def assert_same_outputs(gru: Any, layer: Any) -> None:
    """Each within twice the error of the other against float64, plus the floor."""
    x = torch.randn(BATCH, 20, INPUT)
    ours, theirs = gru(x)[0].detach(), result(layer(x.numpy()))
    exact = gru.double()(x.double())[0].detach()
    assert_accurate(ours, theirs, exact, "ours")
    assert_accurate(theirs, ours, exact, "Keras's")


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("reset_after", [False, True])
def test_a_keras_layer_and_back(keras: Any, reset_after: bool, use_bias: bool, bidirectional: bool) -> None:
    layer = keras.layers.GRU(HIDDEN, reset_after=reset_after, use_bias=use_bias, return_sequences=True)
    if bidirectional:
        layer = keras.layers.Bidirectional(layer)
    layer.build((None, None, INPUT))
    for variable in layer.weights:
        variable.assign(numpy.random.randn(*variable.shape))
    gru = convert.from_keras(layer)
    assert isinstance(gru, gru_ext.GRU)
    assert gru.batch_first
    back = convert.to_keras(gru)
    assert type(back) is type(layer)
    for variable, expected in zip(back.weights, layer.weights, strict=True):
        assert_same_bits(result(variable.value), result(expected.value), expected.name)
    assert_same_outputs(gru, layer)


def test_a_layer_that_goes_backwards(keras: Any) -> None:
    layer = keras.layers.GRU(HIDDEN, go_backwards=True, return_sequences=True)
    layer.build((None, None, INPUT))
    gru = convert.from_keras(layer)
    assert isinstance(gru, convert.Reversed)
    back = convert.to_keras(gru)
    assert back.go_backwards
    assert_same_state(convert.from_keras(back), gru)
    assert_same_outputs(gru, layer)
    with pytest.raises(ValueError, match="expected Reversed with restore_order=False and one layer"):
        convert.to_keras(convert.Reversed(gru.gru, restore_order=True))


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_a_stack_of_layers(keras: Any, dropout: float) -> None:
    gru = gru_ext.GRU(INPUT, HIDDEN, 3, batch_first=True, bidirectional=True, dropout=dropout).eval()
    model = convert.to_keras(gru)
    assert type(model) is keras.Sequential
    assert len(model.layers) == (5 if dropout else 3)
    back = convert.from_keras(model)
    assert repr(back) == repr(gru)
    assert_same_state(back, gru)
    assert_same_outputs(gru, model)


def built(keras: Any, wrapper: str | None = None, **arguments: Any) -> Any:
    layer = keras.layers.GRU(4, name="layer", recurrent_initializer="zeros", **arguments)
    if wrapper is not None:
        backward = keras.layers.GRU(4, go_backwards=not layer.go_backwards)
        layer = keras.layers.Bidirectional(layer, merge_mode=wrapper, backward_layer=backward, name="layer")
    layer.build((2, None, 3))
    return layer


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"activation": "relu"}, "expected activation 'tanh' of layer, got 'relu'"),
        ({"recurrent_activation": "hard_sigmoid"}, "expected recurrent_activation 'sigmoid' of layer, got 'hard_"),
        ({"dropout": 0.5}, "expected dropout 0.0 of layer, got 0.5"),
        ({"recurrent_dropout": 0.5}, "expected recurrent_dropout 0.0 of layer, got 0.5"),
        ({"stateful": True}, "expected stateful False of layer, got True"),
        ({"wrapper": "sum"}, "expected merge_mode 'concat' of layer, got 'sum'"),
        ({"wrapper": "concat", "go_backwards": True}, "expected go_backwards False of the GRU in layer, got True"),
    ],
    ids=str,
)
def test_a_layer_with_another_recurrence_is_refused(keras: Any, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^from_keras: {re.escape(text)}"):
        convert.from_keras(built(keras, **arguments))


def test_other_layers_are_refused(keras: Any) -> None:
    with pytest.raises(ValueError, match=r"^from_keras: expected a built layer, got gru"):
        convert.from_keras(keras.layers.GRU(4))
    with pytest.raises(TypeError, match=r"expected layer of type keras.layers.GRU, .*, got LSTM$"):
        convert.from_keras(keras.layers.LSTM(4))
    with pytest.raises(TypeError, match=r"got GRU, Dense$"):
        convert.from_keras(keras.Sequential([keras.layers.GRU(4), keras.layers.Dense(4)]))
    with pytest.raises(TypeError, match=r"got an empty Sequential$"):
        convert.from_keras(keras.Sequential([]))
    with pytest.raises(ValueError, match=r"expected return_sequences of gru\w*, as a layer follows it, got False"):
        convert.from_keras(keras.Sequential([keras.layers.GRU(4), keras.layers.GRU(4)]))
    stack = [keras.layers.GRU(4, return_sequences=True, reset_after=reset_after) for reset_after in (False, True)]
    with pytest.raises(ValueError, match="expected one reset_after for all layers, got False and True"):
        convert.from_keras(keras.Sequential([keras.Input((None, 3)), *stack]))
    first, last = (keras.layers.GRU(4, return_sequences=True) for _ in range(2))
    with pytest.raises(ValueError, match="expected Dropout layers of one rate, one between each two GRUs"):
        convert.from_keras(keras.Sequential([keras.Input((None, 3)), first, last, keras.layers.Dropout(0.5)]))
