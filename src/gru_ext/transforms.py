"""The operators under ``torch.func``, ``torch.vmap``, and the older vmap of ``torch.autograd.grad``.

Letters as in csrc/op/layer.h: T steps, B batch, I input, H hidden, D directions, N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gru_ext import library as library  # registers the operators
from gru_ext import reference
from gru_ext.double_backward import GRUBackwardFunction
from gru_ext.members import are_members, call_with_members
from gru_ext.torch_internals import in_forward_mode
from gru_ext.variant import MASKS, PLAIN, Variant

_ops = torch.ops.gru_ext

_VARIANT = len(PLAIN)


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
        if are_members(weights):
            outputs = _ops.gru_fwd_members(x, hx, weights, batch_sizes, bidirectional, save_gates, *variant)
        else:
            outputs = _ops.gru_fwd(x, hx, weights, batch_sizes, bidirectional, save_gates, True, *variant)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:  # noqa: D102
        x, hx, batch_sizes, bidirectional, _, *variant_and_weights = inputs
        y, _, gates = output
        ctx.mark_non_differentiable(gates)
        ctx.set_materialize_grads(False)  # else there were zeros for the gates, which are large
        variant, weights = variant_and_weights[:_VARIANT], variant_and_weights[_VARIANT:]
        ctx.save_for_backward(x, hx, batch_sizes, y, gates, *variant[:MASKS], *weights)
        ctx.rates = variant[MASKS:]
        ctx.bidirectional = bidirectional

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh_n: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, hx, batch_sizes, y, gates, *masks_and_weights = ctx.saved_tensors
        masks, weights = masks_and_weights[:MASKS], masks_and_weights[MASKS:]
        need_dx, need_dhx, *need_rest = ctx.needs_input_grad
        need = (need_dx, need_dhx, any(need_rest[3 + _VARIANT :]))
        variant = (*masks, *ctx.rates)
        if in_forward_mode() and not are_members(weights):
            dx, dhx, dweights = _gru_bwd_by_reference(
                dy, dh_n, x, hx, weights, batch_sizes, ctx.bidirectional, y, gates, *need, *variant
            )
        else:
            dx, dhx, *dweights = GRUBackwardFunction.apply(
                dy, dh_n, x, hx, batch_sizes, ctx.bidirectional, y, gates, *need, *variant, *weights
            )
        of_weights = dweights if need[2] else [None] * len(weights)
        return (dx if need_dx else None, dhx if need_dhx else None, *[None] * (3 + _VARIANT), *of_weights)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:  # noqa: D102
        x, hx, batch_sizes, bidirectional, save_gates, *rest = args
        x_dim, hx_dim, _, _, _, *rest_dims = in_dims
        weight_dims = rest_dims[_VARIANT:]
        if any(dim is not None for dim in weight_dims) or are_members(rest[_VARIANT:]):
            return call_with_members(GRUFunction.apply, info.batch_size, in_dims, args, 5 + _VARIANT)
        # Rows do not depend on one another: the samples become rows of one larger batch (B, V), V inner, which keeps a
        # packed batch sorted.
        samples = info.batch_size
        sizes = None if batch_sizes is None else batch_sizes * samples
        variant = [
            _samples_as_rows(value, dim, samples) if isinstance(value, Tensor) else value
            for value, dim in zip(rest[:_VARIANT], rest_dims[:_VARIANT], strict=True)
        ]
        rows, states = _samples_as_rows(x, x_dim, samples), _samples_as_rows(hx, hx_dim, samples)
        y, h_n, gates = GRUFunction.apply(rows, states, sizes, bidirectional, save_gates, *variant, *rest[_VARIANT:])
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


@torch.library.register_vmap("gru_ext::bernoulli")
def _bernoulli_vmap(info: Any, in_dims: Any, seed: Tensor, shape: Sequence[int], p: float) -> tuple[Tensor, int]:
    # vmap's randomness="different": a seed for each sample.
    return torch.stack([_ops.bernoulli(s, shape, p) for s in seed.unbind(in_dims[0])]), 0


# ---- The backward in plain PyTorch, where a transform or forward mode began after the forward


def _gru_bwd_by_reference(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    dy, dh_n, x, hx, weights, batch_sizes, bidirectional, _, _, _, _, need_dweights, *variant = args
    with torch.autocast(x.device.type, enabled=False):  # of which the operator knows nothing either
        dx, dhx, dweights = reference.gru_bwd(dy, dh_n, x, hx, weights, batch_sizes, bidirectional, Variant(*variant))
    return dx, dhx, dweights if need_dweights else []


_library = torch.library.Library("gru_ext", "IMPL")
_library.impl("gru_bwd_by_reference", _gru_bwd_by_reference, "CompositeImplicitAutograd")
_library.impl("gru_bwd_by_reference", _gru_bwd_by_reference, "FuncTorchBatchedDecomposition")

# torch.autograd.grad(is_grads_batched=True), whose vmap is older than torch.func's, and no transform of it.
_library.impl("gru_bwd", _gru_bwd_by_reference, "Batched")
