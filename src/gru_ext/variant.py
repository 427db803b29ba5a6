"""What varies of the recurrence of a layer: the arguments that the operators have besides the layer itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Variant(NamedTuple):
    """In the order and with the defaults of the operators' schemas (csrc/op/schemas.h); docs/variants.md has equations.

    Letters as in csrc/op/layer.h: D directions, B batch, H hidden, N rows of all steps. Rates of zero are ints, which
    ``torch.compile`` takes as constant, while it makes floats variables of the graph.
    """

    zoneout_mask: Tensor | None = None  # (D, N, H) bool: the units that keep their state in a step
    recurrent_mask: Tensor | None = None  # (D, B, H) bool: the units whose state enters the recurrent product
    candidate_mask: Tensor | None = None  # (D, N, H) bool: the units whose candidate n enters the state
    zoneout: float = 0  # without zoneout_mask: the part of its state that every unit keeps
    recurrent_dropout: float = 0  # what recurrent_mask lets through is divided by 1 - recurrent_dropout
    candidate_dropout: float = 0  # likewise
    reset_after: bool = True  # whether the reset gate comes after the recurrent product, or before it
    # Normalisations of each of W x and R h: 0, none; 1, of r, z, n together; 2, of r and z together, and of n.
    layer_norm: int = 0

    def saved_shape(self, directions: int, rows: Any, hidden: int) -> Sequence[Any]:
        """The shape of what all steps leave for their derivative, as csrc/op/layer.h describes it."""
        if self.layer_norm > 0:
            return directions, rows, 9 * hidden + 16
        return directions, rows, 4 if self.reset_after else 3, hidden


PLAIN = Variant()

MASKS = 3  # how many of the first fields are tensors
