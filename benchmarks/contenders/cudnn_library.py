"""cuDNN's functions for an RNN, by their names in C: its types, its constants, its errors as exceptions.

They are in the cuDNN that torch has loaded. What each does:
https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-adv-library.html
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from ctypes import POINTER, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p, create_string_buffer
from enum import IntEnum
from functools import cache
from typing import Any

import torch

SONAME = "libcudnn.so.9"
SUCCESS, NOT_SUPPORTED = 0, 3000  # 3000 to 3999 all say that something is not supported
MOST_LETTERS = 500  # of cuDNN's own words about an error


class Algorithm(IntEnum):
    """``cudnnRNNAlgo_t``, without the prefix CUDNN_RNN_ALGO_."""

    STANDARD = 0
    PERSIST_STATIC = 1
    PERSIST_DYNAMIC = 2
    PERSIST_STATIC_SMALL_H = 3


class Constant(IntEnum):
    """Values of cuDNN's other enumerations, without the prefix CUDNN_."""

    DEFAULT_MATH = 0  # TF32 for float
    TENSOR_OP_MATH = 1
    FMA_MATH = 3
    GRU = 3
    RNN_DOUBLE_BIAS = 2
    UNIDIRECTIONAL = 0
    BIDIRECTIONAL = 1
    LINEAR_INPUT = 0
    RNN_PADDED_IO_ENABLED = 1
    RNN_DATA_LAYOUT_SEQ_MAJOR_UNPACKED = 0
    FWD_MODE_INFERENCE = 0
    FWD_MODE_TRAINING = 1
    WGRAD_MODE_ADD = 0
    DATA_FLOAT = 0
    DATA_DOUBLE = 1
    DATA_HALF = 2
    DATA_BFLOAT16 = 9


DATA_TYPES = {
    torch.float32: Constant.DATA_FLOAT,
    torch.float64: Constant.DATA_DOUBLE,
    torch.float16: Constant.DATA_HALF,
    torch.bfloat16: Constant.DATA_BFLOAT16,
}

_HANDLE = _DESCRIPTOR = _ADDRESS = c_void_p
_MADE, _COUNTED = (POINTER(c_void_p),), POINTER(c_size_t)
_SPACES = (c_size_t, _ADDRESS) * 3  # weights, work, and what backward needs
PARAMETERS: dict[str, tuple[Any, ...]] = {
    "cudnnCreate": _MADE,
    "cudnnSetStream": (_HANDLE, c_void_p),
    "cudnnCreateDropoutDescriptor": _MADE,
    "cudnnDestroyDropoutDescriptor": (_DESCRIPTOR,),
    "cudnnSetDropoutDescriptor": (_DESCRIPTOR, _HANDLE, c_float, _ADDRESS, c_size_t, c_ulonglong),
    "cudnnCreateTensorDescriptor": _MADE,
    "cudnnDestroyTensorDescriptor": (_DESCRIPTOR,),
    "cudnnSetTensorNdDescriptor": (_DESCRIPTOR, c_int, c_int, POINTER(c_int), POINTER(c_int)),
    "cudnnCreateRNNDataDescriptor": _MADE,
    "cudnnDestroyRNNDataDescriptor": (_DESCRIPTOR,),
    "cudnnSetRNNDataDescriptor": (_DESCRIPTOR, *(c_int,) * 5, POINTER(c_int), _ADDRESS),
    "cudnnCreateRNNDescriptor": _MADE,
    "cudnnDestroyRNNDescriptor": (_DESCRIPTOR,),
    "cudnnSetRNNDescriptor_v8": (_DESCRIPTOR, *(c_int,) * 12, _DESCRIPTOR, c_uint),
    "cudnnBuildRNNDynamic": (_HANDLE, _DESCRIPTOR, c_int),
    "cudnnGetRNNWeightSpaceSize": (_HANDLE, _DESCRIPTOR, _COUNTED),
    "cudnnGetRNNWeightParams": (
        *(_HANDLE, _DESCRIPTOR, c_int, c_size_t, _ADDRESS, c_int),
        *(_DESCRIPTOR, POINTER(c_void_p)) * 2,
    ),
    "cudnnGetRNNTempSpaceSizes": (_HANDLE, _DESCRIPTOR, c_int, _DESCRIPTOR, _COUNTED, _COUNTED),
    "cudnnRNNForward": (
        *(_HANDLE, _DESCRIPTOR, c_int, _ADDRESS),
        *(_DESCRIPTOR, _ADDRESS) * 2,  # x, y
        *(_DESCRIPTOR, _ADDRESS, _ADDRESS) * 2,  # h and an LSTM's c, before and after
        *_SPACES,
    ),
    "cudnnRNNBackwardData_v8": (
        *(_HANDLE, _DESCRIPTOR, _ADDRESS),
        *(_DESCRIPTOR, _ADDRESS, _ADDRESS),  # y, dy
        *(_DESCRIPTOR, _ADDRESS),  # dx
        *(_DESCRIPTOR, _ADDRESS, _ADDRESS, _ADDRESS) * 2,  # h and an LSTM's c, and their gradients after and before
        *_SPACES,
    ),
    "cudnnRNNBackwardWeights_v8": (
        *(_HANDLE, _DESCRIPTOR, c_int, _ADDRESS),
        *(_DESCRIPTOR, _ADDRESS) * 3,  # x, h, y
        *_SPACES,
    ),
}


class CudnnError(RuntimeError):
    """A function of cuDNN that did not succeed, and how cuDNN calls that."""


class NotSupportedError(CudnnError):
    """cuDNN does not have what it is asked for."""


class Library:
    """cuDNN, and a handle of it on the current device."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions
        self.handle = self.made("cudnnCreate")

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            NotSupportedError: cuDNN does not have that.
            CudnnError: it did not succeed for another reason.
        """
        status = getattr(self._functions, name)(*arguments)
        if status != SUCCESS:
            kind = NotSupportedError if status // 1000 == NOT_SUPPORTED // 1000 else CudnnError
            words = create_string_buffer(MOST_LETTERS)
            self._functions.cudnnGetLastErrorString(words, MOST_LETTERS)
            of_status = self._functions.cudnnGetErrorString(status).decode()
            raise kind(f"{name}: {of_status} {words.value.decode()}".rstrip())

    def made(self, name: str) -> c_void_p:
        """What a function that makes something made."""
        result = c_void_p()
        self.call(name, result)
        return result

    def sizes(self, name: str, *arguments: Any) -> list[int]:
        """The sizes in bytes that a function writes to its last arguments."""
        found = [c_size_t() for parameter in PARAMETERS[name] if parameter is _COUNTED]
        self.call(name, *arguments, *found)
        return [size.value for size in found]

    def descriptor(self, kind: str) -> c_void_p:
        """A new descriptor of a kind, destroyed when nobody has it any more."""
        result = self.made(f"cudnnCreate{kind}Descriptor")
        destroy: Callable[..., int] = getattr(self._functions, f"cudnnDestroy{kind}Descriptor")
        weakref.finalize(result, destroy, c_void_p(result.value))
        return result


def functions(path: str) -> ctypes.CDLL:
    """Those of a cuDNN, which know their parameters.

    Raises:
        OSError: it is not there.
    """
    found = ctypes.CDLL(path)
    found.cudnnGetErrorString.restype = ctypes.c_char_p
    found.cudnnGetLastErrorString.argtypes = (ctypes.c_char_p, c_size_t)
    for name, parameters in PARAMETERS.items():
        getattr(found, name).argtypes = parameters
    return found


@cache
def load() -> Library:
    """The cuDNN of this process, on torch's current device and stream.

    Raises:
        OSError: it is not there.
        CudnnError: it has no device to work on.
    """
    library = Library(functions(SONAME))
    library.call("cudnnSetStream", library.handle, torch.cuda.current_stream().cuda_stream)
    return library
