"""``prepare``: weights arranged once give the results of the module before, or an error where they are stale."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cases import FLOATING
from compare import assert_same_bits
from process import thread_count, through_a_file
from refusals import refused
from torch import nn

import gru_ext

SIZES = [(1, 1, 1), (3, 5, 8), (4, 7, 33)]  # batch, input, hidden
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 3},
    {"bidirectional": True, "num_layers": 2},
    {"batch_first": True, "bidirectional": True},
    {"bias": False},
    {"reset_after": False},
    {"layer_norm": True, "num_layers": 2},
    {"layer_norm": "joint", "bias": False},
    {"zoneout": 0.3},
    {"dropout": 0.5, "num_layers": 2, "recurrent_dropout": 0.25},
]


@contextmanager
def prepared_only() -> Iterator[None]:
    """Within it there is no ordinary call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("gru_ext.modules.call_gru")
        patch.delattr("gru_ext.modules.call_cell")
        yield


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_bits_are_those_of_the_module_before(options: dict[str, Any], dtype: torch.dtype, threads: int) -> None:
    for batch, size, hidden in SIZES:
        gru = gru_ext.GRU(size, hidden, dtype=dtype, **options).eval()
        prepared: Any = gru_ext.prepare(gru)
        assert type(prepared) is gru_ext.PreparedGRU
        x = torch.randn(40, batch, size, dtype=dtype)  # so many steps that the call before arranges the weights too
        x = x.transpose(0, 1).contiguous() if gru.batch_first else x
        with thread_count(threads), torch.no_grad():
            for hx in (None, torch.randn(len(gru.all_weights), batch, hidden, dtype=dtype)):
                with prepared_only():
                    outputs = prepared(x, hx)
                assert_same_bits(outputs, gru(x, hx))
                assert not any(output.requires_grad for output in outputs)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_few_rows(dtype: torch.dtype) -> None:
    """The module before reads the weights as they are then: sums in another order."""
    gru = gru_ext.GRU(20, 40, num_layers=2, dtype=dtype).eval()
    reference = copy.deepcopy(gru).double()
    x = torch.randn(1, 1, 20, dtype=dtype)
    tolerance = 10 * torch.finfo(dtype).eps
    for result, expected in zip(gru_ext.prepare(gru)(x), reference(x.double()), strict=True):
        assert torch.allclose(result.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"layer_norm": True}, {"reset_after": False}, {"zoneout": 0.2}], ids=str
)
def test_cell(options: dict[str, Any]) -> None:
    cell = gru_ext.GRUCell(5, 9, dtype=torch.float64, **options).eval()
    prepared = gru_ext.prepare(cell)
    x, hx = torch.randn(60, 5, dtype=torch.float64), torch.randn(60, 9, dtype=torch.float64)
    with torch.no_grad():
        for state in (None, hx):
            with prepared_only():
                ours = prepared(x, state)
            assert_same_bits(ours, cell(x, state))
        assert_same_bits(prepared(x[0], hx[0]), cell(x[0], hx[0]))
    no_input = gru_ext.GRUCell(0, 3).eval()
    assert_same_bits(gru_ext.prepare(no_input)(torch.zeros(2, 0)), no_input(torch.zeros(2, 0)))


def test_a_whole_model() -> None:
    """Copied, with everything that was no GRU as it was, and files of the model as they were."""

    class Own(nn.GRU):
        pass

    becomes: dict[str, tuple[nn.Module, type]] = {
        "torch": (nn.GRU(3, 4), gru_ext.PreparedGRU),
        "ours": (gru_ext.GRU(3, 4), gru_ext.PreparedGRU),
        "cell": (nn.GRUCell(3, 4), gru_ext.PreparedGRUCell),
        "own": (Own(3, 4), Own),
        "linear": (nn.Linear(2, 2), nn.Linear),
    }
    model = nn.ModuleDict({name: module for name, (module, _) in becomes.items()}).eval()
    prepared: Any = gru_ext.prepare(model)
    assert [type(module) for module in prepared.values()] == [kind for _, kind in becomes.values()]
    now: Any = model
    assert type(now["torch"]) is nn.GRU
    assert prepared.state_dict().keys() == model.state_dict().keys()
    x = torch.randn(30, 2, 3)
    with torch.no_grad():
        assert torch.allclose(prepared["torch"](x)[0], now["torch"](x)[0], atol=1e-6)
    assert gru_ext.prepare(model, inplace=True) is model
    assert {type(now["torch"]), type(now["ours"])} == {gru_ext.PreparedGRU}
    quantized: Any = gru_ext.quantize_dynamic(nn.Sequential(nn.GRU(3, 4)))
    same: Any = gru_ext.prepare(quantized)
    assert type(same[0]) is gru_ext.QuantizedGRU


def test_the_way_back() -> None:
    gru: Any = gru_ext.GRU(3, 4).eval()
    cell = gru_ext.GRUCell(3, 4).eval()
    gru.tag = "mine"
    model: Any = nn.ModuleDict({"gru": gru, "cell": cell})
    prepared: Any = gru_ext.prepare(model)
    back: Any = gru_ext.to_torch(copy.deepcopy(prepared))
    assert [type(module) for module in back.values()] == [nn.GRU, nn.GRUCell]
    assert back["gru"].tag == "mine"
    assert not [name for name in vars(back["gru"]) if "arranged" in name]
    x = torch.randn(30, 2, 3)
    assert torch.allclose(back["gru"](x)[0], prepared["gru"](x)[0], atol=1e-6)
    assert type(prepared["gru"].to_torch()) is nn.GRU
    assert type(prepared["cell"].to_torch()) is nn.GRUCell
    small: Any = gru_ext.quantize_dynamic(prepared)
    expected: Any = gru_ext.quantize_dynamic(model)
    assert_same_bits(small["gru"](x)[0], expected["gru"](x)[0])
    assert_same_bits(small["cell"](x[0]), expected["cell"](x[0]))
    assert type(gru_ext.PreparedGRU.from_torch(back["gru"])) is gru_ext.PreparedGRU
    with pytest.raises(TypeError, match=r"^PreparedGRU: expected module of type gru_ext\.GRU, got Linear$"):
        gru_ext.PreparedGRU(nn.Linear(1, 1))  # type: ignore[arg-type]


def test_what_cannot_be_arranged_is_ordinary() -> None:
    gru: Any = gru_ext.prepare(gru_ext.GRU(3, 4).eval())
    gru.weight_hh_l0.data = gru.weight_hh_l0.data.half()
    gru.arrange()
    with pytest.raises(RuntimeError, match=r"^gru: expected all weights of one dtype and device, "):
        gru(torch.zeros(2, 1, 3))
    cell: Any = gru_ext.GRUCell(3, 4).eval()
    cell.bias_ih = None
    with pytest.raises(ValueError, match=r"^gru_cell: expected both bias_ih and bias_hh or neither, got one$"):
        gru_ext.prepare(cell)(torch.zeros(2, 3))
    empty: Any = gru_ext.prepare(gru_ext.GRU(3, 4, num_layers=2).eval())
    hx = torch.randn(2, 0, 4)
    assert [result.shape for result in empty(torch.zeros(5, 0, 3), hx)] == [(5, 0, 4), (2, 0, 4)]


CHANGES: dict[str, Callable[[Any], object]] = {
    "in place": lambda gru: nn.init.ones_(gru.bias_hh_l0),
    "replaced": lambda gru: setattr(gru, "weight_hh_l0", nn.Parameter(torch.zeros(12, 4))),
    "data": lambda gru: setattr(gru.weight_ih_l0, "data", torch.zeros(12, 3)),
    "parametrized": lambda gru: nn.utils.parametrizations.weight_norm(gru, "weight_ih_l0"),
}


@pytest.mark.parametrize(
    "arrange",
    [
        lambda gru: gru.arrange(),
        lambda gru: gru_ext.prepare(gru),
        lambda gru: next(gru_ext.prepare(nn.Sequential(gru), inplace=True).children()),
    ],
    ids=["arrange", "prepare", "prepare in place"],
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_stale_weight_is_an_error_until_it_is_arranged(change: str, arrange: Callable[[Any], Any]) -> None:
    gru: Any = gru_ext.prepare(gru_ext.GRU(3, 4).eval())
    x = torch.randn(2, 1, 3)
    gru(x)
    CHANGES[change](gru)
    with pytest.raises(RuntimeError, match=r"PreparedGRU: \w+_l0.* changed since the weights were arranged; "):
        gru(x)
    gru = arrange(gru) or gru
    expected = gru_ext.GRU(3, 4)
    expected.load_state_dict({name: getattr(gru, name).detach() for name in expected.state_dict()})
    assert torch.allclose(gru(x)[0], expected(x)[0], atol=1e-6)


def test_what_arranges_anew() -> None:
    gru: Any = gru_ext.prepare(gru_ext.GRU(3, 4).eval())
    other = gru_ext.GRU(3, 4)
    x = torch.randn(40, 2, 3)
    gru.load_state_dict(other.state_dict())
    assert_same_bits(gru(x)[0], other(x)[0])
    copies: list[Any] = [copy.deepcopy(gru), through_a_file(gru)]
    for copied in copies:
        assert type(copied) is type(gru)
        assert copied._gru_ext_arranged is not None
        assert_same_bits(copied(x)[0], gru(x)[0])
        with torch.no_grad():
            copied.weight_ih_l0.zero_()
        gru(x)  # not its parameters
    gru.double()
    assert_same_bits(gru(x.double())[0], other.double()(x.double())[0])
    gru.reset_after = False
    other.reset_after = False
    assert_same_bits(gru(x.double())[0], other(x.double())[0])


def test_the_ordinary_call_serves_the_rest() -> None:
    gru = gru_ext.GRU(3, 4, num_layers=2).eval()
    prepared: Any = gru_ext.prepare(gru)
    x = torch.randn(40, 2, 3, requires_grad=True)
    given, expected = (torch.autograd.grad(module(x)[0].sum(), [x]) for module in (prepared, gru))
    assert_same_bits(given, expected)
    x = x.detach()
    hx = torch.randn(2, 2, 4, requires_grad=True)
    assert prepared(x, hx)[0].requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_bits(prepared(x)[0], gru(x)[0])
    packed = nn.utils.rnn.pack_padded_sequence(x, [40, 7])
    assert_same_bits(prepared(packed)[0].data, gru(packed)[0].data)
    assert_same_bits(prepared(x, lengths=[3, 40])[0], gru(x, lengths=[3, 40])[0])
    assert_same_bits(prepared(x[:, 0])[0], gru(x[:, 0])[0])
    prepared.train()
    assert prepared(x)[0].requires_grad
    program = torch.export.export(prepared.eval(), (x,))
    assert torch.allclose(program.module()(x)[0], gru(x)[0], atol=1e-6)


def test_refusals_are_those_of_gru() -> None:
    gru = gru_ext.GRU(3, 4).eval()
    prepared = gru_ext.prepare(gru)
    for arguments in (
        (torch.randn(2, 1, 5),),
        (torch.randn(0, 1, 3),),
        (torch.randn(2, 1, 3).double(),),
        (torch.randn(2, 1, 3), torch.randn(1, 2, 4)),
        (torch.randn(2, 1, 3), torch.randn(1, 1, 4).double()),
        (torch.randn(3),),
    ):
        with pytest.raises((RuntimeError, ValueError)) as expected:
            gru(*arguments)
        with refused(expected.type, str(expected.value)):
            prepared(*arguments)
    with pytest.raises(TypeError, match=r"^prepare: expected inplace"):
        gru_ext.prepare(gru, inplace=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^prepare: expected module of type torch\.nn\.Module, got int$"):
        gru_ext.prepare(3)  # type: ignore[type-var]


def of_another_machine(arranged: torch.Tensor) -> torch.Tensor:
    """The same bytes with the mark and instruction set of another; see Header of csrc/cpu/prepared.cpp."""
    header = bytearray(arranged[:80].tolist())
    header[8] = (header[8] + 1) % 2
    mark = 0xCBF29CE484222325
    for place in range(8, 80, 8):
        mark = (mark ^ int.from_bytes(header[place : place + 8], "little")) * 0x100000001B3 % 2**64
    changed = arranged.clone()
    changed[:80] = torch.tensor([*mark.to_bytes(8, "little"), *header[8:]], dtype=torch.uint8)
    return changed


def test_the_operators_refuse_what_was_not_prepared() -> None:
    ops = torch.ops.gru_ext
    x, weights = torch.randn(2, 1, 3), [torch.randn(12, 3), torch.randn(12, 4)]
    for other in (torch.zeros(256, dtype=torch.uint8), torch.zeros(8, dtype=torch.uint8), torch.zeros(256)):
        with pytest.raises(RuntimeError, match=r"^gru_prepared: expected prepared as `prepare` returned it, got "):
            ops.gru_prepared(x, None, weights, other)
    arranged = ops.prepare(weights, 1, False, False)
    with pytest.raises(RuntimeError, match=r"^gru_prepared: expected weights prepared for \w+, got \w+"):
        ops.gru_prepared(x, None, weights, of_another_machine(arranged))
    with pytest.raises(RuntimeError, match=r"^gru_prepared: expected prepared of "):
        ops.gru_prepared(x, None, weights, arranged[:-64].clone())
    with pytest.raises(RuntimeError, match=r"^gru_prepared: expected 2 weights, as were prepared, got 1"):
        ops.gru_prepared(x, None, weights[:1], arranged)
    with pytest.raises(RuntimeError, match=r"^gru_prepared: .*got weights\[1\] with other values"):
        ops.gru_prepared(x, None, [weights[0], weights[1].clone()], arranged)
    with pytest.raises(RuntimeError, match=r"weights\[1\] of shape \(3H, K\) = \(12, 4\), got \[11, 4\]"):
        ops.prepare([weights[0], weights[1][:11]], 1, False, False)
    with pytest.raises(RuntimeError, match=r"^prepare: expected 4 weights, got 2"):
        ops.prepare(weights, 1, False, True)
