"""How much faster gru_ext.GRU is than torch.nn.GRU on this machine, in one run.

For each size both modules get the same weights and inputs and are checked against float64 first: a result that is
further off than twice torch.nn.GRU's own error is reported and not timed. They then run alternately, a block of calls
each, so that whatever else the machine does hits both; the ratio is the median over the blocks, pair by pair.

    python benchmarks/against_torch.py --json results.json --plot ratios.png
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gru_ext
from gru_ext import _C

Step = Callable[[], object]
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Size:
    """T steps, B rows, H = I hidden and input units, L layers, D directions."""

    T: int
    B: int
    H: int
    L: int = 1
    D: int = 1

    def __str__(self) -> str:
        """The size as the tables name it."""
        extra = (f", {self.L} layers" if self.L > 1 else "") + (", both directions" if self.D > 1 else "")
        return f"{self.T},{self.B},{self.H}{extra}"


SIZES = [
    Size(1, 1, 256),
    Size(200, 1, 64),
    Size(1000, 1, 256),
    Size(50, 8, 128),
    Size(10, 4, 256, L=2),
    Size(25, 4, 2560),
    Size(100, 32, 256),
    Size(64, 16, 1024),
    Size(100, 64, 512),
    Size(100, 32, 256, L=2, D=2),
]


@dataclass
class Row:
    """One line of the table; times are medians, in milliseconds."""

    size: str
    kind: str
    torch_ms: float
    ours_ms: float
    ratio: float
    ratio_low: float  # smallest and largest ratio of a pair of blocks
    ratio_high: float


def steps_of(module: nn.Module, x: Tensor) -> dict[str, Step]:
    """What is timed: forward without gradients, and a training step with every gradient, dx included."""
    x_train = x.clone().requires_grad_()
    dy = torch.randn_like(module(x)[0])

    def forward() -> Tensor:
        with torch.no_grad():
            return module(x)[0]  # type: ignore[no-any-return]

    def train() -> tuple[Tensor, ...]:
        y = module(x_train)[0]
        return torch.autograd.grad(y, [x_train, *module.parameters()], dy)

    return {"forward": forward, "train": train}


def is_exact(ours: nn.Module, theirs: nn.GRU, x: Tensor) -> bool:
    """Whether our forward is at most twice as far from float64 as torch.nn.GRU's, plus a rounding or two.

    In float64 itself: whether the two agree to 1e-10. The policy of tests/compare.py.
    """
    with torch.no_grad():
        exact = nn.GRU(theirs.input_size, theirs.hidden_size, theirs.num_layers, bidirectional=theirs.bidirectional)
        exact.to(x.device).double().load_state_dict(theirs.double().state_dict())
        expected = exact(x.double())[0]
        theirs.to(x.dtype)
        our_error = (ours(x)[0].double() - expected).abs().max()
        their_error = (theirs(x)[0].double() - expected).abs().max()
    if x.dtype == torch.float64:  # torch.nn.GRU is then compared with itself
        return bool(our_error <= 1e-10)
    return bool(our_error <= 2 * their_error + 4 * torch.finfo(x.dtype).eps)


def seconds(step: Step, calls: int) -> float:
    """Time of one call, over a block of them."""
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls


def compare(theirs: Step, ours: Step, blocks: int, block_seconds: float) -> tuple[float, float, list[float]]:
    """Median times, in milliseconds, and the ratio of each pair of blocks."""
    warm = max(seconds(theirs, 2), seconds(ours, 2), 1e-7)
    calls = max(1, int(block_seconds / warm))
    seconds(theirs, calls), seconds(ours, calls)
    pairs = [(seconds(theirs, calls), seconds(ours, calls)) for _ in range(blocks)]
    their_times, our_times = zip(*pairs, strict=True)
    return (
        1e3 * statistics.median(their_times),
        1e3 * statistics.median(our_times),
        [their / our for their, our in pairs],
    )


def commit() -> str:
    """The commit of this checkout, with a mark where files differ from it; 'unknown' outside of one."""
    command = ["git", "describe", "--always", "--dirty"]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def environment(dtype: str) -> dict[str, Any]:
    """The machine and the versions that the figures belong to."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        facts = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        processor = f"{facts.get('model name', processor)}, family {facts.get('cpu family')} model {facts.get('model')}"
    return {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "cpu_isa": _C.cpu_isa(),
        "dtype": dtype,
        "torch": torch.__version__,
        "gru_ext": gru_ext.__version__,
        "commit": commit(),
        "python": platform.python_version(),
    }


def plot(rows: list[Row], title: str, path: Path) -> None:
    """Draw the ratios as bars, forward and training side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = list(dict.fromkeys(row.size for row in rows))
    figure, axes = pyplot.subplots(figsize=(9, 0.55 * len(sizes) + 1.6), layout="constrained")
    for offset, kind, colour in ((-0.2, "forward", "#4c72b0"), (0.2, "train", "#dd8452")):
        ratios = {row.size: row.ratio for row in rows if row.kind == kind}
        places = [i + offset for i, size in enumerate(sizes) if size in ratios]
        widths = [ratio - 1 for ratio in ratios.values()]
        bars = axes.barh(places, widths, left=1, height=0.38, color=colour, label=kind)
        axes.bar_label(bars, [f"{ratio:.1f}x" for ratio in ratios.values()], padding=3, fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if tick <= 2 * max(row.ratio for row in rows)]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(sizes)), sizes)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_ylabel("T steps, B rows, H units (I = H)")
    axes.set_xlabel("speed over torch.nn.GRU (log scale)")
    axes.set_title(title, fontsize=10)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Parse the command line, measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--threads", type=int, help="torch.set_num_threads; default: torch's own choice")
    parser.add_argument("--blocks", type=int, default=7, help="pairs of blocks for each row, default 7")
    parser.add_argument("--block-seconds", type=float, default=0.25, help="length of a block, default 0.25")
    parser.add_argument("--filter", default="", help="only sizes whose name contains this")
    parser.add_argument("--json", type=Path, help="write the rows, the machine and the versions here")
    parser.add_argument("--plot", type=Path, help="write a bar chart of the ratios here (needs matplotlib)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    facts = environment(args.dtype)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"{'T,B,H (I = H)':38} {'':8} {'nn.GRU ms':>10} {'ours ms':>10} {'ratio':>7}  (range)")
    rows: list[Row] = []
    for size in SIZES:
        if args.filter not in str(size):
            continue
        theirs = nn.GRU(size.H, size.H, size.L, bidirectional=size.D == 2, dtype=DTYPES[args.dtype])
        ours = gru_ext.GRU(size.H, size.H, size.L, bidirectional=size.D == 2, dtype=DTYPES[args.dtype])
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(size.T, size.B, size.H, dtype=DTYPES[args.dtype])
        if not is_exact(ours, theirs, x):
            print(f"{size!s:38} further from float64 than twice torch.nn.GRU's error: not timed")
            continue
        their_steps, our_steps = steps_of(theirs, x), steps_of(ours, x)
        for kind in their_steps:
            times = compare(their_steps[kind], our_steps[kind], args.blocks, args.block_seconds)
            ratios = times[2]
            rows.append(Row(str(size), kind, *times[:2], statistics.median(ratios), min(ratios), max(ratios)))
            row = rows[-1]
            print(
                f"{row.size:38} {row.kind:8} {row.torch_ms:10.3f} {row.ours_ms:10.3f} {row.ratio:6.2f}x"
                f"  ({row.ratio_low:.2f} to {row.ratio_high:.2f})",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps({"environment": facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    if args.plot:
        title = f"{args.dtype}, {facts['threads']} threads, {facts['processor']}, torch {facts['torch']}"
        plot(rows, title, args.plot)


if __name__ == "__main__":
    main()
