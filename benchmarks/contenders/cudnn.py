"""cuDNN's algorithms for a GRU, called through its own API. ``nn.GRU`` uses only two of the four.

The descriptor is that of ``nn.GRU``; no state and no gradient of one is passed. All buffers are made beforehand, and no
autograd is between the calls: it is the best that cuDNN can do.
"""

from __future__ import annotations

import math
from ctypes import Array, c_int, c_void_p
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.contenders.base import Contender, Problem, Step
from benchmarks.contenders.cudnn_library import DATA_TYPES, Algorithm, Constant, Library, load
from benchmarks.switches import allows_tf32

GATES = 3


class Cudnn(Contender):
    """``cudnnRNNForward``, ``cudnnRNNBackwardData_v8`` and ``cudnnRNNBackwardWeights_v8`` by one algorithm.

    In bfloat16 cuDNN accepts every algorithm and runs the standard one: cuDNN 9.28 has no persistent kernels for it.
    """

    algorithm: ClassVar[Algorithm]
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float16)
    load: ClassVar[staticmethod[[], Library]] = staticmethod(load)
    distribution = "torch"
    modules = ("torch",)

    @classmethod
    def absent(cls) -> str | None:
        """It needs a GPU."""
        return None if torch.cuda.is_available() else "needs a CUDA device"

    @classmethod
    def version(cls) -> str:
        """That of the cuDNN that torch has loaded."""
        return str(torch.backends.cudnn.version())

    @classmethod
    def refuses(cls, problem: Problem) -> str | None:
        """A CPU, dtypes that the algorithm lacks, the backward pass alone. What else cuDNN refuses, it says itself."""
        if problem.device.type != "cuda":
            return "runs on CUDA only"
        if problem.device.index not in (None, torch.cuda.current_device()):
            return "runs on the current CUDA device only"
        if problem.dtype not in cls.dtypes:
            return f"has no {str(problem.dtype).removeprefix('torch.')}"
        return "its backward overwrites what its forward keeps" if problem.kind == "backward" else None

    def __init__(self, problem: Problem) -> None:
        """Take over the weights of the problem.

        Raises:
            OSError: there is no cuDNN.
            CudnnError: it does not have such a GRU.
        """
        self.cudnn = self.load()
        self.like, self.size, self.kind = problem.like, problem.size, problem.kind
        self.type = DATA_TYPES[problem.dtype]
        self.dropout = self.cudnn.descriptor("Dropout")  # which it wants even where nothing is dropped
        self.cudnn.call("cudnnSetDropoutDescriptor", self.dropout, self.cudnn.handle, 0.0, None, 0, 0)
        self.rnn = self._rnn()
        if self.algorithm == Algorithm.PERSIST_DYNAMIC:
            self.cudnn.call("cudnnBuildRNNDynamic", self.cudnn.handle, self.rnn, self.size.B)
        (size,) = self.cudnn.sizes("cudnnGetRNNWeightSpaceSize", self.cudnn.handle, self.rnn)
        self.space = self.memory(size)
        self.buffers: dict[torch.Size, _Buffers] = {}  # by the shape of x
        for name, gates in self._gates(self.space).items():
            for ours, theirs in zip(gates, problem.weights[name].chunk(GATES), strict=True):
                ours.copy_(theirs)

    def weights(self) -> dict[str, Tensor]:  # noqa: D102
        return {name: torch.cat(gates).float() for name, gates in self._gates(self.space).items()}

    def step(self, x: Tensor, dy: Tensor) -> Step:  # noqa: D102
        if x.shape not in self.buffers:
            self.buffers[x.shape] = _Buffers(self, x)
        call = _Call(self, self.buffers[x.shape], x.contiguous(), dy.contiguous())
        return call.forward if self.kind == "forward" else call.train

    def results(self, returned: Any) -> dict[str, Tensor]:  # noqa: D102
        if self.kind == "forward":
            return {"y": returned}
        dx, d_space = returned
        return {"dx": dx, **{f"d{name}": torch.cat(gates) for name, gates in self._gates(d_space).items()}}

    def memory(self, size: int) -> Tensor:
        """So many bytes."""
        return torch.empty(size, dtype=torch.uint8, device=self.like.device)

    def _rnn(self) -> c_void_p:
        """The descriptor of the GRU."""
        size, dtype = self.size, self.like.dtype
        precision = Constant.DATA_DOUBLE if dtype == torch.float64 else Constant.DATA_FLOAT
        products = Constant.DEFAULT_MATH if allows_tf32() else Constant.FMA_MATH
        if dtype == torch.float16:
            products = Constant.TENSOR_OP_MATH
        rnn = self.cudnn.descriptor("RNN")
        self.cudnn.call(
            "cudnnSetRNNDescriptor_v8",
            *(rnn, self.algorithm, Constant.GRU, Constant.RNN_DOUBLE_BIAS),
            Constant.BIDIRECTIONAL if size.D > 1 else Constant.UNIDIRECTIONAL,
            *(Constant.LINEAR_INPUT, self.type, precision, products),
            *(size.inputs, size.H, size.H, size.L, self.dropout, Constant.RNN_PADDED_IO_ENABLED),
        )
        return rnn

    def _gates(self, space: Tensor) -> dict[str, list[Tensor]]:
        """By ``nn.GRU``'s names, gates r, z and n of each weight as they lie in a space of weights or gradients."""
        size, found = self.size, {}
        for place in range(size.L * size.D):
            layer, reverse = place // size.D, "_reverse" if place % size.D else ""
            columns = {"ih": size.inputs if layer == 0 else size.D * size.H, "hh": size.H}
            for kind in ("weight", "bias"):
                for number, (of, width) in enumerate(columns.items()):
                    shape = (size.H, width) if kind == "weight" else (size.H,)
                    found[f"{kind}_{of}_l{layer}{reverse}"] = [
                        self._gate(space, place, number * GATES + gate, shape) for gate in range(GATES)
                    ]
        return found

    def _gate(self, space: Tensor, place: int, number: int, shape: tuple[int, ...]) -> Tensor:
        """A matrix or bias: of r, z and n by the input, then of r, z and n by the state."""
        address, descriptor = c_void_p(), self.cudnn.descriptor("Tensor")
        wanted, other = (descriptor, address), (None, None)
        self.cudnn.call(
            "cudnnGetRNNWeightParams",
            *(self.cudnn.handle, self.rnn, place, space.numel(), space.data_ptr(), number),
            *((*wanted, *other) if len(shape) > 1 else (*other, *wanted)),
        )
        assert address.value is not None
        start, count = address.value - space.data_ptr(), math.prod(shape)
        return space[start : start + count * self.like.element_size()].view(self.like.dtype).view(shape)


class _Buffers:
    """What calls for inputs of one shape write, and the descriptors of it. All calls use the same."""

    def __init__(self, gru: Cudnn, x: Tensor) -> None:
        steps, batch, _ = x.shape
        hidden, layers, directions = gru.size.H, gru.size.L, gru.size.D
        cudnn, trains = gru.cudnn, gru.kind != "forward"
        self.mode = Constant.FWD_MODE_TRAINING if trains else Constant.FWD_MODE_INFERENCE
        self.y = x.new_empty(steps, batch, directions * hidden)
        self.dx = torch.empty_like(x) if trains else x
        self.d_space = torch.empty_like(gru.space) if trains else gru.space
        self.of_x, self.of_y = self._sequence(gru, x), self._sequence(gru, self.y)
        self.of_h = cudnn.descriptor("Tensor")
        shape = (layers * directions, batch, hidden)
        cudnn.call(
            "cudnnSetTensorNdDescriptor",
            *(self.of_h, gru.type, len(shape), _ints(*shape), _ints(batch * hidden, hidden, 1)),
        )
        sizes = cudnn.sizes("cudnnGetRNNTempSpaceSizes", cudnn.handle, gru.rnn, self.mode, self.of_x)
        self.work, self.kept = map(gru.memory, sizes)

    def spaces(self, space: Tensor) -> tuple[int, ...]:
        """Bytes and address of weights or their gradients, of working memory, and of what backward needs."""
        return tuple(number for t in (space, self.work, self.kept) for number in (t.numel(), t.data_ptr()))

    @staticmethod
    def _sequence(gru: Cudnn, tensor: Tensor) -> c_void_p:
        """The descriptor of x or y, all sequences of which have all steps."""
        steps, batch, width = tensor.shape
        result = gru.cudnn.descriptor("RNNData")
        layout, padding = Constant.RNN_DATA_LAYOUT_SEQ_MAJOR_UNPACKED, None
        gru.cudnn.call(
            "cudnnSetRNNDataDescriptor",
            *(result, gru.type, layout, steps, batch, width, _ints(*[steps] * batch), padding),
        )
        return result


class _Call:
    """The calls for one input x (T, B, I) and gradient dy (T, B, D*H); their arguments are put together once."""

    def __init__(self, gru: Cudnn, buffers: _Buffers, x: Tensor, dy: Tensor) -> None:
        self.cudnn, self.buffers = gru.cudnn, buffers
        self.tensors = (gru, x, dy)  # which have to stay
        begin, lengths = (gru.cudnn.handle, gru.rnn), None  # all sequences have all steps
        of_x, of_y, of_h, y = buffers.of_x, buffers.of_y, buffers.of_h, buffers.y.data_ptr()
        self.of_forward = (
            *(*begin, buffers.mode, lengths, of_x, x.data_ptr(), of_y, y),
            *(of_h, None, None, None, None, None),  # h, and an LSTM's c, before and after
            *buffers.spaces(gru.space),
        )
        self.of_data = (
            *(*begin, lengths, of_y, y, dy.data_ptr(), of_x, buffers.dx.data_ptr()),
            *(of_h, None, None, None, None, None, None, None),  # h, and an LSTM's c, and their gradients
            *buffers.spaces(gru.space),
        )
        self.of_weights = (
            *(*begin, Constant.WGRAD_MODE_ADD, lengths, of_x, x.data_ptr(), of_h, None, of_y, y),
            *buffers.spaces(buffers.d_space),
        )

    def forward(self) -> Tensor:
        """Return y (T, B, D*H)."""
        self.cudnn.call("cudnnRNNForward", *self.of_forward)
        return self.buffers.y

    def train(self) -> tuple[Tensor, Tensor]:
        """Return dx (T, B, I), and the gradients of the weights as the weights lie."""
        self.cudnn.call("cudnnRNNForward", *self.of_forward)
        self.cudnn.call("cudnnRNNBackwardData_v8", *self.of_data)
        self.buffers.d_space.zero_()
        self.cudnn.call("cudnnRNNBackwardWeights_v8", *self.of_weights)
        return self.buffers.dx, self.buffers.d_space


def _ints(*values: int) -> Array[c_int]:
    return (c_int * len(values))(*values)


class CudnnStandard(Cudnn):
    """A product and element-wise kernels a step."""

    name = "cudnn_standard"
    algorithm = Algorithm.STANDARD
    dtypes = tuple(DATA_TYPES)
    configuration = "cuDNN's API, CUDNN_RNN_ALGO_STANDARD"


class CudnnStatic(Cudnn):
    """One kernel for all steps."""

    name = "cudnn_static"
    algorithm = Algorithm.PERSIST_STATIC
    configuration = "cuDNN's API, CUDNN_RNN_ALGO_PERSIST_STATIC"


class CudnnDynamic(Cudnn):
    """One kernel for all steps, which is compiled for the sizes beforehand."""

    name = "cudnn_dynamic"
    algorithm = Algorithm.PERSIST_DYNAMIC
    dtypes = (*Cudnn.dtypes, torch.float64)
    configuration = "cuDNN's API, CUDNN_RNN_ALGO_PERSIST_DYNAMIC"


class CudnnSmallH(Cudnn):
    """One kernel for all steps, which keeps the weights in registers."""

    name = "cudnn_small_h"
    algorithm = Algorithm.PERSIST_STATIC_SMALL_H
    configuration = "cuDNN's API, CUDNN_RNN_ALGO_PERSIST_STATIC_SMALL_H"
