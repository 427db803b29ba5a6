"""The one table of the recurrence's options, which ``torch.nn`` does not have: name, default, check, effect, words.

A module keeps the values of its options (attributes.py) and prints them, ``functional`` checks them, converters ask
what they change, and docstrings say of them what the table does.
"""

from __future__ import annotations

import inspect
import numbers
import operator
import textwrap
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, TypeVar

Documented = TypeVar("Documented", bound=Callable[..., Any])


class Changes(Enum):
    """What a value other than the default changes."""

    NOTHING = "only time and memory"
    TRAINING = "what training computes"
    RESULTS = "what eval() computes too"
    ROUNDING = "rounding, as int8 kernels do it"


class Option(NamedTuple):
    """An option: its default, for which a layer does what ``torch.nn``'s does, and the rest of what is known of it.

    The check takes the operation's name, the option's name and a value. It returns the value in the form that is kept,
    or raises TypeError or ValueError. The words are those of the docstrings; ``docs/variants.md`` has equations.
    """

    default: Any
    check: Callable[[str, str, Any], Any]
    changes: Changes
    words: str
    in_int8: bool = False  # whether int8 kernels compute other results than the default's too


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


def one_of(*words: str) -> Callable[[str, str, Any], str]:
    """The check that a value is one of these words: ValueError of anything else."""

    def check(op: str, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            expected = " or ".join(f'"{word}"' for word in words)
            raise ValueError(f"{op}: expected {name} to be {expected}, got {value!r}")
        return value

    return check


check_save = one_of("gates", "output")


def check_overlap_steps(op: str, name: str, value: Any) -> int:
    """The time steps of a chunk: TypeError unless it is an int, ValueError below 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{op}: expected {name} of type int, the time steps of a chunk, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{op}: expected {name} of at least 0, got {value}")
    return value


def check_blocks(op: str, name: str, value: Any) -> int:
    """The number of blocks: TypeError unless it is an int, ValueError below 1."""
    if isinstance(value, bool):
        raise TypeError(f"{op}: expected {name} of type int, got bool")
    return check_size(op, name, value)


def check_layer_norm(op: str, name: str, value: Any) -> bool | str:
    """False, True or ``"joint"``; ValueError of anything else."""
    if not isinstance(value, bool) and not (isinstance(value, str) and value == "joint"):
        raise ValueError(f'{op}: expected {name} to be False, True or "joint", got {value!r}')
    return value


OPTIONS = {
    "outputs": Option(
        "all",
        one_of("all", "last"),
        Changes.RESULTS,
        """
        "all", or "last": the output is only the last layer's state after each sequence's last step (after its first,
        for the second direction), that is ``h_n``'s last layer. The others are not kept in memory where no gradient
        needs them.
        """,
    ),
    "save": Option(
        "gates",
        check_save,
        Changes.NOTHING,
        """
        what a gradient to come keeps of each layer besides its input: "gates", which are 4H values a step and row (3H
        without ``reset_after``, 9H + 16 with ``layer_norm``), and the output; or "output", the output alone, of which
        the backward computes the gates again: a fraction of the memory, for about a third more time
        (docs/performance.md).
        """,
    ),
    "overlap_layers": Option(
        0,
        check_overlap_steps,
        Changes.NOTHING,
        """
        time steps of a chunk, or 0. On CUDA, with more than one layer of one direction, each layer then has a stream,
        and computes a chunk while the layer below computes the next (docs/cuda.md). A number, as the best one depends
        on the GPU and the sizes; none has been timed yet. Each chunk of a layer is a call of its own: launches of its
        own, the state rounded to the dtype after it, its gradients of the weights added to those of the others, its own
        random numbers for ``dropout``. Without effect, the layers run one after another: on a CPU; with packed input,
        ``lengths`` or ``resets``; with T up to ``overlap_layers``; under ``torch.compile``, export, ``torch.func`` and
        forward-mode differentiation.
        """,
    ),
    "zoneout": Option(
        0,
        check_rate,
        Changes.RESULTS,
        """
        probability that a unit keeps its state in a step, in training; in ``eval()`` every unit keeps this part of it
        (Krueger et al. 2017, https://arxiv.org/abs/1606.01305).
        """,
    ),
    "recurrent_dropout": Option(
        0,
        check_rate,
        Changes.TRAINING,
        """
        probability that a unit of the state does not enter the recurrent product, for all steps of a sequence alike, in
        training (Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287). The others are divided by
        ``1 - recurrent_dropout``, here and below. A reset begins another sequence.
        """,
    ),
    "candidate_dropout": Option(
        0,
        check_rate,
        Changes.TRAINING,
        """
        probability that a unit's candidate n does not enter the state in a step, in training (Semeniuta et al. 2016,
        https://arxiv.org/abs/1603.05118).
        """,
    ),
    "weight_dropout": Option(
        0,
        check_rate,
        Changes.TRAINING,
        """
        probability that an element of weight_hh is zero for all of a call, in training (DropConnect: Wan et al. 2013;
        Merity et al. 2018, https://arxiv.org/abs/1708.02182).
        """,
    ),
    "reset_after": Option(
        True,
        check_flag,
        Changes.RESULTS,
        """
        whether the reset gate is applied after the recurrent product of the candidate, as in ``torch.nn.GRU``; False:
        before it, n = tanh(W_n x + b_in + R_n (r * h) + b_hn), as in Cho et al. 2014
        (https://arxiv.org/abs/1406.1078), section 2.3, with the same parameters.
        """,
    ),
    "layer_norm": Option(
        False,
        check_layer_norm,
        Changes.RESULTS,
        """
        whether W x and R h are normalised over units at every step, each with a gain, and the biases as shifts (Ba,
        Kiros, Hinton 2016, https://arxiv.org/abs/1607.06450, supplement): True, r and z together and n by itself, as
        there; "joint", all three together, as in haste's LayerNormGRU.
        """,
    ),
    "blocks": Option(
        1,
        check_blocks,
        Changes.RESULTS,
        """
        number of blocks G, which divides H: weight_hh is (3H, H / G), and block g of its rows multiplies the units from
        g H / G on. The layer is G GRUs of H / G units over one input, side by side; with ``layer_norm`` each is
        normalised for itself, unless ``norm_over`` says otherwise.
        """,
        in_int8=True,
    ),
    "norm_over": Option(
        "block",
        one_of("block", "layer"),
        Changes.RESULTS,
        """
        over which units ``layer_norm`` takes means and variances where there are ``blocks``: "block", those of each, or
        "layer", all. A step of "layer" needs all blocks at once: it is computed as that of a dense layer, with zeros
        outside of the blocks, in the time of one.
        """,
    ),
    "fake_int8": Option(
        False,
        check_flag,
        Changes.ROUNDING,
        """
        whether the weights, and the rows of input and state where they are multiplied, are rounded as by the int8
        kernels, while gradients pass straight through: for training that knows of ``quantize_dynamic`` to come
        (docs/int8.md). Not with options that ``quantize_dynamic`` refuses.
        """,
    ),
}
DEFAULTS = {name: option.default for name, option in OPTIONS.items()}


def documented(public: Documented) -> Documented:
    """The function or class, with what the table says of its options in place of ``{options}`` in its docstring."""
    if public.__doc__ is not None:  # python -OO keeps none
        before, _, after = public.__doc__.partition("{options}")
        indent = before.rpartition("\n")[2]
        entries = [
            textwrap.fill(
                f"{name}: {' '.join(OPTIONS[name].words.split())} Default {OPTIONS[name].default!r}.",
                120,
                initial_indent=indent,
                subsequent_indent=indent + "    ",
                break_long_words=False,
                break_on_hyphens=False,
            )
            for name in inspect.signature(public).parameters
            if name in OPTIONS
        ]
        public.__doc__ = before.removesuffix(indent) + "\n".join(entries) + after
    return public


def check_blocks_of(op: str, hidden: int, blocks: int) -> None:
    """Raise ValueError unless the hidden units can be divided into as many blocks."""
    if hidden % blocks != 0:
        raise ValueError(f"{op}: expected blocks that divide H = {hidden}, got {blocks}")


def check_options(op: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options in the form that is kept; where all have their defaults, ``DEFAULTS`` itself.

    Raises:
        TypeError: ``overlap_layers`` is no int, or a flag no bool.
        ValueError: an option has another value than those it may have, ``layer_norm`` comes with
            ``reset_after=False``, or ``fake_int8`` with what int8 kernels do not compute.
    """
    checked = {name: OPTIONS[name].check(op, name, value) for name, value in options.items()}
    if checked["layer_norm"] is not False and not checked["reset_after"]:
        raise ValueError(
            f"{op}: expected reset_after=True with layer_norm, which normalises the product that the reset gate is"
            " applied to, got reset_after=False"
        )
    if checked["fake_int8"]:
        for name, value in checked.items():
            default = DEFAULTS[name]
            if OPTIONS[name].changes is Changes.RESULTS and not OPTIONS[name].in_int8 and value != default:
                raise ValueError(
                    f"{op}: expected {name}={default!r} with fake_int8, as int8 kernels have it, got {value!r}"
                )
    return DEFAULTS if checked == DEFAULTS else checked


def are_defaults(options: dict[str, Any]) -> bool:
    """Whether these are all the options, in order, each the very default: then there is nothing to check."""
    return all(map(operator.is_, options.values(), DEFAULTS.values()))


def normalizations(layer_norm: bool | str) -> int:
    """``Variant.layer_norm`` for the option of this name."""
    return 0 if layer_norm is False else 2 if layer_norm is True else 1
