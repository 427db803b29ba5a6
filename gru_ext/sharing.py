"""Modules that share the parameters, hooks and mode of others: between those of torch.nn and of gru_ext."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypeVar

from torch import nn

Target = TypeVar("Target", bound=nn.Module)


def share(
    source: nn.Module, source_type: type[nn.Module], target_type: type[Target], arguments: Iterable[str]
) -> Target:
    """A ``target_type`` made with the named attributes of ``source``, and its very parameters, hooks and mode.

    Raises:
        TypeError: ``source`` is not exactly a ``source_type``, whose ``forward`` may then be another, or its
            parameters are not plain ones of its own (parametrized, pruned or weight-normed modules).
    """
    if type(source) is not source_type:
        raise TypeError(f"expected module of type {source_type.__name__}, got {type(source).__name__}")
    keywords: dict[str, Any] = {name: getattr(source, name) for name in arguments}
    target = target_type(**keywords, device="meta")
    names = [name for name, _ in target.named_parameters()]
    check_plain(source, names)
    for name in names:
        setattr(target, name, getattr(source, name))
    share_mode_and_hooks(source, target)
    return target


def check_recurrence(operation: str, source: nn.Module, allowed: Collection[str] = ()) -> None:
    """Raise ValueError if the module has what ``torch.nn``'s does not: see ``beyond_torch`` of GRU and GRUCell."""
    for name, default in getattr(type(source), "beyond_torch", {}).items():
        value = getattr(source, name)
        if value != default and name not in allowed:
            raise ValueError(
                f"{operation}: expected {type(source).__name__} with {name}={default!r}, as torch.nn has it,"
                f" got {name}={value!r}"
            )


def check_plain(source: nn.Module, names: list[str]) -> None:
    """Raise TypeError unless the module's parameters are those of the names, in their order."""
    found = [name for name, _ in source.named_parameters()]
    if found != names:
        raise TypeError(
            f"expected module with the parameters {', '.join(names)}, got {', '.join(found)};"
            " remove parametrizations, pruning and weight norm first"
        )


def share_mode_and_hooks(source: nn.Module, target: nn.Module) -> None:
    """Give ``target`` the mode and the very hooks of ``source``."""
    target.training = source.training
    for name, value in vars(source).items():
        if "hook" in name and name in vars(target):
            setattr(target, name, value)
