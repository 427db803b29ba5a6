"""python -m benchmarks.publish and benchmarks/independent.py: what is written where, and when two programs agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from process import ROOT

from benchmarks import independent, publish, results
from benchmarks.__main__ import parser
from benchmarks.contenders import OURS
from benchmarks.publish import MEASUREMENTS, Measurement
from benchmarks.results import Row, Run, Timing
from benchmarks.roofline import Bound
from benchmarks.suites import SUITES, Size

FACTS = {"processor": "a test", "threads": 2, "cpu_isa": "avx2", "torch": "2", "commit": "0", "used by others": 0.03}
(FP32,) = (measurement for measurement in MEASUREMENTS if measurement.name == "fp32")


def keep_run(path: Path) -> None:
    """Two rows beside the grid that the heat map shows."""
    rows = []
    for size in [Size(40, B, H) for B in (1, 4) for H in (64, 128)] + [Size(7, 2, 64)]:
        for kind in ("forward", "train"):
            times = {OURS: Timing([1e-3, 1e-3, 2e-3], 3, 0.9), "torch": Timing([4e-3, 5e-3, 8e-3], 1, 1.0)}
            if kind == "forward":
                times["onnxruntime"] = Timing([5e-4, 5e-4, 1e-3], 1, 1.0)
            rows.append(Row(size, kind, 2, Bound(5e-4, "arithmetic", 1e6, 1e5), times, again=[1e-3, 1e-3, 2.2e-3]))
    Run("sizes", {}, {**FACTS, "dtype": "float32"}, {}, {}, rows=rows).save(path)


def test_tables_and_plots_are_written_into_the_pages(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra is not installed")
    path = tmp_path / "machine_fp32.json"
    keep_run(path)
    for page, name in (("performance.md", "speed fp32"), ("cpu.md", "limit")):
        (tmp_path / page).write_text(f"before\n<!-- {name} -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):  # the second time over what the first wrote
        publish.publish(FP32, path, tmp_path)
    assert (tmp_path / "performance.md").read_text() == (
        "before\n<!-- speed fp32 -->\n\n"
        "[The JSON](../benchmarks/results/machine_fp32.json): a test, 2 threads, avx2, torch 2, commit 0, noise 10%,"
        " other\nprograms used 3% of the processors.\n\n"
        "| T,B,H |  | ours, ms | `nn.GRU` | ONNX Runtime | limit |\n| --- | --- | --- | --- | --- | --- |\n"
        "| 7,2,64 | forward | 1 | 4.00 (4.00 to 5.00) | 0.50 | 50% |\n"
        "| 7,2,64 | train | 1 | 4.00 (4.00 to 5.00) |  | 50% |\n"
        "\n<!-- end -->\nafter\n"
    )
    assert "| 7,2,64 | forward | 1 | 0.5 | 50% | arithmetic |" in (tmp_path / "cpu.md").read_text()
    assert (tmp_path / "ratios_fp32.png").stat().st_size > 10_000


def test_a_machine_that_a_page_names_leaves_the_rest_alone(tmp_path: Path) -> None:
    path = tmp_path / "other_fp32.json"
    keep_run(path)
    (tmp_path / "cpu.md").write_text(limits := "<!-- limit -->\nold\n<!-- end -->\n")
    (tmp_path / "performance.md").write_text(
        "<!-- speed fp32 -->\nold\n<!-- end -->\n<!-- speed fp32 other -->\nold\n<!-- end -->\n"
    )
    assert publish.publish(FP32, path, tmp_path) == [tmp_path / "performance.md"]
    page = (tmp_path / "performance.md").read_text()
    assert page.startswith("<!-- speed fp32 -->\nold\n<!-- end -->\n<!-- speed fp32 other -->\n\n[The JSON]")
    assert (tmp_path / "cpu.md").read_text() == limits


def test_tables_of_the_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    before: dict[str, Any] = {"size": "7,2,64", "loop": 3.0, "reset_after": 0.9}
    rows = [{**before, "kind": "forward", "onnxruntime": 1.5}, {**before, "kind": "train", "onnxruntime": None}]
    path.write_text(json.dumps({"environment": FACTS, "rows": rows}))
    assert publish.reset_before(path)[1] == [["7,2,64", "3.00", "1.50", "0.90", "3.00", "0.90"]]
    kept = ROOT / "benchmarks" / "results" / "cpu_zen5_2cores_int8.json"
    for table in (publish.int8_errors, publish.int8_speed):
        head, lines = table(kept)
        assert {len(cells) for cells in lines} == {len(head)}


def test_tables_of_memory_and_of_shared_cores(tmp_path: Path) -> None:
    """A row that is missing leaves its place empty, and one that was not weighed is not there."""
    bound, times = Bound(5e-4, "arithmetic", 1e6, 1e5), {OURS: Timing([1e-3, 3e-3, 1e-3], 1, 1.0, 6e-3)}
    times["torch"], unknown = Timing([4e-3] * 3, 1, 1.0, 5e-3), {OURS: Timing([1e-3], 1, 1.0)}
    shared = [Row(Size(7, 2, 64), "forward", 2, bound, times if busy == 0 else unknown, busy=busy) for busy in (0, 2)]
    peaks = {"torch": 8 << 20, OURS: 4 << 20, "gru_ext_output": 2 << 20}
    weighed = [Row(Size(T, 2, 64), "train", 2, bound, peak_bytes=peaks if T == 7 else {}) for T in (7, 9)]
    for suite, rows in (("contended", shared), ("memory", weighed)):
        Run(suite, {}, {**FACTS, "dtype": "float32"}, {}, {}, rows=rows).save(tmp_path / suite)
    assert publish.contended(tmp_path / "contended")[1] == [["7,2,64", "2", "1.67 (6); 4 (5)", "", "1; -"]]
    assert publish.memory(tmp_path / "memory")[1] == [["7,2,64", "8", "4", "2", "25%"]]


@pytest.mark.parametrize("zen", [4, 5])
@pytest.mark.parametrize(("name", "dtype"), [("float32", "fp32"), ("bfloat16", "bf16")])
def test_the_readme_has_the_smallest_and_the_largest_ratio(name: str, dtype: str, zen: int) -> None:
    run = results.load(ROOT / "benchmarks" / "results" / f"cpu_zen{zen}_2cores_{dtype}.json")
    ranges = []
    for kind in ("forward", "train"):
        ratios = [row.ratio("torch").median for row in run.timed if row.kind == kind and "torch" in row.times]
        ranges.append(f"{min(ratios):.1f} to {max(ratios):.0f}")
    assert f"| {name}, Zen {zen} | {' | '.join(ranges)} |" in (ROOT / "README.md").read_text()
    assert f"{run.noise():.0%}" in (ROOT / "README.md").read_text()


def test_the_readme_has_the_range_of_prepared_steps() -> None:
    rows = results.load(ROOT / "benchmarks" / "results" / "cpu_zen5_2cores_latency.json").timed

    def over_prepared(peer: str) -> list[float]:
        return sorted(row.ratio(peer).median / row.ratio("gru_ext_prepared").median for row in rows)

    framework, onnxruntime = over_prepared("torch"), over_prepared("onnxruntime")
    words = (
        f"{framework[0]:.1f} to {framework[-1]:.0f} times as fast as `nn.GRU`,"
        f" {onnxruntime[0]:.2f} to {onnxruntime[-1]:.1f} times as ONNX Runtime"
    )
    assert words in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["no marks", "<!-- a -->\nno end", "<!-- a -->\n<!-- b -->\n<!-- end -->"])
def test_a_page_without_marks_is_left_alone(page: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(page)
    with pytest.raises(ValueError, match=r"page.md lacks <!-- a --> and <!-- end --> after it"):
        publish.fill(path, "a", "new")
    assert path.read_text() == page


@pytest.mark.parametrize("measurement", MEASUREMENTS, ids=lambda measurement: measurement.name)
def test_every_page_has_its_marks_and_every_trial_some_rows(measurement: Measurement) -> None:
    for name, (page, _) in measurement.tables.items():
        text = (ROOT / "docs" / page).read_text()
        assert re.search(rf"<!-- {name} -->\n[^<]*<!-- end -->", text), name
    assert all((ROOT / "docs" / target).exists() for target in measurement.plots.values())
    program, *words = measurement.command.split()
    if program == "benchmarks":
        args = parser().parse_args([*words, *measurement.trial.split()])
        assert any(re.search(args.filter, str(case.size)) for case in SUITES[args.suite].cases(2))


def test_only_what_fits_in_the_time_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def measure(measurement: Measurement, path: Path) -> bool:
        measured.append(path.name)
        return measurement.name != "int8"

    monkeypatch.setattr(publish, "measure", measure)
    monkeypatch.setattr(publish, "publish", lambda measurement, path, docs: [])
    assert publish.main(["--machine=m", "--minutes=10", "--only", "fp32", "bf16", "int8"]) == 1
    assert measured == ["m_bf16.json", "m_int8.json"]
    printed = capsys.readouterr().out
    assert "fp32: not begun, as it takes about 12 minutes" in printed
    assert "failed: int8" in printed


def test_a_failed_measurement_leaves_the_old_result(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text("old")
    assert not publish.measure(Measurement("bad", 1, "benchmarks quick --filter nothing", ""), path)
    assert path.read_text() == "old"


# ---- the second opinion


def test_ratios_agree_within_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    assert independent.verdict("7,2,64 train", [2.0, 2.05, 1.95], [2.15, 2.1, 2.15], busy=0.9) == "agree"
    assert "benchmarks   2.00x, independent   2.15x, quotient 0.93; moved by 2%" in capsys.readouterr().out
    assert independent.verdict("7,2,64 train", [2.0, 2.05, 1.95], [2.4, 2.4, 2.4], busy=0.02) == "apart"
    assert independent.verdict("7,2,64 train", [2.0, 2.05, 1.95], [2.4, 2.4, 2.4], busy=0.5) == "unclear"
    assert independent.verdict("7,2,64 train", [2.0, 4.0, 1.0], [3.0, 3.0, 3.0], busy=0.02) == "unclear"


def test_the_second_opinion_measures_what_the_benchmarks_do(tmp_path: Path) -> None:
    sizes = SUITES["sizes"].cases(2)
    assert all(any(size == (c.size.T, c.size.B, c.size.H) for c in sizes) for size in independent.SIZES)
    own = independent.own_ratios_of_a_process((7, 2, 64), 1, 1e-3)
    keep_run(tmp_path / "run.json")
    assert independent.read(tmp_path / "run.json") == ({"forward": 4.0, "train": 4.0}, 0.03)
    assert own.keys() == {"forward", "train"}
    assert all(0.1 < ratio < 100 for ratio in own.values())
