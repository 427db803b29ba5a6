"""Exports to ONNX: only ``convert.to_onnx`` knows our operators; and the operator it records for ``lengths``.

Letters: T steps, B batch, I input, H hidden, D directions (1 or 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

from gru_ext.autograd import gru_layer
from gru_ext.layout import Outputs
from gru_ext.segments import run_segments
from gru_ext.variant import PLAIN, Variant


class NoCounterpartError(NotImplementedError):
    """What a layer does and ONNX's GRU cannot."""


by_to_onnx: ContextVar[bool] = ContextVar("by_to_onnx", default=False)  # whether an export is that of to_onnx


def check_export() -> None:
    """Raise NoCounterpartError in an export to ONNX that does not know our operators."""
    if torch.onnx.is_in_onnx_export() and not by_to_onnx.get():
        raise NoCounterpartError(
            "torch.onnx.export: expected gru_ext.convert.to_onnx(model, args), which makes ONNX's GRU of gru_ext's, got"
            " torch.onnx.export; or convert the model with gru_ext.to_torch first"
        )


torch.library.define(
    "gru_ext::gru_padded",
    "(Tensor x, Tensor? hx, Tensor[] weights, Tensor lengths, bool bidirectional, bool reset_after)"
    " -> (Tensor y, Tensor h_n)",
)


@torch.library.impl("gru_ext::gru_padded", "CompositeExplicitAutograd")
def _gru_padded(
    x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], lengths: Tensor, bidirectional: bool, reset_after: bool
) -> Outputs:
    directions, hidden = 2 if bidirectional else 1, weights[1].shape[1]
    variant = PLAIN if reset_after else Variant(reset_after=False)

    def run(x: Tensor, hx: Tensor | None, batch_sizes: Tensor, segments: int) -> Outputs:
        return gru_layer(x, hx, weights, batch_sizes, bidirectional, variant)

    return run_segments(run, x, hx, directions, directions, hidden, False, lengths, None, None, "all")


def gru_padded(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    lengths: Tensor | Sequence[int] | int,
    bidirectional: bool,
    variant: Variant,
) -> Outputs:
    """One layer: x (T, B, I), hx (D, B, H) or None, ``lengths`` (B) to y (T, B, D*H) and h_n (D, B, H).

    Raises:
        RuntimeError: the shape of ``lengths`` is wrong.
        NoCounterpartError: the recurrence varies by more than ``reset_after``.
    """
    for name, value, default in zip(variant._fields, variant, PLAIN, strict=True):
        if name != "reset_after" and (isinstance(value, Tensor) or value != default):
            raise NoCounterpartError(f"to_onnx: ONNX's GRU has no {name}: expected {default!r}, got {value!r}")
    lengths = torch.as_tensor(lengths).reshape(-1)
    if lengths.shape[0] != x.shape[1]:
        raise RuntimeError(f"gru: expected lengths of shape (B) = ({x.shape[1]},), got {tuple(lengths.shape)}")
    outputs: Outputs = torch.ops.gru_ext.gru_padded(x, hx, weights, lengths, bidirectional, variant.reset_after)
    return outputs
