"""What the autograd node itself costs: one training step of a GRU so small that nothing else takes time.

The C++ node of ``gru_ext::gru`` against the Python ``GRUFunction`` that serves under ``torch.func``, and
``torch.nn.GRU``, run alternately; medians in microseconds.

    python benchmarks/autograd_cost.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gru_ext.transforms import GRUFunction

CALLS, BLOCKS = 300, 15


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = nn.GRU(8, 8)
    weights = list(module.parameters())
    x = torch.randn(1, 1, 8, requires_grad=True)
    dy = torch.randn(1, 1, 8)
    layers: dict[str, Callable[[], Tensor]] = {
        "C++ node": lambda: torch.ops.gru_ext.gru(x, None, weights, None, False)[0],
        "Python Function": lambda: GRUFunction.apply(x, None, None, False, *weights)[0],
        "torch.nn.GRU": lambda: module(x)[0],
    }
    times: dict[str, list[float]] = {name: [] for name in layers}
    for block in range(BLOCKS + 1):
        for name, layer in layers.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                torch.autograd.grad(layer(), [x, *weights], dy)
            if block > 0:  # the first is the warm-up
                times[name].append(1e6 * (time.perf_counter() - start) / CALLS)
    for name, values in times.items():
        print(f"{name:16} {statistics.median(values):7.1f} us ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
