"""gru_ext.GRU and GRUCell beside torch.nn's: parameters, state, layouts, modes, dtypes, and what is done to modules."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from cases import FLOATING, gru_like, pair_of_grus, results_and_gradients, seeded
from compare import assert_near, assert_same_bits, assert_same_state
from process import through_a_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import gru_ext

FLOAT64 = torch.float64
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "batch_first": True, "dropout": 0.25},
    {"num_layers": 2, "bias": False, "dropout": 1},
]
CELL_ARGUMENTS: list[dict[str, Any]] = [{}, {"bias": False}]
PAIRS: list[tuple[Any, Any, dict[str, Any]]] = [
    *((gru_ext.GRU, nn.GRU, arguments) for arguments in ARGUMENTS),
    *((gru_ext.GRUCell, nn.GRUCell, arguments) for arguments in CELL_ARGUMENTS),
]
each_pair = pytest.mark.parametrize(
    ("ours", "theirs", "arguments"), PAIRS, ids=lambda value: getattr(value, "__name__", str(value))
)


def assert_equal_results(module: nn.Module, peer: nn.Module, *inputs: Any) -> None:
    """Output, final state and gradients of the parameters."""
    found, expected = (results_and_gradients(model, inputs, model.parameters()) for model in (module, peer))
    assert_near(found, expected)
    assert [result.stride() for result in found[:2]] == [result.stride() for result in expected[:2]]


# ---- Parameters and state


@each_pair
def test_parameters_equal_those_of_torch_nn_for_the_same_seed(
    ours: Any, theirs: Any, arguments: dict[str, Any]
) -> None:
    module = seeded(ours, 3, 4, **arguments)
    assert_same_state(module, seeded(theirs, 3, 4, **arguments))
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in module.parameters())


@each_pair
def test_reset_parameters_draws_again(ours: Any, theirs: Any, arguments: dict[str, Any]) -> None:
    module, peer = ours(3, 4, **arguments), theirs(3, 4, **arguments)
    for model in (module, peer):
        seeded(model.reset_parameters)
    assert_same_state(module, peer)
    bound = 0.5  # 1 / sqrt(H)
    assert all(p.abs().max() <= bound for p in module.parameters())


@each_pair
def test_state_loads_both_ways(ours: Any, theirs: Any, arguments: dict[str, Any]) -> None:
    module, peer = ours(3, 4, **arguments), theirs(3, 4, **arguments)
    module.load_state_dict(peer.state_dict(), strict=True)
    assert_same_state(module, peer)
    fresh = theirs(3, 4, **arguments)
    fresh.load_state_dict(ours(3, 4, **arguments).state_dict(), strict=True)


def test_a_wrong_state_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        gru_ext.GRU(3, 4, num_layers=2).load_state_dict(nn.GRU(3, 4).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        gru_ext.GRU(3, 4).load_state_dict(nn.GRU(3, 5).state_dict())


@each_pair
def test_the_printed_form_is_that_of_torch_nn(ours: Any, theirs: Any, arguments: dict[str, Any]) -> None:
    assert repr(ours(3, 4, **arguments)) == repr(theirs(3, 4, **arguments))
    assert repr(nn.Sequential(ours(3, 4, **arguments))) == repr(nn.Sequential(theirs(3, 4, **arguments)))


@each_pair
def test_attributes_are_those_of_torch_nn(ours: Any, theirs: Any, arguments: dict[str, Any]) -> None:
    module, peer = ours(3, 4, **arguments), theirs(3, 4, **arguments)
    for name in ours.__constants__:
        value, expected = getattr(module, name), getattr(peer, name)
        assert (value, type(value)) == (expected, type(expected)), name


@each_pair
def test_copies_pickles_and_saved_files_are_whole(ours: Any, theirs: Any, arguments: dict[str, Any]) -> None:
    module = ours(3, 4, **arguments).eval()
    inputs = torch.randn(5, 3) if ours is gru_ext.GRUCell else torch.randn(5, 2, 3)
    for other in (copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module)), through_a_file(module)):
        assert type(other) is type(module)
        assert repr(other) == repr(module)
        assert not other.training
        assert_same_state(other, module)
        assert_same_bits(other(inputs), module(inputs))


def test_state_saved_by_torch_save_loads_with_weights_only() -> None:
    module, peer = gru_ext.GRU(3, 4, bidirectional=True), nn.GRU(3, 4, bidirectional=True)
    peer.load_state_dict(through_a_file(module.state_dict(), weights_only=True))
    assert_same_state(module, peer)


def test_all_weights_lists_the_parameters_as_nn_gru_does() -> None:
    for arguments in ARGUMENTS:
        module, peer = pair_of_grus(3, 4, **arguments)
        assert [len(group) for group in module.all_weights] == [len(group) for group in peer.all_weights]
        flat = [w for group in module.all_weights for w in group]
        assert [id(w) for w in flat] == [id(p) for p in module.parameters()]


def test_flatten_parameters_does_nothing() -> None:
    module = gru_ext.GRU(3, 4)
    before = copy.deepcopy(module)
    module.flatten_parameters()
    assert_same_state(module, before)


def test_the_modules_are_not_rnn_bases() -> None:
    assert not issubclass(gru_ext.GRU, nn.RNNBase)
    assert not issubclass(gru_ext.GRUCell, nn.RNNCellBase)


# ---- Devices and dtypes


def test_a_module_on_meta_can_be_emptied_and_loaded() -> None:
    module = gru_ext.GRU(3, 4, num_layers=2, device="meta")
    assert all(p.is_meta for p in module.parameters())
    peer = nn.GRU(3, 4, num_layers=2)
    emptied = module.to_empty(device="cpu")
    emptied.load_state_dict(peer.state_dict())
    assert_same_state(emptied, peer)
    assigned = gru_ext.GRU(3, 4, num_layers=2, device="meta")
    assigned.load_state_dict(peer.state_dict(), assign=True)
    x = torch.randn(5, 2, 3)
    assert_near(assigned(x)[0], peer(x)[0], "y", 1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_modules_on_meta_run_on_meta(bidirectional: bool) -> None:
    module, peer = (n.GRU(3, 4, 2, bidirectional=bidirectional, device="meta") for n in (gru_ext, nn))
    x = torch.empty(5, 2, 3, device="meta")
    for result, expected in zip(module(x), peer(x), strict=True):
        assert (result.shape, result.dtype, result.device) == (expected.shape, expected.dtype, expected.device)
    cell = gru_ext.GRUCell(3, 4, device="meta")
    assert cell(torch.empty(2, 3, device="meta")).shape == (2, 4)


def test_modules_are_made_on_the_default_device_and_dtype() -> None:
    with torch.device("meta"):
        assert gru_ext.GRU(3, 4).weight_ih_l0.is_meta
    before = torch.get_default_dtype()
    torch.set_default_dtype(FLOAT64)
    try:
        assert gru_ext.GRUCell(3, 4).weight_ih.dtype == FLOAT64
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_dtype_of_parameters_results_and_gradients(dtype: torch.dtype) -> None:
    for module in (gru_ext.GRU(3, 4, dtype=dtype), gru_ext.GRU(3, 4).to(dtype)):
        assert {p.dtype for p in module.parameters()} == {dtype}
        y, h_n = module(torch.randn(5, 2, 3).to(dtype))
        y.sum().backward()
        assert {y.dtype, h_n.dtype, *(p.grad.dtype for p in module.parameters() if p.grad is not None)} == {dtype}
    cell = gru_ext.GRUCell(3, 4, dtype=dtype)
    assert cell(torch.randn(2, 3).to(dtype)).dtype == dtype


# ---- Results, in every layout


LAYOUTS = [
    ((5, 2, 3), {}),
    ((2, 5, 3), {"batch_first": True}),
    ((5, 3), {}),
    ((5, 3), {"batch_first": True}),
    ((1, 1, 3), {}),
    ((5, 0, 3), {}),
    ((0, 5, 3), {"batch_first": True}),
]


@pytest.mark.parametrize("hx", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize(("shape", "layout"), LAYOUTS, ids=str)
def test_results_strides_and_gradients_equal_nn_gru_s(
    shape: tuple[int, ...], layout: dict[str, Any], arguments: dict[str, Any], hx: bool
) -> None:
    module, peer = pair_of_grus(3, 4, **layout, **arguments, dtype=FLOAT64)
    groups = len(module.all_weights)
    batch = shape[0 if layout else 1]
    state = torch.randn((groups, batch, 4) if len(shape) == 3 else (groups, 4), dtype=FLOAT64)
    inputs = [torch.randn(shape, dtype=FLOAT64), *([state] if hx else [])]
    assert_equal_results(module, peer, *inputs)


@pytest.mark.parametrize("shape", [(2, 3), (3,), (0, 3), (1, 3)])
@pytest.mark.parametrize("hx", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_results_and_gradients_of_a_cell_equal_nn_gru_cell_s(shape: tuple[int, ...], hx: bool, bias: bool) -> None:
    module, peer = (n.GRUCell(3, 4, bias=bias, dtype=FLOAT64) for n in (gru_ext, nn))
    peer.load_state_dict(module.state_dict())
    x = torch.randn(shape, dtype=FLOAT64, requires_grad=True)
    h = torch.randn(*shape[:-1], 4, dtype=FLOAT64, requires_grad=True) if hx else None
    leaves = [x] if h is None else [x, h]
    found, expected = (results_and_gradients(cell, (x, h), [*leaves, *cell.parameters()]) for cell in (module, peer))
    assert_near(found, expected)


def sequences(*lengths: int) -> list[Tensor]:
    return [torch.randn(length, 3, dtype=FLOAT64) for length in lengths]


PACKED = {
    "sorted": lambda: pack_sequence(sequences(5, 3, 3, 1)),
    "unsorted": lambda: pack_sequence(sequences(2, 5, 1, 5, 3), enforce_sorted=False),
    "one": lambda: pack_sequence(sequences(4)),
    "equal": lambda: pack_sequence(sequences(3, 3), enforce_sorted=False),
    "padded": lambda: pack_padded_sequence(
        torch.randn(6, 3, 3, dtype=FLOAT64), torch.tensor([4, 6, 2]), enforce_sorted=False
    ),
}


@pytest.mark.parametrize("hx", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
@pytest.mark.parametrize("kind", PACKED)
def test_packed_sequences_equal_nn_gru_s(kind: str, arguments: dict[str, Any], hx: bool) -> None:
    module, peer = pair_of_grus(3, 4, **arguments, dtype=FLOAT64)
    packed = PACKED[kind]()
    batch = int(packed.batch_sizes[0])
    state = [torch.randn(len(module.all_weights), batch, 4, dtype=FLOAT64)] if hx else []
    assert_equal_results(module, peer, packed, *state)
    output, _ = module(packed, *state)
    assert isinstance(output, PackedSequence)
    assert_same_bits(output._replace(data=packed.data), packed)


def test_a_packed_sequence_equals_its_sequences_one_by_one_in_their_order() -> None:
    module = gru_ext.GRU(3, 4, bidirectional=True, dtype=FLOAT64)
    given, hx = sequences(2, 5, 1, 3), torch.randn(2, 4, 4, dtype=FLOAT64)
    output, h_n = module(pack_sequence(given, enforce_sorted=False), hx)
    padded, lengths = pad_packed_sequence(output)
    for i, sequence in enumerate(given):
        assert_near((padded[: lengths[i], i], h_n[:, i]), module(sequence, hx[:, i]))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_a_packed_sequence_may_be_converted(dtype: torch.dtype) -> None:
    module, packed = gru_ext.GRU(3, 4, dtype=dtype), PACKED["unsorted"]().to(dtype)
    output, h_n = module(packed)
    assert output.data.dtype == h_n.dtype == dtype
    assert output.to(FLOAT64).data.dtype == FLOAT64


# ---- Modes


def test_dropout_applies_in_training_and_follows_the_seed() -> None:
    module = gru_ext.GRU(3, 8, num_layers=2, dropout=0.5)
    x = torch.randn(5, 2, 3)
    first = seeded(module, x)
    assert not torch.equal(module(x)[0], first[0])
    assert_same_bits(seeded(module, x), first)


@pytest.mark.parametrize("packed", [False, True])
def test_dropout_draws_what_nn_gru_draws(packed: bool) -> None:
    module, peer = pair_of_grus(3, 8, num_layers=3, dropout=0.5, bidirectional=True, dtype=FLOAT64)
    x: Any = PACKED["sorted"]() if packed else torch.randn(5, 2, 3, dtype=FLOAT64)
    assert_near(seeded(module, x)[1], seeded(peer, x)[1], "h_n")


def test_dropout_is_off_in_eval_mode() -> None:
    module, peer = pair_of_grus(3, 8, num_layers=2, dropout=0.5, dtype=FLOAT64)
    x = torch.randn(5, 2, 3, dtype=FLOAT64)
    assert_equal_results(module.eval(), peer.eval(), x)
    assert not torch.equal(module.train()(x)[0], peer.eval()(x)[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_dropout_of_one_gives_the_next_layer_zeros(batch_first: bool) -> None:
    module = gru_ext.GRU(3, 4, num_layers=2, dropout=1.0, batch_first=batch_first, dtype=FLOAT64)
    x = torch.randn(5, 2, 3, dtype=FLOAT64)
    second = gru_ext.GRU(4, 4, batch_first=batch_first, dtype=FLOAT64)
    second.load_state_dict(
        {name.replace("l1", "l0"): p for name, p in module.state_dict().items() if name.endswith("l1")}
    )
    y, _ = module(x)
    assert_near(y, second(torch.zeros(5, 2, 4, dtype=FLOAT64))[0], "y")


def test_dropout_of_zero_in_training_draws_nothing() -> None:
    module = gru_ext.GRU(3, 4, num_layers=2, dropout=0.0)
    before = torch.get_rng_state()
    module(torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("arguments", [{}, {"bias": False}, {"zoneout": 0.1, "layer_norm": True}], ids=str)
@pytest.mark.parametrize("batch", [(), (2,), (0,)], ids=str)
def test_a_cell_without_units_is_that_of_nn(batch: tuple[int, ...], arguments: dict[str, Any]) -> None:
    cells = nn.GRUCell(3, 0, arguments.get("bias", True)), gru_ext.GRUCell(3, 0, **arguments)
    for hx in (None, torch.zeros(*batch, 0)):
        found = []
        for cell in cells:
            x = torch.randn(*batch, 3, requires_grad=True)
            h = cell(x, hx)
            assert not (h._is_view() and cell is cells[1])
            found.append([h, *torch.autograd.grad(h.sum(), [x, *list(cell.parameters())[: 2 + 2 * cell.bias]])])
        assert [t.shape for t in found[0]] == [t.shape for t in found[1]]
        assert_same_bits(found[0][1], found[1][1])
    with pytest.raises(RuntimeError, match=r"^gru_cell: expected hx of shape"):
        cells[1](torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"^GRUCell: expected hidden_size of at least 0, got -1$"):
        gru_ext.GRUCell(3, -1)


# ---- Autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("arguments", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_autocast_computes_in_half_and_differentiates_in_float32(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    module = gru_ext.GRU(3, 4, **arguments)
    x = torch.randn(5, 2, 3, requires_grad=True)
    hx = torch.randn(len(module.all_weights), 2, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        y, h_n = module(x, hx)
    assert y.dtype == h_n.dtype == torch.float32
    y.sum().backward()
    assert {t.grad.dtype for t in (x, hx, *module.parameters()) if t.grad is not None} == {torch.float32}
    expected, _ = copy.deepcopy(module).to(dtype)(x.to(dtype), hx.to(dtype))
    assert_same_bits(y, expected.float())


def test_autocast_takes_inputs_of_either_precision() -> None:
    module = gru_ext.GRU(3, 4)
    x = torch.randn(5, 2, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        from_half = module(x, torch.zeros(1, 2, 4))[0]
        from_single = module(x.float(), torch.zeros(1, 2, 4).bfloat16())[0]
        packed, _ = module(pack_sequence([x[:, 0].float(), x[:3, 1].float()]))
    assert_same_bits(from_half, from_single.float())
    assert packed.data.dtype == torch.float32


HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("autocast", HALVES, ids=str)
@pytest.mark.parametrize("of_input", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("of_state", [None, torch.float32, *HALVES], ids=str)
def test_autocast_gives_results_of_the_dtype_that_nn_gives(
    of_state: torch.dtype | None, of_input: torch.dtype, autocast: torch.dtype
) -> None:
    x = torch.randn(5, 2, 3, dtype=of_input)
    hx = None if of_state is None else torch.randn(2, 2, 4, dtype=of_state)
    dtypes = []
    for package in (nn, gru_ext):
        module, cell = package.GRU(3, 4, 2), package.GRUCell(3, 4)
        with torch.autocast("cpu", dtype=autocast):
            y, h_n = module(x, hx)
            dtypes.append([y.dtype, h_n.dtype, cell(x[0], None if hx is None else hx[0]).dtype])
    assert dtypes[0] == dtypes[1]


@pytest.mark.parametrize("options", [{}, {"zoneout": 0.1}], ids=str)
def test_autocast_of_a_cell(options: dict[str, Any]) -> None:
    cell = gru_ext.GRUCell(3, 4, **options).eval()
    x, hx = torch.randn(2, 3), torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = cell(x, hx)
    assert_same_bits(h, copy.deepcopy(cell).bfloat16()(x.bfloat16(), hx.bfloat16()).float())
    h.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in cell.parameters())


def test_a_state_made_under_autocast_can_be_used_outside() -> None:
    module = gru_ext.GRU(3, 4)
    x, out, mask = torch.randn(5, 2, 3), torch.zeros(5, 2, 4), torch.ones(5, 2, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, h_n = module(x)
        out[mask] = y.flatten(0, 1)
    assert module(x, h_n)[0].dtype == torch.float32


def test_autocast_leaves_float64_alone() -> None:
    module = gru_ext.GRU(3, 4, dtype=FLOAT64)
    x = torch.randn(5, 2, 3, dtype=FLOAT64)
    expected, _ = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(module(x)[0], expected)


def test_autocast_disabled_inside_autocast() -> None:
    module = gru_ext.GRU(3, 4)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert module(x)[0].dtype == torch.float32


# ---- What is done to modules


def all_models() -> list[tuple[nn.Module, nn.Module]]:
    return [pair_of_grus(3, 4, 2, dtype=FLOAT64), pair_of_grus(3, 4, bidirectional=True, dtype=FLOAT64)]


X = torch.linspace(-2, 2, 30, dtype=FLOAT64).view(5, 2, 3)


@pytest.mark.parametrize(
    "parametrize", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
def test_parametrizations_work_as_with_nn_gru(parametrize: Any) -> None:
    for module, peer in all_models():
        for model in (module, peer):
            seeded(parametrize, model, "weight_hh_l0")
            model.eval()
        peer.load_state_dict(module.state_dict())
        assert_equal_results(module, peer, X)
        assert "weight_hh_l0" not in dict(module.named_parameters())


def test_pruning_works_as_with_nn_gru() -> None:
    for module, peer in all_models():
        for model in (module, peer):
            prune.l1_unstructured(model, "weight_hh_l0", amount=0.5)
        assert_equal_results(module, peer, X)
        for model in (module, peer):
            prune.remove(model, "weight_hh_l0")
        assert_equal_results(module, peer, X)
        assert int((getattr(module, "weight_hh_l0") == 0).sum()) == 24  # noqa: B009  not an attribute mypy knows


def test_the_old_weight_norm_works() -> None:
    module, peer = pair_of_grus(3, 4, dtype=FLOAT64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated in torch, and still in use
        for model in (module, peer):
            nn.utils.weight_norm(model, "weight_hh_l0")
    assert_near(module(X)[0], peer(X)[0], "y")


def test_functional_call_takes_other_parameters() -> None:
    module, peer = pair_of_grus(3, 4, 2, dtype=FLOAT64)
    other = {name: torch.randn_like(p).requires_grad_() for name, p in module.named_parameters()}
    results = torch.func.functional_call(module, other, (X,))
    peer.load_state_dict(other)
    assert_near(results, peer(X))
    results[0].sum().backward()
    assert all(tensor.grad is not None for tensor in other.values())
    assert all(p.grad is None for p in module.parameters())


def test_replaced_parameters_are_used() -> None:
    module, peer = pair_of_grus(3, 4, dtype=FLOAT64)
    for model in (module, peer):
        torch.manual_seed(4)
        model.weight_hh_l0 = nn.Parameter(torch.randn(12, 4, dtype=FLOAT64))
        model.bias_ih_l0.data = torch.randn(12, dtype=FLOAT64)
    assert_equal_results(module, peer, X)
    assert module.all_weights[0][1] is module.weight_hh_l0


def test_tied_weights_gather_both_gradients() -> None:
    module, peer = pair_of_grus(4, 4, 2, dtype=FLOAT64)
    for model in (module, peer):
        model.weight_hh_l1 = model.weight_hh_l0
    x = torch.randn(5, 2, 4, dtype=FLOAT64)
    assert len(list(module.parameters())) == 7
    assert_equal_results(module, peer, x)


@pytest.mark.parametrize("frozen", ["weight_ih", "weight_hh", "bias", "l0", "_"])
def test_frozen_parameters_get_no_gradient(frozen: str) -> None:
    module, peer = pair_of_grus(3, 4, 2, dtype=FLOAT64)
    x = X.clone().requires_grad_()
    for model in (module, peer):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen not in name)
        model(x)[0].sin().sum().backward()
    for (name, parameter), expected in zip(module.named_parameters(), peer.parameters(), strict=True):
        assert (parameter.grad is None) == (frozen in name)
        if parameter.grad is not None:
            assert_near(parameter.grad, expected.grad, name)


def test_hooks_run() -> None:
    module, calls = gru_ext.GRU(3, 4), []
    module.register_forward_pre_hook(lambda *_: calls.append("before"))
    module.register_forward_hook(lambda *_: calls.append("after"))
    module.register_full_backward_hook(lambda *_: calls.append("backward"))
    module(torch.randn(5, 2, 3, requires_grad=True))[0].sum().backward()
    assert calls == ["before", "after", "backward"]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_some_steps_of_training_equal_nn_gru_s(optimizer: Any) -> None:
    module, peer = pair_of_grus(3, 4, 2, dtype=FLOAT64)
    for model in (module, peer):
        steps = optimizer(model.parameters(), lr=0.1)
        for _ in range(5):
            steps.zero_grad()
            model(X)[0].pow(2).sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            steps.step()
    assert_near(module.state_dict(), peer.state_dict())


def test_a_subclass_may_add_to_forward() -> None:
    class Doubling(gru_ext.GRU):
        """A GRU whose output is doubled."""

        def forward(self, input: Any, hx: Tensor | None = None, **rows: Any) -> Any:
            y, h_n = super().forward(input, hx, **rows)
            return y * 2, h_n

    module, x = Doubling(3, 4), torch.randn(5, 2, 3)
    assert_same_bits(module(x)[0], gru_like(module)(x)[0] * 2)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_cell_stepped_by_hand_equals_the_layer(steps: int, batch: int, layers: int) -> None:
    module = gru_ext.GRU(3, 4, layers, dtype=FLOAT64)
    x = torch.randn(steps, batch, 3, dtype=FLOAT64)
    outputs: list[Tensor] = list(x)
    for layer in range(layers):
        cell = gru_ext.GRUCell(3 if layer == 0 else 4, 4, dtype=FLOAT64)
        cell.load_state_dict(
            {name[:-3]: parameter for name, parameter in module.state_dict().items() if name.endswith(f"_l{layer}")}
        )
        h: Tensor | None = None
        for t in range(steps):
            h = outputs[t] = cell(outputs[t], h)
    assert_near(torch.stack(outputs), module(x)[0], "y")
