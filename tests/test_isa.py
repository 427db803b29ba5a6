"""GRU_EXT_CPU_ISA: with each instruction set accuracy, NaN where it belongs, int8 as specified; wrong names."""

from __future__ import annotations

from subprocess import CompletedProcess

import pytest
import torch
from process import output_of, run_python

import gru_ext
from gru_ext import library, quantize_dynamic

VARIABLE = "GRU_EXT_CPU_ISA"

EVERYTHING = """
import os
import sys

import torch
from accuracy import OF_EACH_ISA, by_gru_ext, expected_of
from cases import Options, make_problem
from int8_cases import LARGE, SIZES, check_every_step
from nonfinite import check_every_place

from gru_ext import library
from gru_ext.info import info

torch.set_num_threads(1)
expected = []
for case in OF_EACH_ISA:
    torch.manual_seed(0)
    expected.append((case, [*expected_of(case)]))


def everything(isa: str) -> None:
    assert library.cpu_isa() == isa
    assert info()["cpu kernels"].startswith(f"{isa} in use, of {', '.join(library.available_cpu_isas())}")
    for case, of_variants in expected:
        try:
            for of_variant in of_variants:
                of_variant.check(by_gru_ext, case.save_gates)
        except AssertionError as error:
            raise AssertionError(f"{isa}: {case}") from error
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.manual_seed(0)
        check_every_place("reset after", dtype)
    for size in [*SIZES, LARGE[-1]]:
        for options in (Options(), Options(bidirectional=True, bias=False), Options(packed=True, hx=False)):
            torch.manual_seed(0)
            check_every_step(make_problem(size, options, torch.float32))
    module, x, y = torch.load(sys.argv[1], weights_only=False)
    assert (module(x)[0] - y).abs().max() < 1e-5


for isa in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        os.environ["GRU_EXT_CPU_ISA"] = isa
        everything(isa)
        print(isa, "as specified")
        break
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def of_each_isa(tmp_path_factory: pytest.TempPathFactory) -> CompletedProcess[str]:
    """Of a process that knows what to expect, a child for each instruction set."""
    path = tmp_path_factory.mktemp("isa") / "module.pt"
    module, x = quantize_dynamic(gru_ext.GRU(9, 20)), torch.randn(1, 5, 9)
    torch.save((module, x, module(x)[0]), path)
    return run_python("-c", EVERYTHING, path, *library.available_cpu_isas(), timeout=600)


@pytest.mark.parametrize("isa", library.available_cpu_isas())
def test_each_instruction_set(isa: str, of_each_isa: CompletedProcess[str]) -> None:
    """Accurate, NaN where it belongs, int8 as specified, and int8 modules that another one saved."""
    assert f"{isa} as specified\n" in of_each_isa.stdout, of_each_isa.stderr


def test_the_portable_kernels_are_always_there_and_the_last_are_the_default() -> None:
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
