"""Problems of members: layers of the same sizes with weights of their own, that an operator computes in one call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from cases import Options, Problem, Size, gradients_by_name, make_problem, solve_by
from compare import assert_same_bits
from torch import Tensor

from gru_ext.variant import PLAIN, Variant

MEMBERS = 3


def problems_of(
    size: Size, options: Options, dtype: torch.dtype = torch.float64, members: int = MEMBERS, shared: bool = False
) -> list[Problem]:
    """Problems of one shape; ``shared``: of one input."""
    problems = [make_problem(size, options, dtype) for _ in range(members)]
    return [replace(problem, x=problems[0].x) for problem in problems] if shared else problems


def stacked(problems: list[Problem]) -> Problem:
    """Every floating tensor with the members first; an input that they share is expanded."""

    def stack(tensors: list[Tensor | None]) -> Tensor | None:
        given = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(given) if given else None

    first = problems[0]
    own = any(problem.x is not first.x for problem in problems)
    x = torch.stack([p.x for p in problems]) if own else first.x.expand(len(problems), *first.x.shape)
    return replace(
        first,
        x=x,
        hx=stack([p.hx for p in problems]),
        weights=[torch.stack(list(tensors)) for tensors in zip(*(p.weights for p in problems), strict=True)],
        dy=stack([p.dy for p in problems]),
        dh_n=stack([p.dh_n for p in problems]),
    )


def solve_members_by(
    ops: Any, whole: Problem, variant: Variant = PLAIN, save_gates: bool = True, need: Any = (True, True, True)
) -> dict[str, Tensor]:
    """As ``solve_by``, of stacked problems by the operators for members."""
    y, h_n, gates = ops.gru_fwd_members(*whole.layer, save_gates, *variant)
    gradients = ops.gru_bwd_members(whole.dy, whole.dh_n, *whole.layer, y, gates, *need, *variant)
    empty = (whole.x.shape[0], 0)
    return {"y": y, "h_n": h_n} | gradients_by_name(whole, gradients, need, empty)


def of_member(e: int, results: dict[str, Tensor]) -> dict[str, Tensor]:
    """The results of one of several."""
    return {name: tensor[e] for name, tensor in results.items()}


def assert_members_alone(results: dict[str, Tensor], problems: list[Problem], ops: Any) -> None:
    """Each member has the bits of a call of its own by the same operators."""
    for e, problem in enumerate(problems):
        assert_same_bits(of_member(e, results), solve_by(ops, problem), f"member {e}")
