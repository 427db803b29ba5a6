"""Block-diagonal recurrent weights: G GRUs side by side, and a dense GRU with zeros outside of the blocks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import Options, Problem, Size, make_problem
from compare import assert_near, assert_same_bits, assert_same_state
from process import thread_count
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import gru_ext
from gru_ext import functional, reference
from gru_ext.convert import to_blocks, to_dense
from gru_ext.recurrence import normalizations
from gru_ext.variant import Variant

ops = torch.ops.gru_ext
FLOAT64 = torch.float64
BLOCKS, HIDDEN = 3, 12
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"bias": False, "reset_after": False},
    {"layer_norm": True},
    {"layer_norm": "joint", "bias": False},
    {"layer_norm": True, "norm_over": "layer", "bidirectional": True},
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
        rows = rows_of(g, gru)
        part.load_state_dict({name: weight.detach()[rows] for name, weight in gru.state_dict().items()})
        yield part


def grad_of(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def rows_of(g: int, gru: gru_ext.GRU) -> list[int]:
    """Of a weight, those of a block."""
    size = gru.hidden_size // gru.blocks
    return [k * gru.hidden_size + g * size + unit for k in range(3) for unit in range(size)]


def columns_of(g: int, gru: gru_ext.GRU) -> list[int]:
    """Of an output, those of a block, the directions side by side."""
    size, directions = gru.hidden_size // gru.blocks, 2 if gru.bidirectional else 1
    return [d * gru.hidden_size + g * size + unit for d in range(directions) for unit in range(size)]


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "arguments", [a for a in ARGUMENTS if not {"num_layers", "outputs", "norm_over"} & a.keys()], ids=str
)
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
            columns = columns_of(g, gru)
            own_x, own_hx = x.detach().clone().requires_grad_(), hx.detach()[..., units].requires_grad_()
            own_y, own_h_n = part(own_x, own_hx)
            torch.autograd.backward((own_y, own_h_n), (dy[..., columns], dh_n[..., units]))
            assert_same_bits(y[..., columns], own_y, f"y of block {g}")
            assert_same_bits(h_n[..., units], own_h_n, f"h_n of block {g}")
            assert_same_bits(grad_of(hx)[..., units], own_hx.grad, f"dhx of block {g}")
            dxs.append(grad_of(own_x))
            rows = rows_of(g, gru)
            for name, parameter in part.named_parameters():
                assert_same_bits(grad_of(gru.get_parameter(name))[rows], parameter.grad, f"d{name} of block {g}")
    assert_same_bits(x.grad, torch.stack(dxs).sum(0), "dx")


@pytest.mark.parametrize("arguments", [a for a in ARGUMENTS if "layer_norm" not in a or "norm_over" in a], ids=str)
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
        assert_near(gru(x, **call), dense(x, **call), f"{[*call]}", 1e-12)
    packed = pack_sequence([x[:3, 0], x[:, 1], x[:1, 2]], enforce_sorted=False)
    assert_near(gru(packed)[1], dense(packed)[1], "packed", 1e-12)
    assert_near(gru(x[:, 0])[0], dense(x[:, 0])[0], "unbatched", 1e-12)
    back = to_blocks(dense, BLOCKS)
    assert_same_state(back, gru)


@pytest.mark.parametrize("layer_norm", [True, "joint"])
def test_layer_norm_over_all_units_is_that_of_the_specification(layer_norm: Any) -> None:
    gru = gru_ext.GRU(5, HIDDEN, blocks=BLOCKS, layer_norm=layer_norm, norm_over="layer", dtype=FLOAT64)
    for parameter in gru.parameters():
        nn.init.normal_(parameter)
    x = x_of(6, 3, 5)
    weights = [*gru.parameters()]
    leaves = (x, *weights)
    variant = Variant(layer_norm=normalizations(layer_norm))
    dense = [weights[0], reference.block_diagonal(weights[1], BLOCKS), *weights[2:]]
    results = [gru(x), reference.gru(x, None, dense, variant=variant)]
    gradients = [torch.autograd.grad(y.sin().sum() + h_n.sum(), leaves) for y, h_n in results]
    assert_near(results[0], results[1])
    assert_near(gradients[0], gradients[1])
    gru.norm_over = "block"
    assert not torch.allclose(gru(x)[0], results[0][0])
    cell = gru_ext.GRUCell(5, HIDDEN, blocks=BLOCKS, layer_norm=layer_norm, norm_over="layer", dtype=FLOAT64)
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in gru.state_dict().items()})
    assert_near(cell(x[0]), results[0][0][0], "cell", 1e-12)
    back = to_blocks(to_dense(cell), BLOCKS)
    assert back.norm_over == "layer"
    assert_same_bits(back(x[0]), cell(x[0]))
    text = r"^to_dense: expected gru with norm_over=\"layer\" where it has layer_norm, .* got norm_over='block'$"
    with pytest.raises(ValueError, match=text):
        to_dense(gru)
    with pytest.raises(ValueError, match=r'^GRU: expected norm_over to be "block" or "layer", got True$'):
        gru.norm_over = True  # type: ignore[assignment]


def test_the_specification_has_the_same_results_and_the_nearest_blocks_are_those_of_the_diagonal() -> None:
    gru = gru_ext.GRU(5, HIDDEN, blocks=BLOCKS, dtype=FLOAT64)
    x = x_of(6, 3, 5)
    weights = [*gru.parameters()]
    expected = reference.gru(x, None, [weights[0], reference.block_diagonal(weights[1], BLOCKS), *weights[2:]])
    assert_near(gru(x), expected, "reference", 1e-12)
    dense = gru_ext.GRU(5, HIDDEN)
    size = HIDDEN // BLOCKS
    mask = reference.block_diagonal(torch.ones(3 * HIDDEN, size), BLOCKS).bool()
    assert mask.sum() == 3 * HIDDEN * size
    nearest = to_dense(to_blocks(dense, BLOCKS))
    diagonal = dense.get_parameter("weight_hh_l0").detach().where(mask, 0.0)
    assert_same_bits(nearest.get_parameter("weight_hh_l0"), diagonal)
    cell = gru_ext.GRUCell(5, HIDDEN, blocks=BLOCKS)
    state = cell(x[0].float().detach())
    assert_near(to_dense(cell)(x[0].float(), state), cell(x[0].float(), state), "cell", 1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"bidirectional": True, "save": "output"}, {"layer_norm": True}, {"layer_norm": True, "norm_over": "layer"}],
    ids=str,
)
def test_first_and_second_derivatives(arguments: dict[str, Any]) -> None:
    gru = gru_ext.GRU(2, 4, blocks=2, dtype=FLOAT64, **arguments)
    directions = 2 if gru.bidirectional else 1
    names, weights = zip(*((n, p.detach().requires_grad_()) for n, p in gru.named_parameters()), strict=True)

    def call(x: Tensor, hx: Tensor, *weights: Tensor) -> Any:
        return torch.func.functional_call(gru, dict(zip(names, weights, strict=True)), (x, hx))

    leaves = (x_of(2, 1, 2), x_of(directions, 1, 4), *weights)
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_masks_are_those_of_a_dense_gru_and_weights_can_be_prepared() -> None:
    gru = gru_ext.GRU(5, HIDDEN, blocks=BLOCKS, zoneout=0.2, recurrent_dropout=0.3, candidate_dropout=0.1)
    x, results = x_of(6, 3, 5, dtype=torch.float32).detach(), []
    for module in (gru, to_dense(gru)):
        torch.manual_seed(0)
        results.append(module(x)[0])
    assert_near(results[0], results[1], "masks", 1e-6)
    gru = gru_ext.GRU(5, HIDDEN, blocks=BLOCKS).eval()
    assert_same_bits(gru_ext.prepare(gru)(x)[0], gru(x)[0])


def test_wrong_blocks_are_named() -> None:
    gru = gru_ext.GRU(3, 4, blocks=2)
    weights = [p.detach() for p in gru.parameters()]
    x = torch.randn(5, 2, 3)
    for make in (gru_ext.GRU, gru_ext.GRUCell):
        with pytest.raises(ValueError, match=rf"^{make.__name__}: expected blocks that divide H = 4, got 3$"):
            make(3, 4, blocks=3)
    with pytest.raises(ValueError, match=r"^GRU: expected blocks of at least 1, got 0$"):
        gru_ext.GRU(3, 4, blocks=0)
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


def test_what_has_no_such_blocks_is_refused() -> None:
    gru = gru_ext.GRU(3, 4, blocks=2)
    with pytest.raises(ValueError, match=r"^to_blocks: expected gru with blocks=1, got blocks=2; to_dense makes"):
        to_blocks(gru, 4)
    with pytest.raises(ValueError, match=r"^to_blocks: expected blocks that divide H = 4, got 3"):
        to_blocks(gru_ext.GRU(3, 4), 3)


# ---- The operators


def operands(options: Options) -> Problem:
    """A problem whose weights are those of three blocks."""
    size = Size(4, 3, 2, 6)
    problem = make_problem(size, options)
    for i, weight in enumerate(problem.weights):
        if weight.shape == (3 * size.hidden, size.hidden):
            problem.weights[i] = weight[:, : size.hidden // 3].contiguous()
    return problem


def of_backward(p: Problem, *needs: bool) -> tuple[Any, ...]:
    """The arguments of ``gru_bwd_blocks``."""
    y, _, gates = ops.gru_fwd_blocks(*p.layer)
    return p.dy, p.dh_n, p.x, p.hx, p.weights, p.batch_sizes, p.bidirectional, y, gates, *needs


@pytest.mark.parametrize("options", [Options(), Options(bidirectional=True), Options(packed=True, bias=False)], ids=str)
def test_opcheck(options: Options) -> None:
    problem = operands(options)
    leaves = problem.map(lambda tensor: tensor.detach().requires_grad_())
    arguments = (leaves.x, leaves.hx, leaves.weights, leaves.batch_sizes, leaves.bidirectional)
    torch.library.opcheck(ops.gru_fwd_blocks.default, arguments)
    for needs in ((True, True, True), (False, True, False), (True, False, True)):
        torch.library.opcheck(ops.gru_bwd_blocks.default, of_backward(problem, *needs))


@pytest.mark.parametrize("arguments", [{}, {"bidirectional": True, "save": "output"}, {"layer_norm": True}], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(arguments: dict[str, Any]) -> None:
    gru = gru_ext.GRU(20, 96, blocks=3, **arguments)
    x = x_of(40, 16, 20, dtype=torch.float32)
    results = []
    for threads in (1, 2):
        with thread_count(threads):
            y, _ = gru(x)
            results.append([y, *torch.autograd.grad(y.sin().sum(), [x, *gru.parameters()])])
    assert_same_bits(results[0], results[1])


def test_threads_are_below_autograd_and_in_inference_mode() -> None:
    gru = gru_ext.GRU(64, 96, blocks=3)
    x = torch.randn(40, 16, 64)
    with thread_count(2):
        for module in (gru, gru_ext.quantize_dynamic(gru)):
            expected = module(x)
            with torch.inference_mode():
                results = module(x.clone(), torch.zeros(1, 16, 96))
            assert_same_bits([result.clone() for result in results], expected)


def test_gradients_of_a_batch_of_cotangents_of_some_and_of_an_empty_batch() -> None:
    gru = gru_ext.GRU(5, HIDDEN, blocks=BLOCKS, dtype=FLOAT64)
    dense, x = to_dense(gru), x_of(6, 3, 5)
    gradients = []
    for module in (gru, dense):
        y, h_n = module(x)
        cotangents = [torch.stack([result.cos(), result.sin()]).detach() for result in (y, h_n)]
        of_x = torch.autograd.grad([y, h_n], [x], cotangents, is_grads_batched=True)
        (of_h_n,) = torch.autograd.grad(module(x)[1].sum(), [x])
        gradients.append([*of_x, of_h_n])
    assert_near(gradients[0], gradients[1], "gradient", 1e-12)
    x, hx = torch.zeros(4, 0, 5, dtype=FLOAT64, requires_grad=True), torch.zeros(1, 0, HIDDEN, dtype=FLOAT64)
    y, h_n = gru(x, hx)
    (y.sum() + h_n.sum()).backward()
    assert (y.shape, h_n.shape) == ((4, 0, HIDDEN), (1, 0, HIDDEN))
    assert not any(p.grad is None or p.grad.any() for p in gru.parameters())


def test_wrong_arguments_of_the_operators_are_named() -> None:
    problem = operands(Options())
    x, hx, weights = problem.x, problem.hx, problem.weights
    text = (
        r"^gru: expected weight_ih of shape \(3H, I\) and weight_hh of shape \(3H, H / G\), got \[18, 2\] and \[18, 5\]"
    )
    with pytest.raises(RuntimeError, match=text):
        ops.gru_fwd_blocks(x, hx, [weights[0], torch.zeros(18, 5, dtype=FLOAT64), *weights[2:]], None, False)
    with pytest.raises(
        RuntimeError, match=r"^gru: expected weight_hh of shape \(3H, H / G\) = \(18, 2\), got \(12, 2\)"
    ):
        ops.gru_fwd_blocks(x, hx, [weights[0], weights[1][:12], *weights[2:]], None, False)
    with pytest.raises(RuntimeError, match=r"^gru: expected hx of shape \(D, B, H\) = \(1, 3, 6\), got \(1, 3, 2\)"):
        ops.gru_fwd_blocks(x, problem.hx[..., :2], weights, None, False)  # type: ignore[index]
    dy, dh_n, *rest, _, gates, a, b, c = of_backward(problem, True, True, True)
    for wrong in (gates[:2], gates[0]):
        with pytest.raises(RuntimeError, match=r"^gru: expected gates of G = 3 blocks, got \["):
            ops.gru_bwd_blocks(dy, dh_n, *rest, torch.zeros(4, 3, 6, dtype=FLOAT64), wrong, a, b, c)


# ---- int8


@pytest.mark.parametrize("hidden", [12, 60])  # of a block: 4, within a group of packed weights, and 20
@pytest.mark.parametrize("arguments", [{}, {"bias": False}, {"bidirectional": True}], ids=str)
def test_int8_blocks_are_separate_int8_grus_bit_for_bit(arguments: dict[str, Any], hidden: int) -> None:
    gru = gru_ext.GRU(5, hidden, blocks=BLOCKS, **arguments)
    x, hx = torch.randn(40, 16, 5), torch.randn(2 if gru.bidirectional else 1, 16, hidden)
    packed = pack_sequence([x[:3, 0], x[:, 1], x[:1, 2]], enforce_sorted=False)
    results = []
    for threads in (1, 2):
        with thread_count(threads):
            quantized = gru_ext.quantize_dynamic(gru)
            results.append([*quantized(x, hx), quantized(packed)[0].data])
    for g, part in enumerate(parts_of(gru, **arguments)):
        own, columns, size = gru_ext.quantize_dynamic(part), columns_of(g, gru), hidden // BLOCKS
        units = slice(g * size, (g + 1) * size)
        y, h_n = own(x, hx[..., units])
        for of_blocks in results:
            assert_same_bits(of_blocks[0][..., columns], y, f"y of block {g}")
            assert_same_bits(of_blocks[1][..., units], h_n, f"h_n of block {g}")
            assert_same_bits(of_blocks[2][..., columns], own(packed)[0].data, f"packed, of block {g}")
    assert_near(results[0][0], gru(x, hx)[0], "beside float32", 0.05)


def test_int8_blocks_of_layers_and_cells_are_saved_and_trained_for() -> None:
    x = torch.randn(6, 3, 5)
    gru = gru_ext.fake_quantize(gru_ext.GRU(5, HIDDEN, 2, bidirectional=True, blocks=BLOCKS))
    assert repr(gru) == f"GRU(5, {HIDDEN}, num_layers=2, bidirectional=True, blocks={BLOCKS}, fake_int8=True)"
    gru(x)[0].square().mean().backward()
    torch.optim.SGD(gru.parameters(), lr=1.0).step()
    quantized = gru_ext.quantize_dynamic(gru)
    assert repr(quantized) == f"QuantizedGRU(5, {HIDDEN}, num_layers=2, bidirectional=True, blocks={BLOCKS})"
    for lengths in (None, [6, 0, 2]):
        with torch.no_grad():
            expected = gru(x, lengths=lengths)[0]
        assert_same_bits(quantized(x, lengths=lengths)[0], expected)
        assert_near(gru(x, lengths=lengths)[0], expected, "with gradients", 2e-3)
    state = quantized.state_dict()
    assert state["weight_hh_l0"].shape == (3 * HIDDEN, HIDDEN // BLOCKS)
    empty = gru_ext.QuantizedGRU(5, HIDDEN, 2, bidirectional=True, blocks=BLOCKS)
    empty.load_state_dict(state)
    for copied in (empty, copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert_same_bits(copied(x)[0], quantized(x)[0])
    compiled: Any = torch.compile(quantized, backend="aot_eager", fullgraph=True)
    assert_same_bits(compiled(x)[0], quantized(x)[0])
    with pytest.raises(
        RuntimeError, match=r"expected weight_hh_l0 of shape \(3H, K\) = \(36, 12\), int8, .* got \(36, 4\)"
    ):
        gru_ext.QuantizedGRU(5, HIDDEN, 2, bidirectional=True).load_state_dict(state)
    cell = gru_ext.fake_quantize(gru_ext.GRUCell(5, HIDDEN, blocks=BLOCKS))
    small = gru_ext.quantize_dynamic(cell)
    assert repr(small) == f"QuantizedGRUCell(5, {HIDDEN}, blocks={BLOCKS})"
    with torch.no_grad():
        assert_same_bits(small(x[0], small(x[1])), cell(x[0], cell(x[1])))
    with pytest.raises(ValueError, match=r"^QuantizedGRU: expected blocks that divide H = 12, got 5"):
        gru_ext.QuantizedGRU(5, HIDDEN, blocks=5)
    weights = [t for t in quantized._buffers.values() if t is not None]
    with pytest.raises(ValueError, match=r"^gru: expected blocks that divide H = 12, got 5"):
        ops.gru_int8(x, None, weights[:12], None, True, 5)
    text = r"^gru: expected weight_ih of shape \(blocks \* ceil\(H / blocks / 16\), .*\) = \(2, 3, 3, 16\), got \(3, "
    with pytest.raises(RuntimeError, match=text):
        ops.gru_int8(x, None, weights[:12], None, True, 2)
