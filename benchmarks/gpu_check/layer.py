"""One layer for the operators: its tensors, both passes, and how a result is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.check import Answer, judge
from benchmarks.contenders import OURS
from benchmarks.gpu_check.journal import FAILED, PASSED
from benchmarks.gpu_check.target import Target, peer_of

RATE = 0.25  # of the dropouts, where there are masks


@dataclass(frozen=True)
class Layer:
    """What the operators are given; as in csrc/op/layer.h: T steps, B rows, H units, I inputs, one direction."""

    x: Tensor  # (T, B, I)
    hx: Tensor  # (1, B, H)
    weights: list[Tensor]  # (3H, I), (3H, H), and two biases (3H)
    masks: dict[str, Any]  # by the names of the operators' arguments

    def to(self, dtype: torch.dtype) -> Layer:
        """The same in another dtype; masks are bool."""
        return Layer(self.x.to(dtype), self.hx.to(dtype), [w.to(dtype) for w in self.weights], self.masks)

    def forward(self, target: Target) -> dict[str, Tensor]:
        """Its results: y (T, B, H), h_n (1, B, H), gates (1, T B, 4, H)."""
        results = target.ops.gru_fwd(self.x, self.hx, self.weights, None, False, True, **self.masks)
        return dict(zip(("y", "h_n", "gates"), results, strict=True))

    def backward(self, target: Target, y: Tensor, gates: Tensor) -> dict[str, Tensor]:
        """Gradients, for those of y and h_n the values of both; ``y`` and ``gates`` are what the forward left."""
        dx, dhx, dweights = target.ops.gru_bwd(
            y, y[-1:], self.x, self.hx, self.weights, None, False, y, gates, True, True, True, **self.masks
        )
        return {"dx": dx, "dhx": dhx, **{f"dweight {i}": dweight for i, dweight in enumerate(dweights)}}


def make_layer(
    target: Target, dtype: torch.dtype, steps: int, batch: int, hidden: int, inputs: int = 8, masked: bool = False
) -> Layer:
    """Of random numbers."""
    shapes = [(3 * hidden, inputs), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,)]
    masks: dict[str, Any] = {}
    if masked:
        rows = (1, steps * batch, hidden)
        for name, shape in (("zoneout", rows), ("recurrent", (1, batch, hidden)), ("candidate", rows)):
            masks[f"{name}_mask"] = torch.rand(shape, device=target.device) > RATE
        masks |= {"recurrent_dropout": RATE, "candidate_dropout": RATE}
    return Layer(
        target.randn(steps, batch, inputs, dtype=dtype),
        target.randn(1, batch, hidden, dtype=dtype),
        [target.randn(*shape, dtype=dtype) / hidden**0.5 for shape in shapes],
        masks,
    )


def against_stepwise(target: Target, layer: Layer, dtype: str, kernel: str, backward: bool) -> dict[str, Any]:
    """Whether a kernel keeps to the policy of the tests, with the stepwise kernels in the place of nn.GRU.

    The backward is given the same y and gates in every dtype, those of the stepwise forward.
    """
    with target.use("stepwise", "stepwise"):
        saved = layer.forward(target)

    def solve(dtype: torch.dtype, forward_kernel: str, backward_kernel: str) -> dict[str, Tensor]:
        of_dtype = layer.to(dtype)
        with target.use(forward_kernel, backward_kernel):
            if backward:
                return of_dtype.backward(target, saved["y"].to(dtype), saved["gates"].to(dtype))
            results = of_dtype.forward(target)
            return {name: results[name] for name in ("y", "h_n")}

    ours = solve(layer.x.dtype, *(("auto", kernel) if backward else (kernel, "auto")))
    stepwise = {name: t.to(layer.x.dtype) for name, t in solve(peer_of(dtype), "stepwise", "stepwise").items()}
    return verdict_of(ours, Answer(solve(torch.float64, "stepwise", "stepwise"), stepwise))


def verdict_of(results: dict[str, Tensor], answer: Answer) -> dict[str, Any]:
    """The worst result, as a row tells it."""
    verdict = judge(OURS, results, answer)
    return {
        "outcome": PASSED if verdict.right else FAILED,
        "worst": verdict.name,
        "error_over_peer": round(verdict.times_framework, 2),
        **({} if verdict.right else {"error": str(verdict)}),
    }
