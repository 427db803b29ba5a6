"""Measure what this repository publishes, in order of importance, and write it where it is read.

Each measurement is a command of its own. It leaves a JSON in benchmarks/results, its plots in docs/, and its tables in
the pages of docs/, between ``<!-- NAME -->`` and ``<!-- end -->``, with the machine and the commit above each. A
measurement whose usual time is beyond what is left of ``--minutes`` is not begun, and named.

    python -m benchmarks.publish --machine cpu_zen4_2cores --minutes 40
    python -m benchmarks.publish --machine cpu_zen4_2cores --only fp32 bf16
    python -m benchmarks.publish --machine cpu_zen4_2cores --tables    # from the JSON that is there
    python -m benchmarks.publish --trial                               # few short rows of each; writes nothing
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import files, plots, report, results
from benchmarks.contenders import OURS
from benchmarks.report import Table, milliseconds
from benchmarks.results import Row, Run

ROOT = Path(__file__).parent.parent
DOCS, RESULTS = ROOT / "docs", ROOT / "benchmarks" / "results"
LABELS = {
    "gru_ext_prepared": "prepared",
    "torch": "`nn.GRU`",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "keras": "Keras",
}
END = "<!-- end -->"
PAGE_WIDTH = 120


# ---- Tables


def speed(path: Path) -> Table:
    """Each row beside the others, without the grid."""
    run = results.load(path)
    return _beside(run, off_grid(run))


def latency(path: Path) -> Table:
    """Each row beside the others."""
    run = results.load(path)
    return _beside(run, run.timed)


def _beside(run: Run, timed: Sequence[Row]) -> Table:
    """Ours in milliseconds, the others' time over ours, the fraction of the limit."""
    peers = [name for name in run.peers if any(name in row.times for row in timed)]
    head = ["T,B,H", "", "ours, ms", *(LABELS.get(name, name) for name in peers), "limit"]
    rows = []
    for row in timed:
        ratios = row.ratios()
        cells = [f"{ratios[name].median:.2f}" if name in ratios else "" for name in peers]
        if "torch" in ratios:
            cells[peers.index("torch")] += f" ({ratios['torch'].low:.2f} to {ratios['torch'].high:.2f})"
        rows.append([*_names(row), _ours(row), *cells, f"{row.reached:.0%}"])
    return head, rows


def limit(path: Path) -> Table:
    """The least time of each size, and what sets it."""
    return ["T,B,H", "", "ours, ms", "limit, ms", "of the limit", "what limits"], [
        [*_names(row), _ours(row), milliseconds(row.bound.seconds), f"{row.reached:.0%}", row.bound.by]
        for row in off_grid(results.load(path))
    ]


def contended(path: Path) -> Table:
    """Ours, the mean and in brackets where the slowest hundredth begins; then the others. Milliseconds."""
    run = results.load(path)
    rows: dict[tuple[str, str], list[str]] = {}
    for row in run.timed:
        cell = "; ".join(report.mean_and_slow(row, name) for name in (OURS, *run.peers))
        rows.setdefault((str(row.size), str(row.threads)), [""] * 3)[row.busy] = cell
    head = ["T,B,H", "threads", "quiet", "one busy process beside", "two"]
    return head, [[*names, *cells] for names, cells in rows.items()]


def memory(path: Path) -> Table:
    """The peak of a training step, in MiB."""
    columns = {"`nn.GRU`": "torch", '`save="gates"`': OURS, '`save="output"`': "gru_ext_output"}
    rows = []
    for row in results.load(path).rows:
        if not {*columns.values()} <= row.peak_bytes.keys():
            continue
        peaks = {label: row.peak_bytes[name] / 2**20 for label, name in columns.items()}
        share = peaks['`save="output"`'] / peaks["`nn.GRU`"]
        rows.append([str(row.size), *(f"{peak:.0f}" for peak in peaks.values()), f"{share:.0%}"])
    return ["T,B,H", *columns, "of `nn.GRU`'s"], rows


def parts(path: Path) -> Table:
    """Where our own time goes, in milliseconds."""
    return report.table(results.load(path), "kernels")


def off_grid(run: Run) -> list[Row]:
    """The rows that the heat map does not show."""
    shown = {row.key for row in plots.grid(run)}
    return [row for row in run.timed if row.key not in shown]


def _names(row: Row) -> list[str]:
    return [str(row.size), row.kind]


def _ours(row: Row) -> str:
    return milliseconds(row.times[OURS].median)


def int8_errors(path: Path) -> Table:
    """Largest and root mean square difference from float64."""
    columns = {"torch int8, largest": "torch_error", "ours, largest": "our_error"}
    columns |= {"torch int8, rms": "torch_rms_error", "ours, rms": "our_rms_error"}
    return ["T,B,H", *columns], [
        [row["size"], *(f"{row[column]:.4f}" for column in columns.values())] for row in _plain_rows(path)
    ]


def int8_speed(path: Path) -> Table:
    """int8 against torch's, and against our own other dtypes."""
    return ["T,B,H", "torch int8", "ours", "times faster", "than our fp32", "than our bf16"], [
        [
            row["size"],
            *(f"{row[column]:.3g}" for column in ("torch_ms", "ours_ms")),
            f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
            *(f"{row[column]:.1f}" for column in ("over_fp32", "over_bf16")),
        ]
        for row in _plain_rows(path)
    ]


def reset_before(path: Path) -> Table:
    """``reset_after=False``: the others' time over ours, forward and training side by side."""
    head = ["T,B,H (I = H)", "forward: PyTorch loop", "ONNX Runtime", "`reset_after=True`"]
    rows: dict[str, list[str]] = {}
    for row in _plain_rows(path):
        values = [row["loop"], *([row["onnxruntime"]] if row["kind"] == "forward" else []), row["reset_after"]]
        rows.setdefault(row["size"], []).extend("" if value is None else f"{value:.2f}" for value in values)
    return [*head, "training: PyTorch loop", "`reset_after=True`"], [[size, *cells] for size, cells in rows.items()]


def _plain_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


def source(path: Path) -> str:
    """What a JSON was measured on."""
    content = json.loads(path.read_text())
    facts = content["environment"]
    words = [facts["processor"], f"{facts['threads']} threads", facts["cpu_isa"], f"torch {facts['torch']}"]
    words.append(f"commit {facts['commit']}")
    if "schema" in content and (noise := results.load(path).noise()) is not None:
        words.append(f"noise {noise:.0%}")
    if facts.get("used by others") is not None:
        words.append(f"other programs used {facts['used by others']:.0%} of the processors")
    line = f"[The JSON](../benchmarks/results/{path.name}): {', '.join(words)}."
    return textwrap.fill(line, PAGE_WIDTH, break_long_words=False, break_on_hyphens=False)


# ---- What is published


@dataclass(frozen=True)
class Measurement:
    """A command, and where its result goes."""

    name: str
    minutes: float  # on two cores that nobody else uses
    command: str  # of python -m; --json is added
    trial: str  # options for a short one
    tables: dict[str, tuple[str, Callable[[Path], Table]]] = field(default_factory=dict)  # NAME to page and table
    plots: dict[str, str] = field(default_factory=dict)  # of benchmarks/plots.py, to a file of docs/


SHORT = "--threads 1 --repeat 1 --block-seconds 0.01"
MEASUREMENTS = [
    Measurement(
        "fp32",
        12,
        "benchmarks sizes --device cpu --dtype fp32",
        f"{SHORT} --filter ^(200,1,64|50,8,128)$",
        {"speed fp32": ("performance.md", speed), "limit": ("cpu.md", limit)},
        {"ratios": "ratios_fp32.png"},
    ),
    Measurement(
        "bf16",
        9,
        "benchmarks sizes --device cpu --dtype bf16",
        f"{SHORT} --filter ^(200,1,64|50,8,128)$",
        {"speed bf16": ("performance.md", speed)},
        {"ratios": "ratios_bf16.png"},
    ),
    Measurement(
        "kernels", 3, "benchmarks kernels --device cpu", f"{SHORT} --filter ^50,8,128$", {"parts": ("cpu.md", parts)}
    ),
    Measurement(
        "int8",
        3,
        "benchmarks.int8_against_torch",
        "--threads 1 --blocks 1 --block-seconds 0.01 --filter 50,8,128",
        {"int8 errors": ("int8.md", int8_errors), "int8 speed": ("int8.md", int8_speed)},
    ),
    Measurement(
        "reset_before",
        3,
        "benchmarks.reset_before --threads 1",
        "--blocks 1 --block-seconds 0.01 --filter 50,8,128",
        {"reset before": ("variants.md", reset_before)},
    ),
    Measurement(
        "fp64",
        8,
        "benchmarks sizes --device cpu --dtype fp64 --against torch",
        f"{SHORT} --filter ^(200,1,64|50,8,128)$",
        {"speed fp64": ("performance.md", speed)},
    ),
    Measurement(
        "memory",
        2,
        "benchmarks memory --device cpu --longest 100",
        "--threads 1 --filter ^1000,1,256$",
        {"memory": ("performance.md", memory)},
    ),
    Measurement(
        "contended",
        6,
        "benchmarks contended --device cpu --against torch,onnxruntime,openvino",
        "--threads 1 --repeat 1 --filter ^50,8,128$",
        {"contended": ("performance.md", contended)},
    ),
    Measurement(
        "latency",
        3,
        "benchmarks latency --device cpu",
        f"{SHORT} --filter ^1,1,64$",
        {"latency": ("performance.md", latency)},
    ),
    Measurement(
        "sweep",
        5,
        "benchmarks sweep --device cpu",
        "--threads 1 --filter ^8,(3|8),(29|50)$",
        {},
        {"sweep": "sweep.png"},
    ),
    Measurement("scaling", 8, "benchmarks scaling --device cpu", f"{SHORT} --filter ^(4|16),8,128$"),
    Measurement("deepbench", 60, "benchmarks deepbench --device cpu", f"{SHORT} --filter ^1,1,512"),
]


def measure(measurement: Measurement, path: Path, options: str = "") -> bool:
    """Run its command in a process of its own; whether it ended well. Only then is there a new JSON."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "run.json"
        command = [sys.executable, "-m", *measurement.command.split(), *options.split(), "--json", str(kept)]
        print(f"{measurement.name}: python {' '.join(command[1:-2])}", flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode or not kept.exists():
            return False
        files.write(path, kept.read_text())
    return True


def publish(measurement: Measurement, path: Path, docs: Path) -> list[Path]:
    """Write its tables and plots; the files that were written."""
    written = []
    machine = path.stem.removesuffix(f"_{measurement.name}")
    own = [
        name for name, (page, _) in measurement.tables.items() if mark(f"{name} {machine}") in (docs / page).read_text()
    ]
    for name, (page, table) in measurement.tables.items():
        if own and name not in own:
            continue
        content = f"{source(path)}\n\n{report.markdown_table(*table(path))}"
        fill(docs / page, f"{name} {machine}" if own else name, content)
        written.append(docs / page)
    if measurement.plots and not own:
        with tempfile.TemporaryDirectory() as folder:
            drawn = {plot.stem: plot for plot in plots.draw(results.load(path), Path(folder))}
            for name, target in measurement.plots.items():
                files.write(docs / target, drawn[name].read_bytes())
                written.append(docs / target)
    return written


def mark(name: str) -> str:
    """What a table comes after."""
    return f"<!-- {name} -->"


def fill(page: Path, name: str, content: str) -> None:
    """Replace what stands between the marks of a name.

    Raises:
        ValueError: the page does not have both marks, once, in this order.
    """
    before, begin, rest = page.read_text().partition(f"{mark(name)}\n")
    old, end, after = rest.partition(END)
    if not begin or not end or mark(name) in rest or "<!--" in old:
        raise ValueError(f"{page} lacks {mark(name)} and {END} after it")
    files.write(page, f"{before}{begin}\n{content}\n\n{end}{after}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where a measurement failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [measurement.name for measurement in MEASUREMENTS]
    parser.add_argument("--machine", help="begins the names of the JSON files: cpu_zen5_2cores")
    parser.add_argument("--minutes", type=float, default=60, help="for all measurements, default 60")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument("--trial", action="store_true", help="few short rows of each measurement; writes nothing")
    args = parser.parse_args(arguments)
    chosen = [measurement for measurement in MEASUREMENTS if measurement.name in args.only]
    if args.trial:
        return try_out(chosen)
    if not args.machine:
        parser.error("--machine is needed, to name the files")
    start, failed = time.monotonic(), []
    for measurement in chosen:
        path = RESULTS / f"{args.machine}_{measurement.name}.json"
        if args.tables:
            if not path.exists():
                continue
        elif time.monotonic() - start + 60 * measurement.minutes > 60 * args.minutes:
            print(f"{measurement.name}: not begun, as it takes about {measurement.minutes:g} minutes")
            continue
        try:
            if not args.tables and not measure(measurement, path):
                failed.append(measurement.name)
                continue
            for file in (*([] if args.tables else [path]), *publish(measurement, path, DOCS)):
                print(f"wrote {file}")
        except files.WriteError as error:  # the others go on: there may be room for them
            print(error, file=sys.stderr)
            failed.append(measurement.name)
    print(f"failed: {', '.join(failed)}" if failed else "what the pages say in words is left to you")
    return 1 if failed else 0


def try_out(chosen: Sequence[Measurement]) -> int:
    """Run each measurement for a few short rows, and show its tables."""
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for measurement in chosen:
            path = Path(folder) / f"{measurement.name}.json"
            if not measure(measurement, path, measurement.trial):
                failed.append(measurement.name)
                continue
            for _, table in measurement.tables.values():
                print(f"\n{source(path)}\n\n{report.markdown_table(*table(path))}\n")
    print(f"failed: {', '.join(failed)}" if failed else "every command works")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
