"""A call of a GRU, or of a cell, whose options are checked: checks the rest, and runs the layers.

``functional`` comes here with options that it has checked, a module with those that it keeps.

A plain call, of one layer without options, goes to the operator at once: with few rows, our checks take longer than the
operator. The operator checks everything too. Only if it refuses do we check, for the same error in the words of
``functional``.

Letters: T steps, B batch, I input, H hidden, L layers, D directions (1 or 2), N rows of all steps of a packed batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gru_ext import overlap
from gru_ext.autocast import autocast, dtype_of_results
from gru_ext.autograd import gru_layer, gru_operator
from gru_ext.blocks import blocks_layer, dense_layer
from gru_ext.int8 import fake_int8_layer
from gru_ext.layout import (
    FLOATING,
    Outputs,
    check_cell_rank,
    check_cell_sizes,
    check_sizes,
    check_tensor,
    is_dense,
    run_cell,
    run_layers,
)
from gru_ext.onnx_export import check_export, gru_padded
from gru_ext.recurrence import DEFAULTS, as_flag, check_blocks_of, check_dropout, check_size
from gru_ext.regularizers import drop_weights, masked_recurrence, recurrence_of
from gru_ext.segments import run_segments
from gru_ext.torch_internals import autocast_is_on, is_eager, jit_trace
from gru_ext.variant import PLAIN

_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "gain_ih", "gain_hh")


def call_gru(
    input: Tensor,
    hx: Tensor | None,
    weights: Iterable[Tensor | None],
    options: Mapping[str, Any],
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    dropout: float,
    training: bool,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | Sequence[int] | int | None = None,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
) -> Outputs:
    """``functional.gru``, with ``options`` as ``recurrence.check_options`` returns them."""
    failed = None  # what a plain call raised
    if (
        is_eager()
        and options is DEFAULTS
        and type(num_layers) is int
        and num_layers == 1
        and batch_first is False
        and type(bidirectional) is type(training) is bool
        and type(dropout) is float
        and dropout == 0
        and batch_sizes is lengths is resets is reset_state is None
        and type(input) is Tensor
        and input.dim() == 3
        and type(weights) is list
        and weights
        and weights[-1] is not None
        and not autocast_is_on()
    ):
        try:
            return gru_operator(input, hx, weights, None, bidirectional)
        except Exception as error:
            failed = error.with_traceback(None)  # which holds the frames of all callers, and they would hold it

    # ---- Checks
    if not (type(bidirectional) is type(batch_first) is type(training) is bool):
        bidirectional = as_flag("gru", "bidirectional", bidirectional)
        batch_first = as_flag("gru", "batch_first", batch_first)
        training = as_flag("gru", "training", training)
    if type(num_layers) is not int or num_layers < 1:
        num_layers = check_size("gru", "num_layers", num_layers)
    if type(dropout) is not float or dropout != 0:
        dropout = check_dropout("gru", "dropout", dropout)
    directions = 2 if bidirectional else 1
    all_directions = num_layers * directions
    weights = _present_weights(weights, all_directions, options["layer_norm"] is not False)
    check_tensor("gru", "input", input)
    if hx is not None:
        check_tensor("gru", "hx", hx)
    is_cut = lengths is not None or resets is not None
    if batch_sizes is not None:
        check_tensor("gru", "batch_sizes", batch_sizes)
        if is_cut:
            raise ValueError("gru: expected lengths and resets of padded input, got them with batch_sizes")
    result_dtype = None
    if autocast_is_on():
        result_dtype = dtype_of_results(input, hx)
        input, hx, reset_state, *weights = autocast(input, hx, reset_state, *weights)
    if jit_trace() is not None:
        check_export()
    _check_dtypes_and_devices("gru", input, hx, weights, ValueError)
    size, hidden = _columns("gru", weights[0], weights[1], options["blocks"])
    check_sizes(input, hx, size, hidden, all_directions, batch_first, batch_sizes)
    if failed is not None:
        try:
            raise failed
        finally:
            failed = None

    # ---- Layers
    recurrence = recurrence_of(options, training)
    if training and options["weight_dropout"] != 0:
        weights = drop_weights(weights, len(weights) // all_directions, options["weight_dropout"])
    outputs = options["outputs"]
    save_last, save_gates = outputs == "all", options["save"] == "gates"
    between, wavefront = None, None
    if num_layers > 1 and training and dropout > 0:
        between = partial(torch.nn.functional.dropout, p=dropout)
    if options["overlap_layers"] != 0:
        chunk = options["overlap_layers"]
        overlap.check_overlap("gru", chunk, num_layers, bidirectional, options["recurrent_dropout"])
        steps = input.shape[1 if batch_first and input.dim() == 3 else 0]
        if not is_cut and batch_sizes is None and steps > chunk:
            weights, wavefront = overlap.wavefront_of(input, weights, num_layers, chunk, between, save_last)
    # ONNX's GRU takes lengths as they are; the packed segments have no counterpart.
    padded = lengths if lengths is not None and resets is None and torch.onnx.is_in_onnx_export() else None
    layer_function = _layer_function(options)
    per_layer = len(weights) // num_layers

    def run(input: Tensor, hx: Tensor | None, batch_sizes: Tensor | None, batch: int | None = None) -> Outputs:
        def run_layer(layer: int, x: Tensor, hx: Tensor | None) -> Outputs:
            layer_weights = weights[layer * per_layer : (layer + 1) * per_layer]
            variant = recurrence
            if variant is None:
                variant = masked_recurrence(options, x, hx, batch_sizes, batch, directions, hidden)
            if padded is not None:
                return gru_padded(x, hx, layer_weights, padded, bidirectional, variant)
            save_y = save_last or layer + 1 < num_layers
            return layer_function(x, hx, layer_weights, batch_sizes, bidirectional, variant, save_y, save_gates)

        return run_layers(
            run_layer, input, hx, num_layers, directions, batch_first, batch_sizes, between, outputs, wavefront
        )

    if padded is not None or not (is_cut or reset_state is not None):
        y, h_n = run(input, hx, batch_sizes)
    else:
        y, h_n = run_segments(
            run, input, hx, all_directions, directions, hidden, batch_first, lengths, resets, reset_state, outputs
        )
    return (y, h_n) if result_dtype is None else (y.to(result_dtype), h_n.to(result_dtype))


def call_cell(
    input: Tensor, hx: Tensor | None, given: Sequence[Tensor | None], options: Mapping[str, Any], training: bool
) -> Tensor:
    """``functional.gru_cell``, with ``options`` as ``recurrence.check_options`` returns them.

    ``given`` are weight_ih, weight_hh, bias_ih and bias_hh, which may be None, and gain_ih and gain_hh, likewise or not
    there.
    """
    failed = None  # what a plain call raised
    if (
        is_eager()
        and type(training) is bool
        and recurrence_of(options, training) is PLAIN
        and not options["fake_int8"]
        and options["blocks"] == 1
        and type(input) is Tensor
        and input.dim() == 2
        and (hx is None or (type(hx) is Tensor and hx.dim() == 2))
        and len(given) == 4
        and (given[2] is None) is (given[3] is None)
        and not autocast_is_on()
    ):
        try:
            state = None if hx is None else hx.unsqueeze(0)
            present = given[:2] if given[2] is None else given
            h_n = gru_operator(input.unsqueeze(0), state, present, None, False)[1]
            return h_n.squeeze_(0)  # in place: the derivative has saved y, and not h_n
        except Exception as error:
            failed = error.with_traceback(None)  # which holds the frames of all callers, and they would hold it
    check_cell_rank(input, hx)
    has_biases = given[2] is not None
    if has_biases != (given[3] is not None):
        raise ValueError("gru_cell: expected both bias_ih and bias_hh or neither, got one")
    if type(training) is not bool:
        training = as_flag("gru_cell", "training", training)
    gains = sum(gain is not None for gain in given[4:])
    if gains != (0 if options["layer_norm"] is False else 2):
        raise ValueError(f"gru_cell: expected gain_ih and gain_hh with layer_norm and only then, got {gains} gains")
    weights: list[Tensor] = []
    for name, weight in zip(_CELL_WEIGHTS, given, strict=False):
        if is_dense(weight):
            weights.append(weight)
        elif weight is not None or name in ("weight_ih", "weight_hh"):
            check_tensor("gru_cell", name, weight)
    result_dtype = None
    if autocast_is_on():
        result_dtype = dtype_of_results(input, hx)
        input, hx, *weights = autocast(input, hx, *weights)
    if jit_trace() is not None:
        check_export()
    _check_dtypes_and_devices("gru_cell", input, hx, weights, RuntimeError)
    size, hidden = _columns("gru_cell", weights[0], weights[1], options["blocks"])
    check_cell_sizes(input, hx, size, hidden)
    if failed is not None and hidden > 0:
        try:
            raise failed
        finally:
            failed = None

    def run_layer(x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        if hidden == 0:  # no units, so nothing to compute: by torch.nn's own operator
            state = x.new_zeros((x.shape[1], 0)) if h is None else h[0]
            h_n = torch.stack([torch.gru_cell(x[0], state, *weights[: 4 if has_biases else 2])])
            return h_n, h_n
        variant = recurrence_of(options, training)
        if variant is None:
            variant = masked_recurrence(options, x, h, None, None, 1, hidden)
        return _layer_function(options)(x, h, weights, None, False, variant)

    h = run_cell(run_layer, input, hx)
    return h if result_dtype is None else h.to(result_dtype)


def _layer_function(options: Mapping[str, Any]) -> Callable[..., Outputs]:
    """What runs a layer: arguments and results as of ``gru_layer``."""
    if options["blocks"] != 1:
        of_layer = options["layer_norm"] is not False and options["norm_over"] == "layer"
        function = fake_int8_layer if options["fake_int8"] else dense_layer if of_layer else blocks_layer
        return partial(function, blocks=options["blocks"])
    return fake_int8_layer if options["fake_int8"] else gru_layer


def _present_weights(weights: Iterable[Tensor | None], directions: int, normalized: bool) -> Sequence[Tensor]:
    """The weights of L*D directions without the biases that are None.

    Raises:
        TypeError: they are no sequence of dense tensors, or some biases are None and others not.
        RuntimeError: their number is wrong.
    """
    if type(weights) is not list and (isinstance(weights, Tensor) or not isinstance(weights, Iterable)):
        raise TypeError(f"gru: expected weights to be a sequence of tensors, got {type(weights).__name__}")
    given = list(weights)
    per_direction = len(given) / directions
    # With layer_norm, of two vectors alone nothing would say whether they are biases or gains.
    if per_direction != 6 if normalized else per_direction not in (2, 4):
        expected = (
            f"{6 * directions} weights, with gains and with biases that may be None, for L*D = {directions} with"
            " layer_norm"
            if normalized
            else f"{2 * directions} weights, or {4 * directions} with biases, for L*D = {directions}"
        )
        raise RuntimeError(f"gru: expected {expected}, got {len(given)}")
    present: list[Tensor] = []
    for i, weight in enumerate(given):
        if is_dense(weight):
            present.append(weight)
        elif weight is not None:
            check_tensor("gru", f"weights[{i}]", weight)
    if len(present) < len(given):
        absent = [i % int(per_direction) for i, weight in enumerate(given) if weight is None]
        if absent != [2, 3] * directions:
            raise TypeError("gru: expected all biases of all directions to be tensors, or all None, got some of each")
    return present


def _columns(op: str, weight_ih: Tensor, weight_hh: Tensor, blocks: int) -> tuple[int, int]:
    """I and H; the operators check the rest of the shapes."""
    of_input, of_state = weight_ih.shape, weight_hh.shape
    if not of_input:
        raise RuntimeError(f"{op}: expected weight_ih of shape (3H, I), got ()")
    if not of_state:
        raise RuntimeError(f"{op}: expected weight_hh of shape (3H, H), got ()")
    if blocks != 1:
        hidden = of_state[0] // 3
        check_blocks_of(op, hidden, blocks)
        shape = (3 * hidden, hidden // blocks)
        if of_state != shape:
            raise RuntimeError(
                f"{op}: expected weight_hh of shape (3H, H / blocks) = {shape} with blocks={blocks},"
                f" got {tuple(of_state)}"
            )
    return of_input[-1], of_state[-1] * blocks


def _check_dtypes_and_devices(
    op: str, input: Tensor, hx: Tensor | None, weights: Sequence[Tensor], wrong_dtype: type[Exception]
) -> None:
    """``wrong_dtype`` is what torch's own function raises where the dtype of the input is not that of the weights."""
    dtype, device = weights[0].dtype, weights[0].device
    if dtype not in FLOATING:
        raise ValueError(f"{op}: expected weights of dtype float32, float64, bfloat16 or float16, got {dtype}")
    if input.dtype != dtype:
        raise wrong_dtype(f"{op}: expected input of dtype {dtype}, as the weights have, got {input.dtype}")
    if input.device != device:
        raise RuntimeError(f"{op}: expected input on the device of the weights, {device}, got {input.device}")
    for weight in weights:
        if weight.dtype != dtype or weight.device != device:
            raise RuntimeError(
                f"{op}: expected all weights of one dtype and device, {dtype} on {device},"
                f" got {weight.dtype} on {weight.device}"
            )
    if hx is not None and hx.dtype != dtype:
        raise RuntimeError(f"{op}: expected hx of the dtype of input, {dtype}, got {hx.dtype}")
    if hx is not None and hx.device != device:
        raise RuntimeError(f"{op}: expected hx on the device of input, {device}, got {hx.device}")
