"""What every test shares."""

from __future__ import annotations

import warnings

import pytest
import torch

with warnings.catch_warnings():
    # Forward-mode differentiation loads this on first use; it meets the deprecation of torch's own torch.jit.script.
    warnings.filterwarnings("ignore", "`torch.jit.script` is", DeprecationWarning)
    import torch._decomp.decompositions_for_jvp

# The problems are tiny, and the machine may be shared: the tests of several threads ask for them.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)
