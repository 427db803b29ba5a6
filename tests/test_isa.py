"""GRU_EXT_CPU_ISA: each instruction set is accurate and has NaN where it belongs; wrong names are errors."""

from __future__ import annotations

import pytest
from process import output_of, run_python

from gru_ext import library

VARIABLE = "GRU_EXT_CPU_ISA"

ACCURACY = """
import sys

import torch
from cases import FLOATING, Options, make_problem
from test_gru import LARGE, SIZES, check_accuracy
from test_nonfinite import check_every_place
from test_regularizers import check_accuracy as check_accuracy_with_masks

from gru_ext import library
from gru_ext.info import info

assert library.cpu_isa() == sys.argv[1]
assert info()["cpu kernels"].startswith(f"{sys.argv[1]} in use, of {', '.join(library.available_cpu_isas())}")
torch.set_num_threads(1)
for dtype in FLOATING:
    for size in SIZES[1:]:
        for options in (Options(), Options(bidirectional=True, bias=False), Options(packed=True, hx=False)):
            torch.manual_seed(0)
            check_accuracy(make_problem(size, options, dtype), make_problem(size, options, dtype))
    torch.manual_seed(0)
    check_accuracy(make_problem(*LARGE[0], dtype))
    check_accuracy_with_masks(SIZES[-1], Options(bidirectional=True, packed=True), dtype)
for dtype in (torch.float32, torch.float64):
    check_every_place("reset after", dtype)
print("accurate")
"""


@pytest.mark.parametrize("isa", library.available_cpu_isas())
def test_accuracy_with_each_instruction_set(isa: str) -> None:
    assert output_of(run_python("-c", ACCURACY, isa, environment={VARIABLE: isa})) == "accurate\n"


def test_the_portable_kernels_are_always_there_and_the_widest_is_the_default() -> None:
    available = library.available_cpu_isas()
    assert available[0] == "portable"
    script = "import gru_ext; print(gru_ext.library.cpu_isa())"
    assert output_of(run_python("-c", script, environment={VARIABLE: ""})) == f"{available[-1]}\n"


UNKNOWN = """
import torch

import gru_ext

module = gru_ext.GRU(3, 4)
for call in (gru_ext.library.cpu_isa, lambda: module(torch.zeros(5, 2, 3))):
    try:
        call()
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize("name", ["avx1024", "AVX2", " "])
def test_an_unknown_name_is_a_value_error_that_names_the_available_ones(name: str) -> None:
    text = (
        f"gru_ext: expected the environment variable {VARIABLE} to be one of {', '.join(library.available_cpu_isas())}"
        f" on this machine, got {name}\n"
    )
    assert output_of(run_python("-c", UNKNOWN, environment={VARIABLE: name})) == text * 2
