"""Block-diagonal recurrent weights: G GRUs side by side, and a dense GRU with zeros outside of the blocks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from compare import assert_near, assert_same_bits
from process import thread_count
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import gru_ext
from gru_ext import functional, reference
from gru_ext.convert import to_blocks, to_dense

FLOAT64 = torch.float64
BLOCKS, HIDDEN = 3, 12
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"bias": False, "reset_after": False},
    {"layer_norm": True},
    {"layer_norm": "joint", "bias": False},
    {"save": "output", "bidirectional": True},
    {"outputs": "last", "zoneout": 0.2},
]


def x_of(*shape: int, dtype: torch.dtype = FLOAT64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(2)).requires_grad_()


def parts_of(gru: gru_ext.GRU, **arguments: Any) -> Iterator[gru_ext.GRU]:
    """A GRU of one layer as those of its blocks, each a GRU of its own."""
    size = gru.hidden_size // gru.blocks
    for g in range(gru.blocks):
        part = gru_ext.GRU(gru.input_size, size, dtype=gru.all_weights[0][0].dtype, **arguments)
        rows = [k * gru.hidden_size + g * size + unit for k in range(3) for unit in range(size)]
        part.load_state_dict({name: weight.detach()[rows] for name, weight in gru.state_dict().items()})
        yield part


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("arguments", [a for a in ARGUMENTS if "num_layers" not in a and "outputs" not in a], ids=str)
def test_blocks_are_separate_grus_bit_for_bit(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    gru = gru_ext.GRU(5, HIDDEN, blocks=BLOCKS, dtype=dtype, **arguments)
    directions = 2 if gru.bidirectional else 1
    x, hx = x_of(7, 3, 5, dtype=dtype), x_of(directions, 3, HIDDEN, dtype=dtype)
    dy, dh_n = x_of(7, 3, directions * HIDDEN, dtype=dtype).detach(), x_of(directions, 3, HIDDEN, dtype=dtype).detach()
    with thread_count(1):
        y, h_n = gru(x, hx)
        torch.autograd.backward((y, h_n), (dy, dh_n))
        size, dxs = HIDDEN // BLOCKS, []
        for g, part in enumerate(parts_of(gru, **arguments)):
            units = slice(g * size, (g + 1) * size)
            columns = [d * HIDDEN + g * size + unit for d in range(directions) for unit in range(size)]
            own_x, own_hx = x.detach().clone().requires_grad_(), hx.detach()[..., units].requires_grad_()
            own_y, own_h_n = part(own_x, own_hx)
            torch.autograd.backward((own_y, own_h_n), (dy[..., columns], dh_n[..., units]))
            assert_same_bits(y[..., columns], own_y, f"y of block {g}")
            assert_same_bits(h_n[..., units], own_h_n, f"h_n of block {g}")
            assert hx.grad is not None
            assert own_hx.grad is not None
            assert own_x.grad is not None
            assert_same_bits(hx.grad[..., units], own_hx.grad, f"dhx of block {g}")
            dxs.append(own_x.grad)
            rows = [k * HIDDEN + g * size + unit for k in range(3) for unit in range(size)]
            for name, parameter in part.named_parameters():
                whole = gru.get_parameter(name).grad
                assert whole is not None
                assert parameter.grad is not None
                assert_same_bits(whole[rows], parameter.grad, f"gradient of {name} of block {g}")
    assert x.grad is not None
    assert_same_bits(x.grad, torch.stack(dxs).sum(0), "dx")


@pytest.mark.parametrize("arguments", [a for a in ARGUMENTS if "layer_norm" not in a], ids=str)
def test_a_dense_gru_with_zeros_outside_of_the_blocks_is_the_same(arguments: dict[str, Any]) -> None:
    gru = gru_ext.GRU(5, HIDDEN, blocks=BLOCKS, dtype=FLOAT64, **arguments).eval()
    dense = to_dense(gru)
    assert dense.blocks == 1
    x = x_of(6, 3, 5)
    resets = torch.zeros(6, 3, dtype=torch.bool)
    resets[2, 1] = resets[4, 0] = True
    lengths = [3, 0, 2, 1, 2, 3] if gru.batch_first else [6, 0, 2]
    calls: list[dict[str, Any]] = [{}, {"lengths": lengths}, {"resets": resets}]
    for call in calls:
        for result, expected in zip(gru(x, **call), dense(x, **call), strict=True):
            assert_near(result.detach(), expected.detach(), f"{[*call]}", 1e-12)
    packed = pack_sequence([x[:3, 0], x[:, 1], x[:1, 2]], enforce_sorted=False)
    assert_near(gru(packed)[1].detach(), dense(packed)[1].detach(), "packed", 1e-12)
    assert_near(gru(x[:, 0])[0].detach(), dense(x[:, 0])[0].detach(), "unbatched", 1e-12)
    back = to_blocks(dense, BLOCKS)
    for name, parameter in gru.named_parameters():
        assert_same_bits(back.get_parameter(name).detach(), parameter.detach(), name)


def test_the_specification_has_the_same_results_and_the_nearest_blocks_are_those_of_the_diagonal() -> None:
    gru = gru_ext.GRU(5, HIDDEN, blocks=BLOCKS, dtype=FLOAT64)
    x = x_of(6, 3, 5)
    weights = [*gru.parameters()]
    expected = reference.gru(x, None, [weights[0], reference.block_diagonal(weights[1], BLOCKS), *weights[2:]])
    for result, wanted in zip(gru(x), expected, strict=True):
        assert_near(result.detach(), wanted.detach(), "reference", 1e-12)
    dense = gru_ext.GRU(5, HIDDEN)
    size = HIDDEN // BLOCKS
    mask = reference.block_diagonal(torch.ones(3 * HIDDEN, size), BLOCKS).bool()
    assert mask.sum() == 3 * HIDDEN * size
    nearest = to_dense(to_blocks(dense, BLOCKS))
    diagonal = dense.get_parameter("weight_hh_l0").detach().where(mask, 0.0)
    assert_same_bits(nearest.get_parameter("weight_hh_l0").detach(), diagonal)
    cell = gru_ext.GRUCell(5, HIDDEN, blocks=BLOCKS)
    state = cell(x[0].float().detach())
    assert_near(to_dense(cell)(x[0].float().detach(), state).detach(), cell(x[0].float(), state).detach(), "cell", 1e-6)


@pytest.mark.parametrize("arguments", [{}, {"bidirectional": True, "save": "output"}, {"layer_norm": True}], ids=str)
def test_first_and_second_derivatives(arguments: dict[str, Any]) -> None:
    gru = gru_ext.GRU(2, 4, blocks=2, dtype=FLOAT64, **arguments)
    directions = 2 if gru.bidirectional else 1
    names, weights = zip(*((n, p.detach().requires_grad_()) for n, p in gru.named_parameters()), strict=True)

    def call(x: Tensor, hx: Tensor, *weights: Tensor) -> Any:
        return torch.func.functional_call(gru, dict(zip(names, weights, strict=True)), (x, hx))

    leaves = (x_of(2, 1, 2), x_of(directions, 1, 4), *weights)
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_masks_autocast_func_compile_and_export() -> None:
    gru = gru_ext.GRU(5, HIDDEN, blocks=BLOCKS, zoneout=0.2, recurrent_dropout=0.3, candidate_dropout=0.1)
    dense, x = to_dense(gru), x_of(6, 3, 5, dtype=torch.float32).detach()
    results = []
    for module in (gru, dense):
        torch.manual_seed(0)
        results.append(module(x)[0].detach())
    assert_near(results[0], results[1], "masks", 1e-6)
    gru = gru_ext.GRU(5, HIDDEN, blocks=BLOCKS)
    dense = to_dense(gru)
    with torch.autocast("cpu", torch.bfloat16):
        assert_near(gru(x)[0].detach(), dense(x)[0].detach(), "autocast", 0.02)
    xs = torch.stack([x, 2 * x])
    assert_near(torch.vmap(lambda x: gru(x)[0])(xs).detach(), torch.stack([gru(x)[0], gru(2 * x)[0]]).detach(), "vmap")
    tangents = [torch.func.jvp(lambda x, m=module: m(x)[0], (x,), (x,))[1].detach() for module in (gru, dense)]
    assert_near(tangents[0], tangents[1], "jvp", 1e-6)
    models: list[nn.Module] = [gru_ext.GRU(5, HIDDEN, blocks=BLOCKS) for _ in range(2)]
    stacked, _ = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    ensemble = torch.vmap(lambda p: torch.func.functional_call(base, p, (x,))[0])(stacked)
    assert_near(ensemble.detach(), torch.stack([model(x)[0] for model in models]).detach(), "ensemble", 1e-6)
    compiled: Any = torch.compile(gru, backend="aot_eager", fullgraph=True)
    gradients = []
    for module in (compiled, gru):
        gru.zero_grad()
        module(x)[0].sin().sum().backward()
        gradient = gru.get_parameter("weight_hh_l0").grad
        assert gradient is not None
        gradients.append(gradient.clone())
    assert_near(gradients[0], gradients[1], "compiled", 1e-6)
    exported = torch.export.export(gru, (x,)).module()
    assert_near(exported(x)[0].detach(), gru(x)[0].detach(), "exported", 1e-6)
    prepared = gru_ext.prepare(gru.eval())
    assert_same_bits(prepared(x)[0].detach(), gru(x)[0].detach())


def test_wrong_blocks_are_named() -> None:
    gru = gru_ext.GRU(3, 4, blocks=2)
    assert repr(gru) == "GRU(3, 4, blocks=2)"
    weights = [p.detach() for p in gru.parameters()]
    x = torch.randn(5, 2, 3)
    with pytest.raises(ValueError, match=r"^GRU: expected blocks that divide H = 4, got 3$"):
        gru_ext.GRU(3, 4, blocks=3)
    with pytest.raises(ValueError, match=r"^GRUCell: expected blocks that divide H = 4, got 3$"):
        gru_ext.GRUCell(3, 4, blocks=3)
    for wrong, error in ((0, ValueError), (2.0, TypeError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(error, match=r"^GRU: expected blocks of "):
            gru_ext.GRU(3, 4, blocks=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^GRU: expected blocks when the module is made, .*, got 4 after 2$"):
        gru.blocks = 4
    dense = [weights[0], torch.zeros(12, 4), *weights[2:]]
    text = r"expected weight_hh of shape \(3H, H / blocks\) = \(12, 2\) with blocks=2, got \(12, 4\)$"
    with pytest.raises(RuntimeError, match=f"^gru: {text}"):
        functional.gru(x, None, dense, blocks=2)
    with pytest.raises(RuntimeError, match=f"^gru_cell: {text}"):
        functional.gru_cell(x[0], None, dense[0], dense[1], blocks=2)
    with pytest.raises(ValueError, match=r"^gru: expected blocks that divide H = 4, got 3$"):
        functional.gru(x, None, dense, blocks=3)
    with pytest.raises(RuntimeError, match=r"^gru: expected weight_ih of shape \(3H, I\) = \(12, 3\), got \(9, 3\)$"):
        functional.gru(x, None, [torch.zeros(9, 3), *weights[1:]], blocks=2)
    with pytest.raises(RuntimeError, match=r"expected hx of shape \(L\*D, B, H\) = \(1, 2, 4\), got \(1, 2, 2\)"):
        gru(x, torch.zeros(1, 2, 2))
    advice = "; gru_ext.convert.to_blocks and to_dense make the one of the other"
    with pytest.raises(RuntimeError) as caught:
        gru.load_state_dict(nn.GRU(3, 4).state_dict())
    expected = "GRU: expected weight_hh_l0 of shape (3H, H / blocks) = (12, 2) with blocks=2, got (12, 4)"
    assert expected + advice in str(caught.value)
    with pytest.raises(RuntimeError) as caught:
        gru_ext.GRU(3, 4).load_state_dict(gru.state_dict())
    expected = "GRU: expected weight_hh_l0 of shape (3H, H / blocks) = (12, 4) with blocks=1, got (12, 2)"
    assert expected + advice in str(caught.value)


def test_what_others_have_no_blocks_for_is_refused() -> None:
    gru = gru_ext.GRU(3, 4, blocks=2)
    with pytest.raises(ValueError, match=r"^to_torch: expected GRU with blocks=1, as torch\.nn has it, got blocks=2"):
        gru.to_torch()
    with pytest.raises(ValueError, match=r"^quantize_dynamic: expected GRU with blocks=1, .* got blocks=2"):
        gru_ext.quantize_dynamic(gru)
    with pytest.raises(ValueError, match=r"^GRU: expected blocks=1 with fake_int8, .* got 2"):
        gru.fake_int8 = True
    for convert in (gru_ext.convert.to_keras_weights, gru_ext.convert.to_haste, gru_ext.convert.to_onnx_weights):
        with pytest.raises(ValueError, match="expected gru with blocks=1, got blocks=2"):
            convert(gru)
    with pytest.raises(ValueError, match=r"^to_blocks: expected gru with blocks=1, got blocks=2; to_dense makes"):
        to_blocks(gru, 4)
    with pytest.raises(ValueError, match=r"^to_blocks: expected blocks that divide H = 4, got 3"):
        to_blocks(gru_ext.GRU(3, 4), 3)
