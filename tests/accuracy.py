"""Accuracy as data: the cases, and the one check of them, for whatever solves a layer.

A case is a layer, the variant of its recurrence, and what is special about its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from cases import (
    ALL_OPTIONS,
    FLOATING,
    Options,
    Problem,
    Size,
    exact,
    framework,
    layer_with,
    make_problem,
    ours,
    reference_with,
    solve,
    variants_of,
)
from compare import assert_all_accurate, of_precision
from layouts import beside_a_boundary, every_other, inner_transposed, of_a_long_sequence, sliced, transposed
from torch import Tensor

from gru_ext.variant import PLAIN, Variant

if TYPE_CHECKING:
    import pytest  # which a machine that rehearses the check on a GPU may lack

Results = dict[str, Tensor]  # as of ``cases.solve``
Solver = Callable[[Problem, Variant, bool], Results]  # the bool: whether gates are saved, or computed again

LAYOUTS = {
    layout.__name__: layout
    for layout in (transposed, inner_transposed, sliced, every_other, beside_a_boundary, of_a_long_sequence)
}
STRIDES = ("transposed", "inner_transposed", "sliced", "every_other")
MAGNITUDES = ("x * 0.0", "x * 1e-6", "x * 30.0", "x * 1e4")
TF32_PEERS = {torch.float32: torch.float16}  # TF32 has the 10 bits of float16, and is judged by nn.GRU in that
ABSENT = ("no dy", "no dh_n")
BOTH = Options(bidirectional=True, packed=True)


class Case(NamedTuple):
    """What has to be accurate."""

    size: Size
    options: Options = Options()
    dtype: torch.dtype = torch.float64
    variant: str = ""  # see ``variants``
    change: str = ""  # see ``problem``
    save_gates: bool = True

    def __str__(self) -> str:
        size = "-".join(f"{letter}{number}" for letter, number in zip("TBIH", self.size, strict=True))
        dtype = str(self.dtype).removeprefix("torch.")
        saves = "" if self.save_gates else "gates computed again"
        return ", ".join(filter(None, (self.variant, self.change, saves, size, str(self.options), dtype)))

    def problem(self, device: str = "cpu") -> Problem:
        """Random arguments."""
        problem = make_problem(self.size, replace(self.options, gains="norm" in self.variant), self.dtype)
        problem = problem.map(lambda tensor: tensor.to(device))
        if self.change in LAYOUTS:
            return problem.map(LAYOUTS[self.change])
        if self.change.startswith("x * "):
            return replace(problem, x=problem.x * float(self.change.removeprefix("x * ")))
        if self.change == "forward alone":
            return replace(problem, dy=None, dh_n=None)
        if self.change in ABSENT:
            return replace(problem, dy=None) if self.change == "no dy" else replace(problem, dh_n=None)
        if self.change.startswith("beside_a_boundary of "):
            tensor = self.change.removeprefix("beside_a_boundary of ")
            return replace(problem, **{tensor: getattr(problem.map(beside_a_boundary), tensor)})
        assert self.change in ("", "batch first"), self.change
        return problem

    def variants(self, problem: Problem) -> list[Variant]:
        """The variants of the recurrence that are checked: several where masks are of each kind."""
        reset_after = "reset before" not in self.variant
        norms = 1 if "joint norm" in self.variant else 2 if "norm" in self.variant else 0
        masked = variants_of(problem) if "mask" in self.variant else {"none": PLAIN}
        chosen = [masked["all"]] if "all masks" in self.variant else masked.values()
        return [variant._replace(reset_after=reset_after, layer_norm=norms) for variant in chosen]


def grid(
    layers: Iterable[tuple[Size, Options]],
    dtypes: Sequence[torch.dtype] = FLOATING,
    variants: Sequence[str] = ("",),
    changes: Sequence[str] = ("",),
    save_gates: bool = True,
) -> list[Case]:
    """Every combination."""
    return [
        Case(*layer, dtype, variant, change, save_gates)
        for variant, layer, change, dtype in product(variants, list(layers), changes, dtypes)
    ]


def by_gru_ext(problem: Problem, variant: Variant, save_gates: bool) -> Results:
    """By the operators of the problem's device, as autograd calls them."""
    return solve(ours if variant == PLAIN and save_gates else layer_with(variant, save_gates), problem)


class Expected(NamedTuple):
    """What results are judged by: problems of one shape, a variant, and what others make of them, stacked."""

    problems: Sequence[Problem]
    variant: Variant
    theirs: Results  # by nn.GRU in the dtype of the peer; of a variant, which torch.nn has not, by the reference
    exact: Results  # by the reference in float64; of float64 as theirs, for it is no better

    def check(self, solver: Solver, save_gates: bool) -> None:
        """Fail unless every result and gradient is within the policy of compare.py."""
        ours = _stacked([solver(problem, self.variant, save_gates) for problem in self.problems])
        assert_all_accurate(ours, self.theirs, self.exact)


def expect(problems: Sequence[Problem], variant: Variant = PLAIN, peer: torch.dtype | None = None) -> Expected:
    """Solve problems by their peer, ``nn.GRU`` in a dtype that is theirs by default, and by the reference."""
    dtype = problems[0].x.dtype
    layer = framework if variant == PLAIN else reference_with(variant)
    specification = exact if variant == PLAIN else layer
    dense = [problem.map(Tensor.contiguous) for problem in problems]  # as cuDNN wants states
    theirs = _stacked([solve(layer, problem.to(peer or dtype)) for problem in dense])
    if dtype == torch.float64:
        return Expected(problems, variant, theirs, theirs)
    return Expected(
        problems,
        variant,
        {name: tensor.to(dtype) for name, tensor in theirs.items()},
        _stacked([solve(specification, problem.to(torch.float64)) for problem in dense]),
    )


def expect_of_precision(precision: str, problems: Sequence[Problem], variant: Variant) -> Expected:
    """The same of float32 whose products are of a precision as ``torch.set_float32_matmul_precision`` names it."""
    expected, in_bfloat16 = expect(problems, variant), expect(problems, variant, torch.bfloat16)
    theirs = {
        name: of_precision(precision, tensor, in_bfloat16.theirs[name], expected.exact[name])
        for name, tensor in expected.theirs.items()
    }
    return expected._replace(theirs={name: tensor.float() for name, tensor in theirs.items()})


def expected_of(
    case: Case,
    peer: torch.dtype | None = None,
    device: str = "cpu",
    draws: int | None = None,
    precision: str = "highest",
) -> Iterator[Expected]:
    """Of each of the case's variants.

    The error of the peer in one number is chance: small problems are judged several at a time, or ``draws``.
    """
    count = draws or 1 + 16 // (case.size.batch * case.size.hidden)
    problems = [case.problem(device) for _ in range(count)]
    for variant in case.variants(problems[0]):
        values: list[Any] = [value.to(device) if isinstance(value, Tensor) else value for value in variant]
        if precision == "highest":
            yield expect(problems, Variant(*values), peer)
        else:
            yield expect_of_precision(precision, problems, Variant(*values))


def check(
    case: Case, solver: Solver, peer: torch.dtype | None = None, device: str = "cpu", draws: int | None = None
) -> None:
    """Fail unless every result and gradient of a case is within the policy of compare.py."""
    for expected in expected_of(case, peer, device, draws):
        expected.check(solver, case.save_gates)


def check_problems(
    problems: Sequence[Problem],
    solver: Solver,
    variant: Variant = PLAIN,
    save_gates: bool = True,
    peer: torch.dtype | None = None,
) -> None:
    """As above, for problems of one shape."""
    expect(problems, variant, peer).check(solver, save_gates)


def _stacked(results: Sequence[Results]) -> Results:
    return {name: torch.stack([result[name] for result in results]) for name in results[0]}


# ---- The cases of the CPU's kernels, of which some are for each instruction set

SIZES = [
    Size(1, 1, 1, 1),
    Size(2, 3, 5, 7),
    Size(7, 1, 16, 16),
    Size(5, 4, 33, 65),
    Size(12, 6, 20, 48),
]
SMALL = Size(5, 3, 4, 9)
SOME_OPTIONS = [
    Options(),
    Options(bias=False, hx=False),
    Options(packed=True),
    Options(bidirectional=True),
    Options(bidirectional=True, packed=True, hx=False),
]
# Enough rows for several chunks of time (csrc/cpu/forward.cpp), several tiles of rows, many steps, long sums
# (product_body.h), weights that are not packed, an odd number of groups.
LARGE = [
    (Size(40, 17, 24, 130), Options()),
    (Size(300, 2, 8, 20), Options(bidirectional=True)),
    (Size(9, 70, 16, 256), Options(bias=False)),
    (Size(3, 300, 4, 12), BOTH),
]
LARGE_PLAIN = [
    *LARGE,
    (Size(600, 8, 8, 64), Options(bidirectional=True)),
    (Size(600, 8, 8, 64), Options(packed=True)),
    (Size(3, 20, 600, 300), Options()),
    (Size(2000, 1, 4, 16), Options()),
]
LONG_SUM = (Size(3, 5, 600, 300), Options())
SAVED = [Size(1, 1, 1, 1), Size(5, 3, 4, 7), Size(9, 2, 5, 33), Size(130, 9, 3, 5)]  # the last in several chunks
MASKED = [Size(1, 1, 1, 1), Size(4, 3, 2, 5), Size(5, 14, 9, 40), Size(9, 2, 3, 33)]
MASKED_OPTIONS = [Options(), Options(bias=False, hx=False), BOTH, Options(bidirectional=True, hx=False)]
# Not fewer units: the fewer share a mean and a variance, the more of a gradient is what rounding leaves of zero.
NORMALISED = [Size(1, 1, 4, 8), Size(2, 3, 5, 7), Size(5, 4, 33, 65), Size(12, 6, 20, 48)]
NORMALISED_OPTIONS = [Options(), Options(bias=False, hx=False), BOTH]
NORMS = ("layer norm", "joint norm")

# Weights that are not packed, with rests of I and of H; of one row and step, the gradients of weights row by row.
FEW_ROWS = [(Size(2, 3, 90, 75), BOTH), (Size(1, 1, 90, 75), Options())]

CPU = [
    *grid(product(SIZES, ALL_OPTIONS)),
    *grid(product([SMALL], [Options(), BOTH]), changes=ABSENT),
    *grid([(SMALL, Options())], changes=MAGNITUDES),
    *grid(product([SMALL], [Options(), Options(packed=True), Options(bidirectional=True)]), changes=STRIDES),
    *grid(product(SAVED, ALL_OPTIONS), save_gates=False),
    *grid(product(SIZES, SOME_OPTIONS), variants=["reset before"]),
    *grid([(SMALL, Options(packed=True))], variants=["reset before"], changes=ABSENT),
    *grid([(SMALL, Options())], variants=["reset before"], changes=MAGNITUDES),
    *grid(product(MASKED, MASKED_OPTIONS), variants=["every mask"]),
    *grid(product(MASKED[1:3], SOME_OPTIONS), variants=["every mask, reset before"]),
    *grid(product(NORMALISED, NORMALISED_OPTIONS), variants=NORMS),
    *grid(
        product(MASKED[2:], NORMALISED_OPTIONS),
        [torch.float64],
        [*NORMS, *(f"every mask, {norm}" for norm in NORMS)],
    ),
    *grid(
        product([SAVED[1], SAVED[3]], [Options(), BOTH]),
        [torch.float64],
        ["every mask", "every mask, reset before", *NORMS, *(f"all masks, {norm}" for norm in NORMS)],
        save_gates=False,
    ),
    *grid(LARGE_PLAIN),
    *grid([*LARGE, LONG_SUM, (Size(30, 40, 8, 64), Options(packed=True))], variants=["reset before"]),
    *grid([*LARGE, LONG_SUM], variants=["layer norm"]),
    *grid(FEW_ROWS, variants=["", "every mask"]),
]
IN_THREADS = [
    *grid([(Size(30, 30, 16, 65), Options()), (Size(5, 17, 33, 200), BOTH)], [torch.float32, torch.bfloat16]),
    *grid([(Size(30, 30, 16, 200), BOTH)], [torch.float32, torch.bfloat16], ["reset before", "layer norm"]),
]
OF_EACH_ISA = [
    *grid(product(SIZES[1:], [Options(), Options(bidirectional=True, bias=False), Options(packed=True, hx=False)])),
    *grid(product(SIZES[1:], SOME_OPTIONS[:4]), variants=["reset before"]),
    *grid([(MASKED[3], BOTH)], variants=["every mask"]),
    *grid(product(NORMALISED[1:3], [BOTH]), [torch.float32, torch.bfloat16], NORMS),
    *grid([LARGE[0]], variants=["", "reset before"]),
    # On tiles, weights that are not packed: two tiles of rows, the second not full; a rest of units, of I and of H.
    *grid([(Size(2, 18, 50, 39), BOTH)], [torch.bfloat16], ["", "every mask", "every mask, reset before", *NORMS]),
    *grid([LARGE[0]], [torch.float32, torch.bfloat16], ["layer norm"]),
    *grid(FEW_ROWS, variants=["", "every mask", "every mask, reset before", *NORMS]),
]


def forbid_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's switch for cuDNN's RNNs."""
    if hasattr(torch.backends.cudnn, "rnn"):
        monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    else:  # torch before 2.9
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
