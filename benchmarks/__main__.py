"""``python -m benchmarks [SUITE]``: measure, show, keep, compare. What it measures and how: docs/benchmarks.md."""

from __future__ import annotations

import argparse
import math
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import cores, display, plots, report, results, switches
from benchmarks.contenders import ON_REQUEST, OURS, PEERS
from benchmarks.files import WriteError
from benchmarks.results import Run
from benchmarks.run import Settings, measure_suite, rows_of
from benchmarks.suites import PASSES, SUITES
from gru_ext import library

DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    suites = "\n".join(f"  {name:10} {suite.question}" for name, suite in SUITES.items())
    built = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="python -m benchmarks [SUITE] [options]",
        description=f"Microbenchmarks of {OURS} against its peers and the limits of the machine. Suites:\n\n{suites}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    built.add_argument("suite", nargs="?", choices=SUITES, default="quick", metavar="SUITE", help="default: quick")
    built.add_argument(
        "--device", type=_device, default=default_device(), help="cpu, cuda or cuda:N; default: a GPU if it can be used"
    )
    built.add_argument("--dtype", choices=DTYPES, default="fp32", help="of weights and inputs, default fp32")
    built.add_argument(
        "--pass", dest="kind", choices=PASSES, help="forward without gradients; train: forward and backward; backward"
    )
    built.add_argument(
        "--against",
        type=_peers,
        metavar="NAMES",
        help=f"peers, separated by commas, or none: {', '.join(PEERS)}; default: all but {', '.join(ON_REQUEST)}",
    )
    built.add_argument("--threads", type=_positive_int, help="for every contender; default: torch's own choice")
    built.add_argument(
        "--cores", type=_positive_int, help="scaling: predict so many cores, each thread's part run by itself, in turn"
    )
    built.add_argument(
        "--filter", type=_pattern, default="", help="only sizes whose name (T,B,H...) this regular expression finds"
    )
    built.add_argument("--repeat", type=_positive_int, help="rounds; each times a block of calls of every contender")
    built.add_argument("--block-seconds", type=_positive, help="length of a block of calls")
    built.add_argument(
        "--longest", type=_positive, default=5.0, help="leave out rows of which one call must take longer, default 5 s"
    )
    built.add_argument("--tf32", action="store_true", help="let CUDA compute float32 products in TF32; default: not")
    built.add_argument("--load", type=Path, metavar="RESULTS.json", help="show a run that was kept; measure nothing")
    built.add_argument("--json", type=Path, metavar="FILE", help="keep the run")
    built.add_argument("--plot", type=Path, metavar="FOLDER", help="write plots as PNG (needs matplotlib)")
    built.add_argument("--report", type=Path, metavar="FILE", help=".html with the plots inside, or .md beside them")
    built.add_argument(
        "--compare", type=Path, metavar="OLD.json", help="print what changed; exit status 1 past --worse"
    )
    built.add_argument(
        "--worse", type=_positive, default=1.15, help="slower by this factor is worse, for --compare; default 1.15"
    )
    built.add_argument(
        "--at-least",
        type=_positive,
        metavar="RATIO",
        help="exit status 1 where a row is slower than this over torch in every round",
    )
    return built


def default_device() -> torch.device:
    """A GPU where torch finds one and this build has kernels for it, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and library.has_cuda_kernels else "cpu")


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {text}") from None
    if device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {text}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"this PyTorch finds {torch.cuda.device_count()} CUDA devices, not {text}")
    return device


def _peers(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"expected none or some of {', '.join(PEERS)}, got {name}")
    return names


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"expected a regular expression, got {text} ({error})") from None
    return text


def _positive_int(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def settings_of(args: argparse.Namespace) -> Settings:
    """The suite's own defaults where the command line says nothing."""
    suite = SUITES[args.suite]
    default = tuple(name for name in PEERS if name not in ON_REQUEST or name in suite.also)
    against = args.against if args.against is not None else default if suite.against is None else suite.against
    return Settings(
        suite=args.suite,
        device=args.device,
        dtype=DTYPES[args.dtype],
        passes=suite.passes if args.kind is None or args.suite == "kernels" else (args.kind,),
        against=against,
        threads=args.threads or torch.get_num_threads(),
        filter=args.filter,
        repeat=args.repeat or suite.repeat,
        block_seconds=args.block_seconds or suite.block_seconds,
        longest=args.longest,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 for a wrong answer of ours, or past --worse or --at-least; 2 bad options; 130 Ctrl-C."""
    command = parser()
    args = command.parse_args(arguments)
    if args.cores is not None:
        if args.suite != "scaling":
            command.error(f"--cores goes with the suite scaling, got {args.suite}")
        return cores.main(args.cores, args.filter)
    try:
        old = results.load(args.compare) if args.compare else None
        loaded = results.load(args.load) if args.load else None
    except results.ResultError as error:
        command.error(str(error))
    if loaded is None:
        settings = settings_of(args)
        if not rows_of(settings):
            command.error(f"no size of suite {args.suite} has {args.filter} in its name (T,B,H)")
        if args.device.type == "cuda":
            switches.allow_tf32(args.tf32)
        with display.display() as shown:
            run = measure_suite(settings, shown)
    else:
        run = loaded
        for row in run.rows:
            print(report.line(row))
    print("\n".join(["", *report.summary(run)]))
    kept = _keep(run, args)
    worse = _print_changes(old, run, args.worse) if old is not None else False
    if run.interrupted:
        return INTERRUPTED
    wrong = any(row.left_out.get(OURS, "").startswith("wrong") for row in run.rows)
    slow = _print_slow(run, args.at_least) if args.at_least else False
    return 1 if worse or wrong or slow or not kept else 0


def _keep(run: Run, args: argparse.Namespace) -> bool:
    """Write what was asked for, a run without rows leaving nothing worth keeping; whether each file could be written.

    Where one cannot, the others still are.
    """
    drawn: list[Path] = []
    folder: Any = args.plot or (args.report.with_suffix("") if args.report else None)

    def keep() -> None:
        run.save(args.json)
        print(f"kept in {args.json}")

    def draw() -> None:
        try:
            drawn.extend(plots.draw(run, folder))
            print("\n".join(f"plot: {path}" for path in drawn))
        except plots.PlotError as error:
            print(error)

    def write_report() -> None:
        report.write(run, args.report, drawn)
        print(f"report: {args.report}")

    written = True
    for asked, write in ((args.json, keep), (folder, draw), (args.report, write_report)):
        try:
            if asked and run.rows:
                write()
        except WriteError as error:
            print(error, file=sys.stderr)
            written = False
    return written


def _print_slow(run: Run, least: float) -> bool:
    """Print the rows that miss --at-least in every round, as other programs can spoil some; whether there are any."""
    slow = [row for row in run.timed if "torch" in row.times and row.ratio("torch").high < least]
    for row in slow:
        print(f"below {least:g} times the speed of torch in every round: {report.line(row)}")
    return bool(slow)


def _print_changes(old: Run, new: Run, factor: float) -> bool:
    """Print every row that both runs have; whether any is slower by more than the factor."""
    changes = sorted(results.compare(old, new), key=lambda change: change.factor)
    print(f"\ncompared with commit {old.environment.get('commit')}: {len(changes)} rows in both")
    for change in changes:
        mark = "WORSE " if change.factor < 1 / factor else "better" if change.factor > factor else "      "
        print(f"{mark} {change}")
    return any(change.factor < 1 / factor for change in changes)


if __name__ == "__main__":
    # A time limit ends a run as Ctrl-C does: what was measured is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
