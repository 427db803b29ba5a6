"""What ``torch.utils.flop_counter.FlopCounterMode`` counts of the operators, as of the products of ``torch.nn.GRU``.

A product of (m, k) and (k, n) counts 2 m k n; the gates count nothing. Letters as in csrc/op/layer.h: D directions, N
rows of all steps, B batch, I input, H hidden, E members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from gru_ext import library as library  # registers the operators

_ops = torch.ops.gru_ext

Shape = Sequence[int]


def _sizes(x: Shape, weight_hh: Shape, bidirectional: bool) -> tuple[int, int, int, int]:
    """E*D*N, I, H and columns of R, of x (..., I) and weight_hh (..., 3H, H), or of G blocks (3H, H / G)."""
    return math.prod(x[:-1]) * (2 if bidirectional else 1), x[-1], weight_hh[-2] // 3, weight_hh[-1]


@register_flop_formula([_ops.gru, _ops.gru_fwd, _ops.gru_fwd_members, _ops.gru_fwd_blocks])
def _forward(
    x: Shape,
    hx: Shape | None,
    weights: Sequence[Shape],
    batch_sizes: Shape | None,
    bidirectional: bool,
    *_: Any,
    **__: Any,
) -> int:
    rows, inputs, hidden, columns = _sizes(x, weights[1], bidirectional)
    return 2 * rows * 3 * hidden * (inputs + columns)


@register_flop_formula([_ops.gru_bwd, _ops.gru_bwd_members, _ops.gru_bwd_blocks])
def _backward(
    dy: Shape | None,
    dh_n: Shape | None,
    x: Shape,
    hx: Shape | None,
    weights: Sequence[Shape],
    batch_sizes: Shape | None,
    bidirectional: bool,
    y: Shape,
    gates: Shape,
    need_dx: bool,
    need_dhx: bool,
    need_dweights: bool,
    *_: Any,
    **__: Any,
) -> int:
    rows, inputs, hidden, columns = _sizes(x, weights[1], bidirectional)
    first = 0  # rows of first steps, the gradient of whose state no one needs
    if not need_dhx:
        packed = batch_sizes is not None
        state = hx if hx is not None else dh_n  # (..., B, H); of a packed batch without either B is not known
        batch = x[-2] if not packed else 0 if state is None else state[-2]
        first = math.prod(x[: -2 if packed else -3]) * (2 if bidirectional else 1) * batch
    gates_again = rows * (inputs + columns) if math.prod(gates) == 0 else 0
    of_inputs, of_weights = rows * inputs * need_dx, rows * (inputs + columns) * need_dweights
    return 2 * 3 * hidden * (of_inputs + (rows - first) * columns + of_weights + gates_again)


@register_flop_formula(_ops.gru_prepared)
def _prepared(x: Shape, hx: Shape | None, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) == 2)


@register_flop_formula(_ops.gru_int8)
def _int8(
    x: Shape,
    hx: Shape | None,
    weights: Sequence[Shape],
    batch_sizes: Shape | None,
    bidirectional: bool,
    blocks: int = 1,
    *_: Any,
    **__: Any,
) -> int:
    rows = math.prod(x[:-1]) * (2 if bidirectional else 1)
    hidden = weights[3][0] // 3
    return 2 * rows * 3 * hidden * (x[-1] + hidden // blocks)
