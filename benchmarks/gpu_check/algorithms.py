"""Against each algorithm of cuDNN by name, also those that nn.GRU does not choose; its answer is judged first.

Our own answers are judged in the stage ``speed``.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

from torch import Tensor

from benchmarks.check import Answer, answer, judge
from benchmarks.contenders import CUDNN, OURS, GruExt, Problem
from benchmarks.contenders.cudnn import Cudnn, CudnnSmallH
from benchmarks.contenders.cudnn_library import CudnnError
from benchmarks.gpu_check.speed import JUDGED_STEPS, KINDS, MOST_SMALL_H, STEPS, posed, timed
from benchmarks.gpu_check.stages import AbsentError, Case, Stage
from benchmarks.gpu_check.target import DTYPES, Target, peer_of, target
from benchmarks.suites import Pass, Size

# B, H and dtype: H of a few hundred for the static and dynamic algorithm, 64 and 160 for that of small H. In bf16 cuDNN
# runs the standard algorithm whatever is asked for.
SIZES = [
    (16, 512, "fp16"),
    (64, 512, "fp16"),
    (16, 64, "fp16"),
    (64, 160, "fp16"),
    (64, 1024, "fp16"),
    (64, 256, "tf32"),
    (8, 1024, "fp32"),
    (64, 512, "bf16"),
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
        if DTYPES[dtype] in contender.dtypes and (H <= MOST_SMALL_H or contender is not CudnnSmallH)
    ]


@lru_cache(maxsize=1)
def _judged(device: Target, size: Size, dtype: str, kind: Pass) -> tuple[Problem, Tensor, Tensor, Answer]:
    problem, x, dy = posed(device, size, dtype, kind)
    truth = answer(problem, x[:JUDGED_STEPS], dy[:JUDGED_STEPS], device.device, peer_of(dtype))
    return problem, x, dy, truth


def _one(device: Target, contender: type[Cudnn], size: Size, dtype: str, kind: Pass) -> dict[str, Any]:
    """A row that is absent, not wrong, where cuDNN gives no right answer: the fault is not ours."""
    problem, x, dy, truth = _judged(device, size, dtype, kind)
    try:
        theirs = contender(problem)
        results = theirs.results(theirs.step(x[:JUDGED_STEPS], dy[:JUDGED_STEPS])())
        their_step = theirs.step(x, dy)
    except (OSError, CudnnError) as error:
        raise AbsentError(str(error)) from error
    verdict = judge(contender.name, results, truth)
    if not verdict.right:
        raise AbsentError(str(verdict))
    steps = {contender.name: their_step, OURS: GruExt(problem).step(x, dy)}
    return timed(device, size, dtype, kind, steps)
