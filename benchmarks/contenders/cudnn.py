"""cuDNN's algorithms of a GRU, called through its own API: ``nn.GRU`` chooses among two of the four by itself.

What is passed is what ``nn.GRU`` passes, all buffers are made beforehand, and no autograd is between the calls: it is
the best that cuDNN can do.
"""

from __future__ import annotations

import math
from ctypes import Array, c_int, c_void_p
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.contenders.base import Contender, Problem, Step
from benchmarks.contenders.cudnn_library import DATA_TYPES, Algorithm, Constant, Library, load
from benchmarks.switches import allows_tf32

GATES = 3
NO_C = (None,) * 4  # the arguments of an LSTM's cell state


class Cudnn(Contender):
    """``cudnnRNNForward``, ``cudnnRNNBackwardData_v8`` and ``cudnnRNNBackwardWeights_v8`` by one algorithm."""

    algorithm: ClassVar[Algorithm]
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
        """A CPU, and the backward pass alone; what else cuDNN refuses it says itself."""
        if problem.device.type != "cuda":
            return "runs on CUDA only"
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
        self.space = self.zeros(size)
        for name, gates in self._gates(self.space).items():
            for ours, theirs in zip(gates, problem.weights[name].chunk(GATES), strict=True):
                ours.copy_(theirs)

    def weights(self) -> dict[str, Tensor]:  # noqa: D102
        return {name: torch.cat(gates).float() for name, gates in self._gates(self.space).items()}

    def step(self, x: Tensor, dy: Tensor) -> Step:  # noqa: D102
        call = _Call(self, x.contiguous())
        return call.forward if self.kind == "forward" else partial(call.train, dy.contiguous())

    def results(self, returned: Any) -> dict[str, Tensor]:  # noqa: D102
        if self.kind == "forward":
            return {"y": returned}
        dx, d_space = returned
        return {"dx": dx, **{f"d{name}": torch.cat(gates) for name, gates in self._gates(d_space).items()}}

    def zeros(self, size: int) -> Tensor:
        """So many bytes."""
        return torch.zeros(size, dtype=torch.uint8, device=self.like.device)

    def _rnn(self) -> c_void_p:
        """The descriptor of the GRU."""
        size, precision, products = self.size, Constant.DATA_FLOAT, Constant.TENSOR_OP_MATH
        if self.like.dtype == torch.float64:
            precision, products = Constant.DATA_DOUBLE, Constant.DEFAULT_MATH
        elif self.like.dtype == torch.float32:
            products = Constant.DEFAULT_MATH if allows_tf32() else Constant.FMA_MATH
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
        matrix, bias = c_void_p(), c_void_p()
        self.cudnn.call(
            "cudnnGetRNNWeightParams",
            *(self.cudnn.handle, self.rnn, place, space.numel(), space.data_ptr(), number),
            *(self.cudnn.descriptor("Tensor"), matrix, self.cudnn.descriptor("Tensor"), bias),
        )
        address = (matrix if len(shape) > 1 else bias).value or 0
        start, count = address - space.data_ptr(), math.prod(shape)
        return space[start : start + count * self.like.element_size()].view(self.like.dtype).view(shape)


class _Call:
    """A call for one input (T, B, I), and the buffers of it."""

    def __init__(self, gru: Cudnn, x: Tensor) -> None:
        self.gru, self.x = gru, x
        steps, batch, _ = x.shape
        hidden, layers, directions = gru.size.H, gru.size.L, gru.size.D
        self.mode = Constant.FWD_MODE_INFERENCE if gru.kind == "forward" else Constant.FWD_MODE_TRAINING
        self.y = x.new_empty(steps, batch, directions * hidden)
        self.dx, self.d_space = torch.empty_like(x), torch.empty_like(gru.space)
        self.of_x, self.of_y = self._sequence(x), self._sequence(self.y)
        self.of_h = gru.cudnn.descriptor("Tensor")
        shape = (layers * directions, batch, hidden)
        gru.cudnn.call(
            "cudnnSetTensorNdDescriptor",
            *(self.of_h, gru.type, len(shape), _ints(*shape), _ints(batch * hidden, hidden, 1)),
        )
        self.lengths = torch.full((batch,), steps, dtype=torch.int32, device=x.device)
        work, kept = gru.cudnn.sizes("cudnnGetRNNTempSpaceSizes", gru.cudnn.handle, gru.rnn, self.mode, self.of_x)
        self.work, self.kept = gru.zeros(work), gru.zeros(kept)

    def forward(self) -> Tensor:
        """Return y (T, B, D*H)."""
        self.gru.cudnn.call(
            "cudnnRNNForward",
            *(self.gru.cudnn.handle, self.gru.rnn, self.mode, self.lengths.data_ptr()),
            *(self.of_x, self.x.data_ptr(), self.of_y, self.y.data_ptr()),
            *(self.of_h, None, None, *NO_C[:3]),
            *self._spaces(self.gru.space),
        )
        return self.y

    def train(self, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Return dx (T, B, I), and the gradients of the weights as the weights lie."""
        self.forward()
        self.gru.cudnn.call(
            "cudnnRNNBackwardData_v8",
            *(self.gru.cudnn.handle, self.gru.rnn, self.lengths.data_ptr()),
            *(self.of_y, self.y.data_ptr(), dy.data_ptr(), self.of_x, self.dx.data_ptr()),
            *(self.of_h, None, None, None, *NO_C),
            *self._spaces(self.gru.space),
        )
        self.d_space.zero_()
        self.gru.cudnn.call(
            "cudnnRNNBackwardWeights_v8",
            *(self.gru.cudnn.handle, self.gru.rnn, Constant.WGRAD_MODE_ADD, self.lengths.data_ptr()),
            *(self.of_x, self.x.data_ptr(), self.of_h, None, self.of_y, self.y.data_ptr()),
            *self._spaces(self.d_space),
        )
        return self.dx, self.d_space

    def _sequence(self, tensor: Tensor) -> c_void_p:
        """The descriptor of x or y, all sequences of which have all steps."""
        steps, batch, width = tensor.shape
        result = self.gru.cudnn.descriptor("RNNData")
        layout, padding = Constant.RNN_DATA_LAYOUT_SEQ_MAJOR_UNPACKED, None
        self.gru.cudnn.call(
            "cudnnSetRNNDataDescriptor",
            *(result, self.gru.type, layout, steps, batch, width, _ints(*[steps] * batch), padding),
        )
        return result

    def _spaces(self, space: Tensor) -> tuple[int, ...]:
        """Bytes and address of weights or their gradients, of working memory, and of what backward needs."""
        return tuple(number for t in (space, self.work, self.kept) for number in (t.numel(), t.data_ptr()))


def _ints(*values: int) -> Array[c_int]:
    return (c_int * len(values))(*values)


class CudnnStandard(Cudnn):
    """A product and element-wise kernels a step."""

    name = "cudnn_standard"
    algorithm = Algorithm.STANDARD
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
    configuration = "cuDNN's API, CUDNN_RNN_ALGO_PERSIST_DYNAMIC"


class CudnnSmallH(Cudnn):
    """One kernel for all steps, which keeps the weights in registers."""

    name = "cudnn_small_h"
    algorithm = Algorithm.PERSIST_STATIC_SMALL_H
    configuration = "cuDNN's API, CUDNN_RNN_ALGO_PERSIST_STATIC_SMALL_H"
