"""float32 by parts of bfloat16, where torch's switch for products on a CPU allows it and there are tiles."""

from __future__ import annotations

import amx
import pytest
from amx import with_bf16
from process import fork_python, output_of

VARIABLE = "GRU_EXT_CPU_ISA"
PRECISIONS = ("high", "medium")


def run(script: str, *arguments: str, isa: str = amx.PORTABLE) -> str:
    """What it prints, in a process with that instruction set, whose threads do not ask what waits cost."""
    environment = {VARIABLE: isa, "GRU_EXT_CPU_WAIT": "0.1", "GRU_EXT_CPU_CORES": "64"}
    return output_of(fork_python("-c", script, *arguments, environment=environment, timeout=600))


ACCURACY = """
import sys

import torch
from accuracy import BOTH, LARGE, OF_EACH_ISA, SMALL, STRIDES, by_gru_ext, expected_of, grid
from cases import Options, Size

precision = sys.argv[1]
cases = [
    *(case for case in OF_EACH_ISA if case.dtype == torch.float32),
    *grid([*LARGE, (Size(3, 5, 600, 300), Options())], [torch.float32]),
    *grid([(SMALL, BOTH), (Size(130, 9, 3, 5), Options())], [torch.float32], save_gates=False),
    *grid([(SMALL, Options())], [torch.float32], changes=[*STRIDES, "no dy", "no dh_n"]),
    *grid([(Size(5, 14, 9, 40), BOTH)], [torch.float32], ["every mask, reset before", "every mask"]),
]
for case in cases:
    torch.manual_seed(0)
    for expected in expected_of(case, precision=precision):
        torch.set_float32_matmul_precision(precision)
        try:
            expected.check(by_gru_ext, case.save_gates)
        except AssertionError as error:
            raise AssertionError(case) from error
        finally:
            torch.set_float32_matmul_precision("highest")
print(len(cases) > 40)
"""


@with_bf16
@pytest.mark.parametrize("precision", PRECISIONS)
def test_results_and_gradients_are_as_exact_as_their_products(precision: str) -> None:
    """Of every variant, regular and odd sizes, by the policy of compare.py."""
    assert run(ACCURACY, precision) == "True\n"


BITS = """
import torch
from building import digest_of
from cases import Options, Size, make_problem, ours, solve

torch.manual_seed(0)
problems = [make_problem(Size(5, 9, 33, 40), Options(bidirectional=True), torch.float32)]
problems.append(make_problem(Size(6, 4, 5, 20), Options(packed=True), torch.float32))
for precision in ("highest", "high", "medium"):
    torch.set_float32_matmul_precision(precision)
    for problem in problems:
        results = [tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in solve(ours, problem).values()]
        print(precision, digest_of(*results))
"""


@with_bf16
def test_highest_is_ieee_and_machines_without_tiles_know_nothing_else() -> None:
    by_tiles, by_vectors = run(BITS).splitlines(), run(BITS, isa="avx512").splitlines()
    assert by_tiles[:2] == by_vectors[:2]
    assert len({line.split()[1] for line in by_tiles}) == 6
    assert len({line.split()[1] for line in by_vectors}) == 2


SWITCHES = """
import torch

import gru_ext

torch.manual_seed(0)
module, x = gru_ext.GRU(32, 48), torch.randn(5, 9, 32)
exported = torch.export.export(module.eval(), (x,)).module()
prepared = gru_ext.prepare(module)


def results(layer, x=x):
    with torch.no_grad():
        return layer(x)[0]


def same(ours, expected):
    return torch.equal(ours.view(torch.int32), expected.view(torch.int32))


highest, of_few, of_one = results(module), results(module, x[:1, :2]), results(module, x[:, :1])
by_name = {}
for precision in ("high", "medium"):
    torch.set_float32_matmul_precision(precision)
    by_name[precision] = results(module)
    assert same(results(exported), by_name[precision])  # read at each call
    assert same(results(prepared), highest)
    assert same(results(module, x[:1, :2]), of_few)  # too few rows to pack the weights
    assert same(results(module, x[:, :1]), of_one) == (precision == "high")
torch.set_float32_matmul_precision("highest")
assert same(results(module), highest)
assert not same(by_name["high"], by_name["medium"])
backends = torch.backends
if hasattr(backends.mkldnn, "matmul"):
    for name, precision in (("tf32", "high"), ("bf16", "medium")):
        backends.mkldnn.matmul.fp32_precision = name
        assert same(results(module), by_name[precision])
        backends.mkldnn.matmul.fp32_precision = "none"
        backends.fp32_precision = name
        assert same(results(module), by_name[precision])
        backends.fp32_precision = "none"
    assert same(results(module), highest)
print("as the switches say")
"""


@with_bf16
def test_every_switch_is_read_at_each_call() -> None:
    """Torch's old and new ones; weights that are not packed, or were before, and single rows stay IEEE float32."""
    assert run(SWITCHES) == "as the switches say\n"


THREADS = """
import sys

import torch
from cases import Options, Size, layer_with, make_problem, solve, variants_of
from compare import assert_same_bits

from gru_ext.variant import PLAIN

torch.set_float32_matmul_precision(sys.argv[1])
torch.manual_seed(0)
# Five groups of rows and a rest, units of three groups; then sequences that end early, which are one group of rows.
for size, options in ((Size(7, 43, 24, 40), Options()), (Size(9, 40, 24, 40), Options(packed=True))):
    problem = make_problem(size, options, torch.float32)
    masks = variants_of(problem)["all"]
    for variant in (PLAIN, PLAIN._replace(reset_after=False), masks, masks._replace(reset_after=False)):
        torch.set_num_threads(1)
        expected = solve(layer_with(variant), problem)
        for threads in (2, 3, 8, 16):
            torch.set_num_threads(threads)
            assert_same_bits(solve(layer_with(variant), problem), expected, f"on {threads} threads")
print("the same")
"""


@with_bf16
@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_change_no_bit(precision: str) -> None:
    assert run(THREADS, precision) == "the same\n"


NONFINITE = """
import math

import torch

import gru_ext

torch.manual_seed(0)
module, x = gru_ext.GRU(32, 48), torch.randn(5, 9, 32)
torch.set_float32_matmul_precision("high")
for value in (math.inf, -math.inf, math.nan):
    given = x.clone()
    given[2, 4, 7] = value
    y, _ = module(given)
    for row in range(9):
        assert y[:2, row].isfinite().all()
        assert y[2:, row].isnan().all() if row == 4 else y[2:, row].isfinite().all()
print("in its row alone")
"""


@with_bf16
def test_infinities_and_nan_make_their_row_nan() -> None:
    assert run(NONFINITE) == "in its row alone\n"
