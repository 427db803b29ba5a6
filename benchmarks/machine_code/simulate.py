"""How long the steps of a block take, issue by issue.

A warp issues in order, when the stall of its last instruction is over and the barriers that the next one waits for are
released; of the warps that can, the one that has waited longest. A multiprocessor has four parts, which share out the
warps; each issues one instruction a cycle, and has a tensor core, units for integers and for special functions; all
share the pipe to memory. Blocks of a cluster are taken to be alike: each receives what this one sends, as it sends it.
Not modelled: misses of the instruction cache, conflicts of registers, what other clusters do to the network and memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from typing import NamedTuple

from benchmarks.machine_code import figures
from benchmarks.machine_code.figures import LATENCIES
from benchmarks.machine_code.listing import NO_BARRIER, Instruction
from benchmarks.machine_code.path import GLOBAL, Issued

PARTS = 4  # of a multiprocessor
SENT_BYTES = 16  # by a lane of an asynchronous store

INTEGERS = (
    *("IADD3", "VIADD", "IMAD", "LEA", "SHF", "LOP3", "PLOP3", "ISETP", "SEL", "VIMNMX", "VIADDMNMX", "IABS", "PRMT"),
    *("FSETP", "FSEL", "FMNMX", "F2FP"),
)

Steps = Sequence[Sequence[Sequence[Issued]]]  # of each warp, of each step


class ModelError(Exception):
    """An instruction that the model does not know."""


class Bounds(NamedTuple):
    """Cycles of a step that each part would take if it were alone."""

    issue: float
    tensor: float
    integer: float
    special: float
    shared: float
    exchange: float
    chain: float  # the longest path from one step to the next, where nothing is busy with something else


@dataclass
class _Warp:
    index: int
    steps: Sequence[Sequence[Issued]]
    step: int = 0
    place: int = 0
    ready: float = 0.0
    last: float = 0.0
    released: list[float] = field(default_factory=lambda: [0.0] * 6)
    copied: float = 0.0  # when the asynchronous copies so far have ended
    copies: dict[int, list[float]] = field(default_factory=dict)  # by barrier, of the groups of copies that release it

    @property
    def done(self) -> bool:
        return self.step == len(self.steps)


class _Kind(NamedTuple):
    """What its opcode says of an instruction."""

    base: str
    sends: bool  # it tells other blocks something
    receives: bool  # it waits for what other blocks tell
    by_l2: bool  # it exchanges through the L2 cache, or streams from there, as all blocks do at once
    unit: str  # of a part of the multiprocessor; "": none that is modelled
    cycles: float  # that the unit is busy


@cache
def _kind(opcode: str) -> _Kind:
    base, strong = opcode.split(".")[0], ".STRONG" in opcode
    unit, cycles = "", 0.0
    if base == "HMMA":
        figure = figures.HMMA_TF32 if ".TF32" in opcode else figures.HMMA
        unit, cycles = "tensor", figure.value
    elif base == "MUFU":
        unit, cycles = "special", figures.MUFU.value
    elif base in INTEGERS:  # IMAD has units of its own
        unit, cycles = "product" if base == "IMAD" else "integer", figures.INTEGER.value
    return _Kind(
        base,
        sends=base == "STAS" or (base in ("STG", "ST") and strong),
        receives=".PHASECHK" in opcode or (base in ("LDG", "LD") and strong),
        by_l2=base == "LDGSTS" or (base in GLOBAL and strong),
        unit=unit,
        cycles=cycles,
    )


def _bytes(one: Issued) -> int:
    """That an access moves."""
    kinds = one.instruction.opcode.split(".")
    return one.lanes * (16 if "128" in kinds else 8 if "64" in kinds else 4)


def _left_alone(warp: _Warp, instruction: Instruction) -> float:
    """When DEPBAR.LE lets go: no more than so many groups of the warp's copies are under way."""
    barrier, most = instruction.operands.split(", ")[:2]
    groups = warp.copies.get(int(barrier.removeprefix("SB")), [])
    ended = groups[: len(groups) - int(most, 16)]
    return ended[-1] if ended else 0.0


def _latency(instruction: Instruction) -> float:
    """From its issue to its result, of what is not a memory access."""
    base = _kind(instruction.opcode).base
    found = LATENCIES.get(base)
    if found is None:
        raise ModelError(f"{instruction.opcode} at {instruction.address:#x} releases a barrier, nobody knows when")
    indexed = base == "LDC" and "[R" in instruction.operands
    return found.value + (figures.INDEXED_CONSTANT.value if indexed else 0)


class Block:
    """The warps of a block, and what they share.

    ``memory``: cycles of a load from global memory. ``alone``: with no limit to rates, so that only the chain counts.
    """

    def __init__(self, steps: Steps, memory: float, alone: bool = False) -> None:
        self._warps = [_Warp(index, of_warp) for index, of_warp in enumerate(steps)]
        self._memory, self._alone = memory, alone
        self._issue = [0.0] * len(self._warps if alone else range(PARTS))
        self._pipes: dict[tuple[str, int], float] = {}
        self._arrivals: dict[int, list[tuple[float, _Warp]]] = {}  # by block barrier
        # Messages to other blocks, by step and by the mbarrier that they tell, as are those below.
        self._sends = Counter(
            (step, one.mbarrier)
            for warp in steps
            for step, of_step in enumerate(warp)
            for one in of_step
            if one.lanes > 0 and _kind(one.instruction.opcode).sends
        )
        self._sent = Counter[tuple[int, int]]()
        self._received: dict[tuple[int, int], float] = {}
        # The warps that can go on, by when: no earlier than that, as others may take what it needs in the meantime.
        self._queue: list[tuple[float, float, int]] = []
        self._for_messages: list[_Warp] = []  # that wait for messages which have not all been sent
        self.ends: list[float] = []  # of the steps of the first warp

    def run(self) -> float:
        """Cycles of a step, in the steady state."""
        for warp in self._warps:
            self._enqueue(warp)
        while self._queue:
            time, _, index = heappop(self._queue)
            warp = self._warps[index]
            if self._earliest(warp) == time:
                self._execute(warp, time)
            else:
                self._enqueue(warp)
        if not all(warp.done for warp in self._warps):
            raise ModelError("all warps wait for others")
        if len(self.ends) < 3:
            raise ModelError(f"expected 3 steps or more, got {len(self.ends)}")
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)

    def _part(self, warp: _Warp) -> int:
        return warp.index % len(self._issue)

    def _enqueue(self, warp: _Warp) -> None:
        """Unless it has ended, or what others have yet to send decides when it goes on."""
        if warp.done:
            return
        time = self._earliest(warp)
        if time is None:
            self._for_messages.append(warp)
        else:
            heappush(self._queue, (time, warp.last, warp.index))

    def _earliest(self, warp: _Warp) -> float | None:
        """When it can issue its next instruction; None where that depends on what others have yet to send."""
        one = warp.steps[warp.step][warp.place]
        kind, part = _kind(one.instruction.opcode), self._part(warp)
        time = max(warp.ready, self._issue[part])
        for barrier in one.instruction.waited_for:
            time = max(time, warp.released[barrier])
        if kind.base == "DEPBAR":
            time = max(time, _left_alone(warp, one.instruction))
        if kind.receives and one.lanes and warp.step > 0:
            wave = (warp.step - 1, one.mbarrier)
            if self._sent[wave] < self._sends[wave]:
                return None
            # A wait at an mbarrier returns at once; the next poll of many begins.
            ahead = LATENCIES["SYNCS"].value if kind.base == "SYNCS" else 0.0
            time = max(time, self._received.get(wave, 0.0) - ahead)
        return max(time, self._pipes.get((kind.unit, part), 0.0)) if kind.unit else time

    def _take(self, pipe: str, part: int, time: float, cycles: float) -> float:
        """When it begins, in the order of asking; the pipe is busy for so long."""
        begins = max(time, self._pipes.get((pipe, part), 0.0))
        self._pipes[pipe, part] = begins + (0.0 if self._alone else cycles)
        return begins

    def _execute(self, warp: _Warp, time: float) -> None:
        one = warp.steps[warp.step][warp.place]
        instruction, kind, part = one.instruction, _kind(one.instruction.opcode), self._part(warp)
        self._issue[part] = time if self._alone else time + 1
        if kind.unit:
            self._take(kind.unit, part, time, kind.cycles)
        result, read = self._results(warp, one, time)
        for barrier, when in ((instruction.released, result), (instruction.released_when_read, read)):
            if barrier != NO_BARRIER:
                warp.released[barrier] = max(warp.released[barrier], when)
        warp.last, warp.ready = time, time + max(1, instruction.stall)
        if one.jumps:
            warp.ready += figures.JUMP.value
        if kind.base == "BSYNC":
            warp.ready = max(warp.ready, time + figures.MEETING.value)
        if kind.base == "MEMBAR" and one.lanes:
            warp.ready = max(warp.ready, time + figures.FENCE.value)
        go_on = self._arrive(warp, one, time) if kind.base == "BAR" and one.lanes else [warp]
        self._advance(warp)
        for other in go_on:
            self._enqueue(other)

    def _results(self, warp: _Warp, one: Issued, time: float) -> tuple[float, float]:
        """When its result may be used, and when its operands have been read."""
        instruction, base = one.instruction, _kind(one.instruction.opcode).base
        if one.lanes == 0:
            return time, time
        if base in ("LDS", "LDSM", "STS", "STAS"):
            begins = self._take("memory", 0, time, one.accesses * figures.SHARED_ACCESS.value)
            last = begins + one.accesses - 1
            if base == "STAS":
                self._send(warp.step, one, last + 1)
            if base in ("STS", "STAS"):
                return last, last + figures.STORE_READ.value / 2
            return last + LATENCIES[base].value, last + figures.LOAD_READ.value
        if base == "SHFL":
            begins = self._take("memory", 0, time, figures.SHUFFLE.value)
            return begins + LATENCIES[base].value, begins + figures.LOAD_READ.value
        if base in GLOBAL:
            return self._of_global_memory(warp, one, time)
        if base == "LDGDEPBAR":
            warp.copies.setdefault(instruction.released, []).append(warp.copied)
            return warp.copied, time
        releases = instruction.released != NO_BARRIER or instruction.released_when_read != NO_BARRIER
        result = time + _latency(instruction) if releases else time
        return result, min(result, time + figures.LOAD_READ.value)

    def _of_global_memory(self, warp: _Warp, one: Issued, time: float) -> tuple[float, float]:
        kind = _kind(one.instruction.opcode)
        begins = self._take("memory", 0, time, one.accesses * figures.GLOBAL_LINE.value)
        arrives = begins
        if kind.by_l2:
            cycles = _bytes(one) / figures.L2_BYTES.value
            arrives = self._take("L2", 0, begins, cycles) + (0 if self._alone else cycles)
        if kind.base in ("STG", "ST"):
            if kind.sends:
                self._arrives((warp.step, one.mbarrier), arrives + figures.L2_STORE.value)
            return begins, begins + figures.STORE_READ.value
        result = arrives + (figures.FROM_L2.value if kind.by_l2 else self._memory)
        if kind.base == "LDGSTS":
            warp.copied = max(warp.copied, result)
        return result, begins + figures.LOAD_READ.value

    def _arrives(self, wave: tuple[int, int], time: float) -> None:
        """One of the messages of a step and mbarrier, where others look for it."""
        self._sent[wave] += 1
        self._received[wave] = max(self._received.get(wave, 0.0), time)
        if self._sent[wave] == self._sends[wave]:
            waiting, self._for_messages = self._for_messages, []
            for warp in waiting:
                self._enqueue(warp)

    def _send(self, step: int, one: Issued, time: float) -> None:
        cycles = one.lanes * SENT_BYTES / figures.CLUSTER_BYTES.value
        begins = self._take("network", 0, time, cycles)
        self._arrives((step, one.mbarrier), begins + (0 if self._alone else cycles) + figures.CLUSTER_LATENCY.value)

    def _arrive(self, warp: _Warp, one: Issued, time: float) -> list[_Warp]:
        """At a block barrier; returns those that may leave it."""
        arrived = self._arrivals.setdefault(one.barrier, [])
        arrived.append((time, warp))
        if len(arrived) < (one.warps or len(self._warps)):
            return []
        free = max(when for when, _ in arrived) + LATENCIES["BAR"].value
        leaving = [waiting for _, waiting in self._arrivals.pop(one.barrier)]
        for waiting in leaving:
            waiting.ready = max(waiting.ready, free)
        return leaving

    def _advance(self, warp: _Warp) -> None:
        warp.place += 1
        if warp.place == len(warp.steps[warp.step]):
            warp.place, warp.step = 0, warp.step + 1
            if warp.index == 0:
                self.ends.append(warp.ready)


def cycles(steps: Steps, memory: float) -> float:
    """Predicted cycles of a step; ``memory``: of a load from global memory."""
    return Block(steps, memory).run()


def bounds(steps: Steps) -> Bounds:
    """Of the last step."""
    last = [of_warp[-1] for of_warp in steps]
    busy: dict[tuple[str, int], float] = defaultdict(float)  # cycles of a part's unit
    for index, of_warp in enumerate(last):
        for one in of_warp:
            kind = _kind(one.instruction.opcode)
            busy[kind.unit, index % PARTS] += kind.cycles
            busy["issue", index % PARTS] += 1

    def most(unit: str) -> float:
        return max(busy[unit, part] for part in range(PARTS))

    everything = [(one, _kind(one.instruction.opcode)) for of_warp in last for one in of_warp if one.lanes]
    sent = sum(one.lanes * SENT_BYTES for one, kind in everything if kind.base == "STAS")
    by_l2 = sum(_bytes(one) for one, kind in everything if kind.by_l2)
    shuffles = sum(kind.base == "SHFL" for _, kind in everything)
    return Bounds(
        issue=most("issue"),
        tensor=most("tensor"),
        integer=max(most("product"), most("integer")),
        special=most("special"),
        shared=sum(one.accesses for one, _ in everything) + shuffles * figures.SHUFFLE.value,
        exchange=sent / figures.CLUSTER_BYTES.value + by_l2 / figures.L2_BYTES.value,
        chain=Block(steps, figures.FROM_L2.value, alone=True).run(),
    )
