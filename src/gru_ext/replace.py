"""``replace_gru`` and ``to_torch``: swap the GRUs of a model for ours, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from gru_ext.modules import GRU, GRUCell
from gru_ext.prepared import PreparedGRU, PreparedGRUCell, of_prepared
from gru_ext.quantize import QuantizedGRU, QuantizedGRUCell
from gru_ext.recurrence import Changes
from gru_ext.sharing import check_recurrence, converted, replace_modules

Model = TypeVar("Model", bound=nn.Module)


def replace_gru(model: Model) -> Model | GRU | GRUCell:
    """Make every ``torch.nn.GRU`` and ``torch.nn.GRUCell`` in a model one of ``gru_ext``, in place.

    They stay the same objects with the very same parameters, buffers, hooks (accelerate's too), attributes and modes,
    so that optimizers, ``state_dict`` files and whatever else knows them stay valid. Subclasses are left alone: their
    ``forward`` may be another.

    Args:
        model: any module.

    Returns:
        The model.

    Raises:
        TypeError: ``model`` is no module; or a GRU in it is parametrized, pruned, weight-normed or sharded by itself,
            was compiled in place, or has a method of its own, as by ``gru.forward = f``. Nothing has been replaced
            then.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GRU(64, 256))
        >>> type(gru_ext.replace_gru(model)[1])
        <class 'gru_ext.modules.GRU'>
    """
    replaced: Model | GRU | GRUCell = replace_modules(
        "replace_gru", model, {nn.GRU: _converter(nn.GRU, GRU), nn.GRUCell: _converter(nn.GRUCell, GRUCell)}
    )
    return replaced


def to_torch(model: Model) -> Model | nn.GRU | nn.GRUCell:
    """Make every ``gru_ext.GRU`` and ``gru_ext.GRUCell`` in a model one of ``torch.nn``, in place.

    The inverse of ``replace_gru``, to which the same applies: for a place where gru_ext is not installed.

    Args:
        model: any module.

    Returns:
        The model.

    Raises:
        TypeError: as in ``replace_gru``, or a GRU in the model has int8 weights.
        ValueError: ``torch.nn`` has no such recurrence or output, in training or else. Nothing has been replaced then.

    Example:
        >>> model = torch.nn.Sequential(gru_ext.GRU(64, 256))
        >>> type(gru_ext.to_torch(model)[0])
        <class 'torch.nn.modules.rnn.GRU'>
    """
    replaced: Model | nn.GRU | nn.GRUCell = replace_modules(
        "to_torch",
        model,
        {
            GRU: _converter(GRU, nn.GRU),
            GRUCell: _converter(GRUCell, nn.GRUCell),
            PreparedGRU: of_prepared(_converter(GRU, nn.GRU)),
            PreparedGRUCell: of_prepared(_converter(GRUCell, nn.GRUCell)),
            QuantizedGRU: _refuse_int8,
            QuantizedGRUCell: _refuse_int8,
        },
    )
    return replaced


def _converter(source_type: type[nn.Module], target_type: type[nn.Module]) -> Callable[[str, Any], nn.Module]:
    def convert(operation: str, module: nn.Module) -> nn.Module:
        check_recurrence(operation, module, allowed={Changes.NOTHING})
        return converted(operation, module, source_type, target_type, in_place=True)

    return convert


def _refuse_int8(operation: str, module: nn.Module) -> nn.Module:
    raise TypeError(f"{operation}: expected GRUs with floating weights, got {type(module).__name__}")
