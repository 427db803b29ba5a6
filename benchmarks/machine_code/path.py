"""The path of a warp through the steps of a kernel: its machine code, executed as far as it decides where to go.

Parameters and the numbers of threads and blocks are given; integers, predicates and branches are computed for all 32
lanes. What comes from memory, and floating-point values, are unknown. A branch, guard of a memory access or address
that depends on something unknown is an error: the path is never guessed. Five things are decided by rule:

- a wait at an mbarrier succeeds at once;
- a load that polls for what other blocks store (STRONG) finds the number of the step that it waits for;
- a branch around a call is taken: a subroutine has what random data do not need, here reciprocals of 2^126 and more,
  which are of a sigmoid's arguments below -87;
- a block barrier that combines a predicate of all threads gives what the lanes of this warp alone would;
- lanes that part execute one after the other, those that do not jump first, and meet where the code says.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from benchmarks.machine_code.lanes import (
    EVERYWHERE,
    IMMEDIATE,
    LANES,
    Lanes,
    Launch,
    PathError,
    Predicate,
    State,
    Words,
    operands_of,
    predicate_of,
)
from benchmarks.machine_code.listing import Code, Instruction, step_loop
from benchmarks.machine_code.meanings import MEANINGS

MOST_ISSUED = 1_000_000  # by a warp: beyond, it goes round in circles
BANKS, BANK_BYTES, LINE_BYTES = 32, 4, 128
# Of an address in a cluster's shared memory: the bits of its place in the block's, above which is the block.
OF_BLOCK, BLOCK_SHIFT, WORD = (1 << 24) - 1, np.uint64(24), np.uint64(0xFFFFFFFF)
STEERING = ("BRA", "BSSY", "BSYNC", "BREAK", "EXIT", "WARPSYNC")
CALLING = ("CALL", "RET", "JMP", "BRX")
SHARED = ("LDS", "LDSM", "STS", "STAS")
GLOBAL = ("LDG", "LD", "STG", "ST", "LDGSTS")


class Issued(NamedTuple):
    """An instruction as a warp issued it."""

    instruction: Instruction
    lanes: int  # in which it does something
    jumps: bool  # to where another instruction follows than the next
    accesses: int = 0  # to shared memory at a time, or lines of global memory, that it takes
    barrier: int = 0  # the number of a block barrier
    warps: int = 0  # that meet there; 0: all of the block
    mbarrier: int = 0  # that it waits at or, of an asynchronous store, tells: its place in shared memory


def _address(state: State, operands: tuple[str, ...]) -> tuple[Words, Lanes]:
    """Of an access: registers, of which some are 64 bits wide, and a constant. LDGSTS: of global memory."""
    places = [operand for operand in operands if operand.endswith("]")]
    text = places[-1] if len(places) == 2 and places[-1].startswith("desc") else places[0]
    total, known = np.zeros(LANES, np.uint64), np.ones(LANES, np.bool_)
    for part in text[text.rindex("[") + 1 : -1].split("+"):
        if IMMEDIATE.fullmatch(part):
            total = total + np.uint64(int(part, 16) & (1 << 64) - 1)
        else:
            value = state.read(part)
            bits, bits_known = state.wide(part) if part.endswith(".64") else (value.bits, value.known)
            total, known = total + bits, known & bits_known
    return total, known


def _shared_accesses(opcode: str, addresses: Words, here: Lanes) -> int:
    """How often shared memory is accessed: by 128 bytes of lanes at a time, more often where they meet in a bank."""
    base, *kinds = opcode.split(".")
    size = 16 if "128" in kinds or base == "LDSM" else 8 if "64" in kinds else 4
    lanes = 8 * int(kinds[-1]) if base == "LDSM" and kinds[-1].isdigit() else LANES
    together = BANKS * BANK_BYTES // size
    count = 0
    for first in range(0, lanes, together):
        words = {
            int(address) // BANK_BYTES + word
            for address, is_here in zip(
                addresses[first : first + together], here[first : first + together], strict=False
            )
            if is_here
            for word in range(size // BANK_BYTES)
        }
        of_bank = [0] * BANKS
        for word in words:
            of_bank[word % BANKS] += 1
        count += max(of_bank)
    return count


def _sent_accesses(opcode: str, places: Words) -> int:
    """How often blocks of a cluster access their shared memory for an asynchronous store to it, all blocks together.

    Blocks are taken to be alike: it is as often as this one does for such a store of the others.
    """
    blocks = places >> BLOCK_SHIFT
    return sum(
        _shared_accesses(opcode, places[blocks == block], np.ones(LANES, np.bool_)) for block in set(blocks.tolist())
    )


class Warp:
    """A warp, from the beginning of a kernel to its end."""

    def __init__(self, code: Code, launch: Launch, warp: int) -> None:
        self._code = code
        self._places = {instruction.address: place for place, instruction in enumerate(code)}
        self._state = State(launch, warp)
        self._place, self._here = 0, EVERYWHERE.true
        self._alive = np.ones(LANES, np.bool_)
        self._apart: list[tuple[int, Lanes]] = []  # lanes that wait for others to go first
        self._meetings: dict[str, Lanes] = {}  # by convergence barrier: who takes part
        self._waiting: dict[tuple[str, int], Lanes] = {}  # by barrier and place: who has come
        self.issued: list[Issued] = []

    def steps(self, head: int, count: int) -> list[list[Issued]]:
        """What it issues from one time that it is at the instruction at ``head`` to the next, ``count`` times."""
        starts = list[int]()
        while True:
            if self._code[self._place].address == head:
                starts.append(len(self.issued))
                self._state.step += 1
                if len(starts) > count:
                    return [self.issued[first:after] for first, after in pairwise(starts)]
            if len(self.issued) > MOST_ISSUED:
                raise PathError(f"warp {self._state.warp} issues more than {MOST_ISSUED} instructions")
            self._step()
            if not self._alive.any():
                raise PathError(f"warp {self._state.warp} has ended after {max(len(starts) - 1, 0)} steps")

    def _fail(self, instruction: Instruction, why: str) -> PathError:
        guard = f"{instruction.guard} " if instruction.guard else ""
        line = f"{guard}{instruction.opcode} {instruction.operands}".strip()
        return PathError(f"{why}: {line} at {instruction.address:#x}, warp {self._state.warp}")

    def _step(self) -> None:
        i = self._code[self._place]
        base = i.opcode.split(".")[0]
        operands = operands_of(i.operands)
        lanes = EVERYWHERE if self._here is EVERYWHERE.true else Predicate(self._here, EVERYWHERE.known)
        if i.guard:
            guard = self._state.predicate(i.guard[1:])
            lanes = Predicate(guard.true & self._here, guard.known | ~self._here)
        decided = not i.guard or bool(lanes.known.all())
        if base in STEERING:
            if not decided:
                if not self._is_around_a_call(i):
                    raise self._fail(i, "the path depends on something unknown")
                lanes = lanes._replace(true=self._here)
            return self._steer(i, base, operands, lanes.true)
        meaning = MEANINGS.get(base)
        if meaning is None:
            raise self._fail(i, f"unknown opcode {base}")
        issued = Issued(i, LANES if lanes is EVERYWHERE else int((lanes.true | ~lanes.known).sum()), False)
        if base in (*SHARED, *GLOBAL, "BAR", "SYNCS"):
            if not decided:
                raise self._fail(i, "whether it executes depends on something unknown")
            issued = self._of_memory(i, base, operands, lanes.true, issued)
        meaning(self._state, i, operands, lanes)
        self.issued.append(issued)
        self._place += 1

    def _is_around_a_call(self, branch: Instruction) -> bool:
        """Whether what it leaves out calls a subroutine and comes back, and goes nowhere else."""
        end = self._places.get(branch.target) if branch.opcode == "BRA" and branch.target else None
        left_out = [i.opcode.split(".")[0] for i in self._code[self._place + 1 : end]] if end else []
        return [base for base in left_out if base in (*STEERING, *CALLING)] == ["CALL", "BRA"]

    def _of_memory(self, i: Instruction, base: str, operands: tuple[str, ...], here: Lanes, issued: Issued) -> Issued:
        if base == "BAR" and here.any():
            numbers = [self._state.read(operand) for operand in operands if not predicate_of(operand)]
            if not all(number.known.all() for number in numbers):
                raise self._fail(i, "the number of a barrier is unknown")
            barrier, *threads = (int(number.bits[0]) for number in numbers)
            return issued._replace(barrier=barrier, warps=threads[0] // LANES if threads else 0)
        waits = ".PHASECHK" in i.opcode
        if (base not in (*SHARED, *GLOBAL) and not waits) or not here.any():
            return issued
        addresses, known = _address(self._state, operands)
        if not known[here].all():
            raise self._fail(i, "an address is unknown")
        if waits:
            return issued._replace(mbarrier=int(addresses[here][0]))
        if base == "STAS":  # the place of the bytes, and that of the mbarrier, each with the block in its upper byte
            issued = issued._replace(mbarrier=int(addresses[here][0]) >> 32 & OF_BLOCK)
            return issued._replace(accesses=_sent_accesses(i.opcode, addresses[here] & WORD))
        if base in SHARED:
            return issued._replace(accesses=_shared_accesses(i.opcode, addresses, here))
        return issued._replace(accesses=len({int(address) // LINE_BYTES for address in addresses[here]}))

    def _steer(self, i: Instruction, base: str, operands: tuple[str, ...], lanes: Lanes) -> None:
        issued = Issued(i, int(lanes.sum()), False)
        if base == "BRA":
            lanes = self._branching(i, operands, lanes)
            target = i.target
            stays = self._here & ~lanes
            if lanes.any():
                if target not in self._places:
                    raise self._fail(i, "it leads to where no instruction is")
                if stays.any():
                    self._apart.append((self._places[target], lanes))
                    self._here = stays
                else:
                    self.issued.append(issued._replace(jumps=True))
                    self._place = self._places[target]
                    return
            self.issued.append(issued)
            self._place += 1
            return
        self.issued.append(issued)
        if base == "EXIT":
            self._alive = self._alive & ~lanes
            self._here = self._here & ~lanes
            self._place += 1
            if not self._here.any():
                self._next_lanes()
        elif base == "BSSY":
            self._meetings[operands[0]] = self._here
            self._place += 1
        elif base == "BREAK":  # they will not come to the meeting
            self._meetings[operands[0]] = self._meetings[operands[0]] & ~lanes
            self._place += 1
        elif base == "BSYNC":
            self._meet((operands[0], self._place), self._meetings[operands[0]])
        elif i.opcode == "WARPSYNC.ALL":
            self._meet(("", self._place), np.ones(LANES, np.bool_))
        else:
            raise self._fail(i, f"unknown opcode {i.opcode}")

    def _branching(self, i: Instruction, operands: tuple[str, ...], lanes: Lanes) -> Lanes:
        """Of the lanes of the guard, those that take a branch."""
        if i.opcode == "BRA.DIV":  # where lanes of the warp are elsewhere
            return np.zeros(LANES, np.bool_) if (self._here == self._alive).all() else lanes
        if i.opcode.split(".")[1:] not in ([], ["U"]):
            raise self._fail(i, f"unknown opcode {i.opcode}")
        if len(operands) == 1:
            return lanes
        condition = self._state.predicate(operands[0])
        if not condition.known[lanes].all():
            raise self._fail(i, "the path depends on something unknown")
        return lanes & condition.true

    def _meet(self, key: tuple[str, int], all_of: Lanes) -> None:
        """Waits until all have come that are still alive."""
        waiting = self._waiting.get(key, np.zeros(LANES, np.bool_)) | self._here
        everyone = all_of & self._alive
        if (waiting & everyone).sum() == everyone.sum():
            self._waiting.pop(key, None)
            self._here = EVERYWHERE.true if everyone.all() else everyone
            self._place += 1
        else:
            self._waiting[key] = waiting
            self._next_lanes()

    def _next_lanes(self) -> None:
        if self._apart:
            self._place, self._here = self._apart.pop()
        elif self._alive.any():
            places = ", ".join(f"{self._code[place].address:#x}" for _, place in self._waiting)
            raise PathError(f"warp {self._state.warp}: lanes wait for others for ever at {places}")


def steps_of(code: Code, launch: Launch, count: int) -> list[list[list[Issued]]]:
    """What each warp of a block issues in steps 1 to ``count``, each from one beginning of the loop to the next.

    Step 0 is not among them: it does without the exchange.
    """
    loop = step_loop(code)
    if loop is None:
        raise PathError("the kernel has no loop")
    return [Warp(code, launch, warp).steps(loop[0], count + 1)[1:] for warp in range(launch.threads // LANES)]
