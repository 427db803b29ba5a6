"""The GRU as functions, for callers that hold their own weights.

Letters: T steps, B batch, I input, H hidden, L layers, D directions (1 or 2), N rows of all steps of a packed batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gru_ext.autograd import gru_layer

__all__ = ["gru", "gru_cell"]

_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def gru(
    input: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a GRU of L layers over whole sequences.

    The recurrence is that of ``torch.nn.GRU`` (docs/equations.md). Differentiable in every mode: once or more,
    forward, under ``torch.func`` and ``torch.compile``. Under ``torch.autocast`` the arguments are cast to its dtype,
    and so is the result; float64 is left as it is.

    Args:
        input: (T, B, I); (B, T, I) with ``batch_first``; (T, I) unbatched; or (N, I) with ``batch_sizes``. float32,
            float64, bfloat16 or float16; T at least 1, B may be 0. The halves compute and carry the state in float32.
        hx: (L*D, B, H) initial state, or (L*D, H) unbatched; None for zero.
        weights: for each layer, for each direction: weight_ih (3H, I or, after the first layer, D*H),
            weight_hh (3H, H) and, with biases, bias_ih (3H) and bias_hh (3H). Gate order is r, z, n.
        num_layers: L.
        bidirectional: D = 2; the second direction runs from the last step to the first.
        batch_first: the batch is the first dimension of input and output; no effect unbatched or packed.
        dropout: probability of zeroing an element of the output of each layer but the last, while ``training``.
        training: whether ``dropout`` applies.
        batch_sizes: (T) int64 on the CPU, not increasing: the rows of each step, where ``input`` is the data of a
            ``PackedSequence``. ``hx`` and ``h_n`` are then in the packed (sorted) order.

    Returns:
        The output, (T, B, D*H) or laid out as the input was; and h_n (L*D, B, H), or (L*D, H) unbatched.

    Raises:
        ValueError: the rank of ``input`` or its dtype, or ``num_layers``, is wrong.
        RuntimeError: a size, a shape, a device or the dtype of ``hx`` is wrong, or T is 0.
    """
    if num_layers < 1:
        raise ValueError(f"gru: expected num_layers of at least 1, got {num_layers}")
    directions = 2 if bidirectional else 1
    layers = num_layers * directions
    if len(weights) not in (2 * layers, 4 * layers):
        raise RuntimeError(
            f"gru: expected {2 * layers} weights, or {4 * layers} with biases, for L*D = {layers}, got {len(weights)}"
        )
    input, hx, weights = _autocast(input, hx, weights)
    _check_gru(input, hx, weights, layers, batch_first, batch_sizes)

    batched = batch_sizes is not None or input.dim() == 3
    transposed = batch_first and batched and batch_sizes is None
    x = input if batched else input.unsqueeze(1)
    if transposed:
        x = x.transpose(0, 1)
    if hx is not None and not batched:
        hx = hx.unsqueeze(1)

    if num_layers == 1:
        x, h_n = gru_layer(x, hx, weights, batch_sizes, bidirectional)
    else:
        per_layer = len(weights) // num_layers
        states = []
        for layer in range(num_layers):
            if layer > 0 and training and dropout > 0:
                x = torch.nn.functional.dropout(x, dropout)
            x, state = gru_layer(
                x,
                None if hx is None else hx[layer * directions : (layer + 1) * directions],
                weights[layer * per_layer : (layer + 1) * per_layer],
                batch_sizes,
                bidirectional,
            )
            states.append(state)
        h_n = torch.cat(states)

    if not batched:
        return x.squeeze(1), h_n.squeeze(1)
    return (x.transpose(0, 1) if transposed else x), h_n


def gru_cell(
    input: Tensor,
    hx: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> Tensor:
    """One step of a GRU.

    Args:
        input: (B, I), or (I) unbatched; dtypes as in ``gru``.
        hx: (B, H), or (H) unbatched; None for zero.
        weight_ih: (3H, I), gate order r, z, n.
        weight_hh: (3H, H).
        bias_ih: (3H), or None together with ``bias_hh``.
        bias_hh: (3H), or None together with ``bias_ih``.

    Returns:
        The next state, (B, H) or (H).

    Raises:
        ValueError: the rank of ``input`` or ``hx`` is wrong, or only one of the biases is given.
        RuntimeError: a size, a shape, a dtype or a device is wrong.
    """
    if input.dim() not in (1, 2):
        raise ValueError(f"gru_cell: expected input of shape (B, I) or (I), got {tuple(input.shape)}")
    if hx is not None and hx.dim() not in (1, 2):
        raise ValueError(f"gru_cell: expected hx of shape (B, H) or (H), got {tuple(hx.shape)}")
    if (bias_ih is None) != (bias_hh is None):
        raise ValueError("gru_cell: expected both bias_ih and bias_hh or neither, got one")
    biases = [] if bias_ih is None or bias_hh is None else [bias_ih, bias_hh]
    weights: Sequence[Tensor] = [weight_ih, weight_hh, *biases]
    input, hx, weights = _autocast(input, hx, weights)
    _check_dtypes_and_devices("gru_cell", input, hx, weights, RuntimeError)
    batched = input.dim() == 2
    size, hidden = weight_ih.shape[-1], weight_hh.shape[-1]
    if input.shape[-1] != size:
        letters = "(B, I)" if batched else "(I)"
        raise RuntimeError(f"gru_cell: expected input of shape {letters} with I = {size}, got {tuple(input.shape)}")
    if hx is not None:
        shape = (*input.shape[:-1], hidden)
        if hx.shape != shape:
            raise RuntimeError(
                f"gru_cell: expected hx of shape {'(B, H)' if batched else '(H)'} = {shape}, got {tuple(hx.shape)}"
            )
    # One step of one row or of a batch of rows: (T, B, I) = (1, B, I), and h_n is (1, B, H).
    x = input.unsqueeze(0) if batched else input.view(1, 1, size)
    h = hx if hx is None else hx.unsqueeze(0) if batched else hx.view(1, 1, hidden)
    h_n = gru_layer(x, h, weights, None, False)[1]
    return h_n.squeeze(0) if batched else h_n.view(hidden)


def _autocast(
    input: Tensor, hx: Tensor | None, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:
    """The arguments, cast to autocast's dtype where that is on for their device; float64 is left as it is."""
    if not torch._C._is_any_autocast_enabled() or input.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return input, hx, weights
    device_type = input.device.type
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return input, hx, weights
    dtype = torch.get_autocast_dtype(device_type)
    return input.to(dtype), None if hx is None else hx.to(dtype), [w.to(dtype) for w in weights]


def _check_dtypes_and_devices(
    op: str, input: Tensor, hx: Tensor | None, weights: Sequence[Tensor], wrong_dtype: type[Exception]
) -> None:
    """``wrong_dtype`` is what torch's own function raises where the dtype of the input is not that of the weights."""
    dtype, device = weights[0].dtype, weights[0].device
    if dtype not in _FLOATING:
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


def _check_gru(
    input: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    layers: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> None:
    """Raise the error that a wrong argument of ``gru`` deserves; ``layers`` is L*D.

    The operators check again what they are given (csrc/check.cpp), one layer at a time, in their own terms.
    """
    packed = batch_sizes is not None
    batched = packed or input.dim() == 3
    if packed and input.dim() != 2:
        raise RuntimeError(f"gru: expected packed input of shape (N, I), got {tuple(input.shape)}")
    layout = "(B, T, I)" if batch_first else "(T, B, I)"
    if not packed and input.dim() not in (2, 3):
        raise ValueError(f"gru: expected input of shape {layout} or, unbatched, (T, I), got {tuple(input.shape)}")
    _check_dtypes_and_devices("gru", input, hx, weights, ValueError)
    size, hidden = weights[0].shape[-1], weights[1].shape[-1]
    if input.shape[-1] != size:
        letters = "(N, I)" if packed else layout if batched else "(T, I)"
        raise RuntimeError(f"gru: expected input of shape {letters} with I = {size}, got {tuple(input.shape)}")
    steps = input.shape[1 if batch_first and batched and not packed else 0]
    if steps == 0:
        raise RuntimeError(f"gru: expected input with T >= 1 steps, got {tuple(input.shape)}")
    if hx is None:
        return
    if not batched:
        shape: tuple[int, ...] = (layers, hidden)
    elif batch_sizes is None:
        shape = (layers, input.shape[0 if batch_first else 1], hidden)
    elif torch.compiler.is_compiling():
        # The batch is a value of batch_sizes, unknown while tracing; the operator compares when it runs.
        shape = (layers, hx.shape[1], hidden) if hx.dim() == 3 else (layers, -1, hidden)
    else:
        shape = (layers, int(batch_sizes[0]), hidden)
    if hx.shape != shape:
        raise RuntimeError(
            f"gru: expected hx of shape {'(L*D, B, H)' if batched else '(L*D, H)'} = {shape}, got {tuple(hx.shape)}"
        )
