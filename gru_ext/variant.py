"""What varies of the recurrence of a layer: the arguments that the operators have besides the layer itself."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Variant(NamedTuple):
    """In the order and with the defaults of the operators' schemas (csrc/operators.h); docs/variants.md has equations.

    Letters as in csrc/gru.h: D directions, B batch, H hidden, N rows of all steps.
    """

    zoneout_mask: Tensor | None = None  # (D, N, H) bool: the units that keep their state in a step
    recurrent_mask: Tensor | None = None  # (D, B, H) bool: the units whose state enters the recurrent product
    candidate_mask: Tensor | None = None  # (D, N, H) bool: the units whose candidate n enters the state
    zoneout: float = 0.0  # without zoneout_mask: the part of its state that every unit keeps
    recurrent_dropout: float = 0.0  # what recurrent_mask lets through is divided by 1 - recurrent_dropout
    candidate_dropout: float = 0.0  # likewise
    reset_after: bool = True  # whether the reset gate comes after the recurrent product, or before it

    @property
    def saved_gates(self) -> int:
        """How many values of H units a step leaves for its derivative."""
        return 4 if self.reset_after else 3


PLAIN = Variant()

MASKS = 3  # how many of the first fields are tensors
