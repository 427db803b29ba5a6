"""The same values, laid out otherwise in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def transposed(tensor: Tensor) -> Tensor:
    """The first two dimensions swapped in memory; of a vector, every second element."""
    return every_other(tensor) if tensor.dim() == 1 else tensor.transpose(0, 1).contiguous().transpose(0, 1)


def inner_transposed(tensor: Tensor) -> Tensor:
    """The last two dimensions swapped in memory; of a vector, every second element."""
    return every_other(tensor) if tensor.dim() == 1 else tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def sliced(tensor: Tensor) -> Tensor:
    """In the middle of a wider tensor of NaN."""
    wide = tensor.new_full([size + 2 for size in tensor.shape], torch.nan)
    middle = wide[tuple(slice(1, -1) for _ in tensor.shape)]
    return middle.copy_(tensor)


def every_other(tensor: Tensor) -> Tensor:
    """At every second place of a longer last dimension of NaN."""
    return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1).flatten(-2)[..., ::2]


def beside_a_boundary(tensor: Tensor) -> Tensor:
    """One value beyond an address that is a multiple of 16."""
    return torch.cat([tensor.new_full((1,), torch.nan), tensor.flatten()])[1:].view(tensor.shape)


def of_a_long_sequence(tensor: Tensor) -> Tensor:
    """A step of sequences that are first in memory."""
    if tensor.dim() != 3 or tensor.shape[0] != 1:
        return tensor
    longer = tensor.new_full((tensor.shape[1], 4, tensor.shape[2]), torch.nan)
    longer[:, 2:3] = tensor.transpose(0, 1)
    return longer.transpose(0, 1)[2:3]
