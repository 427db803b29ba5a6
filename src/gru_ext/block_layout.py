"""Weights, states and options of a GRU with block-diagonal recurrent weights as those of its blocks, and back.

weight_hh has its rows in the order of ``torch.nn.GRU``, gates first: block g of gate k is the rows
[k H + g H / G, k H + (g + 1) H / G), as in every weight.

Letters: G blocks, H hidden, D directions (1 or 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gru_ext.variant import MASKS, Variant


def rows_of_blocks(weight: Tensor, blocks: int) -> Tensor:
    """A weight (3H, ...) of a direction as those of its blocks: (G, 3 H / G, ...)."""
    gates: Tensor = weight.unflatten(0, (3, blocks, -1))
    return gates.transpose(0, 1).flatten(1, 2)


def join_rows(of_blocks: Tensor) -> Tensor:
    """What ``rows_of_blocks`` undoes."""
    gates: Tensor = of_blocks.unflatten(1, (3, -1))
    return gates.transpose(0, 1).flatten(0, 2)


def units_of_blocks(units: Tensor, blocks: int) -> Tensor:
    """(..., H) to (G, ..., H / G)."""
    of_blocks: Tensor = units.unflatten(-1, (blocks, -1))
    return of_blocks.movedim(-2, 0)


def join_units(of_blocks: Tensor, directions: int = 1) -> Tensor:
    """(G, ..., D * H / G), of directions side by side, to (..., D * H)."""
    of_directions: Tensor = of_blocks.unflatten(-1, (directions, -1))
    return of_directions.movedim(0, -2).flatten(-3)


def states_of_blocks(states: Tensor, blocks: int, directions: int) -> Tensor:
    """(..., D * H) to (G, ..., D * H / G): what ``join_units`` undoes."""
    of_directions: Tensor = states.unflatten(-1, (directions, blocks, -1))
    return of_directions.movedim(-2, 0).flatten(-2)


def variant_of_block(varied: Variant, g: int) -> Variant:
    """That of block g."""
    masks: tuple[Any, ...] = varied[:MASKS]
    own: list[Any] = [None if mask is None else mask[g] for mask in masks]
    return Variant(*own, *varied[MASKS:])


def variant_of_blocks(variant: Sequence[Any], blocks: int) -> Variant:
    """Each mask (..., H) as (G, ..., H / G)."""
    masks: list[Any] = [None if mask is None else units_of_blocks(mask, blocks) for mask in variant[:MASKS]]
    return Variant(*masks, *variant[MASKS:])
