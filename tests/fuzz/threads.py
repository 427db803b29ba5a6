"""Random layers on many threads: outputs and gradients have the bits of one thread.

Letters as in ``cases``: T steps, B batch, I input, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from compare import assert_same_bits
from hypothesis import strategies as st
from process import thread_count
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import gru_ext

STEPS, ROWS = [1, 2, 3, 5, 8, 12, 20, 40], [1, 2, 3, 5, 8, 13, 16, 30, 64, 120, 260, 512]
INPUTS, UNITS = [1, 3, 8, 17, 64, 100, 224, 300, 700], [1, 5, 8, 20, 32, 48, 64, 100, 130, 200]
MOST_PRODUCTS = 50_000_000  # T * B * (I + H) * H


@dataclass(frozen=True)
class Case:
    """One module and how it is called."""

    seed: int
    size: tuple[int, int, int, int]  # T, B, I, H
    bidirectional: bool
    lengths: tuple[float, ...]  # parts of T that sequences of a packed batch have, by turns; empty: padded input
    dtype: torch.dtype
    options: dict[str, Any]
    need_dx: bool
    threads: int


def _is_small(size: tuple[int, int, int, int]) -> bool:
    T, B, I, H = size  # noqa: E741, N806
    return T * B * (I + H) * H <= MOST_PRODUCTS


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Enough rows and units for many threads to have parts, few enough for a case to be short."""
    # dx of two directions in a half precision may be rounded once more where they run side by side.
    bidirectional = draw(st.booleans())
    dtypes = [torch.float32, torch.float64] if bidirectional else [torch.float32, torch.float64, torch.bfloat16]
    return Case(
        seed=draw(st.integers(0, 2**31)),
        size=draw(st.tuples(*map(st.sampled_from, (STEPS, ROWS, INPUTS, UNITS))).filter(_is_small)),
        bidirectional=bidirectional,
        lengths=tuple(draw(st.lists(st.floats(0, 1), max_size=4))),
        dtype=draw(st.sampled_from(dtypes)),
        options=draw(st.sampled_from([{}, {}, {"reset_after": False}, {"save": "output"}, {"recurrent_dropout": 0.3}])),
        need_dx=draw(st.booleans()),
        threads=draw(st.sampled_from([2, 3, 4, 6, 8, 12, 16, 24])),
    )


def _results(module: gru_ext.GRU, data: Tensor, batch_sizes: Tensor | None, case: Case) -> list[Tensor]:
    torch.manual_seed(case.seed)  # of the dropout
    data = data.detach().requires_grad_(case.need_dx)
    y, h_n = module(data if batch_sizes is None else PackedSequence(data, batch_sizes))
    y = y.data if batch_sizes is not None else y
    wanted = [*module.parameters(), *([data] if case.need_dx else [])]
    return [y, h_n, *torch.autograd.grad(y.sum() + h_n.sum(), wanted)]


def check(case: Case) -> None:
    """Fail unless every result has the same bits."""
    T, B, I, H = case.size  # noqa: E741, N806
    torch.manual_seed(case.seed)
    module = gru_ext.GRU(I, H, bidirectional=case.bidirectional, dtype=case.dtype, **case.options)
    data, batch_sizes = torch.randn(T, B, I, dtype=case.dtype), None
    if case.lengths:
        lengths = sorted((1 + round(case.lengths[b % len(case.lengths)] * (T - 1)) for b in range(B)), reverse=True)
        data, batch_sizes, *_ = pack_padded_sequence(data, torch.tensor(lengths))
    with thread_count(1):
        expected = _results(module, data, batch_sizes, case)
    with thread_count(case.threads):
        results = _results(module, data, batch_sizes, case)
    assert_same_bits(results, expected)
