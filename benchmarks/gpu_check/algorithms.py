"""Against each algorithm of cuDNN by name, also those that nn.GRU does not choose; its answer is judged first.

Ours has been judged in the stage ``speed``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.check import answer
from benchmarks.contenders import CUDNN, OURS, GruExt
from benchmarks.contenders.cudnn import Cudnn, CudnnSmallH
from benchmarks.contenders.cudnn_library import NotSupportedError
from benchmarks.gpu_check.layer import verdict_of
from benchmarks.gpu_check.speed import JUDGED_STEPS, KINDS, MOST_SMALL_H, STEPS, posed, timed
from benchmarks.gpu_check.stages import AbsentError, Case, Stage
from benchmarks.gpu_check.target import Target, peer_of, target
from benchmarks.suites import Pass, Size

# B, H and dtype: H which its persistent kernels were made for, and where that for small H is known to be slow.
SIZES = [
    (64, 512, "bf16"),
    (16, 64, "bf16"),
    (64, 160, "bf16"),
    (16, 512, "fp16"),
    (64, 1024, "fp16"),
    (64, 256, "tf32"),
    (8, 1024, "fp32"),
]


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """Every algorithm that could serve a size, forward, and forward and backward."""
    device = target(rehearses)
    return [
        Case(
            f"{dtype} H={H} B={B} {kind} {contender.name}",
            partial(_one, device, contender, Size(STEPS, B, H), dtype, kind),
        )
        for B, H, dtype in SIZES
        for kind in KINDS
        for contender in CUDNN
        if H <= MOST_SMALL_H or contender is not CudnnSmallH
    ]


def _one(device: Target, contender: type[Cudnn], size: Size, dtype: str, kind: Pass) -> dict[str, Any]:
    problem, x, dy = posed(device, size, dtype, kind)
    short = x[:JUDGED_STEPS], dy[:JUDGED_STEPS]
    try:
        theirs = contender(problem)
        results = theirs.results(theirs.step(*short)())
    except (OSError, NotSupportedError) as error:
        raise AbsentError(str(error)) from error
    found = verdict_of(results, answer(problem, *short, device.device, peer_of(dtype)), contender.name)
    steps = {contender.name: theirs.step(x, dy), OURS: GruExt(problem).step(x, dy)}
    return found | timed(device, size, dtype, kind, steps)
