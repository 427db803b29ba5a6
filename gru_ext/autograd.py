"""Derivatives of the operators, their shapes for tracing, and their rules under ``torch.func``.

Plain autograd uses the C++ node of ``gru_ext::gru`` (csrc/autograd.cpp). While a ``torch.func`` transform or
forward-mode differentiation is active, which refuse C++ nodes, ``gru_layer`` takes ``GRUFunction`` instead. Both call
the operators ``gru_fwd`` and ``gru_bwd``, so that the derivative exists once for each backend.

Letters as in csrc/gru.h: T steps, B batch, I input, H hidden, D directions, N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from gru_ext import _C as _C  # registers the operators
from gru_ext import reference

_ops = torch.ops.gru_ext

Outputs = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, list[Tensor]]


def gru_layer(
    x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], batch_sizes: Tensor | None, bidirectional: bool
) -> Outputs:
    """One layer, differentiable in every mode. Arguments and results as ``reference.gru``."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        y, h_n, _ = GRUFunction.apply(x, hx, batch_sizes, bidirectional, *weights)
        return y, h_n
    outputs: Outputs = _ops.gru(x, hx, weights, batch_sizes, bidirectional)
    return outputs


# ---- Shapes and dtypes for tracing


@torch.library.register_fake("gru_ext::gru_fwd")
def _gru_fwd_fake(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    save_gates: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    directions = 2 if bidirectional else 1
    hidden = weights[1].shape[1]
    rows = x.shape[0] if batch_sizes is not None else x.shape[0] * x.shape[1]
    if batch_sizes is None:
        batch: int | torch.SymInt = x.shape[1]
    elif hx is not None:
        batch = hx.shape[1]
    else:
        batch = torch.library.get_ctx().new_dynamic_size()
    y = x.new_empty((*x.shape[:-1], directions * hidden))
    h_n = x.new_empty((directions, batch, hidden))
    gates = x.new_empty((directions, rows, 4, hidden) if save_gates else (0,))
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
) -> Gradients:
    if not need_dhx:
        dhx_shape: Sequence[int | torch.SymInt] = (0,)
    elif hx is not None or dh_n is not None:
        state = hx if hx is not None else dh_n
        assert state is not None
        dhx_shape = state.shape
    else:
        batch = x.shape[1] if batch_sizes is None else torch.library.get_ctx().new_dynamic_size()
        dhx_shape = (gates.shape[0], batch, gates.shape[-1])
    dx = x.new_empty(x.shape if need_dx else (0,))
    return dx, x.new_empty(dhx_shape), [w.new_empty(w.shape) for w in weights] if need_dweights else []


# ---- The derivative of the derivative

# Arguments of gru_bwd that have no derivative: batch_sizes, bidirectional, y, gates and the three needs.
_PLAIN_ARGUMENTS = 7


class GRUBackwardFunction(Function):
    """``gru_bwd`` as a differentiable function of (dy, dh_n, x, hx, weights); y and gates follow from the others.

    Returns dx, dhx and every gradient of a weight, flat.
    """

    generate_vmap_rule = True

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
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        dx, dhx, dweights = _ops.gru_bwd(
            dy, dh_n, x, hx, weights, batch_sizes, bidirectional, y, gates, need_dx, need_dhx, need_dweights
        )
        return (dx, dhx, *dweights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: D102
        dy, dh_n, x, hx, batch_sizes, bidirectional, _, _, need_dx, need_dhx, need_dweights, *weights = inputs
        ctx.save_for_backward(dy, dh_n, x, hx, batch_sizes, *weights)
        ctx.save_for_forward(dy, dh_n, x, hx, batch_sizes, *weights)
        ctx.bidirectional = bidirectional
        ctx.need = (need_dx, need_dhx, need_dweights)

    @staticmethod
    def backward(ctx: Any, ddx: Tensor, ddhx: Tensor, *ddweights: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        dy, dh_n, x, hx, batch_sizes, *weights = ctx.saved_tensors
        need_dx, need_dhx, _ = ctx.need
        function, primals = _gru_bwd_of_tensors(dy, dh_n, x, hx, weights, batch_sizes, ctx.bidirectional, ctx.need)
        cotangents = (*([ddx] if need_dx else []), *([ddhx] if need_dhx else []), *ddweights)
        vjp = _vjp(function, primals)[1]
        given = iter(vjp(cotangents))
        ddy, ddh_n, d_x, d_hx = (None if p is None else next(given) for p in (dy, dh_n, x, hx))
        return (ddy, ddh_n, d_x, d_hx, *[None] * _PLAIN_ARGUMENTS, *given)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:  # noqa: D102
        dy, dh_n, x, hx, batch_sizes, *weights = ctx.saved_tensors
        function, primals = _gru_bwd_of_tensors(dy, dh_n, x, hx, weights, batch_sizes, ctx.bidirectional, ctx.need)
        given = zip((dy, dh_n, x, hx, *weights), (*tangents[:4], *tangents[4 + _PLAIN_ARGUMENTS :]), strict=True)
        results = iter(_jvp(function, primals, [t for p, t in given if p is not None]))
        need_dx, need_dhx, _ = ctx.need
        not_needed = x.new_empty(0)
        return (next(results) if need_dx else not_needed, next(results) if need_dhx else not_needed, *results)


def _gru_bwd_of_tensors(
    dy: Tensor | None,
    dh_n: Tensor | None,
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    need: tuple[bool, bool, bool],
) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """``reference.gru_bwd`` as a function of those of (dy, dh_n, x, hx, *weights) that are given, and these.

    The function returns the needed ones of dx, dhx and the weights' gradients, flat.
    """
    optional = (dy, dh_n, x, hx)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        dy, dh_n, x, hx = (None if t is None else next(given) for t in optional)
        assert x is not None
        dx, dhx, dweights = reference.gru_bwd(dy, dh_n, x, hx, list(given), batch_sizes, bidirectional)
        need_dx, need_dhx, need_dweights = need
        return (*([dx] if need_dx else []), *([dhx] if need_dhx else []), *(dweights if need_dweights else []))

    return function, [t for t in (*optional, *weights) if t is not None]


def _jvp(
    function: Callable[..., tuple[Tensor, ...]], primals: Sequence[Tensor], tangents: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Tangents of the function's results; a tangent that is None is zero.

    The vector-Jacobian product is linear in its vector, and its transpose is the Jacobian-vector product; unlike
    ``torch.func.jvp`` this may run inside another forward-mode differentiation.
    """
    results, vjp = _vjp(function, primals)
    _, transposed = _vjp(vjp, [tuple(torch.zeros_like(r) for r in results)])
    filled = tuple(torch.zeros_like(p) if t is None else t for p, t in zip(primals, tangents, strict=True))
    products: tuple[tuple[Tensor, ...]] = transposed(filled)
    return products[0]


def _vjp(function: Callable[..., Any], primals: Sequence[Any]) -> tuple[Any, Callable[..., Any]]:
    """``torch.func.vjp``: the function's results, and the map of their gradients to those of the primals."""
    results, vjp, *_ = torch.func.vjp(function, *primals)
    return results, vjp


def _gru_bwd_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
    dy, dh_n, x, hx, weights, batch_sizes, bidirectional, _, _, need_dx, need_dhx, need_dweights = inputs
    ctx.save_for_backward(dy, dh_n, x, hx, batch_sizes, *weights)
    ctx.bidirectional = bidirectional
    ctx.need = (need_dx, need_dhx, need_dweights)


def _gru_bwd_backward(ctx: Any, ddx: Tensor, ddhx: Tensor, ddweights: Sequence[Tensor | None]) -> tuple[Any, ...]:
    if ctx.need[2]:
        filled = [
            torch.zeros_like(w) if dd is None else dd for w, dd in zip(ctx.saved_tensors[5:], ddweights, strict=True)
        ]
    else:
        filled = []
    ddy, ddh_n, d_x, d_hx, *rest = GRUBackwardFunction.backward(ctx, ddx, ddhx, *filled)
    return (ddy, ddh_n, d_x, d_hx, rest[_PLAIN_ARGUMENTS:], *[None] * _PLAIN_ARGUMENTS)


torch.library.register_autograd("gru_ext::gru_bwd", _gru_bwd_backward, setup_context=_gru_bwd_setup_context)


# ---- torch.func


class GRUFunction(Function):
    """One layer under ``torch.func``: ``grad``, ``vmap`` and ``jvp`` in any order.

    Returns y, h_n and the gates, which are not differentiable.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(  # noqa: D102
        x: Tensor,
        hx: Tensor | None,
        batch_sizes: Tensor | None,
        bidirectional: bool,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor, Tensor] = _ops.gru_fwd(x, hx, weights, batch_sizes, bidirectional, True)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:  # noqa: D102
        x, hx, batch_sizes, bidirectional, *weights = inputs
        y, _, gates = output
        ctx.mark_non_differentiable(gates)
        ctx.save_for_backward(x, hx, batch_sizes, y, gates, *weights)
        ctx.save_for_forward(x, hx, batch_sizes, *weights)
        ctx.bidirectional = bidirectional

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh_n: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, hx, batch_sizes, y, gates, *weights = ctx.saved_tensors
        need_dx, need_dhx, _, _, *need_each = ctx.needs_input_grad
        need_dweights = any(need_each)
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
            *weights,
        )
        return (
            dx if need_dx else None,
            dhx if need_dhx else None,
            None,
            None,
            *(dweights if need_dweights else [None] * len(weights)),
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor, None]:  # noqa: D102
        x, hx, batch_sizes, *weights = ctx.saved_tensors
        state = [] if hx is None else [hx]

        def layer(x: Tensor, *others: Tensor) -> Outputs:
            hx = others[0] if state else None
            return reference.gru(x, hx, others[len(state) :], batch_sizes, ctx.bidirectional)

        given = [tangents[0], *([] if hx is None else [tangents[1]]), *tangents[4:]]
        tangent_y, tangent_h_n = _jvp(layer, (x, *state, *weights), given)
        return tangent_y, tangent_h_n, None


def _at(value: Any, dim: Any, index: int) -> Any:
    """One sample of an argument of a batched operator: a tensor, a list of tensors, or anything not batched."""
    if isinstance(value, (list, tuple)):
        dims = dim if isinstance(dim, (list, tuple)) else [dim] * len(value)
        return [_at(v, d, index) for v, d in zip(value, dims, strict=True)]
    return value.select(dim, index) if isinstance(value, Tensor) and dim is not None else value


def _one_by_one(op: Callable[..., Any], batch: int, in_dims: Sequence[Any], args: Sequence[Any]) -> Any:
    """Call the operator on every sample and stack the results along a new first dimension."""
    samples = [op(*(_at(a, d, i) for a, d in zip(args, in_dims, strict=True))) for i in range(batch)]
    results = [
        [torch.stack(list(group)) for group in zip(*values, strict=True)]
        if isinstance(values[0], (list, tuple))
        else torch.stack(list(values))
        for values in zip(*samples, strict=True)
    ]
    dims = [[0] * len(r) if isinstance(r, list) else 0 for r in results]
    return tuple(results), tuple(dims)


@torch.library.register_vmap("gru_ext::gru_fwd")
def _gru_fwd_vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
    x, hx, weights, batch_sizes, bidirectional, save_gates = args
    x_dim, hx_dim, weight_dims, _, _, _ = in_dims
    if any(dim is not None for dim in (weight_dims if isinstance(weight_dims, (list, tuple)) else [weight_dims])):
        return _one_by_one(_ops.gru_fwd, info.batch_size, in_dims, args)
    # Rows do not depend on one another: the samples become rows of one larger batch, (B, V) with V inner, which is
    # right for a packed batch too.
    V = info.batch_size  # noqa: N806

    def rows(tensor: Tensor | None, dim: int | None) -> Tensor | None:
        if tensor is None:
            return None
        tensor = (
            tensor.movedim(dim, -2)
            if dim is not None
            else tensor.unsqueeze(-2).expand(*tensor.shape[:-1], V, tensor.shape[-1])
        )
        return tensor.flatten(-3, -2)

    sizes = None if batch_sizes is None else batch_sizes * V
    y, h_n, gates = _ops.gru_fwd(rows(x, x_dim), rows(hx, hx_dim), weights, sizes, bidirectional, save_gates)
    y = y.unflatten(-2, (-1, V))
    h_n = h_n.unflatten(-2, (-1, V))
    if save_gates:
        gates = gates.unflatten(1, (-1, V)).movedim(2, 0)
    return (y.movedim(-2, 0), h_n.movedim(-2, 0), gates), (0, 0, 0 if save_gates else None)


@torch.library.register_vmap("gru_ext::gru_bwd")
def _gru_bwd_vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
    # Each sample has gradients of the weights of its own.
    return _one_by_one(_contiguous_gru_bwd, info.batch_size, in_dims, args)


def _contiguous_gru_bwd(*args: Any) -> Any:
    """``gru_bwd`` of one sample, whose y and gates are slices of a batched tensor."""
    *before, y, gates, need_dx, need_dhx, need_dweights = args
    return _ops.gru_bwd(*before, y.contiguous(), gates.contiguous(), need_dx, need_dhx, need_dweights)
