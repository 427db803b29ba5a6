"""What threads share beside the work, in every order of its accesses with a few preemptions; see orders/orders.h.

The barrier between time steps, and the crew of a call, whose parts are handed out through such a barrier.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from building import compiled, cpp_extension
from process import ROOT, TESTS

CPU = ROOT / "csrc" / "cpu"
SIMPLER = (
    ("kSpins = 1000;", "kSpins = 1;"),
    ("kSpins = 10 * StepBarrier::kSpins;", "kSpins = StepBarrier::kSpins;"),
    ("kTogether = 8;", "kTogether = 2;"),  # so that of four threads the third says for the fourth too
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of both, for tests to break; threads look once before they sleep."""
    directory = tmp_path_factory.mktemp("threads")
    (directory / "cpu").mkdir()
    made_simpler = set()
    for path in (*CPU.glob("step_barrier.*"), *CPU.glob("crew.*")):
        text = path.read_text()
        made_simpler |= {before for before, _ in SIMPLER if before in text}
        for before, after in SIMPLER:
            text = text.replace(before, after)
        (directory / "cpu" / path.name).write_text(text)
    assert made_simpler == {before for before, _ in SIMPLER}
    return directory


def go_through(model: str, sources: Path, threads: int, work: int, preemptions: int) -> str:
    """What a model prints of the sources in a directory. ``work``: steps, or parts."""
    units = [TESTS / "orders" / f"{model}_model.cpp", TESTS / "emulator" / "fiber.cpp"]
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra"]
    directories = [sources, ROOT / "csrc", TESTS / "orders", TESTS / "emulator"]
    binary = compiled(*units, flags=flags, directories=directories, of_others=cpp_extension().include_paths())
    command = [*map(str, (binary, threads, work, preemptions))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode in (0, 1), result.stderr
    return result.stdout


def assert_right(model: str, sources: Path, threads: int, work: int, preemptions: int) -> None:
    orders, word = go_through(model, sources, threads, work, preemptions).split()
    assert word == "orders"
    assert int(orders) > 10_000


@pytest.mark.parametrize(("threads", "steps", "preemptions"), [(2, 4, 3), (3, 2, 2)])
def test_no_order_loses_a_thread_or_a_step(sources: Path, threads: int, steps: int, preemptions: int) -> None:
    assert_right("step_barrier", sources, threads, steps, preemptions)


@pytest.mark.parametrize(("threads", "parts", "preemptions"), [(2, 3, 3), (3, 2, 2), (4, 2, 1)])
def test_no_order_loses_a_part_of_a_call(sources: Path, threads: int, parts: int, preemptions: int) -> None:
    """Nor does a part begin, or the call end, before all threads have done the one before."""
    assert_right("crew", sources, threads, parts, preemptions)


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
    assert found in go_through("step_barrier", tmp_path, 2, 3, 2)
