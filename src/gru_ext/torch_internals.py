"""The private names of torch that gru_ext uses, each with why, and since which version torch has it.

torch may change them in any version. No other file has one (tests/test_imports.py). What a subclass of
``nn.Module`` inherits, such as ``self._parameters``, is not here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.nn.modules.module import _WrappedHook

# Whether a transform of torch.func is active: it refuses autograd nodes of C++. No public function tells. Since 2.0.
transforms_are_active = torch._C._are_functorch_transforms_active

# Public, and here because every call asks: to look it up each time costs as much again.
_is_compiling = torch.compiler.is_compiling

# What torch.jit.trace records to; None outside of it. Every call asks, and torch.jit.is_tracing takes twice as long.
# Since 1.0.
jit_trace = torch._C._get_tracing_state

# Whether autocast is on for any device. Every call asks; the public function wants a device, and would be asked for the
# input's, which costs more than the answer. Since 2.0.
autocast_is_on = torch._C._is_any_autocast_enabled

# Whether a tensor stands for all samples of torch.vmap, so that its values cannot be read. Since 2.0.
is_of_vmap = torch._C._functorch.is_batchedtensor

# Lets a tensor that autograd has saved change its layout in place: its values stay. Since 2.0.
keeping_version = _unsafe_preserve_version_counter

# How nn.Module keeps a hook of load_state_dict that is given the module. To make it of another module. Since 2.0.
HookOfModule = _WrappedHook

# What nn.Module calls in place of forward under torch.jit.trace, and the older export to ONNX. Since 0.4.
forward_in_jit_trace: Callable[..., Any] = nn.Module._slow_forward


def in_forward_mode() -> bool:
    """Whether forward-mode differentiation is on. No public function tells. Since 1.8."""
    return forward_ad._current_level >= 0


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether forward mode has a tangent of one of them, or may have, under a transform of ``torch.func``."""
    if not in_forward_mode():
        return False
    unpack: Any = forward_ad.unpack_dual
    return transforms_are_active() or any(t is not None and unpack(t).tangent is not None for t in tensors)


def is_eager() -> bool:
    """Whether a call is not compiled, traced or transformed, so that a tensor is no more than its own values."""
    return not (_is_compiling() or jit_trace() is not None or transforms_are_active() or forward_ad._current_level >= 0)


def schema_of(operator: torch._ops.OpOverload) -> torch.FunctionSchema:
    """The names and defaults of an operator's arguments, which no public attribute has. Since 1.12."""
    return operator._schema


def called_by(operator: torch._ops.OpOverload) -> Callable[..., Any]:
    """What a call of an operator calls: without the function around it, a short call saves a twentieth. Since 1.12."""
    called: Callable[..., Any] = operator._op
    return called
