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
    now: float = 0.0

    def run(self, seconds: float, several: float, stolen: float) -> float:
        """For so long; with several threads a call takes ``several`` and loses ``stolen``. The part that had one."""
        end, ones, calls = self.now + seconds, 0, 0
        while self.now < end:
            one = bool(self.library.prefers_one(self.crowding, ctypes.c_double(self.now)))
            took, lost = (ALONE, 0.0) if one else (several, stolen)
            self.now += took
            numbers = map(ctypes.c_double, (WORK, took, lost, self.now))
            self.library.report(self.crowding, ctypes.c_bool(one), *numbers)
            ones += one
            calls += 1
        return ones / calls


@pytest.fixture
def calls() -> Iterator[Calls]:
    sources = (TESTS / "crowding.cpp", ROOT / "csrc" / "cpu" / "crowding.cpp")
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-fPIC", "-shared"]
    library = ctypes.CDLL(str(compiled(*sources, flags=flags, directories=[ROOT / "csrc"])))
    library.make_crowding.restype = ctypes.c_void_p
    library.prefers_one.restype = ctypes.c_bool
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
    calls.run(2, 0.004, 0.001)
    assert calls.run(10, 0.004, 0.001) < 0.03


def test_several_come_back_when_the_others_have_gone(calls: Calls) -> None:
    calls.run(5, 0.0075, 0.004)
    calls.run(1.2, FREE, 0)
    assert calls.run(10, FREE, 0) == 0


def test_a_neighbour_that_comes_and_goes_costs_little(calls: Calls) -> None:
    """Each time it is found out anew."""
    for _ in range(5):
        calls.run(3, 0.0075, 0.004)
        assert calls.run(3, 0.0075, 0.004) > 0.9
        calls.run(1.2, FREE, 0)
        assert calls.run(3, FREE, 0) == 0
