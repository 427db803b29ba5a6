"""benchmarks/gpu_check.py where there is no GPU; on one, it is run by hand."""

from __future__ import annotations

import pytest
import torch
from process import ROOT, run_python


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_ends_with_one_sentence() -> None:
    result = run_python(ROOT / "benchmarks" / "gpu_check.py", path=[ROOT])
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.strip() == (
        f"gpu-check: torch {torch.__version__} sees no GPU on this machine; run it on one that has a GPU"
    )
