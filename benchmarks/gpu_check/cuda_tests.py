"""tests/test_cuda.py, each of its functions in a process of its own."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from functools import partial
from typing import Any

from benchmarks.gpu_check.journal import FAILED
from benchmarks.gpu_check.stages import ROOT, AbsentError, Case, Stage

FILE = ROOT / "tests" / "test_cuda.py"
MOST_NAMES = 5  # of failed tests, in a row
# Parts of the names of those that come last, as they take long or repeat what another stage does.
LAST = ("every", "large", "2_to_the_31", "many_rows", "wide", "of_results_and_gradients", "100_runs")


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """The functions of the file, in its order but for those that come last; no import, which would need the tests."""
    if importlib.util.find_spec("pytest") is None:
        return [Case("pytest", _absent)]
    tree = ast.parse(FILE.read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    names.sort(key=lambda name: any(part in name for part in LAST))
    return [Case(name, partial(_run, name)) for name in names]


def _absent() -> dict[str, Any]:
    raise AbsentError("pytest is not installed here: tests/test_cuda.py was not run")


class _Outcomes:
    """What pytest reports of each test."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
        self.errors: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest, for each part of a test."""
        if report.when == "call" or report.outcome != "passed":
            self.names[report.outcome].append(report.nodeid.partition("::")[2])
        if report.outcome == "failed":
            self.errors.append(str(report.longrepr).strip().splitlines()[-1])

    def pytest_collectreport(self, report: Any) -> None:
        """Likewise, where a file cannot be imported."""
        if report.outcome == "failed":
            self.names["failed"].append(report.nodeid)
            self.errors.append(str(report.longrepr).strip().splitlines()[-1])


def _run(name: str) -> dict[str, Any]:
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import pytest

    outcomes = _Outcomes()
    # Another torch than that of the tests may warn of other things; no option of the project's is needed.
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=default"]
    pytest.main([f"{FILE}::{name}", f"--rootdir={ROOT}", *options], plugins=[outcomes])
    counts: dict[str, Any] = {outcome: len(names) for outcome, names in outcomes.names.items()}
    failed = outcomes.names["failed"]
    if not failed and any(counts.values()):
        return counts
    return counts | {
        "outcome": FAILED,
        "failed_tests": failed[:MOST_NAMES],
        "error": "; ".join(outcomes.errors[:1]) or "no test ran",
    }
