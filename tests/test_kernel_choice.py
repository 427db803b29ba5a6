"""``kernels`` and ``use_cuda_kernels`` where there is no GPU; with one, tests/test_cuda.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from process import fork_python, output_of

import gru_ext
from gru_ext import kernel_choice, library


def test_kernels_names_the_instruction_set_of_the_cpu() -> None:
    found = gru_ext.kernels(10, 4, 32, device="cpu")
    assert found.forward.name == f"cpu_{library.cpu_isa()}"
    assert found.backward == found.forward


@pytest.mark.parametrize(
    ("error", "text", "given"),
    [
        *(
            (ValueError, f"kernels: expected {name} of at least 1, got 0", {name: 0})
            for name in ("steps", "batch", "hidden_size", "members")
        ),
        (ValueError, r"expected dtype float32, .* got torch\.int8", {"dtype": torch.int8}),
        (ValueError, 'kernels: expected save to be "gates" or "output", got \'all\'', {"save": "all"}),
        (RuntimeError, "expected a device of type cpu or cuda, got meta", {"device": "meta"}),
    ],
    ids=str,
)
def test_kernels_wants_what_a_gru_has(error: type[Exception], text: str, given: dict[str, Any]) -> None:
    with pytest.raises(error, match=text):
        gru_ext.kernels(**{"steps": 10, "batch": 4, "hidden_size": 32, **given})


@pytest.mark.parametrize(
    ("asked", "both"),
    [
        (("cluster", None), ("cluster", "cluster")),
        (("one_step", None), ("one_step", "auto")),
        (("one_step", "stepwise"), ("one_step", "stepwise")),
    ],
)
def test_a_kernel_without_a_backward_leaves_it_to_the_choice(
    asked: tuple[str, str | None], both: tuple[str, str]
) -> None:
    assert kernel_choice.of_both_passes(*asked) == both


@pytest.mark.skipif(library.has_cuda_kernels, reason="this build has CUDA kernels")
def test_without_cuda_kernels_there_is_nothing_to_choose() -> None:
    with pytest.raises(RuntimeError, match="this build of gru_ext has no CUDA kernels"):
        kernel_choice.set_cuda_wait_limit(0.2)
    with pytest.raises(RuntimeError, match="this build of gru_ext has no CUDA kernels"):
        gru_ext.kernels(10, 4, 32, device="cuda")
    with pytest.raises(RuntimeError, match="this build of gru_ext has no CUDA kernels"), gru_ext.use_cuda_kernels():
        pass


def test_the_environment_does_not_matter_without_cuda_kernels() -> None:
    """The variable is for CUDA; a CPU build must import whatever it says."""
    variables = {"GRU_EXT_CUDA_KERNELS": "stepwise"}
    result = fork_python("-c", "import gru_ext; print(gru_ext.__version__)", environment=variables)
    assert output_of(result).strip() == gru_ext.__version__
