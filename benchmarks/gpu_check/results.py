"""The one JSON of a check: every row of every stage, and the device that they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import files
from benchmarks.gpu_check.facts import REHEARSED_GPU
from benchmarks.gpu_check.journal import PASSED, Journal, Row
from benchmarks.gpu_check.stages import Stage

Results = dict[str, Any]  # device, rehearsal, rows


class ResultsError(Exception):
    """A file that is no result of a check."""


def gather(journal: Journal, stages: Sequence[Stage]) -> Results:
    """All that is known; of a stage that was not begun, no row."""
    rows = {stage.name: journal.rows(stage.name) for stage in stages}
    device: dict[str, Any] = {}
    for row in rows["facts"]:
        if row["outcome"] == PASSED and not row["key"].startswith("choice"):
            device |= {name: value for name, value in row.items() if name not in ("key", "outcome", "seconds")}
    return {"device": device, "rehearsal": device.get("gpu") == REHEARSED_GPU, "rows": rows}


def write(results: Results, path: Path) -> None:
    """Write the JSON; ``WriteError`` where that fails."""
    files.write(path, json.dumps(results, indent=1) + "\n")


def read(path: Path) -> Results:
    """What ``write`` wrote.

    Raises:
        OSError: it cannot be read.
        ResultsError: it is something else.
    """
    try:
        results = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ResultsError(str(error)) from error
    device = results.get("device") if isinstance(results, dict) else None
    if not isinstance(device, dict) or not {"gpu", "commit"} <= device.keys() or "rows" not in results:
        raise ResultsError("expected the JSON of a GPU check, got one that names no GPU and commit")
    return dict(results)


def measured(results: Mapping[str, Any], *stages: str) -> list[Row]:
    """The rows of some stages that have a result, in their order."""
    return [row for stage in stages for row in results["rows"].get(stage, []) if row["outcome"] == PASSED]
