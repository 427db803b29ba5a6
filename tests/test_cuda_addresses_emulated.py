"""Every tensor of every family of CUDA kernels at odd addresses and odd strides, under emulation.

The emulator fails a load or store whose address is no multiple of its size, as a GPU does. H and I are multiples of 8,
so that the kernels take pairs and pieces of 16 bytes wherever addresses and strides allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import Options, Size, make_problem, variants_of
from compare import assert_near, assert_same_bits
from emulated_backend import emulate, emulated_operators, solve_emulated
from torch import Tensor

SIZE = Size(2, 2, 8, 32)
FAMILIES = {
    "cluster_H64_C1_rows8": SIZE,
    "cluster_H64_C4_rows16": SIZE,
    "group": SIZE._replace(hidden=72),
    "streamed": SIZE,
    "stepwise": SIZE,
    "one_step": SIZE._replace(steps=1),
}
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def one_element_on(tensor: Tensor) -> Tensor:
    flat = tensor.new_zeros(tensor.numel() + 1)
    return flat[1:].view(tensor.shape).copy_(tensor)


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


def results_of(tensors: dict[str, Tensor], saved: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
    """All that both passes return, where the backward takes y and gates from ``saved``, else from the forward."""
    ops = emulated_operators()
    weights = [tensors[name] for name in WEIGHTS]
    layer = (tensors["x"], tensors["hx"], weights, None, False)
    y, h_n, gates = ops.gru_fwd(*layer, True)
    of_backward = saved or (y, gates)
    dx, dhx, dweights = ops.gru_bwd(tensors["dy"], tensors["dh_n"], *layer, *of_backward, True, True, True)
    names = [f"d{name}" for name in WEIGHTS]
    return {"y": y, "h_n": h_n, "gates": gates, "dx": dx, "dhx": dhx, **dict(zip(names, dweights, strict=True))}


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    emulate(multiprocessors=0).use_cuda_kernels("auto", "auto")


@pytest.mark.parametrize("place", [one_element_on, eight_bytes_on, with_odd_strides])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_address_and_stride_of_any_tensor(family: str, place: Callable[[Tensor], Tensor]) -> None:
    check_addresses(family, FAMILIES[family], torch.bfloat16, place)


@pytest.mark.parametrize("family", ["cluster_H64_C4_rows16_ieee", "one_step"])
def test_any_address_in_float32(family: str) -> None:
    """Where values have another size than the other dtypes."""
    check_addresses(family, FAMILIES.get(family, SIZE), torch.float32, one_element_on)


@pytest.mark.parametrize("family", ["stepwise", "streamed"])
def test_any_address_and_stride_of_any_mask(family: str) -> None:
    emulate().use_cuda_kernels(family, family)
    problem = make_problem(SIZE, Options(bidirectional=True), torch.bfloat16)
    variant = variants_of(problem)["all"]
    expected = solve_emulated(problem, variant)
    for name in ("zoneout_mask", "recurrent_mask", "candidate_mask"):
        for place in (one_element_on, with_odd_strides):
            moved: dict[str, Any] = {name: place(getattr(variant, name))}
            for result, tensor in solve_emulated(problem, variant._replace(**moved)).items():
                assert_same_bits(tensor, expected[result], f"{result} with another {name}")


def check_addresses(family: str, size: Size, dtype: torch.dtype, place: Callable[[Tensor], Tensor]) -> None:
    emulate().use_cuda_kernels(family, "auto" if family == "one_step" else family)
    p = make_problem(size, Options(), dtype)
    assert p.hx is not None
    assert p.dy is not None
    assert p.dh_n is not None
    weights = dict(zip(WEIGHTS, p.weights, strict=True))
    tensors = {"x": p.x, "hx": p.hx, **weights, "dy": p.dy, "dh_n": p.dh_n}
    expected = results_of(tensors)
    for name in tensors:
        for result, tensor in results_of({**tensors, name: place(tensors[name])}).items():
            assert_near(tensor, expected[result], f"{result} with another {name}", tolerance=0.02)
    y, gates = expected["y"], expected["gates"]
    odd = place if place is not with_odd_strides else one_element_on  # they are as the forward leaves them
    for saved in ((odd(y), gates), (y, odd(gates))):
        for result, tensor in results_of(tensors, saved).items():
            assert_near(tensor, expected[result], f"{result} with others saved", tolerance=0.02)
