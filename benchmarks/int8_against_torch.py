"""gru_ext's int8 GRU against torch's dynamic int8 GRU, and against our own GRU in float32 and bfloat16, in one run.

For each size all modules have the same weights and input. The error of both int8 modules against float64 is printed,
the largest and the root mean square; ours is not timed where its largest is beyond twice torch's. The modules then run
alternately, a block of calls each; ratios are medians over the rounds.

    python -m benchmarks.int8_against_torch --json results.json
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gru_ext
from benchmarks import display, files
from benchmarks.contenders import Step
from benchmarks.machine import facts
from benchmarks.measure import Spread, alternate, cpu_clock, ratio
from benchmarks.suites import TEN


@dataclass
class Row:
    """One line of the table; times are medians, in milliseconds, of forward passes without gradients."""

    size: str
    torch_ms: float
    ours_ms: float
    ratio: float
    ratio_low: float  # smallest and largest ratio of a pair of blocks
    ratio_high: float
    over_fp32: float  # how many times faster than gru_ext.GRU in float32
    over_bf16: float  # and in bfloat16
    torch_error: float  # largest absolute error of y against float64
    our_error: float
    torch_rms_error: float
    our_rms_error: float


def dynamically_quantized(module: nn.GRU) -> nn.Module:
    """The int8 GRU of torch itself, with the same weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        quantize: Any = torch.ao.quantization.quantize_dynamic
        quantized: nn.Module = quantize(nn.Sequential(module), {nn.GRU}, dtype=torch.qint8)[0]
    return quantized


def forward(module: nn.Module, x: Tensor) -> Step:
    """What is timed."""

    def step() -> Tensor:
        with torch.no_grad():
            return module(x)[0]  # type: ignore[no-any-return]

    return step


def errors(module: nn.Module, x: Tensor, expected: Tensor) -> tuple[float, float]:
    """Largest and root mean square error of the output."""
    with torch.no_grad():
        error = module(x)[0].double() - expected
    return float(error.abs().max()), float(error.square().mean().sqrt())


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
    environment = facts(torch.device("cpu"), torch.qint8, threads) | {"engine": torch.backends.quantized.engine}
    print(", ".join(f"{key} {value}" for key, value in environment.items()))
    rows: list[Row] = []
    for size in TEN:
        if args.filter not in str(size):
            continue
        module = gru_ext.GRU(size.H, size.H, size.L, bidirectional=size.D == 2)
        theirs = dynamically_quantized(module.to_torch())
        ours = gru_ext.quantize_dynamic(module)
        bf16 = gru_ext.GRU(size.H, size.H, size.L, bidirectional=size.D == 2, dtype=torch.bfloat16)
        bf16.load_state_dict(module.state_dict())
        exact = nn.GRU(size.H, size.H, size.L, bidirectional=size.D == 2, dtype=torch.float64)
        exact.load_state_dict(module.state_dict())
        x = torch.randn(size.T, size.B, size.H)
        with torch.no_grad():
            expected = exact(x.double())[0]
        (their_error, their_rms), (our_error, our_rms) = errors(theirs, x, expected), errors(ours, x, expected)
        if our_error > 2 * their_error:
            print(f"{size!s:38} largest error {our_error:.2e}, torch's {their_error:.2e}: not timed")
            continue
        steps = {
            "torch": forward(theirs, x),
            "ours": forward(ours, x),
            "fp32": forward(module, x),
            "bf16": forward(bf16, x.bfloat16()),
        }
        times, _ = alternate(steps, cpu_clock(threads), args.blocks, args.block_seconds)
        torch_ms, ours_ms = (1e3 * Spread.of(times[name]).median for name in ("torch", "ours"))
        ratios = ratio(times["torch"], times["ours"])
        over_fp32, over_bf16 = (ratio(times[name], times["ours"]).median for name in ("fp32", "bf16"))
        rows.append(
            Row(
                str(size),
                *(torch_ms, ours_ms, ratios.median, ratios.low, ratios.high, over_fp32, over_bf16),
                *(their_error, our_error, their_rms, our_rms),
            )
        )
        print(f"{size}: {ratios.median:.2f} times as fast as torch", flush=True)
    if rows:
        display.show("int8, forward; over: times faster than our own GRU in that dtype; errors against float64", rows)
    if args.json:
        try:
            content = {"environment": environment, "rows": [asdict(row) for row in rows]}
            files.write(args.json, json.dumps(content, indent=1) + "\n")
        except files.WriteError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
