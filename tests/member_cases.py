"""Problems of members: layers of the same sizes with weights of their own, that an operator computes in one call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from cases import Options, Problem, Size, make_problem, solve_by
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
    return Problem(
        x=x,
        hx=stack([p.hx for p in problems]),
        weights=[torch.stack(list(tensors)) for tensors in zip(*(p.weights for p in problems), strict=True)],
        batch_sizes=first.batch_sizes,
        bidirectional=first.bidirectional,
        dy=stack([p.dy for p in problems]),
        dh_n=stack([p.dh_n for p in problems]),
    )


def solve_members_by(
    ops: Any, whole: Problem, variant: Variant = PLAIN, save_gates: bool = True, need: Any = (True, True, True)
) -> dict[str, Tensor]:
    """As ``solve_by``, of stacked problems by the operators for members."""
    arguments = (whole.x, whole.hx, whole.weights, whole.batch_sizes, whole.bidirectional)
    y, h_n, gates = ops.gru_fwd_members(*arguments, save_gates, *variant)
    dx, dhx, dweights = ops.gru_bwd_members(whole.dy, whole.dh_n, *arguments, y, gates, *need, *variant)
    need_dx, need_dhx, need_dweights = need
    members = whole.x.shape[0]
    assert need_dx or dx.shape == (members, 0)
    assert need_dhx or dhx.shape == (members, 0)
    assert need_dweights or not dweights
    return {
        "y": y,
        "h_n": h_n,
        **({"dx": dx} if need_dx else {}),
        **({"dhx": dhx} if need_dhx and whole.hx is not None else {}),
        **(dict(zip([f"d{name}" for name in whole.names], dweights, strict=True)) if need_dweights else {}),
    }


def assert_members_alone(results: dict[str, Tensor], problems: list[Problem], ops: Any) -> None:
    """Each member has the bits of a call of its own by the same operators."""
    for e, problem in enumerate(problems):
        for name, expected in solve_by(ops, problem).items():
            assert_same_bits(results[name][e], expected, f"{name} of member {e}")
