"""One thread or several while other programs hold cores: calls whose times are made up, one after the other."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from building import compiled
from process import ROOT, TESTS

WORK = 5000.0  # of a call
ALONE = 0.005  # seconds of a call with one thread
FREE = 0.0026  # with several that nobody disturbs


@dataclass
class Calls:
    """Calls of one process, in a row."""

    library: ctypes.CDLL
    crowding: ctypes.c_void_p
    clock: float = 0.0
    left: float = 0.0  # seconds of a core that other programs have left
    core: int = 0

    def run(
        self,
        seconds: float,
        several: float,
        stolen: float,
        *,
        threads: int = 2,
        alone: float = ALONE,
        free: float | None = None,
        gap: float = 0.0,
        moves: bool = False,
    ) -> float:
        """For so long; with ``threads`` a call takes ``several`` and loses ``stolen``. The part of it that one had.

        ``free``: cores that other programs leave; None: the system does not tell. ``gap``: seconds between calls.
        ``moves``: to other cores with each call.
        """
        ones, all_of_them = 0.0, 0.0
        while all_of_them < seconds:
            if free is not None:
                self.core = (self.core + moves) % 1000
                self.library.set_core_time(ctypes.c_double(self.clock), ctypes.c_double(self.left), self.core)
            one = bool(self.library.prefers_one(self.crowding, ctypes.c_int(threads)))
            took, lost = (alone, 0.0) if one else (several, stolen)
            numbers = map(ctypes.c_double, (WORK, took, lost))
            self.library.report(self.crowding, ctypes.c_int(threads), ctypes.c_bool(one), *numbers)
            ones += took * one
            all_of_them += took
            self.clock += took + gap
            self.left += (took + gap) * (free or 0)
        return ones / all_of_them


@pytest.fixture
def calls() -> Iterator[Calls]:
    sources = (TESTS / "crowding.cpp", ROOT / "csrc" / "cpu" / "crowding.cpp")
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-fPIC", "-shared"]
    library = ctypes.CDLL(str(compiled(*sources, flags=flags, directories=[ROOT / "csrc"])))
    library.make_crowding.restype = ctypes.c_void_p
    library.prefers_one.restype = ctypes.c_bool
    library.forget_core_time()
    crowding = ctypes.c_void_p(library.make_crowding())
    yield Calls(library, crowding)
    library.drop_crowding(crowding)


@pytest.mark.parametrize("stolen", [0.0, 2e-4])
def test_a_quiet_machine_always_has_several(calls: Calls, stolen: float) -> None:
    """What the system itself takes, less than a tenth, changes nothing."""
    assert calls.run(10, FREE, stolen) == 0


def test_one_has_nearly_all_calls_where_it_is_faster(calls: Calls) -> None:
    """It is found out within a tenth of a second, and several are tried ever more seldom."""
    assert calls.run(0.1, 0.0075, 0.004) > 0.2
    calls.run(2, 0.0075, 0.004)
    assert calls.run(10, 0.0075, 0.004) > 0.97


def test_several_have_nearly_all_calls_where_they_are_faster_though_disturbed(calls: Calls) -> None:
    calls.run(2, 0.004, 0.0015)
    assert calls.run(10, 0.004, 0.0015) < 0.03


def test_several_are_not_tried_while_other_programs_hold_the_other_core(calls: Calls) -> None:
    """A call that is tried may take three times as long. When they have gone, several have all calls again."""
    calls.run(0.5, 0.0075, 0.004, free=1.02)
    assert calls.run(15, 0.0075, 0.004, free=1.02) == 1
    calls.run(1.2, FREE, 0, free=2)
    assert calls.run(10, FREE, 0, free=2) == 0


def test_several_are_tried_at_last_though_the_other_core_seems_to_be_held(calls: Calls) -> None:
    """By a program that takes only what is idle: once a second that would be three slow calls."""
    calls.run(0.5, 0.0075, 0.004, free=1)
    calls.run(25, FREE, 0, free=1)
    assert calls.run(10, FREE, 0, free=1) == 0


@pytest.mark.parametrize(("threads", "gap", "moves"), [(3, 0.0, False), (2, 0.05, False), (2, 0.0, True)])
def test_several_are_tried_where_one_core_tells_little(calls: Calls, threads: int, gap: float, moves: bool) -> None:
    """Of three threads, which may gain; where others may have come between calls; and of other cores than before."""
    calls.run(0.5, 0.0075, 0.005, threads=threads, free=1, gap=gap, moves=moves)
    calls.run(1.2, FREE, 0, threads=threads, free=1, gap=gap, moves=moves)
    assert calls.run(10, FREE, 0, threads=threads, free=1, gap=gap, moves=moves) == 0


def test_several_are_tried_where_one_has_no_core_of_its_own(calls: Calls) -> None:
    """Beside two programs on two cores, several threads get more of the cores together than one does."""
    calls.run(0.5, 0.0075, 0.004, free=0.7, alone=0.005)
    assert calls.run(10, 0.004, 0.002, free=0.7, alone=0.0075) < 0.1


def test_one_is_tried_though_other_programs_hold_the_cores(calls: Calls) -> None:
    """Where several win beside two programs, one is tried from time to time, and wins when it is faster."""
    calls.run(2, 0.004, 0.0015, free=1)
    assert calls.run(10, 0.004, 0.0015, free=1) < 0.03
    calls.run(1.2, 0.0075, 0.004, free=1)
    assert calls.run(10, 0.0075, 0.004, free=1) == 1


def test_several_come_back_when_the_others_have_gone(calls: Calls) -> None:
    calls.run(5, 0.0075, 0.004)
    calls.run(1.2, FREE, 0)
    assert calls.run(10, FREE, 0) == 0


def test_many_threads_of_which_one_is_disturbed_are_not_one(calls: Calls) -> None:
    """A core of 64 that others hold makes a call of 20 ms take twice as long, where one thread takes a second."""
    assert calls.run(60, 0.04, 0.02, threads=64, alone=1.0) == 0


def test_a_trial_of_one_that_takes_long_is_seldom(calls: Calls) -> None:
    """Of 8 threads that lose nearly all of their time, and yet are faster than one."""
    calls.run(10, 0.05, 0.042, threads=8, alone=0.1)
    assert calls.run(60, 0.05, 0.042, threads=8, alone=0.1) < 0.06


def test_a_neighbour_that_comes_and_goes_costs_little(calls: Calls) -> None:
    """Each time it is found out anew."""
    for _ in range(5):
        calls.run(3, 0.0075, 0.004)
        assert calls.run(3, 0.0075, 0.004) > 0.9
        calls.run(1.2, FREE, 0)
        assert calls.run(3, FREE, 0) == 0
