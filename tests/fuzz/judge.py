"""How a case is judged: by the policy of ``compare``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from compare import assert_all_accurate
from torch import Tensor

# A case that the policy refuses is judged again by so many draws of its values: twice the error of another
# implementation is a bound for many numbers, which a single draw of few may exceed by chance.
DRAWS = 8


def judge(solve_thrice: Callable[[int], Sequence[dict[str, Tensor]]]) -> None:
    """Fail unless our results are as near to float64 as the policy asks.

    ``solve_thrice``: of a draw, by its number, ours, what the policy compares with, and those in float64.
    """
    try:
        _judge([solve_thrice(0)])
    except AssertionError:
        _judge([solve_thrice(number) for number in range(DRAWS)])


def _judge(drawn: list[Sequence[dict[str, Tensor]]]) -> None:
    ours, peers, exact = (
        {name: torch.stack([by[way][name] for by in drawn]) for name in drawn[0][0]} for way in range(3)
    )
    assert_all_accurate(ours, peers, exact)
