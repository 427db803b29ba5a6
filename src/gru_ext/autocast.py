"""``torch.autocast``: the arguments of a GRU in its dtype, each weight cast once while it is on, as by torch's own.

The results of ``torch.nn.GRU`` differ by device. On CUDA it is one operator of the list that autocast casts for: they
have the dtype that it computes in. On a CPU its products alone are cast, and the state is updated in the dtype it came
in. Ours compute in autocast's dtype on both; what they return follows ``torch.nn.GRU``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gru_ext import library as library  # registers the operator
from gru_ext.torch_internals import jit_trace, transforms_are_active

_ops = torch.ops.gru_ext


def dtype_of_results(input: Tensor, hx: Tensor | None) -> torch.dtype | None:
    """What ``torch.nn.GRU`` returns under autocast for these arguments, before they are cast; None: as computed."""
    if input.device.type != "cpu" or not _applies(input):
        return None
    computed = torch.get_autocast_dtype("cpu")
    state = input.dtype if hx is None else hx.dtype
    return None if state == computed else torch.promote_types(state, computed)


def autocast(input: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """The arguments in autocast's dtype where that is on for their device; float64 is left as it is."""
    if not _applies(input):
        return input, *others
    device_type = input.device.type
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


def _applies(input: Tensor) -> bool:
    device_type = input.device.type
    return (
        input.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and device_type != "meta"
        and torch.is_autocast_enabled(device_type)
    )


def _is_eager(tensor: Tensor) -> bool:
    return not (
        torch.compiler.is_compiling()
        or jit_trace() is not None
        or transforms_are_active()
        or type(tensor) not in (Tensor, torch.nn.Parameter)
    )
