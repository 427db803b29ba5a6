"""A second opinion on the ratios of ``python -m benchmarks`` on a CPU: as a user writes it, ``torch.utils.benchmark``.

It shares no code with the benchmarks. For a few sizes it times ``torch.nn.GRU`` and ``gru_ext.GRU`` with the same
weights on one input, and runs the benchmarks themselves in another process, alternately; the medians of both ratios
stand side by side. The exit status is 1 where one is off by more than 10% from the other, and 2 where the machine was
too busy to tell: a ratio then moved by more than that from one repetition to the next of the same program.

    python benchmarks/independent.py --threads 1 --repeat 5
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

import gru_ext

SIZES = ((200, 1, 64), (50, 8, 128), (100, 32, 256), (64, 16, 1024))  # T, B, H = I; all of the suite ``sizes``
AGREEMENT = 0.1
ROUNDS = 5
Key = tuple[str, str]  # T,B,H and the pass
Ratios = dict[Key, float]


def forward(module: nn.Module, x: Tensor) -> None:
    """Inference."""
    with torch.no_grad():
        module(x)


def train(module: nn.Module, x: Tensor, dy: Tensor) -> None:
    """Forward and backward, with every gradient, as a training loop has them."""
    module.zero_grad()
    x.grad = None
    module(x)[0].backward(dy)


def own_ratios(threads: int, seconds: float) -> Ratios:
    """Time of ``torch.nn.GRU`` over ours: medians of blocks that alternate."""
    ratios = {}
    for steps, rows, hidden in SIZES:
        theirs = nn.GRU(hidden, hidden)
        ours = gru_ext.GRU(hidden, hidden)
        ours.load_state_dict(theirs.state_dict())
        x, dy = torch.randn(steps, rows, hidden), torch.randn(steps, rows, hidden)
        leaf = x.clone().requires_grad_()
        statements: dict[str, tuple[Callable[..., None], str, Tensor]] = {
            "forward": (forward, "f(module, x)", x),
            "train": (train, "f(module, x, dy)", leaf),
        }
        for kind, (function, statement, given) in statements.items():
            timers = [
                Timer(statement, globals={"f": function, "module": module, "x": given, "dy": dy}, num_threads=threads)
                for module in (theirs, ours)
            ]
            blocks = [[t.blocked_autorange(min_run_time=seconds).median for t in timers] for _ in range(ROUNDS)]
            ratios[f"{steps},{rows},{hidden}", kind] = statistics.median(a / b for a, b in blocks)
    return ratios


def benchmark_ratios(threads: int, seconds: float) -> Ratios:
    """The same from the JSON of ``python -m benchmarks``."""
    names = "|".join(re.escape(f"{steps},{rows},{hidden}") for steps, rows, hidden in SIZES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        command = [sys.executable, "-m", "benchmarks", "sizes", f"--filter=^({names})$", "--device=cpu"]
        command += [
            "--against=torch",
            f"--threads={threads}",
            f"--block-seconds={seconds}",
            f"--repeat={ROUNDS}",
            f"--json={path}",
        ]
        subprocess.run(command, cwd=Path(__file__).parent.parent, stdout=subprocess.DEVNULL, check=True)
        return ratios_of(path)


def ratios_of(path: Path) -> Ratios:
    """The medians of the ratios, round by round, in a JSON of the benchmarks."""
    ratios = {}
    for row in json.loads(path.read_text())["rows"]:
        theirs, ours = (row["times"][name]["seconds"] for name in ("torch", "gru_ext"))
        size = row["size"]
        ratios[f"{size['T']},{size['B']},{size['H']}", row["kind"]] = statistics.median(
            their / our for their, our in zip(theirs, ours, strict=True)
        )
    return ratios


def spread(values: list[float]) -> float:
    """How far a value is from the median, at half of the values."""
    middle = statistics.median(values)
    return statistics.median(abs(value / middle - 1) for value in values)


def compare(own: list[Ratios], theirs: list[Ratios]) -> int:
    """Print both medians for every size; the exit status."""
    print(f"\n{'T,B,H':10} {'':8} {'benchmarks':>10} {'independent':>12} {'quotient':>9}  moved by")
    apart: list[str] = []
    unclear: list[str] = []
    for key in own[0]:
        values = [[ratios[key] for ratios in runs] for runs in (theirs, own)]
        medians = [statistics.median(v) for v in values]
        moved = max(map(spread, values))
        quotient = medians[0] / medians[1]
        print(f"{key[0]:10} {key[1]:8} {medians[0]:9.2f}x {medians[1]:11.2f}x {quotient:9.2f}  {moved:.0%}")
        if not 1 - AGREEMENT <= quotient <= 1 / (1 - AGREEMENT):
            (unclear if moved > AGREEMENT else apart).append(" ".join(key))
    if apart:
        print(f"apart by more than {AGREEMENT:.0%}: {'; '.join(apart)}")
    if unclear:
        print(f"too busy a machine to tell: {'; '.join(unclear)}")
    if not apart and not unclear:
        print(f"all {len(own[0])} ratios agree within {AGREEMENT:.0%}")
    return 1 if apart else 2 if unclear else 0


def main() -> int:
    """Parse the command line, measure alternately, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's own choice")
    parser.add_argument("--repeat", type=int, default=3, help="of both programs, alternately; default 3")
    parser.add_argument("--block-seconds", type=float, default=0.2, help="length of a block of calls, default 0.2")
    args = parser.parse_args()
    torch.manual_seed(0)
    own, theirs = [], []
    for i in range(args.repeat):
        print(f"repetition {i + 1} of {args.repeat}", flush=True)
        theirs.append(benchmark_ratios(args.threads, args.block_seconds))
        own.append(own_ratios(args.threads, args.block_seconds))
    return compare(own, theirs)


if __name__ == "__main__":
    sys.exit(main())
