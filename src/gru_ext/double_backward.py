"""The derivative of the derivative: that of the operator ``gru_bwd``, through the plain PyTorch of ``reference``.

Letters as in csrc/op/layer.h: T steps, B batch, I input, H hidden, D directions, N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gru_ext import library as library  # registers the operators
from gru_ext import reference
from gru_ext.members import are_members, call_with_members
from gru_ext.variant import MASKS, PLAIN, Variant

_ops = torch.ops.gru_ext

_VARIANT = len(PLAIN)

# Arguments of gru_bwd that have no derivative: batch_sizes, bidirectional, y, gates, the three needs and the variant.
_PLAIN_ARGUMENTS = 7 + _VARIANT


class GRUBackwardFunction(Function):
    """``gru_bwd`` as a differentiable function of (dy, dh_n, x, hx, weights); y and gates follow from the others.

    Its last arguments are those of the variant, then the weights. Returns dx, dhx and every gradient of a weight, flat.
    """

    @staticmethod
    def forward(  # noqa: D102
        dy: Tensor | None,
        dh_n: Tensor | None,
        x: Tensor,
        hx: Tensor | None,
        batch_sizes: Tensor | None,
        bidirectional: bool,
        y: Tensor,
        gates: Tensor,
        need_dx: bool,
        need_dhx: bool,
        need_dweights: bool,
        *variant_and_weights: Any,
    ) -> tuple[Tensor, ...]:
        variant, weights = variant_and_weights[:_VARIANT], variant_and_weights[_VARIANT:]
        # Under vmap, y and gates are slices of what the forward returned.
        y, gates = y.contiguous(), gates.contiguous()
        operator = _ops.gru_bwd_members if are_members(weights) else _ops.gru_bwd
        dx, dhx, dweights = operator(
            dy, dh_n, x, hx, weights, batch_sizes, bidirectional, y, gates, need_dx, need_dhx, need_dweights, *variant
        )
        return (dx, dhx, *dweights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: D102
        dy, dh_n, x, hx, batch_sizes, bidirectional, _, _, need_dx, need_dhx, need_dweights, *rest = inputs
        tensors, need = (dy, dh_n, x, hx, batch_sizes), (need_dx, need_dhx, need_dweights)
        _save_for_double_backward(ctx, tensors, bidirectional, need, rest[:_VARIANT], rest[_VARIANT:])

    @staticmethod
    def backward(ctx: Any, ddx: Tensor, ddhx: Tensor, *ddweights: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        dy, dh_n, x, hx, batch_sizes, *masks_and_weights = ctx.saved_tensors
        variant, weights = Variant(*masks_and_weights[:MASKS], *ctx.rates), masks_and_weights[MASKS:]
        need_dx, need_dhx, _ = ctx.need
        function, primals = _gru_bwd_of_tensors(
            dy, dh_n, x, hx, weights, batch_sizes, ctx.bidirectional, variant, ctx.need
        )
        cotangents = (*([ddx] if need_dx else []), *([ddhx] if need_dhx else []), *ddweights)
        _, vjp, *_ = torch.func.vjp(function, *primals)
        given = iter(vjp(cotangents))
        ddy, ddh_n, d_x, d_hx = (None if p is None else next(given) for p in (dy, dh_n, x, hx))
        return (ddy, ddh_n, d_x, d_hx, *[None] * _PLAIN_ARGUMENTS, *given)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:  # noqa: D102
        # Each sample has gradients of the weights of its own.
        return call_with_members(GRUBackwardFunction.apply, info.batch_size, in_dims, args, 11 + _VARIANT)


def _save_for_double_backward(
    ctx: Any,
    tensors: tuple[Tensor | None, ...],
    bidirectional: bool,
    need: tuple[bool, bool, bool],
    variant: Sequence[Any],
    weights: Sequence[Tensor],
) -> None:
    """Save (dy, dh_n, x, hx, batch_sizes) and the rest."""
    ctx.save_for_backward(*tensors, *variant[:MASKS], *weights)
    ctx.rates = variant[MASKS:]
    ctx.bidirectional = bidirectional
    ctx.need = need


def _gru_bwd_of_tensors(
    dy: Tensor | None,
    dh_n: Tensor | None,
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    variant: Variant,
    need: tuple[bool, bool, bool],
) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """``reference.gru_bwd`` as a function of those of (dy, dh_n, x, hx, *weights) that are given, and these.

    The function returns the needed ones of dx, dhx and the weights' gradients, flat.
    """
    optional = (dy, dh_n, x, hx)
    masks: tuple[Any, ...] = variant[:MASKS]

    def of_layer(masks: tuple[Any, ...], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given = iter(tensors)
        dy, dh_n, x, hx = (None if t is None else next(given) for t in optional)
        assert x is not None
        varied = Variant(*masks, *variant[MASKS:])
        dx, dhx, dweights = reference.gru_bwd(dy, dh_n, x, hx, list(given), batch_sizes, bidirectional, varied)
        need_dx, need_dhx, need_dweights = need
        return (*([dx] if need_dx else []), *([dhx] if need_dhx else []), *(dweights if need_dweights else []))

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        if not are_members(weights):
            return of_layer(masks, tensors)
        mask_dims = tuple(None if mask is None else 0 for mask in masks)
        of_members: tuple[Tensor, ...] = torch.func.vmap(of_layer, in_dims=(mask_dims, 0))(masks, tensors)
        return of_members

    return function, [t for t in (*optional, *weights) if t is not None]


def _gru_bwd_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, list[Tensor]]) -> None:
    dy, dh_n, x, hx, weights, batch_sizes, bidirectional, _, _, need_dx, need_dhx, need_dweights, *variant = inputs
    tensors, need = (dy, dh_n, x, hx, batch_sizes), (need_dx, need_dhx, need_dweights)
    _save_for_double_backward(ctx, tensors, bidirectional, need, variant, weights)


def _gru_bwd_backward(ctx: Any, ddx: Tensor, ddhx: Tensor, ddweights: Sequence[Tensor | None]) -> tuple[Any, ...]:
    filled = []
    if ctx.need[2]:
        weights = ctx.saved_tensors[5 + MASKS :]
        filled = [torch.zeros_like(w) if dd is None else dd for w, dd in zip(weights, ddweights, strict=True)]
    ddy, ddh_n, d_x, d_hx, *rest = GRUBackwardFunction.backward(ctx, ddx, ddhx, *filled)
    # The dispatcher passes no arguments that are equal to their defaults, at the end of the list.
    plain_arguments = len(ctx.needs_input_grad) - 5
    return (ddy, ddh_n, d_x, d_hx, rest[_PLAIN_ARGUMENTS:], *[None] * plain_arguments)


torch.library.register_autograd("gru_ext::gru_bwd", _gru_bwd_backward, setup_context=_gru_bwd_setup_context)
