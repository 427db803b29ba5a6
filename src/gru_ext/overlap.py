"""Layers at the same time: a wavefront over chunks of time steps, on CUDA streams of their own.

Layer l computes chunk c while layer l + 1 computes chunk c - 1. The first layer is on the caller's stream, each other
one on a side stream. Why that is right:

- Order. A chunk of a layer waits for the same chunk of the layer below, and follows the one before on its own stream.
  First, every side stream waits for the caller's; at the end, that waits for every other. Waits are events, made for
  each: a CUDA graph captures them as its edges.
- Memory. torch may reuse freed memory as soon as the stream that allocated it moves on. ``record_stream(s)`` makes it
  wait for the work that ``s`` had by then. So every tensor that a second stream reads is recorded there: weights,
  initial states, the output of each layer, the results. Tensors that are saved for the backward were made on the
  stream of their layer, or recorded there.
- Backward. Autograd runs each node on the stream of its forward. Where a gradient crosses streams, it waits and records
  ("Stream semantics of backward passes" in torch's notes on CUDA; torch/csrc/autograd/input_buffer.cpp). The gradient
  of a weight is summed over chunks on the layer's stream, and then handed to the caller's, where parameters get
  it: for this a weight passes through two views, one made on the caller's stream, one on the layer's.

So nothing depends on what else uses these streams, which torch takes from a pool.

Letters: T steps, B batch, I input, H hidden, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from gru_ext.layout import Outputs, RunLayer, Wavefront
from gru_ext.recurrence import check_overlap_steps
from gru_ext.torch_internals import is_eager


class Streams(Protocol):
    """A stream for each layer; that of layer 0 is the caller's."""

    def on(self, layer: int) -> AbstractContextManager[Any]:
        """Within it, work goes to the layer's stream."""
        ...

    def wait(self, layer: int, other: int) -> None:
        """What the layer's stream gets from now on waits for what the other's has got so far."""
        ...

    def lend(self, tensor: Tensor, layer: int) -> None:
        """Once the tensor is freed, its memory is not used anew before the layer's stream is done with it."""
        ...


class CudaStreams:
    """``Streams`` of a device: those of one caller's stream are not another's, lest a capture meets other work."""

    _side_streams: ClassVar[dict[torch.cuda.Stream, list[torch.cuda.Stream]]] = {}

    def __init__(self, device: torch.device, num_layers: int) -> None:
        caller = torch.cuda.current_stream(device)
        side = self._side_streams.setdefault(caller, [])
        while len(side) < num_layers - 1:
            side.append(torch.cuda.Stream(device))
        self._streams = [caller, *side]

    def on(self, layer: int) -> AbstractContextManager[Any]:  # noqa: D102
        return torch.cuda.stream(self._streams[layer])

    def wait(self, layer: int, other: int) -> None:  # noqa: D102
        self._streams[layer].wait_stream(self._streams[other])

    def lend(self, tensor: Tensor, layer: int) -> None:  # noqa: D102
        tensor.record_stream(self._streams[layer])


def check_overlap(op: str, steps: Any, num_layers: int, bidirectional: bool, recurrent_dropout: float) -> None:
    """Raise TypeError unless ``steps`` is an int, ValueError if it is below 0 or the layers cannot overlap."""
    check_overlap_steps(op, "overlap_layers", steps)
    if num_layers < 2:
        raise ValueError(f"{op}: expected num_layers of at least 2 with overlap_layers, got {num_layers}")
    if bidirectional:
        raise ValueError(
            f"{op}: expected bidirectional=False with overlap_layers, as a layer of two directions needs all steps of"
            " the one below, got bidirectional=True"
        )
    if recurrent_dropout != 0:
        raise ValueError(
            f"{op}: expected recurrent_dropout=0 with overlap_layers, as its mask is one for all steps, got"
            f" {recurrent_dropout!r}"
        )


def streams_for(input: Tensor, num_layers: int) -> Streams | None:
    """Where the layers may overlap, their streams; None where they run one after another.

    That is, on a CPU, and wherever not the tensors themselves are at hand: traced, transformed or in forward mode.
    """
    if not is_eager() or type(input) not in (Tensor, torch.nn.Parameter):  # a FakeTensor has no memory to lend
        return None
    return device_streams(input.device, num_layers)


def device_streams(device: torch.device, num_layers: int) -> Streams | None:
    """The streams of L layers on a device; None where it has none."""
    return CudaStreams(device, num_layers) if device.type == "cuda" else None


def wavefront_of(
    input: Tensor,
    weights: Sequence[Tensor],
    num_layers: int,
    steps: int,
    between: Callable[[Tensor], Tensor] | None,
    needs_y: bool,
) -> tuple[Sequence[Tensor], Wavefront | None]:
    """The weights, lent to the streams of the layers, and ``run_wavefront`` on these; None without streams."""
    streams = streams_for(input, num_layers)
    if streams is None:
        return weights, None
    run = partial(run_wavefront, num_layers=num_layers, steps=steps, streams=streams, between=between, needs_y=needs_y)
    return lend_weights(streams, weights, num_layers), run


def lend_weights(streams: Streams, weights: Sequence[Tensor], num_layers: int) -> list[Tensor]:
    """The weights, those of each layer as views that its chunks share: see "Backward" above."""
    per_layer = len(weights) // num_layers
    lent = [weight if i < per_layer else weight.view_as(weight) for i, weight in enumerate(weights)]
    for layer in range(1, num_layers):
        with streams.on(layer):
            for i in range(layer * per_layer, (layer + 1) * per_layer):
                streams.lend(lent[i], layer)
                lent[i] = lent[i].view_as(lent[i])
    return lent


def run_wavefront(
    run_layer: RunLayer,
    x: Tensor,
    hx: Tensor | None,
    *,
    num_layers: int,
    steps: int,
    streams: Streams,
    between: Callable[[Tensor], Tensor] | None,
    needs_y: bool,
) -> Outputs:
    """The layers of one direction, in chunks of ``steps`` time steps.

    ``run_layer``, with weights that were lent, and ``between`` are as in ``run_layers``; x is (T, B, I), hx (L, B, H).
    Returns y (T, B, H), which without ``needs_y`` is not to be used, and h_n (L, B, H).
    """
    states: list[Tensor | None] = [None] * num_layers
    if hx is not None:
        for layer in range(1, num_layers):
            streams.lend(hx, layer)
        states = list(hx.split(1))
    ys = []
    for layer in range(1, num_layers):
        streams.wait(layer, 0)
    try:
        for y in x.split(steps):
            for layer in range(num_layers):
                if layer > 0:
                    streams.wait(layer, layer - 1)
                with streams.on(layer):
                    if layer > 0 and between is not None:
                        y = between(y)
                    y, states[layer] = run_layer(layer, y, states[layer])
                streams.lend(y, layer + 1 if layer + 1 < num_layers else 0)
            ys.append(y)
    finally:  # also where memory ran out: the caller's stream goes on only after what was begun
        for layer in range(1, num_layers):
            streams.wait(0, layer)
    last = []
    for state in states:
        assert state is not None
        streams.lend(state, 0)
        last.append(state)
    return (torch.cat(ys) if needs_y else ys[-1]), torch.cat(last)
