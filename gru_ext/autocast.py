"""``torch.autocast``: the arguments of a GRU in its dtype, each weight cast once while it is on, as by torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gru_ext import library as library  # registers the operator

_ops = torch.ops.gru_ext


def autocast(input: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """The arguments in autocast's dtype where that is on for their device; float64 is left as it is."""
    if input.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return input, *others
    device_type = input.device.type
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return input, *others
    dtype = torch.get_autocast_dtype(device_type)

    def cast(tensor: Tensor | None) -> Tensor | None:
        if not isinstance(tensor, Tensor):
            return tensor
        kept = tensor.is_leaf and tensor.requires_grad and torch.is_autocast_cache_enabled()
        if kept and tensor.device.type == device_type and _is_eager(tensor):
            cached: Tensor = _ops.cast_for_autocast(tensor, dtype)
            return cached
        return tensor.to(dtype)

    return tuple(map(cast, (input, *others)))


def _is_eager(tensor: Tensor) -> bool:
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or type(tensor) not in (Tensor, torch.nn.Parameter)
    )
