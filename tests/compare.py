"""The one tolerance policy, and equality of bits.

``assert_near`` and ``assert_same_bits`` take tensors, or tuples, lists and mappings of them that are built alike.

Against the float64 reference, our largest error is at most twice that of ``torch.nn.GRU`` in the same dtype on the same
inputs, plus a floor. In float64, where the reference is no better than what it judges, we agree with
``torch.nn.GRU`` to 1e-10. Where torch's switch lets float32 be multiplied with fewer bits, the error of ``nn.GRU`` is
taken for what it would be with products as inexact: see ``of_precision``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

TIMES_FRAMEWORK = 2.0
# The floor: so many units in the last place of the tensor's largest magnitude. Where nn.GRU happens to be exact, twice
# its error would allow nothing.
FLOOR_ULPS = 4
# And so much of anything: below it is underflow.
FLOOR_ABSOLUTE = 1e-30
FLOAT64_TOLERANCE = 1e-10
# How much of itself a product of float32 may be off by the names of torch.set_float32_matmul_precision. Two numbers
# that are two bfloat16 each are within 2^-17, and their product lacks that of the lower parts, at most 2^-16 of it;
# two that are rounded to bfloat16 are within 2^-8 (csrc/cpu/kernels/parts.h).
PRODUCT_ERRORS = {"highest": 0.0, "high": 2.0**-15, "medium": 2.0**-7}


def assert_accurate(ours: Tensor, framework: Tensor, exact: Tensor, name: str) -> None:
    """Fail unless ``ours`` is as near to ``exact`` (float64) as the policy asks, given the result of ``nn.GRU``.

    The error is the largest absolute difference; relative errors are to the largest magnitude of ``exact``, for all
    three tensors the same, so that one bound limits both. In float64 ``exact`` is the result of ``nn.GRU``.
    """
    _assert_same_kind(ours, framework, name)
    expected = exact.to(ours.dtype)
    if ours.dtype == torch.float64:
        allowed = FLOAT64_TOLERANCE * max(1.0, _magnitude(exact))
    else:
        floor = FLOOR_ULPS * torch.finfo(ours.dtype).eps * _magnitude(exact) + FLOOR_ABSOLUTE
        allowed = TIMES_FRAMEWORK * _largest(_error(framework, exact)) + floor
    _assert_within(ours, expected, exact, allowed, name)


def assert_all_accurate(
    ours: Mapping[str, Tensor], framework: Mapping[str, Tensor], exact: Mapping[str, Tensor]
) -> None:
    """``assert_accurate`` for each of several named results."""
    assert ours.keys() == framework.keys() == exact.keys(), f"{ours.keys()}, {framework.keys()}, {exact.keys()}"
    for name, tensor in ours.items():
        assert_accurate(tensor, framework[name], exact[name], name)


def of_precision(precision: str, framework: Tensor, in_bfloat16: Tensor, exact: Tensor) -> Tensor:
    """A result as far from ``exact`` as that of ``nn.GRU`` in float32 with products of this precision would be.

    To the error in float32, which is that of all but the products, comes that in bfloat16, whose products are off as
    those of "medium", in proportion to the precision's.
    """
    part = PRODUCT_ERRORS[precision] / PRODUCT_ERRORS["medium"]
    return exact.double() + _error(framework, exact) + part * _error(in_bfloat16, exact)


def assert_near(ours: Any, expected: Any, name: str = "result", tolerance: float = FLOAT64_TOLERANCE) -> None:
    """Fail unless tensors of one dtype differ by at most ``tolerance``, or that of the largest magnitude if > 1."""
    for tensor, other, of in _pairs(ours, expected, name):
        _assert_same_kind(tensor, other, of)
        _assert_within(tensor, other, other, tolerance * max(1.0, _magnitude(other)), of)


def assert_same_bits(ours: Any, expected: Any, name: str = "result") -> None:
    """Fail unless dtype, shape and every bit agree: NaN equals the same NaN, 0.0 is not -0.0."""
    for tensor, other, of in _pairs(ours, expected, name):
        _assert_same_kind(tensor, other, of)
        if not torch.equal(_bits(tensor), _bits(other)):
            different = (_bits(tensor) != _bits(other)).view(tensor.numel(), -1).any(1).reshape(tensor.shape)
            place = tuple(different.nonzero()[0].tolist())
            raise AssertionError(
                f"{of}: {int(different.sum())} of {tensor.numel()} elements differ in their bits, first at {place}:"
                f" {tensor[place].item()!r}, expected {other[place].item()!r}"
            )


def assert_same_state(module: nn.Module, peer: nn.Module) -> None:
    """Fail unless two modules have the same names in the same order, with the same bits."""
    state, expected = module.state_dict(), peer.state_dict()
    assert list(state) == list(expected)
    assert_same_bits(state, expected, "state")


def _pairs(ours: Any, expected: Any, name: str) -> Iterator[tuple[Tensor, Tensor, str]]:
    """Each tensor beside that which is expected in its place, and the name of the place."""
    if isinstance(expected, Tensor):
        assert isinstance(ours, Tensor), f"{name}: {type(ours).__name__}, expected a tensor"
        yield ours, expected, name
        return
    parts, others = _parts(ours, name), _parts(expected, name)
    assert parts.keys() == others.keys(), f"{name}: {[*parts]}, expected {[*others]}"
    for key, part in parts.items():
        yield from _pairs(part, others[key], f"{name}, {key}")


def _parts(value: Any, name: str) -> Mapping[Any, Any]:
    """What a tuple, list or mapping has, by index or key."""
    if isinstance(value, PackedSequence):
        return {field: tensor for field, tensor in value._asdict().items() if tensor is not None}
    assert isinstance(value, (tuple, list, Mapping)), f"{name}: {type(value).__name__}, expected tensors"
    return value if isinstance(value, Mapping) else dict(enumerate(value))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _assert_same_kind(ours: Tensor, expected: Tensor, name: str) -> None:
    assert ours.shape == expected.shape, f"{name}: shape {tuple(ours.shape)}, expected {tuple(expected.shape)}"
    assert ours.dtype == expected.dtype, f"{name}: dtype {ours.dtype}, expected {expected.dtype}"


def _error(tensor: Tensor, exact: Tensor) -> Tensor:
    """Absolute differences in float64; zero where both are NaN or the same infinity."""
    tensor, exact = tensor.detach().double(), exact.detach().double()
    same = (tensor == exact) | (tensor.isnan() & exact.isnan())
    return torch.where(same, 0.0, (tensor - exact).abs())


def _largest(error: Tensor) -> float:
    return float(error.max()) if error.numel() else 0.0


def _magnitude(exact: Tensor) -> float:
    finite = exact.detach().double()
    return _largest(torch.where(finite.isfinite(), finite, 0.0).abs())


def _assert_within(ours: Tensor, expected: Tensor, exact: Tensor, allowed: float, name: str) -> None:
    """``expected`` is ``exact`` in the dtype of ``ours``: it says where NaN and infinity belong."""
    for kind in (torch.isnan, torch.isinf):
        here, there = kind(ours.detach()), kind(expected.detach())
        if not torch.equal(here, there):
            place = tuple((here != there).nonzero()[0].tolist())
            raise AssertionError(
                f"{name}: {kind.__name__} at {int(here.sum())} of {ours.numel()} elements, expected"
                f" {int(there.sum())}; first difference at {place}: {ours[place].item()!r},"
                f" expected {exact[place].item()!r}"
            )
    error = _error(ours, exact)
    largest = _largest(error)
    if not largest <= allowed:
        place = tuple(int(i) for i in torch.unravel_index(error.nan_to_num(torch.inf).argmax(), error.shape))
        magnitude = _magnitude(exact)
        raise AssertionError(
            f"{name}: largest absolute error {largest:.3e}, allowed {allowed:.3e}; relative to the largest magnitude"
            f" {magnitude:.3e}: {largest / magnitude if magnitude else torch.inf:.3e}; {int((error > allowed).sum())}"
            f" of {error.numel()} elements beyond; worst at {place}: {ours[place].item()!r},"
            f" expected {exact[place].item()!r}"
        )
