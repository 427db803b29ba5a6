"""The loads of a kernel's loop over time steps that cost a whole memory latency.

The loop is a chain, so every load in it should be under way while other work is done. The compiler can spoil that:
where it uses a loaded value in the very next instruction, the warp stands still until the value has come, and loads
that could overlap run one after another.
"""

from __future__ import annotations

from benchmarks.machine_code.listing import NO_BARRIER, Code, step_loop

# Steer and compute nothing: a load behind which they alone stand is waited for by what comes after them.
STEERING = ("BRA", "BSSY", "BSYNC", "NOP")


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
            if instruction.opcode.split(".")[0] not in STEERING:
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
            if load.released in code[after].waited_for:
                found.append(f"{load.opcode} at {load.address:#x}, waited for by {code[after].opcode}")
                break
    return found
