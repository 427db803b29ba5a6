"""GRUs whose recurrent weights are block-diagonal: G GRUs of H / G units side by side, over one input.

The blocks run as members (members.py): on a CPU at the same time, a thread each. weight_hh has its rows in the order of
``torch.nn.GRU``, gates first: block g of gate k is the rows [k H + g H / G, k H + (g + 1) H / G), as in every weight.

Letters: G blocks, T steps, B batch, I input, H hidden, D directions (1 or 2), N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gru_ext import library as library  # registers the operators
from gru_ext import reference
from gru_ext.double_backward import GRUBackwardFunction
from gru_ext.layout import Outputs, check_weight_shapes
from gru_ext.torch_internals import in_forward_mode, transforms_are_active
from gru_ext.transforms import GRUFunction
from gru_ext.variant import MASKS, PLAIN, Variant

_ops = torch.ops.gru_ext


def rows_of_blocks(weight: Tensor, blocks: int) -> Tensor:
    """A weight (3H, ...) of a direction as those of its blocks: (G, 3 H / G, ...)."""
    gates: Tensor = weight.unflatten(0, (3, blocks, -1))
    return gates.transpose(0, 1).flatten(1, 2)


def units_of_blocks(units: Tensor, blocks: int) -> Tensor:
    """(..., H) to (G, ..., H / G)."""
    of_blocks: Tensor = units.unflatten(-1, (blocks, -1))
    return of_blocks.movedim(-2, 0)


def join_units(of_blocks: Tensor, directions: int = 1) -> Tensor:
    """(G, ..., D * H / G), of directions side by side, to (..., D * H)."""
    of_directions: Tensor = of_blocks.unflatten(-1, (directions, -1))
    return of_directions.movedim(0, -2).flatten(-3)


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
    members = [rows_of_blocks(weight, blocks) for weight in weights]
    hx_of = None if hx is None else units_of_blocks(hx, blocks)
    given_masks: tuple[Any, ...] = variant[:MASKS]
    masks: list[Any] = [None if mask is None else units_of_blocks(mask, blocks) for mask in given_masks]
    varied = Variant(*masks, *variant[MASKS:])
    if in_forward_mode():
        outputs = []
        for g in range(blocks):
            state = None if hx_of is None else hx_of[g]
            masks_of: list[Any] = [None if mask is None else mask[g] for mask in masks]
            own = Variant(*masks_of, *variant[MASKS:])
            outputs.append(reference.gru(x, state, [w[g] for w in members], batch_sizes, bidirectional, own))
        y, h_n = (torch.stack(parts) for parts in zip(*outputs, strict=True))
    else:
        xs = x.expand(blocks, *x.shape)
        if transforms_are_active():
            y, h_n, _ = GRUFunction.apply(xs, hx_of, batch_sizes, bidirectional, save_gates, *varied, *members)
        else:
            given = (x, *weights, *(() if hx is None else (hx,)))
            save_gates &= torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
            y, h_n, _ = _ops.gru_fwd_members(xs, hx_of, members, batch_sizes, bidirectional, save_gates, *varied)
    return join_units(y, directions), join_units(h_n)


# ---- The derivative of the operator `gru_fwd_members`, outside of torch.func


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, hx, weights, batch_sizes, bidirectional, save_gates, *variant = inputs
    GRUFunction.setup_context(
        ctx, (x, hx, batch_sizes, bidirectional, save_gates, *Variant(*variant), *weights), output
    )


def _backward(ctx: Any, dy: Tensor, dh_n: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    x, hx, batch_sizes, y, gates, *masks_and_weights = ctx.saved_tensors
    masks, weights = masks_and_weights[:MASKS], masks_and_weights[MASKS:]
    need_dx, need_dhx, need_of_weights, *others = ctx.needs_input_grad
    need_dweights = any(need_of_weights)
    tensors = (dy, dh_n, x, hx, batch_sizes, ctx.bidirectional, y, gates, need_dx, need_dhx, need_dweights)
    dx, dhx, *dweights = GRUBackwardFunction.apply(*tensors, *masks, *ctx.rates, *weights)
    of_weights = dweights if need_dweights else [None] * len(weights)
    return (dx if need_dx else None, dhx if need_dhx else None, of_weights, *[None] * len(others))


torch.library.register_autograd("gru_ext::gru_fwd_members", _backward, setup_context=_setup_context)
