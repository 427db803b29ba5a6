"""The plots of a run, each drawn where the run has what it shows."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import files, kernels, machine, report
from benchmarks.contenders import OURS
from benchmarks.results import Row, Run

COLOURS = {
    OURS: "#4c72b0",
    "torch": "#dd8452",
    "compile": "#937860",
    "onnxruntime": "#55a868",
    "openvino": "#c44e52",
    "keras": "#8172b3",
    "haste": "#da8bc3",
    "flashrnn": "#8c8c8c",
}
PASS_COLOURS = {"forward": "#4c72b0", "train": "#dd8452", "backward": "#55a868"}
OTHER_COLOUR = "#17becf"
MOST_BARS = 30
CHARACTERS = 14  # of a title, for each inch of a figure


class PlotError(RuntimeError):
    """Plots cannot be drawn; the message says why."""


def colour(name: str) -> str:
    """Of a contender, the same in every plot."""
    return COLOURS.get(name, OTHER_COLOUR)


def draw(run: Run, folder: Path) -> list[Path]:
    """Write every plot that this run has the rows for, as PNG; returns their paths.

    Raises:
        PlotError: matplotlib is not installed.
    """
    require_matplotlib()
    figures = {name: plot(run) for name, plot in PLOTS.items()}
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items() if figure is not None]


def require_matplotlib() -> None:
    """Have it ready to draw without a display."""
    try:
        import matplotlib
    except ImportError:
        raise PlotError("no plots, as matplotlib is not installed (pip install matplotlib)") from None
    matplotlib.use("Agg")


def save(figure: Any, path: Path) -> Path:
    """Write a figure, and free its memory; ``WriteError`` where that fails."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format=path.suffix.removeprefix("."))
    figure.clear()
    files.write(path, drawn.getvalue())
    return path


def _subplots(run: Run, what: str, columns: int, width: float, height: float, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure with a title, and its panels row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    lines = [what, machine.title(run.environment), *report.verdict(run)]
    wrapped = [part for line in lines for part in textwrap.wrap(line, int(CHARACTERS * width))]
    figure.suptitle("\n".join(wrapped), fontsize=9)
    return figure, list(axes)


def _ticks(axis: Any, values: list[float], form: str = "{:g}") -> None:
    axis.set_ticks(values, [form.format(value) for value in values])
    axis.set_minor_locator(_no_ticks())


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def grid(run: Run) -> list[Row]:
    """The rows of a grid over B and H: I = H, one layer and direction, the T that most of them share."""
    plain = [row for row in run.timed if row.size.L == row.size.D == 1 and not row.size.I and row.threads]
    steps = Counter(row.size.T for row in plain).most_common(1)
    rows = [row for row in plain if steps[0][0] == row.size.T] if steps else []
    full = len({row.size.B for row in rows}) > 1 and len({row.size.H for row in rows}) > 1
    return rows if full and _is_grid(rows) else []


def _is_grid(rows: list[Row]) -> bool:
    """Whether every B was measured with every H."""
    for kind in {row.kind for row in rows}:
        places = {(row.size.B, row.size.H) for row in rows if row.kind == kind}
        if len(places) < len({b for b, _ in places}) * len({h for _, h in places}):
            return False
    return True


def ratios(run: Run) -> Any:
    """Speed over torch.nn.GRU as bars, the other peers as marks; what the heat map shows is left to it."""
    on_grid = {row.key for row in grid(run)} if run.suite in ("sizes", "sweep") else set()
    rows = [row for row in run.timed if "torch" in row.times and row.key not in on_grid]
    sizes = list(dict.fromkeys(str(row.size) for row in rows))
    if not rows or len(sizes) > MOST_BARS or run.suite == "scaling":
        return None
    kinds = [kind for kind in PASS_COLOURS if any(row.kind == kind for row in rows)]
    figure, (axes,) = _subplots(run, "Times faster than torch.nn.GRU", 1, 9, 0.28 * len(sizes) * len(kinds) + 2)
    height, most, marked = 0.8 / len(kinds), 1.0, set()
    for place, kind in enumerate(kinds):
        mine = {str(row.size): row for row in rows if row.kind == kind}
        for name, row in mine.items():
            y = sizes.index(name) + (place - (len(kinds) - 1) / 2) * height
            speed = row.ratio("torch").median
            bar = axes.barh(y, speed - 1, left=1, height=0.95 * height, color=PASS_COLOURS[kind])
            label = kind if kind not in marked else None
            marked.add(kind)
            bar.set_label(label or "_")
            spread = row.ratio("torch")
            axes.plot([spread.low, spread.high], [y, y], color="black", linewidth=0.8, zorder=2)
            others = {n: speed / s.median for n, s in row.ratios().items() if n != "torch"}
            for peer, value in others.items():
                mark = axes.plot(value, y, "D", color=colour(peer), markersize=4, markeredgecolor="white", zorder=3)
                mark[0].set_label(peer if peer not in marked else "_")
                marked.add(peer)
            axes.text(1.01, y, f"{speed:.1f}x", va="center", fontsize=8, transform=axes.get_yaxis_transform())
            most = max([most, speed, *others.values()])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    _ticks(axes.xaxis, [t for t in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if t <= 2 * most], "{:g}x")
    axes.set_yticks(range(len(sizes)), sizes)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_ylabel("T steps, B rows, H units")
    axes.set_xlabel(
        f"speed over torch.nn.GRU, log scale\nbars: {OURS}, with the range of the rounds; marks: other peers"
    )
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return figure


def heatmap(run: Run) -> Any:
    """Our speed over torch.nn.GRU for B and H."""
    rows = [row for row in grid(run) if "torch" in row.times]
    kinds = list(dict.fromkeys(row.kind for row in rows))
    if not rows:
        return None
    what = f"Times faster than torch.nn.GRU, T = {rows[0].size.T}, I = H"
    figure, panels = _subplots(run, what, len(kinds), 1 + 4.2 * len(kinds), 4.4)
    batches, hiddens = (sorted({getattr(row.size, letter) for row in rows}) for letter in ("B", "H"))
    for axes, kind in zip(panels, kinds, strict=True):
        places = {(r.size.B, r.size.H): r.ratio("torch").median for r in rows if r.kind == kind}
        values = [[places.get((b, h), float("nan")) for h in hiddens] for b in batches]
        logarithms = [[math.log2(value) for value in line] for line in values]
        most = max(2.0, *(abs(value) for line in logarithms for value in line))
        image = axes.imshow(logarithms, cmap="RdYlGn", vmin=-most, vmax=most, aspect="auto")
        for i, line in enumerate(values):
            for j, value in enumerate(line):
                axes.text(j, i, f"{value:.1f}x", ha="center", va="center")
        axes.set_xticks(range(len(hiddens)), [str(h) for h in hiddens])
        axes.set_yticks(range(len(batches)), [str(b) for b in batches])
        axes.set_xlabel("H units")
        axes.set_ylabel("B rows")
        axes.set_title(kind, fontsize=10)
        powers = range(-int(most), int(most) + 1)
        figure.colorbar(image, ax=axes).set_ticks(list(powers), labels=[f"{2.0**power:g}x" for power in powers])
    return figure


def per_step(run: Run) -> Any:
    """Time of one step against H, a line for each contender and B, from the grid."""
    rows = grid(run)
    kinds = list(dict.fromkeys(row.kind for row in rows))
    if not rows or run.suite == "sweep":
        return None
    batches = sorted({row.size.B for row in rows})
    shown = batches if len(batches) < 3 else [batches[0], batches[-1]]
    figure, panels = _subplots(run, "Time of one step", len(kinds), 1 + 5 * len(kinds), 4.6)
    for axes, kind in zip(panels, kinds, strict=True):
        for batch, style in zip(shown, ("-", "--"), strict=False):
            mine = sorted((r for r in rows if r.kind == kind and batch == r.size.B), key=lambda r: r.size.H)
            for name in (OURS, *run.peers):
                points = [(r.size.H, 1e6 * r.times[name].median / r.size.T) for r in mine if name in r.times]
                if points:
                    label = name if style == "-" else "_"
                    axes.plot(*zip(*points, strict=True), style, marker=".", color=colour(name), label=label)
            limit = [(r.size.H, 1e6 * r.bound.seconds / r.size.T) for r in mine]
            label = "limit" if style == "-" else "_"
            axes.plot(*zip(*limit, strict=True), style, color="black", linewidth=0.8, label=label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        _ticks(axes.xaxis, sorted({r.size.H for r in rows}))
        axes.set_xlabel("H units")
        axes.set_ylabel("microseconds a step")
        lines = zip(("solid", "dashed"), shown, strict=False)
        axes.set_title(f"{kind}; {', '.join(f'{style}: B = {batch}' for style, batch in lines)}", fontsize=10)
        axes.legend(fontsize=8, frameon=False)
        axes.grid(alpha=0.3)
    return figure


def roofline(run: Run) -> Any:
    """Operations a second against operations for each byte that has to be moved, under the measured peaks."""
    rows = [row for row in run.timed if row.threads == run.environment["threads"]]
    peaks = run.peaks.get(str(run.environment["threads"]))
    if not rows or peaks is None or run.suite == "sweep":
        return None
    kinds = list(dict.fromkeys(row.kind for row in rows))
    figure, panels = _subplots(run, "Roofline of this machine", len(kinds), 1 + 5 * len(kinds), 4.8)
    for axes, kind in zip(panels, kinds, strict=True):
        mine = [row for row in rows if row.kind == kind]
        x = [row.bound.flops / row.bound.bytes for row in mine]
        for name in (OURS, *run.peers):
            points = [
                (at, row.bound.flops / row.times[name].median / 1e9)
                for at, row in zip(x, mine, strict=True)
                if name in row.times
            ]
            if points:
                axes.plot(*zip(*points, strict=True), "o", color=colour(name), label=name, markersize=4)
        edges = [min(x) / 2, max(x) * 2]
        lines = [edges[0] * (edges[1] / edges[0]) ** (i / 50) for i in range(51)]
        sizes = sorted(peaks["bytes"], key=int)
        for size, style in zip((sizes[1], sizes[3], sizes[-1]), ("-", "--", ":"), strict=True):
            rate = max(rate for other, rate in peaks["bytes"].items() if int(other) >= int(size))
            roof = [min(peaks["flops"], at * rate) / 1e9 for at in lines]
            axes.plot(lines, roof, style, color="black", linewidth=1, label=f"reading {int(size) >> 20} MiB")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("operations a byte moved")
        axes.set_ylabel("GFLOP/s")
        axes.set_title(kind, fontsize=10)
        axes.legend(fontsize=7, frameon=False)
        axes.grid(alpha=0.3)
    return figure


def scaling(run: Run) -> Any:
    """Time against T, B, H and threads, each with the others fixed."""
    if run.suite != "scaling" or not run.timed:
        return None
    kinds = list(dict.fromkeys(row.kind for row in run.timed))
    letters: list[tuple[str, Callable[[Row], float]]] = [
        ("T", lambda row: row.size.T),
        ("B", lambda row: row.size.B),
        ("H", lambda row: row.size.H),
        ("threads", lambda row: row.threads),
    ]
    letters = [(letter, of) for letter, of in letters if _series(run.timed, letter, of)]
    if not letters:
        return None
    figure, panels = _subplots(run, "Scaling", len(letters), 1 + 4 * len(letters), 4.2 * len(kinds), rows=len(kinds))
    for axes, (kind, (letter, of)) in zip(panels, itertools.product(kinds, letters), strict=True):
        series = _series([row for row in run.timed if row.kind == kind], letter, of)
        for fixed, mine in series.items():
            for name in (OURS, *run.peers):
                points = sorted((of(row), 1e3 * row.times[name].median) for row in mine if name in row.times)
                if len(points) > 1:
                    style = "-" if fixed == next(iter(series)) else "--"
                    axes.plot(*zip(*points, strict=True), style, marker=".", color=colour(name), label=name)
        axes.set_title("\n".join(f"{kind}, {fixed}" for fixed in series), fontsize=8)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        if series:
            _ticks(axes.xaxis, sorted({of(row) for mine in series.values() for row in mine}))
        axes.set_xlabel(letter)
        axes.set_ylabel("milliseconds")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def _series(rows: list[Row], letter: str, of: Callable[[Row], float]) -> dict[str, list[Row]]:
    """Rows that differ in one letter alone, by the others as text; at least two."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        values = {"T": row.size.T, "B": row.size.B, "H": row.size.H, "threads": row.threads}
        fixed = ", ".join(f"{name} = {value}" for name, value in values.items() if name != letter)
        groups.setdefault(fixed, []).append(row)
    most = {fixed: mine for fixed, mine in groups.items() if len({of(row) for row in mine}) > 1}
    longest = max((len(mine) for mine in most.values()), default=0)
    return {fixed: mine for fixed, mine in most.items() if len(mine) == longest}


def sweep(run: Run) -> Any:
    """Time of one multiply-add of the matrix products against H, a line for each B: a cliff is a jump."""
    if run.suite != "sweep" or not run.timed:
        return None
    kinds = list(dict.fromkeys(row.kind for row in run.timed))
    figure, panels = _subplots(run, f"{OURS} alone: time of a multiply-add", len(kinds), 1 + 6 * len(kinds), 5)
    for axes, kind in zip(panels, kinds, strict=True):
        for batch in sorted({row.size.B for row in run.timed}):
            points = sorted(
                (row.size.H, 2e12 * row.times[OURS].median / row.bound.flops)
                for row in run.timed
                if row.kind == kind and batch == row.size.B
            )
            axes.plot(*zip(*points, strict=True), marker=".", linewidth=0.8, label=f"B = {batch}")
        axes.set_yscale("log")
        axes.set_xlabel("H units")
        axes.set_ylabel("picoseconds a multiply-add")
        axes.set_title(kind, fontsize=10)
        axes.legend(fontsize=8, frameon=False)
        axes.grid(alpha=0.3, which="both")
    return figure


def memory(run: Run) -> Any:
    """Peak of memory of a training step as bars."""
    rows = [row for row in run.rows if row.peak_bytes]
    if not rows:
        return None
    names = [name for name in (OURS, *run.peers) if any(name in row.peak_bytes for row in rows)]
    figure, (axes,) = _subplots(run, "Peak of memory of two training steps", 1, 9, 0.25 * len(rows) * len(names) + 2)
    for place, name in enumerate(names):
        shown = [(i, row.peak_bytes[name] / 2**20) for i, row in enumerate(rows) if name in row.peak_bytes]
        y = [i + (place - (len(names) - 1) / 2) * 0.8 / len(names) for i, _ in shown]
        bars = axes.barh(y, [size for _, size in shown], 0.75 / len(names), color=colour(name), label=name)
        axes.bar_label(bars, [f"{size:.0f}" for _, size in shown], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), [str(row.size) for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("MiB above what the loaded library takes")
    axes.legend(frameon=False, fontsize=8)
    return figure


def parts(run: Run) -> Any:
    """Our own time in parts, stacked, as fractions of the whole."""
    rows = [row for row in run.rows if row.kind == "kernels" and row.times]
    if not rows:
        return None
    figure, (axes,) = _subplots(run, f"Where the time of {OURS} goes", 1, 9, 0.4 * len(rows) + 2)
    shares = [kernels.parts({name: t.median for name, t in row.times.items()}) for row in rows]
    left = [0.0] * len(rows)
    for name in kernels.PARTS:
        widths = [part[name] / sum(part.values()) for part in shares]
        axes.barh(range(len(rows)), widths, left=left, label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    labels = [f"{row.size}: {report.milliseconds(sum(p.values()))} ms" for row, p in zip(rows, shares, strict=True)]
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("fraction of forward and backward")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)
    return figure


PLOTS: dict[str, Callable[[Run], Any]] = {
    "ratios": ratios,
    "heatmap": heatmap,
    "per_step": per_step,
    "roofline": roofline,
    "scaling": scaling,
    "sweep": sweep,
    "memory": memory,
    "parts": parts,
}
