"""The table of options and what reads it; and options as attributes, whose names are free for a subclass."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from cases import pair_of_grus
from compare import assert_near, assert_same_bits
from process import ROOT
from refusals import refused
from torch import Tensor, nn

import gru_ext
from gru_ext import functional
from gru_ext.recurrence import DEFAULTS, OPTIONS, Changes

X = torch.linspace(-2, 2, 30).view(5, 2, 3)
STRANGE: list[Any] = [True, 0.3, "text", [], nn.LayerNorm(4), nn.Parameter(torch.ones(4)), None]


@pytest.mark.parametrize(
    ("public", "has_all"),
    [(gru_ext.GRU, True), (functional.gru, True), (gru_ext.GRUCell, False), (functional.gru_cell, False)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_signatures_and_docstrings_are_those_of_the_table(public: Callable[..., Any], has_all: bool) -> None:
    parameters = inspect.signature(public).parameters
    names = [name for name in parameters if name in OPTIONS]
    assert names == list(OPTIONS) if has_all else set(names) < set(OPTIONS)
    for name in names:
        assert parameters[name].default == OPTIONS[name].default
        assert f"\n    {name}: {OPTIONS[name].words.split()[0]} " in str(inspect.getdoc(public))


def test_the_table_of_the_page_of_variants_is_this_one() -> None:
    of_cell = inspect.signature(gru_ext.GRUCell).parameters
    rows = [
        f"| `{name}` | `{option.default!r}` | {option.changes.value} | {'yes' if name in of_cell else 'no'} |\n"
        for name, option in OPTIONS.items()
    ]
    assert "| --- | --- | --- | --- |\n" + "".join(rows) + "\n" in (ROOT / "docs/variants.md").read_text()


def test_what_converters_ask_of_an_option_is_true_of_it() -> None:
    """Options that change only training change no result of eval(), and those that change nothing none of training."""
    values: dict[str, Any] = {
        "save": "output",
        "overlap_layers": 2,
        "outputs": "last",
        "reset_after": False,
        "layer_norm": True,
        "blocks": 2,
        "norm_over": "layer",
        "fake_int8": True,
    }
    needed: dict[str, dict[str, Any]] = {"norm_over": {"layer_norm": True, "blocks": 2}}
    for name, option in OPTIONS.items():
        torch.manual_seed(0)
        others = needed.get(name, {})
        plain = gru_ext.GRU(3, 4, num_layers=2, **others)
        torch.manual_seed(0)
        module = gru_ext.GRU(3, 4, num_layers=2, **others, **{name: values.get(name, 0.5)})
        shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
        state = {key: tensor for key, tensor in plain.state_dict().items() if tensor.shape == shapes[key]}
        module.load_state_dict(state, strict=False)
        changed = []
        for training in (True, False):
            results = [made.train(training)(X)[0] for made in (plain, module)]
            changed.append(results[0].shape != results[1].shape or not torch.equal(*results))
        changes = option.changes
        assert changed == [changes is not Changes.NOTHING, changes in (Changes.RESULTS, Changes.ROUNDING)], name


SHOWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "GRU(3, 4, reset_after=False)": (gru_ext.GRU, {"reset_after": False}),
    "GRUCell(3, 4, reset_after=False)": (gru_ext.GRUCell, {"reset_after": False}),
    "GRU(3, 4, layer_norm=joint)": (gru_ext.GRU, {"layer_norm": "joint"}),
    "GRUCell(3, 4, layer_norm=True)": (gru_ext.GRUCell, {"layer_norm": True}),
    "GRU(3, 4, zoneout=0.3, recurrent_dropout=0.2, candidate_dropout=0.25, weight_dropout=0.1)": (
        gru_ext.GRU,
        {"zoneout": 0.3, "recurrent_dropout": 0.2, "candidate_dropout": 0.25, "weight_dropout": 0.1},
    ),
    "GRUCell(3, 4, zoneout=0.5)": (gru_ext.GRUCell, {"zoneout": 0.5}),
    "GRU(3, 4, outputs=last)": (gru_ext.GRU, {"outputs": "last"}),
    "GRU(3, 4, save=output)": (gru_ext.GRU, {"save": "output"}),
    "GRU(3, 4, num_layers=2, overlap_layers=32)": (gru_ext.GRU, {"num_layers": 2, "overlap_layers": 32}),
    "GRU(3, 4, blocks=2)": (gru_ext.GRU, {"blocks": 2}),
}


@pytest.mark.parametrize("text", SHOWN)
def test_options_are_shown_and_kept_by_copies_and_not_in_the_state(text: str) -> None:
    make, options = SHOWN[text]
    module = make(3, 4, **options).eval()
    assert str(module) == text
    loaded = make(3, 4, **options).eval()
    loaded.load_state_dict(module.state_dict())
    x = X if make is gru_ext.GRU else X[0]
    for other in (loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert {name: getattr(other, name) for name in options} == options
        assert_same_bits(other(x), module(x))
    assert not module.state_dict().keys() & options.keys()


NO_RATES: list[Any] = [1, 1.0, 1.5, -0.1, float("nan"), None, "0.1", True, 1j]
WRONG: dict[str, tuple[list[Any], type[Exception], str]] = {
    "reset_after": (["before"], TypeError, "of type bool, got {type}"),
    "layer_norm": ([None, 1, 0, "split", "Joint", 1.0], ValueError, 'to be False, True or "joint", got {value!r}'),
    "blocks": ([2.0, True, "2"], TypeError, "of type int, got {type}"),
    "outputs": (["first", None], ValueError, 'to be "all" or "last", got {value!r}'),
    "save": (["y", None], ValueError, 'to be "gates" or "output", got {value!r}'),
    **dict.fromkeys(
        ("zoneout", "recurrent_dropout", "candidate_dropout", "weight_dropout"),
        (NO_RATES, ValueError, "to be a number in [0, 1), got {value!r}"),
    ),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name][0]], ids=str)
def test_wrong_values_are_named(name: str, value: Any) -> None:
    _, error, text = WRONG[name]
    weights = [weight.detach() for weight in gru_ext.GRU(3, 4).parameters()]
    calls: dict[str, Callable[..., object]] = {
        "GRU": functools.partial(gru_ext.GRU, 3, 4),
        "gru": functools.partial(functional.gru, X, None, weights),
        "GRUCell": functools.partial(gru_ext.GRUCell, 3, 4),
        "gru_cell": functools.partial(functional.gru_cell, X[0], None, *weights),
    }
    for op, call in calls.items():
        if name in inspect.signature(call).parameters:
            with refused(error, f"{op}: expected {name} {text.format(value=value, type=type(value).__name__)}"):
                call(**{name: value})


# What converters leave out: they have it not at all, or only training has it.
DROPPED: dict[str, Any] = {"save": "output", "overlap_layers": 2}
CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "to_torch": lambda module: module.to_torch(),
    "quantize_dynamic": lambda module: gru_ext.quantize_dynamic(nn.Sequential(module)),
    "to_keras_weights": gru_ext.convert.to_keras_weights,
    "to_onnx_weights": gru_ext.convert.to_onnx_weights,
    "to_haste": gru_ext.convert.to_haste,
}
# Of options that change results: by the name of the converter, whether it has them.
REFUSING: list[tuple[Any, str, Any, str]] = [
    (make, name, value, converters)
    for name, value, converters in (
        ("reset_after", False, "to_torch quantize_dynamic"),
        ("layer_norm", True, "to_torch quantize_dynamic to_keras_weights to_onnx_weights"),
        ("zoneout", 0.3, "to_torch quantize_dynamic"),
        ("outputs", "last", "to_torch quantize_dynamic"),
        ("blocks", 2, "to_torch to_keras_weights to_onnx_weights to_haste"),
        ("fake_int8", True, "to_torch to_keras_weights"),
        ("candidate_dropout", 0.3, "to_torch"),
    )
    for make in (gru_ext.GRU, gru_ext.GRUCell)
    if name in inspect.signature(make).parameters
]


@pytest.mark.parametrize(("make", "name", "value", "converters"), REFUSING)
def test_what_others_do_not_have_is_not_silently_something_else(
    make: Any, name: str, value: Any, converters: str
) -> None:
    for converter in converters.split():
        if make is gru_ext.GRU or converter in ("to_torch", "quantize_dynamic"):
            text = rf"^{converter}[^:]*: expected ({make.__name__}|gru) with {name}=.*{name}={value!r}"
            with pytest.raises(ValueError, match=text):
                CONVERTERS[converter](make(3, 4, **{name: value}))


@pytest.mark.parametrize("name", DROPPED)
def test_what_changes_no_result_is_left_out(name: str) -> None:
    for converter in ("to_torch", "quantize_dynamic", "to_keras_weights"):
        assert CONVERTERS[converter](gru_ext.GRU(3, 4, 2, **{name: DROPPED[name]}))
    assert isinstance(gru_ext.GRU(3, 4, 2, **{name: DROPPED[name]}).to_torch(), nn.GRU)


def test_a_copy_of_a_module_without_options_still_makes_plain_calls() -> None:
    module = gru_ext.GRU(3, 4, zoneout=0.0)
    for made in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert made._gru_ext_options is DEFAULTS


def test_a_file_from_before_an_option_was_there_has_its_default() -> None:
    for module in (gru_ext.GRU(3, 4), gru_ext.GRU(3, 4, zoneout=0.2), gru_ext.GRUCell(3, 4)):
        kept = copy.copy(module)
        kept._gru_ext_options = {k: v for k, v in module._gru_ext_options.items() if k not in ("blocks", "fake_int8")}
        loaded = pickle.loads(pickle.dumps(kept))
        assert loaded._gru_ext_options == module._gru_ext_options
        assert (loaded._gru_ext_options is DEFAULTS) == (module._gru_ext_options is DEFAULTS)


@pytest.mark.parametrize("module", [gru_ext.GRU(3, 4), gru_ext.GRUCell(3, 4)], ids=["GRU", "GRUCell"])
def test_what_no_check_explains_is_raised_as_it_is(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gru_ext.call.gru_operator", Mock(side_effect=RuntimeError("refused")))
    with pytest.raises(RuntimeError, match=r"^refused$") as caught:
        module(X if isinstance(module, gru_ext.GRU) else X[0])
    assert caught.value.__cause__ is caught.value.__context__ is None


class Own(gru_ext.GRU):
    """Code for torch.nn.GRU whose base class was exchanged: it sets an attribute before and after ``__init__``."""

    def __init__(self, name: str, value: Any) -> None:
        if not isinstance(value, (nn.Module, Tensor)):
            setattr(self, name, value)
        super().__init__(3, 4)
        if value is not None:
            setattr(self, name, value)


@pytest.mark.parametrize("name", [*OPTIONS, "_run", "_weights", "_weight_names", "_normalization"])
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: type(value).__name__)
def test_what_a_subclass_sets_for_itself_is_its_own(name: str, value: Any) -> None:
    module, peer = Own(name, value), gru_ext.GRU(3, 4)
    for made in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        state = {key: tensor for key, tensor in made.state_dict().items() if key in peer.state_dict()}
        peer.load_state_dict(state)
        assert torch.equal(made(X)[0], peer(X)[0])
        kept = getattr(made, name)
        assert type(kept) is type(value)
        assert isinstance(value, (nn.Module, Tensor)) or kept == value


class Methods(gru_ext.GRUCell):
    """Whose methods and class attributes have names of options."""

    layer_norm = None  # type: ignore[assignment]
    zoneout = 0.5

    def reset_after(self) -> str:  # type: ignore[override]
        """Not the option."""
        return "own"


def test_names_in_the_class_and_registered_ones_are_a_subclass_s_own() -> None:
    cell = Methods(3, 4)
    cell.register_buffer("candidate_dropout", torch.ones(1))
    peer = nn.GRUCell(3, 4)
    peer.load_state_dict({name: value for name, value in cell.state_dict().items() if name != "candidate_dropout"})
    assert_near(cell(X[0]), peer(X[0]), "h", 1e-6)
    assert (cell.layer_norm, cell.zoneout, cell.reset_after()) == (None, 0.5, "own")
    assert torch.equal(cell.candidate_dropout, torch.ones(1))  # type: ignore[arg-type]
    layer = Own("save", None)
    layer.add_module("outputs", nn.ReLU())
    layer.register_parameter("zoneout", nn.Parameter(torch.ones(2)))
    assert isinstance(layer.outputs, nn.ReLU)
    del layer.outputs
    assert layer.outputs == "all"
    with pytest.raises(KeyError, match="attribute 'forward' already exists"):
        layer.register_buffer("forward", None)


def test_an_option_is_set_by_its_name_and_checked() -> None:
    class Annealed(gru_ext.GRU):
        """It gives the option to ``__init__``, and so sets it later."""

    plain, annealed = gru_ext.GRU(3, 4), Annealed(3, 4, zoneout=0.5)
    weights = [*plain.parameters()]
    annealed.load_state_dict(plain.state_dict())
    parametrized = nn.utils.parametrizations.weight_norm(copy.deepcopy(plain), "weight_hh_l0")
    expected = functional.gru(X, None, weights, zoneout=0.2)[0].detach()
    for module in (plain, annealed, parametrized):
        module.zoneout = 0.2
        assert module.zoneout == 0.2
        assert_near(module.eval()(X)[0], expected, "y", 1e-6)
    assert str(plain) == "GRU(3, 4, zoneout=0.2)"
    for name, value, error, text in (
        ("zoneout", 1, ValueError, r"GRU: expected zoneout to be a number in \[0, 1\), got 1"),
        ("reset_after", "no", TypeError, "GRU: expected reset_after of type bool, got str"),
        ("layer_norm", True, ValueError, "GRU: expected layer_norm when the module is made, as it has gains, got True"),
        ("overlap_layers", 2, ValueError, "GRU: expected num_layers of at least 2 with overlap_layers, got 1"),
    ):
        with pytest.raises(error, match=f"^{text}"):
            setattr(plain, name, value)
    assert (plain.zoneout, plain.reset_after) == (0.2, True)


def test_attributes_of_torch_nn_gru_are_there() -> None:
    module, peer = pair_of_grus(3, 4, num_layers=2, bidirectional=True)
    for name in ("mode", "proj_size", "_flat_weights_names", "_all_weights", "__constants__"):
        assert getattr(module, name) == getattr(peer, name)
    assert [*module._flat_weights] == [*module.parameters()]


@pytest.mark.parametrize("convert", [gru_ext.replace_gru, gru_ext.quantize_dynamic, gru_ext.to_torch])
def test_what_uses_assigned_flat_weights_is_not_converted(convert: Callable[[nn.Module], nn.Module]) -> None:
    """Its parameters are not what it computes with."""
    module: Any = gru_ext.GRU(3, 4) if convert is gru_ext.to_torch else nn.GRU(3, 4)
    module._flat_weights = [2 * weight.detach() for weight in module._flat_weights]
    with pytest.raises(TypeError, match=r"expected module that uses its own parameters, got weight_ih_l0, .* assigned"):
        convert(nn.Sequential(module))


def test_assigned_flat_weights_are_used_until_a_parameter_is_replaced() -> None:
    module, peer = pair_of_grus(3, 4)
    changes: list[Callable[[Any], object]] = [
        lambda gru: setattr(gru, "_flat_weights", [2 * weight for weight in gru._flat_weights]),
        lambda gru: setattr(gru, "weight_hh_l0", nn.Parameter(torch.ones(12, 4))),
        lambda gru: gru.double().float(),
    ]
    for change in changes:
        change(module)
        change(peer)
        assert_near(module(X)[0], peer(X)[0], "y", 1e-6)
    with pytest.raises(ValueError, match="GRU: expected _flat_weights of 4 tensors, got 1: str"):
        module._flat_weights = "x"  # type: ignore[assignment]
