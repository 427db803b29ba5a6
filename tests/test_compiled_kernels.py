"""The kernels as nvcc has compiled them, run on the CPU by the interpreter of tests/ptx and started by their launchers.

Accuracy of a few, chosen by what they branch on; and of each rule of the machine a planted fault that breaks it, which
must be found. tests/test_accuracy.py has the others; ``make cuda-check`` runs every instantiation:
tests/check_compiled_kernels.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from cases import Options, Size, make_problem
from check_compiled_kernels import check_one_step, check_steps
from compare import assert_same_bits
from compiled_kernels import (
    ALONE,
    CLUSTER,
    GROUP,
    PARTS,
    STREAMED,
    STREAMING,
    TF32,
    both_ways,
    compiled,
    missing,
    plant,
    with_faults,
)
from compiled_kernels import SAMPLE_LIBRARY as LIBRARY
from emulation import EmulationError, Schedule, run
from emulator_faults import FAULTS as SOURCE_FAULTS
from persistent_kernels import Config, persistent_fwd, run_way

pytestmark = pytest.mark.skipif(missing() != "", reason=missing())


def test_accuracy_of_stepwise_kernels() -> None:
    check_steps(torch.float16, Schedule(library=LIBRARY))
    check_one_step(torch.bfloat16, Schedule(library=LIBRARY))


@pytest.mark.parametrize("config", [ALONE, CLUSTER, STREAMED], ids=str)
def test_every_schedule_gives_the_same_bits(config: Config) -> None:
    """Of training, and y and h_n of inference, which is another kernel."""
    problem = make_problem(Size(4, 9, 3, 50), Options(packed=True), config.dtype)
    expected = persistent_fwd(config, problem, schedule=Schedule(library=LIBRARY))
    for seed in range(2, 8):
        results = persistent_fwd(
            config, problem, save_gates=seed % 2 == 0, schedule=Schedule(seed=seed, library=LIBRARY)
        )
        assert_same_bits(results.y, expected.y)
        assert_same_bits(results.h_n, expected.h_n)


@pytest.mark.parametrize("config", [CLUSTER, GROUP, STREAMED], ids=str)
@pytest.mark.parametrize("lost", [0, 7])
def test_a_kernel_that_waits_too_long_says_so(config: Config, lost: int) -> None:
    problem = make_problem(Size(4, 3, 2, 100), Options(), config.dtype)
    schedule = Schedule(races=False, time_out=True, lost_store=lost, library=LIBRARY)
    assert persistent_fwd(config, problem, schedule=schedule).error.item() == 1


# ---- Opcodes that few kernels have, by the definitions of the PTX ISA

OF_A_TEST = """
.visible .entry of_a_test(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d) {{
  .reg .b32 %i, %a, %b, %c, %d;
  .reg .b64 %place, %at_a, %at_b, %at_c, %at_d;
  mov.u32 %i, %tid.x;
  mul.wide.u32 %place, %i, 4;
  {addresses}
  {loads}
  {opcode} %d, %a, %b, %c;
  st.global.u32 [%at_d], %d;
  ret;
}}
"""


def permuted(a: int, b: int, c: int) -> int:
    """Byte by byte one of b:a, as a nibble of c says; or, by the nibble's highest bit, eight times that byte's sign."""
    both = (b << 32 | a).to_bytes(8, "little")
    named = [(both[c >> shift & 7], c >> shift & 8) for shift in (0, 4, 8, 12)]
    return int.from_bytes([0xFF * (byte >> 7) if sign else byte for byte, sign in named], "little")


def added_products(a: int, b: int, c: int, first: int) -> int:
    """The halves of a times two bytes of b, from the first on, added to c."""
    products = [(a >> 16 * i & 0xFFFF) * (b >> 8 * (first + i) & 0xFF) for i in range(2)]
    return (c + sum(products)) % (1 << 32)


DEFINITIONS: dict[str, Callable[[int, int, int], int]] = {
    "prmt.b32": permuted,
    "dp2a.lo.u32.u32": functools.partial(added_products, first=0),
    "dp2a.hi.u32.u32": functools.partial(added_products, first=2),
}


@pytest.mark.parametrize("opcode", DEFINITIONS)
def test_an_opcode_does_what_the_isa_says(opcode: str) -> None:
    addresses = [f"ld.param.u64 %at_{n}, [{n}]; add.s64 %at_{n}, %at_{n}, %place;" for n in "abcd"]
    loads = [f"ld.global.u32 %{n}, [%at_{n}];" for n in "abc"]
    text = OF_A_TEST.format(opcode=opcode, addresses=" ".join(addresses), loads=" ".join(loads))
    words = torch.randint(-(1 << 31), 1 << 31, (3, 32)).to(torch.int32)
    result = torch.empty(32, dtype=torch.int32)
    inputs = {"text": torch.tensor([*text.encode(), 0], dtype=torch.uint8), **dict(zip("abc", words, strict=True))}
    run("text", {}, inputs, {"d": result}, Schedule(library=LIBRARY))
    expected = [DEFINITIONS[opcode](*(word % (1 << 32) for word in abc)) for abc in words.t().tolist()]
    assert [word % (1 << 32) for word in result.tolist()] == expected


# ---- Planted faults: edits of the PTX, each breaking one rule


class Fault(NamedTuple):
    """An edit of the PTX of a kernel, and what must be reported."""

    expression: str
    replacement: str
    report: str
    hidden: int = 64


LANE_5_EXITS = "{ .reg .pred q; .reg .u32 r; mov.u32 r, %laneid; setp.eq.u32 q, r, 5; @q exit; } $1"
BLOCK_1_EXITS = "{ .reg .pred q; .reg .u32 r; mov.u32 r, %cluster_ctarank; setp.eq.u32 q, r, 1; @q exit; } $1"
AS_WORDS = (
    "{ .reg .b32 q<4>; ld.relaxed.gpu.global.v4.b32 {q0, q1, q2, q3}, $3; mov.b64 $1, {q0, q1}; mov.b64 $2, {q2, q3}; }"
)
WRONG = "wrong results"  # nothing is reported, but the results are not accurate
UNORDERED = "race: "
# By kernel and pass.
FAULTS: dict[tuple[Config, str], dict[str, Fault]] = {
    (ALONE, "fwd"): {
        "global memory beyond an array": Fault(r"(st\.global\S* \[%rd\d+)", "$1+1048576", "outside global"),
        "shared memory beyond its end": Fault(r"(st\.shared\S* \[%r\d+)", "$1+262144", "outside shared"),
        "shared memory misaligned": Fault(r"(ldmatrix.*\[%r\d+)", "$1+8", "misaligned"),
        "shared memory never written": Fault(r"^\s*st\.shared\.f32.*;", "", "never written"),
        "parameters beyond their end": Fault(
            r"(ld\.param\.u64.*\[\w+)(\+\d+)?\]", "$1+4096]", "outside of the parameters"
        ),
        "a store to an input": Fault(
            r"(ld\.global\.([bus]\d+) (%\w+), (\[[^\]]*\]);)", "$1 st.global.$2 $4, $3;", "writes to an input"
        ),
        "a lane that leaves": Fault(r"(ldmatrix\S*)", LANE_5_EXITS, "divergence"),
        "a matrix transposed": Fault(r"x4\.shared\.b16", "x4.trans.shared.b16", WRONG),
        "words of an operand swapped": Fault(
            r"(mma\.\S+ \{[^}]*\}), \{(%r\d+), (%r\d+), (%r\d+), (%r\d+)\}", "$1, {$2, $4, $3, $5}", WRONG
        ),
        "the other half precision": Fault(r"f32\.bf16\.bf16\.f32", "f32.f16.f16.f32", WRONG),
        "rounding towards zero": Fault(r"cvt\.rn\.bf16x2", "cvt.rz.bf16x2", WRONG),
        "more threads than .maxntid": Fault(r"\.maxntid \d+", ".maxntid 64", "has no room"),
        "a stack beyond what a thread can have": Fault(
            r"(\.reg \.pred.*)", "$1 .local .align 8 .b8 stack[600000];", "too many resources"
        ),
        "an opcode that it does not know": Fault(
            r"ex2\.approx\.ftz\.f32",
            "lg2.approx.ftz.f32",
            r"unknown opcode lg2\.approx\.ftz\.f32\n  PTX line \d+: lg2.*\n  csrc/cuda/.*primitives\.cuh:\d+",
        ),
    },
    (ALONE, "bwd"): {
        "global memory misaligned": Fault(r"(cp\.async\.cg\.\S+ \[%r\d+\], \[%rd\d+)", "$1+8", "misaligned"),
        "copies not waited for": Fault(r"cp\.async\.wait_all;", "", "asynchronous copy or store is under way"),
        "a block barrier left out": Fault(r"bar\.sync\s+0;", "", "race: |never written"),
        "a shuffle of half a warp": Fault(r"(shfl\.sync\.bfly.*), %r\d+;", "$1, 65535;", "is not among the members"),
    },
    (STREAMED, "fwd"): {
        "one group of copies too few waited for": Fault(
            r"cp\.async\.wait_group\s+1;", "cp.async.wait_group 2;", "under way", STREAMING
        ),
        "copies of what was stored, without a fence": Fault(r"fence\.acq_rel\.gpu;", "", "no fence between", STREAMING),
        "a barrier for other threads": Fault(
            r"(barrier\.cta\.sync\.aligned %r\d+), %r\d+", "$1, 32", "race: |never written|too many|differ"
        ),
        "a flag of the block's scope": Fault(r"st\.release\.gpu", "st.release.cta", UNORDERED),
        "a flag acquired at the block's scope": Fault(r"ld\.acquire\.gpu", "ld.acquire.cta", UNORDERED),
        "a flag that releases nothing": Fault(r"st\.release\.gpu", "st.relaxed.gpu", "race: |no fence between"),
        "a flag that is never raised": Fault(r"st\.release\.gpu.*;", "", "deadlock"),
    },
    (CLUSTER, "fwd"): {
        "a barrier of a group left out": Fault(r"barrier\.cta\.red\S* .*;", "", "race: |never written"),
        "a warp barrier left out": Fault(r"bar\.warp\.sync.*;", "", "race: "),
        "a wait at the cluster's barrier left out": Fault(
            r"barrier\.cluster\.wait\S*;", "", "a second time, without a wait|race: |never written"
        ),
        "mbarriers not made known": Fault(r"fence\.mbarrier_init\S*;", "", "no fence.mbarrier_init"),
        "an mbarrier touched by a plain store": Fault(
            r"(mbarrier\.init\S+ (\[%r\d+\]), \S+;)", "$1 st.shared.u32 $2, 0;", "touches an mbarrier"
        ),
        "stores to a block that has ended": Fault(r"(mbarrier\.try_wait)", BLOCK_1_EXITS, "to a block that has ended"),
        "the cluster's barriers left out": Fault(
            r"barrier\.cluster\.\S+;", "", "no mbarrier at|cannot know|race: |no fence|never written"
        ),
        "an mbarrier of too many arrivals": Fault(r"(mbarrier\.init\S+ \[%r\d+\]), \S+;", "$1, 2;", "deadlock"),
        "two arrivals at an mbarrier": Fault(
            r"(mbarrier\.arrive\.expect_tx[^;]*;)", "$1 $1", "one arrival too many|deadlock"
        ),
        "an mbarrier that expects too few bytes": Fault(
            r"(mbarrier\.arrive\.expect_tx\S+ _, \[%r\d+\]), \S+;", "$1, 16;", "race: |under way|deadlock"
        ),
        "another phase": Fault(
            r"(mbarrier\.try_wait\S+ \S+ \[%r\d+\]), \S+;", "$1, 0;", "race: |under way|arrival too many"
        ),
        "a wait of the block's scope": Fault(
            r"try_wait\.parity\.acquire\.cluster", "try_wait.parity.acquire.cta", "a scope that does not"
        ),
        "a wait that acquires nothing": Fault(r"try_wait\.parity\.acquire", "try_wait.parity.relaxed", UNORDERED),
        "a block beyond the cluster": Fault(r"(mapa\.\S+ %r\d+, %r\d+), %r\d+;", "$1, 7;", "there is no block 7"),
        "everything sent to one block": Fault(r"(mapa\.\S+ %r\d+, %r\d+), %r\d+;", "$1, 0;", "under way|race"),
    },
    (GROUP, "fwd"): {
        "packets stored weakly": Fault(r"st\.relaxed\.gpu\.global\.b64", "st.global.b64", UNORDERED),
        "packets loaded at the block's scope": Fault(
            r"ld\.relaxed\.gpu\.global\.v2", "ld.relaxed.cta.global.v2", UNORDERED
        ),
        "packets loaded in halves": Fault(
            r"ld\.relaxed\.gpu\.global\.v2\.b64 \{(%rd\d+), (%rd\d+)\}, (\[[^;]*);", AS_WORDS, UNORDERED
        ),
    },
    (STREAMED, "bwd"): {
        "a flag that acquires nothing": Fault(r"ld\.acquire\.gpu", "ld.relaxed.gpu", "race: |no fence between"),
    },
    (TF32, "fwd"): {
        "operands not rounded to TF32": Fault(r"cvt\.rna\.tf32\.f32", "mov.b32", "not rounded to TF32"),
    },
    (PARTS, "fwd"): {
        "registers for more threads than there are": Fault(r"\.maxntid [\d, ]+", "", "has no room"),
    },
}


@pytest.mark.parametrize(
    ("config", "way", "fault"),
    [pytest.param(*place, fault, id=name) for place, faults in FAULTS.items() for name, fault in faults.items()],
)
def test_a_planted_fault_is_found(config: Config, way: str, fault: Fault) -> None:
    problem = make_problem(Size(4, config.rows + 1, 3, fault.hidden), Options(), config.dtype)
    schedule = Schedule(seed=1, fault=f"{fault.expression} -> {fault.replacement}", library=LIBRARY)
    if fault.report == WRONG:
        assert way == "fwd"
        ours, right = (persistent_fwd(config, problem, schedule=s) for s in (schedule, replace(schedule, fault="none")))
        assert not torch.equal(ours.y, right.y)
        return
    with pytest.raises(EmulationError, match=fault.report):
        run_way(config, way, problem, schedule)


# ---- The faults that the kernels' source has a place for, in what nvcc makes of them

KERNELS: dict[str, Config] = {"one block": ALONE, "cluster": CLUSTER, "group": GROUP, "streamed": STREAMED}
WITH_FAULTS = functools.partial(compiled, both_ways(KERNELS.values()), with_faults)


@pytest.mark.parametrize(
    ("config", "way", "fault"),
    [
        (KERNELS[kernel], way, fault)
        for (kernel, way), faults in SOURCE_FAULTS.items()
        for fault in sorted(faults)
        if (kernel, way, fault) != ("streamed", "bwd", "no_slice_barrier")  # a warp to a slice
    ],
    ids=str,
)
def test_a_fault_of_the_source_is_found(config: Config, way: str, fault: str) -> None:
    """By one of three schedules."""
    hidden = 64 if config in (ALONE, CLUSTER) else 130
    if fault in ("no_global_fence", "no_last_copy_wait"):
        hidden = STREAMING
    if fault == "stores_beyond_h":
        hidden -= 3
    problem = make_problem(Size(4, 3, 3, hidden), Options(), config.dtype)
    reports = []
    for seed in (1, 2, 3):
        try:
            run_way(config, way, problem, Schedule(seed=seed, fault=plant(fault), library=WITH_FAULTS))
        except EmulationError as error:
            reports.append(str(error))
            break
    assert reports
    assert "matches" not in reports[0]  # then nothing would have been planted
