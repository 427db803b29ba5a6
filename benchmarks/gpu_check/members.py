"""Members in one call, one launch each way, against a loop of calls; the results judged before they are timed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.check import Answer
from benchmarks.contenders import OURS, Step
from benchmarks.gpu_check.layer import Layer, make_layer, verdict_of
from benchmarks.gpu_check.speed import KINDS, STEPS, timed
from benchmarks.gpu_check.stages import Case, Stage
from benchmarks.gpu_check.target import DTYPES, Target, peer_of, switch_tf32, target
from benchmarks.suites import Size

LOOP = "loop of calls"
# Members, B, H and dtype: that which docs/kernels.md predicts, then more than fit at once.
SIZES = [(8, 16, 256, "bf16"), (8, 16, 256, "tf32"), (64, 16, 256, "bf16")]


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """Forward, and forward and backward, of each size."""
    device = target(rehearses)
    return [
        Case(f"{dtype} E={members} H={H} B={B} {kind}", partial(_one, device, members, Size(STEPS, B, H), dtype, kind))
        for members, B, H, dtype in SIZES
        for kind in KINDS
    ]


@dataclass(frozen=True)
class Members:
    """Layers of one size, and their tensors with the members first."""

    target: Target
    layers: list[Layer]
    whole: Layer

    def forward(self) -> tuple[Tensor, Tensor]:
        """One call: y (E, T, B, H) and the gates."""
        w = self.whole
        y, _, gates = self.target.ops.gru_fwd_members(w.x, w.hx, w.weights, None, False, True)
        return y, gates

    def train(self) -> Any:
        """And backward, with y in the place of its gradient."""
        w = self.whole
        y, gates = self.forward()
        needs = (True, True, True)
        return self.target.ops.gru_bwd_members(y, None, w.x, w.hx, w.weights, None, False, y, gates, *needs)

    def loop(self, kind: str) -> None:
        """The same, a call for each member."""
        for layer in self.layers:
            found = layer.forward(self.target)
            if kind == "train":
                layer.backward(self.target, found["y"], found["gates"])


def _members_of(device: Target, layers: list[Layer]) -> Members:
    weights = [torch.stack(list(tensors)) for tensors in zip(*(layer.weights for layer in layers), strict=True)]
    whole = Layer(torch.stack([v.x for v in layers]), torch.stack([v.hx for v in layers]), weights, {})
    return Members(device, layers, whole)


def _y_of(device: Target, layers: list[Layer], dtype: torch.dtype) -> Tensor:
    with device.use("stepwise", "stepwise"):
        return torch.stack([layer.to(dtype).forward(device)["y"] for layer in layers])


def _one(device: Target, members: int, size: Size, dtype: str, kind: str) -> dict[str, Any]:
    switch_tf32(dtype)
    ran, count = (Size(3, 3, 9), 2) if device.rehearses else (size, members)
    layers = [make_layer(device, DTYPES[dtype], ran.T, ran.B, ran.H, inputs=ran.H) for _ in range(count)]
    ours = _members_of(device, layers)
    exact, peer = _y_of(device, layers, torch.float64), _y_of(device, layers, peer_of(dtype)).to(DTYPES[dtype])
    found = verdict_of({"y": ours.forward()[0]}, Answer({"y": exact}, {"y": peer}))
    steps: dict[str, Step] = {
        LOOP: partial(ours.loop, kind),
        OURS: ours.forward if kind == "forward" else ours.train,
    }
    row = timed(device, size, dtype, kind, steps)
    return found | row | {"members": members, "kernels": device.chosen(size, dtype, members)}
