"""Calls that are wrong in one argument, made from the signatures: each must raise what the documentation names.

And say it: the argument, what was expected, and what came. Any other call of the function must still work after it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import gru_ext
from gru_ext.recurrence import OPTIONS, check_rate

DOCUMENTED = (TypeError, ValueError, RuntimeError, NotImplementedError)
# Where two tensors do not fit each other, any of them may be named; the operators have names of their own.
TENSORS = (
    *("input", "x", "hx", "weights", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "biases"),
    *("kernel", "recurrent_kernel", "bias", "recurrent_bias"),  # of other libraries
)


@dataclass(frozen=True)
class Function:
    """A callable, arguments with which it works, and values that each of its parameters must refuse."""

    name: str
    call: Callable[..., Any]
    good: Callable[[], dict[str, Any]]
    # By the annotation of a parameter, or by its name.
    wrong: dict[str, tuple[Any, ...]]


class NoTensor:
    """What no function takes for anything."""

    def __repr__(self) -> str:
        return "NoTensor()"


def _wrong_tensors(good: Tensor) -> tuple[Any, ...]:
    """Of a floating-point tensor: other things, layouts, dtypes, devices, ranks and sizes."""
    return (
        "x",
        1.5,
        NoTensor(),
        good.detach().numpy(),
        good.detach().tolist(),
        good.to_sparse(),
        good.to(torch.complex64),
        good.to(torch.int64),
        good.to(torch.bool),
        good.new_zeros((2,) * 5),
        good.new_zeros(()),
        good[..., :-1],
    )


WRONG_SIZES = (-1, 1.5, "2", None, [2], 1j, torch.nan, NoTensor())
WRONG_FLAGS: tuple[Any, ...] = ("True", "no", 0.5, [], torch.nan, NoTensor())
WRONG_RATES = (-0.1, 1.5, torch.nan, torch.inf, "0.5", None, [0.5], 1j, NoTensor())
WRONG_WORDS = ("", "ALL", 3, None, ["all"], NoTensor())
WRONG_MODULES = (None, "model", 3, torch.zeros(2), nn.GRU, [nn.GRU(2, 3)], NoTensor())


def _gru() -> dict[str, Any]:
    gru = gru_ext.GRU(3, 4)
    return {
        "input": torch.randn(5, 2, 3),
        "hx": torch.randn(1, 2, 4),
        "weights": [w.detach() for w in gru.parameters()],
    }


def _cell() -> dict[str, Any]:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    cell = gru_ext.GRUCell(3, 4)
    return {
        "input": torch.randn(2, 3),
        "hx": torch.randn(2, 4),
        **{name: getattr(cell, name).detach() for name in names},
    }


def _wrong_gru() -> dict[str, tuple[Any, ...]]:
    good = _gru()
    weights = good["weights"]
    return {
        "input": (None, *_wrong_tensors(good["input"])),
        "hx": (*_wrong_tensors(good["hx"]), good["hx"].double(), good["hx"].to("meta")),
        "weights": (
            *(None, "weights", 3, [], weights[:1], weights[:3], [*weights, *weights], [None] * 4, [NoTensor()] * 4),
            *([*weights[:1], wrong, *weights[2:]] for wrong in _wrong_tensors(weights[1])),
        ),
        "num_layers": (0, *WRONG_SIZES),
        "bidirectional": WRONG_FLAGS,
        "batch_first": WRONG_FLAGS,
        "training": WRONG_FLAGS,
        "lengths": ("x", 1.5, [1], [1, 9], [1, -1], [1.5, 2.5], torch.tensor([1.0, 2.0]), NoTensor(), ["a", "b"]),
        "resets": ("x", 1.5, [[True]], torch.zeros(5, 2), torch.zeros(2, 5, dtype=torch.bool), NoTensor()),
        "reset_state": (torch.zeros(1, 4), "x", NoTensor()),
        "outputs": WRONG_WORDS,
        "save": WRONG_WORDS,
        "overlap_layers": (1, *WRONG_SIZES),
        "layer_norm": (True, "joint", "yes", 2, None, [], NoTensor()),
        "reset_after": WRONG_FLAGS,
        "blocks": (0, 3, True, *WRONG_SIZES),
        "norm_over": WRONG_WORDS,
        "fake_int8": WRONG_FLAGS,
        "dropout": WRONG_RATES,
        **dict.fromkeys((name for name, option in OPTIONS.items() if option.check is check_rate), WRONG_RATES),
    }


def _packed() -> dict[str, Any]:
    return _gru() | {"input": torch.randn(3, 3), "hx": None, "batch_sizes": torch.tensor([2, 1])}


def _wrong_packed() -> dict[str, tuple[Any, ...]]:
    sizes = (torch.tensor([3, 4]), torch.tensor([1, 2]), torch.tensor([3, 0]), torch.tensor([2.0, 1.0]))
    return {"batch_sizes": ("x", 1.5, [2, 1], NoTensor(), *sizes), "lengths": ([2, 1],), "resets": (torch.ones(3) > 0,)}


def _wrong_module() -> dict[str, tuple[Any, ...]]:
    wrong = _wrong_gru()
    names = inspect.signature(gru_ext.GRU).parameters
    return {
        **{name: values for name, values in wrong.items() if name in names},
        **dict.fromkeys(("input_size", "hidden_size", "num_layers"), (0, *WRONG_SIZES)),
        "bias": WRONG_FLAGS,
        "bidirectional": WRONG_FLAGS,
        "layer_norm": ("yes", 2, None, [], NoTensor()),
    }


def _forward(**arguments: Any) -> Any:
    return gru_ext.GRU(3, 4)(**arguments)


def _forward_prepared(**arguments: Any) -> Any:
    return gru_ext.prepare(gru_ext.GRU(3, 4).eval())(**arguments)


def _prepared() -> dict[str, Any]:
    good = _gru()
    good["prepared"] = torch.ops.gru_ext.prepare(good["weights"], 1, False, True)
    return {name.replace("input", "x"): value for name, value in good.items()}


def _wrong_prepared() -> dict[str, tuple[Any, ...]]:
    good = _prepared()
    whole = good["prepared"]
    damaged = (*(whole[:size].clone() for size in (0, 8, 100, len(whole) - 1)), whole[1:], whole.flip(0), whole[::2])

    def dense(name: str) -> tuple[Any, ...]:  # torch itself refuses the others of its operators
        return tuple(v for v in _wrong_tensors(good[name]) if not (isinstance(v, Tensor) and v.is_sparse))

    return {
        "x": dense("x"),
        "hx": dense("hx"),
        "weights": (None, [], good["weights"][:1], [w.clone() for w in good["weights"]], [NoTensor()]),
        "prepared": (None, "x", NoTensor(), whole.float(), torch.zeros_like(whole), *damaged),
    }


def _good_module(kind: Callable[[int, int], nn.Module]) -> Callable[[], dict[str, Any]]:
    return lambda: {"module": kind(3, 4)}


def _truncated(**arguments: Any) -> list[Any]:
    return list(gru_ext.truncated(**arguments))


def _converters() -> Iterator[Function]:
    """To and from other libraries' weights; those that need these libraries have tests of their own."""
    convert = gru_ext.convert
    arrays: Any = convert.to_keras_weights(gru_ext.GRU(3, 4))
    named: Any = convert.to_haste(gru_ext.GRU(3, 4))
    cut = [[*arrays[:place], array[..., :-1], *arrays[place + 1 :]] for place, array in enumerate(arrays)]
    flags = ("use_bias", "reset_after", "go_backwards", "bidirectional")
    yield Function(
        "from_keras_weights",
        convert.from_keras_weights,
        lambda: {"weights": arrays},
        {
            "weights": (None, 3, "abc", [], arrays[:2], [*arrays[:2], None], [*arrays[:2], "x"], *cut),
            "dropout": WRONG_RATES,
            **dict.fromkeys(flags, WRONG_FLAGS),
        },
    )
    yield Function(
        "from_haste",
        convert.from_haste,
        lambda: {"weights": named},
        {
            "weights": (None, 3, [1], {}, {"kernel": 1}, *({**named, name: named[name][..., :-1]} for name in named)),
            "batch_first": WRONG_FLAGS,
        },
    )
    for to in (convert.to_keras_weights, convert.to_haste, convert.to_onnx_weights):
        yield Function(to.__name__, to, lambda: {"gru": gru_ext.GRU(3, 4)}, {"gru": WRONG_MODULES})
    for kind, of in ((gru_ext.GRU, nn.GRU), (gru_ext.GRUCell, nn.GRUCell)):
        yield Function(f"{kind.__name__}.from_torch", kind.from_torch, _good_module(of), {"module": WRONG_MODULES})


def _wrong_forward() -> dict[str, tuple[Any, ...]]:
    wrong = _wrong_gru()
    return {name: wrong[name] for name in ("input", "hx", "lengths", "resets", "reset_state")}


def _wrong_cell() -> dict[str, tuple[Any, ...]]:
    good = _cell()
    rest = _wrong_gru()
    return {
        **{name: (*(() if name == "hx" else (None,)), *_wrong_tensors(good[name])) for name in good},
        **{name: rest[name] for name in inspect.signature(gru_ext.functional.gru_cell).parameters if name in OPTIONS},
        "training": WRONG_FLAGS,
        "gain_ih": (torch.ones(12), "x", NoTensor()),
    }


def functions() -> list[Function]:
    """What is public and takes arguments."""
    return [
        Function("functional.gru", gru_ext.functional.gru, _gru, _wrong_gru()),
        Function("functional.gru of a packed batch", gru_ext.functional.gru, _packed, _wrong_packed()),
        Function("functional.gru_cell", gru_ext.functional.gru_cell, _cell, _wrong_cell()),
        Function("GRU", gru_ext.GRU, lambda: {"input_size": 3, "hidden_size": 4}, _wrong_module()),
        Function(
            "GRUCell",
            gru_ext.GRUCell,
            lambda: {"input_size": 3, "hidden_size": 4},
            {**dict.fromkeys(("input_size", "hidden_size"), WRONG_SIZES), "bias": WRONG_FLAGS},
        ),
        *(
            Function(name, forward, lambda: {"input": torch.randn(5, 2, 3)}, _wrong_forward())
            for name, forward in (("GRU.forward", _forward), ("PreparedGRU.forward", _forward_prepared))
        ),
        *(
            Function(convert.__name__, convert, lambda: {"model": nn.GRU(3, 4)}, {"model": WRONG_MODULES})
            for convert in (gru_ext.replace_gru, gru_ext.to_torch)
        ),
        *(
            Function(convert.__name__, convert, _good_module(nn.GRU), {"module": WRONG_MODULES, "inplace": WRONG_FLAGS})
            for convert in (gru_ext.quantize_dynamic, gru_ext.prepare)
        ),
        *(
            Function(kind.__name__, kind, _good_module(of), {"module": WRONG_MODULES})
            for kind, of in ((gru_ext.PreparedGRU, gru_ext.GRU), (gru_ext.PreparedGRUCell, gru_ext.GRUCell))
        ),
        *_converters(),
        Function(
            "truncated",
            _truncated,
            lambda: {"module": gru_ext.GRU(3, 4), "stretches": torch.randn(6, 2, 3).split(3)},
            {"module": (None, 3, "x"), "stretches": (None, 3, NoTensor())},
        ),
        Function("autotune", gru_ext.autotune, lambda: {"cache": ""}, {"enable": WRONG_FLAGS, "cache": (3, b"x", [])}),
        Function("gru_prepared", torch.ops.gru_ext.gru_prepared, _prepared, _wrong_prepared()),
        Function(
            "kernels",
            gru_ext.kernels,
            lambda: {"steps": 5, "batch": 2, "hidden_size": 4, "dtype": torch.float32},
            dict.fromkeys(("steps", "batch", "hidden_size"), WRONG_SIZES)
            | {"dtype": (torch.int64, "float32", 3, NoTensor())},
        ),
    ]


@dataclass(frozen=True)
class WrongCall:
    """A function, the parameter that is wrong, and which of its wrong values it gets."""

    function: str
    parameter: str
    place: int

    def value(self) -> Any:
        """What is wrong; made anew each time."""
        return _function(self.function).wrong[self.parameter][self.place]


def _function(name: str) -> Function:
    return next(function for function in functions() if function.name == name)


def every_call() -> Iterator[WrongCall]:
    """All of them, function by function."""
    for function in functions():
        for parameter, values in function.wrong.items():
            for place in range(len(values)):
                yield WrongCall(function.name, parameter, place)


def wrong_calls() -> st.SearchStrategy[WrongCall]:
    """One of them."""
    return st.sampled_from(list(every_call()))


def fault_of(call: WrongCall) -> str:
    """Empty where the call is refused as it should be, else what happened."""
    function = _function(call.function)
    arguments = function.good() | {call.parameter: call.value()}
    try:
        function.call(**arguments)
    except DOCUMENTED as error:
        words = str(error)
        names = TENSORS if call.parameter in TENSORS else (call.parameter, call.parameter.replace("module", "model"))
        missing = [
            what
            for what, found in (
                ("the argument", any(re.search(rf"\b{name}\b", words) for name in names)),
                ("what was expected", re.search(r"\b[Ee]xpect", words)),
                ("what came", re.search(r"\bgot\b|\bfound\b|, but ", words)),
            )
            if not found
        ]
        return f"{type(error).__name__} does not say {', '.join(missing)}: {words[:300]}" if missing else ""
    except BaseException as error:
        return f"{type(error).__name__} is not documented: {str(error)[:300]}"
    return "it was accepted"


def check(call: WrongCall) -> None:
    """Fail unless the call is refused in three parts, and a good one works afterwards."""
    fault = fault_of(call)
    assert not fault, f"{call.function}({call.parameter}={call.value()!r}): {fault}"
    function = _function(call.function)
    function.call(**function.good())
