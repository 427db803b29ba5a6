"""Ours."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

import gru_ext
from benchmarks.contenders.base import ModuleContender, Problem


class GruExt(ModuleContender):
    """``gru_ext.GRU``."""

    name = "gru_ext"
    distribution = "gru_ext"
    modules = ("gru_ext",)
    configuration = "gru_ext.GRU, eager"
    save: ClassVar[Literal["gates", "output"]] = "gates"

    @classmethod
    def version(cls) -> str:
        """Of the package that is imported, installed or not."""
        return gru_ext.__version__

    @classmethod
    def refuses(cls, problem: Problem) -> str | None:
        """A device that this build has no kernels for."""
        try:
            with torch.no_grad():
                gru_ext.GRU(1, 1, device=problem.device, dtype=problem.dtype)(
                    torch.zeros(1, 1, 1, device=problem.device, dtype=problem.dtype)
                )
        except NotImplementedError as error:
            return str(error).partition("\n")[0]
        return None

    def __init__(self, problem: Problem) -> None:
        size = problem.size
        module = gru_ext.GRU(
            size.inputs,
            size.H,
            size.L,
            bidirectional=size.D == 2,
            device=problem.device,
            dtype=problem.dtype,
            save=self.save,
        )
        module.load_state_dict(problem.weights)
        self.take(problem, module)


class GruExtOutput(GruExt):
    """``gru_ext.GRU(save="output")``."""

    name = "gru_ext_output"
    configuration = 'gru_ext.GRU(save="output"), eager'
    on_request = "takes part in the suite memory, or if --against names it"
    save: ClassVar[Literal["gates", "output"]] = "output"


class GruExtPrepared(GruExt):
    """``gru_ext.prepare(gru_ext.GRU)``, whose weights were arranged once."""

    name = "gru_ext_prepared"
    configuration = "gru_ext.prepare(gru_ext.GRU), eager"
    on_request = "takes part in the suites sizes and latency, or if --against names it; forward alone, on a CPU"

    @classmethod
    def refuses(cls, problem: Problem) -> str | None:
        """Training, and another device than a CPU."""
        if problem.kind != "forward" or torch.device(problem.device).type != "cpu":
            return "weights are prepared for inference on a CPU"
        return super().refuses(problem)

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.module = gru_ext.prepare(self.module, inplace=True)  # type: ignore[type-var]
