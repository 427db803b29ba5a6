"""Every name that users may rely on, as docs/api.md has it."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

MODULES = {  # besides what is in __all__
    "gru_ext": (),
    "gru_ext.functional": (),
    "gru_ext.convert": (),
    "gru_ext.info": ("info",),
    "gru_ext.kernel_choice": ("Kernel", "Kernels"),
    "gru_ext.library": ("available_cpu_isas", "cpu_isa"),
}
OF_TORCH = ("extra_repr",)  # methods of torch.nn.Module that do nothing else here


def public_names() -> dict[str, Any]:
    """Functions and classes by their full names, and methods and properties of the classes."""
    found: dict[str, Any] = {}
    for module_name, more in MODULES.items():
        module = importlib.import_module(module_name)
        for name in (*getattr(module, "__all__", ()), *more):
            value = getattr(module, name)
            if callable(value):
                found[f"{module_name}.{name}"] = value
            if inspect.isclass(value):
                found |= {f"{module_name}.{name}.{member}": getattr(value, member) for member in members(value)}
    return found


def members(kind: type) -> list[str]:
    """The public methods and properties that a class defines itself."""
    own = {name: value for name, value in vars(kind).items() if not name.startswith("_") and name not in OF_TORCH}
    return [
        name for name, value in own.items() if isinstance(value, (property, classmethod)) or inspect.isfunction(value)
    ]
