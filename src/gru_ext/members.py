"""Members: layers with weights of their own, along a first dimension E of every tensor but batch_sizes.

``torch.vmap`` over weights makes members of the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def are_members(weights: Sequence[Tensor]) -> bool:
    """Whether the weights are those of members: weight_ih (E, 3H, I)."""
    return weights[0].dim() == 3


def call_with_members(
    function: Callable[..., Any], samples: int, in_dims: Sequence[Any], args: Sequence[Any], first_weight: int
) -> Any:
    """Call ``GRUFunction`` or ``GRUBackwardFunction`` once, with the samples of a vmap as members.

    Where the arguments have members already, each of these becomes one for each sample.
    """
    nested = args[first_weight].dim() - (in_dims[first_weight] is not None) == 3

    def with_members(value: Any, dim: int | None) -> Any:
        if not isinstance(value, Tensor) or value.dtype == torch.int64:  # batch_sizes, the same for all
            return value
        members = value.movedim(dim, 0) if dim is not None else value.expand(samples, *value.shape)
        return members.flatten(0, 1) if nested else members

    results = function(*map(with_members, args, in_dims))
    if nested:
        results = tuple(result.unflatten(0, (samples, -1)) for result in results)
    return results, (0,) * len(results)
