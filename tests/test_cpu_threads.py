"""How many threads a call of the CPU backend takes, and that they change no bit of what it gives."""

from __future__ import annotations

import pytest
import torch
from cases import Options, Size, make_problem, ours, solve
from compare import assert_same_bits
from process import output_of, run_python, thread_count

CASES = {
    "small": (Size(40, 8, 64, 64), Options(), torch.float32),
    "wide input": (Size(5, 120, 700, 24), Options(), torch.float32),
    "wide input, both directions, packed": (
        Size(5, 120, 700, 24),
        Options(bidirectional=True, packed=True),
        torch.float32,
    ),
    "bfloat16": (Size(10, 30, 40, 72), Options(), torch.bfloat16),
}


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_one_thread(case: str) -> None:
    problem = make_problem(*CASES[case])
    expected = solve(ours, problem)
    for threads in (2, 3):
        with thread_count(threads):
            results = solve(ours, problem)
        for name, tensor in results.items():
            assert_same_bits(tensor, expected[name], f"{name} on {threads} threads")


# Threads of OpenMP stay once they have been started. Torch would start one to quantize.
STARTED = """
import os

import torch

import gru_ext

torch.set_num_threads(1)
layer, x = gru_ext.GRU(96, 96), torch.randn(40, 8, 96)
if {int8}:
    layer = gru_ext.quantize_dynamic(layer)
torch.set_num_threads(2)
before = len(os.listdir("/proc/self/task"))
with torch.no_grad():
    layer(x)
print(len(os.listdir("/proc/self/task")) - before)
"""


# A step of this size takes a core 2 to 35 us, by its instruction set and dtype.
@pytest.mark.parametrize(("wait", "started"), [("0.1", 1), ("50", 0)])
@pytest.mark.parametrize("int8", [False, True])
def test_a_second_thread_is_taken_where_it_saves_more_than_waits_cost(int8: bool, wait: str, started: int) -> None:
    result = run_python("-c", STARTED.format(int8=int8), environment={"GRU_EXT_CPU_WAIT": wait})
    assert output_of(result) == f"{started}\n"


def test_what_waits_cost_is_measured_and_the_bits_stay() -> None:
    script = (
        "import torch, gru_ext; torch.set_num_threads(2); torch.manual_seed(0); layer = gru_ext.GRU(64, 64);"
        "print(layer(torch.ones(40, 8, 64))[0].double().sum().item().hex())"
    )
    measured = output_of(run_python("-c", script, environment={"GRU_EXT_CPU_WAIT": ""}))
    assert measured == output_of(run_python("-c", script, environment={"GRU_EXT_CPU_WAIT": "1000"}))


@pytest.mark.parametrize("given", ["fast", "0", "-1", "nan", "1 us"])
def test_a_wait_that_is_no_time_is_a_value_error(given: str) -> None:
    script = STARTED.format(int8=False).replace(
        "    layer(x)", "    try: layer(x)\n    except ValueError as error: print(error)"
    )
    words = f"gru_ext: expected the environment variable GRU_EXT_CPU_WAIT to be microseconds above 0, got {given}\n"
    assert output_of(run_python("-c", script, environment={"GRU_EXT_CPU_WAIT": given})).startswith(words)
