"""``torch.nn.GRU``, eager: ATen's loop on a CPU, cuDNN on a GPU."""

from __future__ import annotations

import copy

from benchmarks.contenders.base import ModuleContender, Problem


class Torch(ModuleContender):
    """``torch.nn.GRU``."""

    name = "torch"
    distribution = "torch"
    modules = ("torch",)
    configuration = "torch.nn.GRU, eager (cuDNN on a GPU)"

    @classmethod
    def refuses(cls, problem: Problem) -> str | None:
        """Nothing."""
        return None

    def __init__(self, problem: Problem) -> None:
        module = copy.deepcopy(problem.module)
        module.flatten_parameters()  # for cuDNN, which otherwise copies the weights in every call
        self.take(problem, module)
