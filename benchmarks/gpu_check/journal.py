"""What is known so far: one file, to which every process appends a line of JSON as soon as it has something to say.

A line is what a stage plans, a row that it begins, or what came of a row. It is on disk when a method returns, so that
whatever ends a process, all that it knew is there for the next one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # key, outcome, seconds; error where there is one; and what the stage found

PASSED = "passed"
FAILED = "failed"  # a wrong result, or an error
ABSENT = "absent"  # this machine lacks what the row needs
CRASHED = "crashed"
HUNG = "hung"
START = "start"  # the key of a row that says that a stage did not come to its first
NOT_REACHED = "not reached"  # never written: what is planned and has no row
OUTCOMES = (PASSED, FAILED, CRASHED, HUNG, ABSENT, NOT_REACHED)
WRONG = (FAILED, CRASHED, HUNG)


class Journal:
    """The rows of all stages, in the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def plan(self, stage: str, keys: Sequence[str]) -> None:
        """Say which rows a stage has."""
        self._append({"stage": stage, "plan": list(keys)})

    def begin(self, stage: str, key: str) -> None:
        """Say which row is under way."""
        self._append({"stage": stage, "begun": key})

    def end(self, stage: str, row: Row) -> None:
        """Say what came of it."""
        self._append({"stage": stage, **row})

    def rows(self, stage: str) -> list[Row]:
        """What is known, and the rest of what is planned as not reached; in the order of the plan."""
        plan: list[str] = []
        known: dict[str, Row] = {}
        for line in self._lines(stage):
            if "plan" in line:
                plan = line["plan"]
            elif "key" in line:
                known.pop(START, None)  # what has a row now did start
                known[line["key"]] = {name: value for name, value in line.items() if name != "stage"}
        return [known.get(key, {"key": key, "outcome": NOT_REACHED}) for key in dict.fromkeys([*plan, *known])]

    def left(self, stage: str) -> list[str]:
        """The rows that are planned and not known."""
        return [row["key"] for row in self.rows(stage) if row["outcome"] == NOT_REACHED]

    def is_planned(self, stage: str) -> bool:
        """Whether the stage has said which rows it has."""
        return any("plan" in line for line in self._lines(stage))

    def under_way(self, stage: str) -> str | None:
        """The row that was begun last, if it has not ended."""
        begun = [line["begun"] for line in self._lines(stage) if "begun" in line]
        return begun[-1] if begun and begun[-1] in self.left(stage) else None

    def size(self) -> int:
        """Bytes, which grow with every sign of life."""
        return self.path.stat().st_size if self.path.exists() else 0

    def _lines(self, stage: str) -> list[dict[str, Any]]:
        found = []
        for text in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue  # of a process that died while it wrote
            if line["stage"] == stage:
                found.append(line)
        return found

    def _append(self, line: dict[str, Any]) -> None:
        # One write, begun on a line of its own: the last one may be half of one.
        text = f"\n{json.dumps(line, default=str)}\n"
        with self.path.open("ab", buffering=0) as file:
            file.write(text.encode())
            os.fsync(file.fileno())
