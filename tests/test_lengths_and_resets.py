"""Sequences of unequal length and resets inside of sequences: equal to each part run by itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from cases import FLOATING, pair_of_grus
from compare import assert_all_accurate, assert_near, assert_same_bits
from recorded import Calls
from refusals import Refusals, each_refusal, refused
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.export import Dim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch_version import TORCH

import gru_ext
from gru_ext import functional

pytestmark = pytest.mark.usefixtures("fresh_compiler")
FLOAT64 = torch.float64
T, B, F, H = 6, 5, 3, 4  # steps, batch, features, hidden units
LENGTHS = [3, 0, 6, 1, 4]
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"num_layers": 2, "bias": False},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
]


def some_resets(steps: int = T, batch: int = B) -> Tensor:
    """(T, B): at the first step, at the last, at neighbours, nowhere, at random."""
    resets = torch.rand(steps, batch) < 0.4
    resets[:, 0] = False
    resets[0, 1] = resets[0, 2] = resets[-1, 2] = True
    resets[1:3, 3] = True
    return resets


def randn(*shape: int, dtype: torch.dtype = FLOAT64) -> Tensor:
    return torch.randn(shape, dtype=FLOAT64).to(dtype)


def part_by_part(
    module: nn.Module,
    x: Tensor,
    hx: Tensor | None,
    lengths: Sequence[int] | None = None,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What is expected of x (T, B, F): each part run alone, as (T, 1, F), by a module of either library."""
    states: int = len(list(module.all_weights))  # type: ignore[arg-type]  # L*D
    directions = 2 if module.bidirectional else 1
    hidden: Any = module.hidden_size
    steps, batch = x.shape[:2]
    zero = x.new_zeros(states, 1, hidden)
    outputs, last_states = [], []
    for b in range(batch):
        length = steps if lengths is None else lengths[b]
        given = zero if hx is None else hx[:, b : b + 1]
        after_reset = zero
        if reset_state is not None:
            after_reset = reset_state.unsqueeze(1) if reset_state.dim() == 2 else reset_state[:, b : b + 1]
        cuts = [t for t in range(1, length) if resets is not None and resets[t, b]]
        ends = [*cuts, length] if length else []
        output = []
        final = list(given.unflatten(0, (-1, directions)).unbind(1))  # of each direction, (L, 1, H)
        for i, (begin, end) in enumerate(zip([0, *cuts], ends, strict=False)):
            discarded = resets is not None and bool(resets[0, b])
            forward = after_reset if i > 0 or discarded else given
            backward = after_reset if i + 1 < len(ends) else given
            initial = [forward, backward][:directions]
            start = torch.stack([s.unflatten(0, (-1, directions))[:, d] for d, s in enumerate(initial)], 1)
            part = x[begin:end, b : b + 1]
            y, h_n = module(part.transpose(0, 1) if module.batch_first else part, start.flatten(0, 1))
            output.append(y.squeeze(0 if module.batch_first else 1))
            by_direction = h_n.unflatten(0, (-1, directions)).unbind(1)
            final[0] = by_direction[0]
            if directions == 2 and i == 0:
                final[1] = by_direction[1]
        padding = x.new_zeros(steps - length, directions * hidden)
        outputs.append(torch.cat([*output, padding]))
        last_states.append(torch.stack(final, 1).flatten(0, 1))
    return torch.stack(outputs, 1), torch.cat(last_states, 1)


def results_and_gradients(y: Tensor, h_n: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a y that is (T, B, D*H)."""
    torch.manual_seed(1)
    loss = (y * randn(*y.shape, dtype=y.dtype)).sum() + (h_n * randn(*h_n.shape, dtype=y.dtype)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    found = {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {"y": y.detach(), "h_n": h_n.detach(), **found}


def solve(module: nn.Module, x: Tensor, hx: Tensor | None, alone: bool, **rows: Any) -> dict[str, Tensor]:
    """Results and every gradient, by the module on the whole batch or on each part alone."""
    x = x.detach().requires_grad_()
    leaves = {"x": x, **dict(module.named_parameters())}
    if hx is not None:
        leaves["hx"] = hx = hx.detach().requires_grad_()
    if rows.get("reset_state") is not None:
        leaves["reset_state"] = rows["reset_state"] = rows["reset_state"].detach().requires_grad_()
    if alone:
        y, h_n = part_by_part(module, x, hx, **rows)
    elif not module.batch_first:
        y, h_n = module(x, hx, **rows)
    else:
        if rows.get("resets") is not None:
            rows["resets"] = rows["resets"].t()
        y, h_n = module(x.transpose(0, 1), hx, **rows)
        y = y.transpose(0, 1)
    return results_and_gradients(y, h_n, leaves)


@pytest.mark.parametrize("given", ["no state", "hx", "reset_state", "both, reset_state of each row"])
@pytest.mark.parametrize("rows", ["lengths", "resets", "both"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_results_and_gradients_are_those_of_each_part_alone(arguments: dict[str, Any], rows: str, given: str) -> None:
    module = gru_ext.GRU(F, H, **arguments, dtype=FLOAT64)
    states = len(module.all_weights)
    hx = randn(states, B, H) if given.startswith(("hx", "both")) else None
    keywords: dict[str, Any] = {}
    if rows != "resets":
        keywords["lengths"] = LENGTHS
    if rows != "lengths":
        keywords["resets"] = some_resets()
        if "reset_state" in given:
            keywords["reset_state"] = randn(states, B, H) if given.startswith("both") else randn(states, H)
    x = randn(T, B, F)
    assert_near(solve(module, x, hx, False, **keywords), solve(module, x, hx, True, **keywords), tolerance=1e-12)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_accuracy_in_every_dtype(dtype: torch.dtype) -> None:
    module, peer = pair_of_grus(7, 20, num_layers=2, bidirectional=True, dtype=dtype)
    exact = nn.GRU(7, 20, num_layers=2, bidirectional=True, dtype=FLOAT64)
    exact.load_state_dict(module.state_dict())
    lengths, resets = [12, 1, 0, 5, 7, 12], some_resets(12, 6)
    x, hx, reset_state = randn(12, 6, 7, dtype=dtype), randn(4, 6, 20, dtype=dtype), randn(4, 20, dtype=dtype)
    rows = {"lengths": lengths, "resets": resets}
    ours = solve(module, x, hx, False, **rows, reset_state=reset_state)
    framework = solve(peer, x, hx, True, **rows, reset_state=reset_state)
    reference = solve(exact, x.double(), hx.double(), True, **rows, reset_state=reset_state.double())
    assert_all_accurate(ours, framework, reference)


@pytest.mark.parametrize("length", [0, 1, 4, T])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_unbatched(bidirectional: bool, length: int) -> None:
    module = gru_ext.GRU(F, H, 2, bidirectional=bidirectional, dtype=FLOAT64)
    states = len(module.all_weights)
    x, hx, reset_state, resets = randn(T, F), randn(states, H), randn(states, H), some_resets()[:, 3]
    results = module(x, hx, lengths=length, resets=resets, reset_state=reset_state)
    expected = part_by_part(module, x.unsqueeze(1), hx.unsqueeze(1), [length], resets.unsqueeze(1), reset_state)
    assert_near(results, [result.squeeze(1) for result in expected])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_lengths_of_every_integer_dtype_or_a_list(dtype: torch.dtype) -> None:
    module = gru_ext.GRU(F, H)
    x = torch.randn(T, B, F)
    assert_same_bits(module(x, lengths=torch.tensor(LENGTHS, dtype=dtype))[0], module(x, lengths=LENGTHS)[0])


def test_lengths_agree_with_a_packed_sequence_to_the_bit() -> None:
    module = gru_ext.GRU(F, H, 2, bidirectional=True)
    x, lengths = torch.randn(T, B, F), [3, 2, 6, 1, 4]
    packed, h_n = module(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))
    assert_same_bits(module(x, lengths=lengths), (pad_packed_sequence(packed, total_length=T)[0], h_n))


def test_what_padding_holds_does_not_matter() -> None:
    module = gru_ext.GRU(F, H, bidirectional=True)
    x = torch.randn(T, B, F)
    padding = torch.arange(T).unsqueeze(1) >= torch.tensor(LENGTHS)
    spoilt = x.masked_fill(padding.unsqueeze(2), torch.nan).requires_grad_()
    resets = some_resets()
    y, h_n = module(spoilt, lengths=LENGTHS, resets=resets | padding)
    assert_same_bits((y, h_n), module(x, lengths=LENGTHS, resets=resets & ~padding))
    (gradient,) = torch.autograd.grad(y.sum() + h_n.sum(), [spoilt])
    assert_same_bits(gradient[padding], torch.zeros(int(padding.sum()), F))
    assert_same_bits(y[padding], torch.zeros(int(padding.sum()), 2 * H))


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_no_steps_at_all(bidirectional: bool, batch: int) -> None:
    module = gru_ext.GRU(F, H, 2, bidirectional=bidirectional)
    x, hx = torch.randn(T, batch, F, requires_grad=True), torch.randn(len(module.all_weights), batch, H)
    y, h_n = module(x, hx, lengths=[0] * batch, resets=torch.ones(T, batch, dtype=torch.bool))
    assert_same_bits(y, torch.zeros(T, batch, H * (2 if bidirectional else 1)))
    assert_same_bits(h_n, hx)
    (y.sum() + h_n.sum()).backward()
    assert_same_bits(x.grad, torch.zeros(T, batch, F))
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def rows_and_steps(calls: Calls) -> list[tuple[int, int]]:
    """How many rows, and how many steps, each layer was given."""
    return [(given[0].shape[0], given[3].shape[0]) for given in calls.of("gru_fwd")]


def test_nothing_is_computed_for_padding_and_resets_shorten_the_recurrence() -> None:
    module = gru_ext.GRU(F, H, 2)
    x = torch.randn(T, B, F)
    with Calls() as calls:
        module(x, lengths=LENGTHS)
    assert rows_and_steps(calls) == [(sum(LENGTHS), max(LENGTHS))] * 2
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[::2] = True
    with Calls() as calls:
        module(x, resets=resets)
    assert rows_and_steps(calls) == [(T * B, 2)] * 2


def test_strided_resets_and_input() -> None:
    module = gru_ext.GRU(F, H)
    x, resets = torch.randn(B, T, F), some_resets()
    expected = module(x.transpose(0, 1).contiguous(), resets=resets)[0]
    assert_same_bits(module(x.transpose(0, 1), resets=resets.t().contiguous().t())[0], expected)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.filterwarnings("ignore:Please use `torch.vmap`:FutureWarning")  # gradcheck's own, in torch 2.6
def test_gradcheck(bidirectional: bool) -> None:
    directions = 2 if bidirectional else 1
    resets = torch.tensor([[True, False], [False, True], [False, True]])
    weights = [randn(*shape) for _ in range(directions) for shape in ((6, 2), (6, 2), (6,), (6,))]

    def call(x: Tensor, hx: Tensor, reset_state: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return functional.gru(
            x, hx, weights, bidirectional=bidirectional, lengths=[3, 2], resets=resets, reset_state=reset_state
        )

    inputs = [randn(3, 2, 2), randn(directions, 2, 2), randn(directions, 2), *weights]
    leaves = [tensor.requires_grad_() for tensor in inputs]
    gradcheck(call, leaves, check_forward_ad=True, check_batched_grad=True)
    gradgradcheck(call, leaves)


def test_forward_mode_and_vmap_over_the_input() -> None:
    module = gru_ext.GRU(F, H, bidirectional=True, dtype=FLOAT64)
    rows = {"lengths": torch.tensor(LENGTHS), "resets": some_resets()}
    samples, tangents = randn(3, T, B, F), randn(3, T, B, F)

    def call(x: Tensor) -> Any:
        return module(x, **rows)

    together = torch.vmap(call)(samples)
    pushed = torch.vmap(lambda x, v: torch.func.jvp(call, (x,), (v,)))(samples, tangents)
    pulled = torch.vmap(torch.func.grad(lambda x: call(x)[0].sin().sum()))(samples)
    for i, (x, v) in enumerate(zip(samples, tangents, strict=True)):
        assert_near((together[0][i], together[1][i]), call(x))
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(call(forward_ad.make_dual(x, v))[0]).tangent
        assert_near(pushed[1][0][i], tangent, "tangent of y")
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(call(leaf)[0].sin().sum(), leaf)
        assert_near(pulled[i], gradient, "dx")


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"fake_int8": True}], ids=str)
def test_every_derivative_of_sequences_that_are_all_empty(options: dict[str, Any]) -> None:
    module = gru_ext.GRU(F, H, num_layers=2, dtype=FLOAT64, **options)
    x = randn(T, B, F).requires_grad_()
    y, h_n = module(x, lengths=[0] * B)
    assert not y.any()
    assert not h_n.any()
    gradients = torch.autograd.grad(y.sum() + h_n.sum(), [x, *module.parameters()], create_graph=True)
    assert not any(gradient.any() for gradient in gradients)
    gradients[0].sum().backward()
    tangent = torch.func.jvp(lambda x: module(x, lengths=[0] * B)[0], (x.detach(),), (randn(T, B, F),))[1]
    assert not tangent.any()


def test_a_list_of_lengths_is_of_the_cpu_whatever_the_default_device() -> None:
    module, x = gru_ext.GRU(F, H), torch.randn(T, B, F)
    with torch.device("meta"):
        y, _ = module(x, lengths=LENGTHS)
    assert_same_bits(y, module(x, lengths=LENGTHS)[0])


@pytest.mark.parametrize("name", ["lengths", "resets"])
def test_vmap_over_lengths_or_resets_says_what_to_do(name: str) -> None:
    module = gru_ext.GRU(F, H)
    values = torch.tensor([LENGTHS, LENGTHS]) if name == "lengths" else torch.stack([some_resets()] * 2)
    with pytest.raises(NotImplementedError, match=f"gru: expected {name} that the samples of torch.vmap share"):
        torch.vmap(lambda value: module(torch.randn(T, B, F), **{name: value})[0], randomness="same")(values)


def results_of_any_size_in_a_graph() -> AbstractContextManager[Any]:
    """torch.compile has them from 2.10 on, and before where it is asked to."""
    if TORCH >= (2, 10):
        return nullcontext()
    setting: AbstractContextManager[Any] = torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
    return setting


@pytest.mark.parametrize("rows", ["lengths", "resets", "both"])
def test_compiled_as_one_graph_for_any_lengths(rows: str) -> None:
    module = gru_ext.GRU(F, H, 2, bidirectional=True, dtype=FLOAT64)
    call = copy.copy(module)
    call.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    for steps, lengths in ((T, LENGTHS), (T + 3, [9, 9, 1, 0, 2, 7]), (T, [0] * B)):
        batch = len(lengths)
        keywords: dict[str, Any] = {} if rows == "resets" else {"lengths": torch.tensor(lengths)}
        if rows != "lengths":
            keywords |= {"resets": some_resets(steps, batch), "reset_state": randn(4, H)}
        x, hx = randn(steps, batch, F), randn(4, batch, H)
        with results_of_any_size_in_a_graph():
            found = solve(call, x, hx, False, **keywords)
        assert_near(found, solve(module, x, hx, False, **keywords))


def test_exported_with_dynamic_sizes() -> None:
    module = gru_ext.GRU(F, H, batch_first=True).eval()
    batch, steps = Dim("batch", min=2, max=64), Dim("steps", min=2, max=64)
    example = {"lengths": torch.tensor(LENGTHS), "resets": some_resets().t()}
    shapes = {"input": {0: batch, 1: steps}, "lengths": {0: batch}, "resets": {0: batch, 1: steps}}
    program = torch.export.export(module, (torch.randn(B, T, F),), example, dynamic_shapes=shapes)
    x = torch.randn(3, 9, F)
    rows = {"lengths": torch.tensor([4, 0, 9]), "resets": some_resets(9, 4)[:, :3].t()}
    assert_same_bits(program.module()(x, **rows), module(x, **rows))


def test_autocast_casts_the_state_after_a_reset_too() -> None:
    module = gru_ext.GRU(F, H)
    x, resets, state = torch.randn(T, B, F), some_resets(), torch.randn(1, H, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = module(x, resets=resets, reset_state=state)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert state.grad is not None
    assert state.grad.dtype == torch.float32


RESETS = torch.zeros(T, B, dtype=torch.bool)
WRONG: Refusals = {
    RuntimeError: {
        "lengths from 0 to T = 6, got 7 at entry 1": {"lengths": [1, 7, 2, 0, 3]},
        "lengths from 0 to T = 6, got -1 at entry 3": {"lengths": torch.tensor([1, 2, 3, -1, 3])},
        "lengths of shape (B) = (5,) of integers, got (2,) of torch.int64": {"lengths": [1, 2]},
        "lengths of shape (B) = (5,) of integers, got (5,) of torch.float32": {"lengths": torch.ones(B)},
        "lengths of shape (B) = (5,) of integers, got (5,) of torch.bool": {"lengths": torch.ones(B).bool()},
        "resets of shape (T, B) = (6, 5) of torch.bool, got (5, 6) of torch.bool": {"resets": RESETS.t()},
        "resets of shape (T, B) = (6, 5) of torch.bool, got (6, 5) of torch.float32": {"resets": RESETS.float()},
        "reset_state of shape (L*D, H) = (1, 4) or (L*D, B, H) = (1, 5, 4), got (2, 4)": {
            "resets": RESETS,
            "reset_state": torch.zeros(2, H),
        },
        "reset_state of the dtype and on the device of input, torch.float32 on cpu, got torch.float64 on cpu": {
            "resets": RESETS,
            "reset_state": torch.zeros(1, H, dtype=FLOAT64),
        },
    },
    TypeError: {"resets to be a tensor, got list": {"resets": [[True] * B] * T}},
    ValueError: {"reset_state together with resets, got it without": {"reset_state": torch.zeros(1, H)}},
}
UNBATCHED: Refusals = {
    RuntimeError: {
        "lengths of shape () = () of integers, got (1,) of torch.int64": {"lengths": torch.tensor([3])},
        "resets of shape (T) = (6,) of torch.bool, got (1, 6) of torch.bool": {"resets": RESETS[:, :1].t()},
        "reset_state of shape (L*D, H) = (1, 4), got (1, 1, 4)": {
            "resets": RESETS[:, 0],
            "reset_state": torch.zeros(1, 1, H),
        },
    }
}


@each_refusal(WRONG, UNBATCHED)
def test_wrong_arguments(given: dict[str, Any], error: type[Exception], text: str) -> None:
    shape = (T, F) if text in UNBATCHED[RuntimeError] else (T, B, F)
    with refused(error, f"gru: expected {text}"):
        gru_ext.GRU(F, H)(torch.randn(shape), **given)


def test_a_packed_sequence_takes_no_lengths_and_no_resets() -> None:
    module = gru_ext.GRU(F, H)
    packed = pack_padded_sequence(torch.randn(T, 2, F), torch.tensor([T, 2]))
    for keywords in ({"lengths": [3, 2]}, {"resets": RESETS[:, :2]}):
        with pytest.raises(ValueError, match="padded input, got them with a Packed"):
            partial(module, **keywords)(packed)
    with pytest.raises(ValueError, match="padded input, got them with batch_sizes"):
        functional.gru(packed.data, None, module._flat_weights, batch_sizes=packed.batch_sizes, lengths=[3, 2])


def test_opcheck_of_segments() -> None:
    for lengths, resets in ((LENGTHS, None), (None, some_resets()), (LENGTHS, some_resets())):
        tensor = None if lengths is None else torch.tensor(lengths)
        arguments = (tensor, resets, T, B, False, torch.device("cpu"))
        torch.library.opcheck(torch.ops.gru_ext.segments.default, arguments)
