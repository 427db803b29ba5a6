"""Random calls of the operators ``gru_fwd`` and ``gru_bwd``, on the CPU and in the emulated CUDA backend.

Letters as in ``cases``: T steps, B batch, I input, H hidden, D directions, N rows of all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from cases import (
    FLOATING,
    Options,
    Problem,
    Size,
    framework,
    make_problem,
    reference_with,
    solve,
    solve_by,
    solve_by_hand,
    variants_of,
)
from emulated_backend import emulate
from hypothesis import strategies as st
from layouts import beside_a_boundary, every_other, transposed
from process import thread_count
from torch import Tensor

from fuzz.judge import judge
from gru_ext.variant import PLAIN, Variant

MASKS = ("", "zoneout", "zoneout of eval mode", "recurrent dropout", "candidate dropout", "all")


def _in_wider_rows(tensor: Tensor) -> Tensor:
    """A column more than it has: rows that begin at odd places, NaN between them."""
    return torch.nn.functional.pad(tensor, (0, 1), value=torch.nan)[..., :-1]


def _expanded(tensor: Tensor) -> Tensor:
    """Its first element everywhere, as the gradient of a sum is."""
    return tensor.flatten()[0].expand(tensor.shape) if tensor.numel() else tensor


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "transposed": transposed,
    "every other": every_other,
    "odd place": beside_a_boundary,
    "wider rows": _in_wider_rows,
    "expanded": _expanded,
}


def _sprinkled(tensor: Tensor) -> Tensor:
    """With one element in eight, or a single one, of those that arithmetic treats apart."""
    info = torch.finfo(tensor.dtype)
    # None so large that the order of additions decides whether they overflow.
    large = info.max**0.5
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0, large, -large, info.smallest_normal / 4])
    chosen = special[torch.randint(len(special), tensor.shape)].to(tensor.dtype)
    places = torch.rand(tensor.shape) < 0.125
    return torch.where(places, chosen, tensor)


def _root_of_largest(tensor: Tensor) -> Tensor:
    """So large that products of two overflow, or nearly."""
    return tensor.mul(torch.finfo(tensor.dtype).max ** 0.5)


def _denormal(tensor: Tensor) -> Tensor:
    return tensor * torch.finfo(tensor.dtype).smallest_normal / 16


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "sprinkled": _sprinkled,
    "huge": _root_of_largest,
    "denormal": _denormal,
    "zero": torch.zeros_like,
}
TENSORS = ("x", "hx", "weights", "dy", "dh_n")


@dataclass(frozen=True)
class Case:
    """One layer and how it is called."""

    seed: int
    size: Size
    options: Options
    dtype: torch.dtype
    reset_after: bool
    norms: int
    masks: str  # one of MASKS
    values: tuple[str, str]  # which of TENSORS has what of VALUES; empty: all are as `make_problem` draws them
    layouts: tuple[str, ...]  # of each of TENSORS
    given: str  # "dy", "dh_n" or "both"
    need: tuple[bool, bool, bool]  # of dx, dhx, dweights
    save_gates: bool
    threads: int
    backend: str  # "cpu", or the family of CUDA kernels that is asked for

    def draw(self, number: int) -> tuple[Problem, Variant]:
        """The arguments, in the layouts of the case."""
        torch.manual_seed(self.seed + number)
        problem = make_problem(self.size, self.options, self.dtype)
        variant = PLAIN._replace(reset_after=self.reset_after)
        if self.masks:
            variant = variants_of(problem, self.reset_after)[self.masks]
        tensor, kind = self.values
        if kind:
            problem = _changed(problem, tensor, VALUES[kind])
        for name, layout in zip(TENSORS, self.layouts, strict=True):
            problem = _changed(problem, name, LAYOUTS[layout])
        if self.given != "both":
            problem = replace(problem, dh_n=None) if self.given == "dy" else replace(problem, dy=None)
        return problem, variant._replace(layer_norm=self.norms)


def _changed(problem: Problem, name: str, change: Callable[[Tensor], Tensor]) -> Problem:
    if name == "weights":
        return replace(problem, weights=[change(weight) for weight in problem.weights])
    tensor = getattr(problem, name)
    changed: dict[str, Any] = {} if tensor is None else {name: change(tensor)}
    return replace(problem, **changed)


@st.composite
def cases(draw: st.DrawFn, backend: str) -> Case:
    """Of the CPU backend, or of the emulated one ("cuda"), which is slower and so has smaller ones."""
    on_cpu = backend == "cpu"
    norms = draw(st.sampled_from([0, 0, 0, 1, 2]))
    packed = draw(st.booleans())
    fewest = 4 if norms else 1  # units that are to have a variance
    hidden = st.one_of(st.integers(fewest, 36), st.integers(60, 70))  # on both sides of tiles, and of two threads' part
    layouts = st.tuples(*[st.sampled_from(list(LAYOUTS)) for _ in TENSORS])
    if norms > 0:  # rows of weights that are all the same have no variance, of which rounding makes anything
        layouts = layouts.filter(lambda names: names[TENSORS.index("weights")] != "expanded")
    masks = draw(st.sampled_from(MASKS))
    dtype = draw(st.sampled_from(FLOATING))
    reset_after = norms > 0 or draw(st.booleans())
    kernels = ["auto", "stepwise"]
    if dtype != torch.float64 and reset_after and norms == 0:
        kernels += ["streamed"] if masks else ["cluster", "group", "streamed"]
    return Case(
        seed=draw(st.integers(0, 2**31)),
        size=Size(
            draw(st.integers(1, 7 if on_cpu else 5)),
            # A packed batch of no sequence has no step.
            draw(st.integers(1 if packed else 0, 20)),
            draw(st.integers(0, 20 if on_cpu else 9)),
            draw(hidden),
        ),
        options=Options(draw(st.booleans()), draw(st.booleans()), draw(st.booleans()), packed, gains=norms > 0),
        dtype=dtype,
        reset_after=reset_after,
        norms=norms,
        masks=masks,
        values=draw(st.one_of(st.just(("", "")), st.tuples(st.sampled_from(TENSORS), st.sampled_from(sorted(VALUES))))),
        layouts=draw(layouts),
        given=draw(st.sampled_from(["both", "dy", "dh_n"])),
        need=draw(st.tuples(st.booleans(), st.booleans(), st.booleans())),
        save_gates=draw(st.booleans()),
        threads=draw(st.integers(1, 3)),
        backend="cpu" if on_cpu else draw(st.sampled_from(kernels)),
    )


@cache
def _emulated_operators() -> Any:
    """Of a device that is large enough for all kernels; each is tested by its own self-test when first used."""
    return emulate()


@contextmanager
def operators(backend: str) -> Iterator[Any]:
    """``torch.ops.gru_ext``, or the emulated ones, which then use the kernels of this family."""
    if backend == "cpu":
        yield torch.ops.gru_ext
        return
    ops = _emulated_operators()
    before = ops.use_cuda_kernels(backend, backend)
    try:
        yield ops
    finally:
        ops.use_cuda_kernels(*before)


def check(case: Case) -> None:
    """Fail unless every result is as near to float64 as the policy of ``compare`` asks."""
    with thread_count(case.threads):
        judge(lambda number: _solve_thrice(case, *case.draw(number)))


def _kind(tensor: Tensor) -> Tensor:
    """Of each element: 0 finite, 1 infinite, 2 NaN."""
    return tensor.isinf().to(torch.int8) + 2 * tensor.isnan().to(torch.int8)


def _solve_thrice(case: Case, problem: Problem, variant: Variant) -> tuple[dict[str, Tensor], ...]:
    """Ours, what the policy compares it with, and float64.

    Theirs are autograd's gradients, those of float64 are the reference's by hand: of an infinite gradient they may
    make a NaN in other places, and both are right.
    """
    with operators(case.backend) as ops:
        no_y, h_n_alone, _ = ops.gru_fwd(*problem.layer, False, False, *variant)
        ours = solve_by(ops, problem, variant, case.save_gates, case.need) | {"h_n without y": h_n_alone}
    assert no_y.shape == (0,)
    plain_problem = problem.map(lambda tensor: tensor.detach().contiguous())
    layer = reference_with(variant)
    # TF32 has the 10 bits of float16.
    is_tf32 = case.dtype == torch.float32 and case.backend not in ("cpu", "stepwise")
    peer = layer if variant != PLAIN or problem.x.numel() == 0 else framework
    theirs = solve(peer, plain_problem.to(torch.float16) if is_tf32 else plain_problem)
    exact = solve_by_hand(plain_problem.to(torch.float64), variant)
    for results in (theirs, exact):
        results["h_n without y"] = results["h_n"]
    theirs, exact = {n: theirs[n].to(case.dtype) for n in ours}, {n: exact[n] for n in ours}
    for name in ours:
        # Where a dtype's own range, and not the layer, decides what is finite, nothing is expected.
        undecided = _kind(theirs[name]) != _kind(exact[name].to(case.dtype))
        for results in (ours, theirs, exact):
            results[name] = results[name].masked_fill(undecided, 0.0)
    return ours, theirs, exact
