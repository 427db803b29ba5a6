"""``replace_gru``: swap the GRUs of a model for ours."""

from __future__ import annotations

from typing import TypeVar

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
    replacements: dict[nn.Module, GRU | GRUCell] = {}
    for module in model.modules():
        if isinstance(module, (nn.GRU, nn.GRUCell)) and is_parametrized(module):
            raise TypeError(
                f"replace_gru: expected modules with plain parameters, got {type(module).__name__};"
                " remove parametrizations, pruning and weight norm first"
            )
        if type(module) is nn.GRU:
            replacements[module] = GRU.from_torch(module)
        elif type(module) is nn.GRUCell:
            replacements[module] = GRUCell.from_torch(module)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replacements:
                setattr(parent, name, replacements[child])
    return replacements.get(model, model)
