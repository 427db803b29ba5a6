"""One time step with a state, as in decoding: call by call, and as one of many calls of a CUDA graph."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

import gru_ext
from benchmarks.check import Answer, module_in
from benchmarks.contenders import OURS, Step
from benchmarks.contenders.torch import Torch
from benchmarks.gpu_check.layer import verdict_of
from benchmarks.gpu_check.speed import timed
from benchmarks.gpu_check.stages import Case, Stage
from benchmarks.gpu_check.target import DTYPES, Target, switch_tf32, target
from benchmarks.suites import Size

SIZES = [(B, H, dtype) for dtype in ("bf16", "fp32") for B, H in ((1, 1024), (1, 256), (4, 1024), (1, 4096), (8, 2048))]
# Rows of which the one-step kernel has more to multiply than to read.
MANY = [(64, 1024, "bf16")]
GRAPH_CALLS = 32


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """Both ways of each size; then those of the one-step kernel alone, whatever would be chosen."""
    device = target(rehearses)
    work = [(size, kind, "auto") for size in SIZES for kind in ("step", "graph")]
    work += [(size, "graph", "one_step") for size in MANY]
    return [
        Case(f"{dtype} H={H} B={B} {kind}", partial(_one, device, Size(1, B, H), dtype, kind, kernel))
        for (B, H, dtype), kind, kernel in work
    ]


def _one(device: Target, size: Size, dtype: str, kind: str, kernel: str) -> dict[str, Any]:
    switch_tf32(dtype)
    with device.use(kernel):
        return _compared(device, size, dtype, kind)


def _compared(device: Target, size: Size, dtype: str, kind: str) -> dict[str, Any]:
    hidden = 9 if device.rehearses else size.H
    on: dict[str, Any] = {"device": device.device, "dtype": DTYPES[dtype]}
    theirs = nn.GRU(hidden, hidden, **on).requires_grad_(False)
    ours = gru_ext.GRU(hidden, hidden, **on).requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    x, hx = (device.randn(1, size.B, hidden, dtype=DTYPES[dtype]) for _ in range(2))
    exact = module_in(theirs, torch.float64, device.device)(x.double(), hx.double())[0]
    found = verdict_of({"y": ours(x, hx)[0]}, Answer({"y": exact}, {"y": theirs(x, hx)[0]}))
    steps: dict[str, Step] = {Torch.name: partial(theirs, x, hx), OURS: partial(ours, x, hx)}
    if kind == "step":
        return found | timed(device, size, dtype, kind, steps)
    graphs = {name: _in_a_graph(device, step) for name, step in steps.items()}
    return found | timed(device, size, dtype, kind, graphs, GRAPH_CALLS)


def _in_a_graph(device: Target, step: Step) -> Step:
    """GRAPH_CALLS calls, captured; on a CPU, which has no graphs, one after the other."""

    def calls() -> None:
        for _ in range(GRAPH_CALLS):
            step()

    if device.rehearses:
        return calls
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls()
    return graph.replay
