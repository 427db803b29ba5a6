"""Microseconds of a step of every kernel by itself: one tile of rows, I = 8, from the difference of two lengths."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.contenders import Step
from benchmarks.gpu_check.layer import make_layer
from benchmarks.gpu_check.stages import Case, Stage
from benchmarks.gpu_check.target import DTYPES, Target, in_turns, numbers_of, switch_tf32, target
from benchmarks.measure import Spread, alternate

LENGTHS = (64, 320)
STREAMED_H = (2048, 4096, 1024, 2816)  # of which every streamed kernel is timed, as far as the device has the blocks
STEPWISE = [(512, 8), (1024, 32), (2048, 32), (4096, 32), (2048, 512)]  # H, B: what a call costs; reading; products
BLOCKS, BLOCK_SECONDS = 3, 0.012


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """Those of the stepwise kernels; then one kernel of each family, dtype and pass, and so on; no masked ones."""
    device = target(rehearses)
    passes = [(dtype, backward) for dtype in ("bf16", "tf32", "fp32") for backward in (False, True)]
    names = [(*of, name) for of in passes for name in device.names(*of) if not name.endswith("_masked")]
    work = [(*of, "stepwise", H, B) for H, B in STEPWISE[:1] for of in passes]
    for dtype, backward, name in in_turns(names):
        hidden = STREAMED_H if name.startswith("streamed") else (numbers_of(name)[0],)
        work += [(dtype, backward, name, H, numbers_of(name)[-1]) for H in hidden]
    work += [(*of, "stepwise", H, B) for H, B in STEPWISE[1:] for of in passes]
    return [
        Case(
            f"{dtype} {'backward' if backward else 'forward'} {name} H={hidden} B={batch}",
            partial(_one, device, dtype, backward, name, hidden, batch),
        )
        for dtype, backward, name, hidden, batch in work
    ]


def _one(device: Target, dtype: str, backward: bool, name: str, hidden: int, batch: int) -> dict[str, Any]:
    switch_tf32(dtype)
    lengths = (1, 3) if device.rehearses else LENGTHS
    blocks, seconds = (1, 1e-4) if device.rehearses else (BLOCKS, BLOCK_SECONDS)
    calls = {str(length): _call(device, dtype, backward, length, batch, hidden) for length in lengths}
    with device.use(*(("auto", name) if backward else (name, "auto"))):
        times, _ = alternate(calls, device.clock, blocks, seconds)
    short, long = (1e6 * Spread.of(times[str(length)]).median for length in lengths)
    step = (long - short) / (lengths[1] - lengths[0])
    return {
        "kernel": name,
        "H": hidden,
        "B": batch,
        "dtype": dtype,
        "backward": backward,
        "us_a_step": step,
        # What remains: the launch, weights on their way to registers, products outside of the kernel.
        "launch_us": short - lengths[0] * step,
    }


def _call(device: Target, dtype: str, backward: bool, steps: int, batch: int, hidden: int) -> Step:
    layer = make_layer(device, DTYPES[dtype], steps, batch, device.hidden(hidden))
    if not backward:
        return lambda: layer.forward(device)
    with device.use("stepwise"):
        saved = layer.forward(device)
    return lambda: layer.backward(device, saved["y"], saved["gates"])
