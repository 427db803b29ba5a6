"""The plots of a check on a GPU: time of a step against H for each family of kernels, and speed over cuDNN.

python -m benchmarks.gpu_plots benchmarks/results/gpu_nvidia_h100.json --folder docs
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.contenders import OURS
from benchmarks.gpu_check.journal import Row
from benchmarks.gpu_check.results import Results, ResultsError, measured, read
from benchmarks.plots import PlotError, colour, require_matplotlib, save

FAMILY_COLOURS = {"cluster": "#4c72b0", "group": "#55a868", "streamed": "#dd8452", "stepwise": "#8c8c8c"}
MARKERS = {8: "o", 16: "s", 32: "^", 64: "D"}  # by rows of a tile


def draw(results: Results, folder: Path) -> list[Path]:
    """Write the plots that these results have the rows for, as PNG; returns their paths.

    Raises:
        PlotError: matplotlib is not installed, or the times are those of a rehearsal.
    """
    require_matplotlib()
    if results["rehearsal"]:
        raise PlotError("these are the results of a rehearsal, which times no GPU")
    title = f"{results['device']['gpu']}, {results['device']['commit'][:12]}"
    figures = {
        "gpu_steps": _steps(measured(results, "steps"), title),
        "gpu_speed": _speed(measured(results, "speed", "decoding"), title),
    }
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items() if figure is not None]


def _figure(columns: int, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 4.5), layout="constrained")
    figure.suptitle(title, fontsize=9)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _steps(rows: list[Row], title: str) -> Any:
    """A panel for each dtype and pass, a line for each family and number of rows: microseconds of a step against H."""
    if not rows:
        return None
    panels = sorted({(row["dtype"], row["backward"]) for row in rows})
    figure, axes = _figure(len(panels), f"time of a step of one tile of rows\n{title}")
    for axis, (dtype, backward) in zip(axes, panels, strict=True):
        lines: dict[tuple[str, int], list[tuple[int, float]]] = defaultdict(list)
        for row in rows:
            if (row["dtype"], row["backward"]) == (dtype, backward):
                lines[row["kernel"].split("_")[0], row["B"]].append((row["H"], row["us_a_step"]))
        for (family, batch), points in sorted(lines.items()):
            xs, ys = zip(*sorted(points), strict=True)
            marker = MARKERS.get(batch, "x")
            axis.plot(xs, ys, marker=marker, color=FAMILY_COLOURS[family], label=f"{family}, B = {batch}", linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel="H", title=f"{dtype}, {'backward' if backward else 'forward'}")
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize=6)
    axes[0].set_ylabel("us a step")
    return figure


def _speed(rows: list[Row], title: str) -> Any:
    """A panel for each kind of call, a bar for each size: times faster than cuDNN, also where that is below 1."""
    if not rows:
        return None
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    figure, axes = _figure(len(kinds), f"times faster than nn.GRU (cuDNN)\n{title}")
    for axis, kind in zip(axes, kinds, strict=True):
        of_kind = [row for row in rows if row["kind"] == kind]
        names = [f"H {row['H']}, B {row['B']}, {row['dtype']}" for row in of_kind]
        spread = [
            [row["ratio"] - row["ratio_low"] for row in of_kind],
            [row["ratio_high"] - row["ratio"] for row in of_kind],
        ]
        axis.barh(names, [row["ratio"] for row in of_kind], xerr=spread, color=colour(OURS))
        axis.axvline(1, color="black", linewidth=1)
        axis.invert_yaxis()
        axis.set(title=kind, xlabel="times faster")
        axis.tick_params(labelsize=7)
    return figure


def main() -> None:
    """Draw the plots of one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="gpu_check.json of a check")
    parser.add_argument("--folder", type=Path, default=Path("docs"), help="where to write (default: docs)")
    arguments = parser.parse_args()
    try:
        for path in draw(read(arguments.results), arguments.folder):
            print(f"wrote {path}")
    except (OSError, ResultsError, PlotError) as error:
        sys.exit(f"gpu-plots: {arguments.results}: {error}")


if __name__ == "__main__":
    main()
