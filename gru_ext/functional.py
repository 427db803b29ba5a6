"""The GRU as functions, for callers that hold their own weights.

Letters: T steps, B batch, I input, H hidden, L layers, D directions (1 or 2), N rows of all steps of a packed batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from gru_ext import overlap
from gru_ext.autocast import autocast, dtype_of_results
from gru_ext.autograd import gru_layer
from gru_ext.layout import (
    FLOATING,
    check_cell_rank,
    check_cell_sizes,
    check_rank,
    check_sizes,
    check_tensor,
    is_dense,
    run_cell,
    run_layers,
)
from gru_ext.onnx_export import check_export, gru_padded
from gru_ext.recurrence import (
    as_flag,
    check_dropout,
    check_outputs,
    check_overlap_steps,
    check_rate,
    check_save,
    check_size,
    normalizations,
)
from gru_ext.regularizers import Rates, drop_weights, regularize
from gru_ext.segments import run_segments
from gru_ext.torch_internals import autocast_is_on, jit_trace
from gru_ext.variant import PLAIN, Variant

__all__ = ["gru", "gru_cell"]

# What arguments are compared with by identity, which costs least, and is safe where a tensor came: their defaults.
_ALL, _GATES, _NONE = "all", "gates", 0
# The names of a cell's weights, by whether it has gains, and then biases.
_CELL_WEIGHTS = (
    (("weight_ih", "weight_hh"), ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
    (
        ("weight_ih", "weight_hh", "gain_ih", "gain_hh"),
        ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "gain_ih", "gain_hh"),
    ),
)
_NO_RATES = Rates()
_RESET_BEFORE = Variant(reset_after=False)
_LAYER_NORM = {1: Variant(layer_norm=1), 2: Variant(layer_norm=2)}


def gru(
    input: Tensor,
    hx: Tensor | None,
    weights: Iterable[Tensor | None],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | Sequence[int] | int | None = None,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
    outputs: str = "all",
    save: str = "gates",
    overlap_layers: int = 0,
    zoneout: float = 0,
    recurrent_dropout: float = 0,
    candidate_dropout: float = 0,
    weight_dropout: float = 0,
    reset_after: bool = True,
    layer_norm: bool | str = False,
) -> tuple[Tensor, Tensor]:
    """Run a GRU of L layers over whole sequences.

    The recurrence is that of ``torch.nn.GRU`` (docs/equations.md). Differentiable in every mode: once or more,
    forward, under ``torch.func`` and ``torch.compile``. Under ``torch.autocast`` it computes in autocast's dtype and
    returns what ``torch.nn.GRU`` does: results in autocast's dtype on CUDA, in that of the initial state on a CPU
    (docs/tools.md). float64 is left as it is.

    Args:
        input: (T, B, I); (B, T, I) with ``batch_first``; (T, I) unbatched; or (N, I) with ``batch_sizes``. float32,
            float64, bfloat16 or float16; T at least 1, B may be 0. The halves compute and carry the state in float32.
        hx: (L*D, B, H) initial state, or (L*D, H) unbatched; None for zero.
        weights: for each layer, for each direction: weight_ih (3H, I or, after the first layer, D*H),
            weight_hh (3H, H) and, with biases, bias_ih (3H) and bias_hh (3H), both None or left out without. With
            ``layer_norm``, six: bias_ih and bias_hh, None without biases, then gain_ih (3H) and gain_hh (3H). Gate
            order is r, z, n.
        num_layers: L.
        bidirectional: D = 2; the second direction runs from the last step to the first.
        batch_first: the batch is the first dimension of input and output; no effect unbatched or packed.
        dropout: probability of zeroing an element of the output of each layer but the last, while ``training``.
        training: whether ``dropout`` and what drops or keeps units below applies.
        batch_sizes: (T) int64 on the CPU, not increasing: the rows of each step, where ``input`` is the data of a
            ``PackedSequence``. ``hx`` and ``h_n`` are then in the packed (sorted) order.
        lengths: (B) steps of each sequence of a padded batch: integers from 0 to T, in any order, on any device; one
            integer unbatched. Padding is not computed, whatever it holds: its output is zero, and h_n is the state
            after each sequence's own last step, or hx where it has none. On a GPU, lengths there are waited for.
        resets: (T, B) bool, or (B, T) with ``batch_first``, (T) unbatched, on any device: where set, the state is
            that of ``reset_state`` before the step, as if another sequence began with it; ``hx`` is then of no effect
            where the first step is set. The second direction runs over each part from its end. On a GPU, resets there
            are waited for.
        reset_state: (L*D, B, H), or (L*D, H) for all sequences alike: where a reset leaves the state; None for zero.
        outputs: "all", or "last": the output is only the last layer's state after each sequence's last step (after
            its first, for the second direction), that is ``h_n``'s last layer. The others are not kept in memory
            where no gradient needs them.
        save: what a gradient to come keeps of each layer besides its input: "gates", which are 4H values a step and row
            (3H without ``reset_after``, 9H + 16 with ``layer_norm``), and the output; or "output", the output alone, of
            which the backward computes the gates again. That costs as much as the forward's products, by large ones
            (docs/performance.md).
        overlap_layers: time steps of a chunk, or 0. On CUDA, with more than one layer of one direction, each layer then
            has a stream, and computes a chunk while the layer below computes the next (docs/cuda.md). A number, as
            the best one depends on the GPU and the sizes; none has been timed yet. Each chunk of a layer is a call of
            its own: launches of its own, the state rounded to the dtype after it, its gradients of the weights added to
            those of the others, its own random numbers for ``dropout``. Without effect, the layers run one after
            another: on a CPU; with ``batch_sizes``, ``lengths`` or ``resets``; with T up to ``overlap_layers``;
            under ``torch.compile``, export, ``torch.func`` and forward-mode differentiation.
        zoneout: probability that a unit keeps its state in a step, while ``training``; else every unit keeps this part
            of it (Krueger et al. 2017, https://arxiv.org/abs/1606.01305).
        recurrent_dropout: probability that a unit of the state does not enter the recurrent product, for all steps of a
            sequence alike, while ``training`` (Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287). The others
            are divided by ``1 - recurrent_dropout``, here and below. A reset begins another sequence.
        candidate_dropout: probability that a unit's candidate n does not enter the state in a step, while ``training``
            (Semeniuta et al. 2016, https://arxiv.org/abs/1603.05118).
        weight_dropout: probability that an element of weight_hh is zero for all of this call, while ``training``
            (DropConnect: Wan et al. 2013; Merity et al. 2018, https://arxiv.org/abs/1708.02182).
        reset_after: whether the reset gate is applied after the recurrent product of the candidate, as in
            ``torch.nn.GRU``; False: before it, n = tanh(W_n x + b_in + R_n (r * h) + b_hn), as in Cho et al. 2014
            (https://arxiv.org/abs/1406.1078), section 2.3 (docs/variants.md).
        layer_norm: whether W x and R h are normalised over units at every step, each with a gain, and the biases as
            shifts (Ba, Kiros, Hinton 2016, https://arxiv.org/abs/1607.06450, supplement): True, r and z together and n
            by itself, as there; "joint", all three together, as in haste's LayerNormGRU.

    The masks follow ``torch.manual_seed``, and on a CPU do not depend on the number of threads. Equations:
    docs/variants.md.

    Returns:
        The output, (T, B, D*H) or laid out as the input was, or with ``outputs="last"`` (B, D*H), unbatched (D*H); and
        h_n (L*D, B, H), or (L*D, H) unbatched.

    Raises:
        TypeError: ``input``, ``hx``, ``batch_sizes``, ``resets``, ``reset_state`` or a weight is no dense tensor,
            ``weights`` no sequence, or some biases are None and others not; ``lengths`` are not what a tensor can be
            made of; a flag is no bool, ``num_layers`` or ``overlap_layers`` no int; ``dropout`` is None or complex.
        ValueError: ``input`` that is not packed has a wrong rank, or has not the dtype of the weights, or that is none
            of the four; ``num_layers`` is below 1, ``dropout`` not a number in [0, 1], another probability not one in
            [0, 1), ``outputs``, ``save`` or ``layer_norm`` another value; ``lengths`` or ``resets`` come with
            ``batch_sizes``, ``reset_state`` without ``resets``, or ``layer_norm`` with ``reset_after=False``;
            ``overlap_layers`` is below 0, or above with ``num_layers`` 1, ``bidirectional`` or ``recurrent_dropout``.
        RuntimeError: the number of weights, a size, a shape, a device, one of the lengths or batch sizes, or the dtype
            of a tensor but ``input`` is wrong, packed ``input`` has a wrong rank, or T is 0.
        NotImplementedError: ``lengths`` or ``resets`` differ between the samples of ``torch.vmap``.
    """
    if outputs is not _ALL:
        check_outputs("gru", "outputs", outputs)
    if save is not _GATES:
        check_save("gru", "save", save)
    if batch_sizes is not None and (lengths is not None or resets is not None):
        raise ValueError("gru: expected lengths and resets of padded input, got them with batch_sizes")
    if not (type(bidirectional) is type(batch_first) is type(training) is type(reset_after) is bool):
        bidirectional = as_flag("gru", "bidirectional", bidirectional)
        batch_first = as_flag("gru", "batch_first", batch_first)
        training = as_flag("gru", "training", training)
        reset_after = as_flag("gru", "reset_after", reset_after)
    if type(num_layers) is not int or num_layers < 1:
        num_layers = check_size("gru", "num_layers", num_layers)
    if type(dropout) is not float or dropout != 0:
        dropout = check_dropout("gru", "dropout", dropout)
    regularized = not (zoneout is recurrent_dropout is candidate_dropout is weight_dropout is _NONE)
    if regularized:
        zoneout = check_rate("gru", "zoneout", zoneout)
        recurrent_dropout = check_rate("gru", "recurrent_dropout", recurrent_dropout)
        candidate_dropout = check_rate("gru", "candidate_dropout", candidate_dropout)
        weight_dropout = check_rate("gru", "weight_dropout", weight_dropout)
    if overlap_layers is not _NONE:
        check_overlap_steps("gru", "overlap_layers", overlap_layers)
    directions = 2 if bidirectional else 1
    layers = num_layers * directions
    norms = 0 if layer_norm is False else normalizations("gru", layer_norm, reset_after)
    weights = _present_weights(weights, layers, norms > 0)
    check_tensor("gru", "input", input)
    if hx is not None:
        check_tensor("gru", "hx", hx)
    if batch_sizes is not None:
        check_tensor("gru", "batch_sizes", batch_sizes)
    result_dtype = None
    if autocast_is_on():
        result_dtype = dtype_of_results(input, hx)
        input, hx, reset_state, *weights = autocast(input, hx, reset_state, *weights)
    if jit_trace() is not None:
        check_export()
    check_rank(input, batch_first, batch_sizes)
    _check_dtypes_and_devices("gru", input, hx, weights, ValueError)
    size, hidden = _columns("gru", "weight_ih", weights[0]), _columns("gru", "weight_hh", weights[1])
    check_sizes(input, hx, size, hidden, layers, batch_first, batch_sizes)
    per_layer = len(weights) // num_layers
    rates = _NO_RATES
    if regularized:
        rates = Rates(zoneout, recurrent_dropout, candidate_dropout, weight_dropout)
        weights = drop_weights(weights, per_layer // directions, weight_dropout, training)
    recurrence = _LAYER_NORM[norms] if norms else PLAIN if reset_after else _RESET_BEFORE

    drops = num_layers > 1 and training and dropout > 0
    between = partial(torch.nn.functional.dropout, p=dropout) if drops else None

    wavefront = None
    if overlap_layers != 0:
        overlap.check_overlap("gru", overlap_layers, num_layers, bidirectional, recurrent_dropout)
        steps = input.shape[1 if batch_first and input.dim() == 3 else 0]
        if batch_sizes is None and lengths is None and resets is None and steps > overlap_layers:
            streams = overlap.streams_for(input, num_layers)
            if streams is not None:
                weights = overlap.lend_weights(streams, weights, num_layers)
                wavefront = partial(
                    overlap.run_wavefront,
                    num_layers=num_layers,
                    steps=overlap_layers,
                    streams=streams,
                    between=between,
                    needs_y=outputs == "all",
                )

    def run(
        input: Tensor, hx: Tensor | None, batch_sizes: Tensor | None, batch: int | None = None
    ) -> tuple[Tensor, Tensor]:
        def run_layer(layer: int, x: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor]:
            first = layer * per_layer
            save_y = outputs == "all" or layer + 1 < num_layers
            layer_weights = weights[first : first + per_layer]
            variant = recurrence
            if regularized:
                variant = regularize(recurrence, rates, training, x, hx, batch_sizes, batch, directions, hidden)
            if padded is not None:
                return gru_padded(x, hx, layer_weights, padded, bidirectional, variant)
            return gru_layer(x, hx, layer_weights, batch_sizes, bidirectional, variant, save_y, save == "gates")

        return run_layers(
            run_layer, input, hx, num_layers, directions, batch_first, batch_sizes, between, outputs, wavefront
        )

    # ONNX's GRU takes lengths as they are; the packed segments have no counterpart.
    padded = lengths if lengths is not None and resets is None and torch.onnx.is_in_onnx_export() else None
    if padded is not None or (lengths is None and resets is None and reset_state is None):
        y, h_n = run(input, hx, batch_sizes)
    else:
        y, h_n = run_segments(
            run, input, hx, layers, directions, hidden, batch_first, lengths, resets, reset_state, outputs
        )
    return (y, h_n) if result_dtype is None else (y.to(result_dtype), h_n.to(result_dtype))


def gru_cell(
    input: Tensor,
    hx: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    zoneout: float = 0,
    candidate_dropout: float = 0,
    training: bool = False,
    reset_after: bool = True,
    layer_norm: bool | str = False,
    gain_ih: Tensor | None = None,
    gain_hh: Tensor | None = None,
) -> Tensor:
    """One step of a GRU.

    Args:
        input: (B, I), or (I) unbatched; dtypes as in ``gru``.
        hx: (B, H), or (H) unbatched; None for zero.
        weight_ih: (3H, I), gate order r, z, n.
        weight_hh: (3H, H).
        bias_ih: (3H), or None together with ``bias_hh``.
        bias_hh: (3H), or None together with ``bias_ih``.
        zoneout: as in ``gru``.
        candidate_dropout: as in ``gru``.
        training: whether they draw masks.
        reset_after: as in ``gru``.
        layer_norm: as in ``gru``.
        gain_ih: (3H), with ``layer_norm``, else None.
        gain_hh: (3H), likewise.

    Returns:
        The next state, (B, H) or (H).

    Raises:
        TypeError: ``input``, ``hx``, a weight, a bias or a gain is no dense tensor, or a flag no bool.
        ValueError: the rank of ``input`` or ``hx`` is wrong, or the dtype of the weights none of the four; only one of
            the biases is given; a probability is not a number in [0, 1), or ``layer_norm`` another value; gains are
            given without ``layer_norm`` or not with it, or that comes with ``reset_after=False``.
        RuntimeError: a size, a shape or a device is wrong, or a dtype not that of the weights.
    """
    check_cell_rank(input, hx)
    if (bias_ih is None) != (bias_hh is None):
        raise ValueError("gru_cell: expected both bias_ih and bias_hh or neither, got one")
    if not (type(training) is type(reset_after) is bool):
        training = as_flag("gru_cell", "training", training)
        reset_after = as_flag("gru_cell", "reset_after", reset_after)
    norms = 0 if layer_norm is False else normalizations("gru_cell", layer_norm, reset_after)
    gains = [gain for gain in (gain_ih, gain_hh) if gain is not None]
    if len(gains) != (2 if norms else 0):
        raise ValueError(
            f"gru_cell: expected gain_ih and gain_hh with layer_norm and only then, got {len(gains)} gains"
        )
    weights = [weight_ih, weight_hh] if bias_ih is None or bias_hh is None else [weight_ih, weight_hh, bias_ih, bias_hh]
    weights += gains
    for name, weight in zip(_CELL_WEIGHTS[norms > 0][bias_ih is not None], weights, strict=True):
        check_tensor("gru_cell", name, weight)
    result_dtype = None
    if autocast_is_on():
        result_dtype = dtype_of_results(input, hx)
        input, hx, *weights = autocast(input, hx, *weights)
    if jit_trace() is not None:
        check_export()
    _check_dtypes_and_devices("gru_cell", input, hx, weights, RuntimeError)
    columns = _columns("gru_cell", "weight_ih", weight_ih), _columns("gru_cell", "weight_hh", weight_hh)
    check_cell_sizes(input, hx, *columns)
    recurrence = _LAYER_NORM[norms] if norms else PLAIN if reset_after else _RESET_BEFORE
    regularized = not (zoneout is candidate_dropout is _NONE)
    rates = _NO_RATES
    if regularized:
        rates = Rates(
            check_rate("gru_cell", "zoneout", zoneout),
            candidate_dropout=check_rate("gru_cell", "candidate_dropout", candidate_dropout),
        )

    def run_layer(x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        if columns[1] == 0:  # no units, so nothing to compute: by torch.nn's own operator
            state = x.new_zeros((x.shape[1], 0)) if h is None else h[0]
            h_n = torch.stack([torch.gru_cell(x[0], state, *weights[: 2 if bias_ih is None else 4])])
            return h_n, h_n
        variant = recurrence
        if regularized:
            variant = regularize(recurrence, rates, training, x, h, None, None, 1, weight_hh.shape[-1])
        return gru_layer(x, h, weights, None, False, variant)

    h = run_cell(run_layer, input, hx)
    return h if result_dtype is None else h.to(result_dtype)


def _present_weights(weights: Iterable[Tensor | None], layers: int, normalized: bool) -> list[Tensor]:
    """The weights of L*D directions without the biases that are None.

    Raises:
        TypeError: they are no sequence of dense tensors, or some biases are None and others not.
        RuntimeError: their number is wrong.
    """
    if type(weights) is not list and (isinstance(weights, Tensor) or not isinstance(weights, Iterable)):
        raise TypeError(f"gru: expected weights to be a sequence of tensors, got {type(weights).__name__}")
    given = list(weights)
    # With layer_norm, of two vectors alone nothing would say whether they are biases or gains.
    numbers = [6 * layers] if normalized else [2 * layers, 4 * layers]
    if len(given) not in numbers:
        expected = (
            f"{numbers[0]} weights, with gains and with biases that may be None,"
            if normalized
            else (f"{numbers[0]} weights, or {numbers[1]} with biases,")
        )
        raise RuntimeError(
            f"gru: expected {expected} for L*D = {layers}{' with layer_norm' if normalized else ''}, got {len(given)}"
        )
    present: list[Tensor] = []
    for i, weight in enumerate(given):
        if is_dense(weight):
            present.append(weight)
        elif weight is not None:
            check_tensor("gru", f"weights[{i}]", weight)
    if len(present) == len(given):
        return present
    per_direction = len(given) // layers
    absent = [i % per_direction for i, weight in enumerate(given) if weight is None]
    if absent != [2, 3] * layers:
        raise TypeError("gru: expected all biases of all directions to be tensors, or all None, got some of each")
    return present


def _columns(op: str, name: str, weight: Tensor) -> int:
    """I of weight_ih, H of weight_hh; the operators check the rest of the shape."""
    if weight.dim() == 0:
        raise RuntimeError(f"{op}: expected {name} of shape (3H, {'I' if name == 'weight_ih' else 'H'}), got ()")
    return weight.shape[-1]


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
