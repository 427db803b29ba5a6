"""Against nn.GRU, which is cuDNN, with the same weights and inputs, alternately; the answer judged before it is timed.

nn.GRU chooses cuDNN's algorithm by itself: on GPUs from compute capability 8.0 on, the persistent one for small H up to
H = 192 forward and 128 backward, whatever B is, and the standard one else. In bfloat16 cuDNN 9.28 runs the standard one
whatever is chosen. Where nn.GRU takes the first, the standard one is timed too: torch uses it for a packed batch, here
one of equal lengths. "cudnn_ms" is the faster of the two. What nn.GRU does not choose is in the stage ``algorithms``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from benchmarks.check import answer
from benchmarks.contenders import OURS, GruExt, Problem, Step
from benchmarks.contenders.torch import Torch
from benchmarks.gpu_check.layer import verdict_of
from benchmarks.gpu_check.stages import Case, Stage
from benchmarks.gpu_check.target import DTYPES, Target, peer_of, switch_tf32, target
from benchmarks.measure import Spread, alternate, ratio
from benchmarks.suites import Pass, Size

STEPS, JUDGED_STEPS = 512, 32
KINDS: tuple[Pass, ...] = ("forward", "train")
STANDARD = "nn.GRU, packed"
MOST_SMALL_H = 192  # up to which nn.GRU takes cuDNN's algorithm for small H, at least forward
BLOCKS, BLOCK_SECONDS = 5, 0.025
# B, H and dtype, those first of which the answer is needed most.
SIZES = [
    (64, 512, "bf16"),
    (16, 64, "bf16"),
    (64, 1024, "bf16"),
    (64, 160, "bf16"),
    (16, 512, "tf32"),
    (64, 256, "bf16"),
    (64, 2048, "bf16"),
    (16, 512, "fp32"),
    (1, 512, "bf16"),
    (16, 256, "fp64"),
    (64, 4096, "bf16"),
    (32, 128, "bf16"),
    (256, 512, "bf16"),
    (48, 144, "bf16"),
    (128, 192, "bf16"),
    (44, 168, "tf32"),
    (8, 768, "bf16"),
    (64, 512, "fp16"),
    (64, 1024, "tf32"),
    (64, 256, "fp32"),
    (1, 64, "bf16"),
    (128, 1024, "bf16"),
    (1, 1024, "bf16"),
    (32, 2816, "bf16"),
    (64, 160, "fp32"),
    (64, 768, "bf16"),
    (256, 64, "bf16"),
    (1, 256, "fp32"),
    (64, 2048, "tf32"),
    (256, 1024, "bf16"),
    (16, 512, "bf16"),
    (16, 2048, "bf16"),
    (64, 1024, "fp32"),
    (256, 160, "fp16"),
    (64, 512, "fp64"),
    (256, 2048, "fp16"),
]


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """Forward, and forward and backward, of each size."""
    device = target(rehearses)
    return [
        Case(f"{dtype} H={H} B={B} {kind}", partial(_one, device, Size(STEPS, B, H), dtype, kind))
        for B, H, dtype in SIZES
        for kind in KINDS
    ]


def posed(device: Target, size: Size, dtype: str, kind: Pass) -> tuple[Problem, Tensor, Tensor]:
    """The weights, and x and dy (T, B, H); tiny in a rehearsal. Sets torch's switches."""
    switch_tf32(dtype)
    ran = Size(3, min(size.B, 3), min(size.H, 9)) if device.rehearses else size
    module = nn.GRU(ran.H, ran.H, device=device.device, dtype=DTYPES[dtype])
    x = device.randn(ran.T, ran.B, ran.H, dtype=DTYPES[dtype])
    return Problem(ran, kind, module, threads=1), x, torch.randn_like(x)


def _one(device: Target, size: Size, dtype: str, kind: Pass) -> dict[str, Any]:
    problem, x, dy = posed(device, size, dtype, kind)
    ours, theirs = GruExt(problem), Torch(problem)
    short = x[:JUDGED_STEPS], dy[:JUDGED_STEPS]
    judged = answer(problem, *short, device.device, peer_of(dtype))
    found = verdict_of(ours.results(ours.step(*short)()), judged)
    steps: dict[str, Step] = {Torch.name: theirs.step(x, dy), OURS: ours.step(x, dy)}
    if dtype != "fp64" and size.H <= MOST_SMALL_H:
        steps[STANDARD] = _packed_step(theirs, kind, x, dy)
    return found | timed(device, size, dtype, kind, steps)


def _packed_step(theirs: Torch, kind: Pass, x: Tensor, dy: Tensor) -> Step:
    """The same call of nn.GRU on the same rows, as a packed batch of equal lengths: (T B, I)."""
    steps, batch, _ = x.shape
    sizes = torch.full((steps,), batch)
    rows, d_rows = (t.reshape(steps * batch, -1) for t in (x, dy))

    def forward() -> Tensor:
        with torch.no_grad():
            return theirs.module(PackedSequence(rows, sizes))[0].data  # type: ignore[arg-type,no-any-return]

    if kind == "forward":
        return forward
    leaf = rows.clone().requires_grad_()
    wanted = [leaf, *theirs.parameters]
    return lambda: torch.autograd.grad(theirs.module(PackedSequence(leaf, sizes))[0].data, wanted, d_rows)  # type: ignore[arg-type]


def timed(
    device: Target, size: Size, dtype: str, kind: str, steps: Mapping[str, Step], calls: int = 1
) -> dict[str, Any]:
    """A row of the table: medians over blocks, in milliseconds, of one of so many calls that a step is."""
    blocks, seconds = (2, 1e-4) if device.rehearses else (BLOCKS, BLOCK_SECONDS)
    times, _ = alternate(steps, device.clock, blocks, seconds)
    theirs = {name: _milliseconds(values, calls) for name, values in times.items() if name != OURS}
    best = min(theirs, key=theirs.__getitem__)
    ratios = ratio(times[best], times[OURS])
    return {
        "H": size.H,
        "B": size.B,
        "dtype": dtype,
        "kind": kind,
        "cudnn_ms": theirs[best],
        "algorithms_ms": theirs,
        "ours_ms": _milliseconds(times[OURS], calls),
        "ratio": ratios.median,
        "ratio_low": ratios.low,
        "ratio_high": ratios.high,
        "kernels": device.chosen(size, dtype),
    }


def _milliseconds(seconds: Sequence[float], calls: int) -> float:
    return 1e3 * Spread.of(seconds).median / calls
