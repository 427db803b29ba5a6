"""haste (https://github.com/lmnt-com/haste): CUDA kernels, one layer, one direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.base import ModuleContender, Problem, swap_r_and_z

ATTRIBUTES = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")  # (I, 3H), (H, 3H), (3H), (3H); gates z, r, n


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
        with torch.no_grad():
            for attribute, weight in zip(ATTRIBUTES, problem.weights.values(), strict=True):
                getattr(module, attribute).copy_(
                    swap_r_and_z(weight).t() if weight.dim() == 2 else swap_r_and_z(weight)
                )
        self.take(problem, module)
        self.parameters = [getattr(module, attribute) for attribute in ATTRIBUTES]

    def weights(self) -> dict[str, Tensor]:  # noqa: D102
        return {name: _as_torch(parameter).float() for name, parameter in super().weights().items()}

    def results(self, returned: Any) -> dict[str, Tensor]:  # noqa: D102
        named = super().results(returned)
        return {name: _as_torch(t) if name.startswith(("dweight", "dbias")) else t for name, t in named.items()}


def _as_torch(tensor: Tensor) -> Tensor:
    return swap_r_and_z(tensor.t() if tensor.dim() == 2 else tensor)
