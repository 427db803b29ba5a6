"""gru_ext.GRU with reset_after=False against a loop in PyTorch and against ONNX Runtime, on a CPU, in one run.

torch.nn has no such GRU, so the loop is what one writes without one: the input's product for all steps, then for each
step two linear maps and the gates. ONNX Runtime's GRU does no training. All have the same weights and input, and are
compared before they are timed; they then run alternately, a block of calls each; ratios are medians over the rounds.
The last column is our own GRU with reset_after=True.

    python -m benchmarks.reset_before --json results.json
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import gru_ext
from benchmarks import display, files
from benchmarks.contenders import Step
from benchmarks.contenders.base import Problem
from benchmarks.contenders.onnxruntime import OnnxRuntime
from benchmarks.machine import facts
from benchmarks.measure import Spread, alternate, cpu_clock, ratio
from benchmarks.suites import TEN, Pass, Size

TOLERANCE = 1e-4  # of the output, in float32


class OnnxRuntimeResetBefore(OnnxRuntime):
    """ONNX Runtime's GRU with ``linear_before_reset=0``."""

    reset_after = False


@dataclass
class Row:
    """One line of the table; times are medians, in milliseconds; ratios are times over ours."""

    size: str
    kind: Pass
    ours_ms: float
    loop: float
    loop_low: float  # smallest and largest ratio of a pair of blocks
    loop_high: float
    onnxruntime: float | None  # None: no training, or not installed
    reset_after: float


class Loop(nn.Module):
    """One layer, step by step, with the parameters of a GRU."""

    def __init__(self, module: gru_ext.GRU) -> None:
        super().__init__()
        self.weights = nn.ParameterList(module.parameters())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(T, B, I) to the states (T, B, H) and the last one."""
        weight_ih, weight_hh, bias_ih, bias_hh = self.weights
        of_gates = 2 * weight_hh.shape[1]
        a_x = linear(x, weight_ih, bias_ih)
        h = x.new_zeros(x.shape[1], weight_hh.shape[1])
        steps = []
        for a in a_x:
            gates = torch.sigmoid(a[:, :of_gates] + linear(h, weight_hh[:of_gates], bias_hh[:of_gates]))
            r, z = gates.chunk(2, dim=1)
            n = torch.tanh(a[:, of_gates:] + linear(r * h, weight_hh[of_gates:], bias_hh[of_gates:]))
            h = n + z * (h - n)
            steps.append(h)
        return torch.stack(steps), h


def step_of(module: nn.Module, kind: Pass, x: Tensor, dy: Tensor) -> Step:
    """What is timed: a forward pass, or one with the gradients of x and of the parameters."""

    def forward() -> Tensor:
        with torch.no_grad():
            return module(x)[0]  # type: ignore[no-any-return]

    if kind == "forward":
        return forward
    leaf = x.clone().requires_grad_()
    wanted = [leaf, *module.parameters()]
    return lambda: torch.autograd.grad(module(leaf)[0], wanted, dy)


def measure(size: Size, kind: Pass, threads: int, blocks: int, block_seconds: float) -> Row:
    """Compare the results for one size, then the times."""
    ours = gru_ext.GRU(size.H, size.H, reset_after=False)
    loop, after = Loop(ours), gru_ext.GRU(size.H, size.H)
    after.load_state_dict(ours.state_dict())
    x, dy = torch.randn(size.T, size.B, size.H), torch.randn(size.T, size.B, size.H)
    steps = {name: step_of(module, kind, x, dy) for name, module in (("ours", ours), ("loop", loop), ("after", after))}
    with torch.no_grad():
        expected = ours(x)[0]
        torch.testing.assert_close(loop(x)[0], expected, rtol=0, atol=TOLERANCE)
    if kind == "forward" and OnnxRuntime.absent() is None:
        peer = OnnxRuntimeResetBefore(Problem(size, kind, after.to_torch(), threads))
        steps["onnxruntime"] = peer.step(x, dy)
        torch.testing.assert_close(peer.results(steps["onnxruntime"]())["y"], expected, rtol=0, atol=TOLERANCE)
    times, _ = alternate(steps, cpu_clock(threads), blocks, block_seconds)
    over_loop = ratio(times["loop"], times["ours"])
    return Row(
        str(size),
        kind,
        1e3 * Spread.of(times["ours"]).median,
        *(over_loop.median, over_loop.low, over_loop.high),
        ratio(times["onnxruntime"], times["ours"]).median if "onnxruntime" in times else None,
        ratio(times["after"], times["ours"]).median,
    )


def main() -> None:
    """Parse the command line, measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="torch.set_num_threads; default: torch's own choice")
    parser.add_argument("--blocks", type=int, default=7, help="rounds for each row, default 7")
    parser.add_argument("--block-seconds", type=float, default=0.1, help="length of a block, default 0.1")
    parser.add_argument("--filter", default="", help="only sizes whose name contains this")
    parser.add_argument("--json", type=Path, help="write the rows, the machine and the versions here")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    environment = facts(torch.device("cpu"), torch.float32, threads)
    print(", ".join(f"{key} {value}" for key, value in environment.items()))
    rows: list[Row] = []
    for size in TEN:
        if size.L > 1 or size.D > 1 or args.filter not in str(size):
            continue
        kinds: tuple[Pass, ...] = ("forward", "train")
        for kind in kinds:
            row = measure(size, kind, threads, args.blocks, args.block_seconds)
            rows.append(row)
            print(f"{size} {kind}: {row.loop:.2f} times as fast as the loop", flush=True)
    if rows:
        display.show("reset_after=False; their time over ours, of the loop with its range", rows)
    if args.json:
        try:
            content = {"environment": environment, "rows": [asdict(row) for row in rows]}
            files.write(args.json, json.dumps(content, indent=1) + "\n")
        except files.WriteError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
