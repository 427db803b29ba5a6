"""Registers and predicates of the 32 lanes of a warp, of each of which it is known or not what it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LANES = 32
MASK: np.uint64 = np.uint64(0xFFFFFFFF)

Lanes = NDArray[np.bool_]
Words = NDArray[np.uint64]


class PathError(Exception):
    """Where a warp goes is not decided, or the code has something that is not known here."""


class Value(NamedTuple):
    """32 bits of every lane, and which of them are known."""

    bits: Words
    certain: Words  # a mask

    @property
    def known(self) -> Lanes:
        """In which lanes all of them are."""
        known: Lanes = self.certain == MASK
        return known


def value_of(bits: Words, known: Lanes) -> Value:
    """Known in some lanes, and in the others not at all."""
    return Value(bits, np.where(known, MASK, np.uint64(0)))


class Predicate(NamedTuple):
    """A predicate of every lane, and of which lanes it is known."""

    true: Lanes
    known: Lanes


@dataclass(frozen=True)
class Launch:
    """What a warp sees of its launch."""

    threads: int  # of a block
    blocks: int  # of a cluster; 1: there are no clusters
    block: int  # its place in the first dimension of the grid
    block_y: int  # and in the second
    first_parameter: int  # where they begin in constant bank 0
    parameters: bytes
    polled: int = 0  # what a load that polls finds, beyond the number of the step


def every(number: int) -> Value:
    """The same in every lane."""
    return Value(np.full(LANES, number & 0xFFFFFFFF, np.uint64), np.full(LANES, MASK))


def unknown() -> Value:
    """Unknown in every lane."""
    return Value(np.zeros(LANES, np.uint64), np.zeros(LANES, np.uint64))


def signed(bits: Words) -> NDArray[np.int64]:
    """Words as numbers with a sign."""
    return bits.astype(np.uint32).view(np.int32).astype(np.int64)


def unsigned(numbers: NDArray[np.int64]) -> Words:
    """The lower 32 bits."""
    words: Words = numbers.view(np.uint64) & MASK
    return words


REGISTER = re.compile(r"([-~]?)(\|?)(U?R)(\d+|Z)\|?((?:\.\w+)*)")
PREDICATE = re.compile(r"(!?)(U?)P(\d|T)")
CONSTANT = re.compile(r"(-?)c\[0x0\]\[(?:(U?R\d+)\+)?(?:0x([0-9a-f]+))?\]")
IMMEDIATE = re.compile(r"-?0x[0-9a-f]+")
ADDRESS = re.compile(r"\[(.*)\]")


class Register(NamedTuple):
    """A register as an operand."""

    sign: str  # - of a negative, ~ of a complement
    absolute: bool
    kind: str  # R or UR
    number: int  # -1: the one that is zero


@cache
def operands_of(text: str) -> tuple[str, ...]:
    """The operands of an instruction."""
    text = text.replace(".reuse", "")
    return tuple(part.strip() for part in text.split(",")) if text else ()


@cache
def register_of(operand: str) -> Register | None:
    """The register that it names, if it does."""
    found = REGISTER.fullmatch(operand)
    if found is None:
        return None
    sign, absolute, kind, name, _ = found.groups()
    return Register(sign, bool(absolute), kind, -1 if name == "Z" else int(name))


@cache
def predicate_of(operand: str) -> tuple[bool, str, int] | None:
    """Whether it is inverted, U of a uniform one, and its number: -1 for the one that is true."""
    found = PREDICATE.fullmatch(operand)
    return (bool(found[1]), found[2], -1 if found[3] == "T" else int(found[3])) if found else None


@dataclass
class State:
    """Registers and predicates of a warp; RZ, URZ, PT and UPT are the last of theirs."""

    launch: Launch
    warp: int
    step: int = -1  # how often the loop over time steps has begun, less one

    def __post_init__(self) -> None:
        self.registers = {"R": np.zeros((256, LANES), np.uint64), "UR": np.zeros((64, LANES), np.uint64)}
        self.certain = {"R": np.zeros((256, LANES), np.uint64), "UR": np.zeros((64, LANES), np.uint64)}
        self.true = {"": np.zeros((8, LANES), np.bool_), "U": np.zeros((8, LANES), np.bool_)}
        self.true_known = {"": np.zeros((8, LANES), np.bool_), "U": np.zeros((8, LANES), np.bool_)}
        for kind in ("R", "UR"):
            self.certain[kind][-1] = MASK
        for kind in ("", "U"):
            self.true[kind][-1] = self.true_known[kind][-1] = True
        self.of_barrier = Predicate(np.zeros(LANES, np.bool_), np.zeros(LANES, np.bool_))

    def read(self, operand: str, high: bool = False) -> Value:
        """An operand of 32 bits, or the upper ones of an operand of 64."""
        if found := register_of(operand):
            number = found.number + (high and found.number >= 0)
            bits, certain = self.registers[found.kind][number], self.certain[found.kind][number]
            if found.absolute or found.sign == "-":
                certain = np.where(certain == MASK, MASK, np.uint64(0))
            if found.absolute:
                bits = unsigned(np.abs(signed(bits)))
            if found.sign == "-":
                bits = (np.uint64(1 << 32) - bits) & MASK
            elif found.sign == "~":
                bits = ~bits & MASK
            return Value(bits, certain)
        if IMMEDIATE.fullmatch(operand):
            return every(-1 if high and operand.startswith("-") else 0) if high else every(int(operand, 16))
        if place := CONSTANT.fullmatch(operand):
            value = self.constant(operand, 4 * high)
            return Value((np.uint64(1 << 32) - value.bits) & MASK, value.certain) if place[1] else value
        return unknown()  # a number in floating point

    def wide(self, operand: str) -> tuple[Words, Lanes]:
        """64 bits, of a register and the next, and in which lanes they are known."""
        low, upper = self.read(operand), self.read(operand, high=True)
        return low.bits | upper.bits << np.uint64(32), low.known & upper.known

    def constant(self, operand: str, beyond: int = 0) -> Value:
        """32 bits of constant memory, ``beyond`` bytes after those that it names."""
        found = CONSTANT.fullmatch(operand)
        if found is None:
            return unknown()
        offset = int(found[3] or "0", 16) + beyond
        if found[2] is None:
            return self.constant_at(offset)
        index = self.read(found[2])
        if not index.known.all() or (index.bits != index.bits[0]).any():
            return unknown()
        return self.constant_at(offset + int(index.bits[0]))

    def constant_at(self, offset: int) -> Value:
        """32 bits of constant bank 0."""
        launch = self.launch
        if offset == 0:
            return every(launch.threads)
        if offset == 0x140:  # whether the launch has clusters, as code of sm_90 asks
            return every(int(launch.blocks > 1))
        place = offset - launch.first_parameter
        if 0 <= place <= len(launch.parameters) - 4:
            return every(int.from_bytes(launch.parameters[place : place + 4], "little"))
        return unknown()

    def predicate(self, operand: str) -> Predicate:
        """What it holds, inverted where the operand says so."""
        found = predicate_of(operand)
        if found is None:
            raise PathError(f"{operand} is no predicate")
        inverted, kind, number = found
        true, known = self.true[kind][number], self.true_known[kind][number]
        return Predicate(~true if inverted else true, known)

    def write(self, operand: str, value: Value, lanes: Predicate, beyond: int = 0) -> None:
        """In the lanes of a guard; where that is unknown, so is what is left."""
        found = register_of(operand)
        if found is None:
            raise PathError(f"{operand} is no register")
        if found.number >= 0:
            self._put((self.registers[found.kind], self.certain[found.kind]), found.number + beyond, value, lanes)

    def write_predicate(self, operand: str, value: Predicate, lanes: Predicate) -> None:
        """As ``write``, of a predicate."""
        found = predicate_of(operand)
        if found is None:
            raise PathError(f"{operand} is no predicate")
        _, kind, number = found
        if number >= 0:
            self._put((self.true[kind], self.true_known[kind]), number, value, lanes)

    def _put(self, to: Any, number: int, value: Value | Predicate, lanes: Predicate) -> None:
        """To a row of the contents, and of what is known of them."""
        contents, known = to
        if lanes is EVERYWHERE:
            contents[number], known[number] = value
            return
        maybe = lanes.true | ~lanes.known
        nothing = np.zeros_like(known[number])
        contents[number] = np.where(maybe, value[0], contents[number])
        known[number] = np.where(lanes.known, np.where(maybe, value[1], known[number]), nothing)


EVERYWHERE = Predicate(np.ones(LANES, np.bool_), np.ones(LANES, np.bool_))
