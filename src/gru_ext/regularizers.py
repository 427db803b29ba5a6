"""The recurrence of a call, of its options, and the masks that are drawn for it.

Masks are drawn outside of the kernels, which so stay functions of their arguments. On a CPU they come from the operator
``bernoulli``, a counter-based generator with threads (csrc/cpu/bernoulli.cpp), seeded by one number of torch's own
generator; elsewhere from torch. ``torch.manual_seed`` repeats them, for any number of threads.

Letters: T steps, B batch, H hidden, D directions (1 or 2), N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gru_ext import library as library  # registers the operator
from gru_ext.recurrence import normalizations
from gru_ext.variant import PLAIN, Variant

_ops = torch.ops.gru_ext


_NONE = 0  # a rate without effect, as options keep it


def recurrence_of(options: Mapping[str, Any], training: bool) -> Variant | None:
    """The recurrence of all layers of a call; None where ``masked_recurrence`` draws masks for each layer."""
    zoneout, layer_norm, reset_after = options["zoneout"], options["layer_norm"], options["reset_after"]
    # A cell has no recurrent_dropout.
    if zoneout is options["candidate_dropout"] is options.get("recurrent_dropout", _NONE) is _NONE:
        if reset_after and layer_norm is False:
            return PLAIN
    elif training:
        return None
    return Variant(zoneout=zoneout, reset_after=reset_after, layer_norm=normalizations(layer_norm))


def masked_recurrence(
    options: Mapping[str, Any],
    x: Tensor,
    hx: Tensor | None,
    batch_sizes: Tensor | None,
    batch: int | None,
    directions: int,
    hidden: int,
) -> Variant:
    """The recurrence of one layer in one call of training, with fresh masks.

    ``x`` is (T, B, I), or (N, I) with ``batch_sizes``; ``batch`` is its B where that is known.
    """
    zoneout, candidate_dropout = options["zoneout"], options["candidate_dropout"]
    recurrent_dropout = options.get("recurrent_dropout", _NONE)

    def mask(rate: float, p: float, rows: int) -> Tensor | None:
        return bernoulli(p, (directions, rows, hidden), x.device) if rate > 0 else None

    def sequences() -> int:
        if batch is not None or hx is not None:
            return batch if hx is None else hx.shape[1]  # type: ignore[return-value]
        return x.shape[1] if batch_sizes is None else int(batch_sizes[0])

    rows = x.shape[0] if batch_sizes is not None else x.shape[0] * x.shape[1]
    return Variant(
        zoneout_mask=mask(zoneout, zoneout, rows),
        recurrent_mask=mask(recurrent_dropout, 1 - recurrent_dropout, sequences() if recurrent_dropout > 0 else 0),
        candidate_mask=mask(candidate_dropout, 1 - candidate_dropout, rows),
        recurrent_dropout=recurrent_dropout,
        candidate_dropout=candidate_dropout,
        reset_after=options["reset_after"],
        layer_norm=normalizations(options["layer_norm"]),
    )


def drop_weights(weights: Sequence[Tensor], per_direction: int, rate: float) -> Sequence[Tensor]:
    """The weights, those of the recurrent product (3H, H) with dropped elements."""
    return [torch.nn.functional.dropout(w, rate) if i % per_direction == 1 else w for i, w in enumerate(weights)]


def bernoulli(p: float, shape: Sequence[int], device: torch.device) -> Tensor:
    """A tensor of bools, true with probability p."""
    if device.type != "cpu":
        return torch.rand(shape, device=device) < p
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64, device=device)
    drawn: Tensor = _ops.bernoulli(seed, shape, p)
    return drawn
