"""The machine code of kernels as ``cuobjdump -sass`` prints it, and the loads in it that cost a whole memory latency.

A kernel's loop over time steps is a chain, so every load in it should be under way while other work is done. The
compiler can spoil that: where it uses a loaded value in the very next instruction, the warp stands still until the
value has come, and loads that could overlap run one after another. ``serial_loads`` finds them.

NVIDIA does not document the encoding. Of an instruction's 128 bits, from Volta on, 110 to 112 name the barrier that a
load releases when its value has come (7: none), and each of 116 to 121 one that the instruction waits for first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

NO_BARRIER = 7
# Steer and compute nothing: a load behind which they alone stand is waited for by what comes after them.
STEERING = ("BRA", "BSSY", "BSYNC", "NOP")

FUNCTION = re.compile(r"\s+Function : (\S+)")
ARCHITECTURE = re.compile(r"\s+code for (sm_\w+)")
# The instruction and the lower half of its encoding; the upper half stands alone on the next line.
LOWER = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:(@\S+)\s+)?(\S+?)(?:\s+(.*?))?\s*;\s+/\* 0x[0-9a-f]{16} \*/")
UPPER = re.compile(r"\s+/\* 0x([0-9a-f]{16}) \*/")


class Instruction(NamedTuple):
    """One instruction."""

    address: int
    guard: str  # the predicate under which it executes, "" if always
    opcode: str
    operands: str
    control: int  # the upper half of its encoding

    @property
    def released(self) -> int:
        """The barrier that it releases when its result has come."""
        return self.control >> 46 & 7

    def waits_for(self, barrier: int) -> bool:
        """Whether it waits for that barrier before it executes."""
        return bool(self.control >> 52 + barrier & 1)

    @property
    def target(self) -> int | None:
        """The address in its operands, if it has one: where a branch leads, where a BSSY has warps meet again."""
        found = re.findall(r"\b0x([0-9a-f]+)\b", self.operands)
        return int(found[-1], 16) if found else None

    @property
    def is_plain_load(self) -> bool:
        """Whether it loads from global memory. ``STRONG`` loads poll for what other blocks write: they mean to wait."""
        return self.opcode.startswith(("LDG", "LD.")) and ".STRONG" not in self.opcode

    def is_steering(self) -> bool:
        """Whether it computes nothing."""
        return self.opcode.split(".")[0] in STEERING


Code = Sequence[Instruction]


class MachineCode(NamedTuple):
    """A kernel, compiled for one architecture."""

    kernel: str  # mangled
    architecture: str
    code: list[Instruction]


def read(listing: Iterable[str]) -> Iterator[MachineCode]:
    """The kernels in the lines that ``cuobjdump -sass`` prints of an object file."""
    architecture, kernel, code = "", "", list[Instruction]()
    lower: re.Match[str] | None = None
    for line in listing:
        if lower is not None:
            upper = UPPER.match(line)
            if upper is None:
                raise ValueError(f"expected the upper half of an encoding, got {line!r}")
            address, guard, opcode, operands = lower.groups(default="")
            code.append(Instruction(int(address, 16), guard, opcode, operands, int(upper[1], 16)))
            lower = None
        elif found := LOWER.match(line):
            lower = found
        elif found := FUNCTION.match(line):
            if code:
                yield MachineCode(kernel, architecture, code)
            kernel, code = found[1], []
        elif found := ARCHITECTURE.match(line):
            if code:
                yield MachineCode(kernel, architecture, code)
            architecture, code = found[1], []
    if code:
        yield MachineCode(kernel, architecture, code)


def step_loop(code: Code) -> tuple[int, int] | None:
    """First and last address of the kernel's loop over time steps, which is its longest; None if it has no loop."""
    loops = [
        (i.target, i.address)
        for i in code
        if i.opcode.startswith("BRA") and i.target is not None and i.target < i.address
    ]
    return max(loops, key=lambda loop: loop[1] - loop[0], default=None)


class Successors:
    """What executes after an instruction."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._places = {instruction.address: place for place, instruction in enumerate(code)}
        meetings: dict[str, int | None] = {}  # by convergence barrier, of the BSSY above
        self._meetings: dict[int, int | None] = {}  # by place of a BSYNC
        for place, instruction in enumerate(code):
            barrier = instruction.operands.split(",")[0]
            if instruction.opcode.startswith("BSSY"):
                meetings[barrier] = instruction.target
            elif instruction.opcode.startswith("BSYNC"):
                self._meetings[place] = meetings.get(barrier)

    def working(self, place: int) -> set[int]:
        """Places of the first instructions after that at ``place``, on every path, that compute something."""
        found, seen, ahead = set[int](), set[int](), [place + 1]
        while ahead:
            at = ahead.pop()
            if at in seen or at >= len(self._code):
                continue
            seen.add(at)
            instruction = self._code[at]
            if not instruction.is_steering():
                found.add(at)
                continue
            target = self._meetings.get(at) if instruction.opcode.startswith("BSYNC") else None
            if instruction.opcode.startswith("BRA"):
                target = instruction.target
            if target is not None and target in self._places:
                ahead.append(self._places[target])
            always = not instruction.guard and instruction.opcode == "BRA" and "P" not in instruction.operands
            if target is None or not (always or instruction.opcode.startswith("BSYNC")):
                ahead.append(at + 1)
        return found


def serial_loads(code: Code) -> list[str]:
    """Sentences about the loads in the loop over time steps that the next instruction waits for, on any path.

    Loads that poll for what other blocks write are not among them.
    """
    loop = step_loop(code)
    if loop is None:
        return []
    successors, found = Successors(code), []
    for place, load in enumerate(code):
        if not loop[0] <= load.address <= loop[1] or not load.is_plain_load or load.released == NO_BARRIER:
            continue
        for after in sorted(successors.working(place)):
            if code[after].waits_for(load.released):
                found.append(f"{load.opcode} at {load.address:#x}, waited for by {code[after].opcode}")
                break
    return found
