"""What instructions do to the registers and predicates that decide a path: integers, predicates, and no more.

NVIDIA does not document it; the names and operands are those of its disassembler. What an instruction computes from
memory or in floating point is unknown afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine_code.lanes import (
    LANES,
    MASK,
    Lanes,
    Predicate,
    State,
    Value,
    Words,
    every,
    predicate_of,
    register_of,
    signed,
    unknown,
    unsigned,
    value_of,
)
from benchmarks.machine_code.listing import Instruction

NOTHING = Predicate(np.zeros(LANES, np.bool_), np.zeros(LANES, np.bool_))  # is known of it

Meaning = Callable[[State, Instruction, tuple[str, ...], Predicate], None]


def _predicates(operands: tuple[str, ...], first: int) -> int:
    """How many operands from the first on are predicates."""
    count = 0
    while first + count < len(operands) and predicate_of(operands[first + count]):
        count += 1
    return count


def _all_known(values: Sequence[Value | Predicate]) -> Lanes:
    known = values[0].known
    for value in values[1:]:
        known = known & value.known
    return known


def _bits(number: int) -> np.uint64:
    bits: np.uint64 = np.uint64(number)
    return bits


def _move(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    state.write(operands[0], state.read(operands[1]), lanes)


def _multiply(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """IMAD: a * b + c, of 32 bits or, WIDE and HI, of 64."""
    kinds = i.opcode.split(".")[1:]
    carried = _predicates(operands, 1)
    a, b, c = operands[1 + carried : 4 + carried]
    first, second = state.read(a), state.read(b)
    zero = (first.known & (first.bits == 0)) | (second.known & (second.bits == 0))
    known = zero | (first.known & second.known)
    wide = "WIDE" in kinds or "HI" in kinds
    if wide and "U32" not in kinds:
        product = (signed(first.bits) * signed(second.bits)).view(np.uint64)
    else:
        product = first.bits * second.bits
    product = np.where(zero, _bits(0), product)
    third = state.read(c)
    added, added_known = state.wide(c) if wide else (third.bits, third.known)
    total, known = product + added, known & added_known
    if "X" in kinds:
        carry = state.predicate(operands[4 + carried])
        total, known = total + carry.true, known & carry.known
    if carried:
        limit = total < product if wide else (total & MASK) < (product & MASK)
        state.write_predicate(operands[1], Predicate(limit, known), lanes)
    if "HI" in kinds:
        state.write(operands[0], value_of(total >> _bits(32), known), lanes)
        return
    state.write(operands[0], value_of(total & MASK, known), lanes)
    if "WIDE" in kinds:
        state.write(operands[0], value_of(total >> _bits(32), known), lanes, beyond=1)


def _add(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """IADD3, with up to two carries out and, X, in; VIADD of two."""
    carried = _predicates(operands, 1)
    terms = [operand for operand in operands[1 + carried :] if not predicate_of(operand)]
    carries = [operand for operand in operands[1 + carried :] if predicate_of(operand)]
    values = [state.read(term) for term in terms]
    known = _all_known(values)
    total = values[0].bits
    for value in values[1:]:
        total = total + value.bits
    if ".X" not in i.opcode:  # the complement of 0 carries
        for term, value in zip(terms, values, strict=True):
            if term.startswith("-") and register_of(term):
                total = total + (value.bits == 0) * _bits(1 << 32)
    for carry in carries:
        predicate = state.predicate(carry)
        total, known = total + predicate.true, known & predicate.known
    for number in range(carried):
        out = Predicate((total >> _bits(32)) > number, known)
        state.write_predicate(operands[1 + number], out, lanes)
    state.write(operands[0], value_of(total & MASK, known), lanes)


def _shift_add(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """LEA: (a << n) + b; HI: the upper half of ({c, a} << n), + b."""
    kinds = i.opcode.split(".")[1:]
    carried = _predicates(operands, 1)
    rest = operands[1 + carried :]
    a, b = state.read(rest[0]), state.read(rest[1])
    known = a.known & b.known
    carry = np.zeros(LANES, np.uint64)
    if "X" in kinds:
        taken = state.predicate(rest[-1])
        carry, known, rest = taken.true.astype(np.uint64), known & taken.known, rest[:-1]
    shift = _bits(int(rest[-1], 16))
    if "HI" not in kinds:
        shifted = a.bits << shift & MASK
    elif "SX32" in kinds:
        shifted = (signed(a.bits) << np.int64(shift) >> np.int64(32)).view(np.uint64) & MASK
    else:
        upper = state.read(rest[2])
        known = known & upper.known
        shifted = (upper.bits << _bits(32) | a.bits) >> (_bits(32) - shift) & MASK
    total = shifted + b.bits + carry
    if carried:
        state.write_predicate(operands[1], Predicate(total >> _bits(32) > 0, known), lanes)
    state.write(operands[0], value_of(total & MASK, known), lanes)


def _shift(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """SHF: {b, a} shifted, or where the type has 32 bits, a left and, HI, b right."""
    kinds = i.opcode.split(".")[1:]
    low, count, upper = (state.read(operand) for operand in operands[1:4])
    known = low.known & count.known & upper.known
    shift = np.minimum(count.bits, 63)
    both = upper.bits << _bits(32) | low.bits
    if "L" in kinds:
        bits = both << shift >> _bits(32) if "HI" in kinds else low.bits << shift
    elif "HI" in kinds:
        bits = (signed(upper.bits) >> shift.astype(np.int64)).view(np.uint64)
        bits = bits if {"S32", "S64"} & {*kinds} else upper.bits >> shift
    else:
        bits = both >> shift
    state.write(operands[0], value_of(bits & MASK, known), lanes)


def _table(table: int, may_be_one: list[Words], may_be_zero: list[Words]) -> Words:
    """The bits that the table may make one, of three of which it is given what each may be."""
    bits: Words = np.zeros(LANES, np.uint64)
    for index in range(8):
        if table >> index & 1:
            chosen = [(may_be_one if index >> 2 - place & 1 else may_be_zero)[place] for place in range(3)]
            bits |= chosen[0] & chosen[1] & chosen[2]
    bits &= MASK
    return bits


def _logic(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """LOP3: any function of three bits; the predicate says whether the result is not zero."""
    carried = _predicates(operands, 0)
    target, *inputs, table, more = operands[carried:]
    values = [state.read(operand) for operand in inputs]
    may_be_one = [value.bits | ~value.certain for value in values]
    may_be_zero = [~value.bits | ~value.certain for value in values]
    one = _table(int(table, 16), may_be_one, may_be_zero)
    zero = _table(~int(table, 16), may_be_one, may_be_zero)
    result = Value(one & ~zero, (one ^ zero) & MASK)
    also = state.predicate(more)
    compared = Predicate(result.bits != 0, result.known | (result.bits != 0))
    for out in operands[:carried]:
        state.write_predicate(out, _combined("OR", compared, also), lanes)
    state.write(target, result, lanes)


def _predicate_logic(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    first, second, *inputs, table, other = operands
    values = [state.predicate(operand) for operand in inputs]
    known = _all_known(values)
    words = [np.where(value.true, MASK, _bits(0)) for value in values]
    for out, number in ((first, table), (second, other)):
        true = _table(int(number, 16), words, [~word for word in words]) != 0
        state.write_predicate(out, Predicate(true, known), lanes)


COMPARED: dict[str, Callable[[NDArray[np.int64], NDArray[np.int64]], Lanes]] = {
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
}


def _combined(kind: str, compared: Predicate, other: Predicate) -> Predicate:
    """AND or OR; known where one of the two decides it."""
    if kind == "AND":
        decided = (compared.known & ~compared.true) | (other.known & ~other.true)
        return Predicate(compared.true & other.true & ~decided, compared.known & other.known | decided)
    if kind == "OR":
        decided = (compared.known & compared.true) | (other.known & other.true)
        return Predicate(compared.true | other.true | decided, compared.known & other.known | decided)
    return Predicate(compared.true ^ other.true, compared.known & other.known)


def _compare(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """ISETP; EX: of upper halves, after the lower ones."""
    comparison, *kinds = i.opcode.split(".")[1:]
    first, second, a, b, other, *lower = operands
    left, right = state.read(a), state.read(b)
    known = left.known & right.known
    is_signed = "U32" not in kinds
    numbers = [signed(v.bits) if is_signed else v.bits.astype(np.int64) for v in (left, right)]
    true = COMPARED[comparison](*numbers)
    if "EX" in kinds:
        below = state.predicate(lower[0])
        equal = numbers[0] == numbers[1]
        strictly = COMPARED[comparison[:1] + "T"](*numbers) if comparison in ("LE", "GE") else true
        true = np.where(equal, below.true, strictly)
        known = known & (below.known | ~equal)
    (kind,) = {"AND", "OR", "XOR"} & {*kinds}
    also = state.predicate(other)
    both = [_combined(kind, Predicate(answer, known), also) for answer in (true, ~true)]
    for out, answer in zip((first, second), both, strict=True):
        state.write_predicate(out, answer, lanes)


def _select(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    a, b, which = state.read(operands[1]), state.read(operands[2]), state.predicate(operands[3])
    known = np.where(which.true, a.known, b.known) & which.known
    state.write(operands[0], value_of(np.where(which.true, a.bits, b.bits), known), lanes)


def _least_or_most(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """VIMNMX, and VIADDMNMX of a sum: the smaller one where the predicate is true.

    With .RELU it may name two predicates more, which it sets to what no document says.
    """
    outputs = _predicates(operands, 1)
    terms, which = operands[1 + outputs : -1], operands[-1]
    for out in operands[1 : 1 + outputs]:
        state.write_predicate(out, NOTHING, lanes)
    values, least = [state.read(term) for term in terms], state.predicate(which)
    known = _all_known(values) & least.known
    is_signed = "U32" not in i.opcode
    numbers = [signed(v.bits) if is_signed else v.bits.astype(np.int64) for v in values]
    if len(numbers) == 3:
        numbers = [numbers[0] + numbers[1], numbers[2]]
    chosen = np.where(least.true, np.minimum(*numbers), np.maximum(*numbers))
    chosen = np.maximum(chosen, 0) if ".RELU" in i.opcode else chosen
    state.write(operands[0], value_of(unsigned(chosen), known), lanes)


def _keep_predicates(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """P2R: the predicates of a mask as bits of a register."""
    before, mask = state.read(operands[2]), _bits(int(operands[3], 16))
    bits, certain = before.bits & ~mask, before.certain & ~mask
    for number in range(7):
        predicate, bit = state.predicate(f"P{number}"), _bits(1 << number) & mask
        bits = bits | np.where(predicate.true, bit, _bits(0))
        certain = certain | np.where(predicate.known, bit, _bits(0))
    state.write(operands[0], Value(bits, certain), lanes)


def _absolute(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    value = state.read(operands[1])
    state.write(operands[0], value_of(unsigned(np.abs(signed(value.bits))), value.known), lanes)


def _permute(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """PRMT: four of the eight bytes of b and a; the upper bit of a place asks for its sign alone."""
    a, places, b = (state.read(operand) for operand in operands[1:4])
    if i.opcode != "PRMT" or not places.known.all():
        return _forget(state, i, operands, lanes)

    def permuted(words: Words) -> Words:
        result: Words = np.zeros(LANES, np.uint64)
        for byte in range(4):
            place = places.bits >> _bits(4 * byte) & _bits(15)
            chosen = words >> (place & _bits(7)) * _bits(8) & _bits(255)
            chosen = np.where(place & _bits(8), np.where(chosen & _bits(128), _bits(255), _bits(0)), chosen)
            result |= chosen << _bits(8 * byte)
        return result

    both, certain = (upper << _bits(32) | lower for upper, lower in ((b.bits, a.bits), (b.certain, a.certain)))
    state.write(operands[0], Value(permuted(both), permuted(certain)), lanes)


def _special(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    launch, thread = state.launch, state.warp * LANES + np.arange(LANES, dtype=np.uint64)
    numbers = {
        "SR_TID.X": thread,
        "SR_LANEID": thread % _bits(LANES),
        "SR_CTAID.X": np.full(LANES, launch.block, np.uint64),
        "SR_CTAID.Y": np.full(LANES, launch.block_y, np.uint64),
        "SR_CgaCtaId": np.full(LANES, launch.block % launch.blocks, np.uint64),
    }
    name, values = operands[1], unknown()
    if name in ("SRZ", "URZ"):
        values = every(0)
    elif name in numbers:
        values = value_of(numbers[name], np.ones(LANES, np.bool_))
    state.write(operands[0], values, lanes)
    if i.opcode == "CS2R":
        state.write(operands[0], values, lanes, beyond=1)


def _load_constant(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    value, upper = state.constant(operands[1]), state.constant(operands[1], 4)
    if ".U8" in i.opcode:
        value = value_of(value.bits & _bits(255), value.known)
    state.write(operands[0], value, lanes)
    if ".64" in i.opcode:
        state.write(operands[0], upper, lanes, beyond=1)


def _to_uniform(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    value = state.read(operands[-1])
    same = value.known.all() and (value.bits == value.bits[0]).all()
    state.write(operands[0], value if same else unknown(), lanes)


def _vote(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """VOTE: whether a predicate is true in ALL or ANY of the lanes that are here; its ballot is not computed."""
    value = state.predicate(operands[-1])
    here = lanes.true
    known = np.full(LANES, bool(value.known[here].all()) and bool(lanes.known.all()))
    answer = value.true[here].all() if ".ALL" in i.opcode else value.true[here].any()
    for operand in operands[:-1]:
        if predicate_of(operand):
            state.write_predicate(operand, Predicate(np.full(LANES, answer), known), lanes)
        else:
            state.write(operand, unknown(), lanes)


def _load(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """From memory, so unknown; but what polls finds what it waits for, in every word."""
    if ".STRONG" not in i.opcode:
        return _forget(state, i, operands, lanes)
    for beyond in range(_written(i.opcode)):
        state.write(operands[0], every(state.step + state.launch.polled), lanes, beyond)


def _floats(state: State, operand: str) -> NDArray[np.float64]:
    return state.read(operand).bits.astype(np.uint32).view(np.float32).astype(np.float64)


def _float_of_integer(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """I2F of the division of integers: rounded up."""
    value = state.read(operands[1])
    numbers = value.bits.astype(np.float64) if ".U32" in i.opcode else signed(value.bits).astype(np.float64)
    rounded = numbers.astype(np.float32)
    rounded = np.where(rounded < numbers, np.nextafter(rounded, np.float32(np.inf)), rounded)
    state.write(operands[0], value_of(rounded.view(np.uint32).astype(np.uint64), value.known), lanes)


def _integer_of_float(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    numbers = np.clip(np.nan_to_num(_floats(state, operands[1])), 0, 2.0**32 - 1)
    known = state.read(operands[1]).known
    state.write(operands[0], value_of(numbers.astype(np.uint64), known), lanes)


def _special_function(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """MUFU: the reciprocal is part of the division of integers, which corrects its last bits."""
    value = state.read(operands[1])
    if i.opcode != "MUFU.RCP" or not value.known.any():
        return state.write(operands[0], unknown(), lanes)
    with np.errstate(all="ignore"):
        result = (1 / _floats(state, operands[1])).astype(np.float32)
    state.write(operands[0], value_of(result.view(np.uint32).astype(np.uint64), value.known), lanes)


def _halves(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """HFMA2: where the product is of zeros, a constant in two halves, as compilers put it into a register."""
    if operands[1:3] != ("-RZ", "RZ") or len(operands) != 5 or "NAN" in i.operands:
        return _forget(state, i, operands, lanes)
    upper, lower = (int(np.float16(half).view(np.uint16)) for half in operands[3:])
    state.write(operands[0], every(upper << 16 | lower), lanes)


def _forget(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """What it computes is unknown: as many registers from the first operand on as it writes, and predicates."""
    leading = _predicates(operands, 0)
    for operand in operands[:leading]:
        state.write_predicate(operand, NOTHING, lanes)
    if leading < len(operands) and register_of(operands[leading]):
        for beyond in range(_written(i.opcode)):
            state.write(operands[leading], unknown(), lanes, beyond)


def _written(opcode: str) -> int:
    """Registers that an instruction writes whose results are unknown."""
    base, *kinds = opcode.split(".")
    if base == "HMMA":
        return 4 if "F32" in kinds else 2
    if base == "LDSM":
        return int(kinds[-1]) if kinds[-1].isdigit() else 1
    return 4 if "128" in kinds else 2 if "64" in kinds else 1


def _nothing(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    """It writes no register."""


def _mbarrier(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    if ".PHASECHK" in i.opcode:
        state.write_predicate(operands[0], Predicate(np.ones(LANES, np.bool_), np.ones(LANES, np.bool_)), lanes)


def _barrier(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    if ".RED" in i.opcode:
        value = state.predicate(operands[-1])
        together = np.any if ".OR" in i.opcode else np.all
        answer = np.full(LANES, bool(together(value.true[lanes.true])))
        state.of_barrier = Predicate(answer, np.full(LANES, bool(value.known[lanes.true].all())))


def _barrier_result(state: State, i: Instruction, operands: tuple[str, ...], lanes: Predicate) -> None:
    state.write(operands[0], unknown(), lanes)
    state.write_predicate(operands[1], state.of_barrier, lanes)


# Floating point, the tensor core, memory.
UNKNOWN_RESULTS = (
    *("FADD", "FMUL", "FFMA", "FSEL", "FMNMX", "FSETP", "F2FP", "F2F", "HADD2", "HMUL2", "HMMA"),
    *("LDS", "LDSM", "SHFL"),
)
NO_RESULTS = (
    *("STS", "STG", "ST", "STAS", "LDGSTS", "LDGDEPBAR", "DEPBAR", "MEMBAR", "ERRBAR", "CGAERRBAR", "CCTL", "FENCE"),
    *("UCGABAR_ARV", "UCGABAR_WAIT", "NOP", "YIELD", "NANOSLEEP"),
)
MEANINGS: dict[str, Meaning] = {
    **dict.fromkeys(("MOV", "UMOV"), _move),
    **dict.fromkeys(("IMAD", "UIMAD"), _multiply),
    **dict.fromkeys(("IADD3", "VIADD", "UIADD3"), _add),
    **dict.fromkeys(("LEA", "ULEA"), _shift_add),
    **dict.fromkeys(("SHF", "USHF"), _shift),
    **dict.fromkeys(("LOP3", "ULOP3"), _logic),
    **dict.fromkeys(("PLOP3", "UPLOP3"), _predicate_logic),
    **dict.fromkeys(("ISETP", "UISETP"), _compare),
    **dict.fromkeys(("SEL", "USEL"), _select),
    **dict.fromkeys(("VIMNMX", "VIADDMNMX"), _least_or_most),
    **dict.fromkeys(("PRMT", "UPRMT"), _permute),
    **dict.fromkeys(("S2R", "S2UR", "CS2R"), _special),
    **dict.fromkeys(("LDC", "ULDC"), _load_constant),
    **dict.fromkeys(("VOTE", "VOTEU"), _vote),
    **dict.fromkeys(("LDG", "LD"), _load),
    "IABS": _absolute,
    "P2R": _keep_predicates,
    "R2UR": _to_uniform,
    "I2F": _float_of_integer,
    "F2I": _integer_of_float,
    "MUFU": _special_function,
    "HFMA2": _halves,
    "SYNCS": _mbarrier,
    "BAR": _barrier,
    "B2R": _barrier_result,
    **dict.fromkeys(UNKNOWN_RESULTS, _forget),
    **dict.fromkeys(NO_RESULTS, _nothing),
}
