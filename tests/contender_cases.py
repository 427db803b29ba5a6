"""Small problems for the contenders of the benchmarks, and whether one of them solves such a problem."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks import check
from benchmarks.contenders import Contender, Problem
from benchmarks.suites import Pass, Size

ONE_LAYER, BOTH_DIRECTIONS = Size(4, 3, 8, I=5), Size(3, 2, 8, L=2, D=2)


def make_problem(size: Size, kind: Pass = "forward", dtype: torch.dtype = torch.float32) -> Problem:
    """A module with random weights."""
    module = nn.GRU(size.inputs, size.H, size.L, bidirectional=size.D == 2, dtype=dtype)
    return Problem(size, kind, module, threads=1)


def make_inputs(size: Size, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Input and gradient of the output."""
    return (
        torch.randn(size.T, size.B, size.inputs).to(dtype),
        torch.randn(size.T, size.B, size.D * size.H).to(dtype),
    )


def judged(
    contender: type[Contender], size: Size, kind: Pass, dtype: torch.dtype
) -> tuple[Contender, Problem, check.Verdict]:
    """What it makes of a problem; a second call of its step gives the same, as it is timed again and again."""
    problem, (x, dy) = make_problem(size, kind, dtype), make_inputs(size, dtype)
    assert {tensor.dtype for tensor in (*problem.weights.values(), x)} == {dtype}
    made = contender(problem)
    step = made.step(x, dy)
    first = {name: result.clone() for name, result in made.results(step()).items()}  # some write over them
    second = made.results(step())
    assert all(torch.equal(first[key], second[key]) for key in first)
    return made, problem, check.judge(contender.name, first, check.answer(problem, x, dy))
