"""The barrier between time steps, in every order of its accesses with a few preemptions; see step_barrier_model.cpp."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from building import compiled
from process import ROOT, TESTS

CPU = ROOT / "csrc" / "cpu"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the barrier, for tests to break; it spins once."""
    directory = tmp_path_factory.mktemp("barrier")
    (directory / "cpu").mkdir()
    for path in CPU.glob("step_barrier.*"):
        (directory / "cpu" / path.name).write_text(path.read_text().replace("kSpins = 1000;", "kSpins = 1;"))
    assert "kSpins = 1;" in (directory / "cpu" / "step_barrier.h").read_text()
    return directory


def go_through(sources: Path, threads: int, steps: int, preemptions: int) -> str:
    """What the model prints of the barrier in a directory."""
    units = [TESTS / "step_barrier_model.cpp", TESTS / "emulator" / "fiber.cpp"]
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra"]
    binary = compiled(*units, flags=flags, directories=[sources, TESTS / "emulator"])
    command = [*map(str, (binary, threads, steps, preemptions))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode in (0, 1), result.stderr
    return result.stdout


@pytest.mark.parametrize(("threads", "steps", "preemptions"), [(2, 4, 3), (3, 2, 2)])
def test_no_order_loses_a_thread_or_a_step(sources: Path, threads: int, steps: int, preemptions: int) -> None:
    orders, word = go_through(sources, threads, steps, preemptions).split()
    assert word == "orders"
    assert int(orders) > 10_000


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("sleepers.load() > 0", "sleepers.load() > 1", "the threads sleep, and nobody wakes them"),
        (
            "steps.load() - static_cast<uint32_t>(steps)) >= 0",
            "steps.load() - static_cast<uint32_t>(steps)) >= -1",
            "reads",
        ),
    ],
)
def test_a_broken_barrier_is_found(sources: Path, tmp_path: Path, before: str, after: str, found: str) -> None:
    (tmp_path / "cpu").mkdir()
    for path in (sources / "cpu").iterdir():
        (tmp_path / "cpu" / path.name).write_text(path.read_text().replace(before, after))
    assert (tmp_path / "cpu" / "step_barrier.h").read_text().count(after) == 1
    assert found in go_through(tmp_path, 2, 3, 2)
