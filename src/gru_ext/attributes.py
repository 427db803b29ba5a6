"""Options as attributes of modules, which a subclass may have under the same names for itself.

Code written for ``torch.nn.GRU`` has attributes of its own: ``self.layer_norm``, a method ``save``. They must not
change the recurrence. So a module keeps the values of its options apart, under a name that no such code uses, and
``forward`` reads them there. The option's own name stands for the value until the user's code takes the name.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gru_ext.overlap import check_overlap
from gru_ext.recurrence import DEFAULTS, OPTIONS, check_options


class _OptionAttribute:
    """An option, read and set by its name; see ``ModuleWithOptions`` for when the name is a subclass's own."""

    def __set_name__(self, owner: type[nn.Module], name: str) -> None:
        self._owner, self._name = owner, name

    def __get__(self, module: ModuleWithOptions | None, owner: type[nn.Module]) -> Any:
        if module is None:
            return DEFAULTS[self._name]
        held = vars(module)
        for place in (held, *(held.get(kind, {}) for kind in ("_parameters", "_buffers", "_modules"))):
            if self._name in place:
                return place[self._name]
        return module._gru_ext_options[self._name]

    def __set__(self, module: ModuleWithOptions, value: Any) -> None:
        held = vars(module)
        if self._name not in held and self._is_option_of(module):
            module._set_option(self._name, value)
        else:
            held[self._name] = value

    def __delete__(self, module: ModuleWithOptions) -> None:
        if self._name not in vars(module):
            raise AttributeError(f"{type(module).__name__}: {self._name} is an option, and cannot be deleted")
        del vars(module)[self._name]

    def _is_option_of(self, module: ModuleWithOptions) -> bool:
        if "_gru_ext_options" not in vars(module):  # before __init__, whose options are not known yet
            return False
        order = type(module).__mro__
        # torch's parametrizations and FSDP make subclasses of their own, as `prepare` does.
        not_by_users = all(
            cls.__module__.startswith(("torch.", "gru_ext.")) for cls in order[: order.index(self._owner)]
        )
        return not_by_users or self._name in module._gru_ext_given


def option() -> Any:
    """The attribute of an option, in the body of a class."""
    return _OptionAttribute()


class ModuleWithOptions(nn.Module):
    """A module with options of the recurrence as attributes.

    Setting an attribute of this name sets the option, checked. In a subclass it does so only for the options that the
    subclass gave to ``__init__``, other than their defaults: any other name is the subclass's own, for whatever it
    wants.
    """

    _gru_ext_options: dict[str, Any]  # what forward reads
    _gru_ext_given: frozenset[str]

    def _keep_options(self, **options: Any) -> None:
        self._gru_ext_options = check_options(self._kind(), options)
        self._gru_ext_given = frozenset(n for n, v in self._gru_ext_options.items() if v != DEFAULTS[n])

    def _set_option(self, name: str, value: Any) -> None:
        before = self._gru_ext_options
        options = check_options(self._kind(), {**before, name: value})
        if (options["layer_norm"] is False) != (before["layer_norm"] is False):
            raise ValueError(
                f"{self._kind()}: expected layer_norm when the module is made, as it has gains, got {value!r} after"
                f" {before['layer_norm']!r}"
            )
        if options["blocks"] != before["blocks"]:
            raise ValueError(
                f"{self._kind()}: expected blocks when the module is made, as weight_hh depends on it, got {value!r}"
                f" after {before['blocks']!r}"
            )
        if options.get("overlap_layers", 0) != 0:
            sizes: Any = self
            chunk, rate = options["overlap_layers"], options["recurrent_dropout"]
            check_overlap(self._kind(), chunk, sizes.num_layers, sizes.bidirectional, rate)
        self._gru_ext_options = options

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = [name for name in OPTIONS if any(name in vars(base) for base in type(self).__mro__)]
        given = state.get("_gru_ext_options", state)  # a file from before options were kept apart, or had them all
        options = {name: given.get(name, DEFAULTS[name]) for name in names}
        if "_gru_ext_options" not in state:
            state = {name: value for name, value in state.items() if name not in options}
            self._keep_options(**options)
        else:
            state = {**state, "_gru_ext_options": DEFAULTS if options == DEFAULTS else options}
        super().__setstate__(state)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        error_msgs: list[str] = rest[-1]
        for name, parameter in self._parameters.items():
            given = state_dict.get(prefix + name)
            if parameter is None or not isinstance(given, Tensor) or not name.startswith("weight_hh"):
                continue
            # With as many rows, it is the number of blocks that differs.
            if given.shape != parameter.shape and given.shape[:1] == parameter.shape[:1]:
                error_msgs.append(
                    f"{self._kind()}: expected {prefix + name} of shape (3H, H / blocks) = {tuple(parameter.shape)}"
                    f" with blocks={self._gru_ext_options['blocks']}, got {tuple(given.shape)};"
                    " gru_ext.convert.to_blocks and to_dense make the one of the other"
                )

    @classmethod
    def _kind(cls) -> str:
        """The class whose options these are, for messages."""
        return next(base.__name__ for base in cls.__mro__ if base.__module__.startswith("gru_ext"))

    # nn.Module refuses to register what is an attribute already: an option's name is free for a subclass.

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:  # noqa: D102
        with _FreeName(self._parameters, name):
            super().register_parameter(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:  # noqa: D102
        with _FreeName(self._buffers, name):
            super().register_buffer(name, tensor, persistent)

    def add_module(self, name: str, module: nn.Module | None) -> None:  # noqa: D102
        with _FreeName(self._modules, name):
            super().add_module(name, module)


class _FreeName:
    """While an option's name is registered: an entry that lets nn.Module replace it."""

    def __init__(self, registered: dict[str, Any], name: str) -> None:
        self._registered, self._name = registered, name
        self._taken = name in OPTIONS and name not in registered

    def __enter__(self) -> None:
        if self._taken:
            self._registered[self._name] = None

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._taken and error is not None:
            del self._registered[self._name]


def parameter_or_attribute(module: nn.Module, name: str) -> Any:
    """The module's attribute ``name``: from where parameters are kept, unless a parametrization took it from there.

    A fifth of a microsecond instead of half of one, for each parameter of each call.
    """
    parameters = module._parameters
    return parameters[name] if name in parameters else getattr(module, name)
