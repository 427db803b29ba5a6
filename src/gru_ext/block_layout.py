"""Weights, states and options of a GRU with block-diagonal recurrent weights as those of its blocks, and back.

weight_hh has its rows in the order of ``torch.nn.GRU``, gates first: block g of gate k is the rows
[k H + g H / G, k H + (g + 1) H / G), as in every weight.

Letters: G blocks, H hidden, D directions (1 or 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def layer_of_blocks(
    hx: Tensor | None, weights: Sequence[Tensor], variant: Sequence[Any], blocks: int
) -> tuple[Tensor | None, list[Tensor], Variant]:
    """The state (D, B, H), the weights and the masks (..., H) of a layer, each with the blocks first."""
    masks: list[Any] = [None if mask is None else units_of_blocks(mask, blocks) for mask in variant[:MASKS]]
    states = None if hx is None else units_of_blocks(hx, blocks)
    return states, [rows_of_blocks(weight, blocks) for weight in weights], Variant(*masks, *variant[MASKS:])


def each_block(
    hx: Tensor | None, weights: Sequence[Tensor], variant: Sequence[Any], blocks: int
) -> Iterator[tuple[Tensor | None, list[Tensor], Variant]]:
    """Those of one block after the other, each a layer of H / G units."""
    states, members, varied = layer_of_blocks(hx, weights, variant, blocks)
    masks: tuple[Any, ...] = varied[:MASKS]
    for g in range(blocks):
        own: list[Any] = [None if mask is None else mask[g] for mask in masks]
        yield None if states is None else states[g], [w[g] for w in members], Variant(*own, *varied[MASKS:])
