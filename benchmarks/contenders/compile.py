"""``torch.compile`` of ``torch.nn.GRU``.

By default the compiler steps around ``nn.GRU``, which then runs eagerly. Allowed to trace it, it unrolls the time
steps: faster where they are few, but compiling grows with T (17 s for T = 10 on two cores).
"""

from __future__ import annotations

import copy
import shutil

import torch

from benchmarks.contenders.base import ModuleContender, Problem

LONGEST_UNROLLED = 10


class Compile(ModuleContender):
    """``torch.compile(torch.nn.GRU)``."""

    name = "compile"
    distribution = "torch"
    modules = ("torch",)
    configuration = (
        f"torch.compile of torch.nn.GRU; unrolled (torch._dynamo.config.allow_rnn) up to {LONGEST_UNROLLED} steps,"
        " beyond which the compiler leaves nn.GRU as it is"
    )
    on_request = "takes part if --against names it, as a size may take half a minute to compile"

    @classmethod
    def absent(cls) -> str | None:
        """A C++ compiler is needed, and a Python that the compiler supports."""
        from torch._dynamo.eval_frame import is_dynamo_supported

        if not is_dynamo_supported():
            return "torch.compile does not support this Python"
        return None if shutil.which("g++") or shutil.which("clang++") else "no C++ compiler was found"

    @classmethod
    def refuses(cls, problem: Problem) -> str | None:
        """Nothing."""
        return None

    def __init__(self, problem: Problem) -> None:
        torch._dynamo.reset()
        torch._dynamo.config.allow_rnn = problem.size.T <= LONGEST_UNROLLED
        # The compiled backward may otherwise write over what it saved, and could not be timed twice.
        torch._functorch.config.donated_buffer = False
        module = copy.deepcopy(problem.module)
        module.flatten_parameters()
        self.take(problem, module)
        self.module = torch.compile(module)
