"""GRU_EXT_CPU_ISA: with each instruction set accuracy, NaN where it belongs, int8 as specified; wrong names."""

from __future__ import annotations

import re
from subprocess import CompletedProcess

import pytest
import torch
from process import ROOT, TESTS, fork_python, output_of

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
    return fork_python("-c", EVERYTHING, path, *library.available_cpu_isas(), timeout=600)


@pytest.mark.parametrize("isa", library.available_cpu_isas())
def test_each_instruction_set(isa: str, of_each_isa: CompletedProcess[str]) -> None:
    """Accurate, NaN where it belongs, int8 as specified, and int8 modules that another one saved."""
    assert f"{isa} as specified\n" in of_each_isa.stdout, of_each_isa.stderr


ROUNDING = """
import torch
from compare import assert_same_bits

from gru_ext import functional

torch.manual_seed(0)
hx = torch.randn(1, 4, 33).bfloat16()
shut = [torch.zeros(99, 2), torch.zeros(99, 33), torch.zeros(99), torch.zeros(99)]
shut[2][33:66] = 100.0
y, _ = functional.gru(torch.zeros(2, 4, 2).bfloat16(), hx, [w.bfloat16() for w in shut])
assert_same_bits(y, hx.expand(2, 4, 33).contiguous())
shut[2][33:66] = torch.arange(33) / 8  # half shut: products of many bits
y, _ = functional.gru(torch.zeros(1, 4, 2).bfloat16(), hx, [w.bfloat16() for w in shut])
expected = hx.float() * torch.sigmoid(shut[2][33:66].bfloat16().float())
# Some are so near to the middle of two that the last bits of the sigmoid decide.
assert (y != expected.bfloat16()).float().mean() < 0.02
print("rounded")
"""


@pytest.mark.parametrize("isa", library.available_cpu_isas())
def test_a_state_of_bfloat16_is_rounded_to_the_nearest(isa: str) -> None:
    """To the bit as torch rounds, ties to even: of gates that are all shut, the new state is the old one, exactly."""
    assert output_of(fork_python("-c", ROUNDING, environment={VARIABLE: isa})) == "rounded\n"


GATES = """
import torch

from gru_ext import functional

values = torch.cat([torch.linspace(-90, 90, 4001), torch.linspace(-8, 8, 4000)]).bfloat16()
B, exact = len(values), values.double()
zero, one = torch.zeros(3), torch.tensor([1.0, 0, 0])


def step(of_z, of_n, hx):  # the new states where the value is the pre-activation of z, or of n
    weights = [torch.tensor([[0.0], [of_z], [of_n]]), torch.zeros(3, 1), zero, zero]
    y, h_n = functional.gru(values.view(1, B, 1), hx, [w.bfloat16() for w in weights])
    return h_n.view(B).double()


z = step(1.0, 0.0, torch.ones(1, B, 1).bfloat16())  # n = 0: h' = z
n = 2 * step(0.0, 1.0, None)  # z = 1 / 2: h' = n / 2
for found, expected in ((z, exact.sigmoid()), (n, exact.tanh())):
    # Half a step of bfloat16, and what a series may add to it; subnormal numbers may be zero.
    bound = expected.abs() * (2.0**-8 + 5e-5) + 2e-38
    assert ((found - expected).abs() <= bound).all(), ((found - expected).abs() - bound).max()
assert ((z == 0) >= (exact < -89)).all() and (n == 0).sum() == (values == 0).sum()
print("near")
"""


@pytest.mark.parametrize("isa", library.available_cpu_isas())
def test_gates_of_bfloat16_are_as_exact_as_their_results(isa: str) -> None:
    """Sigmoid and tanh at many values, small and large: no further from the true ones than the result's rounding."""
    assert output_of(fork_python("-c", GATES, environment={VARIABLE: isa})) == "near\n"


def test_the_portable_kernels_are_always_there_and_the_last_are_the_default() -> None:
    available = library.available_cpu_isas()
    assert available[0] == "portable"
    script = "import gru_ext; print(gru_ext.library.cpu_isa())"
    assert output_of(fork_python("-c", script, environment={VARIABLE: ""})) == f"{available[-1]}\n"


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
    assert output_of(fork_python("-c", UNKNOWN, environment={VARIABLE: name})) == text * 2


def test_sanitizers_have_a_stand_in_for_each_instruction_beyond_avx2() -> None:
    """With which they run the kernels of an instruction set that their machine lacks."""
    sources = [path.read_text() for pattern in ("*.h", "*.cpp") for path in (ROOT / "csrc" / "cpu").rglob(pattern)]
    named = set(re.findall(r"\b_mm(?:512_\w+|256_dpbusd\w*)", "".join(sources)))
    stand_ins = re.findall(r"#define (_mm\w+)(?:\(.*\))? stand_in_", (TESTS / "sanitize" / "stand_ins.h").read_text())
    assert named == set(stand_ins)
