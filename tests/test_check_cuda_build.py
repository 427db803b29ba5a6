"""What ``make cuda-check`` reads from ptxas, and what it lets pass."""

from __future__ import annotations

import json
import shutil

import pytest
from check_cuda_build import PREDICTED, TABLE, Resources, Table, compare, defects, entry, of_entry, parse
from process import ROOT
from take_objects import what_knows_torch

from benchmarks.machine_code.kernels import DTYPES, PASSES, kernels, of_instantiation

OUTPUT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7gru_ext6kernelINS_6device7float16EEEvNS_10ParametersIT_EE' for 'sm_80'
ptxas info    : Function properties for _ZN7gru_ext6kernelINS_6device7float16EEEvNS_10ParametersIT_EE
    8 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 8 bytes cumulative stack size, 1024 bytes smem, 440 bytes cmem[0]
ptxas info    : Compile time = 17.368 ms
ptxas info    : Compiling entry function '_ZN7gru_ext6kernelINS_6device7float16EEEvNS_10ParametersIT_EE' for 'sm_100'
ptxas info    : Function properties for _ZN7gru_ext6kernelINS_6device7float16EEEvNS_10ParametersIT_EE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 31 registers, used 0 barriers
"""
NAME = "kernel<float16>"
SERIAL_LOAD = "LDG.E at 0x9a0, waited for by FADD"


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="no c++filt on this machine")
def test_the_output_of_ptxas() -> None:
    assert parse(OUTPUT) == {NAME: {"sm_80": Resources(255, 1024, spilled=20, stack=8), "sm_100": Resources(31, 0)}}


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (Resources(40, 64, cycles=(1000, 2000)), None),
        (Resources(32, 0, cycles=(1, 1)), None),
        (Resources(41, 64, cycles=(1000, 2000)), "kernel<float16> needs 41 registers on sm_80, 40 in the table"),
        (Resources(40, 65, cycles=(1000, 2000)), "kernel<float16> needs 65 shared bytes on sm_80, 64 in the table"),
        (Resources(40, 64, cycles=(1050, 2000)), None),
        (
            Resources(40, 64, cycles=(1000, 2101)),
            "a step of kernel<float16> is predicted to take (1000, 2101) cycles on sm_80, (1000, 2000) in the table",
        ),
        (Resources(40, 64, cycles=()), "kernel<float16> has 0 predictions on sm_80, 2 in the table"),
    ],
)
def test_what_grows_is_named(now: Resources, sentence: str | None) -> None:
    committed: Table = {NAME: {"sm_80": Resources(40, 64, cycles=(1000, 2000))}}
    assert compare({NAME: {"sm_80": now}}, committed, same_nvcc=True) == ([] if sentence is None else [sentence])


def test_under_another_nvcc_nothing_that_grows_is_named() -> None:
    committed: Table = {NAME: {"sm_80": Resources(40, 64, cycles=(1, 1))}}
    assert compare({NAME: {"sm_80": Resources(99, 99, cycles=(9, 9))}}, committed, same_nvcc=False) == []


def test_what_no_kernel_may_have_is_named() -> None:
    table: Table = {
        NAME: {
            "sm_80": Resources(40, 64),
            "sm_90": Resources(40, 64, spilled=8),
            "sm_100": Resources(40, 64, stack=16),
            "sm_120": Resources(40, 64, serial=(SERIAL_LOAD,)),
        }
    }
    assert defects(table) == [
        "kernel<float16> spills 8 bytes on sm_90",
        "kernel<float16> has a stack frame of 16 bytes on sm_100",
        f"kernel<float16> has a serial load on sm_120: {SERIAL_LOAD}",
    ]


def test_only_the_serial_loads_that_stay() -> None:
    name, stays = "gru_step_norm_bwd_kernel<double>", "LDG.E.64.SYS at 0xfc0, waited for by DMUL"
    assert defects({name: {"sm_75": Resources(40, 64, serial=(stays, stays))}}) == []
    for other, arch, load in (
        ("gru_step_norm_bwd_kernel<float>", "sm_75", stays),
        (name, "sm_80", stays),
        (name, "sm_75", SERIAL_LOAD),
    ):
        expected = [f"{other} has a serial load on {arch}: {load}"]
        assert defects({other: {arch: Resources(40, 64, serial=(load,))}}) == expected


def test_the_committed_table_is_read_as_it_is_written() -> None:
    for resources in (Resources(40, 64), Resources(40, 64, cycles=(1000, 2000))):
        assert of_entry(**json.loads(json.dumps(entry(resources)))) == resources


def test_the_step_of_every_persistent_kernel_is_predicted() -> None:
    """But for those of inference and of layers with masks."""
    predicted = {}
    for name, by_arch in json.loads(TABLE.read_text())["kernels"].items():
        if kernel := of_instantiation(name):
            predicted[kernel] = "cycles" in by_arch[PREDICTED]
    assert predicted == {kernel: True for dtype in DTYPES for way in PASSES for kernel in kernels(dtype, way)}


def test_kernels_must_be_the_same() -> None:
    one: Table = {"one": {"sm_80": Resources(40, 0)}}
    two: Table = {"two": {"sm_80": Resources(40, 0)}}
    assert compare(one, two, same_nvcc=True) == ["one is not in the table", "two is in the table but was not built"]
    assert compare({"one": {"sm_90": Resources(1, 0)}}, one, True) == ["one is not in the table for sm_90"]


def test_no_kernel_knows_of_torch() -> None:
    """So that the objects of one build serve in that against another torch. The host side does, and would be found."""
    sources = sorted((ROOT / "csrc" / "cuda").rglob("*.cu"))
    assert len(sources) > 1
    assert [known for source in sources for known in what_knows_torch(source)] == []
    assert "csrc/cuda/operators.h" in what_knows_torch(ROOT / "csrc" / "cuda" / "op_cuda.cpp")
