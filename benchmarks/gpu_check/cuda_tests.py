"""tests/test_cuda.py and those of test_accuracy.py on a GPU, each of their functions in a process of its own."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from functools import partial
from typing import Any

from benchmarks.gpu_check.journal import FAILED
from benchmarks.gpu_check.stages import ROOT, AbsentError, Case, Stage

TESTS = ROOT / "tests"
# By file what the names of the functions begin with that need a GPU.
FILES = {"test_cuda.py": "test_", "test_accuracy.py": "test_cuda_"}
MOST_NAMES = 5  # of failed tests, in a row
# Parts of the names of those that come last, as they take long or repeat what another stage does.
LAST = ("every", "large", "2_to_the_31", "many_rows", "wide", "of_results_and_gradients", "100_runs")


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """The functions of the files, in order but for those that come last; no import, which would need the tests."""
    if importlib.util.find_spec("pytest") is None:
        return [Case("pytest", _absent)]
    functions = [
        (file, node.name)
        for file, begin in FILES.items()
        for node in ast.parse((TESTS / file).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith(begin)
    ]
    functions.sort(key=lambda function: any(part in function[1] for part in LAST))
    return [Case(name, partial(_run, file, name)) for file, name in functions]


def _absent() -> dict[str, Any]:
    raise AbsentError("pytest is not installed here: the tests were not run")


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


def _run(file: str, name: str) -> dict[str, Any]:
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.path[:0] = [str(ROOT), str(TESTS)]
    import pytest

    outcomes = _Outcomes()
    # Another torch than that of the tests may warn of other things; no option of the project's is needed.
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=default"]
    pytest.main([f"{TESTS / file}::{name}", f"--rootdir={ROOT}", *options], plugins=[outcomes])
    counts: dict[str, Any] = {outcome: len(names) for outcome, names in outcomes.names.items()}
    failed = outcomes.names["failed"]
    if not failed and any(counts.values()):
        return counts
    return counts | {
        "outcome": FAILED,
        "failed_tests": failed[:MOST_NAMES],
        "error": "; ".join(outcomes.errors[:1]) or "no test ran",
    }
