"""What ``torch.fx.symbolic_trace`` records of a module: one call, as of the modules of ``torch.nn``.

A tracer asks for each module whether to go into it; only for those of ``torch.nn`` it does not. Ours get the tracer's
``Proxy`` objects and record themselves.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy

__all__ = ["Proxy", "record_call"]


def record_call(module: nn.Module, kind: type[nn.Module], input: Any, hx: Any, **keywords: Any) -> Any:
    """The Proxy for the result of ``module(input, hx, **keywords)``, of which ``forward`` of ``kind`` is all.

    Raises:
        TypeError: ``forward`` is a subclass's, of which the call would be only a part.
    """
    # Those of prepared modules are ours too, and no part of another.
    ours = getattr(type(module).forward, "__module__", "").startswith("gru_ext.")
    if not ours or "forward" in vars(module):
        raise TypeError(
            f"{type(module).__name__}: expected tensors in {kind.__name__}.forward, got those of torch.fx: to trace a"
            " model with a subclass that calls it, use a torch.fx.Tracer whose is_leaf_module is True for the subclass"
        )
    tracer: Any = (input if isinstance(input, Proxy) else hx).tracer
    arguments = (input,) if hx is None else (input, hx)
    given = {name: value for name, value in keywords.items() if value is not None}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), arguments, given)
