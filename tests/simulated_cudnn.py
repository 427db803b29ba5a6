"""cuDNN's functions for an RNN on CPU tensors: what benchmarks/contenders/cudnn.py calls, computed by ``nn.GRU``.

Weights lie in an order of their own, with gaps. What one call leaves to the next is in the memory that the caller gives
to both. A wrong call prints what is wrong with it, and returns the status of an internal error.
"""

# ruff: noqa: N802 (functions have cuDNN's names)

from __future__ import annotations

import ctypes
import math
import re
import traceback
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, c_int, c_void_p
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders.cudnn_library import DATA_TYPES, NOT_SUPPORTED, PARAMETERS, SUCCESS, Algorithm, Constant
from benchmarks.contenders.cudnn_library import Library as Cudnn

INTERNAL_ERROR = 4000
LAST_ERROR = b"simulated"
STATUS = {NOT_SUPPORTED: b"CUDNN_STATUS_NOT_SUPPORTED", INTERNAL_ERROR: b"CUDNN_STATUS_INTERNAL_ERROR"}
DTYPES: dict[int, torch.dtype] = {number: dtype for dtype, number in DATA_TYPES.items()}
GAP = 256  # bytes between two weights
WORK = 64  # bytes
# What cuDNN does without a GPU: descriptors, but for the settings of dropout, which has a state on the device.
WITHOUT_GPU = r"cudnn(Create|Destroy)\w+Descriptor|cudnnSet(TensorNd|RNNData|RNN)Descriptor(_v8)?"


def library() -> Cudnn:
    """A library that has a handle."""
    return Cudnn(_functions())


def library_beside(real: Any, accepted: list[str]) -> Cudnn:
    """Such a library; what needs no GPU is asked of the real cuDNN too, and listed if that succeeds."""
    functions, descriptors = _functions(), dict[int | None, c_void_p]()

    def beside(name: str) -> Callable[..., int]:
        simulated, of_real = getattr(functions, name), getattr(real, name)

        def call(*arguments: Any) -> int:
            status: int = simulated(*arguments)
            if "Create" in name:
                descriptors[arguments[0].value] = c_void_p()
            theirs = [descriptors[given.value] if isinstance(given, c_void_p) else given for given in arguments]
            status = status or of_real(*theirs)
            accepted.extend([name] if status == SUCCESS else [])
            return status

        return call

    for name in filter(re.compile(WITHOUT_GPU).fullmatch, PARAMETERS):
        setattr(functions, name, beside(name))
    return Cudnn(functions)


def _functions() -> SimpleNamespace:
    """All that the contenders call. Arguments are converted as those of the real functions are."""
    simulated = _Simulated()
    made = {name: CFUNCTYPE(c_int, *kinds)(simulated.function(name)) for name, kinds in PARAMETERS.items()}
    words = {"cudnnGetErrorString": STATUS.__getitem__, "cudnnGetLastErrorString": _say}
    return SimpleNamespace(**words, **made)


def _say(words: Any, size: int) -> None:
    words.value = LAST_ERROR


class NotSupportedError(Exception):
    """What cuDNN would refuse."""


class _Simulated:
    def __init__(self) -> None:
        self.descriptors: dict[int, Any] = {}  # what each was set to

    def function(self, name: str) -> Callable[..., int]:
        """A function by its name in C: returns a status, and raises nothing."""
        short = name.removeprefix("cudnn").removesuffix("_v8")
        generic = {"Create": self._create, "Destroy": self._destroy}
        body = next((body for verb, body in generic.items() if short.startswith(verb)), None)
        body = body or getattr(self, f"_{short}")

        def call(*arguments: Any) -> int:
            try:
                body(*arguments)
            except NotSupportedError:
                return NOT_SUPPORTED
            except Exception:  # which ctypes would drop
                traceback.print_exc()
                return INTERNAL_ERROR
            return SUCCESS

        return call

    def _create(self, made: Any) -> None:
        made[0] = 1 + max(self.descriptors, default=0)
        self.descriptors[made[0]] = None

    def _destroy(self, descriptor: int) -> None:
        del self.descriptors[descriptor]

    def _SetStream(self, handle: int, stream: int) -> None:
        raise AssertionError("there is no stream on a CPU")

    def _SetDropoutDescriptor(self, dropout: int, handle: int, rate: float, *states: Any) -> None:
        self.descriptors[dropout] = rate

    def _SetTensorNdDescriptor(self, tensor: int, dtype: int, dims: int, shape: Any, strides: Any) -> None:
        self.descriptors[tensor] = (DTYPES[dtype], shape[:dims], strides[:dims])

    def _SetRNNDataDescriptor(
        self, data: int, dtype: int, layout: int, steps: int, batch: int, width: int, lengths: Any, padding: int
    ) -> None:
        assert layout == Constant.RNN_DATA_LAYOUT_SEQ_MAJOR_UNPACKED
        assert lengths[:batch] == [steps] * batch
        self.descriptors[data] = (DTYPES[dtype], (steps, batch, width))

    def _SetRNNDescriptor(self, rnn: int, *values: int) -> None:
        """Takes what ``nn.GRU`` passes for a module without dropout."""
        algorithm, cell, biases, directions, skips, dtype, precision, products, inputs, hidden, projected = values[:11]
        layers, dropout, padded = values[11:]
        assert (cell, biases, skips) == (Constant.GRU, Constant.RNN_DOUBLE_BIAS, Constant.LINEAR_INPUT)
        assert (projected, padded, self.descriptors[dropout]) == (hidden, Constant.RNN_PADDED_IO_ENABLED, 0.0)
        double = dtype == Constant.DATA_DOUBLE
        assert precision == (Constant.DATA_DOUBLE if double else Constant.DATA_FLOAT)
        assert (dtype == Constant.DATA_HALF) == (products == Constant.TENSOR_OP_MATH)
        bidirectional = directions == Constant.BIDIRECTIONAL
        if double and algorithm in (Algorithm.PERSIST_STATIC, Algorithm.PERSIST_STATIC_SMALL_H):
            raise NotSupportedError
        module = nn.GRU(inputs, hidden, layers, bidirectional=bidirectional, dtype=DTYPES[dtype])
        self.descriptors[rnn] = SimpleNamespace(module=module, algorithm=algorithm, built_for=None)

    def _BuildRNNDynamic(self, handle: int, rnn: int, batch: int) -> None:
        self.descriptors[rnn].built_for = batch

    def _GetRNNWeightSpaceSize(self, handle: int, rnn: int, size: Any) -> None:
        size[0] = max(end for _, _, end in _places(self.descriptors[rnn].module)) + GAP

    def _GetRNNWeightParams(
        self, handle: int, rnn: int, layer: int, size: int, space: int, linear: int, *found: Any
    ) -> None:
        module = self.descriptors[rnn].module
        names = [name for name, _ in module.named_parameters()][4 * layer :][:4]
        starts = {place: start for place, start, _ in _places(module)}
        for is_bias, address in enumerate(found[1::2]):
            if address:
                address[0] = space + starts[names[linear // 3 + 2 * is_bias], linear % 3]

    def _GetRNNTempSpaceSizes(self, handle: int, rnn: int, mode: int, x: int, work: Any, kept: Any) -> None:
        """Backward needs x and dy; working memory is of no use here, but has to come."""
        gru, (dtype, shape) = self.descriptors[rnn].module, self.descriptors[x]
        directions = 2 if gru.bidirectional else 1
        numbers = math.prod(shape) + math.prod(shape[:2]) * directions * gru.hidden_size
        work[0], kept[0] = WORK, numbers * dtype.itemsize if mode == Constant.FWD_MODE_TRAINING else 0

    def _RNNForward(self, handle: int, rnn: int, mode: int, lengths: None, *rest: Any) -> None:
        of_x, x, of_y, y, of_h, hx, hy, of_c, cx, cy, *spaces = rest
        assert (hx, hy, of_c, cx, cy) == (None,) * 5
        call = self._call(rnn, mode, lengths, of_x, of_y, of_h, spaces)
        x_in = _tensor(x, *call.of_x)
        _tensor(y, *call.of_y).copy_(call.module(x_in)[0])
        if mode == Constant.FWD_MODE_TRAINING:
            call.kept_x.copy_(x_in)

    def _RNNBackwardData(self, handle: int, rnn: int, lengths: None, *rest: Any) -> None:
        of_y, y, dy, of_x, dx, of_h, hx, dhy, dhx, of_c, cx, dcy, dcx, *spaces = rest
        assert (hx, dhy, dhx, of_c, cx, dcy, dcx) == (None,) * 7
        call = self._call(rnn, Constant.FWD_MODE_TRAINING, lengths, of_x, of_y, of_h, spaces)
        leaf = call.kept_x.clone().requires_grad_()
        with torch.enable_grad():
            expected = call.module(leaf)[0]
        assert torch.equal(_tensor(y, *call.of_y), expected)
        call.kept_dy.copy_(_tensor(dy, *call.of_y))
        _tensor(dx, *call.of_x).copy_(torch.autograd.grad(expected, leaf, call.kept_dy)[0])

    def _RNNBackwardWeights(self, handle: int, rnn: int, mode: int, lengths: None, *rest: Any) -> None:
        """Adds to what is there."""
        of_x, x, of_h, hx, of_y, _, *spaces = rest
        assert (mode, hx) == (Constant.WGRAD_MODE_ADD, None)
        call = self._call(rnn, Constant.FWD_MODE_TRAINING, lengths, of_x, of_y, of_h, spaces, weights=False)
        assert torch.equal(_tensor(x, *call.of_x), call.kept_x)
        module = self.descriptors[rnn].module  # has the weights of the last forward
        with torch.enable_grad():
            wanted = torch.autograd.grad(module(call.kept_x)[0], list(module.parameters()), call.kept_dy)
        names = [name for name, _ in module.named_parameters()]
        gradients = dict(zip(names, wanted, strict=True))
        for (name, gate), start, _ in _places(module):
            gradient = gradients[name].chunk(3)[gate]
            _tensor(spaces[1] + start, gradient.dtype, gradient.shape).add_(gradient)

    def _call(
        self, rnn: int, mode: int, lengths: None, x: int, y: int, h: int, spaces: list[int], weights: bool = True
    ) -> Any:
        """The module, with the weights of the space unless that has gradients, and what is kept; all are checked."""
        gru, module = self.descriptors[rnn], self.descriptors[rnn].module
        dtype, (steps, batch, width) = self.descriptors[x]
        directions = 2 if module.bidirectional else 1
        of_y = (dtype, (steps, batch, directions * module.hidden_size))
        states = (directions * module.num_layers, batch, module.hidden_size)
        assert dtype == module.weight_hh_l0.dtype
        assert width == module.input_size
        assert self.descriptors[y] == of_y
        assert self.descriptors[h] == (dtype, list(states), [batch * states[2], states[2], 1])
        assert lengths is None
        if gru.algorithm == Algorithm.PERSIST_DYNAMIC:
            assert gru.built_for == batch
        sizes = [ctypes.c_size_t() for _ in range(3)]
        self._GetRNNWeightSpaceSize(0, rnn, ctypes.pointer(sizes[0]))
        self._GetRNNTempSpaceSizes(0, rnn, mode, x, *map(ctypes.pointer, sizes[1:]))
        assert spaces[::2] == [size.value for size in sizes]
        space, kept = spaces[1], spaces[5]
        if weights:
            for (name, gate), start, _ in _places(module):
                own = dict(module.named_parameters())[name].detach().chunk(3)[gate]
                own.copy_(_tensor(space + start, own.dtype, own.shape))
        found = SimpleNamespace(module=module, of_x=(dtype, (steps, batch, width)), of_y=of_y)
        if mode == Constant.FWD_MODE_TRAINING:
            found.kept_x = _tensor(kept, *found.of_x)
            found.kept_dy = _tensor(kept + found.kept_x.numel() * dtype.itemsize, *of_y)
        return found


def _places(module: nn.GRU) -> Iterator[tuple[tuple[str, int], int, int]]:
    """(weight, gate), first byte and end of each in a space of weights: from the last to the first."""
    start = GAP
    for name, parameter in reversed(list(module.named_parameters())):
        for gate in (2, 0, 1):
            end = start + parameter.numel() // 3 * parameter.element_size()
            yield (name, gate), start, end
            start = (end // GAP + 1) * GAP


def _tensor(address: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor at an address."""
    memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
