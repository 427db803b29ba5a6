"""replace_gru, and conversion of single modules to and from torch.nn's."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy
import pytest
import torch
from compare import assert_near
from refusals import refused
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import gru_ext
from gru_ext import replace_gru

FLOAT64 = torch.float64
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"bias": False, "bidirectional": True},
    {"num_layers": 3, "batch_first": True, "dropout": 0.25},
]
X = torch.linspace(-2, 2, 30, dtype=FLOAT64).view(5, 2, 3)


def assert_same_parameters(module: nn.Module, peer: nn.Module) -> None:
    """The very same objects under the same names, in the same order."""
    ours, theirs = dict(module.named_parameters()), dict(peer.named_parameters())
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in ours)


def quietly(make: Callable[..., Any], *sizes: int, **arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dropout with one layer
        return make(*sizes, **arguments)


# ---- One module


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [*product(["GRU"], [*ARGUMENTS, {"dropout": 0.5}]), *product(["GRUCell"], [{"bias": False}, {}])],
    ids=str,
)
def test_from_torch_and_back(kind: str, arguments: dict[str, Any]) -> None:
    ours, theirs = getattr(gru_ext, kind), getattr(nn, kind)
    peer = quietly(theirs, 3, 4, dtype=FLOAT64, **arguments).eval()
    module = ours.from_torch(peer)
    back = module.to_torch()
    assert (type(module), type(back)) == (ours, theirs)
    x = X if kind == "GRU" else X[0]
    for converted in (module, back):
        assert repr(converted) == repr(peer)
        assert not converted.training
        assert_same_parameters(converted, peer)
        assert_near(converted(x), peer(x))


def test_nothing_is_drawn_or_copied() -> None:
    peer = nn.GRU(3, 4)
    before, values = torch.get_rng_state(), copy.deepcopy(peer.state_dict())
    gru_ext.GRU.from_torch(peer).to_torch()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, values[name]) for name, tensor in peer.state_dict().items())


@pytest.mark.parametrize("change", [lambda m: m.to("meta"), nn.Module.bfloat16, lambda m: m.requires_grad_(False)])
def test_device_dtype_and_frozen_parameters_stay(change: Callable[[nn.Module], nn.GRU]) -> None:
    peer = change(nn.GRU(3, 4))
    assert_same_parameters(gru_ext.GRU.from_torch(peer), peer)


def test_hooks_move_along() -> None:
    peer, calls = nn.GRU(3, 4, dtype=FLOAT64), []
    peer.register_forward_pre_hook(lambda *_: calls.append("before"))
    handle = peer.register_forward_hook(lambda *_: calls.append("after"))
    peer.register_forward_hook(lambda *_, **__: calls.append("with keywords"), with_kwargs=True)
    peer.register_full_backward_hook(lambda *_: calls.append("backward"))
    peer.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    for module in (gru_ext.GRU.from_torch(peer), gru_ext.GRU.from_torch(peer).to_torch()):
        calls.clear()
        module(X.clone().requires_grad_())[0].sum().backward()
        module.load_state_dict(module.state_dict())
        assert calls == ["before", "after", "with keywords", "backward", "loaded"]
    handle.remove()
    calls.clear()
    peer(X)
    assert calls == ["before", "with keywords"]


class Subclass(nn.GRU):
    """Whose forward may be another."""


class CellSubclass(nn.GRUCell):
    """Whose forward may be another."""


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        *(("GRU", module) for module in (Subclass(3, 4), nn.LSTM(3, 4), nn.GRUCell(3, 4))),
        *(("GRUCell", module) for module in (CellSubclass(3, 4), nn.GRU(3, 4))),
    ],
)
def test_another_type_is_refused(kind: str, module: nn.Module) -> None:
    text = f"from_torch: expected module of type torch.nn.{kind}, got {type(module).__name__}"
    with refused(TypeError, text):
        getattr(gru_ext, kind).from_torch(module)


def weight_norm(module: nn.Module, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated in torch, and still in use
        nn.utils.weight_norm(module, name)


def pruned(module: nn.Module, name: str) -> None:
    prune.l1_unstructured(module, name, amount=0.5)


CHANGES: list[Callable[[nn.Module, str], object]] = [parametrizations.weight_norm, weight_norm, pruned]


@pytest.mark.parametrize("change", CHANGES)
def test_a_module_with_other_parameters_is_refused(change: Callable[[nn.Module, str], object]) -> None:
    peer, cell = nn.GRU(3, 4), nn.GRUCell(3, 4)
    change(peer, "weight_hh_l0")
    change(cell, "weight_hh")
    # torch makes a parametrized module a subclass of its own.
    text = r"expected module (with the parameters weight_ih.*, got .*hh|of type torch.nn.GRU(Cell)?, got Parametrized)"
    with pytest.raises(TypeError, match=text):
        gru_ext.GRU.from_torch(peer)
    with pytest.raises(TypeError, match=text):
        gru_ext.GRUCell.from_torch(cell)


# ---- Models


class Model(nn.Module):
    """GRUs in every kind of container, some of them the same one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GRU(3, 4, bidirectional=True, dtype=FLOAT64)
        self.middle = nn.Sequential(nn.Linear(8, 4, dtype=FLOAT64), nn.Tanh())
        self.list = nn.ModuleList([nn.GRU(4, 4, dtype=FLOAT64), nn.ModuleDict({"a": nn.GRU(4, 4, 2, dtype=FLOAT64)})])
        self.cell = nn.GRUCell(4, 4, dtype=FLOAT64)
        self.again = self.list[0]
        self.nothing: nn.Module | None = None
        self.lstm = nn.LSTM(4, 4, dtype=FLOAT64)
        self.subclass = Subclass(4, 4, dtype=FLOAT64)

    def forward(self, x: Tensor) -> Tensor:
        """Through all of them."""
        y = self.middle(self.first(x)[0])
        y = self.again(self.list[0](y)[0])[0]
        y = self.list[1]["a"](y)[0]  # type: ignore[index]
        y = torch.stack([self.cell(step) for step in y])
        result: Tensor = self.subclass(self.lstm(y)[0])[0]
        return result


def test_a_model_keeps_its_results_parameters_names_and_optimizer() -> None:
    model, untouched = Model(), Model()
    untouched.load_state_dict(model.state_dict())
    steps, expected_steps = (torch.optim.AdamW(m.parameters()) for m in (model, untouched))
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    parameters = dict(model.named_parameters())
    assert replace_gru(model) is model
    assert [name for name, _ in model.named_modules(remove_duplicate=False)] == names
    assert list(model.state_dict()) == list(untouched.state_dict())
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    for _ in range(3):
        for m, optimizer in ((model, steps), (untouched, expected_steps)):
            optimizer.zero_grad()
            m(X).pow(2).sum().backward()
            optimizer.step()
    assert_near(model(X), untouched(X), "y")


def test_which_modules_of_a_model_are_replaced() -> None:
    model = replace_gru(Model())
    assert isinstance(model, Model)
    assert {type(model.first), type(model.list[0]), type(model.list[1]["a"])} == {gru_ext.GRU}  # type: ignore[index]
    assert type(model.get_submodule("cell")) is gru_ext.GRUCell
    assert model.again is model.list[0]
    assert type(model.lstm) is nn.LSTM
    assert type(model.subclass) is Subclass
    assert model.nothing is None


def test_replacing_twice_changes_nothing_more() -> None:
    model = replace_gru(Model())
    modules = list(model.modules())
    replace_gru(model)
    assert all(after is before for before, after in zip(modules, model.modules(), strict=True))


def test_a_model_that_is_a_gru_is_returned_replaced() -> None:
    peer, cell, linear = nn.GRU(3, 4), nn.GRUCell(3, 4), nn.Linear(3, 4)
    assert type(replace_gru(peer)) is gru_ext.GRU
    assert type(replace_gru(cell)) is gru_ext.GRUCell
    assert_same_parameters(replace_gru(peer), peer)
    assert replace_gru(linear) is linear


def test_modes_are_kept_one_by_one() -> None:
    model = nn.Sequential(nn.GRU(3, 4), nn.GRUCell(3, 4), nn.GRU(3, 4)).train()
    model[1].eval()
    replace_gru(model)
    assert [module.training for module in model] == [True, False, True]


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_replaced_where_one_cannot_be(change: Callable[[nn.Module, str], object]) -> None:
    model = nn.Sequential(nn.GRU(3, 4), nn.Sequential(nn.GRU(3, 4)))
    change(model[1][0], "weight_hh_l0")  # type: ignore[index]
    modules = list(model.modules())
    with pytest.raises(TypeError, match="remove parametrizations, pruning and weight norm first"):
        replace_gru(model)
    assert all(after is before for before, after in zip(modules, model.modules(), strict=True))


def test_a_deeply_nested_gru_is_replaced() -> None:
    model: nn.Module = nn.GRU(3, 4, dtype=FLOAT64)
    expected, _ = model(X)
    for _ in range(5):
        model = nn.Sequential(model)
    replace_gru(model)
    assert type(list(model.modules())[-1]) is gru_ext.GRU
    assert_near(model(X)[0], expected, "y")


# ---- What an instance has besides


CELL_AND_LAYER = pytest.mark.parametrize("make", [nn.GRU, nn.GRUCell])
CONVERTERS: list[Callable[[nn.Module], nn.Module]] = [replace_gru, lambda m: gru_ext.to_torch(replace_gru(m))]


@CELL_AND_LAYER
@pytest.mark.parametrize("convert", [*CONVERTERS, lambda m: gru_ext.quantize_dynamic(m, inplace=True)])
def test_all_that_an_instance_has_stays(make: Any, convert: Callable[[nn.Module], nn.Module]) -> None:
    peer, calls = make(3, 4), []
    peer.register_buffer("h0", torch.ones(4))
    peer.register_buffer("scratch", torch.ones(4), persistent=False)
    peer.register_parameter("learned", nn.Parameter(torch.ones(4)))
    peer.post = nn.ReLU()
    peer.zoneout = "own"
    peer.encode = peer.named_parameters  # a method that is bound to it
    handle = peer.register_load_state_dict_pre_hook(lambda module, *_: calls.append(type(module).__name__))
    peer.register_state_dict_pre_hook(lambda *_: calls.append("save"))
    model, listed = nn.Sequential(peer), [peer]
    extra = {"0.h0", "0.learned"}
    convert(model)
    converted: Any = model[0]
    assert converted is listed[0]
    assert extra <= model.state_dict().keys()
    assert not any("scratch" in name for name in model.state_dict())
    assert (converted.zoneout, type(converted.post), converted.scratch.sum()) == ("own", nn.ReLU, 4)
    assert converted.encode.__self__ is converted
    calls.clear()
    model.load_state_dict(model.state_dict())
    assert calls == ["save", type(converted).__name__]
    handle.remove()
    model.load_state_dict(model.state_dict())
    assert calls[2:] == ["save"]


def test_what_is_bound_to_a_single_module_is_bound_to_the_new_one() -> None:
    peer, calls = nn.GRU(3, 4), []
    peer.register_load_state_dict_pre_hook(lambda module, *_: calls.append(module))
    peer.names = peer.named_parameters
    state = peer.state_dict()
    module: Any = gru_ext.GRU.from_torch(peer)
    del peer
    module.load_state_dict(state)
    assert calls == [module]
    assert module.names.__self__ is module


@CELL_AND_LAYER
@pytest.mark.parametrize("name", ["forward", "extra_repr", "state_dict"])
def test_a_method_of_the_instance_is_named_and_nothing_is_replaced(make: Any, name: str) -> None:
    model = nn.Sequential(make(3, 4), make(3, 4))
    setattr(model[1], name, lambda *_: None)
    kind = make.__name__
    text = rf"^{{}} of '1': expected {kind} with the methods of its class, got one with '{name}' set on the instance"
    for function in (replace_gru, gru_ext.quantize_dynamic):
        with pytest.raises(TypeError, match=text.format(function.__name__)):
            function(model)
    assert type(model[0]) is make


class Hook:
    """As accelerate has them: weights that are not on the module between calls, and what came out counted."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        self.calls = 0
        self.unload(module)

    def load(self, module: nn.Module) -> None:
        """Before a call."""
        for name, weight in self.weights.items():
            module._parameters[name] = nn.Parameter(weight, requires_grad=False)

    def unload(self, module: nn.Module) -> None:
        """After a call."""
        for name, weight in self.weights.items():
            module._parameters[name] = nn.Parameter(weight.to("meta"), requires_grad=False)


def add_hook(module: Any) -> None:
    """What ``accelerate.hooks.add_hook_to_module`` sets on a module."""
    module._old_forward, module._hf_hook = module.forward, Hook(module)

    def hooked(module: Any, *arguments: Any, **keywords: Any) -> Any:
        module._hf_hook.load(module)
        output = module._old_forward(*arguments, **keywords)
        module._hf_hook.unload(module)
        module._hf_hook.calls += 1
        return output

    module.forward = functools.update_wrapper(functools.partial(hooked, module), module._old_forward)


@CELL_AND_LAYER
def test_a_hook_of_accelerate_calls_the_new_forward(make: Any) -> None:
    model = nn.Sequential(make(3, 4, dtype=FLOAT64))
    x = X if make is nn.GRU else X[0]
    expected = model(x)
    gru: Any = model[0]
    add_hook(gru)
    with pytest.raises(TypeError, match=f"^from_torch: expected {make.__name__} with the methods of its class"):
        getattr(gru_ext, make.__name__).from_torch(gru)
    replace_gru(model)
    assert_near(model(x), expected, "with a hook")
    assert gru._hf_hook.calls == 1
    assert all(parameter.is_meta for parameter in gru.parameters())
    assert gru._old_forward.__func__ is getattr(gru_ext, make.__name__).forward
    assert inspect.signature(gru.forward) == inspect.signature(gru._old_forward)
    # As accelerate takes it away, and puts another on.
    gru._hf_hook.load(gru)
    gru.forward = gru._old_forward
    del gru._old_forward, gru._hf_hook
    assert_near(gru_ext.to_torch(model)(x)[0], expected[0], "without the hook")
    assert type(gru) is make
    assert "forward" not in vars(gru)


# ---- The same parameters in another form


def removed(change: Callable[[nn.Module, str], object], remove: Callable[..., object]) -> Callable[[nn.Module], object]:
    def changed(module: nn.Module) -> None:
        change(module, "weight_hh_l0")
        remove(module, "weight_hh_l0")

    return changed


def tie_directions(module: Any) -> None:
    module.weight_ih_l0_reverse = module.weight_ih_l0


def tie_biases(module: Any) -> None:
    module.bias_hh_l0 = module.bias_ih_l0


@pytest.mark.parametrize(
    "change",
    [
        removed(weight_norm, nn.utils.remove_weight_norm),
        removed(pruned, prune.remove),
        removed(parametrizations.spectral_norm, nn.utils.parametrize.remove_parametrizations),
        tie_directions,
        tie_biases,
    ],
)
def test_parameters_in_another_order_or_tied_are_kept_so(change: Callable[[nn.Module], object]) -> None:
    peer = nn.GRU(3, 4, bidirectional=True, dtype=FLOAT64)
    change(peer)
    names, expected = list(peer.state_dict()), peer(X)[0].detach()
    for module in (gru_ext.GRU.from_torch(peer), gru_ext.GRU.from_torch(peer).to_torch()):
        assert_same_parameters(module, peer)
        assert list(module.state_dict()) == names
        assert_near(module(X)[0], expected, "y")
    assert type(gru_ext.quantize_dynamic(peer.float())) is gru_ext.QuantizedGRU
    replaced: Any = replace_gru(peer)
    for convert in (gru_ext.convert.to_keras_weights, gru_ext.convert.to_onnx_weights):
        assert convert(replaced)


def test_parameters_replaced_past_setattr_are_kept_though_the_module_has_those_before() -> None:
    """As some tools do; ``torch.nn.GRU`` goes on with those before, whose values are the same."""
    module: Any = nn.GRU(3, 4)
    with torch.no_grad():
        module.weight_hh_l0[0, 0] = torch.nan
    other = nn.Parameter(module.weight_hh_l0.detach().clone())
    module._parameters["weight_hh_l0"] = other
    assert gru_ext.replace_gru(module).weight_hh_l0 is other


def test_a_parametrized_subclass_is_left_alone() -> None:
    model = nn.Sequential(Subclass(3, 4), nn.GRU(3, 4))
    pruned(model[0], "weight_hh_l0")
    parametrizations.weight_norm(model[0], "weight_ih_l0")
    replace_gru(model)
    assert isinstance(model[0], Subclass)
    assert type(model[1]) is gru_ext.GRU


def test_what_nn_takes_for_an_int_or_a_bool_is_taken() -> None:
    two: Any = numpy.int64(2)
    make: Any
    for make in (nn.GRU, gru_ext.GRU):
        assert str(replace_gru(make(3, 4, two, bidirectional=1))) == "GRU(3, 4, num_layers=2, bidirectional=True)"
    for make in (nn.GRUCell, gru_ext.GRUCell):
        assert str(replace_gru(make(two, two, bias=1))) == "GRUCell(2, 2)"
        cell = replace_gru(quietly(make, 0, 4))
        assert gru_ext.quantize_dynamic(cell)(torch.zeros(2, 0)).shape == cell(torch.zeros(2, 0)).shape == (2, 4)
    layer: Any = nn.GRU(3, 4)
    layer.batch_first = numpy.True_
    assert replace_gru(layer).batch_first is True


def test_biases_that_a_cell_got_later_are_kept() -> None:
    peer = nn.GRUCell(3, 4, bias=False)
    for name in ("bias_ih", "bias_hh"):
        peer.register_parameter(name, nn.Parameter(torch.ones(12)))
    expected = peer(X[0].float()).detach()
    quantized = gru_ext.quantize_dynamic(peer)
    assert (quantized(X[0].float()) - expected).abs().max() < 0.1
    assert_near(replace_gru(peer)(X[0].float()), expected, "h", 1e-6)
    ours = gru_ext.GRUCell(3, 4, bias=False)
    for name in ("bias_ih", "bias_hh"):
        ours.register_parameter(name, nn.Parameter(torch.ones(12)))
    assert ours(X[0].float()).shape == (2, 4)


# ---- Back


def test_a_model_and_back() -> None:
    model = Model()
    state, expected = list(model.state_dict()), model(X).detach()
    gru_ext.to_torch(replace_gru(model))
    assert {type(module).__module__.partition(".")[0] for module in model.modules()} <= {"torch", __name__}
    assert list(model.state_dict()) == state
    assert_near(model(X), expected, "y")
    assert_near(copy.deepcopy(model)(X), expected, "y")


def test_what_torch_has_not_stays() -> None:
    model = nn.Sequential(gru_ext.GRU(3, 4), gru_ext.GRU(3, 4, zoneout=0.1))
    with pytest.raises(ValueError, match=r"^to_torch of '1': expected GRU with zoneout=0, as torch.nn has it, got"):
        gru_ext.to_torch(model)
    assert type(model[0]) is gru_ext.GRU
    with pytest.raises(TypeError, match=r"^to_torch of '0': expected GRUs with floating weights, got QuantizedGRU"):
        gru_ext.to_torch(gru_ext.quantize_dynamic(nn.Sequential(nn.GRU(3, 4))))
    for function, name in ((gru_ext.to_torch, "model"), (replace_gru, "model"), (gru_ext.quantize_dynamic, "module")):
        with pytest.raises(TypeError, match=f"expected {name} of type torch.nn.Module, got NoneType"):
            function(None)  # type: ignore[type-var]
