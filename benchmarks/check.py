"""Whether a contender's answer is right, before it is timed.

The judge is ``torch.nn.GRU`` in float64, on the CPU unless told otherwise, from the same weights and inputs. The
measure is the largest absolute error, in multiples of that of ``torch.nn.GRU`` in the dtype that is timed, plus a floor
of a few units in the last place of the largest magnitude. We are held to the policy of the tests, twice the error;
peers to a looser one, so that an approximation of their own does not cost them their place.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.contenders import OURS, Problem
from benchmarks.contenders.torch import Torch

FLOAT64_TOLERANCE = 1e-10
UNDERFLOW = 1e-30


@dataclass(frozen=True)
class Policy:
    """How far an answer may be off."""

    times_framework: float
    floor_ulps: float


STRICT, LOOSE = Policy(2.0, 4.0), Policy(8.0, 32.0)


@dataclass(frozen=True)
class Answer:
    """What is right, and what ``torch.nn.GRU`` makes of it in the dtype of the row; by name."""

    exact: Mapping[str, Tensor]  # float64
    framework: Mapping[str, Tensor]


@dataclass(frozen=True)
class Verdict:
    """The worst result of one contender: its name, and error over what is allowed."""

    name: str
    error: float  # absolute
    times_framework: float  # over the error of torch.nn.GRU, plus one unit in the last place
    allowed: float  # absolute

    @property
    def right(self) -> bool:
        """Whether the answer may be timed; NaN is wrong."""
        return self.error <= self.allowed

    def __str__(self) -> str:
        """As it is reported where it is wrong."""
        return f"wrong answer: error of {self.name} {self.error:.2e}, allowed {self.allowed:.2e}"


def module_in(module: nn.GRU, dtype: torch.dtype, device: torch.device | str) -> nn.GRU:
    """The same GRU elsewhere."""
    return copy.deepcopy(module).to(device, dtype)


def answer(
    problem: Problem,
    x: Tensor,
    dy: Tensor,
    judge_on: torch.device | str = "cpu",
    framework_dtype: torch.dtype | None = None,
) -> Answer:
    """Right results, and those of ``torch.nn.GRU``, of one input x (T, B, I) and gradient dy (T, B, D*H).

    Args:
        problem: weights, dtype and device of what is judged.
        x: the input, any dtype and device.
        dy: likewise.
        judge_on: where float64 is computed.
        framework_dtype: in which ``torch.nn.GRU`` is asked, default that of the problem.
    """

    def solve_in(dtype: torch.dtype, device: torch.device | str) -> dict[str, Tensor]:
        return solve(replace(problem, module=module_in(problem.module, dtype, device)), x, dy)

    framework = solve_in(framework_dtype or problem.dtype, problem.device)
    return Answer(
        solve_in(torch.float64, judge_on), {name: result.to(problem.dtype) for name, result in framework.items()}
    )


def solve(problem: Problem, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Results of ``torch.nn.GRU``, in the dtype and on the device of the problem."""
    framework = Torch(problem)
    return framework.results(framework.step(x.to(problem.like), dy.to(problem.like))())


def judge(contender: str, results: Mapping[str, Tensor], truth: Answer) -> Verdict:
    """The verdict on the worst of the results. They must be those of the answer, by name and shape."""
    policy = STRICT if contender == OURS else LOOSE
    if results.keys() != truth.exact.keys():
        raise ValueError(f"expected results named {list(truth.exact)}, got {list(results)}")
    verdicts = [_judge_one(name, results[name], truth, policy) for name in results]
    return max(verdicts, key=lambda verdict: verdict.error / verdict.allowed if verdict.right else torch.inf)


def _judge_one(name: str, result: Tensor, truth: Answer, policy: Policy) -> Verdict:
    exact, framework = truth.exact[name], truth.framework[name]
    if result.shape != exact.shape:
        raise ValueError(f"expected {name} of shape {tuple(exact.shape)}, got {tuple(result.shape)}")
    error, framework_error = (_largest(t.detach().to(exact) - exact) for t in (result, framework))
    ulp = torch.finfo(framework.dtype).eps * _largest(exact)
    if framework.dtype == torch.float64:  # torch.nn.GRU is then its own judge
        allowed = FLOAT64_TOLERANCE * max(1.0, _largest(exact))
    else:
        allowed = policy.times_framework * framework_error + policy.floor_ulps * ulp + UNDERFLOW
    return Verdict(name, error, error / (framework_error + ulp + UNDERFLOW), allowed)


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max())
