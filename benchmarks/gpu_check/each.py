"""Every kernel by name against the stepwise ones: one tile and a row, an H that is not its own, a few steps."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.gpu_check.layer import against_stepwise, make_layer
from benchmarks.gpu_check.stages import Case, Stage
from benchmarks.gpu_check.target import DTYPES, Target, in_turns, numbers_of, switch_tf32, target

STEPS = 5
STREAMED_H = (130, 1000)  # some of whose weights have to be read again, and all of which stay
ONE_STEP = (3, 130)  # B, H


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """The one-step kernels; then one kernel of each family, dtype and pass, and so on."""
    device = target(rehearses)
    named = in_turns(
        [
            (dtype, backward, name)
            for dtype in ("bf16", "tf32", "fp16", "fp32")
            for backward in (False, True)
            for name in device.names(dtype, backward)
        ]
    )
    work = [(dtype, False, "one_step", ONE_STEP[1]) for dtype in ("bf16", "fp32", "fp16", "fp64")]
    for dtype, backward, name in named:
        hidden = STREAMED_H if name.startswith("streamed") else (numbers_of(name)[0] - 2,)
        work += [(dtype, backward, name, H) for H in hidden]
    return [
        Case(
            f"{dtype} {'backward' if backward else 'forward'} {name} H={hidden}",
            partial(_one, device, dtype, backward, name, hidden),
        )
        for dtype, backward, name, hidden in work
    ]


def _one(device: Target, dtype: str, backward: bool, name: str, hidden: int) -> dict[str, Any]:
    switch_tf32(dtype)
    steps, batch = (1, ONE_STEP[0]) if name == "one_step" else (STEPS, numbers_of(name)[-1] + 1)
    layer = make_layer(device, DTYPES[dtype], steps, batch, device.hidden(hidden), masked=name.endswith("_masked"))
    return against_stepwise(device, layer, dtype, name, backward)
