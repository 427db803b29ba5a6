"""``replace_gru``: swap the GRUs of a model for ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from gru_ext.modules import GRU, GRUCell

Model = TypeVar("Model", bound=nn.Module)


def replace_gru(model: Model) -> Model | GRU | GRUCell:
    """Swap every ``torch.nn.GRU`` and ``torch.nn.GRUCell`` in a model, in place, parameters shared.

    The parameters, hooks and mode are the very ones, so optimizers and ``state_dict`` files stay valid. Subclasses are
    left alone: their ``forward`` may be another. A module used in several places stays one module.

    Args:
        model: any module.

    Returns:
        The model; or, where it is itself a GRU or GRUCell, its replacement.

    Raises:
        TypeError: a GRU in it is parametrized, pruned or weight-normed; nothing has been replaced then.
    """
    makers: dict[type[nn.Module], Callable[[Any], nn.Module]] = {nn.GRU: GRU.from_torch, nn.GRUCell: GRUCell.from_torch}
    replaced: Model | GRU | GRUCell = replace_modules("replace_gru", model, makers)
    return replaced


def replace_modules(
    function: str, model: nn.Module, makers: Mapping[type[nn.Module], Callable[[Any], nn.Module]]
) -> Any:
    """Swap every module of exactly a type in ``makers`` for what that makes of it, in place.

    Raises:
        TypeError: a module of such a type is parametrized; nothing has been replaced then, nor where a maker raises.
    """
    replacements: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, tuple(makers)) and is_parametrized(module):
            raise TypeError(
                f"{function}: expected modules with plain parameters, got {type(module).__name__};"
                " remove parametrizations, pruning and weight norm first"
            )
        if type(module) in makers:
            replacements[module] = makers[type(module)](module)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replacements:
                setattr(parent, name, replacements[child])
    return replacements.get(model, model)
