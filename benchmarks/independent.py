"""A second opinion on the ratios of ``python -m benchmarks`` on a CPU: as a user writes it, ``torch.utils.benchmark``.

It shares no code with the benchmarks. For each of a few sizes it times ``torch.nn.GRU`` and ``gru_ext.GRU`` with the
same weights on one input, and runs the benchmarks themselves on that size, in turn; the medians of both ratios stand
side by side. Each repetition of either is a process: from one to the next the time of ``nn.GRU`` at 100,32,256 was
found to move by a third, and within one hardly. The exit status is 1 where one is off by more than 10% from the
other, and 2 where the machine was too busy to tell: other programs used a tenth of the processors, or a ratio moved by
more than 10% from one repetition to the next of the same program.

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

Size = tuple[int, int, int]  # T, B, H = I
SIZES: tuple[Size, ...] = ((200, 1, 64), (50, 8, 128), (100, 32, 256), (64, 16, 1024))  # all of the suite ``sizes``
AGREEMENT = 0.1  # also of what other programs may use
ROUNDS = 5
Ratios = dict[str, float]  # of a pass


def forward(module: nn.Module, x: Tensor) -> None:
    """Inference."""
    with torch.no_grad():
        module(x)


def train(module: nn.Module, x: Tensor, dy: Tensor) -> None:
    """Forward and backward, with every gradient, as a training loop has them."""
    module.zero_grad()
    x.grad = None
    module(x)[0].backward(dy)


def own_ratios(size: Size, threads: int, seconds: float) -> Ratios:
    """Time of ``torch.nn.GRU`` over ours: medians of blocks that alternate."""
    steps, rows, hidden = size
    theirs, ours = nn.GRU(hidden, hidden), gru_ext.GRU(hidden, hidden)
    ours.load_state_dict(theirs.state_dict())
    x, dy = torch.randn(steps, rows, hidden), torch.randn(steps, rows, hidden)
    statements: dict[str, tuple[Callable[..., None], str, Tensor]] = {
        "forward": (forward, "f(module, x)", x),
        "train": (train, "f(module, x, dy)", x.clone().requires_grad_()),
    }
    ratios = {}
    for kind, (function, statement, given) in statements.items():
        timers = [
            Timer(statement, globals={"f": function, "module": module, "x": given, "dy": dy}, num_threads=threads)
            for module in (theirs, ours)
        ]
        blocks = [[t.blocked_autorange(min_run_time=seconds).median for t in timers] for _ in range(ROUNDS)]
        ratios[kind] = statistics.median(a / b for a, b in blocks)
    return ratios


def own_ratios_of_a_process(size: Size, threads: int, seconds: float) -> Ratios:
    """``own_ratios``, measured in a new process."""
    command = [sys.executable, __file__, f"--one={','.join(map(str, size))}", f"--threads={threads}"]
    result = subprocess.run([*command, f"--block-seconds={seconds}"], stdout=subprocess.PIPE, text=True, check=True)
    ratios: Ratios = json.loads(result.stdout)
    return ratios


def benchmark_ratios(size: Size, threads: int, seconds: float) -> tuple[Ratios, float]:
    """The same from the JSON of ``python -m benchmarks``, and what other programs used of the processors meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        command = [sys.executable, "-m", "benchmarks", "sizes", "--device=cpu", "--against=torch", f"--json={path}"]
        command += [f"--filter=^{re.escape(','.join(map(str, size)))}$", f"--threads={threads}"]
        command += [f"--block-seconds={seconds}", f"--repeat={ROUNDS}"]
        subprocess.run(command, cwd=Path(__file__).parent.parent, stdout=subprocess.DEVNULL, check=True)
        return read(path)


def read(path: Path) -> tuple[Ratios, float]:
    """The medians of the ratios, round by round, in a JSON of the benchmarks, and what other programs used."""
    run = json.loads(path.read_text())
    ratios = {}
    for row in run["rows"]:
        theirs, ours = (row["times"][name]["seconds"] for name in ("torch", "gru_ext"))
        ratios[row["kind"]] = statistics.median(their / our for their, our in zip(theirs, ours, strict=True))
    return ratios, run["environment"]["used by others"] or 0.0


def moved(values: list[float]) -> float:
    """How far half of the values are from their median."""
    middle = statistics.median(values)
    return statistics.median(abs(value / middle - 1) for value in values)


def verdict(name: str, theirs: list[float], own: list[float], busy: float) -> str:
    """Print the medians of both programs; whether they agree: "agree", "apart" or "unclear"."""
    quotient = statistics.median(theirs) / statistics.median(own)
    most = max(moved(theirs), moved(own))
    print(
        f"{name:20} benchmarks {statistics.median(theirs):6.2f}x, independent {statistics.median(own):6.2f}x,"
        f" quotient {quotient:.2f}; moved by {most:.0%}, other programs used {busy:.0%}",
        flush=True,
    )
    if 1 - AGREEMENT <= quotient <= 1 / (1 - AGREEMENT):
        return "agree"
    return "unclear" if max(most, busy) > AGREEMENT else "apart"


def main() -> int:
    """Parse the command line, measure in turn, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's own choice")
    parser.add_argument("--repeat", type=int, default=5, help="of both programs for each size, in turn; default 5")
    parser.add_argument("--block-seconds", type=float, default=0.1, help="length of a block of calls, default 0.1")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the size that a process of this program measures
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.one:
        steps, rows, hidden = map(int, args.one.split(","))
        print(json.dumps(own_ratios((steps, rows, hidden), args.threads, args.block_seconds)))
        return 0
    verdicts = []
    for size in SIZES:
        own, theirs = [], []
        for _ in range(args.repeat):
            theirs.append(benchmark_ratios(size, args.threads, args.block_seconds))
            own.append(own_ratios_of_a_process(size, args.threads, args.block_seconds))
        busy = statistics.median(share for _, share in theirs)
        for kind in own[0]:
            name = f"{','.join(map(str, size))} {kind}"
            verdicts.append(verdict(name, [r[kind] for r, _ in theirs], [r[kind] for r in own], busy))
    print(f"within 10% of each other: {verdicts.count('agree')} of {len(verdicts)} ratios")
    if "unclear" in verdicts:
        print(f"the machine was too busy to tell: {verdicts.count('unclear')}")
    return 1 if "apart" in verdicts else 2 if "unclear" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
