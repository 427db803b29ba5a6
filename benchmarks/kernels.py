"""Our own time in parts: the operators of one layer, called with more and more of what they can be asked for.

The difference between neighbours is the time of a part. Packing the weights is in every forward and backward; what it
costs forward is found from two calls on parts of the sequence, which pack once each, against one on both parts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.contenders import Step

# Each part, and the one that it is measured against (None: it stands alone).
PARTS: dict[str, str | None] = {
    "recurrence": None,
    "input product": "recurrence",
    "saved gates": "input product",
    "backward recurrence": None,
    "weight gradients": "backward recurrence",
    "dx": "weight gradients",
}
SHORT, TWICE = "short", "twice as long"  # of forward, without saving gates
PACKING = "of forward: packing, call"
# Calls of fewer rows than this fraction of (I + H) need not pack: docs/cpu.md.
PACKED_ROWS = 0.1


def steps(module: nn.GRU, x: Tensor, dy: Tensor) -> dict[str, Step]:
    """What is timed for each part, cumulative along ``PARTS``; for one layer, x (T, B, I) and dy (T, B, H)."""
    ops = torch.ops.gru_ext
    weights = [weight.detach() for weight in module.parameters()]
    # With one unit of input there is hardly an input product.
    x_1, weights_1 = x[..., :1].contiguous(), [weights[0][:, :1].contiguous(), *weights[1:]]
    y, _, gates = ops.gru_fwd(x, None, weights, None, False, True)
    steps = min(len(x), math.ceil(PACKED_ROWS * (x.shape[2] + dy.shape[2]) / x.shape[1]))
    short, twice = x[:steps], torch.cat([x[:steps], x[-steps:]])

    def forward(x: Tensor, weights: list[Tensor], save_gates: bool) -> Step:
        return lambda: ops.gru_fwd(x, None, weights, None, False, save_gates)

    def backward(need_dx: bool, need_dweights: bool) -> Step:
        return lambda: ops.gru_bwd(dy, None, x, None, weights, None, False, y, gates, need_dx, True, need_dweights)

    return {
        "recurrence": forward(x_1, weights_1, save_gates=False),
        "input product": forward(x, weights, save_gates=False),
        "saved gates": forward(x, weights, save_gates=True),
        "backward recurrence": backward(need_dx=False, need_dweights=False),
        "weight gradients": backward(need_dx=False, need_dweights=True),
        "dx": backward(need_dx=True, need_dweights=True),
        SHORT: forward(short, weights, save_gates=False),
        TWICE: forward(twice, weights, save_gates=False),
    }


def packing(times: dict[str, float]) -> float | None:
    """Seconds of packing W and R in one forward, and of what else a call does once, from the medians."""
    return max(0.0, 2 * times[SHORT] - times[TWICE]) if SHORT in times else None


def parts(cumulative: dict[str, float]) -> dict[str, float]:
    """Seconds of each part from the cumulative medians; a difference lost in the noise is 0."""
    return {
        name: cumulative[name] if before is None else max(0.0, cumulative[name] - cumulative[before])
        for name, before in PARTS.items()
    }
