"""Our own time in parts: the operators of one layer, called with more and more of what they can be asked for.

The difference between neighbours is the time of a part. Packing the weights is in every forward.
"""

from __future__ import annotations

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


def steps(module: nn.GRU, x: Tensor, dy: Tensor) -> dict[str, Step]:
    """What is timed for each part, cumulative along ``PARTS``; for one layer, x (T, B, I) and dy (T, B, H)."""
    ops = torch.ops.gru_ext
    weights = [weight.detach() for weight in module.parameters()]
    # With one unit of input there is hardly an input product.
    x_1, weights_1 = x[..., :1].contiguous(), [weights[0][:, :1].contiguous(), *weights[1:]]
    y, _, gates = ops.gru_fwd(x, None, weights, None, False, True)

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
    }


def parts(cumulative: dict[str, float]) -> dict[str, float]:
    """Seconds of each part from the cumulative medians; a difference lost in the noise is 0."""
    return {
        name: cumulative[name] if before is None else max(0.0, cumulative[name] - cumulative[before])
        for name, before in PARTS.items()
    }
