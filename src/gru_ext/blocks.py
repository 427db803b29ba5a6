"""GRUs whose recurrent weights are block-diagonal: G GRUs of H / G units side by side, over one input.

weight_hh has its rows in the order of ``torch.nn.GRU``, gates first: block g of gate k is the rows
[k H + g H / G, k H + (g + 1) H / G), as in every weight. On a CPU the operators of csrc/op/blocks.h run the blocks at
the same time, a thread each. On other devices, and under ``torch.func``, the blocks are members (members.py).

Letters: G blocks, T steps, B batch, I input, H hidden, D directions (1 or 2), N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gru_ext import library as library  # registers the operators
from gru_ext import reference
from gru_ext.autograd import gru_layer
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


def _join_rows(of_blocks: Tensor) -> Tensor:
    """What ``rows_of_blocks`` undoes."""
    gates: Tensor = of_blocks.unflatten(1, (3, -1))
    return gates.transpose(0, 1).flatten(0, 2)


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
    if x.device.type == "cpu" and not (in_forward_mode() or transforms_are_active()):
        given = (x, *weights, *(() if hx is None else (hx,)))
        save_gates &= torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        y, h_n, _ = _ops.gru_fwd_blocks(x, hx, weights, batch_sizes, bidirectional, save_gates, *variant)
        return y, h_n
    if in_forward_mode():
        return reference_of_blocks(x, hx, weights, batch_sizes, bidirectional, variant, blocks=blocks)
    members = [rows_of_blocks(weight, blocks) for weight in weights]
    states = None if hx is None else units_of_blocks(hx, blocks)
    varied = _variant_of_blocks(variant, blocks)
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
    members = [rows_of_blocks(weight, blocks) for weight in weights]
    states = None if hx is None else units_of_blocks(hx, blocks)
    varied = _variant_of_blocks(variant, blocks)
    outputs = []
    for g in range(blocks):
        state = None if states is None else states[g]
        own, of_weights = _variant_of(varied, g), [weight[g] for weight in members]
        outputs.append(reference.gru(x, state, of_weights, batch_sizes, bidirectional, own, rounded))
    y, h_n = (torch.stack(parts) for parts in zip(*outputs, strict=True))
    return join_units(y, 2 if bidirectional else 1), join_units(h_n)


def _variant_of(varied: Variant, g: int) -> Variant:
    """That of a block."""
    masks: tuple[Any, ...] = varied[:MASKS]
    own: list[Any] = [None if mask is None else mask[g] for mask in masks]
    return Variant(*own, *varied[MASKS:])


def _variant_of_blocks(variant: Sequence[Any], blocks: int) -> Variant:
    masks: list[Any] = [None if mask is None else units_of_blocks(mask, blocks) for mask in variant[:MASKS]]
    return Variant(*masks, *variant[MASKS:])


# ---- The derivatives of the operators of blocks on a CPU, outside of torch.func


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, hx, weights, batch_sizes, bidirectional, _, *variant = inputs
    y, _, gates = output
    ctx.save_for_backward(x, hx, batch_sizes, y, gates, *variant[:MASKS], *weights)
    ctx.rates = variant[MASKS:]
    ctx.bidirectional = bidirectional
    ctx.set_materialize_grads(False)  # gates have none, and are large


def _backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, _: None) -> tuple[Any, ...]:
    x, hx, batch_sizes, y, gates, *masks_and_weights = ctx.saved_tensors
    variant, weights = Variant(*masks_and_weights[:MASKS], *ctx.rates), masks_and_weights[MASKS:]
    need_dx, need_dhx, need_of_weights, *others = ctx.needs_input_grad
    need = (need_dx, need_dhx, any(need_of_weights))
    backward = _differentiable if torch.is_grad_enabled() or transforms_are_active() else _ops.gru_bwd_blocks
    dx, dhx, dweights = backward(dy, dh_n, x, hx, weights, batch_sizes, ctx.bidirectional, y, gates, *need, *variant)
    of_weights = dweights if need[2] else [None] * len(weights)
    return (dx if need_dx else None, dhx if need_dhx else None, of_weights, *[None] * len(others))


def _differentiable(
    dy: Tensor | None,
    dh_n: Tensor | None,
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    y: Tensor,
    gates: Tensor,
    need_dx: bool,
    need_dhx: bool,
    need_dweights: bool,
    *variant: Any,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``gru_bwd_blocks`` by the operator of members, which has a derivative and goes under ``torch.func``."""
    blocks, directions = gates.shape[0], 2 if bidirectional else 1
    of_states = [None if t is None else _states_of_blocks(t, blocks, directions) for t in (dy, y)]
    of_units = [None if t is None else units_of_blocks(t, blocks) for t in (dh_n, hx)]
    members = [rows_of_blocks(weight, blocks) for weight in weights]
    xs = x.expand(blocks, *x.shape)
    dx, dhx, *dweights = GRUBackwardFunction.apply(
        of_states[0],
        of_units[0],
        xs,
        of_units[1],
        batch_sizes,
        bidirectional,
        of_states[1],
        gates,
        need_dx,
        need_dhx,
        need_dweights,
        *_variant_of_blocks(variant, blocks),
        *members,
    )
    of_weights = [_join_rows(weight) for weight in dweights]
    return dx.sum(0) if need_dx else dx, join_units(dhx) if need_dhx else dhx, of_weights


def _states_of_blocks(states: Tensor, blocks: int, directions: int) -> Tensor:
    """(..., D * H) to (G, ..., D * H / G): what ``join_units`` undoes."""
    of_directions: Tensor = states.unflatten(-1, (directions, blocks, -1))
    return of_directions.movedim(-2, 0).flatten(-2)


torch.library.register_autograd("gru_ext::gru_fwd_blocks", _backward, setup_context=_setup_context)


def _batched(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``gru_bwd_blocks`` under the vmap of ``torch.autograd.grad(is_grads_batched=True)``, as in transforms.py.

    It knows few operators on dy and dh_n, and on what follows from them: slices and ``torch.cat``.
    """
    dy, dh_n, x, hx, weights, batch_sizes, bidirectional, _, gates, _, _, need_dweights, *variant = args
    blocks, directions = gates.shape[0], 2 if bidirectional else 1
    units = weights[1].shape[1]
    states = None if hx is None else units_of_blocks(hx, blocks)
    members = [rows_of_blocks(weight, blocks) for weight in weights]
    varied = _variant_of_blocks(variant, blocks)
    gradients = []
    for g in range(blocks):
        firsts = [(d * blocks + g) * units for d in range(directions)]
        own_dy = None if dy is None else torch.cat([dy[..., first : first + units] for first in firsts], -1)
        own_dh_n = None if dh_n is None else dh_n[..., g * units : (g + 1) * units]
        state = None if states is None else states[g]
        of_weights, own = [weight[g] for weight in members], _variant_of(varied, g)
        gradients.append(reference.gru_bwd(own_dy, own_dh_n, x, state, of_weights, batch_sizes, bidirectional, own))
    dx, dhx, dweights = zip(*gradients, strict=True)
    joined = [
        torch.cat([weight[k * units : (k + 1) * units] for k in range(3) for weight in of_blocks])
        for of_blocks in zip(*dweights, strict=True)
    ]
    return sum(dx[1:], dx[0]), torch.cat(dhx, -1), joined if need_dweights else []


_batched_library = torch.library.Library("gru_ext", "IMPL", "Batched")
_batched_library.impl("gru_bwd_blocks", _batched)
