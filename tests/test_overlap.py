"""overlap_layers: the results of layers one after another, by streams that wait for all they must, and for no more.

A CPU has no streams: ``SimulatedStreams`` check what the wavefront asks of them. tests/test_cuda.py has the rest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import FLOATING, pair_of_grus, results_of
from compare import assert_all_accurate, assert_near, assert_same_bits
from simulated_streams import SimulatedStreams
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_padded_sequence

import gru_ext
from gru_ext import functional, overlap

STEPS, LAYERS = 7, 3
CASES: list[dict[str, Any]] = [
    {},
    {"batch_first": True, "bias": False},
    {"outputs": "last"},
    {"save": "output", "reset_after": False},
    {"dropout": 0.5, "layer_norm": True},
    {"zoneout": 0.3, "candidate_dropout": 0.2, "weight_dropout": 0.2},
]


@pytest.fixture
def streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimulatedStreams:
    """By which GRUs overlap their layers in the test: simulated ones, or those of its parameter."""
    simulated: SimulatedStreams = getattr(request, "param", None) or SimulatedStreams(LAYERS)
    monkeypatch.setattr(overlap, "device_streams", lambda device, num_layers: simulated)
    return simulated


def problem(arguments: dict[str, Any], steps: int = STEPS) -> tuple[gru_ext.GRU, Tensor, Tensor]:
    """A module whose layers do not overlap yet, its input and its initial state."""
    gru = gru_ext.GRU(3, 4, LAYERS, dtype=torch.float64, **arguments)
    x = torch.randn((2, steps, 3) if gru.batch_first else (steps, 2, 3), dtype=torch.float64, requires_grad=True)
    return gru, x, torch.randn(LAYERS, 2, 4, dtype=torch.float64, requires_grad=True)


# ---- The same results


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("arguments", CASES[:4], ids=str)
def test_results_and_gradients(arguments: dict[str, Any], with_hx: bool, steps: int, streams: SimulatedStreams) -> None:
    gru, x, hx = problem(arguments)
    state = hx if with_hx else None
    expected = results_of(gru, x, state)
    gru.overlap_layers = steps
    with streams.checked():
        gru(x, state)
    assert sum(name == "gru_ext::gru_fwd" for name, _, _ in streams.operators) == LAYERS * -(-STEPS // steps)
    assert_near(results_of(gru, x, state), expected)


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_accuracy(dtype: torch.dtype) -> None:
    ours, theirs = pair_of_grus(5, 24, 2, dtype=dtype)
    ours.overlap_layers = 4
    exact = copy.deepcopy(theirs).double()
    x, hx = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((22, 6, 5), (2, 6, 24)))
    in_float64 = [tensor.detach().double().requires_grad_() for tensor in (x, hx)]
    assert_all_accurate(results_of(ours, x, hx), results_of(theirs, x, hx), results_of(exact, *in_float64))


@pytest.mark.usefixtures("streams")
def test_unbatched_and_an_empty_batch() -> None:
    gru, x, hx = problem({})
    inputs = [(x[:, 0], hx[:, 0]), (x[:, :0], None)]
    expected = [gru(*given) for given in inputs]
    gru.overlap_layers = 2
    assert_near([gru(*given) for given in inputs], expected)


@pytest.mark.usefixtures("streams")
def test_dropout_between_layers_is_drawn_for_each_chunk() -> None:
    gru, x, _ = problem({"dropout": 0.5})
    weights = list(gru._flat_weights)
    torch.manual_seed(1)
    states: list[Tensor | None] = [None] * LAYERS
    outputs = []
    for y in x.split(3):
        for layer in range(LAYERS):
            if layer > 0:
                y = nn.functional.dropout(y, 0.5)
            y, states[layer] = functional.gru(y, states[layer], weights[4 * layer : 4 * layer + 4])
        outputs.append(y)
    gru.overlap_layers = 3
    torch.manual_seed(1)
    assert_same_bits(gru(x)[0], torch.cat(outputs))
    assert torch.equal(gru.eval()(x)[0], gru(x)[0])


@pytest.mark.usefixtures("streams")
def test_gradcheck_twice() -> None:
    x, hx = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 1, 2), (2, 1, 2)))
    weights = [torch.randn(6, 2, dtype=torch.float64, requires_grad=True) for _ in range(4)]

    def function(x: Tensor, hx: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return functional.gru(x, hx, weights, num_layers=2, overlap_layers=2)

    assert torch.autograd.gradcheck(function, (x, hx, *weights))
    assert torch.autograd.gradgradcheck(function, (x, hx, *weights))


# ---- Streams


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_every_stream_waits_and_is_lent_what_it_uses(arguments: dict[str, Any], streams: SimulatedStreams) -> None:
    train(streams, *problem(arguments | {"overlap_layers": 2}))


@pytest.mark.parametrize("trained", ["x", "hx", "weight_ih_l2", "bias_hh_l1"])
def test_likewise_where_few_gradients_are_needed(trained: str, streams: SimulatedStreams) -> None:
    gru, x, hx = problem({"overlap_layers": 2})
    for name, tensor in (("x", x), ("hx", hx), *gru.named_parameters()):
        tensor.requires_grad_(name == trained)
    train(streams, gru, x, hx)


def test_likewise_where_autocast_makes_the_weights(streams: SimulatedStreams) -> None:
    gru, x, hx = problem({"overlap_layers": 2})
    with torch.autocast("cpu", torch.bfloat16):
        train(streams, gru.float(), x.detach().float(), hx.detach().float())


def train(streams: SimulatedStreams, gru: gru_ext.GRU, x: Tensor, hx: Tensor) -> None:
    """A step of training whose every use of a tensor is checked; the caller then uses what he got."""
    with streams.checked():
        output, h_n = gru(x, hx)
        loss = output.sum() + h_n.sum()
    streams.backward([loss], [torch.ones_like(loss)])
    with streams.checked():
        for tensor in (x, hx, *gru.parameters()):
            assert (tensor.grad is not None) == (tensor.requires_grad and tensor.is_leaf)
            if tensor.grad is not None:
                tensor.grad.sum()
    assert {stream for _, stream, _ in streams.operators} == set(range(LAYERS))


def test_no_stream_waits_for_more(streams: SimulatedStreams) -> None:
    """Forward no layer waits for those above it, in backward none for those below: so they overlap."""
    gru, x, hx = problem({"overlap_layers": 2})
    with streams.checked():
        output, h_n = gru(x, hx)
    chunks = -(-STEPS // gru.overlap_layers)
    for name, layer, clock in streams.operators:
        if name == "gru_ext::gru_fwd":
            assert clock[layer + 1 :] == (0,) * (LAYERS - layer - 1)
    nodes = streams.nodes([output, h_n])
    for node, stream in nodes.items():
        views = [below for below, _ in node.next_functions if below is not None and below.name() == "ViewBackward0"]
        if "Gru" in node.name():  # where the gradients of weights are summed
            assert len(views) == (4 if stream > 0 else 0)
            assert all(nodes[view] == stream for view in views)
    before = streams.clocks[0]
    streams.operators.clear()
    streams.backward([output, h_n], [torch.ones_like(output), torch.ones_like(h_n)])
    backward = [(layer, clock) for name, layer, clock in streams.operators if name == "gru_ext::gru_bwd"]
    assert len(backward) == LAYERS * chunks
    for layer, clock in backward:
        assert all(now <= then for now, then in zip(clock[:layer], before[:layer], strict=True))


class Without(SimulatedStreams):
    """A wavefront leaves something out: one stream does not wait for one other, or nothing is lent to one stream."""

    def __init__(self, *missing: int) -> None:
        super().__init__(LAYERS)
        self.missing = missing

    def wait(self, layer: int, other: int) -> None:  # noqa: D102
        if (layer, other) != self.missing:
            super().wait(layer, other)

    def lend(self, tensor: Tensor, layer: int) -> None:  # noqa: D102
        if (layer,) != self.missing:
            super().lend(tensor, layer)


@pytest.mark.parametrize(
    ("streams", "fault"),
    [
        (Without(1, 0), "does not wait for stream 0"),
        (Without(2, 1), "does not wait for stream 1"),
        (Without(0, 2), "does not wait for stream 2"),
        (Without(0), "uses memory of stream 2 on stream 0, to which it was not lent"),
        (Without(1), "uses memory of stream 0 on stream 1, to which it was not lent"),
        (Without(2), "on stream 2, to which it was not lent"),
    ],
    indirect=["streams"],
)
def test_the_check_finds_what_is_left_out(streams: SimulatedStreams, fault: str) -> None:
    gru, x, hx = problem({"overlap_layers": 2})
    with streams.checked(), pytest.raises(AssertionError, match=fault):
        gru(x, hx)


def test_the_check_finds_gradients_that_are_not_handed_over(
    streams: SimulatedStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they would be without the views that the weights pass through."""

    def lend_only(streams: overlap.Streams, weights: list[Tensor], num_layers: int) -> list[Tensor]:
        for i, weight in enumerate(weights):
            streams.lend(weight, i * num_layers // len(weights))
        return weights

    monkeypatch.setattr(overlap, "lend_weights", lend_only)
    with pytest.raises(AssertionError, match=r"uses memory of stream [12] on stream 0, to which it was not lent"):
        train(streams, *problem({"overlap_layers": 2}))


@pytest.mark.parametrize("done", [0, 2, 3])
def test_after_an_error_the_caller_still_waits(done: int) -> None:
    """For streams that waited for his: in a CUDA graph's capture, to wait for another stream would be an error too."""
    streams = SimulatedStreams(2)
    calls = iter(range(done))

    def run_layer(layer: int, x: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor]:
        if next(calls, None) is None:
            raise RuntimeError("out of memory")
        return x + 1, x[:1] + 1

    with streams.checked(), pytest.raises(RuntimeError, match="out of memory"):
        overlap.run_wavefront(
            run_layer, torch.zeros(6, 1, 1), None, num_layers=2, steps=2, streams=streams, between=None, needs_y=True
        )
    assert streams.clocks[1][1] == 2 * (done // 2)
    assert streams.clocks[0][1] == streams.clocks[1][1]
    assert streams.clocks[1][0] > 0


def test_side_streams_are_of_one_stream_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for torch.cuda: they are kept, there are as many as layers ask for, and calls reach them."""
    calls: list[Any] = []

    class Stream:
        def __init__(self, device: Any = None) -> None:
            self.device = device

        def wait_stream(self, other: Stream) -> None:
            calls.append((self, other))

    callers = [Stream(), Stream()]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: callers[0])
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(overlap.CudaStreams, "_side_streams", {})
    device = torch.device("cuda", 1)

    def streams_of(num_layers: int) -> list[Any]:
        streams = overlap.device_streams(device, num_layers)
        assert isinstance(streams, overlap.CudaStreams)
        streams.wait(num_layers - 1, 0)
        streams.lend(SimpleNamespace(record_stream=calls.append), num_layers - 1)  # type: ignore[arg-type]
        return [streams.on(layer) for layer in range(num_layers)]

    two, three, again = streams_of(2), streams_of(3), streams_of(2)
    callers.reverse()
    others = streams_of(3)
    assert two == again == three[:2]
    assert three[0] is callers[1]
    assert others[0] is callers[0]
    assert len({*three, *others}) == 6
    assert all(stream.device is device for stream in (*three[1:], *others[1:]))
    assert calls[:4] == [(two[1], two[0]), two[1], (three[2], three[0]), three[2]]


# ---- Where it has no effect


def test_a_cpu_has_no_streams() -> None:
    assert overlap.device_streams(torch.device("cpu"), 2) is None
    gru, x, hx = problem({})
    expected = gru(x, hx)
    gru.overlap_layers = 2
    assert_same_bits(gru(x, hx), expected)


def jvp(function: Callable[[Tensor], Any], x: Tensor) -> Any:
    with torch.autograd.forward_ad.dual_level():
        return function(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


def of_fake_tensors(gru: gru_ext.GRU, x: Tensor) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return gru(mode.from_tensor(x))


NO_EFFECT: dict[str, Callable[[gru_ext.GRU, Tensor], Any]] = {
    "short": lambda gru, x: gru(x[:2]),
    "lengths": lambda gru, x: gru(x, lengths=[7, 3]),
    "resets": lambda gru, x: gru(x, resets=torch.zeros(7, 2, dtype=torch.bool)),
    "packed": lambda gru, x: gru(pack_padded_sequence(x, [7, 3])),
    "compiled": lambda gru, x: torch.compile(gru, fullgraph=True, backend="aot_eager")(x),
    "exported": lambda gru, x: torch.export.export(gru, (x,), strict=False),
    "vmap": lambda gru, x: torch.vmap(gru, in_dims=1, out_dims=1)(x),
    "grad": lambda gru, x: torch.func.grad(lambda x: gru(x)[0].sum())(x),
    "forward mode": lambda gru, x: jvp(gru, x),
    "fake": of_fake_tensors,
    "traced": lambda gru, x: torch.jit.trace(gru, x, check_trace=False),
}


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.trace` is", "ignore:`torch.jit.trace_method` is", "ignore::torch.jit.TracerWarning"
)
@pytest.mark.parametrize("kind", NO_EFFECT)
def test_layers_run_one_after_another(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(overlap, "device_streams", lambda device, num_layers: asked.append(device))
    gru, x, _ = problem({"overlap_layers": 2})
    x = x.detach()
    NO_EFFECT[kind](gru.requires_grad_(False), x)
    assert not asked
    gru(x)
    assert asked
    torch._dynamo.reset()


# ---- The argument

EXPECTED_INT = "expected overlap_layers of type int, the time steps of a chunk"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"overlap_layers": -1}, ValueError, "expected overlap_layers of at least 0, got -1"),
        ({"overlap_layers": True}, TypeError, f"{EXPECTED_INT}, got bool"),
        ({"overlap_layers": None}, TypeError, f"{EXPECTED_INT}, got NoneTy"),
        ({"num_layers": 1}, ValueError, "expected num_layers of at least 2 with overlap_layers, got 1"),
        ({"bidirectional": True}, ValueError, "expected bidirectional=False with overlap_layers, as a layer of two"),
        ({"recurrent_dropout": 0.5}, ValueError, "expected recurrent_dropout=0 with overlap_layers, as its mask is"),
    ],
    ids=str,
)
def test_errors(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments = {"num_layers": 2, "overlap_layers": 8} | arguments
    with pytest.raises(error, match=f"^GRU: {text}"):
        gru_ext.GRU(3, 4, **arguments)
    directions = 2 if arguments.get("bidirectional") else 1
    weights = [torch.randn(12, 4) for _ in range(2 * arguments["num_layers"] * directions)]
    with pytest.raises(error, match=f"^gru: {text}"):
        functional.gru(torch.randn(5, 2, 4), None, weights, **arguments)
