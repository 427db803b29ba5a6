"""The check on a GPU, rehearsed on a CPU: nothing that goes wrong costs more than its own row."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated_backend import emulate, emulated_operators
from process import ROOT, fork_python, run_python

from benchmarks import gpu_plots
from benchmarks.gpu_check import constants, rehearsal, results, table
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.journal import CRASHED, HUNG, NOT_REACHED, OUTCOMES, PASSED, START, Journal
from benchmarks.gpu_check.stages import CHECK, SANITIZE, Stage, budget, patience
from benchmarks.gpu_check.target import has_no_room
from benchmarks.gpu_check.worker import JOURNAL

Rehearsed = tuple[Path, subprocess.CompletedProcess[str]]

MOST_FILES = 6
SANITIZER = """#!/bin/sh
# In the place of compute-sanitizer: runs what it is given.
while [ "$1" != "{python}" ]; do shift; done
"$@" && echo "========= ERROR SUMMARY: 0 errors"
"""


def check(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ("-m", "benchmarks.gpu_check", "--out", str(folder), "--seconds", "300")
    return run_python(*command, *options, path=[ROOT], environment=environment, timeout=330)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Rehearsed:
    """Without numpy, which the check is not to need."""
    emulated_operators()  # builds them
    folder, packages = tmp_path_factory.mktemp("check"), tmp_path_factory.mktemp("packages")
    (packages / "numpy.py").write_text("raise ModuleNotFoundError('no numpy here')\n")
    return folder, check(folder, "--rehearse", PYTHONPATH=f"{packages}{os.pathsep}{ROOT}")


def test_the_emulated_device_of_a_rehearsal_needs_no_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import benchmarks.gpu_check.emulated"
    result = fork_python("-c", code, path=[ROOT])
    assert result.returncode == 0, result.stderr


def assert_every_row_but_the_planted_passed(found: results.Results, stages: tuple[Stage, ...], output: str) -> None:
    assert list(found["rows"]) == [stage.name for stage in stages]
    for stage, rows in found["rows"].items():
        planted = {case.key: outcome for name, (case, outcome) in rehearsal.FAULTS.items() if name == stage}
        expected = {row["key"]: planted.get(row["key"], PASSED) for row in rows}
        assert {row["key"]: row["outcome"] for row in rows} == expected, output
        assert set(planted) <= set(expected)
        assert len(expected) == len(rows)


def test_a_rehearsal_loses_no_row(rehearsed: Rehearsed) -> None:
    """Over a row that raises, one that crashes, hangs, leaves CUDA in an error, and is killed."""
    folder, result = rehearsed
    found = results.read(folder / "gpu_check.json")
    assert_every_row_but_the_planted_passed(found, CHECK, result.stdout + result.stderr)
    assert result.returncode == 1
    assert len(list(folder.iterdir())) <= MOST_FILES
    printed = result.stdout.partition("\n\n")[2].splitlines()
    assert (folder / "gpu_check.txt").read_text().splitlines() == printed
    assert len(printed) <= table.MOST_LINES
    assert sum(row["outcome"] == HUNG for rows in found["rows"].values() for row in rows) == 1


def test_a_rehearsal_of_the_sanitizer_loses_no_row(rehearsed: Rehearsed, tmp_path: Path) -> None:
    """In the folder of the other mode, whose facts are kept."""
    folder, _ = rehearsed
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    before = Journal(folder / JOURNAL).rows("facts")
    of_check = (folder / "gpu_check.json").read_text()
    result = check(folder, "--rehearse", "--sanitize", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = results.read(folder / "gpu_sanitize.json")
    assert_every_row_but_the_planted_passed(found, SANITIZE, result.stdout + result.stderr)
    assert found["rows"]["facts"] == before
    assert (folder / "gpu_check.json").read_text() == of_check
    assert len(list(folder.iterdir())) <= MOST_FILES


def test_known_rows_are_reported_without_a_gpu(rehearsed: Rehearsed, tmp_path: Path) -> None:
    """Of a check that was ended in the middle of a line: what it had not reached is said."""
    folder, _ = rehearsed
    lines = (folder / JOURNAL).read_text().splitlines()
    cut = next(i for i, line in enumerate(lines) if '"speed", "key"' in line)
    (tmp_path / JOURNAL).write_text("\n".join(lines[: cut + 1]) + "\n" + lines[cut][:20])
    assert check(tmp_path, "--report").returncode == 1
    rows = results.read(tmp_path / "gpu_check.json")["rows"]
    assert [row["outcome"] for row in rows["speed"]] == [PASSED, *[NOT_REACHED] * (len(rows["speed"]) - 1)]
    assert rows["steps"] == []


def test_rows_of_a_rehearsal_and_of_a_gpu_do_not_mix(rehearsed: Rehearsed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["", "--out", str(rehearsed[0])])
    with pytest.raises(SystemExit):
        main()
    assert results.read(rehearsed[0] / "gpu_check.json")["rehearsal"]


def test_without_a_gpu_the_check_ends_with_its_first_stage(tmp_path: Path) -> None:
    result = check(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 1
    assert re.search(r"FAILED facts: device: RuntimeError: (torch .* sees no GPU|this build .* no CUDA)", result.stdout)
    rows = json.loads((tmp_path / "gpu_check.json").read_text())["rows"]
    assert [name for name in rows if rows[name]] == ["facts"]


@pytest.mark.parametrize("stages", [CHECK, SANITIZE], ids=["check", "sanitize"])
@pytest.mark.parametrize("seconds", [480.0, 180.0, 60.0])
def test_budgets_sum_to_the_time_and_shrink_with_it(stages: tuple[Stage, ...], seconds: float) -> None:
    left = seconds
    for i in range(len(stages)):
        of_stage = budget(stages[i:], left)
        assert 0 < of_stage <= left
        left -= of_stage
    assert left == pytest.approx(0)
    assert all(patience(stage, seconds) <= max(5, stage.patience * seconds / 480) for stage in stages)


def test_a_journal_that_ends_in_half_a_line_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows.jsonl")
    journal.plan("speed", ["a", "b"])
    journal.begin("speed", "a")
    assert journal.under_way("speed") == "a"
    with journal.path.open("a") as file:
        file.write('{"stage": "speed", "key": "a", "outc')
    journal.end("speed", {"key": "b", "outcome": PASSED})
    assert journal.left("speed") == ["a"]
    assert journal.rows("speed") == [{"key": "a", "outcome": NOT_REACHED}, {"key": "b", "outcome": PASSED}]


def test_a_stage_that_starts_after_all_has_no_row_of_its_failed_start(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows.jsonl")
    journal.end("speed", {"key": START, "outcome": CRASHED})
    assert [row["key"] for row in journal.rows("speed")] == [START]
    journal.end("speed", {"key": "a", "outcome": PASSED})
    assert [row["key"] for row in journal.rows("speed")] == ["a"]


def test_the_program_of_constants_knows_every_measurement() -> None:
    names = re.findall(r'^    \{"(\w+)", measure_', constants.SOURCE.read_text(), re.MULTILINE)
    assert sorted(names) == sorted(constants.MEASUREMENTS)


def test_the_parent_imports_no_torch() -> None:
    """Which could crash, or bring CUDA into what is forked."""
    code = "import sys, benchmarks.gpu_check.__main__; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert run_python("-c", code, path=[ROOT]).stdout.strip() == "False False"


def test_the_table_of_a_check_where_everything_was_found_and_went_wrong_has_60_lines_at_most() -> None:
    def rows(**values: Any) -> list[dict[str, Any]]:
        return [{"key": f"{i}", "outcome": outcome, **values, "B": i} for outcome in OUTCOMES for i in range(30)]

    timed = {"dtype": "bf16", "H": 64, "kernels": "stepwise, stepwise", "cudnn_ms": 1.0, "ours_ms": 1.0}
    timed |= {"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}
    found: dict[str, list[dict[str, Any]]] = {stage.name: rows(error="planted") for stage in CHECK}
    found |= {"speed": rows(kind="train", **timed), "decoding": rows(kind="step", **timed), "steps": []}
    found |= {"algorithms": rows(kind="train", algorithms_ms={"cudnn_static": 1.0}, **timed)}
    found |= {"members": rows(kind="train", members=8, **timed)}
    for dtype in ("bf16", "tf32", "fp32"):
        for backward in (False, True):
            found["steps"] += rows(kernel="stepwise", dtype=dtype, backward=backward, H=64, us_a_step=1.0)
    results = {"device": {}, "rehearsal": True, "rows": found}
    lines = table.lines(results, CHECK)
    assert 50 < len(lines) <= table.MOST_LINES
    assert "  ... 20 more sizes, in the JSON" in lines


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(("multiprocessors", "spoiled", "expected"), [(0, 0, True), (132, 10, False)])
def test_only_a_device_that_is_too_small_is_no_defect(multiprocessors: int, spoiled: int, expected: bool) -> None:
    """Of a kernel by name: there is no room for it; or its results are wrong, so that it is ruled out."""
    operators = emulate(multiprocessors, ("cluster_H64_C4_rows16_ieee", "auto"), spoiled=spoiled)
    x, weights = torch.randn(3, 9, 8), [torch.randn(3 * 62, n) / 8 for n in (8, 62)]
    with warnings.catch_warnings(), suppress(RuntimeError):
        warnings.simplefilter("ignore")  # that the kernel is not used any more
        operators.gru_fwd(x, None, weights, None, False, True)
    with pytest.raises(RuntimeError) as raised:
        operators.gru_fwd(x, None, weights, None, False, True)
    assert has_no_room(raised.value) == expected, raised.value


# ---- Plots

NEEDS_MATPLOTLIB = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")


def measured() -> dict[str, Any]:
    """What a check on a GPU would leave, with times that nobody measured."""
    kernels = [
        {"kernel": kernel, "H": H, "dtype": "bf16", "backward": backward, "B": rows, "us_a_step": float(us)}
        for backward in (False, True)
        for kernel, H, rows, us in (
            ("cluster_H512_C8_rows8", 512, 8, 1),
            ("group_H2048_C128_rows8", 2048, 8, 3),
            ("streamed_U32_rows16", 2816, 16, 9),
            ("streamed_U32_rows16", 4096, 16, 15),
            ("stepwise", 512, 8, 12),
            ("stepwise", 4096, 32, 30),
        )
    ]
    speed = [
        {"H": H, "B": 32, "dtype": "bf16", "kind": kind, "ratio": 2.0, "ratio_low": 1.8, "ratio_high": 2.1}
        for H in (512, 4096)
        for kind in ("forward", "train")
    ]
    rows = {"steps": kernels, "speed": speed}
    return {
        "device": {"gpu": "none", "commit": "0123456789abcdef"},
        "rehearsal": False,
        "rows": {
            **{stage: [{"key": "", "outcome": PASSED, **row} for row in of] for stage, of in rows.items()},
            "decoding": [{"key": "", "outcome": NOT_REACHED}],
        },
    }


@NEEDS_MATPLOTLIB
def test_plots_have_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def keep(figure: Any, path: Path) -> Path:
        lines = [line for axis in figure.axes for line in axis.lines]
        drawn[path.stem] = [
            sorted(float(y) for line in lines for y in line.get_ydata()),
            sorted(float(bar.get_width()) for axis in figure.axes for bar in axis.patches),
        ]
        return path

    monkeypatch.setattr(gpu_plots, "save", keep)
    gpu_plots.draw(measured(), tmp_path)
    assert drawn["gpu_steps"][0] == sorted(2 * [1.0, 3.0, 9.0, 15.0, 12.0, 30.0])
    assert drawn["gpu_speed"][1] == [2.0] * 4


@NEEDS_MATPLOTLIB
def test_plots_are_written_for_the_stages_that_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured()
    found["rows"]["speed"] = []
    (tmp_path / "results.json").write_text(json.dumps(found))
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "results.json"), "--folder", str(tmp_path / "docs")])
    gpu_plots.main()
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["gpu_steps.png"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[1]", "expected the JSON of a GPU check, got one that names no GPU and commit"),
        ('{"device": {}}', "expected the JSON of a GPU check, got one that names no GPU and commit"),
        (json.dumps({**measured(), "rehearsal": True}), "these are the results of a rehearsal, which times no GPU"),
    ],
)
@NEEDS_MATPLOTLIB
def test_what_is_not_a_check_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, words: str
) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["", str(path)])
    with pytest.raises(SystemExit) as raised:
        gpu_plots.main()
    sentence = str(raised.value)
    assert sentence.startswith(f"gpu-plots: {path}: ")
    assert words in sentence
    assert "\n" not in sentence
