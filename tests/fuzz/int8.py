"""Random calls of the operator ``gru_int8``, each step judged by the specification of int8 weights.

Letters as in ``cases``: T steps, B batch, I input, H hidden, D directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from cases import Options, Size, make_problem
from hypothesis import strategies as st
from int8_cases import check_every_step
from process import thread_count


@dataclass(frozen=True)
class Case:
    """One layer and how it is called."""

    seed: int
    size: Size
    options: Options
    magnitude: float  # of x
    threads: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Sizes on both sides of words of four columns, groups of 16 units and tiles of rows."""
    return Case(
        seed=draw(st.integers(0, 2**31)),
        size=Size(
            draw(st.integers(1, 7)),
            draw(st.integers(1, 20)),
            draw(st.integers(1, 70)),
            draw(st.one_of(st.integers(1, 36), st.integers(120, 140))),  # some are worth several threads
        ),
        options=Options(draw(st.booleans()), draw(st.booleans()), draw(st.booleans()), draw(st.booleans())),
        magnitude=draw(st.sampled_from([1.0, 0.0, 1e-30, 1e30])),
        threads=draw(st.integers(1, 3)),
    )


def check(case: Case) -> None:
    """Fail unless every step is as specified, from the state before it."""
    torch.manual_seed(case.seed)
    problem = make_problem(case.size, case.options, torch.float32)
    problem.x.mul_(case.magnitude)
    with thread_count(case.threads):
        check_every_step(problem)
