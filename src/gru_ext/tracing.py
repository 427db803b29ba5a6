"""What each operator returns without its data: shapes and dtypes, for ``torch.compile``, ``torch.export`` and meta.

Letters as in csrc/op/layer.h: T steps, B batch, I input, H hidden, D directions, N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gru_ext import library as library  # registers the operators
from gru_ext.onnx_export import check_export
from gru_ext.variant import Variant


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
    for tensor in (*weights, *(() if hx is None else (hx,))):
        if tensor.device != x.device:  # of what is on meta alone, this is the only check
            raise RuntimeError(f"gru: expected all tensors on the device of x, {x.device}, got {tensor.device}")
    directions = 2 if bidirectional else 1
    hidden = weights[1].shape[1]
    rows = x.shape[0] if batch_sizes is not None else x.shape[0] * x.shape[1]
    batch = hx.shape[1] if hx is not None else _batch(x, batch_sizes)
    y = x.new_empty((*x.shape[:-1], directions * hidden) if save_y else (0,))
    h_n = x.new_empty((directions, batch, hidden))
    gates = x.new_empty(Variant(*variant).saved_shape(directions, rows, hidden) if save_gates else (0,))
    return y, h_n, gates


@torch.library.register_fake("gru_ext::gru_bwd")
@torch.library.register_fake("gru_ext::gru_bwd_blocks")
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
) -> tuple[Tensor, Tensor, list[Tensor]]:
    state = hx if hx is not None else dh_n
    if not need_dhx:
        dhx_shape: Sequence[int | torch.SymInt] = (0,)
    elif state is not None:
        dhx_shape = state.shape
    else:
        dhx_shape = (2 if bidirectional else 1, _batch(x, batch_sizes), weights[0].shape[0] // 3)
    dx = x.new_empty(x.shape if need_dx else (0,))
    return dx, x.new_empty(dhx_shape), [w.new_empty(w.shape) for w in weights] if need_dweights else []


@torch.library.register_fake("gru_ext::gru_fwd_members")
def _gru_fwd_members_fake(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    save_gates: bool = True,
    *variant: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    one, state, of_weights, *varied = _of_one([x, hx, weights, *variant])
    y, h_n, gates = _gru_fwd_fake(one, state, of_weights, batch_sizes, bidirectional, save_gates, True, *varied)
    return _of_members(y, x), _of_members(h_n, x), _of_members(gates, x)


@torch.library.register_fake("gru_ext::gru_bwd_members")
def _gru_bwd_members_fake(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    dy, dh_n, x, hx, weights, batch_sizes, *others = args
    dx, dhx, dweights = _gru_bwd_fake(*_of_one([dy, dh_n, x, hx, weights]), batch_sizes, *_of_one(others))
    return _of_members(dx, x), _of_members(dhx, x), [_of_members(dweight, x) for dweight in dweights]


def _of_one(arguments: Sequence[Any]) -> list[Any]:
    """The arguments of one member: each tensor without its first dimension."""
    return [
        [tensor[0] for tensor in a] if isinstance(a, list | tuple) else a[0] if isinstance(a, Tensor) else a
        for a in arguments
    ]


def _of_members(of_one: Tensor, x: Tensor) -> Tensor:
    """As many as x (E, ...) has members."""
    return of_one.new_empty((x.shape[0], *of_one.shape))


@torch.library.register_fake("gru_ext::gru_fwd_blocks")
def _gru_fwd_blocks_fake(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    save_gates: bool = True,
    *variant: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    check_export()
    units = weights[1].shape[1]
    blocks = weights[0].shape[0] // (3 * units)
    directions = 2 if bidirectional else 1
    rows = x.shape[0] if batch_sizes is not None else x.shape[0] * x.shape[1]
    batch = hx.shape[1] if hx is not None else _batch(x, batch_sizes)
    saved = Variant(*variant).saved_shape(directions, rows, units) if save_gates else (0,)
    y = x.new_empty((*x.shape[:-1], directions * blocks * units))
    return y, x.new_empty((directions, batch, blocks * units)), x.new_empty((blocks, *saved))


@torch.library.register_fake("gru_ext::gru_int8")
def _gru_int8_fake(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    blocks: int = 1,
) -> tuple[Tensor, Tensor]:
    check_export()
    directions = 2 if bidirectional else 1
    hidden = weights[3].shape[0] // 3
    batch = hx.shape[1] if hx is not None else _batch(x, batch_sizes)
    return x.new_empty((*x.shape[:-1], directions * hidden)), x.new_empty((directions, batch, hidden))


@torch.library.register_fake("gru_ext::gru_padded")
def _gru_padded_fake(
    x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], lengths: Tensor, bidirectional: bool, reset_after: bool
) -> tuple[Tensor, Tensor]:
    directions, hidden = 2 if bidirectional else 1, weights[1].shape[1]
    steps, batch = x.shape[:2]
    return x.new_empty((steps, batch, directions * hidden)), x.new_empty((directions, batch, hidden))


@torch.library.register_fake("gru_ext::segments")
def _segments_fake(
    lengths: Tensor | None, resets: Tensor | None, steps: int, batch: int, batch_first: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size

    def indices(*shape: int | torch.SymInt) -> Tensor:
        return torch.empty(shape, dtype=torch.int64, device=device)

    rows = steps * batch if lengths is None else size()
    count = batch if lengths is None and resets is None else size()
    sizes = torch.empty((size(),), dtype=torch.int64, device="cpu")
    return indices(rows), sizes, indices(2, count), indices(2, batch)


@torch.library.register_fake("gru_ext::bernoulli")
def _bernoulli_fake(seed: Tensor, shape: Sequence[int], p: float) -> Tensor:
    return torch.empty(shape, dtype=torch.bool, device=seed.device)


def _batch(x: Tensor, batch_sizes: Tensor | None) -> int | torch.SymInt:
    """B of x (T, B, I), or of a packed batch: its first size, which is not known while tracing."""
    if batch_sizes is None:
        return x.shape[1]
    if type(batch_sizes) is Tensor and not batch_sizes.is_meta:  # with data on the meta device
        return int(batch_sizes[0]) if batch_sizes.numel() else 0
    return torch.library.get_ctx().new_dynamic_size()
