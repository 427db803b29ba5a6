"""Weights of int8 as the kernels take them, and layers that only pretend to have them, for training.

Letters: T steps, B batch, I input, H hidden, D directions (1 or 2), N rows of all steps, G groups of 16 hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gru_ext import library as library  # registers the operator
from gru_ext import reference
from gru_ext.blocks import reference_of_blocks
from gru_ext.layout import Outputs, check_weight_shapes
from gru_ext.reference import fake_quantize_rows, quantize_rows
from gru_ext.torch_internals import is_eager
from gru_ext.variant import PLAIN, Variant

_ops = torch.ops.gru_ext

UNITS, COLUMNS = 16, 4  # of a word of packed weights: a vector of dot products of four columns


def pack(weight: Tensor, blocks: int = 1) -> Tensor:
    """int8 weights (3H, K) in the order in which the kernels of every machine read them.

    Returns:
        (G, 1 + ceil(K / 4), 3, 16) int32: the sum of each row, then words of four int8; see csrc/op/int8.h. The groups
        of each block follow those of the block before it.
    """
    hidden, columns = weight.shape[0] // (3 * blocks), weight.shape[1]
    padding = (0, -columns % COLUMNS, 0, -hidden % UNITS)
    padded = nn.functional.pad(weight.view(3, blocks, hidden, columns), padding)
    rows = padded.view(3, blocks * -(-hidden // UNITS), UNITS, -1)
    words = rows.unflatten(-1, (-1, COLUMNS)).permute(1, 3, 0, 2, 4).contiguous().view(torch.int32).squeeze(-1)
    sums = rows.sum(-1, dtype=torch.int32).transpose(0, 1).unsqueeze(1)
    return torch.cat([sums, words], dim=1)


def unpack(packed: Tensor, hidden: int, columns: int, blocks: int = 1) -> Tensor:
    """The int8 weights (3H, K) that ``pack`` was given."""
    rows = packed[:, 1:].contiguous().unsqueeze(-1).view(torch.int8).permute(2, 0, 3, 1, 4).reshape(3, -1, COLUMNS)
    units = hidden // blocks
    return rows.reshape(3, blocks, -(-units // UNITS) * UNITS, -1)[:, :, :units, :columns].reshape(3 * hidden, columns)


def packed_weights(weights: Sequence[Tensor], directions: int, blocks: int) -> list[Tensor]:
    """The weights of a layer in float32, as the operator ``gru_int8`` takes them."""
    packed: list[Tensor] = []
    per_direction = len(weights) // directions
    for first in range(0, len(weights), per_direction):
        weight_ih, weight_hh, *biases = weights[first : first + per_direction]
        (of_input, scale_ih), (of_state, scale_hh) = quantize_rows(weight_ih), quantize_rows(weight_hh)
        packed += [pack(of_input, blocks), pack(of_state, blocks), scale_ih, scale_hh, *biases]
    return packed


def fake_int8_layer(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    variant: Variant = PLAIN,
    save_y: bool = True,
    save_gates: bool = True,
    *,
    blocks: int = 1,
) -> Outputs:
    """``autograd.gru_layer`` with weights, input and state rounded as by the int8 kernels.

    Without gradients the kernels themselves compute it, where they can; with gradients, plain PyTorch does.
    """
    directions = 2 if bidirectional else 1
    check_weight_shapes(weights, directions, x.shape[-1], blocks)
    if (
        not torch.is_grad_enabled()
        and variant is PLAIN
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and is_eager()
    ):
        packed = packed_weights(weights, directions, blocks)
        outputs: Outputs = _ops.gru_int8(x, hx, packed, batch_sizes, bidirectional, blocks)
        return outputs
    rounded = [fake_quantize_rows(weight) if weight.dim() == 2 else weight for weight in weights]
    arguments = (fake_quantize_rows(x), hx, rounded, batch_sizes, bidirectional, variant)
    if blocks != 1:
        return reference_of_blocks(*arguments, blocks=blocks, rounded=fake_quantize_rows)
    return reference.gru(*arguments, rounded=fake_quantize_rows)
