"""replace_gru, and conversion of single modules to and from torch.nn's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import assert_near
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


@pytest.mark.parametrize("arguments", [*ARGUMENTS, {"dropout": 0.5}], ids=str)
def test_from_torch_and_back(arguments: dict[str, Any]) -> None:
    peer = quietly(nn.GRU, 3, 4, dtype=FLOAT64, **arguments).eval()
    module = gru_ext.GRU.from_torch(peer)
    back = module.to_torch()
    assert (type(module), type(back)) == (gru_ext.GRU, nn.GRU)
    for converted in (module, back):
        assert repr(converted) == repr(peer)
        assert not converted.training
        assert_same_parameters(converted, peer)
    for result, expected, again in zip(module(X), peer(X), back(X), strict=True):
        assert_near(result.detach(), expected.detach(), "result")
        assert_near(again.detach(), expected.detach(), "result")


@pytest.mark.parametrize("bias", [False, True])
def test_from_torch_and_back_for_a_cell(bias: bool) -> None:
    peer = nn.GRUCell(3, 4, bias=bias, dtype=FLOAT64)
    module = gru_ext.GRUCell.from_torch(peer)
    back = module.to_torch()
    assert (type(module), type(back)) == (gru_ext.GRUCell, nn.GRUCell)
    for converted in (module, back):
        assert repr(converted) == repr(peer)
        assert_same_parameters(converted, peer)
        assert_near(converted(X[0]).detach(), peer(X[0]).detach(), "h")


def test_nothing_is_drawn_or_copied() -> None:
    peer = nn.GRU(3, 4)
    before, values = torch.get_rng_state(), copy.deepcopy(peer.state_dict())
    gru_ext.GRU.from_torch(peer).to_torch()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, values[name]) for name, tensor in peer.state_dict().items())


@pytest.mark.parametrize("state", ["meta", "frozen", "bfloat16"])
def test_device_dtype_and_frozen_parameters_stay(state: str) -> None:
    peer = nn.GRU(3, 4)
    peer = (
        peer.to("meta") if state == "meta" else peer.bfloat16() if state == "bfloat16" else peer.requires_grad_(False)
    )
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
    ("convert", "module", "text"),
    [
        (gru_ext.GRU.from_torch, Subclass(3, 4), "expected module of type GRU, got Subclass"),
        (gru_ext.GRU.from_torch, nn.LSTM(3, 4), "expected module of type GRU, got LSTM"),
        (gru_ext.GRU.from_torch, nn.GRUCell(3, 4), "expected module of type GRU, got GRUCell"),
        (gru_ext.GRUCell.from_torch, CellSubclass(3, 4), "expected module of type GRUCell, got CellSubclass"),
        (gru_ext.GRUCell.from_torch, nn.GRU(3, 4), "expected module of type GRUCell, got GRU"),
    ],
)
def test_another_type_is_refused(convert: Any, module: nn.Module, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        convert(module)
    assert str(caught.value) == text


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
    text = r"expected module (with the parameters weight_ih.*, got .*weight_hh|of type GRU(Cell)?, got Parametrized)"
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
    assert_near(model(X).detach(), untouched(X).detach(), "y")


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
    assert_near(model(X)[0].detach(), expected.detach(), "y")
