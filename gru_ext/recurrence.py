"""The options of the recurrence, which ``torch.nn`` does not have: their names, their defaults and what each may be.

What they mean: ``functional.gru``. A module keeps the values of its options (gru_ext/attributes.py) and gives them to
``functional``, which knows them by the same names.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable
from typing import Any, NamedTuple


class Option(NamedTuple):
    """An option: its default, for which a layer does what ``torch.nn``'s does, and its check.

    The check takes the operation's name, the option's name and a value. It returns the value in the form that is kept,
    or raises TypeError or ValueError.
    """

    default: Any
    check: Callable[[str, str, Any], Any]


def check_flag(op: str, name: str, value: Any) -> bool:
    """The value, which is a bool; TypeError otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"{op}: expected {name} of type bool, got {type(value).__name__}")
    return value


def as_flag(op: str, name: str, value: Any) -> bool:
    """A bool, also of 0, 1 and NumPy's bools, which ``torch.nn`` takes for some flags; TypeError of anything else."""
    if str(getattr(value, "dtype", "")) == "bool" and value.ndim == 0:
        return bool(value)
    try:
        number = operator.index(value)
    except TypeError:
        return check_flag(op, name, value)
    if number not in (0, 1):
        raise TypeError(f"{op}: expected {name} of type bool, got {value!r}")
    return bool(number)


def check_size(op: str, name: str, value: Any, smallest: int = 1) -> int:
    """An int, also of NumPy's integers; TypeError of anything else, ValueError below ``smallest``."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: expected {name} of type int, got {type(value).__name__}") from None
    if size < smallest:
        raise ValueError(f"{op}: expected {name} of at least {smallest}, got {size}")
    return size


def check_dropout(op: str, name: str, value: Any) -> float:
    """A number in [0, 1]; as from ``torch.nn.GRU``, TypeError of None and complex numbers, else ValueError."""
    if value is None or isinstance(value, complex):
        raise TypeError(f"{op}: expected {name} to be a number in [0, 1], got {value!r}")
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise ValueError(f"{op}: expected {name} to be a number in [0, 1], got {value!r}")
    return float(value)


def check_rate(op: str, name: str, value: Any) -> float:
    """A probability in [0, 1), else ValueError: zero as an int, of which torch.compile knows that it does not vary."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 <= float(value) < 1:
        raise ValueError(f"{op}: expected {name} to be a number in [0, 1), got {value!r}")
    return float(value) or 0


def check_outputs(op: str, name: str, value: Any) -> str:
    """``"all"`` or ``"last"``; ValueError of anything else."""
    if not isinstance(value, str) or value not in ("all", "last"):
        raise ValueError(f'{op}: expected {name} to be "all" or "last", got {value!r}')
    return value


def check_save(op: str, name: str, value: Any) -> str:
    """``"gates"`` or ``"output"``; ValueError of anything else."""
    if not isinstance(value, str) or value not in ("gates", "output"):
        raise ValueError(f'{op}: expected {name} to be "gates" or "output", got {value!r}')
    return value


def check_overlap_steps(op: str, name: str, value: Any) -> int:
    """The time steps of a chunk: TypeError unless it is an int, ValueError below 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{op}: expected {name} of type int, the time steps of a chunk, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{op}: expected {name} of at least 0, got {value}")
    return value


def check_layer_norm(op: str, name: str, value: Any) -> bool | str:
    """False, True or ``"joint"``; ValueError of anything else."""
    if not isinstance(value, bool) and not (isinstance(value, str) and value == "joint"):
        raise ValueError(f'{op}: expected {name} to be False, True or "joint", got {value!r}')
    return value


OPTIONS = {
    "outputs": Option("all", check_outputs),
    "save": Option("gates", check_save),
    "overlap_layers": Option(0, check_overlap_steps),
    "zoneout": Option(0, check_rate),
    "recurrent_dropout": Option(0, check_rate),
    "candidate_dropout": Option(0, check_rate),
    "weight_dropout": Option(0, check_rate),
    "reset_after": Option(True, check_flag),
    "layer_norm": Option(False, check_layer_norm),
}


def check_options(op: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options in the form that is kept.

    Raises:
        TypeError: ``overlap_layers`` is no int, or ``reset_after`` no bool.
        ValueError: an option has another value than those it may have, or ``layer_norm`` comes with
            ``reset_after=False``.
    """
    checked = {name: OPTIONS[name].check(op, name, value) for name, value in options.items()}
    normalizations(op, checked["layer_norm"], checked["reset_after"])
    return checked


def normalizations(op: str, layer_norm: Any, reset_after: bool) -> int:
    """``Variant.layer_norm`` for the option of this name.

    Raises:
        ValueError: ``layer_norm`` is neither False, True nor ``"joint"``, or comes with ``reset_after=False``.
    """
    check_layer_norm(op, "layer_norm", layer_norm)
    if layer_norm is not False and not reset_after:
        raise ValueError(
            f"{op}: expected reset_after=True with layer_norm, which normalises the product that the reset gate is"
            " applied to, got reset_after=False"
        )
    return 0 if layer_norm is False else 2 if layer_norm is True else 1
