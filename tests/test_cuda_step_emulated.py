"""The stepwise CUDA kernels and their host side, without a GPU, under emulation; test_accuracy.py has their accuracy.

The emulator fails a launch that reads or writes outside of its arguments. The build for it cuts time into chunks of a
few steps (GRU_EXT_CHUNK_BYTES in csrc/cuda/stepwise/steps.cpp). What only a GPU can show is in docs/gpu-checklist.md.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accuracy import check_problems
from cases import FLOATING, Options, Size, make_problem
from compare import assert_near
from emulated_backend import emulated_operators, solve_emulated

SMALL = Size(4, 3, 2, 5)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_what_layer_normalisation_saves_is_what_the_cpu_s_kernels_take(dtype: torch.dtype) -> None:
    """The same layout, and the same values."""
    p = make_problem(SMALL, Options(gains=True), dtype)
    ours = torch.ops.gru_ext.gru_fwd(*p.layer, True, layer_norm=2)
    theirs = emulated_operators().gru_fwd(*p.layer, True, layer_norm=2)
    assert_near(ours, theirs, "what forward leaves", tolerance=8 * torch.finfo(dtype).eps)


def test_expanded_gradients() -> None:
    problem = make_problem(SMALL, Options(bidirectional=True), torch.float32)
    one = torch.ones(())
    check_problems([replace(problem, dy=one.expand(4, 3, 10), dh_n=one.expand(2, 3, 5))], solve_emulated)
