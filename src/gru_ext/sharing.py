"""Modules made of others that share all of them, between those of torch.nn and of gru_ext; alone, and in models."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection, Mapping
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gru_ext.recurrence import OPTIONS, Changes
from gru_ext.torch_internals import HookOfModule

Target = TypeVar("Target", bound=nn.Module)

# The arguments of a module, and what each is, as attributes may have been set since to what only compares the same.
_ARGUMENTS: dict[str, type] = {
    "input_size": int,
    "hidden_size": int,
    "num_layers": int,
    "bias": bool,
    "batch_first": bool,
    "dropout": float,
    "bidirectional": bool,
}


def converted(
    operation: str, source: nn.Module, source_type: type[nn.Module], target_type: type[Target], in_place: bool = False
) -> Target:
    """A ``target_type`` with the arguments of ``source``, and its very parameters and all that ``carry`` takes.

    Args:
        operation: the words that begin a message.
        source: what is converted.
        source_type: its type.
        target_type: the type of the result.
        in_place: whether ``source`` is to become the result, as by ``replace_modules``, which takes it from there.

    Raises:
        TypeError: ``source`` is not exactly a ``source_type``, whose ``forward`` may then be another; or as in
            ``carry``.
    """
    check_type(operation, "module", source, source_type)
    target = make(target_type, source)
    weights = [name for name, parameter in target._parameters.items() if parameter is not None]
    check_weights(operation, source, weights)
    for name in weights:
        setattr(target, name, source._parameters[name])  # torch.nn.GRU keeps a list of them too
    hooked = in_place and _has_accelerate_hook(source)
    carry(operation, source, target, dict(source._parameters), dict(source._buffers), _HOOKED if hooked else ())
    if hooked:
        _hook_forward(source, target)
    if not in_place:
        rebind(source, target)
    return target


def replace_modules(
    function: str, model: nn.Module, makers: Mapping[type[nn.Module], Callable[[str, Any], nn.Module]]
) -> Any:
    """Have every module of exactly a type in ``makers`` become what that makes of it.

    It stays the same object, so that whatever knows it goes on to do so: parents, lists, hooks, sharding. ``makers``
    take the words that begin a message, and the module; what they return is used once, by this function.

    Raises:
        TypeError: ``model`` is no module, or a module of such a type is parametrized or sharded itself; nothing has
            been replaced then, nor where a maker raises.
    """
    check_module(function, "model", model)
    replacements: list[tuple[nn.Module, nn.Module]] = []
    for name, module in model.named_modules():
        kind = type_as_written(module)
        if kind in makers:
            operation = f"{function} of {name!r}" if name else function
            check_type(operation, "module", module, kind)
            replacements.append((module, makers[kind](operation, module)))
    for module, replacement in replacements:
        object.__setattr__(module, "__class__", type(replacement))
        vars(module).clear()
        vars(module).update(vars(replacement))
    return model


def check_module(function: str, name: str, value: Any) -> None:
    """Raise TypeError unless an argument is a module."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{function}: expected {name} of type torch.nn.Module, got {type(value).__name__}")


def make(target_type: type[Target], source: nn.Module, *without: str, **others: Any) -> Target:
    """A ``target_type`` on the meta device with the arguments of ``source``, those left out that it does not take.

    ``others``: arguments that it takes and ``source`` has in another place.
    """
    given = {n: kind(vars(source)[n]) for n, kind in _ARGUMENTS.items() if n in vars(source) and n not in without}
    if "bias_ih" in source._parameters:  # a cell may have got its biases later
        given["bias"] = None not in (source._parameters["bias_ih"], source._parameters["bias_hh"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dropout with one layer: given when `source` was made
        return target_type(**given, **others, device="meta")


def check_type(operation: str, name: str, source: Any, *types: type[nn.Module]) -> None:
    """Raise TypeError unless an argument is a module of exactly one of the types."""
    if type(source) in types:
        return
    packages = {"torch": "torch.nn", "gru_ext": "gru_ext"}
    names = " or ".join(f"{packages[kind.__module__.partition('.')[0]]}.{kind.__name__}" for kind in types)
    advice = ""
    if isinstance(source, nn.Module) and type_as_written(source) in types:
        advice = "; remove parametrizations, pruning and weight norm first, and convert before sharding"
    raise TypeError(f"{operation}: expected {name} of type {names}, got {type(source).__name__}{advice}")


def type_as_written(module: nn.Module) -> type[nn.Module]:
    """The class of a module before torch made a subclass of it, for parametrizations or FSDP."""
    kind: Any = type(module)
    while kind.__module__ == "torch.nn.utils.parametrize" or kind.__module__.startswith("torch.distributed."):
        if len(kind.__mro__) < 3:
            break
        kind = kind.__bases__[-1]
    return kind  # type: ignore[no-any-return]


def check_recurrence(
    operation: str, source: nn.Module, allowed: Collection[Changes] = (), in_int8: bool = False
) -> None:
    """Raise ValueError if an option is not as in ``torch.nn``, and changes more than is allowed.

    With ``in_int8``, options that int8 kernels compute are allowed.
    """
    for name, value in options_of(source).items():
        default = OPTIONS[name].default
        if value != default and OPTIONS[name].changes not in allowed and not (in_int8 and OPTIONS[name].in_int8):
            raise ValueError(
                f"{operation}: expected {type(source).__name__} with {name}={default!r}, as torch.nn has it,"
                f" got {name}={value!r}"
            )


def options_of(module: nn.Module) -> dict[str, Any]:
    """The options of the recurrence of a module; none for ``torch.nn``'s."""
    options: dict[str, Any] = getattr(module, "__dict__", {}).get("_gru_ext_options", {})
    return options


def check_weights(operation: str, source: nn.Module, names: Collection[str]) -> None:
    """Raise TypeError unless the names are parameters of the module's own, and it uses these."""
    missing = [name for name in names if source._parameters.get(name) is None]
    if missing:
        found = ", ".join(name for name, _ in source.named_parameters()) or "none"
        raise TypeError(
            f"{operation}: expected module with the parameters {', '.join(names)}, got {found};"
            " remove parametrizations, pruning and weight norm first, and convert before sharding"
        )
    used = dict(zip(getattr(source, "_flat_weights_names", ()), getattr(source, "_flat_weights", ()), strict=False))
    other = [name for name, weight in used.items() if _differ(weight, source._parameters.get(name))]
    if other:
        raise TypeError(
            f"{operation}: expected module that uses its own parameters, got {', '.join(other)} of an assigned"
            " _flat_weights; copy these values into the parameters first"
        )


def _differ(weight: Tensor | None, parameter: Tensor | None) -> bool:
    """Whether they have other values, as far as they can be compared.

    Some tools replace a parameter past ``setattr``: ``torch.nn.GRU`` goes on with the one before, of the same values.
    """
    if weight is None or parameter is None or weight is parameter:
        return False
    if weight.device != parameter.device or weight.is_meta:
        return False
    if (weight.shape, weight.dtype) != (parameter.shape, parameter.dtype):
        return True
    return not torch.allclose(weight, parameter, rtol=0, atol=0, equal_nan=True)


def carry(
    operation: str,
    source: nn.Module,
    target: nn.Module,
    parameters: dict[str, Any],
    buffers: dict[str, Any],
    without: Collection[str] = (),
) -> None:
    """Give ``target`` these, and of ``source`` its mode, submodules, very hooks and what a user has set on it.

    The attributes ``without`` are the caller's to take.

    Raises:
        TypeError: ``source`` has something of its own in the place of a method, as by ``source.forward = f``, or was
            compiled in place: that would go on calling the old module.
    """
    module_state, source_state = vars(nn.Module()), vars(_bare(type(source)))
    not_saved = {*target._non_persistent_buffers_set, *source._non_persistent_buffers_set} & buffers.keys()
    for name, value in vars(source).items():
        if name in without or _is_method_of(source, name, value):
            continue
        if callable(getattr(type(source), name, None)) or (name == "_compiled_call_impl" and value is not None):
            raise TypeError(
                f"{operation}: expected {type(source).__name__} with the methods of its class, got one with"
                f" {name!r} set on the instance: convert first, then set it, or remove what set it"
            )
        if name in source_state and name not in module_state:
            continue  # an argument, which `target` has, or a part of how `source` works
        if name in vars(target) and name not in module_state:
            raise TypeError(
                f"{operation}: expected {type(source).__name__} without the attribute {name!r}, which"
                f" {type(target).__name__} has for itself"
            )
        vars(target)[name] = value
    vars(target).update(_parameters=parameters, _buffers=buffers, _modules=dict(source._modules))
    vars(target)["_non_persistent_buffers_set"] = not_saved


def _is_method_of(module: nn.Module, name: str, value: Any) -> bool:
    """Whether it is the method of this name that the module has from its class, as accelerate puts it back."""
    return (
        isinstance(value, MethodType)
        and value.__self__ is module
        and value.__func__ is getattr(type(module), name, None)
    )


# The attributes in which a hook of accelerate keeps what it calls around `forward`; the hook itself is in `_hf_hook`.
_HOOKED = ("forward", "_old_forward")


def _has_accelerate_hook(module: nn.Module) -> bool:
    """Whether `forward` is that of a hook of accelerate around the class's own, as far as its attributes show."""
    forward, old_forward = (vars(module).get(name) for name in _HOOKED)
    return (
        "_hf_hook" in vars(module)
        and _is_method_of(module, "forward", old_forward)
        and isinstance(forward, functools.partial)
        and len(forward.args) == 1
        and forward.args[0] is module
    )


def _hook_forward(source: nn.Module, target: nn.Module) -> None:
    """Have the hook of ``source`` call the ``forward`` of the type of ``target``, which ``source`` is to become."""
    old_forward: Any = MethodType(type(target).forward, source)
    forward: Any = functools.partial(vars(source)["forward"].func, source)
    vars(target).update(_old_forward=old_forward, forward=functools.update_wrapper(forward, old_forward))


def _bare(kind: type[nn.Module]) -> nn.Module:
    """The smallest module of a type."""
    return kind(1, 1, device="meta")


def rebind(source: nn.Module, target: nn.Module) -> None:
    """Have what ``carry`` took, bound to ``source``, call ``target``: methods, and hooks that are given a module."""
    for name, value in vars(target).items():
        if isinstance(value, MethodType) and value.__self__ is source:
            vars(target)[name] = MethodType(value.__func__, target)
    hooks: dict[int, Any] = target._load_state_dict_pre_hooks
    if any(getattr(hook, "with_module", False) for hook in hooks.values()):
        target._load_state_dict_pre_hooks = type(hooks)(
            (i, HookOfModule(hook.hook, target) if getattr(hook, "with_module", False) else hook)
            for i, hook in hooks.items()
        )
