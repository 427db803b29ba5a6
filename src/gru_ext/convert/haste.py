"""From and to haste (https://github.com/lmnt-com/haste), ``haste_pytorch.GRU``.

haste stores, for its one layer and direction, ``kernel`` (I, 3H), ``recurrent_kernel`` (H, 3H), ``bias`` (3H) and
``recurrent_bias`` (3H), gates in the order z, r, g, and computes (lib/gru_forward_gpu.cu.cc of its source)

    z  = sigmoid(W_z x + R_z h + b_z + c_z)        b = bias, c = recurrent_bias
    r  = sigmoid(W_r x + R_r h + b_r + c_r)
    g  = tanh(W_g x + r * (R_g h + c_g) + b_g)
    h' = z * h + (1 - z) * g

which is the recurrence of ``torch.nn.GRU``. Its ``LayerNormGRU`` has ``gamma`` (2, 3H) too and normalises W x and R h,
all three gates together (frameworks/pytorch/layer_norm_gru.py), which is ``layer_norm="joint"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gru_ext.convert.directions import (
    Direction,
    as_tensor,
    check_array,
    check_layers,
    layers_of,
    make_gru,
    swap_r_and_z,
)
from gru_ext.modules import GRU
from gru_ext.recurrence import check_flag

_NAMES = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")
_NORM_NAMES = (*_NAMES, "gamma")


def from_haste(weights: Mapping[str, Any], *, batch_first: bool = False) -> GRU:
    """The GRU with the weights of a ``haste_pytorch.GRU``, or of a ``haste_pytorch.LayerNormGRU``: those with a gamma.

    haste's ``zoneout`` and its ``dropout`` of the recurrent weights are not in its weights, nor in what is returned;
    with ``zoneout``, haste differs in inference too.

    Args:
        weights: its ``state_dict()``, or arrays of these names: ``kernel`` (I, 3H), ``recurrent_kernel`` (H, 3H),
            ``bias`` (3H), ``recurrent_bias`` (3H) and, of a LayerNormGRU, ``gamma`` (2, 3H); float32, float64, bfloat16
            or float16, all of one dtype. Copied.
        batch_first: whether input and output of the GRU are (B, T, ...) instead of (T, B, ...). Default False.

    Returns:
        A ``GRU`` of one layer and direction; with a gamma, of ``layer_norm="joint"``.

    Raises:
        TypeError: ``weights`` is no mapping, or ``batch_first`` no bool.
        ValueError: a name, a shape or a dtype is not as listed above.

    Example:
        >>> weights = {"kernel": torch.randn(3, 12), "recurrent_kernel": torch.randn(4, 12)}
        >>> weights |= {"bias": torch.zeros(12), "recurrent_bias": torch.zeros(12)}
        >>> gru_ext.convert.from_haste(weights)
        GRU(3, 4)
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"from_haste: expected weights of type Mapping, got {type(weights).__name__}")
    batch_first = check_flag("from_haste", "batch_first", batch_first)
    if set(weights) not in (set(_NAMES), set(_NORM_NAMES)):
        raise ValueError(
            f"from_haste: expected weights with the names {', '.join(_NAMES)} and, of a LayerNormGRU, gamma, got"
            f" {', '.join(map(str, weights)) or 'none'}"
        )
    kernel, recurrent, bias, recurrent_bias = (as_tensor("from_haste", name, weights[name]) for name in _NAMES)
    hidden = recurrent.shape[0]
    check_array("from_haste", "recurrent_kernel", recurrent, "(H, 3H)", (hidden, 3 * hidden))
    check_array("from_haste", "kernel", kernel, "(I, 3H)", (kernel.shape[0], 3 * hidden))
    for name, tensor in (("bias", bias), ("recurrent_bias", recurrent_bias)):
        check_array("from_haste", name, tensor, "(3H)", (3 * hidden,))
    tensors = [kernel.t(), recurrent.t(), bias, recurrent_bias]
    if "gamma" in weights:
        gamma = as_tensor("from_haste", "gamma", weights["gamma"])
        check_array("from_haste", "gamma", gamma, "(2, 3H)", (2, 3 * hidden))
        tensors += [gamma[0], gamma[1]]
    layers = [[Direction(*map(swap_r_and_z, tensors))]]
    check_layers("from_haste", layers)
    return make_gru(layers, batch_first=batch_first, layer_norm="joint" if "gamma" in weights else False)


def to_haste(gru: GRU | nn.GRU) -> dict[str, Tensor]:
    """The weights of a GRU as ``haste_pytorch.GRU.load_state_dict`` takes them; copies. See ``from_haste``.

    Those of a GRU with ``layer_norm="joint"`` are for ``haste_pytorch.LayerNormGRU``. A GRU without biases gets biases
    of zero.

    Args:
        gru: of one layer and direction.

    Returns:
        Tensors by haste's names: ``kernel``, ``recurrent_kernel``, ``bias``, ``recurrent_bias`` and, with
        ``layer_norm``, ``gamma``.

    Raises:
        TypeError: ``gru`` is not a GRU with plain parameters.
        ValueError: it has several layers, both directions, ``reset_after=False``, ``layer_norm=True``, ``blocks`` or
            ``zoneout``.

    Example:
        >>> {name: tuple(tensor.shape) for name, tensor in gru_ext.convert.to_haste(gru_ext.GRU(3, 4)).items()}
        {'kernel': (3, 12), 'recurrent_kernel': (4, 12), 'bias': (12,), 'recurrent_bias': (12,)}
    """
    layers = layers_of("to_haste", gru, converted=("layer_norm",))
    if isinstance(gru, GRU) and not gru.reset_after:
        raise ValueError("to_haste: expected gru with reset_after=True, as haste's is, got reset_after=False")
    if isinstance(gru, GRU) and gru.layer_norm is True:
        raise ValueError('to_haste: expected gru with layer_norm="joint", as haste\'s is, or False, got True')
    if len(layers) > 1 or len(layers[0]) > 1:
        raise ValueError(
            f"to_haste: expected gru of one layer and one direction, got L = {len(layers)}, D = {len(layers[0])}"
        )
    ((weight_ih, weight_hh, bias_ih, bias_hh, *gains),) = layers[0]
    zeros = weight_hh.new_zeros(weight_hh.shape[0])
    biases = [zeros if bias is None else swap_r_and_z(bias) for bias in (bias_ih, bias_hh)]
    kernels = [swap_r_and_z(weight).t().contiguous() for weight in (weight_ih, weight_hh)]
    gamma = [swap_r_and_z(gain) for gain in gains if gain is not None]
    return dict(zip(_NORM_NAMES, [*kernels, *biases, *([torch.stack(gamma)] if gamma else [])], strict=False))
