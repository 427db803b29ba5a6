"""The end of the output: what came of a check, in a screen or two of lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu_check.journal import ABSENT, OUTCOMES, WRONG, Row
from benchmarks.gpu_check.results import Results, measured
from benchmarks.gpu_check.stages import Stage

MOST_LINES = 60
MOST_LETTERS = 150
MOST_WRONG, MOST_ABSENT, MOST_SPEED, MOST_ALGORITHMS, MOST_DECODING, MOST_MEMBERS, MOST_STEPS = 9, 3, 10, 4, 4, 2, 4


def lines(results: Results, stages: Sequence[Stage]) -> list[str]:
    """At most MOST_LINES; what has no room among them is counted, and is in the JSON."""
    device, rows = results["device"], results["rows"]
    found = ["A rehearsal: all times are a CPU's, and mean nothing."] if results["rehearsal"] else []
    found += [
        f"{device.get('gpu', 'no GPU')}, driver {device.get('driver', 'unknown')}, torch {device.get('torch', 'none')},"
        f" cuDNN {device.get('cudnn') or 'none'}, commit {device.get('commit', 'unknown')[:12]}"
    ]
    for stage in stages:
        counts = Counter(row["outcome"] for row in rows[stage.name])
        words = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]) or "not begun"
        seconds = sum(row.get("seconds", 0) for row in rows[stage.name])
        found.append(f"{stage.name:10} {stage.shows:40} {seconds:5.0f} s  {words}")
    named = [(stage.name, row) for stage in stages for row in rows[stage.name]]
    found += _few([_said(*row) for row in named if row[1]["outcome"] in WRONG], MOST_WRONG, "that went wrong")
    found += _few([_said(*row) for row in named if row[1]["outcome"] == ABSENT], MOST_ABSENT, "absent")
    speed = _pairs(measured(results, "speed"), ("forward", "train"))
    found += _few(speed, MOST_SPEED, "sizes", _head("forward", "forward and backward"))
    algorithms = _best(measured(results, "algorithms"))
    found += _few(algorithms, MOST_ALGORITHMS, "sizes and passes", "cuDNN's fastest algorithm by its API, ms, and ours")
    decoding = _pairs(measured(results, "decoding"), ("step", "graph"))
    found += _few(decoding, MOST_DECODING, "sizes", _head("one step", "in a graph"))
    members = _pairs(measured(results, "members"), ("forward", "train"))
    found += _few(members, MOST_MEMBERS, "sizes", _head("members: forward", "forward and backward"))
    found += _few(
        _steps(measured(results, "steps")), MOST_STEPS, "dtypes and passes", "fastest of each family, us a step"
    )
    return [line[:MOST_LETTERS] for line in found]


def _few(found: Sequence[str], most: int, name: str, head: str = "") -> list[str]:
    """Some of the lines, a number for the others, and a head if there are any."""
    if not found:
        return []
    rest = [f"  ... {len(found) - most} more {name}, in the JSON"] if len(found) > most else []
    return [*([head] if head else []), *found[:most], *rest]


def _said(stage: str, row: Row) -> str:
    return f"{row['outcome'].upper()} {stage}: {row['key']}: {row.get('error', '')}".replace("\n", " ")


def _head(*kinds: str) -> str:
    return f"{'dtype':5} {'H':>5} {'B':>4}" + "".join(f" | {kind:^30}" for kind in kinds) + " | ours: kernels"


def _pairs(rows: Sequence[Row], kinds: tuple[str, str]) -> list[str]:
    """A line for each size: nn.GRU's milliseconds or, of members, a loop's; ours, and the ratio with its range."""
    sizes: dict[tuple[str, int, int, int], dict[str, Row]] = {}
    for row in rows:
        sizes.setdefault((row["dtype"], row["H"], row["B"], row.get("members", 1)), {})[row["kind"]] = row
    return [
        f"{dtype:5} {H:5} {B:4}"
        + "".join(f" | {_cell(of.get(kind)):30}" for kind in kinds)
        + f" | {next(iter(of.values()))['kernels']}"
        for (dtype, H, B, _), of in sizes.items()
    ]


def _best(rows: Sequence[Row]) -> list[str]:
    """A line for each size and pass."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in ("dtype", "H", "B", "kind"))
        if key not in found or row["cudnn_ms"] < found[key]["cudnn_ms"]:
            found[key] = row
    return [
        f"{dtype:5} {H:5} {B:4} {kind:8} {_cell(row)} {', '.join(row['algorithms_ms'])}"
        for (dtype, H, B, kind), row in found.items()
    ]


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    spread = f"({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"
    return f"{row['cudnn_ms']:8.4f} {row['ours_ms']:8.4f} {row['ratio']:5.2f}x {spread}"


def _steps(rows: Sequence[Row]) -> list[str]:
    """Of each dtype and pass, the fastest kernel of each family."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        family = row["kernel"].split("_")[0]
        best = found.setdefault(f"{row['dtype']} {'backward' if row['backward'] else 'forward'}", {})
        if family not in best or row["us_a_step"] < best[family]["us_a_step"]:
            best[family] = row
    return [f"{name:13} {', '.join(_step(row) for row in best.values())}" for name, best in found.items()]


def _step(row: dict[str, Any]) -> str:
    return f"{row['kernel']} H {row['H']}: {row['us_a_step']:.2f}"
