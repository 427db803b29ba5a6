"""A GRU as its directions: the form between that of a module and that of another library.

Letters: I input, H hidden, L layers, D directions (1 or 2).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gru_ext.layout import FLOATING, check_tensor
from gru_ext.modules import GRU
from gru_ext.recurrence import OPTIONS, Changes
from gru_ext.sharing import check_type, check_weights, options_of

if TYPE_CHECKING:
    import numpy

_CONVERTED = ("outputs", "reset_after")  # of the options that change results


class Direction(NamedTuple):
    """The weights of one direction of one layer, gates in the order r, z, n."""

    weight_ih: Tensor  # (3H, I), or (3H, D*H) after the first layer
    weight_hh: Tensor  # (3H, H)
    bias_ih: Tensor | None = None  # (3H); both biases or neither
    bias_hh: Tensor | None = None  # (3H)
    gain_ih: Tensor | None = None  # (3H); both gains with layer_norm, else neither
    gain_hh: Tensor | None = None  # (3H)


def swap_r_and_z(weight: Tensor) -> Tensor:
    """(3H, ...) in the gate order r, z, n to z, r, n, and back."""
    r, z, n = weight.chunk(3)
    return torch.cat([z, r, n])


def layers_of(function: str, gru: GRU | nn.GRU, converted: Collection[str] = ()) -> list[list[Direction]]:
    """The directions of each layer; detached, not copied. ``converted``: the options that the caller takes.

    Raises:
        TypeError: not exactly a ``gru_ext.GRU`` or ``torch.nn.GRU``, or its parameters are not plain ones of its own.
        ValueError: it computes what no other library does, as by ``zoneout``.
    """
    check_type(function, "gru", gru, GRU, nn.GRU)
    for name, value in options_of(gru).items():
        default = OPTIONS[name].default
        changes_results = OPTIONS[name].changes in (Changes.RESULTS, Changes.ROUNDING)
        if changes_results and name not in (*_CONVERTED, *converted) and value != default:
            raise ValueError(f"{function}: expected gru with {name}={default!r}, got {name}={value!r}")
    directions = 2 if gru.bidirectional else 1
    kinds = Direction._fields[: 4 if gru.bias else 2]
    if options_of(gru).get("layer_norm", False) is not False:
        kinds += Direction._fields[4:]
    suffixes = _suffixes(gru.num_layers, directions)
    check_weights(function, gru, [kind + suffix for suffix in suffixes for kind in kinds])
    found = [Direction(**{kind: getattr(gru, kind + suffix).detach() for kind in kinds}) for suffix in suffixes]
    return [found[i : i + directions] for i in range(0, len(found), directions)]


def make_gru(layers: Sequence[Sequence[Direction]], **arguments: Any) -> GRU:
    """The GRU of the directions of each layer, whose shapes fit; ``arguments`` are further ones of ``GRU``."""
    first = layers[0][0]
    bias = first.bias_ih is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dropout with one layer
        gru = GRU(
            first.weight_ih.shape[1],
            first.weight_hh.shape[1],
            len(layers),
            bias=bias,
            bidirectional=len(layers[0]) == 2,
            device="meta",
            dtype=first.weight_ih.dtype,
            **arguments,
        )
    directions = [direction for layer in layers for direction in layer]
    state = {
        kind + suffix: tensor.contiguous()
        for suffix, direction in zip(_suffixes(len(layers), len(layers[0])), directions, strict=True)
        for kind, tensor in direction._asdict().items()
        if tensor is not None
    }
    gru.load_state_dict(state, assign=True)
    return gru


def check_layers(function: str, layers: Sequence[Sequence[Direction]]) -> None:
    """Raise ValueError unless every layer takes what the one before gives, and all have one H, bias and dtype."""
    first = layers[0][0]
    hidden = first.weight_hh.shape[1]
    for i, layer in enumerate(layers):
        inputs = first.weight_ih.shape[1] if i == 0 else len(layers[0]) * hidden
        for direction in layer:
            got = direction.weight_ih.shape[1], direction.weight_hh.shape[1]
            if got != (inputs, hidden):
                raise ValueError(f"{function}: expected layer {i} with (I, H) = {(inputs, hidden)}, got {got}")
            if (direction.bias_ih is None) != (first.bias_ih is None):
                raise ValueError(f"{function}: expected all layers with biases or all without, got both")
    dtypes = {tensor.dtype for layer in layers for direction in layer for tensor in direction if tensor is not None}
    if len(dtypes) > 1:
        raise ValueError(f"{function}: expected weights of one dtype, got {' and '.join(sorted(map(str, dtypes)))}")


def check_array(function: str, name: str, tensor: Tensor, letters: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an array of weights has a shape."""
    if tensor.shape != shape:
        raise ValueError(f"{function}: expected {name} of shape {letters} = {shape}, got {tuple(tensor.shape)}")


def as_tensor(function: str, name: str, array: Any) -> Tensor:
    """A copy of an array of weights (NumPy's, or what converts to one, bfloat16 too; or a tensor)."""
    if isinstance(array, Tensor):
        check_tensor(function, name, array)
        tensor = array.detach().clone()
    else:
        import numpy

        array = numpy.array(array, order="C")
        if array.dtype.name == "bfloat16":  # of the package ml_dtypes; NumPy itself has none
            tensor = torch.from_numpy(array.view(numpy.int16)).view(torch.bfloat16)
        elif array.dtype.kind == "f" and array.dtype.itemsize <= 8:
            tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
        else:
            raise ValueError(f"{function}: expected {name} of a floating dtype, got {array.dtype}")
    if tensor.dtype not in FLOATING:
        raise ValueError(
            f"{function}: expected {name} of dtype float32, float64, bfloat16 or float16, got {tensor.dtype}"
        )
    return tensor


def as_array(tensor: Tensor) -> numpy.ndarray[Any, Any]:
    """A NumPy array of its own; of ml_dtypes' bfloat16 for a bfloat16 tensor.

    Raises:
        ImportError: the tensor is bfloat16, and ml_dtypes is not installed.
    """
    tensor = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("bfloat16 arrays need the package ml_dtypes: pip install ml_dtypes") from error
    array: numpy.ndarray[Any, Any] = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return array


def _suffixes(num_layers: int, directions: int) -> list[str]:
    """Of the names of the parameters of each direction of each layer, in the order of the module."""
    return [f"_l{layer}{suffix}" for layer in range(num_layers) for suffix in ("", "_reverse")[:directions]]
