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
        ValueError: the rank or dtype of ``input``, or the dtype of ``hx``, is wrong.
        RuntimeError: a size, a shape or a device is wrong, or T is 0.
    """
    directions = 2 if bidirectional else 1
    layers = num_layers * directions
    if len(weights) not in (2 * layers, 4 * layers):
        raise RuntimeError(
            f"gru: expected {2 * layers} weights, or {4 * layers} with biases, for L*D = {layers}, got {len(weights)}"
        )
    device_type = input.device.type
    if torch.is_autocast_enabled(device_type) and input.dtype in _FLOATING and input.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device_type)
        input = input.to(dtype)
        hx = None if hx is None else hx.to(dtype)
        weights = [w.to(dtype) for w in weights]
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
        ValueError: the rank or dtype of ``input`` or ``hx`` is wrong, or only one of the biases is given.
        RuntimeError: a size, a shape or a device is wrong.
    """
    if input.dim() not in (1, 2):
        raise ValueError(f"gru_cell: expected input of shape (B, I) or (I), got {tuple(input.shape)}")
    if (bias_ih is None) != (bias_hh is None):
        raise ValueError("gru_cell: expected both bias_ih and bias_hh or neither, got one")
    biases = [] if bias_ih is None or bias_hh is None else [bias_ih, bias_hh]
    batched = input.dim() == 2
    if hx is not None:
        if hx.dim() not in (1, 2):
            raise ValueError(f"gru_cell: expected hx of shape (B, H) or (H), got {tuple(hx.shape)}")
        batch, hidden = (input.shape[:1] if batched else ()), weight_hh.shape[1]
        if hx.shape != (*batch, hidden):
            raise RuntimeError(
                f"gru_cell: expected hx of shape {'(B, H)' if batched else '(H)'} = {(*batch, hidden)},"
                f" got {tuple(hx.shape)}"
            )
    if input.shape[-1] != weight_ih.shape[-1]:
        raise RuntimeError(
            f"gru_cell: expected input of size I = {weight_ih.shape[-1]} in its last dimension,"
            f" got {tuple(input.shape)}"
        )
    x = input.unsqueeze(0)
    h = None if hx is None else hx.unsqueeze(0)
    return gru(x, h, [weight_ih, weight_hh, *biases])[1].squeeze(0)


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
    letters = "(N, I)" if packed else "(B, T, I)" if batch_first else "(T, B, I)"
    if input.dim() != 2 and (packed or input.dim() != 3):
        allowed = letters if packed else f"{letters} or, unbatched, (T, I)"
        raise ValueError(f"gru: expected input of shape {allowed}, got {tuple(input.shape)}")
    weight_ih, weight_hh = weights[0], weights[1]
    if input.dtype != weight_ih.dtype or input.dtype not in _FLOATING:
        expected = weight_ih.dtype if weight_ih.dtype in _FLOATING else "a floating dtype"
        raise ValueError(f"gru: expected input of dtype {expected}, as the weights have, got {input.dtype}")
    if input.device != weight_ih.device:
        raise RuntimeError(f"gru: expected input on the device of the weights, {weight_ih.device}, got {input.device}")
    if input.shape[-1] != weight_ih.shape[-1]:
        raise RuntimeError(
            f"gru: expected input of shape {letters} with I = {weight_ih.shape[-1]}, got {tuple(input.shape)}"
        )
    steps = input.shape[1 if batch_first and batched and not packed else 0]
    if steps == 0:
        raise RuntimeError(f"gru: expected input with T >= 1 steps, got {tuple(input.shape)}")
    if hx is None:
        return
    hidden = weight_hh.shape[-1]
    if not batched:
        shape: tuple[int, ...] = (layers, hidden)
    else:
        batch = int(batch_sizes[0]) if batch_sizes is not None else input.shape[0 if batch_first else 1]
        shape = (layers, batch, hidden)
    if hx.shape != shape:
        raise RuntimeError(
            f"gru: expected hx of shape {'(L*D, B, H)' if batched else '(L*D, H)'} = {shape}, got {tuple(hx.shape)}"
        )
    if hx.dtype != input.dtype:
        raise ValueError(f"gru: expected hx of the dtype of input, {input.dtype}, got {hx.dtype}")
    if hx.device != input.device:
        raise RuntimeError(f"gru: expected hx on the device of input, {input.device}, got {hx.device}")
