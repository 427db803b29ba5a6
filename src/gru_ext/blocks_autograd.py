"""The derivatives of the operators of blocks on a CPU, outside of ``torch.func``: csrc/op/blocks.h has the operators.

Letters as in blocks.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gru_ext import library as library  # registers the operators
from gru_ext import reference
from gru_ext.block_layout import each_block, join_rows, join_units, layer_of_blocks, states_of_blocks, units_of_blocks
from gru_ext.double_backward import GRUBackwardFunction
from gru_ext.torch_internals import has_tangent, transforms_are_active
from gru_ext.variant import MASKS, Variant

_ops = torch.ops.gru_ext


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
    if has_tangent(dy, dh_n, x, hx, *weights):
        backward: Any = _by_reference
    elif torch.is_grad_enabled() or transforms_are_active():
        backward = _differentiable
    else:
        backward = _ops.gru_bwd_blocks
    dx, dhx, dweights = backward(dy, dh_n, x, hx, weights, batch_sizes, ctx.bidirectional, y, gates, *need, *variant)
    of_weights = dweights if need[2] else [None] * len(weights)
    return (dx if need_dx else None, dhx if need_dhx else None, of_weights, *[None] * len(others))


def _differentiable(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``gru_bwd_blocks`` by the operator of members, which has a derivative and goes under ``torch.func``."""
    dy, dh_n, x, hx, weights, batch_sizes, bidirectional, y, gates, need_dx, need_dhx, need_dweights, *variant = args
    blocks, directions = gates.shape[0], 2 if bidirectional else 1
    dy, y = (None if t is None else states_of_blocks(t, blocks, directions) for t in (dy, y))
    dh_n = None if dh_n is None else units_of_blocks(dh_n, blocks)
    hx, members, varied = layer_of_blocks(hx, weights, variant, blocks)
    needs = (need_dx, need_dhx, need_dweights)
    dx, dhx, *dweights = GRUBackwardFunction.apply(
        dy, dh_n, x.expand(blocks, *x.shape), hx, batch_sizes, bidirectional, y, gates, *needs, *varied, *members
    )
    of_weights = [join_rows(weight) for weight in dweights]
    return dx.sum(0) if need_dx else dx, join_units(dhx) if need_dhx else dhx, of_weights


torch.library.register_autograd("gru_ext::gru_fwd_blocks", _backward, setup_context=_setup_context)


def _by_reference(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``gru_bwd_blocks`` in plain PyTorch, which has every derivative of it, as in transforms.py.

    The vmap of ``torch.autograd.grad(is_grads_batched=True)`` knows few operators on dy and dh_n, and on what follows
    from them: slices and ``torch.cat``.
    """
    dy, dh_n, x, hx, weights, batch_sizes, bidirectional, _, gates, _, _, need_dweights, *variant = args
    blocks, directions = gates.shape[0], 2 if bidirectional else 1
    units = weights[1].shape[1]
    gradients = []
    for g, (state, of_block, varied) in enumerate(each_block(hx, weights, variant, blocks)):
        firsts = [(d * blocks + g) * units for d in range(directions)]
        own_dy = None if dy is None else torch.cat([dy[..., first : first + units] for first in firsts], -1)
        own_dh_n = None if dh_n is None else dh_n[..., g * units : (g + 1) * units]
        with torch.autocast(x.device.type, enabled=False):
            of_one = reference.gru_bwd(own_dy, own_dh_n, x, state, of_block, batch_sizes, bidirectional, varied)
        gradients.append(of_one)
    dx, dhx, dweights = zip(*gradients, strict=True)
    joined = [
        torch.cat([weight[k * units : (k + 1) * units] for k in range(3) for weight in of_one])
        for of_one in zip(*dweights, strict=True)
    ]
    return sum(dx[1:], dx[0]), torch.cat(dhx, -1), joined if need_dweights else []


_batched_library = torch.library.Library("gru_ext", "IMPL", "Batched")
_batched_library.impl("gru_bwd_blocks", _by_reference)
