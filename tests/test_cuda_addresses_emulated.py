"""Every tensor of every family of CUDA kernels at odd addresses and odd strides, under emulation.

The emulator fails a load or store whose address is no multiple of its size, as a GPU does. H and I are multiples of 8,
so that the kernels take pairs and pieces of 16 bytes wherever addresses and strides allow it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from cases import Options, Problem, Size, gradients_by_name, make_problem, variants_of
from compare import assert_near, assert_same_bits
from emulated_backend import emulate, emulated_operators, solve_emulated
from layouts import beside_a_boundary
from nonfinite import tensors_of, with_another
from torch import Tensor

pytestmark = pytest.mark.usefixtures("emulated")
SIZE = Size(2, 2, 8, 32)
FAMILIES = {
    "cluster_H64_C1_rows8": SIZE,
    "cluster_H64_C4_rows16": SIZE,
    "group": SIZE._replace(hidden=72),
    "streamed": SIZE,
    "stepwise": SIZE,
    "one_step": SIZE._replace(steps=1),
}


def eight_bytes_on(tensor: Tensor) -> Tensor:
    """At no multiple of 16 bytes, and at one of every smaller access."""
    elements = 8 // tensor.element_size()
    flat = tensor.new_zeros(tensor.numel() + elements)
    return flat[elements:].view(tensor.shape).copy_(tensor)


def with_odd_strides(tensor: Tensor) -> Tensor:
    """Rows an odd number of elements apart; of a vector, every third element."""
    if tensor.dim() == 1:
        return tensor.new_zeros(3 * tensor.numel())[::3].copy_(tensor)
    return tensor.new_zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)[..., :-1].copy_(tensor)


def results_of(problem: Problem, saved: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
    """All that both passes return, where the backward takes y and gates from ``saved``, else from the forward."""
    ops, need = emulated_operators(), (True, True, True)
    y, h_n, gates = ops.gru_fwd(*problem.layer, True)
    gradients = ops.gru_bwd(problem.dy, problem.dh_n, *problem.layer, *(saved or (y, gates)), *need)
    return {"y": y, "h_n": h_n, "gates": gates} | gradients_by_name(problem, gradients, need, empty=(0,))


@pytest.mark.parametrize(
    ("family", "dtype", "place"),
    [
        *product(FAMILIES, [torch.bfloat16], [beside_a_boundary, eight_bytes_on, with_odd_strides]),
        # Where values have another size than the other dtypes.
        *product(["cluster_H64_C4_rows16_ieee", "one_step"], [torch.float32], [beside_a_boundary]),
    ],
)
def test_any_address_and_stride_of_any_tensor(
    family: str, dtype: torch.dtype, place: Callable[[Tensor], Tensor]
) -> None:
    emulate(asked=(family, "auto" if family == "one_step" else family))
    problem = make_problem(FAMILIES.get(family, SIZE), Options(), dtype)
    expected = results_of(problem)
    for name, tensor in tensors_of(problem).items():
        moved = with_another(problem, tensor, place(tensor))
        assert_near(results_of(moved), expected, f"with another {name}", tolerance=0.02)
    y, gates = expected["y"], expected["gates"]
    odd = place if place is not with_odd_strides else beside_a_boundary  # they are as the forward leaves them
    for saved in ((odd(y), gates), (y, odd(gates))):
        assert_near(results_of(problem, saved), expected, "with others saved", tolerance=0.02)


@pytest.mark.parametrize("family", ["stepwise", "streamed"])
def test_any_address_and_stride_of_any_mask(family: str) -> None:
    emulate(asked=(family, family))
    problem = make_problem(SIZE, Options(bidirectional=True), torch.bfloat16)
    variant = variants_of(problem)["all"]
    expected = solve_emulated(problem, variant)
    for name in ("zoneout_mask", "recurrent_mask", "candidate_mask"):
        for place in (beside_a_boundary, with_odd_strides):
            moved: dict[str, Any] = {name: place(getattr(variant, name))}
            assert_same_bits(solve_emulated(problem, variant._replace(**moved)), expected, f"with another {name}")
