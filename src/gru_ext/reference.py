"""The GRU in plain PyTorch: forward and hand-written backward, the executable specification of the operators.

Every kernel is tested against this file in float64. It runs on any device and dtype, is differentiable any number of
times, in both modes of differentiation, and under ``vmap``: the derivative of the derivative is taken through it.

Letters: T steps, B batch, I input, H hidden, D directions (1 or 2), N rows of all steps. Gate order is r, z, n.
Equations and their derivation: ``docs/equations.md``. The recurrence is that of ``torch.nn.GRU``: Cho et al. 2014
(https://arxiv.org/abs/1406.1078) with the reset gate applied after the recurrent product; or, without
``variant.reset_after``, before it, as in the paper. With ``variant.layer_norm`` the products are normalised: Ba, Kiros,
Hinton 2016 (https://arxiv.org/abs/1607.06450).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from gru_ext.variant import PLAIN, Variant


class Gates(NamedTuple):
    """What a step leaves for its derivative; each of shape (rows, H)."""

    r: Tensor
    z: Tensor
    n: Tensor
    q: Tensor  # R_n h + b_hn, before the reset gate; where that comes before the product: r * h, which R_n multiplies


class Weights(NamedTuple):
    """The parameters of one direction; the biases are None in a layer without them."""

    ih: Tensor  # (3H, I)
    hh: Tensor  # (3H, H)
    bias_ih: Tensor | None  # (3H)
    bias_hh: Tensor | None  # (3H)
    gain_ih: Tensor | None = None  # (3H); both gains with layer_norm, else none
    gain_hh: Tensor | None = None  # (3H)


class StepMasks(NamedTuple):
    """What multiplies the values of a step: each a tensor (rows, H), a number for all units, or None for no effect."""

    kept: Tensor | float | None = None  # the part of its state that a unit keeps: zoneout
    recurrent: Tensor | None = None  # factor of h where it enters the recurrent product
    candidate: Tensor | None = None  # factor of n where it enters the state


NO_MASKS = StepMasks()


def _times(mask: Tensor | None, value: Tensor) -> Tensor:
    return value if mask is None else mask * value


NORM_EPSILON = 1e-5  # as torch.nn.LayerNorm and haste have it


class Normalized(NamedTuple):
    """W x or R h, normalised; for each of its normalisations."""

    hat: Tensor  # (..., 3H)
    inverse_std: list[Tensor]  # of shape (..., 1): 1 / sqrt(variance + eps)


def _of_norms(values: Tensor, layer_norm: int) -> list[Tensor]:
    """(..., 3H) to what is normalised together: r, z and n; or r and z, and n."""
    size = values.shape[-1] // 3
    return [values] if layer_norm == 1 else [values[..., : 2 * size], values[..., 2 * size :]]


def _widened(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def normalize(values: Tensor, layer_norm: int) -> Normalized:
    """Subtract the mean over units, of (..., 3H), and divide by the standard deviation.

    As torch.nn.functional.layer_norm does, half precisions are computed in float32.
    """
    hats, inverses = [], []
    for part in _of_norms(_widened(values), layer_norm):
        centred = part - part.mean(-1, keepdim=True)
        inverses.append((centred.square().mean(-1, keepdim=True) + NORM_EPSILON).rsqrt())
        hats.append(centred * inverses[-1])
    return Normalized(torch.cat(hats, dim=-1).to(values.dtype), inverses)


def normalize_bwd(d: Tensor, normalized: Normalized) -> Tensor:
    """The gradient of the values, given that of ``hat``, both (..., 3H)."""
    count = len(normalized.inverse_std)
    of_d, of_hat = (_of_norms(_widened(values), count) for values in (d, normalized.hat))
    parts = [
        (d - d.mean(-1, keepdim=True) - hat * (d * hat).mean(-1, keepdim=True)) * inverse
        for d, hat, inverse in zip(of_d, of_hat, normalized.inverse_std, strict=True)
    ]
    return torch.cat(parts, dim=-1).to(normalized.hat.dtype)


def _affine(normalized: Normalized, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    assert gain is not None
    return normalized.hat * gain if bias is None else normalized.hat * gain + bias


def cell_fwd_layer_norm(
    a_x: Tensor, h: Tensor, weights: Weights, layer_norm: int, masks: StepMasks = NO_MASKS
) -> tuple[Tensor, Gates, Normalized]:
    """``cell_fwd`` with the recurrent product normalised; ``a_x`` is already. Returns that product too."""
    normalized = normalize(_times(masks.recurrent, h) @ weights.hh.t(), layer_norm)
    return *_gates_fwd(a_x, _affine(normalized, weights.gain_hh, weights.bias_hh), h, masks), normalized


def cell_fwd(
    a_x: Tensor,
    h: Tensor,
    weights: Weights,
    masks: StepMasks = NO_MASKS,
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Gates]:
    """One step: ``a_x = W x + b_ih`` of shape (rows, 3H) and the state h (rows, H) to the next state and the gates.

    ``rounded`` is what rounds the state for the product, if anything does.
    """
    operand = _times(masks.recurrent, h)
    if rounded is not None:
        operand = rounded(operand)
    a_h = torch.nn.functional.linear(operand, weights.hh, weights.bias_hh)
    return _gates_fwd(a_x, a_h, h, masks)


def cell_fwd_reset_before(
    a_x: Tensor, h: Tensor, weights: Weights, masks: StepMasks = NO_MASKS
) -> tuple[Tensor, Gates]:
    """``cell_fwd`` with the reset gate before the recurrent product."""
    size = 2 * h.shape[-1]
    bias_rz, bias_n = (None, None) if weights.bias_hh is None else (weights.bias_hh[:size], weights.bias_hh[size:])
    operand = _times(masks.recurrent, h)
    rz = torch.sigmoid(a_x[..., :size] + torch.nn.functional.linear(operand, weights.hh[:size], bias_rz))
    r, z = rz.chunk(2, dim=-1)
    reset = r * operand
    n = torch.tanh(a_x[..., size:] + torch.nn.functional.linear(reset, weights.hh[size:], bias_n))
    return _next_state(z, n, h, masks), Gates(r, z, n, reset)


def _gates_fwd(a_x: Tensor, a_h: Tensor, h: Tensor, masks: StepMasks = NO_MASKS) -> tuple[Tensor, Gates]:
    x_r, x_z, x_n = a_x.chunk(3, dim=-1)
    h_r, h_z, q = a_h.chunk(3, dim=-1)
    r = torch.sigmoid(x_r + h_r)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * q)
    return _next_state(z, n, h, masks), Gates(r, z, n, q)


def _next_state(z: Tensor, n: Tensor, h: Tensor, masks: StepMasks) -> Tensor:
    c = _times(masks.candidate, n)
    new = c + z * (h - c)
    return new if masks.kept is None else masks.kept * h + (1 - masks.kept) * new


def cell_bwd(gates: Gates, h: Tensor, d: Tensor, masks: StepMasks = NO_MASKS) -> tuple[Tensor, Tensor, Tensor]:
    """Derivative of one step for d = dL/dh' (rows, H).

    Returns the part of dL/dh that does not pass through the recurrent product, d * z without masks; dL/da_x (rows, 3H),
    that is (dr, dz, dn); and dL/da_h (rows, 3H), that is (dr, dz, dq).
    """
    r, _, _, q = gates
    past_product, dz, dn = _next_state_bwd(gates, h, d, masks)
    dr = dn * q * r * (1 - r)
    dq = dn * r
    return past_product, torch.cat([dr, dz, dn], dim=-1), torch.cat([dr, dz, dq], dim=-1)


def cell_bwd_reset_before(
    gates: Gates, h: Tensor, d: Tensor, weights: Weights, masks: StepMasks = NO_MASKS
) -> tuple[Tensor, Tensor]:
    """Derivative of one step with the reset gate before the recurrent product: dL/dh, and (dr, dz, dn).

    These are both dL/da_x and the gradients of the results of the recurrent products.
    """
    r, size = gates.r, 2 * h.shape[-1]
    past_product, dz, dn = _next_state_bwd(gates, h, d, masks)
    dreset = dn @ weights.hh[size:]
    dr = dreset * _times(masks.recurrent, h) * r * (1 - r)
    drz = torch.cat([dr, dz], dim=-1)
    through_products = _times(masks.recurrent, dreset * r + drz @ weights.hh[:size])
    return past_product + through_products, torch.cat([drz, dn], dim=-1)


def _next_state_bwd(gates: Gates, h: Tensor, d: Tensor, masks: StepMasks) -> tuple[Tensor, Tensor, Tensor]:
    """The part of dL/dh that does not pass through a product, dz and dn."""
    _, z, n, _ = gates
    d_new = d if masks.kept is None else (1 - masks.kept) * d
    dn = _times(masks.candidate, d_new * (1 - z)) * (1 - n * n)
    dz = d_new * (h - _times(masks.candidate, n)) * z * (1 - z)
    past_product = d_new * z if masks.kept is None else masks.kept * d + d_new * z
    return past_product, dz, dn


def split_weights(weights: Sequence[Tensor], bidirectional: bool, layer_norm: int = 0) -> list[Weights]:
    """The operators' flat list of weights, one ``Weights`` per direction."""
    directions = 2 if bidirectional else 1
    count = len(weights) // directions
    gains = 2 if layer_norm > 0 else 0
    split = []
    for first in range(0, len(weights), count):
        of_direction = weights[first : first + count]
        biases = of_direction[2 : count - gains] or (None, None)
        split.append(Weights(*of_direction[:2], *biases, *of_direction[count - gains :]))
    return split


def _rows_of_steps(batch_sizes: Tensor) -> list[int]:
    """``batch_sizes.tolist()``, which torch before 2.7 cannot do within a ``torch.func`` transform."""
    return [int(rows) for rows in batch_sizes.unbind()]


def _has_no_steps(batch_sizes: Tensor | None) -> bool:
    """Whether all sequences of a packed batch are empty, or there are none."""
    return batch_sizes is not None and batch_sizes.shape[0] == 0


def _no_rows(x: Tensor, w: Weights) -> Tensor:
    """The output (0, H) of a direction for x (0, I): of all weights, so that each has a gradient, of zeros."""
    hidden = w.hh.shape[1]
    rows = x @ w.ih[:hidden].t() @ w.hh[:hidden]
    for vector in w[2:]:
        if vector is not None:
            rows = rows + vector[:hidden]
    return rows


def _split_steps(rows: Tensor, batch_sizes: Tensor | None) -> list[Tensor]:
    """(T, B, F) or, packed, (N, F) to one (rows, F) for each step."""
    if batch_sizes is None:
        return list(rows.unbind(0))
    return list(torch.split(rows, _rows_of_steps(batch_sizes)))


def _join_steps(steps: Sequence[Tensor], batch_sizes: Tensor | None) -> Tensor:
    return torch.stack(list(steps)) if batch_sizes is None else torch.cat(list(steps))


def _first_rows(state: Tensor, rows: int) -> Tensor:
    """The rows of the state (B, H) that belong to the sequences that have this step."""
    return state if rows == state.shape[0] else state[:rows]


def _replace_rows(state: Tensor, rows: Tensor) -> Tensor:
    """The state (B, H) with its first rows replaced: those of the sequences that have this step."""
    return rows if rows.shape[0] == state.shape[0] else torch.cat([rows, state[rows.shape[0] :]])


def _step_masks(
    variant: Variant, direction: int, batch_sizes: Tensor | None, steps: int, like: Tensor
) -> list[StepMasks]:
    """The masks of each step of a direction, in the dtype of ``like``, the state (B, H)."""

    def of_steps(mask: Tensor | None) -> list[Tensor] | list[None]:  # (D, N, H)
        if mask is None:
            return [None] * steps
        rows = mask[direction].to(like.dtype)
        return _split_steps(rows if batch_sizes is not None else rows.unflatten(0, (steps, -1)), batch_sizes)

    kept: Sequence[Tensor | float | None] = of_steps(variant.zoneout_mask)
    if variant.zoneout_mask is None and variant.zoneout > 0:
        kept = [variant.zoneout] * steps
    candidate = of_steps(variant.candidate_mask)
    recurrent: Sequence[Tensor | None] = [None] * steps
    if variant.recurrent_mask is not None:
        factor = variant.recurrent_mask[direction].to(like.dtype) / (1 - variant.recurrent_dropout)
        rows = [like.shape[0]] * steps if batch_sizes is None else _rows_of_steps(batch_sizes)
        recurrent = [_first_rows(factor, count) for count in rows]
    keep = 1 - variant.candidate_dropout
    return [
        StepMasks(k, h, None if n is None else n / keep) for k, h, n in zip(kept, recurrent, candidate, strict=True)
    ]


class _Pass(NamedTuple):
    """One direction, forward."""

    y: list[Tensor]  # T times (rows, H), in the order of time
    h_n: Tensor  # (B, H)
    h_prev: list[Tensor]  # T times (rows, H): the state before each step
    gates: list[Gates]  # T times
    masks: list[StepMasks]  # T times
    # With layer_norm: W x of all rows, normalised, and R h of each step.
    input_norm: Normalized | None
    hidden_norms: list[Normalized]


def _in_order(steps: int, reverse: bool) -> range:
    return range(steps - 1, -1, -1) if reverse else range(steps)


def _forward_direction(
    x: Tensor,
    h: Tensor,
    weights: Weights,
    batch_sizes: Tensor | None,
    direction: int,
    variant: Variant,
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> _Pass:
    input_norm = None
    if variant.layer_norm > 0:
        input_norm = normalize(x @ weights.ih.t(), variant.layer_norm)
        a_x = _split_steps(_affine(input_norm, weights.gain_ih, weights.bias_ih), batch_sizes)
    else:
        a_x = _split_steps(torch.nn.functional.linear(x, weights.ih, weights.bias_ih), batch_sizes)
    y: dict[int, Tensor] = {}
    h_prev: dict[int, Tensor] = {}
    gates: dict[int, Gates] = {}
    norms: dict[int, Normalized] = {}
    steps = len(a_x)
    masks = _step_masks(variant, direction, batch_sizes, steps, like=h)
    for t in _in_order(steps, reverse=direction == 1):
        h_prev[t] = _first_rows(h, a_x[t].shape[0])
        if variant.layer_norm > 0:
            y[t], gates[t], norms[t] = cell_fwd_layer_norm(a_x[t], h_prev[t], weights, variant.layer_norm, masks[t])
        else:
            cell = partial(cell_fwd, rounded=rounded) if variant.reset_after else cell_fwd_reset_before
            y[t], gates[t] = cell(a_x[t], h_prev[t], weights, masks[t])
        h = _replace_rows(h, y[t])
    in_time = range(steps)
    return _Pass(
        [y[t] for t in in_time],
        h,
        [h_prev[t] for t in in_time],
        [gates[t] for t in in_time],
        masks,
        input_norm,
        [norms[t] for t in in_time if t in norms],
    )


def _initial_state(
    x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], batch_sizes: Tensor | None, bidirectional: bool
) -> Tensor:
    if hx is not None:
        return hx
    batch = x.shape[1] if batch_sizes is None else int(batch_sizes[:1].sum())
    return x.new_zeros((2 if bidirectional else 1, batch, weights[1].shape[1]))


def gru(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
    bidirectional: bool = False,
    variant: Variant = PLAIN,
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run one layer.

    Args:
        x: (T, B, I); or (N, I) with ``batch_sizes``.
        hx: (D, B, H) initial state; None for zero.
        weights: for each direction weight_ih (3H, I), weight_hh (3H, H) and, with biases, bias_ih (3H), bias_hh (3H);
            with layer_norm, last, gain_ih (3H), gain_hh (3H).
        batch_sizes: (T) int64 on the CPU, the rows of each step of a packed batch, not increasing.
        bidirectional: D = 2; the second direction runs from the last step to the first.
        variant: masks, rates, the place of the reset gate, and normalisations.
        rounded: what rounds the state (rows, H) for the recurrent product of a plain or masked layer. Default None: it
            is multiplied as it is.

    Returns:
        y of shape (T, B, D*H), or (N, D*H) where packed, and h_n (D, B, H).
    """
    h0 = _initial_state(x, hx, weights, batch_sizes, bidirectional)
    if _has_no_steps(batch_sizes):
        split = split_weights(weights, bidirectional, variant.layer_norm)
        return torch.cat([_no_rows(x, w) for w in split], dim=-1), h0
    passes = [
        _forward_direction(x, h0[d], w, batch_sizes, d, variant, rounded)
        for d, w in enumerate(split_weights(weights, bidirectional, variant.layer_norm))
    ]
    y = torch.cat([_join_steps(p.y, batch_sizes) for p in passes], dim=-1)
    return y, torch.stack([p.h_n for p in passes])


def gru_bwd(
    dy: Tensor | None,
    dh_n: Tensor | None,
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
    bidirectional: bool = False,
    variant: Variant = PLAIN,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradients of ``gru``, by hand.

    Args:
        dy: gradient of y, in y's shape; None for zero.
        dh_n: gradient of h_n, (D, B, H); None for zero.
        x: as in ``gru``.
        hx: as in ``gru``.
        weights: as in ``gru``.
        batch_sizes: as in ``gru``.
        bidirectional: as in ``gru``.
        variant: as in ``gru``.

    Returns:
        dx in x's shape, dhx (D, B, H), and the gradients of the weights in their order and shapes.
    """
    h0 = _initial_state(x, hx, weights, batch_sizes, bidirectional)
    if _has_no_steps(batch_sizes):
        zeros = [torch.zeros_like(weight) for weight in weights]
        return torch.zeros_like(x), torch.zeros_like(h0) if dh_n is None else dh_n, zeros
    dy_directions = None if dy is None else dy.chunk(2, dim=-1) if bidirectional else [dy]
    x_rows = x.flatten(0, -2)
    dx: Tensor | None = None
    dhx: list[Tensor] = []
    dweights: list[Tensor] = []
    for d, w in enumerate(split_weights(weights, bidirectional, variant.layer_norm)):
        forward = _forward_direction(x, h0[d], w, batch_sizes, d, variant)
        dy_steps = None if dy_directions is None else _split_steps(dy_directions[d], batch_sizes)
        dh = torch.zeros_like(h0[d]) if dh_n is None else dh_n[d]
        da_x: dict[int, Tensor] = {}
        da_h: dict[int, Tensor] = {}
        dproduct: dict[int, Tensor] = {}  # of the recurrent products
        steps = len(forward.y)
        for t in _in_order(steps, reverse=d == 0):
            d_state = _first_rows(dh, forward.h_prev[t].shape[0])
            if dy_steps is not None:
                d_state = d_state + dy_steps[t]
            gates, h_prev, masks = forward.gates[t], forward.h_prev[t], forward.masks[t]
            if variant.reset_after:
                past_product, da_x[t], da_h[t] = cell_bwd(gates, h_prev, d_state, masks)
                dproduct[t] = da_h[t]
                if w.gain_hh is not None:
                    dproduct[t] = normalize_bwd(da_h[t] * w.gain_hh, forward.hidden_norms[t])
                d_prev = past_product + _times(masks.recurrent, dproduct[t] @ w.hh)
            else:
                d_prev, da_x[t] = cell_bwd_reset_before(gates, h_prev, d_state, w, masks)
                dproduct[t] = da_h[t] = da_x[t]
            dh = _replace_rows(dh, d_prev)
        dhx.append(dh)
        da_x_rows = torch.cat([da_x[t] for t in range(steps)])
        da_h_rows = torch.cat([da_h[t] for t in range(steps)])
        operand = torch.cat([_times(m.recurrent, h) for m, h in zip(forward.masks, forward.h_prev, strict=True)])
        dproduct_rows = torch.cat([dproduct[t] for t in range(steps)])
        dweight_hh = dproduct_rows.t() @ operand
        if not variant.reset_after:
            of_n = slice(2 * operand.shape[-1], None)
            dweight_n = dproduct_rows[:, of_n].t() @ torch.cat([gates.q for gates in forward.gates])
            dweight_hh = torch.cat([dweight_hh[: of_n.start], dweight_n])
        dinput = da_x_rows
        dgains: list[Tensor] = []
        if forward.input_norm is not None and w.gain_ih is not None:
            hat, inverse_std = forward.input_norm
            input_norm = Normalized(hat.flatten(0, -2), [inverse.flatten(0, -2) for inverse in inverse_std])
            hidden_hat = torch.cat([norm.hat for norm in forward.hidden_norms])
            dgains = [(da_x_rows * input_norm.hat).sum(0), (da_h_rows * hidden_hat).sum(0)]
            dinput = normalize_bwd(da_x_rows * w.gain_ih, input_norm)
        dweights += [dinput.t() @ x_rows, dweight_hh]
        if w.bias_ih is not None:
            dweights += [da_x_rows.sum(0), da_h_rows.sum(0)]
        dweights += dgains
        dx_direction = (dinput @ w.ih).reshape(x.shape)
        dx = dx_direction if dx is None else dx + dx_direction
    assert dx is not None
    return dx, torch.stack(dhx), dweights


# ---- Block-diagonal recurrent weights


def block_diagonal(weight_hh: Tensor, blocks: int) -> Tensor:
    """The dense weight_hh (3H, H) of G blocks (3H, H / G), zero outside of them: it has the same results."""
    of_gates = weight_hh.unflatten(0, (3, blocks, -1))  # (3, G, H / G, H / G)
    dense = weight_hh.new_zeros((3, blocks, of_gates.shape[2], blocks, weight_hh.shape[1]))
    dense.diagonal(dim1=1, dim2=3).copy_(of_gates.movedim(1, -1))
    return dense.flatten(3).flatten(0, 2)


def diagonal_blocks(weight_hh: Tensor, blocks: int) -> Tensor:
    """The G blocks (3H, H / G) on the diagonals of a dense weight_hh (3H, H)."""
    parts: Tensor = weight_hh.unflatten(0, (3, blocks, -1)).unflatten(-1, (blocks, -1))
    return parts.diagonal(dim1=1, dim2=3).movedim(-1, 1).flatten(0, 2)


# ---- Weights of int8


LARGEST_INT8 = 127  # so that negative numbers have the same range
SMALLEST_ROW = 1e-36  # rows below this magnitude count as zero: 127 / magnitude would overflow


class Int8Weights(NamedTuple):
    """The weights of one direction, rounded by ``quantize_rows``; the biases are None in a layer without them."""

    ih: Tensor  # (3H, I) int8
    hh: Tensor  # (3H, H) int8
    scale_ih: Tensor  # (3H)
    scale_hh: Tensor  # (3H)
    bias_ih: Tensor | None  # (3H)
    bias_hh: Tensor | None  # (3H)


def scales_of_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """What rows (..., K) are multiplied by to be rounded to int8, and their scales, both (..., 1).

    The scale is the row's largest magnitude / 127: zero, and its inverse too, where that is below ``SMALLEST_ROW``; NaN
    where an element is not finite.
    """
    # amax alone has no value for a row of no columns.
    magnitude = torch.nn.functional.pad(rows.abs(), (0, 1)).amax(-1, keepdim=True)
    inverse = torch.where(magnitude < SMALLEST_ROW, 0.0, LARGEST_INT8 / magnitude)
    scale = torch.where(magnitude < SMALLEST_ROW, 0.0, magnitude / LARGEST_INT8)
    return inverse, torch.where(magnitude.isfinite(), scale, torch.nan)


def quantize_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Round a float32 matrix (rows, K) to int8, each row with a scale of its own: it is about ``int8 * scale``.

    Returns:
        The rounded matrix, int8 (rows, K), from -127 to 127, zero in a row that is not finite; and the scales (rows).
    """
    inverse, scale = scales_of_rows(matrix)
    rounded = torch.where(scale.isfinite(), (matrix * inverse).round(), 0.0).to(torch.int8)
    return rounded, scale.squeeze(-1)


def fake_quantize_rows(rows: Tensor) -> Tensor:
    """Rows (..., K) rounded as by ``quantize_rows``, in their own dtype: ``int8 * scale``.

    The gradient passes straight through: it is that of the rows as they were.
    """
    # Through integers, which have no derivative of any mode: detach() and no_grad() let tangents pass.
    wide = _widened(rows)
    values = wide.resolve_neg().view(torch.int64 if wide.dtype == torch.float64 else torch.int32).view(wide.dtype)
    inverse, scale = (torch.where(s == 0, 1.0, s) for s in scales_of_rows(values))
    # Not torch's fake_quantize operators, which have neither symbolic shapes nor tangents. This has their bits, unless
    # a compiler fuses it: the difference is exact, and so is the sum.
    units = values * inverse
    to_integers = units.round().clamp(-LARGEST_INT8, LARGEST_INT8) - units
    return ((wide * inverse + to_integers) * scale).to(rows.dtype)


def _linear_int8(rows: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    rounded, row_scale = quantize_rows(rows)
    product = rounded.double() @ weight.double().t() * row_scale.double().unsqueeze(1) * scale.double()
    return product if bias is None else product + bias.double()


def cell_int8(x: Tensor, h: Tensor, weights: Int8Weights) -> Tensor:
    """One step with weights of int8: x (rows, I) and the state h (rows, H), float32, to the next state in float64."""
    a_x = _linear_int8(x, weights.ih, weights.scale_ih, weights.bias_ih)
    a_h = _linear_int8(h, weights.hh, weights.scale_hh, weights.bias_hh)
    return _gates_fwd(a_x, a_h, h.double())[0]
