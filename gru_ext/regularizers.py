"""What regularises the recurrence: its rates, and the masks that are drawn for a call.

Masks are drawn outside of the kernels, which so stay functions of their arguments. On a CPU they come from the operator
``bernoulli``, a counter-based generator with threads (csrc/cpu/bernoulli.cpp), seeded by one number of torch's own
generator; elsewhere from torch. ``torch.manual_seed`` repeats them, for any number of threads.

Letters: T steps, B batch, H hidden, D directions (1 or 2), N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gru_ext import library as library  # registers the operator
from gru_ext.variant import Variant

_ops = torch.ops.gru_ext


class Rates(NamedTuple):
    """Probabilities in [0, 1); docs/variants.md has the equations. Zeros are ints, as in ``Variant``."""

    zoneout: float = 0
    recurrent_dropout: float = 0
    candidate_dropout: float = 0
    weight_dropout: float = 0


def regularize(
    recurrence: Variant,
    rates: Rates,
    training: bool,
    x: Tensor,
    hx: Tensor | None,
    batch_sizes: Tensor | None,
    batch: int | None,
    directions: int,
    hidden: int,
) -> Variant:
    """The recurrence of one layer in one call: with fresh masks while training, else with zoneout's expectation.

    ``x`` is (T, B, I), or (N, I) with ``batch_sizes``; ``batch`` is its B where that is known.
    """
    # Not recurrence._replace(), which torch.compile follows only since torch 2.7.
    reset_after, layer_norm = recurrence.reset_after, recurrence.layer_norm
    if not training:
        return Variant(zoneout=rates.zoneout, reset_after=reset_after, layer_norm=layer_norm)

    def mask(rate: float, p: float, rows: int) -> Tensor | None:
        return bernoulli(p, (directions, rows, hidden), x.device) if rate > 0 else None

    def sequences() -> int:
        if batch is not None or hx is not None:
            return batch if hx is None else hx.shape[1]  # type: ignore[return-value]
        return x.shape[1] if batch_sizes is None else int(batch_sizes[0])

    rows = x.shape[0] if batch_sizes is not None else x.shape[0] * x.shape[1]
    dropped = rates.recurrent_dropout > 0
    return Variant(
        zoneout_mask=mask(rates.zoneout, rates.zoneout, rows),
        recurrent_mask=mask(rates.recurrent_dropout, 1 - rates.recurrent_dropout, sequences() if dropped else 0),
        candidate_mask=mask(rates.candidate_dropout, 1 - rates.candidate_dropout, rows),
        recurrent_dropout=rates.recurrent_dropout,
        candidate_dropout=rates.candidate_dropout,
        reset_after=reset_after,
        layer_norm=layer_norm,
    )


def drop_weights(weights: Sequence[Tensor], per_direction: int, rate: float, training: bool) -> Sequence[Tensor]:
    """The weights, those of the recurrent product (3H, H) with dropped elements while training."""
    if rate == 0 or not training:
        return weights
    return [torch.nn.functional.dropout(w, rate) if i % per_direction == 1 else w for i, w in enumerate(weights)]


def bernoulli(p: float, shape: Sequence[int], device: torch.device) -> Tensor:
    """A tensor of bools, true with probability p."""
    if device.type != "cpu":
        return torch.rand(shape, device=device) < p
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64, device=device)
    drawn: Tensor = _ops.bernoulli(seed, shape, p)
    return drawn
