"""Zoneout and the dropouts inside the recurrence: their masks, what they do, and every way to differentiate it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import Options, Size, gru_like, layer_with, make_problem, seeded, solve, variants_of
from compare import assert_near, assert_same_bits
from process import thread_count
from recorded import Calls
from refusals import Refusals, each_refusal, refused
from torch import Tensor, nn
from torch.autograd import gradcheck

import gru_ext
from gru_ext import functional, library
from gru_ext.regularizers import bernoulli
from gru_ext.variant import Variant

FLOAT64 = torch.float64
CPU = torch.device("cpu")
RATES: dict[str, Any] = {"zoneout": 0.3, "recurrent_dropout": 0.2, "candidate_dropout": 0.25, "weight_dropout": 0.1}


# ---- Random masks


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # from the authors' file of known answers, Random123's kat_vectors
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_the_generator_gives_the_published_known_answers(counter: list[int], key: list[int], words: list[int]) -> None:
    assert library.philox(counter, key) == words


def test_a_mask_is_made_of_the_generator_s_words() -> None:
    """Sixteen blocks at a time: the lower halves of their first words, the upper halves, then the next words."""
    seed, p = 0x0123456789ABCDEF, 0.4
    mask = torch.ops.gru_ext.bernoulli(torch.tensor(seed), [300], p)
    key = [seed & 0xFFFFFFFF, seed >> 32]
    halves = []
    for group in range(3):
        blocks = [library.philox([16 * group + lane, 0, 0, 0], key) for lane in range(16)]
        for word in range(4):
            halves += [block[word] & 0xFFFF for block in blocks] + [block[word] >> 16 for block in blocks]
    assert mask.tolist() == [half < round(p * 65536) for half in halves[:300]]


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.3, 0.5, 0.999, 1.0])
def test_a_mask_is_true_at_its_rate(p: float) -> None:
    count = 1_000_000
    mask = bernoulli(p, (1000, 1000), CPU)
    allowed = 5 * (count * p * (1 - p)) ** 0.5 + count / 65536
    assert abs(int(mask.sum()) - count * p) <= allowed
    # Neighbours in either dimension agree as often as independent ones do.
    for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        assert abs(int((a & b).sum()) - count * p * p) <= 5 * (count * p * p) ** 0.5 + count / 500


def test_masks_follow_the_seed_and_not_the_number_of_threads() -> None:
    masks = []
    for threads in (1, 2, 1):
        torch.manual_seed(5)
        with thread_count(threads):
            masks.append(torch.stack([bernoulli(0.4, (70_001,), CPU) for _ in range(2)]))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0][0], masks[0][1])
    assert torch.equal(masks[0], masks[2])


# ---- The kernels, given masks


def test_two_threads_give_the_same_bits_each_time() -> None:
    problem = make_problem(Size(20, 9, 30, 130), Options(bidirectional=True), torch.float32)
    with thread_count(2):
        for variant in variants_of(problem).values():
            results = [solve(layer_with(variant), problem) for _ in range(3)]
            assert_same_bits(results, results[:1] * 3)


def test_opcheck_of_masks() -> None:
    torch.library.opcheck(torch.ops.gru_ext.bernoulli.default, (torch.tensor(3), [4, 5], 0.3))


BOOL = torch.bool
WRONG_MASKS: Refusals = {
    RuntimeError: {
        "zoneout_mask of shape (D, N, H) = (1, 6, 4), got (1, 3, 4)": {
            "zoneout_mask": torch.zeros(1, 3, 4, dtype=BOOL)
        },
        "recurrent_mask of shape (D, B, H) = (1, 2, 4), got (1, 6, 4)": {
            "recurrent_mask": torch.zeros(1, 6, 4, dtype=BOOL)
        },
    },
    ValueError: {
        "candidate_mask of dtype bool, got Float": {"candidate_mask": torch.zeros(1, 6, 4)},
        "recurrent_dropout in [0, 1), got 1": {"recurrent_dropout": 1.0},
        "zoneout in [0, 1), got -0.5": {"zoneout": -0.5},
    },
}


@each_refusal(WRONG_MASKS)
def test_wrong_masks_of_an_operator(given: dict[str, Any], error: type[Exception], text: str) -> None:
    p = make_problem(Size(3, 2, 5, 4))
    with refused(error, f"gru: expected {text}"):
        torch.ops.gru_ext.gru_fwd(*p.layer, True, **given)


# ---- The modules


@pytest.mark.parametrize("rows", ["padded", "lengths"])
def test_each_layer_of_each_call_draws_its_masks(rows: str) -> None:
    module = gru_ext.GRU(3, 200, 2, bidirectional=True, **RATES)
    lengths = None if rows == "padded" else [3, 0, 6, 1]
    count, sequences = (24, 4) if lengths is None else (10, 3)
    with Calls() as calls:
        for _ in range(2):
            module(torch.randn(6, 4, 3), lengths=lengths)
    variants = [Variant(*given[7:]) for given in calls.of("gru_fwd")]
    assert len(variants) == 4
    for name, size, p in (("zoneout", count, 0.3), ("recurrent", sequences, 0.8), ("candidate", count, 0.75)):
        drawn = [getattr(variant, f"{name}_mask") for variant in variants]
        assert all(mask.shape == (2, size, 200) and mask.dtype == torch.bool for mask in drawn)
        flat = torch.cat(drawn).flatten(1).double()
        assert abs(float(flat.mean()) - p) < 5 * (p * (1 - p) / flat.numel()) ** 0.5
        agree = (flat @ flat.t() / flat.shape[1]).fill_diagonal_(p * p)  # of different layers, directions and calls
        assert float((agree - p * p).abs().max()) < 5 * (p * p / flat.shape[1]) ** 0.5
    assert variants[0][3:6] == (0.0, 0.2, 0.25)


def test_zoneout_keeps_units_exactly_in_training_and_their_expectation_in_eval() -> None:
    module = gru_ext.GRU(3, 100, zoneout=0.3)
    y, _ = module(torch.randn(50, 8, 3))
    kept = float((y[1:] == y[:-1]).double().mean())
    assert abs(kept - 0.3) < 0.01
    p = make_problem(Size(5, 2, 3, 4))
    mean, _ = functional.gru(p.x, p.hx, p.weights, zoneout=0.3)
    h = p.hx
    for t in range(5):
        step, _ = functional.gru(p.x[t : t + 1], h, p.weights)
        assert h is not None
        h = 0.3 * h + 0.7 * step
        assert_near(mean[t], h[0], "mean")


@pytest.mark.parametrize("name", ["recurrent_dropout", "candidate_dropout", "weight_dropout"])
def test_dropouts_are_off_in_eval(name: str) -> None:
    half: dict[str, Any] = {name: 0.5}
    module = gru_ext.GRU(3, 4, 2, **half).eval()
    plain = gru_like(module, num_layers=2)
    x = torch.randn(5, 2, 3)
    assert_same_bits(module(x)[0], plain(x)[0])
    module.train()
    assert not torch.equal(module(x)[0], plain(x)[0])


def test_weight_dropout_is_torch_s_dropout_of_weight_hh_once_a_call() -> None:
    p = make_problem(Size(5, 2, 3, 4), Options(bidirectional=True))
    torch.manual_seed(3)
    y, _ = functional.gru(p.x, p.hx, p.weights, bidirectional=True, weight_dropout=0.4, training=True)
    torch.manual_seed(3)
    dropped = [nn.functional.dropout(w, 0.4) if i % 4 == 1 else w for i, w in enumerate(p.weights)]
    assert_same_bits(y, functional.gru(p.x, p.hx, dropped, bidirectional=True)[0])


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck_of_cells(training: bool) -> None:
    cell = gru_ext.GRUCell(2, 3, dtype=FLOAT64, zoneout=0.4, candidate_dropout=0.3).train(training)

    def call(x: Tensor, h: Tensor, *parameters: Tensor) -> Any:
        names = [name for name, _ in cell.named_parameters()]
        return seeded(torch.func.functional_call, cell, dict(zip(names, parameters, strict=True)), (x, h))

    leaves = [torch.randn(4, n, dtype=FLOAT64, requires_grad=True) for n in (2, 3)]
    assert gradcheck(call, (*leaves, *cell.parameters()))


def test_a_cell_keeps_units_in_training() -> None:
    cell, x, h = gru_ext.GRUCell(3, 4, zoneout=0.4, candidate_dropout=0.3), torch.randn(2, 3), torch.randn(2, 4)
    y = torch.stack([cell(x, h) for _ in range(500)])
    assert abs(float((y == h).double().mean()) - 0.4) < 0.05


def test_a_reset_begins_a_sequence_with_masks_of_its_own() -> None:
    module = gru_ext.GRU(3, 4, **RATES)
    x, resets = torch.randn(6, 1, 3), torch.tensor([0, 0, 0, 0, 1, 0], dtype=torch.bool).unsqueeze(1)
    y, _ = seeded(module, x, resets=resets)
    two_sequences = torch.cat([x[:4], nn.functional.pad(x[4:], (0, 0, 0, 0, 0, 2))], 1)
    parts, _ = seeded(module, two_sequences, lengths=[4, 2])
    assert_same_bits(y, torch.cat([parts[:4, :1], parts[:2, 1:]]))


def test_a_call_can_have_a_seed_of_its_own() -> None:
    module = gru_ext.GRU(3, 4, **RATES)
    x, outputs = torch.randn(5, 2, 3), []
    state = torch.get_rng_state()
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            outputs.append(module(x)[0])
    assert_same_bits(outputs[0], outputs[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_repeats_a_step_of_training_for_any_number_of_threads() -> None:
    module = gru_ext.GRU(3, 40, 2, dropout=0.2, **RATES)
    x = torch.randn(6, 4, 3)
    first = seeded(module, x)[0]
    assert_same_bits(seeded(module, x)[0], first)
    assert not torch.equal(module(x)[0], first)


@pytest.mark.parametrize("name", RATES)
def test_the_rate_zero_changes_nothing(name: str) -> None:
    none: dict[str, Any] = {name: 0}
    module = gru_ext.GRU(3, 4, **none)
    plain, x = gru_like(module), torch.randn(5, 2, 3)
    state = torch.get_rng_state()
    assert_same_bits(module(x)[0], plain(x)[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("others", [{"reset_after": False}, {"layer_norm": True}, {"layer_norm": "joint"}], ids=str)
@pytest.mark.parametrize("name", RATES)
def test_masks_that_drop_nothing_leave_the_recurrence_as_it_is(name: str, others: dict[str, Any]) -> None:
    module = gru_ext.GRU(3, 4, dtype=FLOAT64, **(others | {name: 1e-300}))
    x = torch.randn(5, 2, 3, dtype=FLOAT64)
    assert_near(module(x), gru_like(module, **others)(x))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_draws_masks_as_its_randomness_says(randomness: str) -> None:
    module = gru_ext.GRU(3, 20, 2, bidirectional=True, dtype=FLOAT64, **{**RATES, "weight_dropout": 0.0})
    x = torch.randn(5, 2, 3, dtype=FLOAT64).expand(3, -1, -1, -1)

    def output(x: Tensor) -> Tensor:
        result: Tensor = module(x)[0]
        return result

    def loss(x: Tensor) -> Tensor:
        return output(x).sin().sum()

    y = seeded(torch.vmap(output, randomness=randomness), x)
    gradients = seeded(torch.vmap(torch.func.grad(loss), randomness=randomness), x)
    for results in (y, gradients):
        assert torch.equal(results[0], results[1]) == (randomness == "same")
    if randomness == "same":
        assert_near(y[0], seeded(module, x[0])[0], "y")
        leaf = x[0].clone().requires_grad_()
        (expected,) = torch.autograd.grad(seeded(loss, leaf), leaf)
        assert_near(gradients[0], expected, "dx")


def test_vmap_without_randomness_is_torch_s_error() -> None:
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(gru_ext.GRU(3, 4, zoneout=0.1))(torch.randn(2, 5, 2, 3))


def test_what_only_training_has_is_left_behind_in_quantization() -> None:
    module = gru_ext.GRU(3, 4, recurrent_dropout=0.2, candidate_dropout=0.2, weight_dropout=0.2).eval()
    plain, x = gru_like(module), torch.randn(5, 2, 3)
    assert_same_bits(gru_ext.quantize_dynamic(module)(x)[0], gru_ext.quantize_dynamic(plain)(x)[0])
