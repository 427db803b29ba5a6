"""A GPU's switches and kernels for the time of a test; layers on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cases import Options, Problem, Size, make_problem
from persistent_kernels import HeldConfig, StreamedConfig
from process import ROOT

import gru_ext

sys.path.append(str(ROOT))  # of the checkout: the benchmarks are not installed

from benchmarks.gpu_check.target import has_no_room

PLAIN = Options()


@contextmanager
def float32_precision(rnn: str, matmul: str) -> Iterator[None]:
    """Torch's switches for TF32: "tf32" or "ieee"."""
    backends: Any = torch.backends
    is_new = hasattr(backends.cudnn, "rnn")  # torch since 2.9
    owners = (backends.cudnn.rnn if is_new else backends.cudnn, backends.cuda.matmul)
    name, wanted = ("fp32_precision", [rnn, matmul]) if is_new else ("allow_tf32", [rnn == "tf32", matmul == "tf32"])
    before = [getattr(owner, name) for owner in owners]

    def set_to(values: list[Any]) -> None:
        for owner, value in zip(owners, values, strict=True):
            setattr(owner, name, value)

    set_to(wanted)
    try:
        yield
    finally:
        set_to(before)


def on_cuda(problem: Problem, device: str = "cuda") -> Problem:
    """The same problem on a GPU; batch_sizes stay on the CPU."""
    return problem.map(lambda tensor: tensor.to(device))


def cuda_problem(size: Size, options: Options = PLAIN, dtype: torch.dtype = torch.float32) -> Problem:
    """``make_problem`` on a GPU."""
    return on_cuda(make_problem(size, options, dtype))


@contextmanager
def kernels_of(config: HeldConfig | StreamedConfig, hidden: int, backward: str) -> Iterator[None]:
    """Only these; the test is skipped where the device is too small for them, and for no other reason."""
    ieee = isinstance(config, HeldConfig) and config.ieee
    with float32_precision("ieee" if ieee else "tf32", "ieee"), gru_ext.use_cuda_kernels(config.name, backward):
        try:
            gru_ext.kernels(1, 1, hidden, dtype=config.dtype, device="cuda")
        except RuntimeError as error:
            if not has_no_room(error):
                raise
            pytest.skip(str(error))
        yield
