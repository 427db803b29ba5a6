"""From and to haste (https://github.com/lmnt-com/haste), ``haste_pytorch.GRU``.

haste stores, for its one layer and direction, ``kernel`` (I, 3H), ``recurrent_kernel`` (H, 3H), ``bias`` (3H) and
``recurrent_bias`` (3H), gates in the order z, r, g, and computes (lib/gru_forward_gpu.cu.cc of its source)

    z  = sigmoid(W_z x + R_z h + b_z + c_z)        b = bias, c = recurrent_bias
    r  = sigmoid(W_r x + R_r h + b_r + c_r)
    g  = tanh(W_g x + r * (R_g h + c_g) + b_g)
    h' = z * h + (1 - z) * g

which is the recurrence of ``torch.nn.GRU``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

_NAMES = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")


def from_haste(weights: Mapping[str, Any], *, batch_first: bool = False) -> GRU:
    """The GRU with the weights of a ``haste_pytorch.GRU``.

    haste's ``zoneout`` and its ``dropout`` of the recurrent weights are not in its weights, nor in what is returned;
    with ``zoneout``, haste differs in inference too.

    Args:
        weights: its ``state_dict()``, or arrays of these names: ``kernel`` (I, 3H), ``recurrent_kernel`` (H, 3H),
            ``bias`` (3H), ``recurrent_bias`` (3H); float32, float64, bfloat16 or float16, all of one dtype. Copied.
        batch_first: as of ``GRU``.

    Raises:
        ValueError: a name, a shape or a dtype is another.
    """
    if set(weights) != set(_NAMES):
        raise ValueError(f"from_haste: expected weights with the names {', '.join(_NAMES)}, got {', '.join(weights)}")
    kernel, recurrent, bias, recurrent_bias = (as_tensor("from_haste", name, weights[name]) for name in _NAMES)
    hidden = recurrent.shape[0]
    check_array("from_haste", "recurrent_kernel", recurrent, "(H, 3H)", (hidden, 3 * hidden))
    check_array("from_haste", "kernel", kernel, "(I, 3H)", (kernel.shape[0], 3 * hidden))
    for name, tensor in (("bias", bias), ("recurrent_bias", recurrent_bias)):
        check_array("from_haste", name, tensor, "(3H)", (3 * hidden,))
    layers = [[Direction(*(swap_r_and_z(t) for t in (kernel.t(), recurrent.t(), bias, recurrent_bias)))]]
    check_layers("from_haste", layers)
    return make_gru(layers, batch_first=batch_first)


def to_haste(gru: GRU | nn.GRU) -> dict[str, Tensor]:
    """The weights of a GRU as ``haste_pytorch.GRU.load_state_dict`` takes them; copies. See ``from_haste``.

    A GRU without biases gets biases of zero.

    Raises:
        TypeError: not a GRU with plain parameters.
        ValueError: it has several layers, both directions or ``reset_after=False``.
    """
    layers = layers_of("to_haste", gru)
    if isinstance(gru, GRU) and not gru.reset_after:
        raise ValueError("to_haste: expected gru with reset_after=True, as haste's is, got reset_after=False")
    if len(layers) > 1 or len(layers[0]) > 1:
        raise ValueError(
            f"to_haste: expected gru of one layer and one direction, got L = {len(layers)}, D = {len(layers[0])}"
        )
    ((weight_ih, weight_hh, bias_ih, bias_hh),) = layers[0]
    zeros = weight_hh.new_zeros(weight_hh.shape[0])
    biases = [zeros if bias is None else swap_r_and_z(bias) for bias in (bias_ih, bias_hh)]
    kernels = [swap_r_and_z(weight).t().contiguous() for weight in (weight_ih, weight_hh)]
    return dict(zip(_NAMES, [*kernels, *biases], strict=True))
