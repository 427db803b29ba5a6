"""Between a GRU whose recurrent weights are block-diagonal and a dense one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from gru_ext.modules import GRU, GRUCell
from gru_ext.recurrence import DEFAULTS, check_blocks, check_blocks_of, check_options
from gru_ext.reference import block_diagonal, diagonal_blocks
from gru_ext.sharing import check_type, check_weights

Layer = TypeVar("Layer", GRU, GRUCell)


def to_dense(gru: Layer) -> Layer:
    """The GRU, or cell, of the same results with ``blocks=1``: weight_hh is zero outside of the blocks.

    Args:
        gru: a ``gru_ext.GRU`` or ``gru_ext.GRUCell``.

    Returns:
        A copy with other recurrent weights, which are dense: training may fill the zeros.

    Raises:
        TypeError: as in ``GRU.from_torch``.
        ValueError: with ``layer_norm``, each block is normalised for itself, which no dense GRU does.

    Example:
        >>> gru_ext.convert.to_dense(gru_ext.GRU(3, 4, blocks=2)).weight_hh_l0.shape
        torch.Size([12, 4])
    """
    check_type("to_dense", "gru", gru, GRU, GRUCell)
    before: int = gru._gru_ext_options["blocks"]
    if before != 1 and gru._gru_ext_options["layer_norm"] is not False and gru._gru_ext_options["norm_over"] != "layer":
        raise ValueError(
            'to_dense: expected gru with norm_over="layer" where it has layer_norm, as a dense one is normalised, got'
            f" norm_over={gru._gru_ext_options['norm_over']!r}"
        )
    return _with_blocks("to_dense", gru, 1, lambda weight: block_diagonal(weight, before))


def to_blocks(gru: Layer, blocks: int) -> Layer:
    """The GRU, or cell, of a number of blocks that is nearest to a dense one: weight_hh loses what is outside of them.

    Of all block-diagonal matrices it has the least sum of squared differences. Where there is nothing outside of the
    blocks, as after ``to_dense``, the results are the same.

    Args:
        gru: a ``gru_ext.GRU`` or ``gru_ext.GRUCell``.
        blocks: number of blocks; it divides the number of hidden units.

    Returns:
        A copy with other recurrent weights; with ``layer_norm``, of ``norm_over="layer"``.

    Raises:
        TypeError: as in ``GRU.from_torch``, or ``blocks`` is no int.
        ValueError: ``blocks`` is below 1 or does not divide H, or ``gru`` has blocks already.

    Example:
        >>> gru_ext.convert.to_blocks(gru_ext.GRU(3, 4), 2).weight_hh_l0.shape
        torch.Size([12, 2])
    """
    check_type("to_blocks", "gru", gru, GRU, GRUCell)
    blocks = check_blocks("to_blocks", "blocks", blocks)
    check_blocks_of("to_blocks", gru.hidden_size, blocks)
    before = gru._gru_ext_options["blocks"]
    if before != 1:
        raise ValueError(f"to_blocks: expected gru with blocks=1, got blocks={before}; to_dense makes it dense")
    return _with_blocks("to_blocks", gru, blocks, lambda weight: diagonal_blocks(weight, blocks))


def _with_blocks(function: str, gru: Layer, blocks: int, convert: Callable[[Tensor], Tensor]) -> Layer:
    names = [name for name in gru._parameters if name.startswith("weight_hh")]
    check_weights(function, gru, names)
    made = copy.deepcopy(gru)
    over = DEFAULTS["norm_over"] if blocks == 1 or gru._gru_ext_options["layer_norm"] is False else "layer"
    made._gru_ext_options = check_options(function, {**gru._gru_ext_options, "blocks": blocks, "norm_over": over})
    for name in names:
        weight = gru._parameters[name]
        assert weight is not None
        made._parameters[name] = nn.Parameter(convert(weight.detach()).clone(), weight.requires_grad)
    return made
