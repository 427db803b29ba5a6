"""A run in words and tables: lines for the terminal, Markdown, and HTML that carries its plots inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from benchmarks import files, kernels
from benchmarks.contenders import OURS
from benchmarks.measure import geometric_mean
from benchmarks.results import Row, Run

MUCH_NOISE = 0.2
MUCH_USED_BY_OTHERS = 0.1

Table = tuple[list[str], list[list[str]]]  # head, rows


def milliseconds(seconds: float) -> str:
    """Three digits, without an exponent."""
    ms = 1e3 * seconds
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


def line(row: Row) -> str:
    """One row in one line."""
    words = [f"{row.size!s:36} {row.kind:8} {row.threads} threads" + (f", {row.busy} busy" if row.busy else "")]
    if OURS in row.times:
        words.append(f"{milliseconds(row.times[OURS].median):>7} ms")
        words += [f"{name} {spread.median:.2f}x" for name, spread in row.ratios().items()]
        words.append(f"{row.reached or 0:.0%} of the limit ({row.bound.by})")
    elif row.kind == "kernels" and row.times:
        parts = _parts(_medians(row)).items()
        words += [f"{name} {milliseconds(seconds)} ms" for name, seconds in parts if seconds is not None]
    else:
        words += [f"{name} {milliseconds(timing.median)} ms" for name, timing in row.times.items()]
    words += [f"{name} {size / 2**20:.1f} MiB" for name, size in row.peak_bytes.items()]
    words += [f"{name}: {reason}" for name, reason in row.left_out.items() if _is_news(reason)]
    return words[0] + " " + ", ".join(words[1:])


def _medians(row: Row) -> dict[str, float]:
    return {name: timing.median for name, timing in row.times.items()}


def _parts(times: dict[str, float]) -> dict[str, float | None]:
    return {**kernels.parts(times), kernels.PACKING: kernels.packing(times)}


def _is_news(reason: str) -> bool:
    """Whether it belongs to this row; what a peer never does is said once, at the end."""
    return reason.startswith(("failed", "wrong", "one call"))


def summary(run: Run) -> list[str]:
    """What a user wants to know, in sentences: first whether the figures can be trusted, and no mean if they cannot."""
    lines = [f"interrupted: {len(run.rows)} rows were measured before"] if run.interrupted else []
    lines += verdict(run) + used_by_others(run)
    if not is_noisy(run):
        lines += means(run)
    return lines + left_out(run) + absent(run)


def means(run: Run) -> list[str]:
    """How many times as fast as each peer, and where a peer is faster."""
    lines = []
    several = len({row.threads for row in run.rows}) > 1
    for name in run.peers:
        compared = [(row, row.ratio(name)) for row in run.timed if name in row.times]
        if not compared:
            continue
        mean = geometric_mean([spread.median for _, spread in compared])
        lines.append(f"{mean:.2f} times as fast as {name} (geometric mean of {len(compared)} rows)")
        lost = [
            f"{row.key if several else f'{row.size} {row.kind}'} ({spread.median:.2f}x)"
            for row, spread in compared
            if round(spread.median, 2) < 1
        ]
        if lost:
            lines.append(f"  {name} is faster in {len(lost)}: {'; '.join(lost)}")
    if run.timed:
        mean = geometric_mean([row.reached or 1.0 for row in run.timed])
        lines.append(f"{mean:.0%} of the limit of this machine (geometric mean), see docs/benchmarks.md")
    return lines


def absent(run: Run) -> list[str]:
    """Who does not take part, and why."""
    return [f"{name} is absent: {reason}" for name, reason in run.absent.items()]


def is_noisy(run: Run) -> bool:
    """Whether the figures say nothing; False where noise was not measured."""
    return (run.noise() or 0) > MUCH_NOISE


def verdict(run: Run) -> list[str]:
    """Whether the figures can be trusted, in a sentence; nothing where noise was not measured."""
    found = run.noise()
    if found is None:
        return []
    measured = f"timed against ourselves, nine rounds of ten were within {found:.1%}"
    if is_noisy(run):
        return [f"too noisy to trust a figure: {measured}. Measure again on a quieter machine"]
    return [f"noise: {measured}; smaller differences mean nothing"]


def used_by_others(run: Run) -> list[str]:
    """A warning where other programs used the processors meanwhile."""
    share = run.environment.get("used by others")
    if share is None or share < MUCH_USED_BY_OTHERS:
        return []
    words = f"other programs used {share:.0%} of the processors meanwhile"
    if any(row.threads > 1 for row in run.rows):
        words += f": threads that wait for one another suffer most, those of {OURS} and torch too; try --threads 1"
    return [words]


def left_out(run: Run) -> list[str]:
    """Who was not timed where, and why; the same reason once."""
    reasons: dict[tuple[str, str], list[Row]] = {}
    for row in run.rows:
        for name, reason in row.left_out.items():
            reasons.setdefault((name, reason), []).append(row)
    return [
        f"{name} left out of {len(rows)} of {len(run.rows)} rows"
        + (f" ({rows[0].size} {rows[0].kind})" if len(rows) == 1 else "")
        + f": {reason}"
        for (name, reason), rows in reasons.items()
    ]


def table(run: Run, kind: str, ranges: bool = True) -> Table:
    """Times and ratios of one pass, with or without the ranges; or memory; or the parts of the kernels."""
    rows = [row for row in run.rows if row.kind == kind]
    if kind == "kernels":
        head = ["T,B,H", *kernels.PARTS, kernels.PACKING]
        timed = {str(row.size): _medians(row) for row in rows if row.times}
        return head, [
            [size, *(milliseconds(s) if s is not None else "-" for s in _parts(times).values())]
            for size, times in timed.items()
        ]
    if run.suite == "memory":
        return ["T,B,H", *(f"{name} MiB" for name in (OURS, *run.peers))], [
            [str(row.size), *(_mebibytes(row, name) for name in (OURS, *run.peers))] for row in rows
        ]
    names = [name for name in run.peers if any(name in row.times for row in rows)]
    if run.suite == "contended":
        shown = (OURS, *names)
        return ["T,B,H", "threads", "busy", *(f"{name} ms (slow)" for name in shown)], [
            [str(row.size), str(row.threads), str(row.busy), *(mean_and_slow(row, name) for name in shown)]
            for row in rows
        ]
    threads = len({row.threads for row in rows}) > 1
    head = ["T,B,H", *(["threads"] if threads else []), f"{OURS} ms"]
    for name in names:
        head += [f"{name} ms", f"{name} ratio", *([f"{name} lowest", f"{name} highest"] if ranges else [])]
    cells = []
    for row in rows:
        if OURS not in row.times:
            continue
        cell = [str(row.size), *([str(row.threads)] if threads else []), milliseconds(row.times[OURS].median)]
        for name in names:
            if name in row.times:
                spread = row.ratio(name)
                cell += [milliseconds(row.times[name].median), f"{spread.median:.2f}x"]
                cell += [f"{spread.low:.2f}", f"{spread.high:.2f}"] if ranges else []
            else:
                cell += ["-"] * (4 if ranges else 2)
        cells.append([*cell, f"{row.reached or 0:.0%}", row.bound.by])
    return [*head, "of the limit", "limited by"], cells


def mean_and_slow(row: Row, name: str) -> str:
    """Milliseconds of a call, and in brackets where the slowest hundredth begins, if that is known."""
    if name not in row.times:
        return "-"
    timing = row.times[name]
    return milliseconds(timing.mean) + (f" ({milliseconds(timing.slow)})" if timing.slow is not None else "")


def _mebibytes(row: Row, name: str) -> str:
    return f"{row.peak_bytes[name] / 2**20:.1f}" if name in row.peak_bytes else "-"


def kinds(run: Run) -> list[str]:
    """The passes of a run, in order."""
    return list(dict.fromkeys(row.kind for row in run.rows))


def heading(run: Run, kind: str) -> str:
    """Of the table of one pass."""
    if kind == "kernels":
        return "parts, ms"
    if run.suite == "contended":
        return f"{kind}; the mean, and where the slowest hundredth of calls begins, beside so many busy processes"
    return f"{kind}, peak of memory" if run.suite == "memory" else f"{kind}; a ratio above 1: {OURS} is faster"


def reading(run: Run) -> list[str]:
    """What the letters and columns of the tables are, a line each."""
    return [
        "T time steps, B rows (sequences of a batch), H hidden units; as many input units as hidden ones unless named.",
        "forward: without gradients; train: forward and backward, with every gradient; backward: that alone.",
        f"{OURS} ms: the median of the rounds; in the suite contended their mean. ratio: the time of the"
        " other over ours, the median over the rounds; above 1, ours is faster. lowest and highest: the smallest and"
        " the largest round.",
        "noise: in every round our own calls are timed twice; how far their ratio is from 1 in nine rounds of ten."
        f" Above {MUCH_NOISE:.0%} no figure here can be trusted.",
        "of the limit: of the least time that this machine could take, as arithmetic, memory or the number of steps"
        " allow; limited by: which of them.",
        f"How all of it is measured: docs/benchmarks.md, at commit {run.environment.get('commit')}.",
    ]


# What each plot shows.
CAPTIONS = {
    "ratios": "Speed over torch.nn.GRU, to the right is faster. Bars are ours, a line through each is the range of the"
    " rounds, marks are other libraries.",
    "heatmap": "Speed over torch.nn.GRU for each number of rows B and of hidden units H. Green: faster; red: slower.",
    "per_step": "Time of one step against H: lower is better. Black: the limit of the machine.",
    "roofline": "Operations a second against operations for each byte moved. Black lines: what the machine can do at"
    " most, for data of three sizes. The nearer to them, the better.",
    "scaling": "Time against T, B, H and threads, one at a time: lower is better.",
    "sweep": "Time of a multiply-add against H: a jump is a size that is served badly.",
    "memory": "The most memory that two training steps take: shorter is better.",
    "parts": "Where our own time goes.",
}


def environment(run: Run) -> list[str]:
    """The machine, the contenders and the peaks, a line each."""
    lines = [f"{key}: {value}" for key, value in run.environment.items()]
    lines += [f"{name} {facts['version']}: {facts['configuration']}" for name, facts in run.contenders.items()]
    for threads, peaks in run.peaks.items():
        reads = ", ".join(f"{int(size) >> 10} KiB {rate / 1e9:.0f}" for size, rate in peaks["bytes"].items())
        lines.append(
            f"peaks, {threads} threads: {peaks['flops'] / 1e9:.0f} GFLOP/s; reading again and again, GB/s: {reads};"
            f" a step of the smallest GRU {1e9 * peaks['step_seconds']:.0f} ns"
        )
    return lines


def write(run: Run, path: Path, plots: Sequence[Path]) -> None:
    """Write a report: .html with the plots inside, or Markdown that names them by relative path.

    Raises:
        WriteError: it cannot be written.
    """
    files.write(path, _html(run, plots) if path.suffix == ".html" else _markdown(run, plots, path.parent))


def _markdown(run: Run, plots: Sequence[Path], folder: Path) -> str:
    parts = [f"# {OURS}: benchmark {run.suite}", "\n".join(f"- {words.strip()}" for words in summary(run))]
    parts += [f"![{plot.stem}]({_relative(plot, folder)})" for plot in plots]
    for kind in kinds(run):
        head, rows = table(run, kind)
        parts.append(f"## {heading(run, kind)}")
        parts.append(markdown_table(head, rows))
    parts += ["## The machine", "\n".join(f"- {words}" for words in environment(run))]
    return "\n\n".join(parts) + "\n"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _relative(plot: Path, folder: Path) -> str:
    try:
        return plot.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return plot.resolve().as_posix()


def _html(run: Run, plots: Sequence[Path]) -> str:
    # torch requires it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environments = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    said = verdict(run)
    page: str = environments.get_template("report.html.j2").render(
        title=f"{OURS}: benchmark {run.suite}",
        verdict=" ".join(said),
        noisy=is_noisy(run),
        summary=[words.strip() for words in summary(run) if words not in said],
        plots=[
            {
                "name": plot.stem,
                "caption": CAPTIONS.get(plot.stem, ""),
                "data": base64.b64encode(plot.read_bytes()).decode(),
            }
            for plot in plots
        ],
        tables=[
            {"caption": heading(run, kind), "head": head, "rows": rows}
            for kind in kinds(run)
            for head, rows in [table(run, kind)]
        ],
        reading=reading(run),
        environment=environment(run),
    )
    return page
