"""The machine code of kernels: what ``make cuda-check`` finds in it, and what the model of a step makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from benchmarks.machine_code import figures, kernels, members, simulate
from benchmarks.machine_code.kernels import Kernel
from benchmarks.machine_code.lanes import EVERYWHERE, LANES, Launch, PathError, Predicate, State, every, operands_of
from benchmarks.machine_code.listing import NO_BARRIER, Instruction, MachineCode, read, step_loop
from benchmarks.machine_code.meanings import MEANINGS
from benchmarks.machine_code.members import Call
from benchmarks.machine_code.path import Issued, steps_of
from benchmarks.machine_code.serial_loads import serial_loads
from benchmarks.machine_code.simulate import ModelError
from benchmarks.machine_code.toolkit import ToolError, missing

# From a kernel whose step loop ends at 0xde70: a pair of 16-bit values is loaded as one word, past barrier 5, or as two
# halves, past barrier 2, which the PRMT at 0x9ae0 waits for at once.
LISTING = """\

	code for sm_90
		Function : gru_kernel
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*9a50*/              @!P3 BRA 0x9af0 ;                                      /* 0x000000000024b947 */
                                                                                     /* 0x000ff00003800000 */
        /*9a60*/                   ISETP.NE.AND P5, PT, RZ, UR5, PT ;                /* 0x00000005ff007c0c */
                                                                                     /* 0x000fda000bfa5270 */
        /*9a70*/              @!P5 BRA 0x9aa0 ;                                      /* 0x000000000008d947 */
                                                                                     /* 0x000fea0003800000 */
        /*9a80*/                   LDG.E R195, desc[UR6][R30.64] ;                   /* 0x000000061ec37981 */
                                                                                     /* 0x000362000c1e1900 */
        /*9a90*/                   BRA 0x9af0 ;                                      /* 0x0000000000147947 */
                                                                                     /* 0x000fea0003800000 */
        /*9aa0*/                   ISETP.GE.U32.AND P5, PT, R184, 0x2, PT ;          /* 0x00000002b800780c */
                                                                                     /* 0x000fe20003fa6070 */
        /*9ab0*/                   LDG.E.U16 R176, desc[UR6][R30.64] ;               /* 0x000000061eb07981 */
                                                                                     /* 0x000ea2000c1e1500 */
        /*9ac0*/                   PRMT R195, RZ, 0x7610, R195 ;                     /* 0x00007610ffc37816 */
                                                                                     /* 0x000fd600000000c3 */
        /*9ad0*/               @P5 LDG.E.U16 R195, desc[UR6][R30.64+0x2] ;           /* 0x000002061ec35981 */
                                                                                     /* 0x000ea4000c1e1500 */
        /*9ae0*/                   PRMT R195, R176, 0x5410, R195 ;                   /* 0x00005410b0c37816 */
                                                                                     /* 0x004fce00000000c3 */
        /*9af0*/                   BSYNC B0 ;                                        /* 0x0000000000007941 */
                                                                                     /* 0x000fea0003800000 */
        /*9b00*/                   LEA R176, P5, R185.reuse, R30, 0x1 ;              /* 0x0000001eb9b07211 */
                                                                                     /* 0x040fe200078a08ff */
        /*de70*/              @!P3 BRA 0x97e0 ;                                      /* 0xffffffb80058b947 */
                                                                                     /* 0x000fec000383ffff */
"""


def code_of(listing: str) -> list[Instruction]:
    (kernel,) = read(listing.splitlines())
    return kernel.code


def with_control(listing: str, address: int, control: int) -> str:
    """The listing with another upper half of the encoding of the instruction at that address."""
    lines = listing.splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.lstrip().startswith(f"/*{address:04x}*/"))
    lines[place + 1] = f"  /* {control:#018x} */"
    return "\n".join(lines)


def test_a_listing_is_read() -> None:
    (kernel,) = read(LISTING.splitlines())
    assert (kernel.kernel, kernel.architecture, len(kernel.code)) == ("gru_kernel", "sm_90", 13)
    load, use = kernel.code[8:10]
    assert load[:4] == (0x9AD0, "@P5", "LDG.E.U16", "R195, desc[UR6][R30.64+0x2]")
    assert load.released == 2
    assert use.waited_for == (2,)
    assert step_loop(kernel.code) == (0x97E0, 0xDE70)


def test_two_kernels_and_architectures_are_told_apart() -> None:
    other = LISTING.replace("sm_90", "sm_100").replace("gru_kernel", "other_kernel")
    found = [kernel[:2] for kernel in read((LISTING + other).splitlines())]
    assert found == [("gru_kernel", "sm_90"), ("other_kernel", "sm_100")]


def test_a_listing_that_is_cut_off_is_an_error() -> None:
    first, second, *_ = (line for line in LISTING.splitlines() if "/*" in line and "*/   " in line)
    with pytest.raises(ValueError, match="upper half"):
        list(read([first, second]))


def test_a_load_that_the_next_instruction_waits_for_is_found() -> None:
    assert serial_loads(code_of(LISTING)) == ["LDG.E.U16 at 0x9ad0, waited for by PRMT"]


def test_a_wait_behind_branches_is_found() -> None:
    """Between the word of 0x9a80 and the LEA, which here waits for it, stand a branch and the meeting of the paths."""
    planted = with_control(LISTING, 0x9B00, 0x040FE200078A08FF | 1 << 52 + 5)
    assert serial_loads(code_of(planted)) == [
        "LDG.E at 0x9a80, waited for by LEA",
        "LDG.E.U16 at 0x9ad0, waited for by PRMT",
    ]


@pytest.mark.parametrize(
    "listing",
    [
        pytest.param(with_control(LISTING, 0x9AE0, 0x000FCE00000000C3), id="the next instruction does not wait"),
        pytest.param(LISTING.replace("LDG.E.U16", "LDG.E.U16.STRONG.GPU"), id="it polls"),
        pytest.param(LISTING.replace("0x97e0", "0x9ae0"), id="it is not in the loop"),
    ],
)
def test_other_loads_pass(listing: str) -> None:
    assert serial_loads(code_of(listing)) == []


# ---- The model: code written by hand, with known answers


def instruction(text: str, stall: int = 1, releases: int = NO_BARRIER, waits: tuple[int, ...] = ()) -> Instruction:
    """One line of code, at address 0."""
    guard, _, rest = text.partition(" ") if text.startswith("@") else ("", "", text)
    opcode, _, operands = rest.partition(" ")
    mask = sum(1 << barrier for barrier in waits)
    return Instruction(0, guard, opcode, operands, stall << 41 | releases << 46 | NO_BARRIER << 49 | mask << 52)


def code_of_lines(*lines: Instruction) -> list[Instruction]:
    """Sixteen bytes apart."""
    return [line._replace(address=16 * place) for place, line in enumerate(lines)]


STEPS = 4
# A step counter in R0, of which 8 steps are done; the jump back costs 5 + 13 + 5 cycles and figures.JUMP.
BEGIN = (
    instruction("MOV R0, 0x0", 5),
    instruction("S2R R1, SR_TID.X", 1, 5),
    instruction("MOV R2, 0x100", 5, waits=(5,)),
)
HEAD = 16 * len(BEGIN)
END = (
    instruction("VIADD R0, R0, 0x1", 5),
    instruction("ISETP.GE.AND P0, PT, R0, 0x8, PT", 13),
    instruction(f"@!P0 BRA {HEAD:#x}", 5),
    instruction("EXIT", 5),
)
END_CYCLES = 5 + 13 + 5 + figures.JUMP.value


def launch_of(warps: int) -> Launch:
    return Launch(threads=32 * warps, blocks=1, block=0, block_y=3, first_parameter=0x210, parameters=bytes(range(64)))


def issued(*step: Instruction, warps: int = 1) -> list[list[list[Issued]]]:
    """Of a loop of these instructions."""
    return steps_of(code_of_lines(*BEGIN, *step, *END), launch_of(warps), STEPS)


def test_loads_that_wait_for_one_another_add_up() -> None:
    load = instruction("LDG.E R4, desc[UR4][R2.64]", 1, 0)
    steps = issued(instruction("MOV R3, 0x0", 5), load, instruction("FADD R5, R4, R4", 4, waits=(0,)), load)
    assert simulate.cycles(steps, 1000) == 5 + 1000 + 4 + 1 + END_CYCLES
    once = issued(instruction("MOV R3, 0x0", 5), load, load, instruction("FADD R5, R4, R4", 4, waits=(0,)))
    assert simulate.cycles(once, 1000) == 5 + 1 + 1000 + 4 + END_CYCLES


def test_products_are_bound_by_the_tensor_core() -> None:
    steps = issued(*[instruction("HMMA.16816.F32.BF16 R4, R8, R12, R4")] * 40, warps=8)
    most = simulate.bounds(steps)
    assert most.tensor == 2 * 40 * figures.HMMA.value
    assert most.issue == 2 * (40 + len(END) - 1)
    # One warp of a part multiplies while the other goes round, but for what both do at the end.
    assert most.tensor <= simulate.cycles(steps, 1000) < most.tensor + END_CYCLES
    assert simulate.cycles(issued(*[instruction("HMMA.16816.F32.BF16 R4, R8, R12, R4", 8)] * 40), 0) == 320 + END_CYCLES


def test_warps_meet_at_a_barrier() -> None:
    """Warp 1 has work that warp 0 has not: both take its time, and the barrier's."""
    work = 7
    step = (
        instruction("ISETP.LT.U32.AND P1, PT, R1, 0x20, PT", 13),
        instruction(f"@P1 BRA {HEAD + 16 * (2 + work):#x}", 5),
        *[instruction("FADD R4, R4, R4", 10)] * work,
        instruction("BAR.SYNC.DEFER_BLOCKING 0x0", 6),
    )
    steps = issued(*step, warps=2)
    assert [len(of_warp[0]) for of_warp in steps] == [3 + 3, 3 + 3 + work]
    assert simulate.cycles(steps, 0) == 13 + 5 + 10 * work + figures.LATENCIES["BAR"].value + END_CYCLES


def test_named_barriers_keep_others_apart() -> None:
    """Two groups of two warps: the group of warps 0 and 2 does not wait for the other, which has more to do."""
    step = (
        instruction("LOP3.LUT R4, R1, 0x20, RZ, 0xc0, !PT", 5),
        instruction("ISETP.NE.AND P1, PT, R4, RZ, PT", 13),
        instruction("VIADD R5, R4, 0x1", 5),
        instruction("@P1 MUFU.EX2 R6, R7", 1, 0),
        instruction("BAR.SYNC.DEFER_BLOCKING R5, 0x40", 6, waits=(0,)),
    )
    steps = issued(*step, warps=4)
    assert {one.barrier for of_warp in steps for one in of_warp[0] if one.warps} == {1, 33}
    assert simulate.cycles(steps, 0) == 5 + 13 + 5 + 1 + figures.LATENCIES["BAR"].value + END_CYCLES


@pytest.mark.parametrize(
    ("access", "pitch", "accesses"),
    [
        ("STS [R4], R5", 4, 1),
        ("STS [R4], R5", 8, 2),
        ("STS [R4+0x20], R5", 128, 32),
        ("LDS.64 R6, [R4]", 8, 2),
        ("LDS.128 R8, [R4]", 16, 4),
        ("LDSM.16.M88.4 R8, [R4]", 128 + 16, 4),
        ("LDSM.16.M88.4 R8, [R4]", 128, 32),
        ("LDG.E R6, desc[UR4][R4.64]", 4, 1),
        ("LDG.E R6, desc[UR4][R4.64]", 256, 32),
    ],
)
def test_accesses_that_meet_in_a_bank_take_turns(access: str, pitch: int, accesses: int) -> None:
    step = (instruction(f"IMAD R4, R1, {pitch:#x}, RZ", 5), instruction("MOV R5, 0x0", 5), instruction(access, 1, 0))
    ((first, *_),) = issued(*step)
    assert first[2].accesses == accesses


# Every lane has 16 bytes for one of four blocks, eight to each, side by side.
SEND = (
    instruction("LOP3.LUT R4, R1, 0x3, RZ, 0xc0, !PT", 5),
    instruction("LOP3.LUT R5, R1, 0x1c, RZ, 0xc0, !PT", 5),
    instruction("IMAD R8, R4, 0x1000000, RZ", 5),
    instruction("IMAD R8, R5, 0x4, R8", 5),
)


@pytest.mark.parametrize(("apart", "accesses"), [(4, 4), (32, 4 * 8)])
def test_stores_to_other_blocks_take_turns_within_each(apart: int, accesses: int) -> None:
    """Lanes of which the packets of a block lie 16 bytes apart, or 128."""
    step = (*SEND[:-1], instruction(f"IMAD R8, R5, {apart:#x}, R8", 5), instruction("MOV R9, 0x300", 5))
    ((first, *_),) = issued(*step, instruction("STAS.128 [R8.64], R12", 1))
    assert (first[-1 - len(END) + 1].accesses, first[-1 - len(END) + 1].mbarrier) == (accesses, 0x300)


def test_a_wait_is_for_what_tells_its_mbarrier() -> None:
    """Of two waves of a step, the second does not delay who waits for the first."""
    sent = 32 * simulate.SENT_BYTES / figures.CLUSTER_BYTES.value

    def cycles_of(waited: int) -> float:
        wait = (
            instruction(f"MOV R9, {waited:#x}", 5),
            instruction("SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R9+URZ], RZ", 1, 0),
            instruction("MOV R9, 0x300", 5, waits=(0,)),
        )
        first = instruction("STAS.128 [R8.64], R12", 1)
        second = (instruction("MOV R9, 0x308", 5), *[first] * 3)
        return simulate.cycles(issued(*SEND, *wait, first, *second), 0)

    assert cycles_of(0x308) == cycles_of(0x300) + 3 * sent


# Waits for what others store at R2, again and again until it is the number of the step.
POLL = (
    instruction("MOV R3, 0x0", 5),
    instruction("LDG.E.STRONG.GPU R4, desc[UR4][R2.64]", 1, 0),
    instruction("ISETP.NE.AND P1, PT, R4, R0, PT", 13, waits=(0,)),
    instruction(f"@P1 BRA {HEAD + 16:#x}", 5),
)


def test_a_poll_finds_the_step_that_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    (steps,) = issued(*POLL)
    assert [len(step) for step in steps] == [len(POLL) + len(END) - 1] * STEPS
    monkeypatch.setattr("benchmarks.machine_code.path.MOST_ISSUED", 1000)
    with pytest.raises(PathError, match="issues more than 1000"):
        steps_of(code_of_lines(*BEGIN, *POLL, *END), replace(launch_of(1), polled=1), STEPS)


def test_an_exchange_through_the_l2_cache_is_there_and_back() -> None:
    """From the store of one step to that of the next, however long loads from memory take."""
    store = instruction("STG.E.STRONG.GPU desc[UR4][R2.64], R0", 1)
    moved = 32 * 4 / figures.L2_BYTES.value
    there_and_back = figures.L2_STORE.value + figures.FROM_L2.value + 2 * moved
    assert simulate.cycles(issued(*POLL, store), 10000) == pytest.approx(there_and_back + 13 + 5)
    assert simulate.bounds(issued(*POLL, store)).exchange == 2 * moved
    fence = instruction("MEMBAR.ALL.GPU", 1)
    fenced = there_and_back + 13 + 5 + figures.FENCE.value
    assert simulate.cycles(issued(*POLL, fence, store), 10000) == pytest.approx(fenced)


@pytest.mark.parametrize(("left_alone", "copies"), [(1, 1), (0, 2)])
def test_copies_are_waited_for_in_their_order(left_alone: int, copies: int) -> None:
    """Two groups of a copy each; the wait leaves so many alone."""
    copy = instruction("LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64]", 1)
    group, wait = instruction("LDGDEPBAR", 1, 0), instruction(f"DEPBAR.LE SB0, {left_alone:#x}", 1)
    steps = issued(instruction("MOV R3, 0x0", 5), copy, group, copy, group, wait)
    moved = copies * 32 * 16 / figures.L2_BYTES.value
    assert simulate.cycles(steps, 0) == pytest.approx(5 + moved + figures.FROM_L2.value + 1 + END_CYCLES)


def test_lanes_part_and_meet() -> None:
    """Half of the lanes go one way, the others the other; what both execute after the meeting is issued once."""
    step = (
        instruction("ISETP.LT.AND P1, PT, R1, 0x8, PT", 13),
        instruction(f"BSSY B0, {HEAD + 16 * 6:#x}"),
        instruction(f"@P1 BRA {HEAD + 16 * 5:#x}", 5),
        instruction("MOV R4, 0x1"),
        instruction(f"BRA {HEAD + 16 * 5:#x}", 5),
        instruction("BSYNC B0", 5),
        instruction("FADD R5, R5, R5"),
    )
    ((first, *_),) = issued(*step)
    counts = [(one.instruction.opcode, one.lanes) for one in first[2:7]]
    assert counts == [("BRA", 8), ("MOV", 24), ("BRA", 24), ("BSYNC", 24), ("BSYNC", 8)]
    assert (first[7].instruction.opcode, first[7].lanes) == ("FADD", 32)


def test_lanes_that_break_are_not_waited_for() -> None:
    """Eight leave the block, around the meeting of the others, and meet them behind it."""
    step = (
        instruction("ISETP.LT.AND P1, PT, R1, 0x8, PT", 13),
        instruction(f"BSSY B0, {HEAD + 16 * 8:#x}"),
        instruction(f"BSSY B1, {HEAD + 16 * 6:#x}"),
        instruction("@P1 BREAK B1"),
        instruction(f"@P1 BRA {HEAD + 16 * 7:#x}", 5),
        instruction("BSYNC B1", 5),
        instruction("MOV R4, 0x1"),
        instruction("BSYNC B0", 5),
        instruction("FADD R5, R5, R5"),
    )
    ((first, *_),) = issued(*step)
    counts = [(one.instruction.opcode, one.lanes) for one in first[3:10]]
    assert counts == [
        *(("BREAK", 8), ("BRA", 8), ("BSYNC", 24), ("MOV", 24), ("BSYNC", 24), ("BSYNC", 8)),
        ("FADD", 32),
    ]


def test_a_path_that_is_not_decided_is_an_error() -> None:
    load, compare = instruction("LDG.E R4, desc[UR4][R2.64]", 1, 0), "ISETP.EQ.AND P1, PT, R4, RZ, PT"
    step = (instruction("MOV R3, 0x0", 5), load, instruction(compare, 13, waits=(0,)))
    with pytest.raises(PathError, match=r"depends on something unknown: @P1 BRA 0x30 at 0x60, warp 0"):
        issued(*step, instruction(f"@P1 BRA {HEAD:#x}"))
    with pytest.raises(PathError, match=r"whether it executes depends on something unknown: @P1 STG"):
        issued(*step, instruction("@P1 STG.E desc[UR4][R2.64], R5"))
    with pytest.raises(PathError, match=r"an address is unknown: STS \[R4\], R5"):
        issued(*step[:2], instruction("STS [R4], R5", waits=(0,)))


CALL = instruction(f"CALL.REL.NOINC {HEAD:#x}", 5)
COMES_BACK = instruction(f"BRA {HEAD + 16 * 8:#x}", 5)


def reciprocal(*instead: Instruction) -> list[list[list[Issued]]]:
    """Of a loaded number, which some other instructions would compute where it is too large or too small."""
    return issued(
        instruction("LDS R4, [R1]", 1, 0),
        instruction("ISETP.GT.U32.AND P1, PT, R4, 0x1ffffff, PT", 13, waits=(0,)),
        instruction(f"@P1 BRA {HEAD + 16 * 7:#x}", 5),
        *instead,
        instruction("MUFU.RCP R6, R4", 1, 1),
        instruction("FADD R6, R6, R6", 4, waits=(1,)),
    )


def test_a_call_of_a_subroutine_is_left_out() -> None:
    nothing = instruction("MOV R5, R4", 9)
    steps = reciprocal(nothing, CALL, nothing, COMES_BACK)
    opcodes = [one.instruction.opcode for one in steps[0][0]]
    assert opcodes[: -len(END) + 1] == ["LDS", "ISETP.GT.U32.AND", "BRA", "MUFU.RCP", "FADD"]
    latencies = figures.LATENCIES["LDS"].value + figures.LATENCIES["MUFU"].value
    assert simulate.cycles(steps, 0) == latencies + 13 + 5 + figures.JUMP.value + 4 + END_CYCLES


@pytest.mark.parametrize(
    "instead",
    [
        pytest.param((END[0], END[0], END[0], COMES_BACK), id="no call"),
        pytest.param((END[0], CALL, CALL, COMES_BACK), id="two calls"),
        pytest.param((END[0], END[0], CALL, END[0]), id="it does not come back"),
        pytest.param((END[3]._replace(guard="@P1"), CALL, END[0], COMES_BACK), id="it may end"),
    ],
)
def test_other_instructions_are_not_left_out(instead: tuple[Instruction, ...]) -> None:
    with pytest.raises(PathError, match=r"the path depends on something unknown: @P1 BRA 0xa0 at 0x50"):
        reciprocal(*instead)


def test_lanes_that_wait_for_ever_are_an_error() -> None:
    step = (
        instruction("ISETP.LT.AND P1, PT, R1, 0x8, PT", 13),
        instruction("BSSY B0, 0x90"),
        instruction(f"@P1 BRA {HEAD + 16 * 4:#x}", 5),
        instruction("BSYNC B0", 5),
        instruction("WARPSYNC.ALL", 5),
    )
    with pytest.raises(PathError, match="for ever at 0x60, 0x70"):
        issued(*step)


def test_an_unknown_opcode_is_an_error() -> None:
    with pytest.raises(PathError, match=r"unknown opcode HGMMA: HGMMA\.64x8x16\.F32 R4, R8 at 0x30"):
        issued(instruction("HGMMA.64x8x16.F32 R4, R8", 1, 0))
    with pytest.raises(ModelError, match="FADD at 0x30 releases a barrier"):
        simulate.cycles(issued(instruction("FADD R4, R4, R4", 1, 0)), 0)


def test_a_prediction_is_always_the_same() -> None:
    load = instruction("LDS R6, [R1]", 1, 0)
    step = [load, instruction("MUFU.EX2 R6, R6", 1, 1, waits=(0,)), instruction("STS [R1], R6", 1, waits=(1,))] * 5
    found = {simulate.cycles(issued(*step, warps=8), 300) for _ in range(3)}
    assert len(found) == 1


def state_of(*values: int, first: int = 0) -> State:
    """Of a warp with these values in the registers from R0, or another, on."""
    state = State(launch_of(1), 0)
    for number, value in enumerate(values):
        state.write(f"R{first + number}", every(value), EVERYWHERE)
    return state


def execute(state: State, text: str) -> str:
    """One instruction; returns its first operand."""
    line = instruction(text)
    operands = operands_of(line.operands)
    MEANINGS[line.opcode.split(".")[0]](state, line, operands, EVERYWHERE)
    return operands[0]


def assert_known(state: State, register: str, value: int) -> None:
    """Every lane has this value in a register."""
    assert state.read(register).known.all()
    assert (state.read(register).bits == value).all()


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("IMAD R0, R1, R2, R3", (7, -3, 100), 79),
        ("IMAD.HI.U32 R0, R1, R2, R3", (1 << 31, 6, 0, 5), 8),
        ("IMAD.WIDE R0, R1, R2, RZ", (-1, 5), -5),
        ("IADD3 R0, R1, -R2, R3", (10, 4, 1), 7),
        ("VIADD R0, R1, 0xffffffff", (10,), 9),
        ("LEA R0, R1, R2, 0x3", (5, 2), 42),
        ("LEA.HI R0, R1, R2, RZ, 0x5", (-1, 3), 3 + 31),
        ("SHF.R.S32.HI R0, RZ, 0x4, R1", (-32,), -2),
        ("SHF.R.U32.HI R0, RZ, 0x4, R1", (-32,), (1 << 28) - 2),
        ("SHF.L.U32 R0, R1, 0x4, RZ", (3,), 48),
        ("SHF.R.U64 R0, R1, 0x8, R2", (0x100, 1), (1 << 24) + 1),
        ("SHF.L.U64.HI R0, R1, 0x4, R2", (-1, 1), 31),
        ("LOP3.LUT R0, R1, R2, R3, 0x96, !PT", (12, 10, 1), 7),
        ("LOP3.LUT R0, R1, 0xf0, RZ, 0xc0, !PT", (0x1234,), 0x30),
        ("PRMT R0, R1, 0x5410, R2", (0x1111AAAA, 0x2222BBBB), 0xBBBBAAAA),
        ("PRMT R0, R1, 0x9910, RZ", (0x8000,), -32768),
        ("VIMNMX R0, R1, 0x2, PT", (-5,), -5),
        ("VIMNMX R0, R1, R2, !PT", (-5, 3), 3),
        ("VIMNMX.RELU R0, P1, P1, R1, 0x2, PT", (-5,), 0),
        ("VIADDMNMX.RELU R0, R1, R2, 0x2, PT", (-5, 3), 0),
        ("SEL R0, R1, R2, !PT", (1, 2), 2),
        ("HFMA2.MMA R0, -RZ, RZ, 3.7421875, 0", (), 0x437C0000),
        ("HFMA2.MMA R0, -RZ, RZ, 0, 5.9604644775390625e-08", (), 1),
        ("IABS R0, R1", (-9,), 9),
        ("LDC R0, c[0x0][0x210]", (), 0x03020100),
        ("LDC R0, c[0x0][R1+0x210]", (4,), 0x07060504),
        ("ULDC.U8 UR0, c[0x0][0x215]", (), 5),
        ("S2R R0, SR_CTAID.Y", (), 3),
        ("S2UR UR0, SR_CTAID.Y", (), 3),
    ],
)
def test_integers_are_computed(text: str, values: tuple[int, ...], expected: int) -> None:
    state = state_of(*values, first=1)
    assert_known(state, execute(state, text), expected & 0xFFFFFFFF)


@pytest.mark.parametrize("operands", ["R1, R2, 1, 1", "-RZ, RZ, R1", "-RZ, RZ, 0, -QNAN"])
def test_other_halves_are_unknown(operands: str) -> None:
    state = state_of(1, 1, 1)
    assert not state.read(execute(state, f"HFMA2.MMA R0, {operands}")).known.any()


def test_what_no_document_says_of_a_predicate_is_unknown() -> None:
    state = state_of(1, first=1)
    state.write_predicate("P1", EVERYWHERE, EVERYWHERE)
    execute(state, "VIMNMX.RELU R0, P1, P1, R1, 0x2, PT")
    assert not state.predicate("P1").known.any()


def test_predicates_are_kept_in_a_register() -> None:
    state = state_of(0x123, first=1)
    for number in range(7):
        true = np.full(LANES, number in (0, 6))
        state.write_predicate(f"P{number}", Predicate(true, np.ones(LANES, np.bool_)), EVERYWHERE)
    assert_known(state, execute(state, "P2R R0, PR, R1, 0x42"), 0x161)


def test_bits_are_known_one_by_one() -> None:
    """A flag of 16 bits that is kept in half of a register, whose other half is unknown, is known."""
    state = state_of(3, first=1)
    execute(state, "PRMT R2, R1, 0x7610, R2")
    assert not state.read("R2").known.any()
    for text in ("LOP3.LUT R3, R2, 0xffff, RZ, 0xc0, !PT", "LOP3.LUT R4, R2, R1, RZ, 0xc0, !PT"):
        assert_known(state, execute(state, text), 3)


@pytest.mark.parametrize(
    ("low", "high", "comparison", "expected"),
    [
        ((1, 2), (0, 0), "GE", False),
        ((1, 2), (1, 0), "GE", True),
        ((2, 2), (0, 0), "GE", True),
        ((1, 2), (-1, 0), "LT", True),
    ],
)
def test_numbers_of_64_bits_are_compared(
    low: tuple[int, int], high: tuple[int, int], comparison: str, expected: bool
) -> None:
    state = state_of(*low, *high)
    execute(state, f"ISETP.{comparison}.U32.AND P0, PT, R0, R1, PT")
    execute(state, f"ISETP.{comparison}.AND.EX P1, PT, R2, R3, PT, P0")
    assert state.predicate("P1").known.all()
    assert (state.predicate("P1").true == expected).all()


def test_a_carry_goes_into_the_upper_half() -> None:
    state = state_of(0xFFFFFFFF, 7, 3, 1)
    for text in ("IADD3 R4, P0, R0, R2, RZ", "IADD3.X R5, R1, R3, RZ, P0, !PT"):
        execute(state, text)
    assert (state.wide("R4")[0] == np.uint64(9 << 32 | 2)).all()


# ---- The model, of a kernel


def test_a_name_that_no_kernel_has_is_an_error() -> None:
    with pytest.raises(kernels.UnknownKernelError, match=r"expected one of cluster_H64_C1_rows8, .*, got cluster_H63"):
        kernels.named("cluster_H63", "bf16", "fwd")


@pytest.mark.parametrize(
    ("name", "dtype", "direction", "blocks", "instantiation"),
    [
        (
            *("cluster_H192_C2_rows8", "bf16", "fwd", 2),
            "gru_cluster_fwd_kernel<GruClusterFwdTraits<bfloat16, 192, 2, 8, 12, 6, (Exchange)1>, true>",
        ),
        (
            *("group_H512_C16_rows8_ieee", "fp32", "fwd", 16),
            "gru_group_fwd_kernel<GruClusterFwdTraits<ieee, 512, 16, 8, 8, 8, (Exchange)2>, true>",
        ),
        (
            *("group_H768_C24_rows8", "fp16", "bwd", 24),
            "gru_group_bwd_kernel<GruGroupBwdTraits<float16, 768, 24, 8, 8, 12> >",
        ),
        (
            *("streamed_U32_rows8", "tf32", "bwd", 32),
            "gru_streamed_bwd_kernel<StreamedTraits<float, 32, 32, 3, 8, 8, 1, 8, 4, 4>, false>",
        ),
    ],
)
def test_a_name_is_that_of_an_instantiation(
    name: str, dtype: str, direction: str, blocks: int, instantiation: str
) -> None:
    kernel = kernels.named(name, dtype, direction)
    assert kernels.of_instantiation(instantiation) == kernel
    assert (kernel.name, kernel.blocks) == (name, blocks)


@pytest.mark.parametrize(
    "instantiation",
    [
        "gru_cluster_fwd_kernel<GruClusterFwdTraits<bfloat16, 192, 2, 8, 12, 6, (Exchange)1>, false>",
        "gru_streamed_bwd_kernel<StreamedTraits<float, 32, 32, 3, 8, 8, 1, 8, 4, 4>, true>",
        "gru_step_fwd_kernel<float>",
    ],
)
def test_other_instantiations_are_not_predicted(instantiation: str) -> None:
    """Those of inference, for masks, and of other families."""
    assert kernels.of_instantiation(instantiation) is None


def test_only_a_streamed_kernel_serves_any_h() -> None:
    assert kernels.named("streamed_U32_rows16", "bf16", "fwd", 2816).blocks == 88
    with pytest.raises(kernels.UnknownKernelError, match="expected it with a streamed kernel, got it with cluster_H64"):
        kernels.named("cluster_H64_C1_rows8", "bf16", "fwd", 32)
    with pytest.raises(ToolError, match="no streamed kernel of these numbers for H = 64"):
        kernels.parameters(kernels.named("streamed_U16_rows64", "bf16", "fwd", 64)._replace(numbers=(16, 64, 4, 3, 9)))


@cache
def compiled(name: str, direction: str, dtype: str = "bf16") -> tuple[Kernel, MachineCode]:
    """For one architecture."""
    if why := missing():
        pytest.skip(why)
    kernel = kernels.named(name, dtype, direction)
    return kernel, kernels.compiled(kernel, "90")


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("cluster_H64_C1_rows8", "fwd"),
        ("cluster_H64_C1_rows8", "bwd"),
        ("cluster_H192_C2_rows8", "fwd"),
        ("group_H768_C24_rows8", "bwd"),
        ("streamed_U16_rows16", "fwd"),
    ],
)
def test_a_step_of_the_last_member_is_as_that_of_the_first(name: str, direction: str) -> None:
    kernel, code = compiled(name, direction)
    members = kernel._replace(members=5)
    first, last = (kernels.launch_of(members, code, member) for member in (0, 4))
    assert (first.block, first.block_y) == (0, 0)
    assert (last.block, last.block_y) in ((4 * kernel.blocks, 0), (0, 4))
    assert first.parameters == last.parameters != kernels.parameters(kernel)
    paths = [kernels.steps_of(members, code, member) for member in (0, 4)]
    assert paths[0] == paths[1]
    assert kernels.steps_of(members, code) == paths[1]


def products_of_slabs(kernel: Kernel) -> int:
    """Of a warp: a tile of 16 x 16 weights of its rows, by 8 rows of the batch."""
    units, rows, slices, parts, *_ = kernel.numbers
    rows_of_weights, gates = (3 * units, 1) if kernel.direction == "fwd" else (units, 3)
    return gates * kernel.hidden // slices // 16 * rows_of_weights // parts // 16 * rows // 8


@pytest.mark.parametrize(
    ("name", "direction", "hidden", "products"),
    [
        ("group_H768_C24_rows8", "bwd", None, lambda kernel: 3 * 768 * 32 // (16 * 16) // kernel.warps),
        ("streamed_U16_rows16", "fwd", None, products_of_slabs),
        ("streamed_U16_rows16", "fwd", 2048, products_of_slabs),
    ],
)
def test_a_step_that_exchanges_by_the_l2_cache_is_followed(
    name: str, direction: str, hidden: int | None, products: Callable[[Kernel], int]
) -> None:
    """All products are on the path, so all slabs; it fetches what others store, and polls each place once."""
    kernel, code = compiled(name, direction)
    kernel = kernel._replace(hidden=hidden or kernel.hidden)
    steps = kernels.steps_of(kernel, code)
    for of_warp in steps:
        assert sum(one.instruction.opcode.startswith("HMMA") for one in of_warp[-1] if one.lanes) == products(kernel)
    everything = [one for of_warp in steps for one in of_warp[-1] if one.lanes]
    opcodes = [(one.instruction.opcode, one.lanes) for one in everything]
    polls = sum(lanes for opcode, lanes in opcodes if opcode.startswith("LDG") and "STRONG" in opcode)
    if kernel.family == "group":
        assert polls == kernel.hidden // 2 * kernel.rows  # a packet for two units
    else:
        assert polls == kernel.blocks  # a flag of each
        copies = sum(lanes for opcode, lanes in opcodes if opcode.startswith("LDGSTS"))
        assert 8 * copies == kernel.hidden * kernel.rows  # of halves; all of R is held, so that they are the operand's
    most, predicted = simulate.bounds(steps), simulate.cycles(steps, figures.FROM_L2.value)
    assert max(most) <= predicted <= simulate.cycles(steps, figures.FROM_MEMORY.value)


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_a_step_of_a_kernel_is_followed(direction: str) -> None:
    """Its products are counted by what the source says, its loads are of pairs, and the bounds hold."""
    kernel, code = compiled("cluster_H64_C1_rows8", direction)
    steps = kernels.steps_of(kernel, code)
    assert [len(of_warp) for of_warp in steps] == [kernels.STEPS] * kernel.warps
    tiles = 3 * kernel.hidden * kernel.hidden // (16 * 16) // kernel.warps  # of 16 x 16, of the weights of a warp
    for of_warp in steps:
        executed = [one.instruction.opcode for one in of_warp[-1] if one.lanes]
        assert sum(opcode.startswith("HMMA") for opcode in executed) == tiles
        loads = [opcode for opcode in executed if opcode.startswith(("LDG", "LD."))]
        pairs = kernel.hidden // 2 * kernel.rows // (32 * kernel.warps)
        assert [opcode.removeprefix("LDG").removeprefix("LD") for opcode in loads] == [".E"] * (
            pairs * (3 if direction == "fwd" else 6)
        )
    most, predicted = simulate.bounds(steps), simulate.cycles(steps, figures.FROM_L2.value)
    assert max(most) <= predicted <= simulate.cycles(steps, figures.FROM_MEMORY.value)


def test_a_step_with_reciprocals_that_may_call_is_followed() -> None:
    """None calls, and all are on the path, so that a step gets longer if they do: by more than the check allows."""
    kernel, code = compiled("cluster_H64_C1_rows8_ieee", "fwd", "fp32")
    calls = [instruction for instruction in code.code if instruction.opcode.startswith("CALL")]
    steps = kernels.steps_of(kernel, code)
    pairs = kernel.hidden // 2 * kernel.rows // (LANES * kernel.warps)
    assert len(calls) == 4 * pairs  # two sigmoids of two units
    for of_warp in steps:
        executed = [one.instruction.opcode for one in of_warp[-1] if one.lanes]
        assert executed.count("MUFU.RCP") == executed.count("MUFU.EX2") == 2 * pairs * 3
    # The last of a reciprocal, and where it meets the call.
    slow = [i._replace(control=i.control | 15 << 41) if i.opcode in ("FADD.FTZ", "BSYNC") else i for i in code.code]
    longer, predicted = (
        simulate.cycles(kernels.steps_of(kernel, code._replace(code=of)), figures.FROM_L2.value)
        for of in (slow, code.code)
    )
    assert longer > 1.05 * predicted


# ---- Calls with members


@pytest.mark.parametrize(("number", "kernel", "clusters", "rounds"), [(8, 8, 16, 1), (64, 16, 64, 2)])
def test_members_are_served_as_the_choice_has_it(number: int, kernel: int, clusters: int, rounds: int) -> None:
    """33 clusters of 4 blocks at a time on 132 multiprocessors; many members make tiles of more rows worth while."""
    call = Call("bf16", "fwd", 512, 16, 256, number)
    found = members.launches(call, "H200", lambda kernel: 1000.0 if kernel.rows == 8 else 1500.0)
    assert found.one.kernel == f"cluster_H256_C4_rows{kernel}"
    assert (found.one.clusters, found.one.at_a_time, found.one.rounds) == (clusters, 33, rounds)
    step = (1000 if kernel == 8 else 1500) / figures.CLOCK_HZ["H200"]
    assert found.seconds == pytest.approx(1e-5 + rounds * 512 * step)
    assert found.of_member.kernel == "cluster_H256_C4_rows8"
    assert found.seconds_of_loop == pytest.approx(number * (1e-5 + 512 * 1000 / figures.CLOCK_HZ["H200"]))


def test_a_call_that_no_persistent_kernel_serves_is_an_error() -> None:
    with pytest.raises(ToolError, match="no persistent kernel serves"):
        members.served(Call("fp32", "fwd", 512, 16, 8192, 1), "H200")
