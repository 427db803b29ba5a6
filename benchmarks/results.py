"""What a run leaves: rows of times, the machine, and JSON of both; comparing two runs."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import files
from benchmarks.contenders import OURS
from benchmarks.measure import Spread, ratio
from benchmarks.roofline import Bound
from benchmarks.suites import Size

SCHEMA = 1


@dataclass
class Timing:
    """One contender of a row."""

    seconds: list[float]  # a call; one value a round
    calls: int  # in a round
    times_framework: float  # its error over that of torch.nn.GRU; 0 where it was not checked
    slow: float | None = None  # where every call was timed: seconds at which the slowest hundredth of them begins

    @property
    def median(self) -> float:
        """Seconds a call."""
        return Spread.of(self.seconds).median

    @property
    def mean(self) -> float:
        """Seconds of a call."""
        return statistics.fmean(self.seconds)


@dataclass
class Row:
    """One size and pass, all contenders."""

    size: Size
    kind: str  # a pass, or "kernels"
    threads: int
    bound: Bound
    times: dict[str, Timing] = field(default_factory=dict)
    again: list[float] = field(default_factory=list)  # ours once more in each round: the noise of a ratio
    left_out: dict[str, str] = field(default_factory=dict)  # name to reason
    peak_bytes: dict[str, int] = field(default_factory=dict)  # suite memory
    busy: int = 0  # processes that computed beside

    @property
    def key(self) -> str:
        """What names the row in a run."""
        return f"{self.size} {self.kind} {self.threads} threads" + (f", {self.busy} busy" if self.busy else "")

    def ratio(self, name: str) -> Spread:
        """A peer's time over ours, round by round."""
        return ratio(self.times[name].seconds, self.times[OURS].seconds)

    def ratios(self) -> dict[str, Spread]:
        """Of every peer that was timed beside us."""
        return {name: self.ratio(name) for name in self.times if name != OURS} if OURS in self.times else {}

    @property
    def reached(self) -> float | None:
        """The fraction of the limit that we reach."""
        return self.bound.seconds / self.times[OURS].median if OURS in self.times else None


@dataclass
class Run:
    """Everything a run measured, and what is needed to believe it."""

    suite: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    contenders: dict[str, dict[str, str]]  # name to version and configuration
    absent: dict[str, str]  # name to reason
    peaks: dict[str, dict[str, Any]] = field(default_factory=dict)  # threads to peaks
    rows: list[Row] = field(default_factory=list)
    interrupted: bool = False
    schema: int = SCHEMA

    @property
    def timed(self) -> list[Row]:
        """Rows in which we were timed."""
        return [row for row in self.rows if OURS in row.times]

    @property
    def peers(self) -> list[str]:
        """Names of all that was timed or weighed beside us, in the order of the first row that has them."""
        names = dict.fromkeys(name for row in self.rows for name in (*row.times, *row.peak_bytes))
        return [name for name in names if name != OURS]

    def noise(self) -> float | None:
        """How far from 1 the ratio of our time to our own time was, in nine rounds of ten; None if it was not timed."""
        off = sorted(
            abs(again / ours - 1)
            for row in self.timed
            for again, ours in zip(row.again, row.times[OURS].seconds, strict=False)
        )
        return off[int(0.9 * (len(off) - 1))] if off else None

    def save(self, path: Path) -> None:
        """Write as JSON; ``WriteError`` where that fails."""
        content = {**dataclasses.asdict(self), "noise": self.noise()}
        files.write(path, json.dumps(content, indent=1) + "\n")


class ResultError(ValueError):
    """A file that is not the JSON of a run; the message is a sentence with its name."""


def load(path: Path) -> Run:
    """Read what ``Run.save`` wrote.

    Raises:
        ResultError: the file cannot be read, is not JSON, or lacks what a run has.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ResultError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise ResultError(f"{path} is not JSON") from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise ResultError(f"{path} is not a result of python -m benchmarks: expected schema {SCHEMA}, got {found}")
    try:
        rows = [
            Row(
                **{
                    **row,
                    "size": Size(**row["size"]),
                    "bound": Bound(**row["bound"]),
                    "times": {name: Timing(**timing) for name, timing in row["times"].items()},
                }
            )
            for row in content["rows"]
        ]
        content.pop("noise", None)  # follows from the rows
        return Run(**{**content, "rows": rows})
    except (AttributeError, KeyError, TypeError) as error:
        raise ResultError(f"{path} is damaged: {error}") from None


@dataclass(frozen=True)
class Change:
    """One row in two runs. The figure is our speed over torch's or, where torch was not timed, calls a second."""

    key: str
    figure: str
    old: float
    new: float

    @property
    def factor(self) -> float:
        """Above 1: faster than before."""
        return self.new / self.old

    def __str__(self) -> str:
        return f"{self.key}: {self.figure} {self.old:.3g} to {self.new:.3g}, {self.factor:.2f} times"


def compare(old: Run, new: Run) -> Iterator[Change]:
    """The rows that both runs have.

    Speed over torch, from one run each, survives a change of machine or of clock; absolute times do not.
    """
    before = {row.key: row for row in old.timed}
    for row in new.timed:
        was = before.get(row.key)
        if was is None:
            continue
        if "torch" in row.times and "torch" in was.times:
            yield Change(row.key, "speed over torch", was.ratio("torch").median, row.ratio("torch").median)
        else:
            yield Change(row.key, "calls a second", 1 / was.times[OURS].median, 1 / row.times[OURS].median)
