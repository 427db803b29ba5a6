"""What a contender is: something that takes the weights of an ``nn.GRU`` and gives steps that can be timed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.suites import Pass, Size

Step = Callable[[], object]


@dataclass(frozen=True)
class Problem:
    """What every contender of a row is given."""

    size: Size
    kind: Pass
    module: nn.GRU  # in the dtype and on the device of the row: the weights
    threads: int

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype and on the device of weights and inputs."""
        return next(self.module.parameters()).detach()

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and inputs."""
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        """Of weights and inputs."""
        return self.like.device

    @property
    def weights(self) -> dict[str, Tensor]:
        """As ``nn.GRU`` names and lays them out."""
        return {name: parameter.detach() for name, parameter in self.module.named_parameters()}


class Contender(ABC):
    """One implementation of the GRU."""

    name: ClassVar[str]
    distribution: ClassVar[str]  # what pip calls it
    modules: ClassVar[tuple[str, ...]]  # what has to be importable
    configuration: ClassVar[str]  # how it is run, for the report
    on_request: ClassVar[str | None] = None  # why it takes part only if it is named

    @classmethod
    def absent(cls) -> str | None:
        """Why it cannot run on this machine at all; None if it can."""
        missing = [module for module in cls.modules if importlib.util.find_spec(module) is None]
        return f"not installed (no module {', '.join(missing)})" if missing else None

    @classmethod
    def version(cls) -> str:
        """The installed version."""
        try:
            return importlib.metadata.version(cls.distribution)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    @classmethod
    @abstractmethod
    def refuses(cls, problem: Problem) -> str | None:
        """Why it has no answer to this problem; None if it has."""

    @abstractmethod
    def __init__(self, problem: Problem) -> None:
        """Take over the weights of the problem."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The weights it holds, converted back: float32, names and layout of ``nn.GRU``."""

    @abstractmethod
    def step(self, x: Tensor, dy: Tensor) -> Step:
        """What is timed, for one input x (T, B, I) and one gradient dy (T, B, D*H), both already in its own form."""

    @abstractmethod
    def results(self, returned: Any) -> dict[str, Tensor]:
        """What a step returned: y (T, B, D*H), or dx (T, B, I) and d<weight> for each weight as ``nn.GRU`` has it."""


class ModuleContender(Contender):
    """A contender that is an ``nn.Module`` called as ``nn.GRU`` is, with differentiable parameters."""

    module: Callable[[Tensor], Any]
    parameters: list[Tensor]
    kind: Pass
    names: list[str]

    def take(self, problem: Problem, module: nn.Module) -> None:
        """Remember a module that has its weights."""
        self.kind, self.names = problem.kind, list(problem.weights)
        self.module, self.parameters = module, list(module.parameters())
        module.train(problem.kind != "forward")

    def weights(self) -> dict[str, Tensor]:  # noqa: D102
        return {name: p.detach().float() for name, p in zip(self.names, self.parameters, strict=True)}

    def step(self, x: Tensor, dy: Tensor) -> Step:  # noqa: D102
        module, parameters = self.module, self.parameters

        def forward() -> Tensor:
            if torch.is_grad_enabled():
                with torch.no_grad():
                    return module(x)[0]  # type: ignore[no-any-return]
            return module(x)[0]  # type: ignore[no-any-return]

        if self.kind == "forward":
            return forward
        leaf = x.clone().requires_grad_()
        wanted = [leaf, *parameters]
        if self.kind == "train":
            return lambda: torch.autograd.grad(module(leaf)[0], wanted, dy)
        y = module(leaf)[0]
        return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)

    def results(self, returned: Any) -> dict[str, Tensor]:  # noqa: D102
        if self.kind == "forward":
            return {"y": returned}
        return {"dx": returned[0], **dict(zip([f"d{name}" for name in self.names], returned[1:], strict=True))}
