"""The machine code of kernels as ``cuobjdump -sass`` prints it, with the control code of each instruction.

NVIDIA does not document the encoding. Of an instruction's 128 bits, from Volta on, 105 to 108 say for how many cycles
its warp issues nothing after it; 110 to 112 name the barrier that it releases when its result has come, 113 to 115 the
one that it releases when its operands have been read (7: none); and each of 116 to 121 a barrier that it waits for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

NO_BARRIER = 7
BARRIERS = [tuple(barrier for barrier in range(6) if mask >> barrier & 1) for mask in range(64)]  # of each mask

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
    def stall(self) -> int:
        """Cycles until its warp may issue the next one."""
        return self.control >> 41 & 15

    @property
    def released(self) -> int:
        """The barrier that it releases when its result has come."""
        return self.control >> 46 & 7

    @property
    def released_when_read(self) -> int:
        """The barrier that it releases when its operands have been read."""
        return self.control >> 49 & 7

    @property
    def waited_for(self) -> tuple[int, ...]:
        """The barriers that it waits for before it executes."""
        return BARRIERS[self.control >> 52 & 63]

    @property
    def target(self) -> int | None:
        """The address in its operands, if it has one: where a branch leads, where a BSSY has warps meet again."""
        found = re.findall(r"\b0x([0-9a-f]+)\b", self.operands)
        return int(found[-1], 16) if found else None

    @property
    def is_plain_load(self) -> bool:
        """Whether it loads from global memory. ``STRONG`` loads poll for what other blocks write: they mean to wait."""
        return self.opcode.startswith(("LDG", "LD.")) and ".STRONG" not in self.opcode


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
