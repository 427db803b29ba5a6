"""haste (https://github.com/lmnt-com/haste): CUDA kernels, one layer, one direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.base import ModuleContender, Problem
from gru_ext import convert


class Haste(ModuleContender):
    """``haste_pytorch.GRU``."""

    name = "haste"
    distribution = "haste_pytorch"
    modules = ("haste_pytorch",)
    configuration = "haste_pytorch.GRU, no zoneout, no dropout"

    @classmethod
    def absent(cls) -> str | None:
        """It needs a GPU."""
        return super().absent() or (None if torch.cuda.is_available() else "needs a CUDA device")

    @classmethod
    def refuses(cls, problem: Problem) -> str | None:
        """A CPU, several layers, both directions, bfloat16."""
        if problem.device.type != "cuda":
            return "runs on CUDA only"
        if problem.size.L > 1 or problem.size.D > 1:
            return "one layer and one direction only"
        return "has no bfloat16" if problem.dtype == torch.bfloat16 else None

    def __init__(self, problem: Problem) -> None:
        import haste_pytorch

        module = haste_pytorch.GRU(problem.size.inputs, problem.size.H).to(problem.device, problem.dtype)
        weights = convert.to_haste(problem.module)
        module.load_state_dict(weights)
        self.take(problem, module)
        self.attributes = list(weights)
        self.parameters = [getattr(module, attribute) for attribute in self.attributes]

    def weights(self) -> dict[str, Tensor]:  # noqa: D102
        return self._as_torch([parameter.detach().float() for parameter in self.parameters])

    def results(self, returned: Any) -> dict[str, Tensor]:  # noqa: D102
        if self.kind == "forward":
            return {"y": returned}
        gradients = self._as_torch(returned[1:])
        return {"dx": returned[0], **{f"d{name}": gradient for name, gradient in gradients.items()}}

    def _as_torch(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Weights, or gradients, which are laid out as they are, in the names and layout of ``nn.GRU``."""
        return convert.from_haste(dict(zip(self.attributes, tensors, strict=True))).state_dict()
