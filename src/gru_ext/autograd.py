"""One layer, and which derivative it has: the C++ node's, ``torch.func``'s, or that of forward mode.

Plain autograd uses the C++ node of ``gru_ext::gru`` (csrc/op/autograd.cpp). A transform of ``torch.func`` refuses it:
then it is ``GRUFunction`` (transforms.py). Both call the operators ``gru_fwd`` and ``gru_bwd``, so that the derivative
exists once for each backend. Forward mode goes through the plain PyTorch of ``reference``, as do all derivatives of
``gru_bwd`` (double_backward.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gru_ext import library as library  # registers the operators
from gru_ext import reference
from gru_ext.layout import Outputs
from gru_ext.torch_internals import in_forward_mode, transforms_are_active
from gru_ext.transforms import GRUFunction
from gru_ext.variant import PLAIN, Variant

gru_operator: Callable[..., tuple[Tensor, Tensor]] = torch.ops.gru_ext.gru.default  # differentiable


def gru_layer(
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    variant: Variant = PLAIN,
    save_y: bool = True,
    save_gates: bool = True,
) -> Outputs:
    """One layer, differentiable in every mode. Arguments and results as ``reference.gru``.

    Without ``save_y`` the caller does without y: it may be of shape (0). Without ``save_gates`` the backward computes
    the gates again.
    """
    if in_forward_mode():
        return reference.gru(x, hx, weights, batch_sizes, bidirectional, variant)
    if transforms_are_active():
        y, h_n, _ = GRUFunction.apply(x, hx, batch_sizes, bidirectional, save_gates, *variant, *weights)
        return y, h_n
    if variant is PLAIN and save_y and save_gates:  # their defaults: to pass each takes a tenth of a microsecond
        plain: Outputs = gru_operator(x, hx, weights, batch_sizes, bidirectional)
        return plain
    outputs: Outputs = gru_operator(x, hx, weights, batch_sizes, bidirectional, save_y, save_gates, *variant)
    return outputs
