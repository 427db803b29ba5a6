"""Derivatives of the operators, their shapes for tracing, and their rules under ``torch.func``.

Plain autograd uses the C++ node of ``gru_ext::gru`` (csrc/op/autograd.cpp). While a ``torch.func`` transform is
active, which refuses C++ nodes, ``gru_layer`` takes ``GRUFunction`` instead. Both call the operators ``gru_fwd`` and
``gru_bwd``, so that the derivative exists once for each backend. Forward-mode differentiation, and every derivative of
``gru_bwd``, goes through the plain PyTorch of ``reference``.

Letters as in csrc/op/layer.h: T steps, B batch, I input, H hidden, D directions, N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from gru_ext import library as library  # registers the operators
from gru_ext import reference
from gru_ext.padded import check_export
from gru_ext.variant import MASKS, PLAIN, Variant

_ops = torch.ops.gru_ext

Outputs = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, list[Tensor]]


def gru_layer(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    variant: Variant = PLAIN,
    save_y: bool = True,
    save_gates: bool = True,
) -> Outputs:
    """One layer, differentiable in every mode. Arguments and results as ``reference.gru``.

    Without ``save_y`` the caller does without y: it may be of shape (0). Without ``save_gates`` the backward computes
    the gates again.
    """
    if forward_ad._current_level >= 0:
        return reference.gru(x, hx, weights, batch_sizes, bidirectional, variant)
    if torch._C._are_functorch_transforms_active():
        y, h_n, _ = GRUFunction.apply(x, hx, batch_sizes, bidirectional, save_gates, *variant, *weights)
        return y, h_n
    if variant is PLAIN and save_y and save_gates:  # their defaults: to pass each takes a tenth of a microsecond
        plain: Outputs = _ops.gru(x, hx, weights, batch_sizes, bidirectional)
        return plain
    outputs: Outputs = _ops.gru(x, hx, weights, batch_sizes, bidirectional, save_y, save_gates, *variant)
    return outputs


# ---- Shapes and dtypes for tracing


def batch_of_fake(x: Tensor, batch_sizes: Tensor | None) -> int | torch.SymInt:
    """B of x (T, B, I), or of a packed batch: its first size, which is not known while tracing."""
    if batch_sizes is None:
        return x.shape[1]
    if type(batch_sizes) is Tensor and not batch_sizes.is_meta:  # with data on the meta device
        return int(batch_sizes[0]) if batch_sizes.numel() else 0
    return torch.library.get_ctx().new_dynamic_size()


@torch.library.register_fake("gru_ext::gru_fwd")
def _gru_fwd_fake(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    save_gates: bool,
    save_y: bool = True,
    *variant: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    check_export()
    directions = 2 if bidirectional else 1
    hidden = weights[1].shape[1]
    rows = x.shape[0] if batch_sizes is not None else x.shape[0] * x.shape[1]
    batch = hx.shape[1] if hx is not None else batch_of_fake(x, batch_sizes)
    y = x.new_empty((*x.shape[:-1], directions * hidden) if save_y else (0,))
    h_n = x.new_empty((directions, batch, hidden))
    gates = x.new_empty(Variant(*variant).saved_shape(directions, rows, hidden) if save_gates else (0,))
    return y, h_n, gates


@torch.library.register_fake("gru_ext::gru_bwd")
def _gru_bwd_fake(
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
) -> Gradients:
    if not need_dhx:
        dhx_shape: Sequence[int | torch.SymInt] = (0,)
    elif hx is not None or dh_n is not None:
        state = hx if hx is not None else dh_n
        assert state is not None
        dhx_shape = state.shape
    else:
        dhx_shape = (2 if bidirectional else 1, batch_of_fake(x, batch_sizes), weights[1].shape[1])
    dx = x.new_empty(x.shape if need_dx else (0,))
    return dx, x.new_empty(dhx_shape), [w.new_empty(w.shape) for w in weights] if need_dweights else []


# ---- The derivative of the derivative

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
        operator = _ops.gru_bwd_members if _are_members(weights) else _ops.gru_bwd
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
        return _call_with_members(GRUBackwardFunction.apply, info.batch_size, in_dims, args, 11 + _VARIANT)


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
        if not _are_members(weights):
            return of_layer(masks, tensors)
        mask_dims = tuple(None if mask is None else 0 for mask in masks)
        of_members: tuple[Tensor, ...] = torch.func.vmap(of_layer, in_dims=(mask_dims, 0))(masks, tensors)
        return of_members

    return function, [t for t in (*optional, *weights) if t is not None]


def _gru_bwd_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
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


# ---- torch.autograd.grad(is_grads_batched=True), whose vmap is older than torch.func's

_batched = torch.library.Library("gru_ext", "IMPL", "Batched")


def _gru_bwd_batched(*args: Any) -> Gradients:
    dy, dh_n, x, hx, weights, batch_sizes, bidirectional, _, _, _, _, need_dweights, *variant = args
    dx, dhx, dweights = reference.gru_bwd(dy, dh_n, x, hx, weights, batch_sizes, bidirectional, Variant(*variant))
    return dx, dhx, dweights if need_dweights else []


_batched.impl("gru_bwd", _gru_bwd_batched)


# ---- torch.func


class GRUFunction(Function):
    """One layer under ``torch.func``: ``grad`` and ``vmap`` in any order.

    Its last arguments are those of the variant, then the weights. Returns y, h_n and the gates, which are not
    differentiable.
    """

    @staticmethod
    def forward(  # noqa: D102
        x: Tensor,
        hx: Tensor | None,
        batch_sizes: Tensor | None,
        bidirectional: bool,
        save_gates: bool,
        *variant_and_weights: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        variant, weights = variant_and_weights[:_VARIANT], variant_and_weights[_VARIANT:]
        outputs: tuple[Tensor, Tensor, Tensor]
        if _are_members(weights):
            outputs = _ops.gru_fwd_members(x, hx, weights, batch_sizes, bidirectional, save_gates, *variant)
        else:
            outputs = _ops.gru_fwd(x, hx, weights, batch_sizes, bidirectional, save_gates, True, *variant)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:  # noqa: D102
        x, hx, batch_sizes, bidirectional, _, *variant_and_weights = inputs
        y, _, gates = output
        ctx.mark_non_differentiable(gates)
        variant, weights = variant_and_weights[:_VARIANT], variant_and_weights[_VARIANT:]
        ctx.save_for_backward(x, hx, batch_sizes, y, gates, *variant[:MASKS], *weights)
        ctx.rates = variant[MASKS:]
        ctx.bidirectional = bidirectional

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh_n: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, hx, batch_sizes, y, gates, *masks_and_weights = ctx.saved_tensors
        masks, weights = masks_and_weights[:MASKS], masks_and_weights[MASKS:]
        need_dx, need_dhx, *need_rest = ctx.needs_input_grad
        need_dweights = any(need_rest[3 + _VARIANT :])
        dx, dhx, *dweights = GRUBackwardFunction.apply(
            dy,
            dh_n,
            x,
            hx,
            batch_sizes,
            ctx.bidirectional,
            y,
            gates,
            need_dx,
            need_dhx,
            need_dweights,
            *masks,
            *ctx.rates,
            *weights,
        )
        return (
            dx if need_dx else None,
            dhx if need_dhx else None,
            None,
            None,
            None,
            *[None] * _VARIANT,
            *(dweights if need_dweights else [None] * len(weights)),
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:  # noqa: D102
        x, hx, batch_sizes, bidirectional, save_gates, *rest = args
        x_dim, hx_dim, _, _, _, *rest_dims = in_dims
        weight_dims = rest_dims[_VARIANT:]
        if any(dim is not None for dim in weight_dims) or _are_members(rest[_VARIANT:]):
            return _call_with_members(GRUFunction.apply, info.batch_size, in_dims, args, 5 + _VARIANT)
        # Rows do not depend on one another: the samples become rows of one larger batch (B, V), V inner, which keeps a
        # packed batch sorted.
        samples = info.batch_size
        sizes = None if batch_sizes is None else batch_sizes * samples
        variant = [
            _samples_as_rows(value, dim, samples) if isinstance(value, Tensor) else value
            for value, dim in zip(rest[:_VARIANT], rest_dims[:_VARIANT], strict=True)
        ]
        y, h_n, gates = GRUFunction.apply(
            _samples_as_rows(x, x_dim, samples),
            _samples_as_rows(hx, hx_dim, samples),
            sizes,
            bidirectional,
            save_gates,
            *variant,
            *rest[_VARIANT:],
        )
        y, h_n = (t.unflatten(-2, (-1, samples)).movedim(-2, 0) for t in (y, h_n))
        if not save_gates:
            return (y, h_n, gates), (0, 0, None)
        return (y, h_n, gates.unflatten(1, (-1, samples)).movedim(2, 0)), (0, 0, 0)


def _samples_as_rows(tensor: Tensor | None, dim: int | None, samples: int) -> Tensor | None:
    """(..., B, F) with the samples in dimension ``dim``, or the same for all where None, to (..., B * samples, F)."""
    if tensor is None:
        return None
    if dim is None:
        tensor = tensor.unsqueeze(-2).expand(*tensor.shape[:-1], samples, tensor.shape[-1])
    else:
        tensor = tensor.movedim(dim, -2)
    return tensor.flatten(-3, -2)


# ---- Members: layers with weights of their own, along a first dimension E of every tensor but batch_sizes


def _are_members(weights: Sequence[Tensor]) -> bool:
    """Whether the weights are those of members: weight_ih (E, 3H, I)."""
    return weights[0].dim() == 3


def _call_with_members(
    function: Callable[..., Any], samples: int, in_dims: Sequence[Any], args: Sequence[Any], first_weight: int
) -> Any:
    """Call ``GRUFunction`` or ``GRUBackwardFunction`` once, with the samples of a vmap as members.

    Where the arguments have members already, each of these becomes one for each sample.
    """
    nested = args[first_weight].dim() - (in_dims[first_weight] is not None) == 3

    def with_members(value: Any, dim: int | None) -> Any:
        if not isinstance(value, Tensor) or value.dtype == torch.int64:  # batch_sizes, the same for all
            return value
        members = value.movedim(dim, 0) if dim is not None else value.expand(samples, *value.shape)
        return members.flatten(0, 1) if nested else members

    results = function(*map(with_members, args, in_dims))
    if nested:
        results = tuple(result.unflatten(0, (samples, -1)) for result in results)
    return results, (0,) * len(results)
