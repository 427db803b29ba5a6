"""NaN and infinities at every place of a layer's arguments: where they go is what the reference says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from cases import Options, Problem, Size, layer_with, make_problem, solve, solve_by_hand, variants_of
from compare import assert_near
from torch import Tensor

from gru_ext.variant import Variant

VALUES = (torch.inf, -torch.inf, torch.nan)
# Several tiles of rows, groups of units of which the last is not whole, and, packed, sequences that end.
SIZE = Size(4, 5, 3, 19)


def variants(problem: Problem, gates: str) -> Iterator[Variant]:
    """The recurrence without masks and with each of them."""
    reset_after, norms = gates != "reset before", {"layer_norm": 2, "joint layer_norm": 1}.get(gates, 0)
    for variant in (Variant(), *variants_of(problem).values()):
        yield variant._replace(reset_after=reset_after, layer_norm=norms)


def tensors_of(problem: Problem) -> dict[str, Tensor]:
    """All that a problem is made of."""
    gradients = {"dy": problem.dy, "dh_n": problem.dh_n}
    return problem.named | {name: tensor for name, tensor in gradients.items() if tensor is not None}


def check(problem: Problem, variant: Variant) -> None:
    """NaN and infinities of results and gradients are those of the reference; the other values are near.

    In float64, as a state that rounds to zero times infinity is NaN. By its own backward: autograd's takes d * (1 - z)
    apart, to infinity less infinity.
    """
    dtype = problem.x.dtype
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 0.1}[dtype]
    results, exact = solve(layer_with(variant), problem), solve_by_hand(problem.to(torch.float64), variant)
    expected = {name: tensor.to(dtype) for name, tensor in exact.items()}
    assert_near(results, expected, tolerance=tolerance)
    for name, tensor in results.items():
        assert torch.equal(tensor.isposinf(), expected[name].isposinf()), name


def with_another(problem: Problem, old: Tensor, new: Tensor) -> Problem:
    """The problem with one of its tensors replaced."""

    def swap(tensor: Tensor) -> Tensor:
        return new if tensor is old else tensor

    return problem.map(swap)


def check_every_place(gates: str, dtype: torch.dtype) -> None:
    """Each value at one element of each tensor of a problem."""
    for options in (Options(bidirectional=True), Options(packed=True, bias=False, hx=False)):
        problem = make_problem(SIZE, replace(options, gains="layer_norm" in gates), dtype)
        for variant in variants(problem, gates):
            for place, tensor in enumerate(tensors_of(problem).values()):
                bad = tensor.clone()
                bad.view(-1)[(place * 29 + 7) % bad.numel()] = VALUES[place % 3]
                check(with_another(problem, tensor, bad), variant)
