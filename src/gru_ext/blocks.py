"""Layers of GRUs whose recurrent weights are block-diagonal: G GRUs of H / G units side by side, over one input.

On a CPU the operators of csrc/op/blocks.h run the blocks at the same time, a thread each. On other devices, and under
``torch.func``, the blocks are members (members.py).

Letters: G blocks, T steps, B batch, I input, H hidden, D directions (1 or 2), N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gru_ext import blocks_autograd as blocks_autograd  # registers the derivatives of the operators
from gru_ext import reference
from gru_ext.autograd import gru_layer
from gru_ext.block_layout import each_block, join_units, layer_of_blocks
from gru_ext.layout import Outputs, check_weight_shapes
from gru_ext.torch_internals import in_forward_mode, jit_trace, transforms_are_active
from gru_ext.transforms import GRUFunction
from gru_ext.variant import PLAIN, Variant

_ops = torch.ops.gru_ext


def blocks_layer(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    variant: Variant = PLAIN,
    save_y: bool = True,
    save_gates: bool = True,
    *,
    blocks: int,
) -> Outputs:
    """``autograd.gru_layer`` with weight_hh (3H, H / G) of G blocks; each is normalised for itself with layer_norm."""
    directions = 2 if bidirectional else 1
    check_weight_shapes(weights, directions, x.shape[-1], blocks)
    if x.device.type == "cpu" and not (in_forward_mode() or transforms_are_active()):
        given = (x, *weights, *(() if hx is None else (hx,)))
        if jit_trace() is None:  # whose own check traces again without gradients, and expects the same
            save_gates &= torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        y, h_n, _ = _ops.gru_fwd_blocks(x, hx, weights, batch_sizes, bidirectional, save_gates, *variant)
        return y, h_n
    if in_forward_mode():
        return reference_of_blocks(x, hx, weights, batch_sizes, bidirectional, variant, blocks=blocks)
    states, members, varied = layer_of_blocks(hx, weights, variant, blocks)
    xs = x.expand(blocks, *x.shape)
    y, h_n, _ = GRUFunction.apply(xs, states, batch_sizes, bidirectional, save_gates, *varied, *members)
    return join_units(y, directions), join_units(h_n)


def dense_layer(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    variant: Variant = PLAIN,
    save_y: bool = True,
    save_gates: bool = True,
    *,
    blocks: int,
) -> Outputs:
    """``blocks_layer`` by one dense layer, zero outside of the blocks: with layer_norm, normalised over all units."""
    directions = 2 if bidirectional else 1
    check_weight_shapes(weights, directions, x.shape[-1], blocks)
    dense, per_direction = list(weights), len(weights) // directions
    for i in range(1, len(weights), per_direction):
        dense[i] = reference.block_diagonal(weights[i], blocks)
    return gru_layer(x, hx, dense, batch_sizes, bidirectional, variant, save_y, save_gates)


def reference_of_blocks(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    variant: Variant,
    *,
    blocks: int,
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> Outputs:
    """``reference.gru`` of each block."""
    outputs = [
        reference.gru(x, state, of_block, batch_sizes, bidirectional, varied, rounded)
        for state, of_block, varied in each_block(hx, weights, variant, blocks)
    ]
    y, h_n = (torch.stack(parts) for parts in zip(*outputs, strict=True))
    return join_units(y, 2 if bidirectional else 1), join_units(h_n)
