"""CUDA's streams and what torch's allocator asks of their users, as a check on the CPU.

Every operator runs at once, in the order of the program. What is recorded is what a GPU would be bound to: a vector
clock for each stream says how much of each other stream's work surely comes before. Operators fail that use a tensor
which another stream may still be writing, or whose memory was not lent to their stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Clock = tuple[int, ...]


class SimulatedStreams:
    """``gru_ext.overlap.Streams``; stream 0 is the caller's."""

    def __init__(self, count: int) -> None:
        self.current = 0
        # Of each stream: how many operators of each stream come before what it gets next. The caller did one before.
        self.clocks: list[Clock] = [(1 if s == 0 else 0,) + (0,) * (count - 1) for s in range(count)]
        self.before = self.clocks[0]
        self.operators: list[tuple[str, int, Clock]] = []  # with their stream, and its clock after them
        self._owner: dict[int, int] = {}  # by storage: the stream it was allocated for,
        self._written: dict[int, tuple[int, Clock]] = {}  # the stream that wrote it last, and its clock then,
        self._lent: dict[int, set[int]] = {}  # the streams it was lent to
        self._streams: dict[Node, int] = {}
        self._kept: list[Tensor] = []  # lest an address is used twice

    @contextmanager
    def on(self, layer: int) -> Iterator[None]:  # noqa: D102
        previous, self.current = self.current, layer
        try:
            yield
        finally:
            self.current = previous

    def wait(self, layer: int, other: int) -> None:  # noqa: D102
        self._wait(layer, self.clocks[other])

    def lend(self, tensor: Tensor, layer: int) -> None:  # noqa: D102
        self._kept.append(tensor)
        self._lent.setdefault(_storage(tensor), set()).add(layer)

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Within it, operators are checked."""
        with _Operators(self), _Nodes(self):
            yield

    def backward(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """As torch's engine: a node on the stream of its forward, which waits for, and is lent, what comes from others.

        At the end the caller waits for the streams of the leaves.
        """
        reached = self.nodes(tensors)
        hooks = [node.register_prehook(partial(self.enter, stream)) for node, stream in reached.items()]
        with _Operators(self):
            torch.autograd.backward(tensors, gradients)
        for hook in hooks:
            hook.remove()
        for node, stream in reached.items():
            if node.name().endswith("AccumulateGrad"):
                self.wait(0, stream)
        self.current = 0

    def nodes(self, tensors: Sequence[Tensor]) -> dict[Node, int]:
        """Every node with its stream. Gradients are left on the stream that used a leaf first."""
        reached: dict[Node, int] = {}
        waiting = [(tensor.grad_fn, 0) for tensor in tensors]
        while waiting:
            node, from_stream = waiting.pop()
            if node is None or node in reached:
                continue
            reached[node] = self._streams.get(node, from_stream)
            waiting += [(below, reached[node]) for below, _ in node.next_functions]
        return reached

    def enter(self, stream: int, gradients: Sequence[Tensor | None]) -> None:
        """A node with these gradients of its results begins on a stream."""
        self.current = stream
        for gradient in gradients:
            if gradient is None:
                continue
            writer, clock = self._written.get(_storage(gradient), (0, self.before))
            if writer != stream:
                self._wait(stream, clock)
                self.lend(gradient, stream)

    def run(self, operator: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on the current stream and check what it uses. Views use nothing."""
        results = operator(*args, **kwargs)
        if operator.is_view:
            return results
        stream = self.current
        clock = self.clocks[stream]
        self.clocks[stream] = clock = tuple(n + (s == stream) for s, n in enumerate(clock))
        self.operators.append((operator.name(), stream, clock))
        for tensor in _tensors((args, kwargs)):
            writer, written = self._written.get(_storage(tensor), (0, self.before))
            owner = self._owner.get(_storage(tensor), 0)
            assert clock[writer] >= written[writer], f"{operator} on stream {stream} does not wait for stream {writer}"
            assert stream == owner or stream in self._lent.get(_storage(tensor), ()), (
                f"{operator} uses memory of stream {owner} on stream {stream}, to which it was not lent"
            )
        for tensor in _tensors(results):
            self._kept.append(tensor)
            self._owner.setdefault(_storage(tensor), stream)
            self._written[_storage(tensor)] = (stream, clock)
        return results

    def made(self, results: Any) -> None:
        """What a function of torch returns has nodes of the current stream."""
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                self._streams.setdefault(tensor.grad_fn, self.current)

    def _wait(self, stream: int, clock: Clock) -> None:
        self.clocks[stream] = tuple(map(max, self.clocks[stream], clock))


class _Operators(TorchDispatchMode):
    def __init__(self, streams: SimulatedStreams) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.streams = streams

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.streams.run(func, args, kwargs or {})


class _Nodes(TorchFunctionMode):
    def __init__(self, streams: SimulatedStreams) -> None:
        super().__init__()
        self.streams = streams

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        self.streams.made(results)
        return results


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.numel() > 0]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
