"""What every test shares."""

from __future__ import annotations

import warnings

import pytest
import torch

from gru_ext import library

with warnings.catch_warnings():
    # Forward-mode differentiation loads this on first use; it meets the deprecation of torch's own torch.jit.script.
    warnings.filterwarnings("ignore", "`torch.jit.script` is")  # of a category that depends on torch
    import torch._decomp.decompositions_for_jvp

# The problems are tiny, and the machine may be shared: the tests of several threads ask for them.
torch.set_num_threads(1)

# What is drawn while tests are collected is the same in every process, so that they can be shared out.
torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked cuda where they cannot run."""
    if not library.has_cuda_kernels:
        reason = f"CUDA kernels {library.cuda_build}"
    elif not torch.cuda.is_available():
        reason = "no CUDA device"
    else:
        return
    for item in items:
        if item.get_closest_marker("cuda") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
